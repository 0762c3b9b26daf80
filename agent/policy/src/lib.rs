//! The policy: what is known, what the maps should hold, and the writes that lead there.
//!
//! Pure values and pure functions. This crate knows no Kubernetes, no kernel, no clock, no file and no environment;
//! its manifest allows three dependencies. Time is an argument.

#![deny(unsafe_code)]

pub mod model;
pub mod plan;
