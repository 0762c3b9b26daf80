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

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod controller;
pub mod dataplane;
mod dir_watcher;
pub mod errors;
pub mod events;
pub mod health;
pub mod http;
pub mod kube_watch;
pub mod links;
pub mod lint;
pub mod metrics;
pub mod nri;
pub mod reconcile;
pub mod run;
pub mod runtime;
pub mod socket;
pub mod source;
#[cfg(test)]
mod testing;
pub mod watch;
