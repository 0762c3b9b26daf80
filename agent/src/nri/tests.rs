//! A runtime played over a Unix socket: what it asks, when it is answered, and what becomes of it when one
//! of the two is gone. The bytes themselves are checked in `wire/tests.rs`.

use std::io::Write;
use std::sync::Mutex;

use bytes::Bytes;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::message::{
    Configure, LinuxNamespace, LinuxPodSandbox, PLUGIN_SERVICE, PodSandbox, Register, Request, Response, RunPodSandbox,
    StateChange, Subscription, Synchronize, Synchronized,
};
use super::wire::{Conn, Decoder, Kind, Message, WireError};
use super::*;
use crate::metrics::Recorder;
use crate::reconcile::Snapshot;
use crate::reconcile::snapshot::{EndpointCondition, EndpointView};
use policy::model::endpoints::Standing;
use policy::model::input::{Attachment, Endpoint, EndpointKey, HostPort};
use policy::model::pod::Pod;
use policy::model::word::Word;

/// Long enough for what must happen.
const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough to see that something does not happen.
const A_WHILE: Duration = Duration::from_millis(60);

/// The pod `shop/web-0` in this network namespace.
fn pod(netns: &str) -> PodSandbox {
    let space = |kind: &str, path: String| LinuxNamespace { kind: kind.into(), path };
    let namespaces = vec![space("pid", String::new()), space("network", format!("/var/run/netns/{netns}"))];
    let linux = Some(LinuxPodSandbox { namespaces });
    PodSandbox { id: "s1".into(), name: "web-0".into(), uid: "u1".into(), namespace: "shop".into(), linux }
}

fn in_the_node_s_network() -> PodSandbox {
    PodSandbox { linux: Some(LinuxPodSandbox::default()), ..pod("") }
}

/// What the loop says of the pod `shop/web-0` of this UID in this network namespace.
fn snapshot(uid: &str, netns: &str, condition: EndpointCondition) -> Arc<Snapshot> {
    let key = EndpointKey { namespace: "shop".into(), name: "web-0".into() };
    let local = Some(Attachment { port: HostPort::Netns(netns.into()), ..Attachment::default() });
    let endpoint = Endpoint { key: key.clone(), uid: uid.into(), local, ..Endpoint::default() };
    let pod = Arc::new(Pod::new(endpoint, Word::from("shop"), None));
    let standing = Standing { pod, tenant: Word::from("acme"), ifindex: Some(7), troubles: Vec::new() };
    let endpoints = Arc::new([(key, EndpointView { standing, condition, error: None })].into());
    Arc::new(Snapshot { ready: true, endpoints, ..Snapshot::default() })
}

fn nobody() -> Arc<Snapshot> {
    Arc::new(Snapshot { ready: true, ..Snapshot::default() })
}

/// The other end.
struct Runtime {
    stream: UnixStream,
    decoder: Decoder,
    asked: u32,
}

impl Runtime {
    fn new(stream: UnixStream) -> Self {
        Self { stream, decoder: Decoder::default(), asked: 0 }
    }

    async fn read(&mut self) -> Message {
        loop {
            if let Some(message) = self.decoder.next().expect("it is NRI") {
                return message;
            }
            let read =
                timeout(PATIENCE, self.stream.read_buf(self.decoder.trunk())).await.expect("the plugin is silent");
            assert_ne!(read.expect("a connection"), 0, "the plugin closed the connection");
        }
    }

    async fn send(&mut self, message: Message) {
        self.stream.write_all(&message.encode()).await.expect("a connection");
    }

    /// Takes the plugin's registration and answers it.
    async fn registered(&mut self, response: Response) -> Register {
        let message = self.read().await;
        assert_eq!((message.conn, message.kind, message.stream), (Conn::Runtime, Kind::Request, 1));
        let request = Request::decode(message.payload).expect("a request");
        assert_eq!(request.method, "RegisterPlugin");
        let payload = response.encode_to_vec().into();
        self.send(Message { conn: Conn::Runtime, stream: 1, kind: Kind::Response, payload }).await;
        Register::decode(request.payload).expect("a registration")
    }

