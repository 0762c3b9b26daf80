//! Turns the kernel's cumulative counts into reports. Each reports packets that no earlier one did.
//!
//! Pure: records and sweeps in, reports out, time as an argument. Knows no names, sinks or limits. The invariant: a
//! packet is reported at most once. Every other packet is in a window, counted as lost by the kernel, or counted as
//! presumed reported.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use agent_common::aggregate::AggregateEntry;
use agent_common::counters::Outcome;
use agent_common::event::Checked;
use agent_common::flow::Direction;
use agent_common::reason::DropReason;

use super::reported::{Progress, ReportedCounts};

/// After its first event, a flow is reported at most once in this time.
pub(crate) const WINDOW_NS: u64 = 5_000_000_000;

/// Limits of what the aggregator remembers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AggregatorBounds {
    /// Flows with an open window. If another one is needed, the oldest window closes early.
    pub windows: usize,
    /// Entries of the aggregation tables whose last count is remembered; at most twice as many. Each sweep refreshes
    /// the entries in use. So only unused ones are forgotten if this is above `AGGREGATE_LEN` times the number of CPUs.
    pub seen: usize,
}

/// What the records of one flow have in common. As in the kernel, the source port does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    remote: [u8; 16],
    ifindex: u32,
    cookie: u32,
    port: u16,
    protocol: u8,
    reason: DropReason,
    direction: Direction,
    outcome: Outcome,
}

/// Packets of one flow that were not reported before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowReport {
    /// The newest record.
    pub record: Checked,
    /// Number of packets.
    pub count: u64,
    /// No packet is older, monotonic clock.
    pub first_ns: u64,
    /// Time of the newest packet, monotonic clock.
    pub last_ns: u64,
}

/// What became of the records, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AggregatorCounts {
    /// Records that did not become an event of their own.
    pub aggregated: u64,
    /// Packets that may have been reported before the entry was known. They are not reported again.
    pub presumed_reported: u64,
}

/// Aggregates records by flow over a window.
#[derive(Debug)]
pub(crate) struct Aggregator {
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
    pub(crate) fn of(record: &Checked) -> Self {
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
    /// `started_ns`: an earlier agent may have reported flows that began before this time.
    pub(crate) fn new(bounds: AggregatorBounds, started_ns: u64) -> Self {
        Self {
            seen: ReportedCounts::new(bounds.seen.max(1), started_ns),
            bounds,
            windows: HashMap::new(),
            due: VecDeque::new(),
            counts: AggregatorCounts::default(),
        }
    }

    /// Takes one record from the ring buffer.
    pub(crate) fn record(&mut self, record: &Checked, now_ns: u64, out: &mut Vec<FlowReport>) {
        let key = FlowKey::of(record);
        // If an unknown flow began before the horizon, only this packet was certainly not reported.
        let reported_before = record.event.count.saturating_sub(1);
        let id = self.seen.id(&key, &record.event);
        let progress = self.seen.advance(id, &record.event, reported_before);
        if !self.add(key, record, progress, now_ns, out) {
            self.counts.aggregated += 1;
        }
    }

    /// Takes all entries of the aggregation tables of all CPUs. At the end, call it twice to be certain of the last
    /// packets: see [`ReportedCounts::stable`].
    pub(crate) fn sweep(
        &mut self,
        entries: impl IntoIterator<Item = AggregateEntry>,
        now_ns: u64,
        out: &mut Vec<FlowReport>,
    ) {
        for entry in entries {
            let Some(record) = entry.event.check().filter(|_| entry.event.count > 0) else { continue };
            let key = FlowKey::of(&record);
            let id = self.seen.id(&key, &record.event);
            if self.seen.stable(id) {
                // An entry from before the horizon stays until another flow takes it, and may have been reported.
                let progress = self.seen.advance(id, &record.event, entry.event.count);
                self.add(key, &record, progress, now_ns, out);
            }
        }
        self.seen.end_sweep();
    }

    /// Ends the windows that are due.
    pub(crate) fn expire(&mut self, now_ns: u64, out: &mut Vec<FlowReport>) {
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

    /// Ends all windows, at the end.
    pub(crate) fn flush(&mut self, out: &mut Vec<FlowReport>) {
        self.due.clear();
        out.extend(self.windows.drain().filter_map(|(_, mut window)| window.take()));
    }

    /// What became of the records so far.
    pub(crate) fn counts(&self) -> AggregatorCounts {
        self.counts
    }

    /// True if the packets were reported at once.
    fn add(
        &mut self,
        key: FlowKey,
        record: &Checked,
        progress: Progress,
        now_ns: u64,
        out: &mut Vec<FlowReport>,
    ) -> bool {
        let counts = &mut self.counts;
        counts.presumed_reported = counts.presumed_reported.saturating_add(progress.presumed);
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
        self.count = self.count.saturating_add(delta);
        self.first_ns = self.first_ns.min(since_ns);
        if record.event.last_ns >= self.last_ns {
            self.last_ns = record.event.last_ns;
            self.latest = *record;
        }
    }

    /// The packets counted in the window, if there are any. The window starts again.
    fn take(&mut self) -> Option<FlowReport> {
        let report =
            FlowReport { record: self.latest, count: self.count, first_ns: self.first_ns, last_ns: self.last_ns };
        self.count = 0;
        (report.count > 0).then_some(report)
    }
}

#[cfg(test)]
mod tests;
