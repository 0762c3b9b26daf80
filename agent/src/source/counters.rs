//! What the metrics room may read of a static source.
//!
//! Totals only grow; the others are as of the last look.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::api::document::ObjectKind;
use crate::api::finding::Code;

/// Counters of one source, shared between its task and whoever reports them.
#[derive(Debug)]
pub struct Counters {
    looks: AtomicU64,
    resyncs: AtomicU64,
    findings: [AtomicU64; Code::ALL.len()],
    standing: AtomicU64,
    kept: AtomicU64,
    objects: [AtomicU64; 3],
}

impl Default for Counters {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            looks: zero(),
            resyncs: zero(),
            findings: [const { AtomicU64::new(0) }; Code::ALL.len()],
            standing: zero(),
            kept: zero(),
            objects: [const { AtomicU64::new(0) }; 3],
        }
    }
}

impl Counters {
    /// How often the files were read.
    pub fn looks(&self) -> u64 {
        self.looks.load(Relaxed)
    }

    /// How often a different set of objects was sent on. 0: nothing is known yet.
    pub fn resyncs(&self) -> u64 {
        self.resyncs.load(Relaxed)
    }

    /// How many findings of a code appeared since the start.
    pub fn findings(&self, code: Code) -> u64 {
        self.findings[code as usize].load(Relaxed)
    }

    /// How many findings stand now.
    pub fn standing(&self) -> u64 {
        self.standing.load(Relaxed)
    }

    /// How many objects are in force in an older version than the files hold, or in a version that no
    /// file holds any more.
    pub fn kept(&self) -> u64 {
        self.kept.load(Relaxed)
    }

    /// How many objects of a kind are in force.
    pub fn objects(&self, kind: ObjectKind) -> u64 {
        self.objects[kind as usize].load(Relaxed)
    }

    pub(super) fn looked(&self, standing: usize, kept: usize, objects: [usize; 3]) {
        self.looks.fetch_add(1, Relaxed);
        self.standing.store(standing as u64, Relaxed);
        self.kept.store(kept as u64, Relaxed);
        for (gauge, count) in self.objects.iter().zip(objects) {
            gauge.store(count as u64, Relaxed);
        }
    }

    pub(super) fn found(&self, code: Code) {
        self.findings[code as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn resynced(&self) {
        self.resyncs.fetch_add(1, Relaxed);
    }
}
