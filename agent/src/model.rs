//! The pure room: what we know, what should be.
//!
//! No Kubernetes, no kernel, no clock, no environment: plain values and plain functions.

pub mod input;
