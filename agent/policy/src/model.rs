//! The pure room: what we know, what should be.
//!
//! No Kubernetes, no kernel, no clock, no environment: plain values and plain functions.
//!
//! ```text
//! Change -> cluster (pods, book, spaces) -> desired = territory  who owns which range
//!                                                   + tenancy    whose namespace, which number
//!                                                   + prefixes   what a tenant may reach
//!                                                   + grants     what two tenants agreed on
//!                                                   + endpoints  who stands behind which interface
//!                                                   + services   what an address stands for
//!         cluster, and what the kernel holds -> guards           what may leave the node unjudged
//! ```

pub mod book;
pub mod cgroup_guard;
pub mod cluster;
pub mod desired;
pub mod endpoints;
pub mod grants;
pub mod guards;
pub mod input;
pub mod numbers;
pub mod pod;
pub mod ports;
pub mod prefixes;
pub mod report;
pub mod selector;
pub mod services;
pub mod settings;
pub mod spaces;
pub mod tenancy;
pub mod territory;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod word;
