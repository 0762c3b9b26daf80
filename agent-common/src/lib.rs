//! What the kernel programs and the agent share: layouts, parsing, the verdict.
//!
//! This room owns the meaning of a packet and of every map entry. It knows no map, no helper, no
//! operating system: the kernel side lends it a packet and tables, and so does an ordinary test.
//!
//! The layout promise, stated once: every type that crosses the boundary is `repr(C)`, built from
//! fixed-width integers and byte arrays, has named padding that is always zero, and derives
//! zerocopy's traits, which refuse to compile over implicit padding. The all-zero value of each
//! grants nothing. Addresses and ports stand as they do on the wire; a field that does not says so.

#![no_std]
#![deny(unsafe_code)]

pub mod access;
pub mod addr;
pub mod aggregate;
pub mod checksum;
pub mod conntrack;
pub mod counters;
pub mod decide;
pub mod event;
pub mod fast_path;
pub mod flow;
pub mod guard;
pub mod headers;
pub mod layout;
pub mod maps;
#[cfg(feature = "mem-tables")]
pub mod mem_tables;
pub mod neighbor;
pub mod parse;
#[cfg(feature = "user")]
mod pod;
pub mod post_nat;
pub mod query;
pub mod reason;
pub mod summary;
pub mod tenant;
pub mod verdict;

/// Version of every layout and map of this crate. Pins live in a directory of this name, so two
/// agents with different layouts never share a map.
pub const ABI_VERSION: &str = "v2";
