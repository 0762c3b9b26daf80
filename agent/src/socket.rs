//! The agent's Unix socket, which `bulkhead observe` and `bulkhead status` read.
//!
//! A client sends one line of JSON and receives lines of JSON. Only root can connect (mode 0600), because events name
//! every tenant of the node. No request changes anything. No reader can slow the agent: each reader has a bounded
//! queue, and the number of readers is limited.

pub(crate) mod client;
pub(crate) mod protocol;

use std::future::Future;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::events::sink::Line;
use crate::events::sink::hub::{Hub, KEPT};
use protocol::{AgentStatus, Notice, SocketRequest};

/// Default path of the socket.
pub(crate) const PATH: &str = "/run/bulkhead/agent.sock";
/// Most readers at a time.
const READERS: usize = 64;
/// Most bytes of a request.
const REQUEST: u64 = 64 * 1024;
/// How long a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most events that are taken from the queue at once.
const BATCH: usize = 256;

/// Why the socket cannot be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Another agent listens on the path.
    #[error("another agent listens on {}; stop it or choose another path", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The file at the path is not a socket, so the agent does not remove it.
    #[error("{} exists and is not a socket; remove it or choose another path", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {operation} {}", path.display())]
    System {
        /// The operation.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A listening socket. Dropping it removes its file.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens at `path`. Replaces the socket of an agent that has ended, but not that of a running agent.
pub(crate) async fn bind(path: &Path) -> Result<Bound, SocketError> {
    let system = |operation| move |source: io::Error| SocketError::System { operation, path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(system("create the directory of"))?;
    }
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(SocketError::NoSocket { path: path.to_owned() });
        }
        if UnixStream::connect(path).await.is_ok() {
            return Err(SocketError::InUse { path: path.to_owned() });
        }
        std::fs::remove_file(path).map_err(system("remove the stale socket"))?;
    }
    let socket = UnixSocket::new_stream().map_err(system("create the socket"))?;
    // The mode is set before the socket has a path, so that nobody can open it in between. Linux gives the file the
    // mode of the unbound socket.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|error| system("protect")(error.into()))?;
    socket.bind(path).map_err(system("bind"))?;
    let listener = socket.listen(64).map_err(system("listen on"))?;
    Ok(Bound { listener, path: path.to_owned() })
}

/// What readers of the socket receive.
#[derive(Clone)]
pub(crate) struct Shown {
    /// The events.
    pub hub: Arc<Hub>,
    /// Returns the agent's status. It must not block.
    pub status: Arc<dyn Fn() -> AgentStatus + Send + Sync>,
}

/// Serves readers until `shutdown` completes.
pub(crate) async fn serve(bound: Bound, shown: Shown, shutdown: impl Future<Output = ()>) {
    let readers = Arc::new(Semaphore::new(READERS));
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return,
            accepted = bound.listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the agent's socket was not accepted; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (shown, permit) = (shown.clone(), Arc::clone(&readers).try_acquire_owned());
        tokio::spawn(async move {
            // A reader may disconnect at any time, so an error is ignored.
            let _ = match permit {
                Ok(_permit) => answer(stream, &shown).await,
                Err(_) => refuse(stream, "too many readers are connected; end one and try again").await,
            };
        });
    }
}

async fn refuse(stream: UnixStream, message: &str) -> io::Result<()> {
    notify(&mut stream.into_split().1, &Notice::Error { message: message.into() }).await
}

async fn answer(stream: UnixStream, shown: &Shown) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(REQUEST));
    let mut line = String::new();
    if timeout(PATIENCE, reader.read_line(&mut line)).await.is_err() {
        return Ok(());
    }
    match serde_json::from_str(&line) {
        Ok(SocketRequest::Status) => json(&mut writer, &(shown.status)()).await,
        Ok(SocketRequest::Observe { follow: false, last, filter }) => {
            write(&mut writer, &shown.hub.history(&filter, last.min(KEPT))).await
        }
        Ok(SocketRequest::Observe { follow: true, last, filter }) => {
            let (history, subscription) = shown.hub.follow(filter, last.min(KEPT));
            write(&mut writer, &history).await?;
            let mut rest = [0];
            loop {
                tokio::select! {
                    // The reader sends nothing more. End of file means that it has disconnected.
                    left = reader.read(&mut rest) => if left? == 0 { return Ok(()) },
                    batch = subscription.queue.take(BATCH) => {
                        if batch.lost > 0 {
                            notify(&mut writer, &Notice::Lost { count: batch.lost }).await?;
                        }
                        write(&mut writer, &batch.lines).await?;
                        if batch.closed {
                            return Ok(());
                        }
                    }
                }
            }
        }
        Err(error) => notify(&mut writer, &Notice::Error { message: format!("the request is invalid: {error}") }).await,
    }
}

async fn write(writer: &mut OwnedWriteHalf, lines: &[Arc<Line>]) -> io::Result<()> {
    for line in lines {
        writer.write_all(&line.json).await?;
    }
    Ok(())
}

async fn notify(writer: &mut OwnedWriteHalf, notice: &Notice) -> io::Result<()> {
    json(writer, notice).await
}

async fn json(writer: &mut OwnedWriteHalf, value: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

#[cfg(test)]
mod tests;
