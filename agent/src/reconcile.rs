//! The loop: gather news, compile, plan, apply, keep what failed, tell everybody.
//!
//! Knows the `Dataplane` trait and the clock it is given; knows no kernel and no Kubernetes. It
//! never stops because something failed: the last good state stays in force and is reported.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::dataplane::Dataplane;
use crate::model::input::Change;

pub mod execute;
pub mod pace;
mod publish;
pub mod snapshot;
pub mod state;
#[cfg(test)]
mod tests;

pub use pace::Now;
pub use snapshot::Snapshot;
pub use state::{Outcome, State, step};

/// Pieces of news taken in at once at most: a burst becomes one compile and one plan.
const BURST: usize = 8192;

/// Runs until every sender of changes is gone, and gives the dataplane back.
///
/// Writes to the kernel block, so give it a thread of its own. Sources send each kind of object in
/// full once at the start, empty if there is none: until all kinds were told nothing is written,
/// because after a restart a missing object may only be late.
pub async fn run<D: Dataplane>(
    mut state: State,
    mut dataplane: D,
    mut changes: mpsc::Receiver<Change>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    clock: impl Fn() -> Now,
) -> D {
    let mut wake = Duration::ZERO;
    loop {
        let mut news = Vec::new();
        let pause = wake.saturating_sub(clock().tick);
        if let Ok(0) = tokio::time::timeout(pause, changes.recv_many(&mut news, BURST)).await {
            return dataplane;
        }
        let outcome = step(&mut state, &mut dataplane, news, clock());
        wake = outcome.wake;
        if outcome.published {
            snapshots.send_replace(Arc::clone(state.snapshot()));
        }
    }
}
