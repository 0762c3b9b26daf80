//! The model: what is known of the cluster, and what the kernel's tables should hold.
//!
//! Knows no Kubernetes, no kernel, no clock and no environment. Every result is a function of its arguments.
//!
//! ```text
//! Change -> cluster (pods, addresses, namespaces) -> desired = ownership  the owner of each range
//!                                                            + tenancy    the tenant of each namespace
//!                                                            + tenant_ids the number of each tenant
//!                                                            + prefixes   what a tenant may reach
//!                                                            + grants     what two tenants permit each other
//!                                                            + endpoints  the pod behind each interface
//!                                                            + services   the tenant of each Service
//!           cluster, and what the kernel holds      -> guards             the interfaces with guards
//!                                                   -> input_guard        what of pods the node takes for itself
//!                                                   -> unprotected        pods that no program judges
//! ```

pub mod address_index;
pub mod cgroup_guard;
pub mod cluster;
pub mod desired;
pub mod dirty;
pub mod endpoints;
pub mod grants;
pub mod guards;
pub mod input;
pub mod input_guard;
pub mod limits;
pub mod name;
pub mod namespaces;
pub mod node_openings;
pub mod ownership;
pub mod pod;
pub mod ports;
pub mod prefixes;
pub mod ranges;
pub mod report;
pub mod selector;
pub mod services;
pub mod settings;
pub mod tenancy;
pub mod tenant_ids;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod unprotected;
