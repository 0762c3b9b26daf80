//! A real Kubernetes with Bulkhead installed, for the scenarios of `tests/tests/cluster`.
//!
//! ```text
//! cluster (crate) ── up ──▶ Site { pods, policy } ──▶ scenarios, one after the other ──▶ down, also after a failure
//! ```
//!
//! The installation follows the manuals: the image is loaded on the nodes, and `deploy/bulkhead.yaml` is edited as its
//! comments say and applied with kubectl. Agents are observed only from outside: their pods, pages and logs. `expect`
//! computes the allowed probes from the applied objects. It uses nothing of the agent.

pub mod addresses;
pub mod expect;
pub mod kernel;
mod manifest;
pub mod question;
pub mod run;
pub mod world;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::{Cluster, Cni, Kubectl, Options, Parts, wait};
use serde_json::Value;

use crate::metrics::Metrics;
use crate::page;
use crate::probe::Outcome;
use expect::{Policy, Unassigned};
use question::{Question, QuestionMismatch, mismatches, probe_all, questions};
use world::{ClusterWorld, items, text};

/// The namespace of agents and controller.
pub const SYSTEM: &str = "bulkhead-system";
/// The address of an agent's HTTP pages, on its node's loopback.
const PAGES: ([u8; 4], u16) = ([127, 0, 0, 1], 9481);
/// The limit for every step that is not measured.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How many answers of one round may be late.
const LATE: usize = 4;
/// The time after which all answers must be right. Packets that are lost for longer count as lost.
const SETTLED: Duration = Duration::from_secs(20);

/// A cluster, its pods, and the policy that should be in force. Dropping the value ends the cluster.
#[derive(Debug)]
pub struct Site {
    /// The cluster.
    pub cluster: Cluster,
    /// How its pods are connected.
    pub cni: Cni,
    /// Its pods, Services and hosts.
    pub world: ClusterWorld,
    /// The objects and settings that were applied last.
    pub policy: Policy,
    /// Whether the container runtime holds new pods.
    nri: bool,
    /// Whether the input guard is on.
    input_guard: bool,
    _down: Down,
}

/// Ends a cluster when it is dropped, also by a panic.
#[derive(Debug)]
pub(crate) struct Down(pub(crate) Cluster);

impl Drop for Down {
    fn drop(&mut self) {
        match self.0.down() {
            Ok(removed) => eprintln!("cluster {}: removed {removed}", self.0.id()),
            Err(error) => eprintln!("warning: cluster {} is not down: {error:#}", self.0.id()),
        }
    }
}

