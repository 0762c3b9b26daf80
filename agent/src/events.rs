//! From the ring buffer to the sinks: violations with names, and an account of what was left out.
//!
//! ```text
//! ring buffer --> decode --> Aggregator --> Limiter --> Enricher --> Line --> stdout (own thread)
//! fold tables --- sweep ------^                                    \----> Hub --> observe
//! ```
//!
//! This room never writes a map, never counts packets for the metrics (the kernel does), and never
//! waits for a sink. Every stage that can lose something counts the loss in `EventStats`.

pub mod aggregate;
pub mod enrich;
pub mod filter;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod history;
pub mod labels;
pub mod limit;
pub mod packet;
pub mod pipeline;
pub mod reported;
pub mod ring;
pub mod schema;
pub mod sink;
pub mod stats;
pub mod verdicts;
pub mod wire;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use agent_common::aggregate::AggregateEntry;
use agent_common::counters::Loss;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::clock::Clock;
pub use pipeline::{Pipeline, StateNotice};

/// How often the fold tables are swept.
const SWEEP: Duration = Duration::from_secs(2);
/// How often windows are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Records read before the rest of the loop has its turn.
const BATCH: usize = 4096;
/// Records read at the end: more than a ring buffer holds, and not for ever.
const LAST_BATCH: usize = 1 << 20;

/// Where records come from: the kernel's maps, or a test.
pub trait RecordSource: Send {
    /// What can go wrong with it.
    type Error: std::error::Error + Send + Sync;
    /// Waits until records wait. May be dropped and called again.
    fn ready(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;
    /// Hands out at most `most` records; returns how many.
    fn drain(&mut self, most: usize, each: &mut dyn FnMut(&[u8])) -> usize;
    /// All entries of the fold tables of all CPUs.
    fn sweep(&mut self) -> Result<Vec<AggregateEntry>, Self::Error>;
    /// Records held back so far in this event limit, all CPUs together.
    fn held_back(&mut self, slot: u16) -> Result<u64, Self::Error>;
    /// The losses so far, all CPUs together.
    fn losses(&mut self) -> Result<[u64; Loss::LEN as usize], Self::Error>;
}

/// Moves records to the sinks until `notices` closes; then tells what is left and closes the sinks.
///
/// A source that fails is tried again with the next tick: its counts are cumulative, so what it
/// could not tell now it will tell then.
pub async fn run(mut source: impl RecordSource, mut pipeline: Pipeline, mut notices: mpsc::Receiver<StateNotice>) {
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
                    tracing::warn!(%error, "the ring buffer cannot be waited for; reading it on a timer");
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
    // Closing waits for a slow stdout, on a thread that may wait.
    let closed = tokio::task::spawn_blocking(move || sinks.iter().for_each(|sink| sink.close()));
    if closed.await.is_err() {
        tracing::warn!("a sink could not be closed");
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
        tracing::warn!(%error, "the fold tables cannot be read now; their counts stay where they are");
    }
}

/// A fan-out list.
pub type Sinks = Vec<Arc<dyn sink::Sink>>;

#[cfg(test)]
mod tests;
