//! What the kernel programs and the agent share: layouts, parsing, the verdict.
//!
//! This crate owns the meaning of a packet and of every map entry. It knows no map handle, no helper and no operating
//! system. The kernel side gives it a packet and tables, and so does an ordinary test.
//!
//! The rules of all layouts: every type in a map is `repr(C)`, and built from fixed-width integers and byte arrays. Its
//! padding has a name and is always zero. It derives zerocopy's traits, which do not compile over implicit padding. Its
//! all-zero value grants nothing. Addresses are in wire order. Ports are in host order where the field says so.

#![no_std]
#![deny(unsafe_code)]

pub mod access;
pub mod addr;
pub mod aggregate;
pub mod checksum;
pub mod classify;
pub mod conntrack;
pub mod counters;
pub mod decide;
pub mod endpoint;
pub mod event;
pub mod fast_path;
pub mod flow;
pub mod guard;
pub mod headers;
pub mod layout;
pub mod maps;
pub mod mark;
#[cfg(feature = "mem-tables")]
pub mod mem_tables;
pub mod neighbor;
pub mod parse;
#[cfg(feature = "user")]
mod pod;
pub mod post_nat;
pub mod query;
pub mod reason;
pub mod reply_table;
pub mod summary;
pub mod tables;
pub mod tenant;
pub mod verdict;

/// Version of every layout and map of this crate. The directory of the pins has this name, so two agents with different
/// layouts never share a map.
pub const ABI_VERSION: &str = "v2";
