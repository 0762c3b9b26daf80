//! One connection to a runtime: registers the plugin, answers calls, and holds new sandboxes.
//!
//! Knows the order of the protocol and no policy. The answer for a sandbox is never an error, because an error would
//! end the pod: the runtime always gets "continue", at once or after the hold.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::{DecodeError, Message as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::hold::{Gate, HeldSandbox};
use super::message::{
    ConfigureRequest, ConfigureResponse, PLUGIN_SERVICE, PodSandbox, RUN_POD_SANDBOX, RUNTIME_SERVICE,
    RegisterPluginRequest, RunPodSandboxRequest, StateChangeEvent, SynchronizeRequest, SynchronizeResponse,
    TtrpcRequest, TtrpcResponse, TtrpcStatus,
};
use super::wire::{Conn, Decoder, TtrpcKind, TtrpcMessage, WireError};

/// The version of NRI that this module implements.
const NRI_VERSION: &str = "v0.12.0";
/// The runtime calls this plugin last, so that another plugin can refuse a sandbox before it is held.
const INDEX: &str = "99";
/// How long the runtime may take until its first call. It starts one plugin after the other and allows each up to seven
/// seconds.
const INTRODUCTION: Duration = Duration::from_secs(15);
/// The number of the plugin's only call.
const REGISTRATION: u32 = 1;
/// The code `UNIMPLEMENTED` of gRPC.
const UNIMPLEMENTED: i32 = 12;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum NriError {
    /// The socket accepts no connection.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// Reading or writing failed.
    #[error("the connection failed")]
    Connection(#[source] io::Error),
    /// The runtime closed it.
    #[error("the runtime closed the connection")]
    Closed,
    /// The runtime does not accept the plugin.
    #[error("the runtime refused the registration: {0}")]
    Refused(String),
    /// The runtime did not call in time.
    #[error("the runtime sent nothing for {} s", INTRODUCTION.as_secs())]
    Silent,
    /// The bytes are not NRI.
    #[error("the runtime sent bytes that are not NRI")]
    Wire(#[from] WireError),
    /// A call cannot be decoded.
    #[error("the runtime sent a call that cannot be decoded")]
    Request(#[from] DecodeError),
}

/// What the session does with a call.
enum CallAction {
    Answer(Vec<u8>),
    Configured(ConfigureRequest),
    Hold(HeldSandbox),
    Unknown,
}

/// Serves the connection until it ends. Calls `connected` when the runtime has accepted the plugin.
///
/// # Errors
/// Always: the error says why the connection ended.
pub(super) async fn run<S>(
    stream: S,
    gate: &Arc<Gate>,
    connected: impl FnMut(&ConfigureRequest),
) -> Result<Infallible, NriError>
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
    /// The call numbers of the sandboxes that are held.
    holds: JoinSet<u32>,
    introduced_by: Option<Instant>,
    connected: F,
}

impl<S: AsyncRead + AsyncWrite + Unpin, F: FnMut(&ConfigureRequest)> Session<S, F> {
    async fn register(&mut self) -> Result<(), NriError> {
        let register = RegisterPluginRequest {
            plugin_name: "bulkhead".into(),
            plugin_idx: INDEX.into(),
            nri_version: NRI_VERSION.into(),
        };
        let request = TtrpcRequest {
            service: RUNTIME_SERVICE.into(),
            method: "RegisterPlugin".into(),
            payload: register.encode_to_vec().into(),
            timeout_nano: i64::try_from(INTRODUCTION.as_nanos()).unwrap_or_default(),
        };
        let payload = request.encode_to_vec().into();
        self.send(TtrpcMessage { conn: Conn::Runtime, stream: REGISTRATION, kind: TtrpcKind::Request, payload }).await
    }

    /// Waits until bytes arrive or a hold ends.
    async fn wait(&mut self) -> Result<(), NriError> {
        let introduced_by = self.introduced_by;
        let introduction = async {
            match introduced_by {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = self.stream.read_buf(self.decoder.incoming()) => match read.map_err(NriError::Connection)? {
                0 => Err(NriError::Closed),
                _ => Ok(()),
            },
            Some(held) = self.holds.join_next() => match held {
                Ok(stream) => self.answer(stream, TtrpcResponse::default()).await,
                // The hold panicked. Its sandbox starts after the runtime's own limit.
                Err(_) => Ok(()),
            },
            () = introduction => Err(NriError::Silent),
        }
    }

    async fn take(&mut self, message: TtrpcMessage) -> Result<(), NriError> {
        match (message.conn, message.kind) {
            (Conn::Plugin, TtrpcKind::Request) => self.serve(message).await,
            (Conn::Runtime, TtrpcKind::Response) if message.stream == REGISTRATION => registered(message.payload),
            // Answers to no call of this plugin.
            _ => Ok(()),
        }
    }

    async fn serve(&mut self, message: TtrpcMessage) -> Result<(), NriError> {
        let request = TtrpcRequest::decode(message.payload)?;
        let payload = match action(&request)? {
            CallAction::Answer(payload) => payload,
            CallAction::Configured(runtime) => {
                self.introduced_by = None;
                (self.connected)(&runtime);
                ConfigureResponse { events: 1 << (RUN_POD_SANDBOX - 1) }.encode_to_vec()
            }
            CallAction::Hold(sandbox) => {
                self.hold(message.stream, sandbox, request.timeout_nano);
                return Ok(());
            }
            CallAction::Unknown => {
                let status = TtrpcStatus { code: UNIMPLEMENTED, message: "this plugin has no such method".into() };
                return self
                    .answer(message.stream, TtrpcResponse { status: Some(status), ..TtrpcResponse::default() })
                    .await;
            }
        };
        self.answer(message.stream, TtrpcResponse { payload: payload.into(), ..TtrpcResponse::default() }).await
    }

    fn hold(&mut self, stream: u32, sandbox: HeldSandbox, timeout_nano: i64) {
        let gate = Arc::clone(&self.gate);
        let patience = u64::try_from(timeout_nano).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos);
        self.holds.spawn(async move {
            gate.hold(&sandbox, patience).await;
            stream
        });
    }

    async fn answer(&mut self, stream: u32, response: TtrpcResponse) -> Result<(), NriError> {
        let payload = response.encode_to_vec().into();
        self.send(TtrpcMessage { conn: Conn::Plugin, stream, kind: TtrpcKind::Response, payload }).await
    }

    async fn send(&mut self, message: TtrpcMessage) -> Result<(), NriError> {
        let sent = timeout_at(Instant::now() + INTRODUCTION, self.stream.write_all(&message.encode())).await;
        sent.map_err(|_| NriError::Silent)?.map_err(NriError::Connection)
    }
}

fn registered(payload: Bytes) -> Result<(), NriError> {
    match TtrpcResponse::decode(payload)?.status {
        Some(status) if status.code != 0 => Err(NriError::Refused(status.message)),
        _ => Ok(()),
    }
}

fn action(request: &TtrpcRequest) -> Result<CallAction, DecodeError> {
    let payload = request.payload.clone();
    if request.service != PLUGIN_SERVICE {
        return Ok(CallAction::Unknown);
    }
    Ok(match request.method.as_str() {
        "Configure" => CallAction::Configured(ConfigureRequest::decode(payload)?),
        "Synchronize" => {
            CallAction::Answer(SynchronizeResponse { more: SynchronizeRequest::decode(payload)?.more }.encode_to_vec())
        }
        "RunPodSandbox" => new_sandbox(RunPodSandboxRequest::decode(payload)?.pod),
        // Up to NRI 0.11, runtimes announce a new sandbox with this event.
        "StateChange" => match StateChangeEvent::decode(payload)? {
            change if change.event == RUN_POD_SANDBOX => new_sandbox(change.pod),
            _ => CallAction::Answer(Vec::new()),
        },
        "Shutdown" => CallAction::Answer(Vec::new()),
        _ => CallAction::Unknown,
    })
}

/// A pod in the node's network is not held: it has no interface to wait for.
fn new_sandbox(pod: Option<PodSandbox>) -> CallAction {
    pod.as_ref().and_then(HeldSandbox::of).map_or(CallAction::Answer(Vec::new()), CallAction::Hold)
}
