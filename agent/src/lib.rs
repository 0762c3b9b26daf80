//! The Bulkhead node agent. Data flows through its modules like this:
//!
//! ```text
//! objects -> Change -> model (Cluster -> Desired) -> plan -> dataplane -> kernel verdict
//!                                  Actual (pinned maps) ----^                 |
//!            sinks <- events <- ring buffer <--------------------------------+
//! ```

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
