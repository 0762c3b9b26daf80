//! Objects from a file or a directory instead of Kubernetes: `bulkhead run --config FILE|DIR`.
//!
//! ```text
//! files ─look─▶ bytes ─load─▶ documents + findings ─merge─▶ full resync (Change)
//!   ▲                                                 │
//!   └────────── inotify, and a stat every 2 s ────────┴─ last good state
//! ```
//!
//! What was good stays in force until something better is read: a bad document keeps its own last good
//! version, an unreadable or vanished file keeps all of its, and both are reported. Deleting a document
//! from a readable file removes the object; deleting a file from a readable directory removes its
//! objects. Refuses to know what an object means, and what becomes of a change.

pub mod counters;
mod files;
mod follow;
pub mod load;
mod merge;

pub use counters::Counters;
pub use files::{config_files, read};
pub use follow::follow;
