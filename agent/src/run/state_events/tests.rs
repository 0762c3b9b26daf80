//! Each state event, from the fake kernel through the loop's snapshots to a sink.

use std::sync::Mutex;

use policy::model::input::{Change, HostNetworkPod, Tenant};
use policy::model::settings::Settings;
use policy::model::testing::{ip, key, link, local, namespace, tenant};

use super::*;
use crate::dataplane::mem_dataplane::MemDataplane;
use crate::dataplane::{Displacement, Port};
use crate::events::schema::Body;
use crate::events::sink::{Line, Sink};
use crate::events::{self, fixtures};
use crate::reconcile::{Now, ReconcileState, step};

#[derive(Default)]
struct Lines(Mutex<Vec<Arc<Line>>>);

impl Sink for Lines {
    fn offer(&self, line: &Arc<Line>) {
        self.0.lock().expect("a mutex").push(Arc::clone(line));
    }
}

/// The agent without its kernel: loop, state events, event path and a sink.
struct Agent {
    kernel: MemDataplane,
    state: ReconcileState,
    tick: Duration,
    snapshots: watch::Sender<Arc<Snapshot>>,
    lines: Arc<Lines>,
    follower: tokio::task::JoinHandle<()>,
    events: tokio::task::JoinHandle<()>,
}

impl Agent {
    fn start() -> Self {
        let mut kernel = MemDataplane::default();
        let state = ReconcileState::start(&mut kernel, Settings::default()).expect("a readable kernel");
        let (snapshots, latest) = watch::channel(Arc::clone(state.snapshot()));
        let (notices, notice_receiver) = mpsc::channel(64);
        let lines = Arc::new(Lines::default());
        let pipeline = fixtures::pipeline(lines.clone());
        let events = tokio::spawn(events::run(fixtures::NoRecords, pipeline, notice_receiver));
        let follower = tokio::spawn(follow(latest, notices));
        Self { kernel, state, tick: Duration::ZERO, snapshots, lines, follower, events }
    }

    /// One step of the loop `seconds` later, and the time that a report takes.
    async fn step(&mut self, seconds: u64, changes: Vec<Change>) {
        self.tick += Duration::from_secs(seconds);
        let now = Now { unix: 1000, tick: self.tick };
        step(&mut self.state, &mut self.kernel, changes, now);
        self.snapshots.send_replace(Arc::clone(self.state.snapshot()));
        tokio::time::sleep(3 * GRACE).await;
    }

    /// Ends the agent and returns its state events: state, severity, tenant and message.
    async fn events(self) -> Vec<(String, String, String)> {
        drop(self.snapshots);
        self.follower.await.expect("no panic");
        self.events.await.expect("no panic");
        let lines = self.lines.0.lock().expect("a mutex");
        let state = |line: &Arc<Line>| match &line.event.body {
            Body::State(state) => {
                let json = serde_json::to_value(state).expect("JSON");
                let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
                Some((text("state"), text("severity"), text("message")))
            }
            _ => None,
        };
        lines.iter().filter_map(state).collect()
    }
}

fn objects() -> Vec<Change> {
    vec![
        Change::Tenants(vec![tenant("acme")]),
        Change::Namespaces(vec![namespace("web", "acme")]),
        Change::Endpoints(vec![local("web/a", &["10.0.0.1"], "veth7")]),
        Change::Links(vec![link(7, "veth7")]),
        Change::Nodes(vec![ip("192.0.2.1")]),
    ]
}

