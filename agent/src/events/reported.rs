//! How much of each kernel fold entry was told already.
//!
//! Bounded: what was not touched for a whole generation is forgotten, and the horizon moves up so
//! that a forgotten entry that speaks again is not told twice. Pure; no clock.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash};

use agent_common::event::FlowEvent;

/// One incarnation of one flow in one CPU's fold table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId {
    flow: u64,
    first_ns: u64,
    /// The last word of the record: zero, or whatever the programs put there to tell two CPUs apart
    /// that saw the first packet of one flow in the same tick.
    lane: u32,
}

/// What a cumulative count adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Packets nobody told of.
    pub delta: u64,
    /// Packets somebody may have told of before we knew the flow.
    pub presumed: u64,
    /// No packet of the delta is older.
    pub since_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct LastCount {
    count: u64,
    last_ns: u64,
}

/// The memory.
#[derive(Debug)]
pub struct ReportedCounts {
    hasher: RandomState,
    capacity: usize,
    young: HashMap<EntryId, LastCount>,
    old: HashMap<EntryId, LastCount>,
    /// Unknown entries that began before this may have been told of.
    horizon_ns: u64,
    /// Unknown entries of this sweep and of the one before.
    found: HashSet<EntryId>,
    found_before: HashSet<EntryId>,
}

impl ReportedCounts {
    /// Remembers between `capacity` and twice as many entries.
    pub fn new(capacity: usize, horizon_ns: u64) -> Self {
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

    /// Names the fold entry behind a record.
    pub fn id(&self, flow: &impl Hash, event: &FlowEvent) -> EntryId {
        EntryId { flow: self.hasher.hash_one(flow), first_ns: event.first_ns, lane: event.cpu }
    }

    /// Whether an entry found by a sweep can be believed: we know it, or the sweep before found it
    /// too. A map value is copied while the program may be replacing it, and half of one flow with
    /// half of another looks like a flow; it never looks the same twice.
    pub fn stable(&mut self, id: EntryId) -> bool {
        if self.young.contains_key(&id) || self.old.contains_key(&id) || self.found_before.contains(&id) {
            return true;
        }
        self.found.insert(id);
        false
    }

    /// The next call of `stable` belongs to another sweep.
    pub fn end_sweep(&mut self) {
        self.found_before = std::mem::take(&mut self.found);
    }

    /// Notes a count. `reported_before` is what somebody told already if this entry is not known and
    /// began before the horizon.
    pub fn advance(&mut self, id: EntryId, event: &FlowEvent, reported_before: u64) -> Progress {
        if let Some(last) = self.touch(id) {
            // A sweep overtakes records that still wait in the ring buffer: the lower count is old news.
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
