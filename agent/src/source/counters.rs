//! The state of a configuration from files, as of the last look at them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of one configuration. Its source writes them; the status and the metrics read them.
#[derive(Debug, Default)]
pub struct Counters {
    open_findings: AtomicU64,
    stale_objects: AtomicU64,
}

impl Counters {
    /// How many findings are open.
    pub fn open_findings(&self) -> u64 {
        self.open_findings.load(Relaxed)
    }

    /// How many objects are in force in an older version than the files hold, or in a version that no file holds any
    /// more.
    pub fn stale_objects(&self) -> u64 {
        self.stale_objects.load(Relaxed)
    }

    pub(super) fn looked(&self, open_findings: usize, stale_objects: usize) {
        self.open_findings.store(open_findings as u64, Relaxed);
        self.stale_objects.store(stale_objects as u64, Relaxed);
    }
}
