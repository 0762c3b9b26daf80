//! Tests with a simulated runtime: its messages, the time of each answer, and the end of either side.
//!
//! All but one test run in memory on paused time, so that no result depends on how busy the machine is. `wire/tests.rs`
//! checks the bytes.

use bytes::Bytes;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use std::sync::Mutex;

use super::message::{
    ConfigureRequest, ConfigureResponse, LinuxNamespace, LinuxPodSandbox, PLUGIN_SERVICE, PodSandbox,
    RegisterPluginRequest, RunPodSandboxRequest, StateChangeEvent, SynchronizeRequest, SynchronizeResponse,
    TtrpcRequest, TtrpcResponse, TtrpcStatus,
};
use super::wire::{Conn, Decoder, TtrpcKind, TtrpcMessage, WireError};
use super::*;
use crate::metrics::Recorder;
use crate::reconcile::Snapshot;
use crate::reconcile::snapshot::{EndpointCondition, EndpointView};
use crate::testing::CapturedLog;
use policy::model::endpoints::EndpointStatus;
use policy::model::input::{Attachment, Endpoint, EndpointKey, HostPort};
use policy::model::name::Name;
use policy::model::pod::Pod;

/// How long an event that must happen may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a test waits for an event that must not happen.
const A_WHILE: Duration = Duration::from_millis(60);

/// The pod `shop/web-0` in this network namespace.
fn pod(netns: &str) -> PodSandbox {
    let namespace = |kind: &str, path: String| LinuxNamespace { kind: kind.into(), path };
    let namespaces = vec![namespace("pid", String::new()), namespace("network", format!("/var/run/netns/{netns}"))];
    let linux = Some(LinuxPodSandbox { namespaces });
    PodSandbox { id: "s1".into(), name: "web-0".into(), uid: "u1".into(), namespace: "shop".into(), linux }
}

fn in_the_node_s_network() -> PodSandbox {
    PodSandbox { linux: Some(LinuxPodSandbox::default()), ..pod("") }
}

/// A snapshot that shows the pod `shop/web-0` with this UID and this network namespace.
fn snapshot(uid: &str, netns: &str, condition: EndpointCondition) -> Arc<Snapshot> {
    let key = EndpointKey { namespace: "shop".into(), name: "web-0".into() };
    let local = Some(Attachment { port: HostPort::Netns(netns.into()), ..Attachment::default() });
    let endpoint = Endpoint { key: key.clone(), uid: uid.into(), local, ..Endpoint::default() };
    let pod = Arc::new(Pod::new(endpoint, Name::from("shop"), None));
    let status = EndpointStatus { pod, tenant: Name::from("acme"), ifindex: Some(7), troubles: Vec::new() };
    let endpoints = Arc::new([(key, EndpointView { status, condition, error: None })].into());
    Arc::new(Snapshot { ready: true, endpoints, ..Snapshot::default() })
}

fn no_pods() -> Arc<Snapshot> {
    Arc::new(Snapshot { ready: true, ..Snapshot::default() })
}

/// A pipe holds this many bytes.
const BUFFER: usize = 1 << 16;

