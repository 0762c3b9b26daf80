//! One connection to a runtime: registers, answers, and holds what is to be held.
//!
//! Knows the protocol's order and no policy. No answer to a sandbox is ever an error, because that would
//! be the end of the pod: the runtime hears "go on", sooner or later.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::{DecodeError, Message as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::hold::{Gate, Sandbox};
use super::message::{
    Configure, PLUGIN_SERVICE, PodSandbox, RUN_POD_SANDBOX, RUNTIME_SERVICE, Register, Request, Response,
    RunPodSandbox, StateChange, Status, Subscription, Synchronize, Synchronized,
};
use super::wire::{Conn, Decoder, Kind, Message, WireError};

/// Version of the protocol as it is spoken here.
const NRI_VERSION: &str = "v0.12.0";
/// After all others: whoever fails a sandbox shall do so before it is held.
const INDEX: &str = "99";
/// The runtime takes plugins one after the other, and gives each five seconds and then two.
const INTRODUCTION: Duration = Duration::from_secs(15);
/// The first and only call of ours.
const REGISTRATION: u32 = 1;
/// gRPC's UNIMPLEMENTED.
const UNIMPLEMENTED: i32 = 12;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum NriError {
    /// Nobody listens.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The connection broke.
    #[error("the connection broke")]
    Talk(#[source] io::Error),
    /// The runtime ended it.
    #[error("the runtime closed the connection")]
    Closed,
    /// It does not take us as a plugin.
    #[error("the runtime refused the registration: {0}")]
    Refused(String),
    /// It does not introduce itself.
    #[error("the runtime was silent for {} s", INTRODUCTION.as_secs())]
    Silent,
    /// What it says is no NRI.
    #[error("the runtime says what is no NRI")]
    Wire(#[from] WireError),
    /// What it asks cannot be read.
    #[error("the runtime asks what cannot be read")]
    Request(#[from] DecodeError),
}

/// What to do with a request.
enum Turn {
    Answer(Vec<u8>),
    Configured(Configure),
    Hold(Sandbox),
    Unknown,
}

/// Takes part until the connection ends; `connected` is called once the runtime has accepted us.
///
/// # Errors
/// Always, with why it ended.
pub async fn run<S>(stream: S, gate: &Arc<Gate>, connected: impl FnMut(&Configure)) -> Result<Infallible, NriError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut session = Session {
        stream,
        gate: Arc::clone(gate),
        decoder: Decoder::default(),
        holds: JoinSet::new(),
        introduced_by: Some(Instant::now() + INTRODUCTION),
        connected,
    };
    session.register().await?;
    loop {
        while let Some(message) = session.decoder.next()? {
            session.take(message).await?;
        }
        session.wait().await?;
    }
}

struct Session<S, F> {
    stream: S,
    gate: Arc<Gate>,
    decoder: Decoder,
    /// Streams of sandboxes that are held.
    holds: JoinSet<u32>,
    introduced_by: Option<Instant>,
    connected: F,
}

impl<S: AsyncRead + AsyncWrite + Unpin, F: FnMut(&Configure)> Session<S, F> {
    async fn register(&mut self) -> Result<(), NriError> {
        let register =
            Register { plugin_name: "bulkhead".into(), plugin_idx: INDEX.into(), nri_version: NRI_VERSION.into() };
        let request = Request {
            service: RUNTIME_SERVICE.into(),
            method: "RegisterPlugin".into(),
            payload: register.encode_to_vec().into(),
            timeout_nano: i64::try_from(INTRODUCTION.as_nanos()).unwrap_or_default(),
        };
        let payload = request.encode_to_vec().into();
        self.send(Message { conn: Conn::Runtime, stream: REGISTRATION, kind: Kind::Request, payload }).await
    }

    /// Waits for bytes, or for a sandbox whose time has come.
    async fn wait(&mut self) -> Result<(), NriError> {
        let introduced_by = self.introduced_by;
        let introduction = async {
            match introduced_by {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = self.stream.read_buf(self.decoder.trunk()) => match read.map_err(NriError::Talk)? {
                0 => Err(NriError::Closed),
                _ => Ok(()),
            },
            Some(held) = self.holds.join_next() => match held {
                Ok(stream) => self.answer(stream, Response::default()).await,
                // A hold that panicked: its sandbox waits for the runtime's own limit.
                Err(_) => Ok(()),
            },
            () = introduction => Err(NriError::Silent),
        }
    }

    async fn take(&mut self, message: Message) -> Result<(), NriError> {
        match (message.conn, message.kind) {
            (Conn::Plugin, Kind::Request) => self.serve(message).await,
            (Conn::Runtime, Kind::Response) if message.stream == REGISTRATION => registered(message.payload),
            // Answers to what nobody asked.
            _ => Ok(()),
        }
    }

    async fn serve(&mut self, message: Message) -> Result<(), NriError> {
        let request = Request::decode(message.payload)?;
        let payload = match turn(&request)? {
            Turn::Answer(payload) => payload,
            Turn::Configured(runtime) => {
                self.introduced_by = None;
                (self.connected)(&runtime);
                Subscription { events: 1 << (RUN_POD_SANDBOX - 1) }.encode_to_vec()
            }
            Turn::Hold(sandbox) => {
                self.hold(message.stream, sandbox, request.timeout_nano);
                return Ok(());
            }
            Turn::Unknown => {
                let status = Status { code: UNIMPLEMENTED, message: "not a method of this plugin".into() };
                return self.answer(message.stream, Response { status: Some(status), ..Response::default() }).await;
            }
        };
        self.answer(message.stream, Response { payload: payload.into(), ..Response::default() }).await
    }

    fn hold(&mut self, stream: u32, sandbox: Sandbox, timeout_nano: i64) {
        let gate = Arc::clone(&self.gate);
        let patience = u64::try_from(timeout_nano).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos);
        self.holds.spawn(async move {
            gate.hold(&sandbox, patience).await;
            stream
        });
    }

    async fn answer(&mut self, stream: u32, response: Response) -> Result<(), NriError> {
        let payload = response.encode_to_vec().into();
        self.send(Message { conn: Conn::Plugin, stream, kind: Kind::Response, payload }).await
    }

    async fn send(&mut self, message: Message) -> Result<(), NriError> {
        let sent = timeout_at(Instant::now() + INTRODUCTION, self.stream.write_all(&message.encode())).await;
        sent.map_err(|_| NriError::Silent)?.map_err(NriError::Talk)
    }
}

fn registered(payload: Bytes) -> Result<(), NriError> {
    match Response::decode(payload)?.status {
        Some(status) if status.code != 0 => Err(NriError::Refused(status.message)),
        _ => Ok(()),
    }
}

fn turn(request: &Request) -> Result<Turn, DecodeError> {
    let payload = request.payload.clone();
    if request.service != PLUGIN_SERVICE {
        return Ok(Turn::Unknown);
    }
    Ok(match request.method.as_str() {
        "Configure" => Turn::Configured(Configure::decode(payload)?),
        "Synchronize" => Turn::Answer(Synchronized { more: Synchronize::decode(payload)?.more }.encode_to_vec()),
        "RunPodSandbox" => new_sandbox(RunPodSandbox::decode(payload)?.pod),
        // Until NRI 0.11 this was how a new sandbox was told.
        "StateChange" => match StateChange::decode(payload)? {
            change if change.event == RUN_POD_SANDBOX => new_sandbox(change.pod),
            _ => Turn::Answer(Vec::new()),
        },
        "Shutdown" => Turn::Answer(Vec::new()),
        _ => Turn::Unknown,
    })
}

/// Who is in the node's network is not held: there is no interface to wait for.
fn new_sandbox(pod: Option<PodSandbox>) -> Turn {
    pod.as_ref().and_then(Sandbox::of).map_or(Turn::Answer(Vec::new()), Turn::Hold)
}