    async fn ask(&mut self, method: &str, payload: &impl prost::Message, patience: Duration) -> u32 {
        let request = Request {
            service: PLUGIN_SERVICE.into(),
            method: method.into(),
            payload: payload.encode_to_vec().into(),
            timeout_nano: i64::try_from(patience.as_nanos()).expect("short"),
        };
        self.asked += 2;
        let payload = request.encode_to_vec().into();
        self.send(Message { conn: Conn::Plugin, stream: self.asked - 1, kind: Kind::Request, payload }).await;
        self.asked - 1
    }

    async fn run(&mut self, pod: PodSandbox) -> u32 {
        self.ask("RunPodSandbox", &RunPodSandbox { pod: Some(pod) }, Duration::from_secs(2)).await
    }

    /// The next answer, and which request it is for.
    async fn answer(&mut self) -> (u32, Response) {
        let message = self.read().await;
        assert_eq!((message.conn, message.kind), (Conn::Plugin, Kind::Response));
        (message.stream, Response::decode(message.payload).expect("a response"))
    }

    /// "Go on" is an empty answer without an error.
    async fn goes_on(&mut self) -> u32 {
        let (stream, response) = self.answer().await;
        assert_eq!(response, Response::default());
        stream
    }

    async fn hears_nothing(&mut self) {
        let heard = timeout(A_WHILE, self.answer()).await;
        assert!(heard.is_err(), "answered too early: {heard:?}");
    }

    async fn configured(&mut self) -> Subscription {
        self.ask("Configure", &Configure::default(), PATIENCE).await;
        Subscription::decode(self.answer().await.1.payload).expect("a subscription")
    }

    /// All that comes before the first sandbox.
    async fn introduced(mut self) -> Self {
        self.registered(Response::default()).await;
        self.configured().await;
        self.ask("Synchronize", &Synchronize { more: false }, PATIENCE).await;
        self.goes_on().await;
        self
    }
}

/// A plugin that takes part, what it looks at, and what it tells.
struct Plugin {
    snapshots: watch::Sender<Arc<Snapshot>>,
    recorder: Arc<Recorder>,
    ended: JoinHandle<NriError>,
}

impl Plugin {
    fn start() -> (Self, Runtime) {
        let (near, far) = UnixStream::pair().expect("a pair");
        let (snapshots, seen) = watch::channel(nobody());
        let recorder = Arc::new(Recorder::default());
        let gate = Arc::new(Gate::new(seen, Arc::clone(&recorder)));
        let ended = tokio::spawn(async move {
            let Err(error) = session::run(near, &gate, |_| ()).await;
            error
        });
        (Self { snapshots, recorder, ended }, Runtime::new(far))
    }

    async fn introduced() -> (Self, Runtime) {
        let (plugin, runtime) = Self::start();
        (plugin, runtime.introduced().await)
    }

    async fn error(self) -> NriError {
        timeout(PATIENCE, self.ended).await.expect("it goes on").expect("no panic")
    }

    /// How many holds ended so.
    fn holds(&self, result: &str) -> u64 {
        let text = crate::metrics::scrape::text(Default::default(), &self.recorder);
        let wanted = format!("bulkhead_nri_hold_seconds_count{{result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&wanted)).map_or(0, |count| count.parse().expect("a number"))
    }
}

#[tokio::test]
async fn it_registers_last_of_all_and_asks_for_new_sandboxes_only() {
    let (_plugin, mut runtime) = Plugin::start();
    let register = runtime.registered(Response::default()).await;
    assert_eq!((&*register.plugin_name, &*register.plugin_idx), ("bulkhead", "99"));
    assert_eq!(runtime.configured().await, Subscription { events: 1 });
}

#[tokio::test]
async fn a_sandbox_is_held_until_it_is_enforced_and_no_longer() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    let asked = runtime.run(pod("cni-1")).await;
    runtime.hears_nothing().await;
    plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Pending));
    runtime.hears_nothing().await;
    plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Enforced));
    assert_eq!(runtime.goes_on().await, asked);
    assert_eq!((plugin.holds("enforced"), plugin.holds("timed_out")), (1, 0));
}

