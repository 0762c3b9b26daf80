//! The policy: what is known of the cluster, what the maps should hold, and the kernel writes for that.
//!
//! Contains only values and pure functions. Knows no Kubernetes, no kernel, no clock, no file and no environment: time
//! is an argument. The manifest allows three dependencies.

#![deny(unsafe_code)]

pub mod model;
pub mod plan;
