//! The reconcile loop: takes in changes, compiles, plans, writes, retries, and publishes snapshots.
//!
//! Knows the trait [`Dataplane`] and the clock it is given; knows no kernel and no Kubernetes. A failure never stops
//! it: the last good state stays in force and is reported.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::dataplane::Dataplane;
use policy::model::input::Subject;
use propagation::Propagation;

mod compare;
pub(crate) mod execute;
mod interfaces;
pub(crate) mod propagation;
mod publish;
pub(crate) mod schedule;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod step;
#[cfg(test)]
mod tests;

pub(crate) use propagation::TimedChange;
pub(crate) use schedule::Now;
pub(crate) use snapshot::Snapshot;
pub(crate) use state::ReconcileState;
pub(crate) use step::step;

/// What the loop reports while it runs.
pub(crate) trait LoopObserver {
    /// The loop waits for changes, or has just made a step. Called at least once in [`BEAT`] unless a step hangs.
    fn alive(&mut self);

    /// The kernel holds everything that was reported; the oldest change of this kind took so long.
    fn propagated(&mut self, subject: Subject, took: Duration);
}

/// The longest pause between two signs of life.
pub(crate) const BEAT: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(5) };
/// Changes taken in at once at most: a burst becomes one compile and one plan.
const BURST: usize = 8192;

/// Runs until every sender of changes is gone, and returns the dataplane.
///
/// Writes to the kernel block, so this needs a thread of its own. Each source sends every kind of object in full
/// once at the start, even if it is empty. Nothing is written before that: after a restart, a missing object may only
/// be late.
pub(crate) async fn run<D: Dataplane>(
    mut state: ReconcileState,
    mut dataplane: D,
    mut changes: mpsc::Receiver<TimedChange>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    clock: impl Fn() -> Now,
    mut observer: impl LoopObserver,
) -> D {
    let mut wake = Duration::ZERO;
    let mut propagation = Propagation::default();
    loop {
        let mut burst = Vec::new();
        observer.alive();
        let pause = wake.saturating_sub(clock().tick);
        match tokio::time::timeout(pause.min(BEAT), changes.recv_many(&mut burst, BURST)).await {
            Ok(0) => return dataplane,
            Err(_) if pause > BEAT => continue,
            _ => {}
        }
        burst.iter().for_each(|timed| propagation.seen(timed));
        let burst = burst.into_iter().map(|timed| timed.change).collect();
        let outcome = step(&mut state, &mut dataplane, burst, clock());
        wake = outcome.wake;
        if outcome.in_force {
            propagation.finish(clock().tick).for_each(|(subject, took)| observer.propagated(subject, took));
        }
        if outcome.published {
            snapshots.send_replace(Arc::clone(state.snapshot()));
        }
    }
}
