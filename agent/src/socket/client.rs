//! The asking side of the socket.

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

/// How long the agent may take to answer about itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// The agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or not for us.
    #[error("cannot reach an agent at {}; is it running, and are you root?", path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the agent stopped answering")]
    Talk(#[source] io::Error),
    /// The agent said nothing.
    #[error("the agent did not answer in time")]
    Silent,
    /// The answer is not one we know.
    #[error("the agent answered something else; is it of another version?")]
    Understand(#[source] serde_json::Error),
    /// The agent refused.
    #[error("the agent refused: {0}")]
    Refused(String),
}

/// One thing an observing reader hears.
#[derive(Debug)]
pub enum ObserveMessage {
    /// An event, and its line as it came.
    Event(Box<Event>, String),
    /// Events that were dropped because we were too slow.
    Lost(u64),
}

/// A stream of events.
pub struct Observation {
    lines: Lines<BufReader<OwnedReadHalf>>,
    /// Held: when it closes, the agent knows that we have left.
    _writer: OwnedWriteHalf,
}

/// Asks how the agent is.
pub async fn status(path: &Path) -> Result<AgentStatus, ClientError> {
    let mut observation = ask(path, &SocketRequest::Status).await?;
    let line = timeout(PATIENCE, observation.lines.next_line()).await.map_err(|_| ClientError::Silent)?;
    let line = line.map_err(ClientError::Talk)?.ok_or(ClientError::Silent)?;
    refused(&line)?;
    serde_json::from_str(&line).map_err(ClientError::Understand)
}

/// Asks for events.
pub async fn observe(path: &Path, follow: bool, last: usize, filter: Filter) -> Result<Observation, ClientError> {
    ask(path, &SocketRequest::Observe { follow, last, filter }).await
}

impl Observation {
    /// The next thing; `None` at the end. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Option<ObserveMessage>, ClientError> {
        let Some(line) = self.lines.next_line().await.map_err(ClientError::Talk)? else { return Ok(None) };
        if let Ok(Notice::Lost { count }) = serde_json::from_str(&line) {
            return Ok(Some(ObserveMessage::Lost(count)));
        }
        refused(&line)?;
        let event = serde_json::from_str(&line).map_err(ClientError::Understand)?;
        Ok(Some(ObserveMessage::Event(Box::new(event), line)))
    }
}

async fn ask(path: &Path, request: &SocketRequest) -> Result<Observation, ClientError> {
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
