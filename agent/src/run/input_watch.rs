//! Tells the reconcile loop when the input guard's table was changed, so that a flushed table is back at once.
//!
//! The agent's own writes are reported too: the loop then reads the table back and finds it as it should be. Does not know
//! what the table holds.

use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::Sender;

use crate::dataplane::input_guard::TABLE;
use crate::dataplane::nft::watch::NftWatch;
use policy::model::input::Change;

/// How long each wait lasts; after it the thread looks whether the loop is still there.
const TURN: Duration = Duration::from_secs(1);
/// A change is reported this long after it, so that one reading serves a whole burst.
const SETTLE: Duration = Duration::from_millis(200);
/// Pause after the subscription failed. The table is then read back with everything else, every 30 seconds.
const RETRY: Duration = Duration::from_secs(30);

/// Starts the thread, which ends with the receiver of `changes`.
///
/// # Errors
/// The thread could not be started.
pub(super) fn start(changes: Sender<Change>) -> std::io::Result<()> {
    let run = move || {
        let mut failed = false;
        while !changes.is_closed() {
            match follow(&changes) {
                Ok(()) => return,
                Err(error) if !std::mem::replace(&mut failed, true) => {
                    tracing::warn!(%error, "cannot watch the input guard's table; it is checked every 30 seconds");
                }
                Err(error) => tracing::debug!(%error, "cannot watch the input guard's table"),
            }
            thread::sleep(RETRY);
        }
    };
    thread::Builder::new().name("input-watch".into()).spawn(run).map(drop)
}

/// Watches until the receiver is gone.
fn follow(changes: &Sender<Change>) -> std::io::Result<()> {
    let watch = NftWatch::open(TABLE)?;
    while !changes.is_closed() {
        if !watch.wait(TURN)? {
            continue;
        }
        thread::sleep(SETTLE);
        while watch.wait(Duration::ZERO)? {}
        if changes.blocking_send(Change::InputGuardTouched).is_err() {
            break;
        }
    }
    Ok(())
}