/// The runtime's end of a connection.
struct Runtime<S> {
    stream: S,
    decoder: Decoder,
    calls: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Runtime<S> {
    fn new(stream: S) -> Self {
        Self { stream, decoder: Decoder::default(), calls: 0 }
    }

    async fn read(&mut self) -> TtrpcMessage {
        loop {
            if let Some(message) = self.decoder.next().expect("it is NRI") {
                return message;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(self.decoder.incoming()))
                .await
                .expect("no message of the plugin");
            assert_ne!(read.expect("a connection"), 0, "the plugin closed the connection");
        }
    }

    async fn send(&mut self, message: TtrpcMessage) {
        self.stream.write_all(&message.encode()).await.expect("a connection");
    }

    /// Takes the plugin's registration and answers it.
    async fn registered(&mut self, response: TtrpcResponse) -> RegisterPluginRequest {
        let message = self.read().await;
        assert_eq!((message.conn, message.kind, message.stream), (Conn::Runtime, TtrpcKind::Request, 1));
        let request = TtrpcRequest::decode(message.payload).expect("a request");
        assert_eq!(request.method, "RegisterPlugin");
        let payload = response.encode_to_vec().into();
        self.send(TtrpcMessage { conn: Conn::Runtime, stream: 1, kind: TtrpcKind::Response, payload }).await;
        RegisterPluginRequest::decode(request.payload).expect("a registration")
    }

    async fn call(&mut self, method: &str, payload: &impl prost::Message, patience: Duration) -> u32 {
        let request = TtrpcRequest {
            service: PLUGIN_SERVICE.into(),
            method: method.into(),
            payload: payload.encode_to_vec().into(),
            timeout_nano: i64::try_from(patience.as_nanos()).expect("short"),
        };
        self.calls += 2;
        let payload = request.encode_to_vec().into();
        self.send(TtrpcMessage { conn: Conn::Plugin, stream: self.calls - 1, kind: TtrpcKind::Request, payload }).await;
        self.calls - 1
    }

    async fn run(&mut self, pod: PodSandbox) -> u32 {
        self.call("RunPodSandbox", &RunPodSandboxRequest { pod: Some(pod) }, Duration::from_secs(2)).await
    }

    /// The next answer, and the number of its call.
    async fn answer(&mut self) -> (u32, TtrpcResponse) {
        let message = self.read().await;
        assert_eq!((message.conn, message.kind), (Conn::Plugin, TtrpcKind::Response));
        (message.stream, TtrpcResponse::decode(message.payload).expect("a response"))
    }

    /// The next answer lets the sandbox continue: it is empty and without an error.
    async fn continues(&mut self) -> u32 {
        let (stream, response) = self.answer().await;
        assert_eq!(response, TtrpcResponse::default());
        stream
    }

    async fn gets_no_answer(&mut self) {
        let answer = timeout(A_WHILE, self.answer()).await;
        assert!(answer.is_err(), "answered too early: {answer:?}");
    }

    async fn configured(&mut self) -> ConfigureResponse {
        self.call("Configure", &ConfigureRequest::default(), PATIENCE).await;
        ConfigureResponse::decode(self.answer().await.1.payload).expect("a subscription")
    }

    /// Makes all calls that come before the first sandbox.
    async fn introduced(mut self) -> Self {
        self.registered(TtrpcResponse::default()).await;
        self.configured().await;
        self.call("Synchronize", &SynchronizeRequest { more: false }, PATIENCE).await;
        self.continues().await;
        self
    }
}

/// A connected plugin, its snapshots, and its counters.
struct Plugin {
    snapshots: watch::Sender<Arc<Snapshot>>,
    recorder: Arc<Recorder>,
    ended: JoinHandle<NriError>,
}

impl Plugin {
    fn start() -> (Self, Runtime<DuplexStream>) {
        let (near, far) = tokio::io::duplex(BUFFER);
        let (snapshots, seen) = watch::channel(no_pods());
        let recorder = Arc::new(Recorder::default());
        let gate = Arc::new(Gate::new(seen, Arc::clone(&recorder)));
        let ended = tokio::spawn(async move {
            let Err(error) = session::run(near, &gate, |_| ()).await;
            error
        });
        (Self { snapshots, recorder, ended }, Runtime::new(far))
    }

    async fn introduced() -> (Self, Runtime<DuplexStream>) {
        let (plugin, runtime) = Self::start();
        (plugin, runtime.introduced().await)
    }

    async fn error(self) -> NriError {
        timeout(PATIENCE, self.ended).await.expect("the connection did not end").expect("no panic")
    }

