//! The agent's local socket: `observe` and `status` ask here.
//!
//! One line of JSON asks, lines of JSON answer. Readable by root alone (mode 0600): events name
//! every tenant of the node. Read only; no request changes anything, and no reader can slow the
//! agent: each has a bounded queue and there is a limit to their number.

pub mod client;
pub mod protocol;

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

/// Where the socket is unless told otherwise.
pub const PATH: &str = "/run/bulkhead/agent.sock";
/// Readers at once.
const READERS: usize = 64;
/// Bytes of a request.
const REQUEST: u64 = 64 * 1024;
/// How long a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events written between two looks at the queue.
const BATCH: usize = 256;

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent answers there.
    #[error("another agent listens on {}", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// Something that is no socket is there, and is not ours to remove.
    #[error("{} exists and is no socket; remove it or choose another path", path.display())]
    NoSocket {
        /// Where.
        path: PathBuf,
    },
    /// The system said no.
    #[error("cannot {operation} {}", path.display())]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A socket file that goes away with its owner.
#[derive(Debug)]
pub struct Bound {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens at `path`. A socket that a dead agent left behind is replaced; a living agent's is not.
pub async fn bind(path: &Path) -> Result<Bound, SocketError> {
    let system = |operation| move |source: io::Error| SocketError::System { operation, path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(system("make the directory of"))?;
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
    let socket = UnixSocket::new_stream().map_err(system("make the socket"))?;
    // Before it has a name, so that nobody can open it in between: Linux gives the file the mode
    // that the unbound socket has.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|error| system("protect")(error.into()))?;
    socket.bind(path).map_err(system("bind"))?;
    let listener = socket.listen(64).map_err(system("listen on"))?;
    Ok(Bound { listener, path: path.to_owned() })
}

/// What the socket shows.
#[derive(Clone)]
pub struct Shown {
    /// The events.
    pub hub: Arc<Hub>,
    /// The state; must answer without waiting.
    pub status: Arc<dyn Fn() -> AgentStatus + Send + Sync>,
}

/// Answers until `shutdown` is done.
pub async fn serve(bound: Bound, shown: Shown, shutdown: impl Future<Output = ()>) {
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
                tracing::warn!(%error, "a reader could not be let in");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (shown, seat) = (shown.clone(), Arc::clone(&readers).try_acquire_owned());
        tokio::spawn(async move {
            // A reader that leaves is no news.
            let _ = match seat {
                Ok(_seat) => answer(stream, &shown).await,
                Err(_) => refuse(stream, "too many readers; end one and try again").await,
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
                    // The reader says nothing more; when its end closes, it has left.
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
        Err(error) => notify(&mut writer, &Notice::Error { message: format!("not a request: {error}") }).await,
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
