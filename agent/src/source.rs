//! Reads objects from a file or a directory instead of Kubernetes: `bulkhead run --config FILE|DIR`.
//!
//! ```text
//! files ─look─▶ bytes ─load─▶ documents + findings ─merge─▶ full resync (Change)
//!   ▲                                                 │
//!   └────────── inotify, and a stat every 2 s ────────┴─ last good state
//! ```
//!
//! A valid object stays in force until a newer valid version is read. A bad document keeps its last good version, and
//! an unreadable or vanished file keeps all its objects; both are reported. Deleting a document from a readable file
//! removes the object. Deleting a file from a readable directory removes its objects. The module does not know what an
//! object means, or what happens to a change.

mod files;
mod follow;
pub(crate) mod load;
mod merge;

pub(crate) use files::{config_files, read};
pub(crate) use follow::follow;
