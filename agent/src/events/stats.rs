//! Counts of what happened to records and events, stage by stage.
//!
//! Plain atomics: the event path writes them, and a scrape reads them. Nothing here decides anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Where a record or an event can be lost. The name of the stage is the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// The kernel held a record back, because the budget of its pod was spent. A sweep reports its packets.
    PodLimit = 0,
    /// The ring buffer was full. A later record or a sweep reports the packets.
    RingBuffer = 1,
    /// Another flow took the entry of the aggregation table before these packets were reported. Counts packets.
    AggregateTable = 2,
    /// The bytes are not a valid record.
    Decode = 3,
    /// A tenant or the node was over its rate.
    RateLimit = 4,
    /// The queue of a sink was full.
    Queue = 5,
    /// A sink could not write the event, or the event could not be encoded.
    Sink = 6,
    /// The queue of a reader of `observe` was full.
    Observer = 7,
}

impl Stage {
    /// All, in the order in which a record passes them.
    pub(crate) const ALL: [Self; 8] = [
        Self::PodLimit,
        Self::RingBuffer,
        Self::AggregateTable,
        Self::Decode,
        Self::RateLimit,
        Self::Queue,
        Self::Sink,
        Self::Observer,
    ];

    /// The label used in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::PodLimit => "pod_limit",
            Self::RingBuffer => "ring_buffer",
            Self::AggregateTable => "aggregate_table",
            Self::Decode => "decode",
            Self::RateLimit => "rate_limit",
            Self::Queue => "queue",
            Self::Sink => "sink",
            Self::Observer => "observer",
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Tally(AtomicU64);

impl Tally {
    /// Adds `more`.
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Takes over a number that is counted elsewhere. The tally never decreases.
    pub(crate) fn raise(&self, to: u64) {
        self.0.fetch_max(to, Ordering::Relaxed);
    }

    /// The number.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one sink did.
#[derive(Debug, Default)]
pub(crate) struct SinkStats {
    /// Events it took.
    pub taken: Tally,
    /// Events it refused.
    pub refused: Tally,
    /// When it last took one, nanoseconds since 1970.
    pub last_ns: Tally,
    /// Events that wait for it.
    pub queued: AtomicU64,
}

/// The counts of the whole event path.
#[derive(Debug, Default)]
pub(crate) struct EventStats {
    /// Records read from the ring buffer.
    pub received: Tally,
    /// Records whose packets were added to an earlier event.
    pub aggregated: Tally,
    /// Packets that an earlier agent is presumed to have reported.
    pub presumed_reported: Tally,
    /// Connections in use that lost their entry in the reply table to another one of the same pod.
    pub reply_evictions: Tally,
    /// Packets whose headers the programs could not read, because the kernel could not make them linear.
    pub pull_failures: Tally,
    lost: [Tally; Stage::ALL.len()],
    sinks: Mutex<Vec<(&'static str, Arc<SinkStats>)>>,
}

impl EventStats {
    /// What a stage has lost.
    pub(crate) fn lost(&self, stage: Stage) -> &Tally {
        &self.lost[stage as usize]
    }

    /// The losses so far between the kernel and the sinks. `observe` reports its own losses to its readers.
    pub(crate) fn lost_total(&self) -> u64 {
        let stages =
            [Stage::RingBuffer, Stage::AggregateTable, Stage::Decode, Stage::RateLimit, Stage::Queue, Stage::Sink];
        stages.into_iter().map(|stage| self.lost(stage).get()).sum()
    }

    /// Adds a sink; returns its counts.
    pub(crate) fn sink(&self, name: &'static str) -> Arc<SinkStats> {
        let stats = Arc::new(SinkStats::default());
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner).push((name, Arc::clone(&stats)));
        stats
    }

    /// The counts of all sinks.
    pub(crate) fn sinks(&self) -> Vec<(&'static str, Arc<SinkStats>)> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
