//! The Bulkhead node agent, rooms in reading order.
//!
//! ```text
//! objects -> Change -> model (Cluster -> Desired) -> plan -> dataplane -> kernel verdict
//!                                  Actual (pinned maps) ----^                 |
//!            sinks <- events <- ring buffer <--------------------------------+
//! ```

#![deny(unsafe_code)]

pub mod dataplane;
pub mod model;
pub mod plan;