fn event(state: &str, severity: &str, message: &str) -> (String, String, String) {
    (state.into(), severity.into(), message.into())
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_changes_its_mode_is_reported() {
    let mut agent = Agent::start();
    agent.step(0, objects()).await;
    agent.step(1, vec![Change::Tenant(Tenant { audit: true, ..tenant("acme") })]).await;
    assert_eq!(agent.events().await, [event("mode_changed", "medium", "tenant acme changed its mode to audit")]);
}

#[tokio::test(start_paused = true)]
async fn programs_that_were_removed_and_attached_again_are_reported_as_lost_and_restored() {
    let mut agent = Agent::start();
    agent.step(0, objects()).await;
    agent.kernel.ports.clear();
    agent.step(31, vec![]).await;
    assert_eq!(
        agent.events().await,
        [
            event("enforcement_lost", "critical", "pod web/a: its programs were removed from its interface"),
            event("enforcement_restored", "info", "pod web/a: its programs are attached again"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_programs_cannot_be_attached_again_is_reported_until_they_are() {
    let mut agent = Agent::start();
    agent.step(0, objects()).await;
    agent.kernel.ports.clear();
    agent.kernel.fail_ports = [7].into();
    agent.step(31, vec![]).await;
    assert!(agent.state.snapshot().endpoints[&key("web/a")].error.is_some());
    agent.step(15, vec![]).await;
    assert_eq!(agent.state.snapshot().unprotected.len(), 1, "it counts as unprotected, too");
    agent.kernel.fail_ports.clear();
    agent.step(31, vec![]).await;
    let events = agent.events().await;
    let of_pod: Vec<_> = events.iter().filter(|(_, _, message)| message.starts_with("pod web/a")).collect();
    assert_eq!((of_pod[0].0.as_str(), of_pod[0].1.as_str()), ("enforcement_lost", "critical"), "{events:?}");
    assert!(of_pod.iter().any(|(state, ..)| state == "enforcement_restored"), "{events:?}");
    assert!(events.iter().all(|(state, ..)| state != "pod_unprotected"), "one loss is one event: {events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_fails_for_a_while_is_one_loss_and_one_recovery() {
    let mut agent = Agent::start();
    agent.step(0, objects()).await;
    agent.kernel.ports.clear();
    agent.kernel.fail_ports = [7].into();
    agent.step(31, vec![]).await;
    agent.kernel.fail_ports.clear();
    agent.step(5, vec![]).await;
    let states: Vec<String> = agent.events().await.into_iter().map(|(state, ..)| state).collect();
    assert_eq!(states, ["enforcement_lost", "enforcement_restored"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_never_enforced_loses_nothing_and_is_unprotected() {
    let mut agent = Agent::start();
    agent.kernel.fail_ports = [7].into();
    agent.step(0, objects()).await;
    agent.step(31, vec![]).await;
    assert!(agent.state.snapshot().endpoints[&key("web/a")].error.is_some(), "the control");
    let events = agent.events().await;
    let [(state, severity, message)] = &*events else { panic!("{events:?}") };
    assert_eq!((&**state, &**severity), ("pod_unprotected", "critical"));
    assert!(message.contains("web/a") && message.contains("veth7"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_host_network_pod_of_a_tenant_is_reported_once_and_so_is_its_end() {
    let mut agent = Agent::start();
    let host = |path: &str| HostNetworkPod { key: key(path), uid: format!("uid of {path}"), cgroup: None };
    let pods = |paths: &[&str]| vec![Change::HostNetworkPods(paths.iter().map(|path| host(path)).collect())];
    agent.step(0, objects()).await;
    agent.step(1, pods(&["web/h", "kube-system/proxy"])).await;
    agent.step(5, vec![]).await;
    assert_eq!(agent.state.snapshot().unprotected.len(), 0, "it starts");
    for _ in 0..3 {
        agent.step(10, pods(&["web/h", "kube-system/proxy"])).await;
    }
    agent.step(1, pods(&["kube-system/proxy"])).await;
    let events = agent.events().await;
    let [begun, ended] = &*events else { panic!("{events:?}") };
    assert_eq!((&*begun.0, &*begun.1), ("pod_unprotected", "high"));
    assert!(begun.2.contains("web/h") && begun.2.contains("take hostNetwork out"), "{}", begun.2);
    assert_eq!((&*ended.0, &*ended.1), ("pod_protected", "info"));
}

#[tokio::test(start_paused = true)]
async fn a_failing_kernel_is_reported_and_so_is_its_recovery() {
    let mut agent = Agent::start();
    agent.step(0, objects()).await;
    agent.kernel.fail_tables = [policy::plan::Table::PeersV4].into();
    agent.step(1, vec![Change::Endpoint(local("web/b", &["10.0.0.2"], "veth8"))]).await;
    agent.kernel.fail_tables.clear();
    agent.step(31, vec![]).await;
    let events = agent.events().await;
    assert!(events[0].2.starts_with("policy writes: ") && events[0].0 == "enforcement_lost", "{events:?}");
    assert_eq!(events[1], event("enforcement_restored", "info", "policy writes are complete again"));
}

#[tokio::test(start_paused = true)]
async fn a_program_put_before_ours_is_reported_once_and_once_more_when_ours_is_first() {
    let mut agent = Agent::start();
    agent.step(0, objects()).await;
    let port = Port { ifindex: 7, name: "veth7".into() };
    let found = Displacement { port, program: "from_pod", other: "program 42".into() };
    agent.kernel.displaced = vec![found.clone()];
    agent.step(31, vec![]).await;
    // It comes again, and is reported as the same loss.
    agent.kernel.displaced = vec![found];
    agent.step(6, vec![]).await;
    assert_eq!((agent.state.snapshot().displaced.len(), agent.state.snapshot().displacements), (1, 2));
    agent.step(6, vec![]).await;
    assert_eq!(agent.state.snapshot().displaced.len(), 0, "the check after five seconds finds ours first");
    let lost =
        "from_pod on interface veth7: another program was put before it and may have ended the chain: program 42";
    let restored = "from_pod on interface veth7 is first again";
    assert_eq!(
        agent.events().await,
        [event("enforcement_lost", "critical", lost), event("enforcement_restored", "info", restored)]
    );
}
