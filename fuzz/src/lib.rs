//! What the fuzz targets check: one module a target, each with one function that takes any bytes.
//!
//! A property that does not hold is a panic. Knows no fuzzer, so any of them may drive it.

pub mod objects;
pub mod post_nat;
pub mod records;
mod settings;
pub mod verdict;
#[path = "../../agent-common/tests/world/mod.rs"]
mod world;