    /// How many holds ended with this result.
    fn holds(&self, result: &str) -> u64 {
        let text = crate::metrics::scrape::text(Default::default(), &self.recorder);
        let wanted = format!("bulkhead_nri_hold_seconds_count{{result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&wanted)).map_or(0, |count| count.parse().expect("a number"))
    }
}

#[tokio::test(start_paused = true)]
async fn it_registers_last_and_subscribes_to_new_sandboxes_only() {
    let (_plugin, mut runtime) = Plugin::start();
    let register = runtime.registered(TtrpcResponse::default()).await;
    assert_eq!((&*register.plugin_name, &*register.plugin_idx), ("bulkhead", "99"));
    assert_eq!(runtime.configured().await, ConfigureResponse { events: 1 });
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_is_held_until_it_is_enforced_and_not_longer() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    let calls = runtime.run(pod("cni-1")).await;
    runtime.gets_no_answer().await;
    plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Pending));
    runtime.gets_no_answer().await;
    plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Enforced));
    assert_eq!(runtime.continues().await, calls);
    assert_eq!((plugin.holds("enforced"), plugin.holds("timed_out")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_is_enforced_already_is_not_held() {
    for condition in [
        EndpointCondition::Enforced,
        EndpointCondition::Audited,
        EndpointCondition::Unassigned,
        EndpointCondition::Shared,
    ] {
        let (plugin, mut runtime) = Plugin::introduced().await;
        plugin.snapshots.send_replace(snapshot("u1", "cni-1", condition));
        let begun = Instant::now();
        runtime.run(pod("cni-1")).await;
        runtime.continues().await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "{condition:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn neither_an_earlier_pod_of_the_name_nor_an_earlier_sandbox_of_the_pod_counts() {
    for (uid, netns) in [("u0", "cni-1"), ("u1", "cni-0")] {
        let (plugin, mut runtime) = Plugin::introduced().await;
        plugin.snapshots.send_replace(snapshot(uid, netns, EndpointCondition::Enforced));
        runtime.run(pod("cni-1")).await;
        runtime.gets_no_answer().await;
        plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Enforced));
        runtime.continues().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_is_never_enforced_continues_after_half_of_the_runtimes_limit_and_is_counted() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Error));
    let begun = Instant::now();
    let patience = Duration::from_millis(400);
    runtime.call("RunPodSandbox", &RunPodSandboxRequest { pod: Some(pod("cni-1")) }, patience).await;
    runtime.continues().await;
    let held = begun.elapsed();
    assert!(held >= patience / 2 && held < patience, "{held:?}");
    assert_eq!((plugin.holds("enforced"), plugin.holds("timed_out")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_node_where_nothing_can_be_enforced_starts_many_pods_in_little_time() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    let begun = Instant::now();
    for _ in 0..20 {
        runtime.run(pod("cni-1")).await;
        runtime.continues().await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // A hold that succeeds restores the full limit.
    plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Enforced));
    runtime.run(pod("cni-1")).await;
    runtime.continues().await;
    let begun = Instant::now();
    runtime.run(pod("cni-2")).await;
    runtime.continues().await;
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_pod_in_the_node_s_network_continues_at_once_and_is_not_counted() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    for pod in [in_the_node_s_network(), PodSandbox { linux: None, ..pod("") }] {
        runtime.run(pod).await;
        runtime.continues().await;
    }
    assert_eq!((plugin.holds("enforced"), plugin.holds("timed_out")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_older_runtime_s_sandboxes_are_held_too() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    let change = |event| StateChangeEvent { event, pod: Some(pod("cni-1")) };
    runtime.call("StateChange", &change(2), PATIENCE).await;
    runtime.continues().await;
    let calls = runtime.call("StateChange", &change(1), PATIENCE).await;
    runtime.gets_no_answer().await;
    plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Enforced));
    assert_eq!(runtime.continues().await, calls);
}

#[tokio::test(start_paused = true)]
async fn a_held_sandbox_does_not_delay_the_next() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    let first = runtime.run(pod("cni-1")).await;
    let second = runtime.run(pod("cni-2")).await;
    plugin.snapshots.send_replace(snapshot("u1", "cni-2", EndpointCondition::Enforced));
    assert_eq!(runtime.continues().await, second);
    plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Enforced));
    assert_eq!(runtime.continues().await, first);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_call_is_refused_and_the_next_call_answered() {
    let (_plugin, mut runtime) = Plugin::introduced().await;
    runtime.call("ValidateContainerAdjustment", &SynchronizeRequest::default(), PATIENCE).await;
    assert_eq!(runtime.answer().await.1.status.map(|status| status.code), Some(12));
    runtime.call("Synchronize", &SynchronizeRequest { more: true }, PATIENCE).await;
    let (_, response) = runtime.answer().await;
    assert_eq!(SynchronizeResponse::decode(response.payload), Ok(SynchronizeResponse { more: true }));
    runtime.call("Shutdown", &SynchronizeRequest::default(), PATIENCE).await;
    runtime.continues().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_registration_ends_the_connection_with_the_reason() {
    let (plugin, mut runtime) = Plugin::start();
    let status = TtrpcStatus { code: 2, message: "invalid plugin name".into() };
    runtime.registered(TtrpcResponse { status: Some(status), ..TtrpcResponse::default() }).await;
    assert!(matches!(plugin.error().await, NriError::Refused(why) if why == "invalid plugin name"));
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_nri_end_the_connection() {
    let ends = |bytes: &'static [u8]| async move {
        let (plugin, mut runtime) = Plugin::introduced().await;
        runtime.stream.write_all(bytes).await.expect("a connection");
        drop(runtime);
        plugin.error().await
    };
    let oversized = ends(b"\0\0\0\x01\xff\xff\xff\xff").await;
    assert!(matches!(oversized, NriError::Wire(WireError::Oversized(0xffff_ffff))), "{oversized}");
    let streaming = ends(b"\0\0\0\x01\0\0\0\x0a\0\0\0\0\0\0\0\x01\x03\0").await;
    assert!(matches!(streaming, NriError::Wire(WireError::Kind(3))), "{streaming}");
    let noise = ends(b"\0\0\0\x01\0\0\0\x0b\0\0\0\x01\0\0\0\x01\x01\0\xff").await;
    assert!(matches!(noise, NriError::Request(_)), "{noise}");
    assert!(matches!(ends(b"\0\0\0\x01\0\0").await, NriError::Closed));
}

async fn becomes(state: &mut watch::Receiver<NriState>, wanted: NriState) {
    let seen = timeout(PATIENCE, state.wait_for(|nri| *nri == wanted)).await;
    drop(seen.unwrap_or_else(|_| panic!("never {wanted:?}")).expect("the plugin goes on"));
}

/// Accepts the connection of a plugin within its longest pause.
async fn accept(connections: &mut mpsc::UnboundedReceiver<DuplexStream>) -> Runtime<DuplexStream> {
    Runtime::new(timeout(PATIENCE, connections.recv()).await.expect("no connection").expect("the plugin goes on"))
}

/// A socket in memory, at which a runtime may or may not listen.
#[derive(Clone, Default)]
struct Socket(Arc<Mutex<Option<mpsc::UnboundedSender<DuplexStream>>>>);

impl Socket {
    /// Listens from now on, until the receiver is dropped.
    fn listen(&self) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (sender, connections) = mpsc::unbounded_channel();
        *self.0.lock().expect("no panic") = Some(sender);
        connections
    }

    fn connect(&self) -> io::Result<DuplexStream> {
        let listener = self.0.lock().expect("no panic");
        let (near, far) = tokio::io::duplex(BUFFER);
        listener.as_ref().ok_or(io::ErrorKind::NotFound)?.send(far).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(near)
    }

    /// Keeps a plugin connected to this socket.
    fn follow(&self, snapshots: watch::Receiver<Arc<Snapshot>>, state: watch::Sender<NriState>) -> JoinHandle<()> {
        let (socket, gate) = (self.clone(), Gate::new(snapshots, Arc::default()));
        tokio::spawn(async move {
            keep_connected(Path::new("nri.sock"), || std::future::ready(socket.connect()), gate, state).await;
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_runtime_is_warned_of_once_and_joined_when_it_comes_or_comes_back() {
    let (log, _guard) = CapturedLog::start();
    let socket = Socket::default();
    let (snapshots, seen) = watch::channel(no_pods());
    let (sender, mut state) = watch::channel(NriState::default());
    let followed = socket.follow(seen, sender);
    becomes(&mut state, NriState::Waiting).await;
    // Three attempts.
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(log.times("NRI is not connected"), 1);

    let mut connections = socket.listen();
    let runtime = accept(&mut connections).await.introduced().await;
    becomes(&mut state, NriState::Connected).await;
    assert_eq!(log.times("NRI connected: each new pod is held"), 1);

    // The runtime restarts.
    drop((runtime, connections));
    becomes(&mut state, NriState::Waiting).await;
    let mut connections = socket.listen();
    let mut runtime = accept(&mut connections).await.introduced().await;
    becomes(&mut state, NriState::Connected).await;
    assert_eq!(log.times("NRI is not connected"), 2, "a lost connection is warned of again");
    runtime.run(pod("cni-1")).await;
    snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Enforced));
    runtime.continues().await;
    followed.abort();
}

#[tokio::test(start_paused = true)]
async fn no_pod_is_held_by_an_agent_that_knows_nothing_yet() {
    let socket = Socket::default();
    let mut connections = socket.listen();
    let (snapshots, seen) = watch::channel(Arc::<Snapshot>::default());
    let (sender, _state) = watch::channel(NriState::default());
    let followed = socket.follow(seen, sender);
    assert!(timeout(A_WHILE, connections.recv()).await.is_err(), "it registers too early");
    snapshots.send_replace(no_pods());
    accept(&mut connections).await.introduced().await;
    followed.abort();
}

#[tokio::test]
async fn the_socket_at_the_path_is_joined() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("nri.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let (snapshots, seen) = watch::channel(no_pods());
    let (sender, _state) = watch::channel(NriState::default());
    let followed = tokio::spawn(follow(socket, Gate::new(seen, Arc::default()), sender));
    let (stream, _) = listener.accept().await.expect("a connection");
    let mut runtime = Runtime::new(stream).introduced().await;
    runtime.run(pod("cni-1")).await;
    snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Enforced));
    runtime.continues().await;
    followed.abort();
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_sandbox_ends_the_connection_and_not_the_pod() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    /// A message whose pod is a number.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Malformed {
        #[prost(int32, tag = "1")]
        pod: i32,
    }
    runtime.call("RunPodSandbox", &Malformed { pod: 7 }, PATIENCE).await;
    // A runtime continues without a plugin that has closed its connection.
    let mut rest = Bytes::new();
    while let Ok(read) = runtime.stream.read_buf(runtime.decoder.incoming()).await {
        if read == 0 {
            break;
        }
        rest = Bytes::copy_from_slice(runtime.decoder.incoming());
    }
    assert!(rest.is_empty(), "the plugin answered: {rest:?}");
    assert!(matches!(plugin.error().await, NriError::Request(_)));
}
