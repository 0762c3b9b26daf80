//! The verdict, rule by rule, in both families: which packets pass, which are denied, and the reason.
//!
//! Each denial has a control: a packet that differs in one thing and passes.

mod headers;
mod neighbors;
mod pods;
mod ranges;
mod replies;
mod states;
#[path = "../world/mod.rs"]
mod world;

/// No reason: the packet passes.
const ALLOWED: world::Denial = None;