#[tokio::test]
async fn what_is_enforced_already_is_not_held() {
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
        runtime.goes_on().await;
        assert!(begun.elapsed() < Duration::from_millis(500), "{condition:?}");
    }
}

#[tokio::test]
async fn neither_an_earlier_pod_of_the_name_nor_an_earlier_sandbox_of_the_pod_counts() {
    for (uid, netns) in [("u0", "cni-1"), ("u1", "cni-0")] {
        let (plugin, mut runtime) = Plugin::introduced().await;
        plugin.snapshots.send_replace(snapshot(uid, netns, EndpointCondition::Enforced));
        runtime.run(pod("cni-1")).await;
        runtime.hears_nothing().await;
        plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Enforced));
        runtime.goes_on().await;
    }
}

#[tokio::test]
async fn what_is_never_enforced_is_let_go_within_half_of_what_the_runtime_waits_and_counted() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Error));
    let begun = Instant::now();
    let patience = Duration::from_millis(400);
    runtime.ask("RunPodSandbox", &RunPodSandbox { pod: Some(pod("cni-1")) }, patience).await;
    runtime.goes_on().await;
    let held = begun.elapsed();
    assert!(held >= patience / 2 && held < patience, "{held:?}");
    assert_eq!((plugin.holds("enforced"), plugin.holds("timed_out")), (0, 1));
}

#[tokio::test]
async fn a_node_where_nothing_can_be_enforced_starts_many_pods_in_little_time() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    let begun = Instant::now();
    for _ in 0..20 {
        runtime.run(pod("cni-1")).await;
        runtime.goes_on().await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // One that works, and the next is given its time again.
    plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Enforced));
    runtime.run(pod("cni-1")).await;
    runtime.goes_on().await;
    let begun = Instant::now();
    runtime.run(pod("cni-2")).await;
    runtime.goes_on().await;
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_pod_in_the_node_s_network_is_answered_at_once_and_not_counted() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    for pod in [in_the_node_s_network(), PodSandbox { linux: None, ..pod("") }] {
        runtime.run(pod).await;
        runtime.goes_on().await;
    }
    assert_eq!((plugin.holds("enforced"), plugin.holds("timed_out")), (0, 0));
}

#[tokio::test]
async fn an_older_runtime_s_sandboxes_are_held_too() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    let change = |event| StateChange { event, pod: Some(pod("cni-1")) };
    runtime.ask("StateChange", &change(2), PATIENCE).await;
    runtime.goes_on().await;
    let asked = runtime.ask("StateChange", &change(1), PATIENCE).await;
    runtime.hears_nothing().await;
    plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Enforced));
    assert_eq!(runtime.goes_on().await, asked);
}

#[tokio::test]
async fn one_that_waits_does_not_hold_up_the_next() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    let first = runtime.run(pod("cni-1")).await;
    let second = runtime.run(pod("cni-2")).await;
    plugin.snapshots.send_replace(snapshot("u1", "cni-2", EndpointCondition::Enforced));
    assert_eq!(runtime.goes_on().await, second);
    plugin.snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Enforced));
    assert_eq!(runtime.goes_on().await, first);
}

#[tokio::test]
async fn what_is_not_known_is_refused_and_the_next_request_answered() {
    let (_plugin, mut runtime) = Plugin::introduced().await;
    runtime.ask("ValidateContainerAdjustment", &Synchronize::default(), PATIENCE).await;
    assert_eq!(runtime.answer().await.1.status.map(|status| status.code), Some(12));
    runtime.ask("Synchronize", &Synchronize { more: true }, PATIENCE).await;
    let (_, response) = runtime.answer().await;
    assert_eq!(Synchronized::decode(response.payload), Ok(Synchronized { more: true }));
    runtime.ask("Shutdown", &Synchronize::default(), PATIENCE).await;
    runtime.goes_on().await;
}

