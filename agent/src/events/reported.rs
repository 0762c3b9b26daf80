//! How many packets of each entry of the kernel's aggregation tables were already reported.
//!
//! Memory is bounded: an entry is forgotten if it was not updated while `capacity` others were. The horizon then moves
//! up, so that a forgotten entry is not reported twice if it returns. Pure; reads no clock.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash};

use agent_common::event::FlowEvent;

/// Identifies one use of an entry: one flow in the aggregation table of one CPU, from its first packet on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EntryId {
    flow: u64,
    first_ns: u64,
    /// The CPU of the table. Two CPUs may see the first packet of one flow in the same clock tick.
    cpu: u32,
}

/// What a cumulative count adds to what was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Packets that were not reported before.
    pub delta: u64,
    /// Packets that may have been reported before the entry was known.
    pub presumed: u64,
    /// No packet of the delta is older.
    pub since_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct LastCount {
    count: u64,
    last_ns: u64,
}

/// The last counts of the known entries.
#[derive(Debug)]
pub(crate) struct ReportedCounts {
    hasher: RandomState,
    capacity: usize,
    young: HashMap<EntryId, LastCount>,
    old: HashMap<EntryId, LastCount>,
    /// Unknown entries that began before this time may have been reported already.
    horizon_ns: u64,
    /// Unknown entries that this sweep found; then those that the sweep before found.
    found: HashSet<EntryId>,
    found_before: HashSet<EntryId>,
}

impl ReportedCounts {
    /// Remembers between `capacity` and twice as many entries.
    pub(crate) fn new(capacity: usize, horizon_ns: u64) -> Self {
        Self {
            hasher: RandomState::new(),
            capacity,
            young: HashMap::new(),
            old: HashMap::new(),
            horizon_ns,
            found: HashSet::new(),
            found_before: HashSet::new(),
        }
    }

    /// Identifies the table entry of which this record is a copy.
    pub(crate) fn id(&self, flow: &impl Hash, event: &FlowEvent) -> EntryId {
        EntryId { flow: self.hasher.hash_one(flow), first_ns: event.first_ns, cpu: event.cpu }
    }

    /// Whether an entry that a sweep found is consistent: it is known, or the sweep before found it too.
    ///
    /// A program may replace a map value while it is copied. The copy then mixes two flows and looks like a third one.
    /// Two sweeps never find the same mixture.
    pub(crate) fn stable(&mut self, id: EntryId) -> bool {
        if self.young.contains_key(&id) || self.old.contains_key(&id) || self.found_before.contains(&id) {
            return true;
        }
        self.found.insert(id);
        false
    }

    /// Ends a sweep: the next call of `stable` belongs to another one.
    pub(crate) fn end_sweep(&mut self) {
        self.found_before = std::mem::take(&mut self.found);
    }

    /// Stores a count. If the entry is unknown and began before the horizon, `reported_before` of its packets are
    /// presumed reported.
    pub(crate) fn advance(&mut self, id: EntryId, event: &FlowEvent, reported_before: u64) -> Progress {
        if let Some(last) = self.touch(id) {
            // Records that wait in the ring buffer may be older than the last sweep. Their lower count adds nothing.
            let progress = Progress {
                delta: event.count.saturating_sub(last.count),
                presumed: 0,
                since_ns: last.last_ns.min(event.last_ns),
            };
            last.count = last.count.max(event.count);
            last.last_ns = last.last_ns.max(event.last_ns);
            return progress;
        }
        let presumed = if id.first_ns < self.horizon_ns { reported_before } else { 0 };
        self.insert(id, LastCount { count: event.count, last_ns: event.last_ns });
        Progress { delta: event.count - presumed, presumed, since_ns: event.first_ns.min(event.last_ns) }
    }

    fn touch(&mut self, id: EntryId) -> Option<&mut LastCount> {
        if let Some(last) = self.old.remove(&id) {
            self.insert(id, last);
        }
        self.young.get_mut(&id)
    }

    fn insert(&mut self, id: EntryId, last: LastCount) {
        if self.young.len() >= self.capacity {
            let forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            let newest = forgotten.keys().map(|id| id.first_ns.saturating_add(1)).max();
            self.horizon_ns = self.horizon_ns.max(newest.unwrap_or(0));
        }
        self.young.insert(id, last);
    }
}
