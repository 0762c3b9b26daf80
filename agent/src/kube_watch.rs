//! Watches of the Kubernetes API, shared by the agent and the controller.
//!
//! A watch delivers an [`Update`](update::Update): a whole set, one object, or a deletion. A watch that breaks and an
//! object that cannot be read change nothing. This module does not know what its callers do with an object.

#[cfg(test)]
pub(crate) mod fake_api;
pub(crate) mod gauge;
pub(crate) mod objects;
pub(crate) mod stated_ranges;
pub(crate) mod stream;
pub(crate) mod update;
