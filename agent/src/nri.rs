//! Holds a new pod's sandbox until its interface is enforced, if the container runtime offers NRI (containerd 2,
//! CRI-O). The pod's first command then finds its policy in force.
//!
//! ```text
//! runtime ──RunPodSandbox──▶ session ──▶ gate ◀── snapshots of the loop
//!         ◀───"continue"────         ◀── enforced, or the limit is reached
//! ```
//!
//! Enforcement does not depend on this module: an interface is denied until its pod is known, held or not. The module
//! knows NRI and the published snapshots, and writes nothing. It cannot stop a pod: a runtime that gets no answer
//! within its `plugin_request_timeout` (by default two seconds) drops the plugin and continues. The module tries a
//! missing runtime again and warns once.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::health::NriState;

mod hold;
mod message;
mod session;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use hold::Gate;
use message::ConfigureRequest;
use session::NriError;

/// The first pause between two attempts. Each pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two attempts.
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// Connects to the runtime's NRI socket and connects again whenever the connection ends. Publishes in `state` whether
/// it is connected. Returns when the loop that publishes snapshots has ended.
pub(crate) async fn follow(socket: PathBuf, gate: Gate, state: watch::Sender<NriState>) {
    keep_connected(&socket, || UnixStream::connect(&socket), gate, state).await;
}

/// Does the work of [`follow`] with any kind of connection.
async fn keep_connected<C, S>(socket: &Path, connect: impl Fn() -> C, gate: Gate, state: watch::Sender<NriState>)
where
    C: Future<Output = io::Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let gate = Arc::new(gate);
    state.send_replace(NriState::Waiting);
    if !gate.is_of_use().await {
        return;
    }
    let (mut pause, mut warned) = (FIRST_PAUSE, false);
    loop {
        let begun = Instant::now();
        let Err(error) = attempt(connect(), &gate, &state).await;
        if state.send_replace(NriState::Waiting) == NriState::Connected {
            warned = false;
        }
        report(socket, &error, std::mem::replace(&mut warned, true));
        pause = if begun.elapsed() > LAST_PAUSE { FIRST_PAUSE } else { (pause * 2).min(LAST_PAUSE) };
        tokio::time::sleep(pause).await;
    }
}

async fn attempt<S>(
    connection: impl Future<Output = io::Result<S>>,
    gate: &Arc<Gate>,
    state: &watch::Sender<NriState>,
) -> Result<Infallible, NriError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = connection.await.map_err(NriError::Connect)?;
    let connected = |runtime: &ConfigureRequest| {
        let (name, version) = (&runtime.runtime_name, &runtime.runtime_version);
        tracing::info!(runtime = name, version, "NRI connected: each new pod is held until its interface is enforced");
        state.send_replace(NriState::Connected);
    };
    session::run(stream, gate, connected).await
}

/// Warns of the first failure since the last connection. Later failures are logged at level `debug`.
fn report(socket: &Path, error: &NriError, warned: bool) {
    let (socket, error) = (socket.display(), error as &dyn Error);
    if warned {
        tracing::debug!(%socket, error, "NRI is still not connected");
    } else {
        tracing::warn!(
            %socket,
            error,
            "NRI is not connected: new pods are not held, so their first packets may be denied. The agent keeps trying"
        );
    }
}
