//! Holds a new pod's sandbox until its interface is enforced, where the container runtime offers NRI
//! (containerd 2, CRI-O): the pod's first command then finds its policy in force.
//!
//! ```text
//! runtime ──RunPodSandbox──▶ session ──▶ gate ◀── snapshots of the loop
//!         ◀────"go on"──────         ◀── enforced, or the time is up
//! ```
//!
//! Enforcement does not depend on it: an interface is denied until its pod is known, held or not. Knows
//! NRI and what the loop publishes; writes nothing, and cannot stop a pod: it answers in time or the
//! runtime goes on without it (NRI's `plugin_request_timeout`, two seconds unless configured otherwise,
//! after which it drops the plugin). A runtime that is not there is tried again and said once.

use std::convert::Infallible;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::health::Nri;

mod hold;
mod message;
mod session;
#[cfg(test)]
mod tests;
mod wire;

pub use hold::Gate;
use session::NriError;

/// Pauses between attempts begin with this and double.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// And end with this: nobody is held while nobody is connected.
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// Connects to the runtime at `socket`, again whenever the connection ends, and shows in `shown` whether
/// it stands. Ends with the loop.
pub async fn follow(socket: PathBuf, gate: Gate, shown: watch::Sender<Nri>) {
    let gate = Arc::new(gate);
    shown.send_replace(Nri::Waiting);
    if !gate.is_of_use().await {
        return;
    }
    let (mut pause, mut said) = (FIRST_PAUSE, false);
    loop {
        let begun = Instant::now();
        let Err(error) = attempt(&socket, &gate, &shown).await;
        if shown.send_replace(Nri::Waiting) == Nri::Connected {
            said = false;
        }
        say(&socket, &error, std::mem::replace(&mut said, true));
        pause = if begun.elapsed() > LAST_PAUSE { FIRST_PAUSE } else { (pause * 2).min(LAST_PAUSE) };
        tokio::time::sleep(pause).await;
    }
}

async fn attempt(socket: &Path, gate: &Arc<Gate>, shown: &watch::Sender<Nri>) -> Result<Infallible, NriError> {
    let stream = UnixStream::connect(socket).await.map_err(NriError::Connect)?;
    let connected = |runtime: &message::Configure| {
        let (name, version) = (&runtime.runtime_name, &runtime.runtime_version);
        tracing::info!(runtime = name, version, "NRI: new pods are held until their interface is enforced");
        shown.send_replace(Nri::Connected);
    };
    session::run(stream, gate, connected).await
}

/// Once for people; what only goes on is for whoever looks for it.
fn say(socket: &Path, error: &NriError, said: bool) {
    let (socket, error) = (socket.display(), error as &dyn Error);
    if said {
        tracing::debug!(%socket, error, "still no NRI");
    } else {
        tracing::warn!(%socket, error, "no NRI now: new pods are denied until they are known, but not held; trying again");
    }
}
