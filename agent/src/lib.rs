//! The Bulkhead node agent, its controller and its commands. Data flows in one direction:
//!
//! ```text
//! objects -> Change -> model (Cluster -> Desired) -> plan -> dataplane -> kernel verdict
//!                                  Actual (pinned maps) ----^                 |
//!            sinks <- events <- ring buffer <--------------------------------+
//! ```
//!
//! - Objects: [`api`] defines them and their rules. [`source`] reads them from files. [`kube_watch`] and [`watch`] read
//!   them from the Kubernetes API.
//! - The node: [`links`] reports interfaces, [`runtime`] sandboxes and control groups. [`nri`] holds new sandboxes.
//! - Policy: the crate [`policy`] holds the model and the plan. [`reconcile`] is the loop around them. [`dataplane`]
//!   writes to the kernel.
//! - Results: [`events`] and [`metrics`] report, [`health`] decides readiness, [`socket`] and [`http`] serve both.
//! - Commands: [`cli`] defines them. [`config`] reads the flags of the agent, and [`run`] connects its modules.
//!   [`controller`] writes the statuses of objects, and [`lint`] checks objects before they are applied.
//! - Shared by the others: [`clock`] and [`errors`].

#![deny(unsafe_code)]
// Its modules are private to the crate, which `missing_docs` does not reach.
#![warn(clippy::missing_docs_in_private_items)]

mod api;
mod cli;
mod clock;
mod config;
mod controller;
pub mod dataplane;
mod dir_watcher;
mod errors;
mod events;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod health;
mod http;
mod kube_watch;
mod links;
mod lint;
mod metrics;
mod nri;
mod reconcile;
mod run;
mod runtime;
mod socket;
mod source;
#[cfg(test)]
mod testing;
mod watch;

pub use cli::Cli;
pub use errors::with_causes;
pub use runtime::cgroups::hierarchy;
pub use source::load::load;
