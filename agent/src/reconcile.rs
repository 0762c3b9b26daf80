//! The loop: gather news, compile, plan, apply, keep what failed, tell everybody.
//!
//! Knows the `Dataplane` trait and the clock it is given; knows no kernel and no Kubernetes. It
//! never stops because something failed: the last good state stays in force and is reported.

use std::sync::Arc;
use std::time::Duration;

use lag::Lag;
use tokio::sync::{mpsc, watch};

use crate::dataplane::Dataplane;
use policy::model::input::Subject;

pub mod execute;
pub mod lag;
pub mod pace;
mod publish;
pub mod snapshot;
pub mod state;
#[cfg(test)]
mod tests;

pub use lag::News;
pub use pace::Now;
pub use snapshot::Snapshot;
pub use state::{Outcome, State, step};

/// Pieces of news taken in at once at most: a burst becomes one compile and one plan.
const BURST: usize = 8192;

/// Runs until every sender of changes is gone, and gives the dataplane back.
///
/// Writes to the kernel block, so give it a thread of its own. Sources send each kind of object in
/// full once at the start, empty if there is none: until all kinds were told nothing is written,
/// because after a restart a missing object may only be late. `told` hears how long news of each kind
/// took, oldest first, whenever the kernel holds all that was seen.
pub async fn run<D: Dataplane>(
    mut state: State,
    mut dataplane: D,
    mut news: mpsc::Receiver<News>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    clock: impl Fn() -> Now,
    mut told: impl FnMut(Subject, Duration),
) -> D {
    let mut wake = Duration::ZERO;
    let mut lag = Lag::default();
    loop {
        let mut burst = Vec::new();
        let pause = wake.saturating_sub(clock().tick);
        if let Ok(0) = tokio::time::timeout(pause, news.recv_many(&mut burst, BURST)).await {
            return dataplane;
        }
        burst.iter().for_each(|news| lag.note(news));
        let changes = burst.into_iter().map(|news| news.change).collect();
        let outcome = step(&mut state, &mut dataplane, changes, clock());
        wake = outcome.wake;
        if outcome.in_force {
            lag.end(clock().tick).for_each(|(subject, took)| told(subject, took));
        }
        if outcome.published {
            snapshots.send_replace(Arc::clone(state.snapshot()));
        }
    }
}
