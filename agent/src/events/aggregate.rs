//! Cumulative counts from the kernel become events that each tell of packets nobody told of before.
//!
//! Pure: records and sweeps in, deltas out, time as an argument. Refuses to know names, sinks and
//! limits. The invariant: a packet is told at most once; told or still folded here is every packet
//! that is not counted as lost by the kernel, or as presumed told before we knew the flow.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use agent_common::aggregate::AggregateEntry;
use agent_common::counters::Outcome;
use agent_common::event::Checked;
use agent_common::flow::Direction;
use agent_common::reason::DropReason;

use super::reported::{Progress, ReportedCounts};

/// After its first event a flow is told at most this often.
pub const WINDOW_NS: u64 = 5_000_000_000;

/// AggregatorBounds of the aggregator's memory.
#[derive(Clone, Copy, Debug)]
pub struct AggregatorBounds {
    /// Flows with an open window; the oldest window closes early when another is needed.
    pub windows: usize,
    /// Kernel fold entries whose last count is remembered: twice this at most. Live entries are
    /// refreshed by each sweep, so anything above `AGGREGATE_LEN` times the CPUs forgets only the dead.
    pub seen: usize,
}

/// What makes records one story to its reader: no source port, as in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    remote: [u8; 16],
    ifindex: u32,
    cookie: u32,
    port: u16,
    protocol: u8,
    reason: DropReason,
    direction: Direction,
    outcome: Outcome,
}

/// Packets of one flow that were not told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowReport {
    /// The newest record.
    pub record: Checked,
    /// How many packets.
    pub count: u64,
    /// None of them is older, monotonic clock.
    pub first_ns: u64,
    /// The newest of them, monotonic clock.
    pub last_ns: u64,
}

/// What became of the records, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AggregatorCounts {
    /// Records that added to an event instead of being one.
    pub aggregated: u64,
    /// Packets that an agent before us, or before we forgot, may have told: not told again.
    pub presumed_reported: u64,
}

/// Folds records by flow over a window.
#[derive(Debug)]
pub struct Aggregator {
    bounds: AggregatorBounds,
    seen: ReportedCounts,
    windows: HashMap<FlowKey, OpenWindow>,
    /// All windows are equally long, so they end in the order in which they began.
    due: VecDeque<(u64, FlowKey)>,
    counts: AggregatorCounts,
}

#[derive(Clone, Copy, Debug)]
struct OpenWindow {
    latest: Checked,
    count: u64,
    first_ns: u64,
    last_ns: u64,
}

impl FlowKey {
    /// The key of a record.
    pub fn of(record: &Checked) -> Self {
        let event = &record.event;
        Self {
            remote: match record.direction {
                Direction::Egress => event.destination,
                Direction::Ingress => event.source,
            },
            ifindex: event.ifindex,
            cookie: event.cookie,
            port: event.destination_port,
            protocol: event.protocol,
            reason: record.reason,
            direction: record.direction,
            outcome: record.outcome,
        }
    }
}

impl Aggregator {
    /// `started_ns`: flows that began earlier may have been told of by an agent before this one.
    pub fn new(bounds: AggregatorBounds, started_ns: u64) -> Self {
        Self {
            seen: ReportedCounts::new(bounds.seen.max(1), started_ns),
            bounds,
            windows: HashMap::new(),
            due: VecDeque::new(),
            counts: AggregatorCounts::default(),
        }
    }

    /// Takes one record from the ring buffer.
    pub fn record(&mut self, record: &Checked, now_ns: u64, out: &mut Vec<FlowReport>) {
        let key = FlowKey::of(record);
        // Of a flow we do not know that began before our time, only this packet is surely news.
        let reported_before = record.event.count.saturating_sub(1);
        let id = self.seen.id(&key, &record.event);
        let progress = self.seen.advance(id, &record.event, reported_before);
        if !self.add(key, record, progress, now_ns, out) {
            self.counts.aggregated += 1;
        }
    }

    /// Takes all entries of the fold tables, those of every CPU. To be certain of the last packets
    /// (at the end) call it twice: see `ReportedCounts::stable`.
    pub fn sweep(&mut self, entries: impl IntoIterator<Item = AggregateEntry>, now_ns: u64, out: &mut Vec<FlowReport>) {
        for entry in entries {
            let Some(record) = entry.event.check().filter(|_| entry.event.count > 0) else { continue };
            let key = FlowKey::of(&record);
            let id = self.seen.id(&key, &record.event);
            if self.seen.stable(id) {
                // An entry of before our time stays in the table until it is pushed out: old news.
                let progress = self.seen.advance(id, &record.event, entry.event.count);
                self.add(key, &record, progress, now_ns, out);
            }
        }
        self.seen.end_sweep();
    }

    /// Ends the windows that are due.
    pub fn expire(&mut self, now_ns: u64, out: &mut Vec<FlowReport>) {
        while let Some((deadline, key)) = self.due.front().copied().filter(|(deadline, _)| *deadline <= now_ns) {
            self.due.pop_front();
            let Entry::Occupied(mut slot) = self.windows.entry(key) else { continue };
            match slot.get_mut().take() {
                Some(report) => {
                    out.push(report);
                    self.due.push_back((deadline.max(now_ns) + WINDOW_NS, key));
                }
                None => {
                    slot.remove();
                }
            }
        }
    }

    /// Ends all windows: at the end.
    pub fn flush(&mut self, out: &mut Vec<FlowReport>) {
        self.due.clear();
        out.extend(self.windows.drain().filter_map(|(_, mut window)| window.take()));
    }

    /// What became of the records so far.
    pub fn counts(&self) -> AggregatorCounts {
        self.counts
    }

    /// True if the record became an event at once.
    fn add(
        &mut self,
        key: FlowKey,
        record: &Checked,
        progress: Progress,
        now_ns: u64,
        out: &mut Vec<FlowReport>,
    ) -> bool {
        self.counts.presumed_reported += progress.presumed;
        if progress.delta == 0 {
            return false;
        }
        let last_ns = record.event.last_ns;
        if let Some(window) = self.windows.get_mut(&key) {
            window.add(record, progress.delta, progress.since_ns);
            return false;
        }
        while self.windows.len() >= self.bounds.windows.max(1) {
            self.close_oldest(out);
        }
        out.push(FlowReport { record: *record, count: progress.delta, first_ns: progress.since_ns, last_ns });
        self.windows.insert(key, OpenWindow { latest: *record, count: 0, first_ns: last_ns, last_ns });
        self.due.push_back((now_ns + WINDOW_NS, key));
        true
    }

    fn close_oldest(&mut self, out: &mut Vec<FlowReport>) {
        match self.due.pop_front() {
            Some((_, key)) => out.extend(self.windows.remove(&key).and_then(|mut window| window.take())),
            None => self.flush(out),
        }
    }
}

impl OpenWindow {
    fn add(&mut self, record: &Checked, delta: u64, since_ns: u64) {
        if self.count == 0 {
            self.first_ns = since_ns;
        }
        self.count += delta;
        self.first_ns = self.first_ns.min(since_ns);
        if record.event.last_ns >= self.last_ns {
            self.last_ns = record.event.last_ns;
            self.latest = *record;
        }
    }

    /// What has gathered, if anything; the window begins anew.
    fn take(&mut self) -> Option<FlowReport> {
        let report =
            FlowReport { record: self.latest, count: self.count, first_ns: self.first_ns, last_ns: self.last_ns };
        self.count = 0;
        (report.count > 0).then_some(report)
    }
}

#[cfg(test)]
mod tests;
