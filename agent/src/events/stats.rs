//! What happened to records and events, stage by stage: the numbers behind "and said what it left out".
//!
//! Plain atomics, written by the event path and read on scrape. Nothing here decides anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Where a record or an event can be lost. The word is the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Held back in the kernel: one pod had too much to tell. Its packets are told by the sweep.
    PodLimit = 0,
    /// The ring buffer was full. The packets are told by a later record, or by the sweep.
    RingBuffer = 1,
    /// Packets whose flow was pushed out of the kernel's fold table before its last count was told.
    AggregateTable = 2,
    /// Not a record of ours.
    Decode = 3,
    /// A tenant or the node was over its rate.
    RateLimit = 4,
    /// A sink was slower than its queue is long.
    Queue = 5,
    /// A sink refused.
    Sink = 6,
    /// A reader of `observe` was too slow.
    Observer = 7,
}

impl Stage {
    /// All, in the order of a record's way.
    pub const ALL: [Self; 8] = [
        Self::PodLimit,
        Self::RingBuffer,
        Self::AggregateTable,
        Self::Decode,
        Self::RateLimit,
        Self::Queue,
        Self::Sink,
        Self::Observer,
    ];

    /// The word used in metrics.
    pub const fn as_str(self) -> &'static str {
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

/// A number that grows.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// Adds.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Takes over a number that something else counts; never backwards.
    pub fn raise(&self, to: u64) {
        self.0.fetch_max(to, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one sink did.
#[derive(Debug, Default)]
pub struct SinkStats {
    /// Events it took.
    pub taken: Tally,
    /// Events it refused.
    pub refused: Tally,
    /// When it last took one, nanoseconds since 1970.
    pub last_ns: Tally,
    /// Events that wait for it.
    pub queued: AtomicU64,
}

/// The whole event path.
#[derive(Debug, Default)]
pub struct EventStats {
    /// Records read from the ring buffer.
    pub received: Tally,
    /// Records folded into an earlier event.
    pub aggregated: Tally,
    /// Packets that an earlier agent is presumed to have told of.
    pub presumed_reported: Tally,
    /// Connections that the reply table could not take: their replies are dropped.
    pub reply_insert_failures: Tally,
    /// Packets whose headers the programs could not read, because the kernel could not make them linear.
    pub pull_failures: Tally,
    lost: [Tally; Stage::ALL.len()],
    sinks: Mutex<Vec<(&'static str, Arc<SinkStats>)>>,
}

impl EventStats {
    /// What a stage has lost.
    pub fn lost(&self, stage: Stage) -> &Tally {
        &self.lost[stage as usize]
    }

    /// Lost so far between the kernel and the sinks; `observe` tells its readers itself.
    pub fn lost_total(&self) -> u64 {
        let stages =
            [Stage::RingBuffer, Stage::AggregateTable, Stage::Decode, Stage::RateLimit, Stage::Queue, Stage::Sink];
        stages.into_iter().map(|stage| self.lost(stage).get()).sum()
    }

    /// The numbers of a new sink.
    pub fn sink(&self, name: &'static str) -> Arc<SinkStats> {
        let stats = Arc::new(SinkStats::default());
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner).push((name, Arc::clone(&stats)));
        stats
    }

    /// The numbers of all sinks.
    pub fn sinks(&self) -> Vec<(&'static str, Arc<SinkStats>)> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
