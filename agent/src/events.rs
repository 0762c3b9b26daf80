//! The event path: the kernel's records of denied flows become events with names, and the sinks get them.
//!
//! ```text
//! ring buffer ---------> decode --> Aggregator --> Limiter --> Enricher --> Line --> stdout (own thread)
//! aggregation tables --- sweep ------^                                    \----> Hub --> observe
//! ```
//!
//! This module writes no map. It counts no packets for the metrics, because the kernel counts them. It never waits for
//! a sink. Every stage that can lose something counts the loss in `EventStats`.

pub(crate) mod aggregate;
pub(crate) mod enrich;
pub(crate) mod filter;
#[cfg(test)]
pub(crate) mod fixtures;
pub(crate) mod history;
pub(crate) mod labels;
pub(crate) mod limit;
pub(crate) mod packet;
pub(crate) mod pipeline;
pub(crate) mod reported;
pub(crate) mod ring;
pub(crate) mod schema;
pub(crate) mod sink;
pub(crate) mod stats;
pub(crate) mod verdicts;
pub(crate) mod wire;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use agent_common::aggregate::AggregateEntry;
use agent_common::counters::Loss;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::clock::Clock;
pub(crate) use pipeline::{Pipeline, StateNotice};

/// Time between two sweeps. A sweep reads the aggregation tables.
const SWEEP: Duration = Duration::from_secs(2);
/// Time between two checks for windows that are due.
const TICK: Duration = Duration::from_millis(250);
/// Records read in one turn of the loop, at most.
const BATCH: usize = 4096;
/// Records read at the end, at most: more than a ring buffer holds, and few enough that reading ends.
const LAST_BATCH: usize = 1 << 20;

/// The source of records: the kernel's maps, or a test.
pub(crate) trait RecordSource: Send {
    /// Why the source could not be read.
    type Error: std::error::Error + Send + Sync;
    /// Waits until there are records. The future may be dropped, and the function called again.
    fn ready(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;
    /// Calls `each` for at most `most` records; returns how many there were.
    fn drain(&mut self, most: usize, each: &mut dyn FnMut(&[u8])) -> usize;
    /// All entries of the aggregation tables of all CPUs.
    fn sweep(&mut self) -> Result<Vec<AggregateEntry>, Self::Error>;
    /// Records that the budget of this event slot has held back so far, summed over CPUs.
    fn held_back(&mut self, slot: u16) -> Result<u64, Self::Error>;
    /// The kernel's losses so far, summed over CPUs.
    fn losses(&mut self) -> Result<[u64; Loss::LEN as usize], Self::Error>;
}

/// Moves records to the sinks until `notices` closes. Then reports what is left and closes the sinks.
///
/// If the source fails, a later tick reads it again. Its counts are cumulative, so the later reading includes
/// everything.
pub(crate) async fn run(
    mut source: impl RecordSource,
    mut pipeline: Pipeline,
    mut notices: mpsc::Receiver<StateNotice>,
) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_sweep = Instant::now();
    let mut broken = false;
    loop {
        tokio::select! {
            ready = source.ready(), if !broken => match ready {
                Ok(()) => {
                    drain(&mut source, &mut pipeline, BATCH);
                    // A full ring buffer must not starve the ticks, the notices, or other tasks.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "waiting for the ring buffer failed: it is read on a timer from now on");
                    broken = true;
                }
            },
            _ = tick.tick() => {
                if broken {
                    drain(&mut source, &mut pipeline, BATCH);
                }
                if Instant::now() >= next_sweep {
                    next_sweep = Instant::now() + SWEEP;
                    drain(&mut source, &mut pipeline, BATCH);
                    sweep(&mut source, &mut pipeline);
                }
                pipeline.tick(Clock::now());
            },
            notice = notices.recv() => match notice {
                Some(notice) => pipeline.notice(notice, Clock::now()),
                None => break,
            },
        }
    }
    drain(&mut source, &mut pipeline, LAST_BATCH);
    sweep(&mut source, &mut pipeline);
    sweep(&mut source, &mut pipeline);
    pipeline.finish(Clock::now());
    let sinks = pipeline.sinks();
    // Closing a sink may block while stdout is slow, so it needs a thread that may block.
    let closed = tokio::task::spawn_blocking(move || sinks.iter().for_each(|sink| sink.close()));
    if closed.await.is_err() {
        tracing::warn!("closing the event sinks failed: their last events may be missing");
    }
}

fn drain(source: &mut impl RecordSource, pipeline: &mut Pipeline, most: usize) {
    let clock = Clock::now();
    source.drain(most, &mut |bytes| pipeline.record(bytes, clock));
}

fn sweep(source: &mut impl RecordSource, pipeline: &mut Pipeline) {
    let swept = source.sweep().map(|entries| pipeline.sweep(entries, Clock::now()));
    let swept = swept.and_then(|()| source.losses().map(|losses| pipeline.losses(losses)));
    let swept = swept.and_then(|()| {
        pipeline
            .slots()
            .into_iter()
            .try_for_each(|slot| source.held_back(slot).map(|count| pipeline.held_back(slot, count)))
    });
    if let Err(error) = swept {
        tracing::warn!(%error, "reading the event maps failed: the next sweep reads their counts");
    }
}

/// All sinks; each gets every event.
pub(crate) type Sinks = Vec<Arc<dyn sink::Sink>>;

#[cfg(test)]
mod tests;
