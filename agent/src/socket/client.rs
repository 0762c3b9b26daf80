//! The client of the agent's socket, for `bulkhead observe` and `bulkhead status`.
//!
//! Returns messages and errors as values; prints nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::protocol::{AgentStatus, Notice, SocketRequest};
use crate::events::filter::Filter;
use crate::events::schema::Event;

/// How long the agent may take to send its status.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a request to the agent failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No connection could be made.
    #[error("cannot connect to the agent at {}; check that it runs and that you are root", path.display())]
    Connect {
        /// The path of the socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The connection failed.
    #[error("the connection to the agent failed; see the agent's log")]
    Talk(#[source] io::Error),
    /// The agent sent no answer.
    #[error("the agent sent no answer in time; see the agent's log")]
    Silent,
    /// The answer has an unknown format.
    #[error("the agent's answer has an unknown format; use the `bulkhead` of the agent's version")]
    Understand(#[source] serde_json::Error),
    /// The agent refused the request.
    #[error("the agent refused the request: {0}")]
    Refused(String),
}

/// One message about events.
#[derive(Debug)]
pub(crate) enum ObserveMessage {
    /// An event, and the line that contained it.
    Event(Box<Event>, String),
    /// How many events were dropped because this client was too slow.
    Lost(u64),
}

/// A stream of events.
pub(crate) struct Observation {
    lines: Lines<BufReader<OwnedReadHalf>>,
    /// Kept open: the agent ends the stream when it closes.
    _writer: OwnedWriteHalf,
}

/// Requests the agent's status.
pub(crate) async fn status(path: &Path) -> Result<AgentStatus, ClientError> {
    let mut observation = send(path, &SocketRequest::Status).await?;
    let line = timeout(PATIENCE, observation.lines.next_line()).await.map_err(|_| ClientError::Silent)?;
    let line = line.map_err(ClientError::Talk)?.ok_or(ClientError::Silent)?;
    refused(&line)?;
    serde_json::from_str(&line).map_err(ClientError::Understand)
}

/// Requests events.
pub(crate) async fn observe(
    path: &Path,
    follow: bool,
    last: usize,
    filter: Filter,
) -> Result<Observation, ClientError> {
    send(path, &SocketRequest::Observe { follow, last, filter }).await
}

impl Observation {
    /// The next message; `None` at the end. The future may be dropped at any point, and then nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Option<ObserveMessage>, ClientError> {
        let Some(line) = self.lines.next_line().await.map_err(ClientError::Talk)? else { return Ok(None) };
        if let Ok(Notice::Lost { count }) = serde_json::from_str(&line) {
            return Ok(Some(ObserveMessage::Lost(count)));
        }
        refused(&line)?;
        let event = serde_json::from_str(&line).map_err(ClientError::Understand)?;
        Ok(Some(ObserveMessage::Event(Box::new(event), line)))
    }
}

async fn send(path: &Path, request: &SocketRequest) -> Result<Observation, ClientError> {
    let connected = UnixStream::connect(path).await;
    let stream = connected.map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
    let (reader, mut writer) = stream.into_split();
    let mut line = serde_json::to_vec(request).map_err(ClientError::Understand)?;
    line.push(b'\n');
    writer.write_all(&line).await.map_err(ClientError::Talk)?;
    Ok(Observation { lines: BufReader::new(reader).lines(), _writer: writer })
}

fn refused(line: &str) -> Result<(), ClientError> {
    match serde_json::from_str(line) {
        Ok(Notice::Error { message }) => Err(ClientError::Refused(message)),
        _ => Ok(()),
    }
}
