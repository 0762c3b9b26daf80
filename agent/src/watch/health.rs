//! How the watches of each kind are doing, for the metrics. Decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::metrics::Recorder;

/// All watches.
pub struct Health {
    recorder: Arc<Recorder>,
    /// Watches of a resource, and how many of them are complete.
    counts: Mutex<BTreeMap<&'static str, (usize, usize)>>,
}

/// One watch; its end is noted by dropping this.
pub struct Beat {
    health: Arc<Health>,
    resource: &'static str,
    synced: bool,
}

impl Health {
    /// Told to `recorder`.
    pub fn new(recorder: Arc<Recorder>) -> Self {
        Self { recorder, counts: Mutex::new(BTreeMap::new()) }
    }

    /// A watch begins.
    pub fn begin(self: &Arc<Self>, resource: &'static str) -> Beat {
        self.count(resource, |(all, _)| *all += 1);
        Beat { health: Arc::clone(self), resource, synced: false }
    }

    fn count(&self, resource: &'static str, change: impl FnOnce(&mut (usize, usize))) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(resource).or_default();
        change(count);
        self.recorder.watch_synced(resource, count.0 == count.1);
    }
}

impl Beat {
    /// It told of an object.
    pub fn heard(&self) {
        let now = Timestamp::now().as_millisecond() as f64 / 1000.0;
        self.health.recorder.watch_event(self.resource, now);
    }

    /// It failed, or told of an object that could not be read.
    pub fn failed(&self) {
        self.health.recorder.watch_error(self.resource);
    }

    /// Whether it is established and complete.
    pub fn synced(&mut self, synced: bool) {
        if self.synced != synced {
            self.synced = synced;
            self.health.count(self.resource, |(_, complete)| {
                *complete = complete.wrapping_add_signed(if synced { 1 } else { -1 })
            });
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.synced(false);
        self.health.count(self.resource, |(all, _)| *all -= 1);
    }
}