#[tokio::test]
async fn a_runtime_that_refuses_is_understood() {
    let (plugin, mut runtime) = Plugin::start();
    let status = message::Status { code: 2, message: "invalid plugin name".into() };
    runtime.registered(Response { status: Some(status), ..Response::default() }).await;
    assert!(matches!(plugin.error().await, NriError::Refused(why) if why == "invalid plugin name"));
}

#[tokio::test]
async fn what_is_no_nri_ends_the_connection() {
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

/// What was logged while this lives.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn times(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).matches(text).count()
    }
}

async fn becomes(shown: &mut watch::Receiver<Nri>, wanted: Nri) {
    let seen = timeout(PATIENCE, shown.wait_for(|nri| *nri == wanted)).await;
    drop(seen.unwrap_or_else(|_| panic!("never {wanted:?}")).expect("it goes on"));
}

async fn accept(listener: &UnixListener) -> Runtime {
    Runtime::new(timeout(PATIENCE, listener.accept()).await.expect("nobody connects").expect("a connection").0)
}

#[tokio::test]
async fn a_runtime_without_nri_is_said_once_and_one_that_comes_or_comes_back_is_joined() {
    let (log, _guard) = Log::start();
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("nri.sock");
    let (snapshots, seen) = watch::channel(nobody());
    let (shown, mut told) = watch::channel(Nri::default());
    let followed = tokio::spawn(follow(socket.clone(), Gate::new(seen, Arc::default()), shown));
    becomes(&mut told, Nri::Waiting).await;
    // Three attempts.
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(log.times("no NRI now"), 1);

    let listener = UnixListener::bind(&socket).expect("a socket");
    let runtime = accept(&listener).await.introduced().await;
    becomes(&mut told, Nri::Connected).await;
    assert_eq!(log.times("new pods are held until"), 1);

    // The runtime restarts.
    drop((runtime, listener));
    becomes(&mut told, Nri::Waiting).await;
    std::fs::remove_file(&socket).expect("it is there");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let mut runtime = accept(&listener).await.introduced().await;
    becomes(&mut told, Nri::Connected).await;
    assert_eq!(log.times("no NRI now"), 2, "a connection that was lost is news");
    runtime.run(pod("cni-1")).await;
    snapshots.send_replace(snapshot("u1", "cni-1", EndpointCondition::Enforced));
    runtime.goes_on().await;
    followed.abort();
}

#[tokio::test]
async fn nobody_is_held_by_an_agent_that_knows_nothing_yet() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("nri.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let (snapshots, seen) = watch::channel(Arc::<Snapshot>::default());
    let (shown, _told) = watch::channel(Nri::default());
    let followed = tokio::spawn(follow(socket, Gate::new(seen, Arc::default()), shown));
    assert!(timeout(A_WHILE, listener.accept()).await.is_err(), "it registers too early");
    snapshots.send_replace(nobody());
    accept(&listener).await.introduced().await;
    followed.abort();
}

#[tokio::test]
async fn an_unreadable_sandbox_ends_the_connection_and_not_the_pod() {
    let (plugin, mut runtime) = Plugin::introduced().await;
    /// A pod that is not a message but a number.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Odd {
        #[prost(int32, tag = "1")]
        pod: i32,
    }
    runtime.ask("RunPodSandbox", &Odd { pod: 7 }, PATIENCE).await;
    // A plugin that closes is one fewer to ask: the runtime goes on without it.
    let mut rest = Bytes::new();
    while let Ok(read) = runtime.stream.read_buf(runtime.decoder.trunk()).await {
        if read == 0 {
            break;
        }
        rest = Bytes::copy_from_slice(runtime.decoder.trunk());
    }
    assert!(rest.is_empty(), "it was answered: {rest:?}");
    assert!(matches!(plugin.error().await, NriError::Request(_)));
}
