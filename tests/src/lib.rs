//! The bench: frames, a world of two tenants, and the means to look at both.
//!
//! Knows the agent only from outside: its command line, its output, its metrics. What the tests
//! expect is written down here a second time and never asked of the code under test.

pub mod frames;
pub mod netns;
pub mod scope;