impl Site {
    /// Brings up a cluster that is full of pods and has no agent.
    pub fn build(cni: Cni, image: &Path) -> Result<Self> {
        let parts = Parts::ready(&cluster::cache())?;
        let cluster = Cluster::of_checkout("test")?;
        let down = Down(cluster.clone());
        cluster.up(&parts, Options { cni, nodes: true })?;
        cluster.import(image)?;
        let world = ClusterWorld::build(&cluster)?;
        Ok(Self { cluster, cni, world, policy: Policy::new(), nri: false, input_guard: true, _down: down })
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> Kubectl {
        self.cluster.kubectl()
    }

    /// Applies the manifests, and waits until agents and controller are ready.
    pub fn install(&self) -> Result<()> {
        self.kubectl().apply(&self.manifest()?)?;
        self.rolled_out()
    }

    /// The manifests, with what an administrator of this cluster sets. With routed pods they are as shipped, so the agents
    /// learn the ranges.
    pub fn manifest(&self) -> Result<String> {
        let lan = "198.18.0.0/24,fd00:198:18::/64";
        let unassigned = match self.policy.unassigned {
            Unassigned::Isolate => "isolate",
            Unassigned::Audit => "audit",
            Unassigned::Allow => "allow",
        };
        let mut settings = vec![("BULKHEAD_UNASSIGNED", unassigned)];
        if self.cni == Cni::Bridge {
            settings.extend([
                ("BULKHEAD_POD_CIDR", cluster::plan::POD_RANGES),
                ("BULKHEAD_SERVICE_CIDR", cluster::plan::SERVICE_RANGES),
                ("BULKHEAD_NODE_CIDR", lan),
            ]);
        }
        if !self.input_guard {
            settings.push(("BULKHEAD_INPUT_GUARD", "none"));
        }
        let file = deploy().join("bulkhead.yaml");
        if !self.nri {
            return manifest::with_settings(&file, &settings);
        }
        settings.push(("BULKHEAD_NRI_SOCKET", "/var/run/nri/nri.sock"));
        manifest::with_mount(&manifest::with_settings(&file, &settings)?, "nri")
    }

    /// Waits until every pod of agents and controller has the current version and is ready.
    pub fn rolled_out(&self) -> Result<()> {
        for what in ["daemonset/bulkhead", "deployment/bulkhead-controller"] {
            self.kubectl().run(["-n", SYSTEM, "rollout", "status", what, "--timeout=120s"])?;
        }
        Ok(())
    }

    /// Changes the setting for namespaces in no tenant, as the comment in `deploy/config.yaml` describes.
    pub fn set_unassigned(&mut self, unassigned: Unassigned) -> Result<()> {
        self.policy.unassigned = unassigned;
        self.reinstall()
    }

    /// Lets the container runtime hold new pods, or not, as the comments in the manifests describe.
    pub fn set_nri(&mut self, on: bool) -> Result<()> {
        self.nri = on;
        self.reinstall()
    }

    /// Switches the input guard on or off.
    pub fn set_input_guard(&mut self, on: bool) -> Result<()> {
        self.input_guard = on;
        self.reinstall()
    }

    fn reinstall(&self) -> Result<()> {
        self.kubectl().apply(&self.manifest()?)?;
        let restart = ["-n", SYSTEM, "rollout", "restart", "daemonset/bulkhead", "deployment/bulkhead-controller"];
        self.kubectl().run(restart)?;
        self.rolled_out()
    }

    /// Applies the policy's objects: NetworkTenants, and the labels of namespaces.
    pub fn apply_policy(&self) -> Result<()> {
        self.kubectl().apply(&self.policy.objects.to_yaml()).map(drop)
    }

    /// Waits until every probe ends as the policy says. The error lists the last outcomes that did not.
    pub fn settle(&self) -> Result<()> {
        self.until(&self.asked(), |question| self.policy.allows(&self.world, question))
    }

    /// All probes whose outcome is not a matter of chance.
    pub fn asked(&self) -> Vec<Question> {
        questions(&self.world).into_iter().filter(|question| !self.policy.is_chance(&self.world, question)).collect()
    }

    /// The control: without an agent every probe is answered once kube-proxy knows every Service. Returns the number of
    /// probes.
    pub fn settle_open(&self) -> Result<usize> {
        let asked = questions(&self.world);
        self.until(&asked, |_| true)?;
        Ok(asked.len())
    }

    fn until(&self, asked: &[Question], expected: impl Fn(&Question) -> bool) -> Result<()> {
        let start = Instant::now();
        loop {
            let wrong = mismatches(&self.world, &probe_all(&self.world, asked), &expected);
            if wrong.is_empty() {
                return Ok(());
            }
            ensure!(start.elapsed() < SETTLED, "{}", summary(&wrong, asked.len()));
        }
    }

    /// Sends every probe once. An outcome that contradicts the policy is an error.
    ///
    /// A few late answers are probed again, one by one: hundreds of probes at once make some late on a busy machine. A
    /// probe that must get no answer is never repeated.
    pub fn check(&self) -> Result<()> {
        let asked = self.asked();
        let mut wrong = self.wrong(&asked);
        if wrong.len() <= LATE && wrong.iter().all(|mismatch| mismatch.expected) {
            wrong.retain(|mismatch| {
                println!("late: {mismatch}");
                mismatch.asked.probe(&self.world) != Outcome::Answered
            });
        }
        ensure!(wrong.is_empty(), "{}", summary(&wrong, asked.len()));
        Ok(())
    }

    /// The outcomes of these probes that contradict the policy.
    pub fn wrong(&self, asked: &[Question]) -> Vec<QuestionMismatch> {
        mismatches(&self.world, &probe_all(&self.world, asked), |question| self.policy.allows(&self.world, question))
    }

    /// The pod of a node's agent.
    pub fn agent(&self, node: &str) -> Result<String> {
        let here = format!("spec.nodeName={node}");
        let agents = "app.kubernetes.io/component=agent";
        let pods = self.kubectl().json(["get", "pods", "-n", SYSTEM, "-l", agents, "--field-selector", &here])?;
        let living = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let pod = items(&pods).find(living).with_context(|| format!("node {node} has no agent"))?;
        Ok(text(pod, "/metadata/name"))
    }

    /// The container of a node's agent, as containerd calls it.
    pub fn agent_container(&self, node: &str) -> Result<String> {
        let agent = self.kubectl().json(["get", "pod", "-n", SYSTEM, &self.agent(node)?])?;
        let id = text(&agent, "/status/containerStatuses/0/containerID");
        Ok(id.strip_prefix("containerd://").context("the agent has no container")?.to_owned())
    }

    /// Sends a signal to a container's first process through containerd, without the API server.
    pub fn signal(&self, node: &str, container: &str, signal: &str) -> Result<()> {
        let mut ctr = self.cluster.node(node)?.command("ctr")?;
        let output = ctr.args(["-n", "k8s.io", "tasks", "kill", "--signal", signal, container]).output()?;
        ensure!(output.status.success(), "{signal}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The output of a node's agent: log and events.
    pub fn agent_lines(&self, node: &str) -> Result<Vec<String>> {
        let output = self.kubectl().run(["-n", SYSTEM, "logs", &self.agent(node)?])?;
        Ok(output.lines().map(str::to_owned).collect())
    }

    /// The violations that a node's agent has printed.
    pub fn violations(&self, node: &str) -> Result<Vec<Value>> {
        let lines = self.agent_lines(node)?;
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(events.filter(|event| event["type"] == "violation").collect())
    }

    /// Status and body of a page of a node's agent: `/metrics`, `/readyz`.
    pub fn agent_page(&self, node: &str, path: &str) -> Result<(u16, String)> {
        let (_, netns, _) = self.world.nodes.iter().find(|(name, ..)| *name == node).context("a node")?;
        page::get(netns, PAGES.into(), path)
    }

    /// The metrics of a node's agent.
    pub fn agent_metrics(&self, node: &str) -> Result<Metrics> {
        let (status, body) = self.agent_page(node, "/metrics")?;
        ensure!(status == 200, "/metrics answers {status}");
        Ok(Metrics::parse(&body))
    }

    /// Checks that all nodes and pods are ready and that no pod has restarted.
    pub fn healthy(&self) -> Result<()> {
        wait("a healthy cluster", PATIENCE, || {
            let nodes = self.kubectl().json(["get", "nodes"])?;
            let ill: Vec<String> =
                items(&nodes).filter(|node| !world::is_ready(node)).map(|n| text(n, "/metadata/name")).collect();
            ensure!(ill.is_empty(), "nodes {ill:?} are not ready");
            let pods = self.kubectl().json(["get", "pods", "-A"])?;
            let ill: Vec<String> =
                items(&pods).filter(|pod| !world::is_ready(pod)).map(|p| text(p, "/metadata/name")).collect();
            ensure!(ill.is_empty(), "pods {ill:?} are not ready");
            Ok(())
        })?;
        let restarted: Vec<String> = self.restarts()?.into_iter().filter(|line| !line.ends_with(" 0")).collect();
        ensure!(restarted.is_empty(), "containers have restarted: {restarted:?}");
        Ok(())
    }

    /// Every container of the cluster: namespace, pod, UID, number of restarts.
    pub fn restarts(&self) -> Result<Vec<String>> {
        let pods = self.kubectl().json(["get", "pods", "-A"])?;
        let line = |pod: &Value| {
            let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
            let count: u64 = statuses.filter_map(|status| status["restartCount"].as_u64()).sum();
            let [namespace, name, uid] =
                ["namespace", "name", "uid"].map(|field| text(pod, &format!("/metadata/{field}")));
            format!("{namespace}/{name} {uid} {count}")
        };
        Ok(items(&pods).map(line).collect())
    }

    /// The time since which each node and each pod except Bulkhead's is ready. A changed line means that the object was
    /// not ready in between.
    pub fn readiness(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for kind in ["nodes", "pods"] {
            let list = self.kubectl().json(["get", kind, "-A"])?;
            for object in items(&list).filter(|object| object["metadata"]["namespace"] != SYSTEM) {
                let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
                let ready = conditions.find(|condition| condition["type"] == "Ready").cloned().unwrap_or_default();
                let (status, since) = (text(&ready, "/status"), text(&ready, "/lastTransitionTime"));
                lines.push(format!("{kind}/{} {status} since {since}", text(object, "/metadata/name")));
            }
        }
        Ok(lines)
    }

    /// The diagnostics that help after a failure.
    pub fn describe(&self) -> String {
        let mut report = String::new();
        let mut add = |title: &str, said: Result<String>| {
            report += &format!("--- {title}\n{}\n", said.unwrap_or_else(|error| format!("{error:#}")).trim_end());
        };
        add("pods", self.kubectl().run(["get", "pods", "-A", "-o", "wide"]));
        add("tenants", self.kubectl().run(["get", "networktenants", "-o", "wide"]));
        add("namespaces", self.kubectl().run(["get", "namespaces", "--show-labels"]));
        add(
            "warnings",
            self.kubectl().run(["get", "events", "-A", "--field-selector=type=Warning", "--sort-by=.lastTimestamp"]),
        );
        let controller = ["-n", SYSTEM, "logs", "-l", "app.kubernetes.io/component=controller", "--tail=10"];
        add("controller", self.kubectl().run(controller));
        for node in ["a", "b"] {
            add(
                &format!("agent on {node}, /readyz"),
                self.agent_page(node, "/readyz").map(|(status, body)| format!("{status} {body}")),
            );
            let log = self.agent_lines(node).map(|lines| {
                let log: Vec<_> = lines.into_iter().filter(|line| !line.contains("\"bulkhead.dev/violation")).collect();
                log[log.len().saturating_sub(30)..].join("\n")
            });
            add(&format!("agent on {node}, log without violations"), log);
        }
        report
    }
}

/// The directory with the manifests.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn summary(wrong: &[QuestionMismatch], of: usize) -> String {
    let lines: Vec<String> = wrong.iter().take(40).map(QuestionMismatch::to_string).collect();
    format!("{} of {of} probes did not end as expected:\n{}", wrong.len(), lines.join("\n"))
}
