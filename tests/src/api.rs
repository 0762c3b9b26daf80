//! Measures the load of an agent's start on the API server, by the server's audit log and the bytes on the wire.
//!
//! ```text
//! API server (real, no kubelets) ◀── objects of N pods ── kubectl
//!        ▲
//!        └── one agent in node a's network namespace, which has no other traffic: its bytes are the interface's
//! ```
//!
//! The agent has the rights of `deploy/rbac.yaml` and no more. Pods are only objects, so the node's four pods have no
//! interface. A tenth of the other pods belongs to the tenant of this node. The rest belongs to nine tenants that the
//! node does not need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::{Cluster, Cni, Kubectl, Options, Parts, wait};
use serde::Serialize;
use serde_json::{Value, json};

use crate::kube::{Down, SYSTEM, deploy};
use crate::metrics::Metrics;
use crate::netns::Netns;
use crate::{page, scope::Scope, tier};

/// The node whose agent is started.
const NODE: &str = "a";
/// The address of its HTTP pages.
const PAGES: ([u8; 4], u16) = ([127, 0, 0, 1], 9481);
/// Its tenant, and that tenant's namespaces.
const TENANT: (&str, [&str; 2]) = ("acme", ["acme-web", "acme-jobs"]);
/// Tenants with no pod on the node.
const STRANGERS: usize = 9;
/// Pods on the node.
const LOCAL: usize = 4;
/// How long an agent is observed after it has received everything.
const QUIET: Duration = Duration::from_secs(10);
/// The limit for every step that is not measured.
const PATIENCE: Duration = Duration::from_secs(120);
/// Objects in one call of kubectl.
const BATCH: usize = 500;

/// The figures of one start.
#[derive(Clone, Debug, Serialize)]
pub struct Start {
    /// Pods on other nodes.
    pub others: usize,
    /// How many of them belong to the node's tenant.
    pub relevant: usize,
    /// Bytes of one pod in the server's JSON.
    pub pod_bytes: usize,
    /// Requests until the agent had everything, without watches.
    pub requests: usize,
    /// Watches that the agent opened.
    pub watches: usize,
    /// Requests and watches by verb and resource.
    pub by_resource: BTreeMap<String, usize>,
    /// Bytes from the server, with all headers.
    pub received: u64,
    /// Bytes to the server, with all headers.
    pub sent: u64,
    /// Seconds from the start until the agent had everything.
    pub seconds: f64,
    /// The agent's peak memory in KiB.
    pub memory_kib: u64,
    /// Requests and watches in the ten seconds after.
    pub requests_after: usize,
    /// Bytes from the server in the ten seconds after.
    pub received_after: u64,
}

/// Measures a start with each of these numbers of other pods, in rising order.
pub fn measure(steps: &[usize]) -> Result<Vec<Start>> {
    let parts = Parts::ready(&cluster::cache())?;
    let cluster = Cluster::of_checkout("api")?;
    let down = Down(cluster.clone());
    cluster.up(&parts, Options { cni: Cni::Ptp, nodes: false })?;
    let server = Server { kubectl: cluster.kubectl(), cluster, scope: Scope::new()? };
    server.fill()?;
    let mut there = 0;
    let mut starts = Vec::new();
    for &step in steps {
        server.add(there..step)?;
        there = there.max(step);
        starts.push(server.start(there)?);
    }
    drop(down);
    Ok(starts)
}

struct Server {
    cluster: Cluster,
    kubectl: Kubectl,
    scope: Scope,
}

impl Server {
    /// Creates all objects except the other pods.
    fn fill(&self) -> Result<()> {
        for file in ["namespace.yaml", "crd.yaml", "rbac.yaml"] {
            let path = deploy().join(file);
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            self.kubectl.apply(&text)?;
        }
        self.kubectl.run([
            "wait",
            "crd/networktenants.bulkhead.dev",
            "--for=condition=Established",
            "--timeout=60s",
        ])?;
        let mut objects = vec![node(NODE, &["10.244.1.0/24"])];
        objects.extend((0..10).map(|n| node(&other(n), &[])));
        objects.push(tenant(TENANT.0));
        objects.extend((0..STRANGERS).map(|n| tenant(&stranger(n))));
        self.kubectl.apply(&list(&objects))?;
        for namespace in TENANT.1 {
            self.kubectl.namespace(namespace, &[("bulkhead.dev/tenant", TENANT.0)])?;
        }
        for n in 0..STRANGERS {
            self.kubectl.namespace(&stranger(n), &[("bulkhead.dev/tenant", &stranger(n))])?;
        }
        let local =
            (0..LOCAL).map(|n| pod(TENANT.1[n % 2], &format!("local-{n}"), NODE, &format!("10.244.1.{}", n + 2)));
        self.create(&local.collect::<Vec<_>>())
    }

    /// Creates the other pods with these numbers. Every tenth belongs to the node's tenant.
    fn add(&self, numbers: std::ops::Range<usize>) -> Result<()> {
        let pods: Vec<Value> = numbers
            .map(|n| {
                let namespace = if n % 10 == 0 { TENANT.1[n / 10 % 2].to_owned() } else { stranger(n % 10 - 1) };
                let address = format!("10.245.{}.{}", n / 250, n % 250 + 2);
                pod(&namespace, &format!("other-{n}"), &other(n % 10), &address)
            })
            .collect();
        for batch in pods.chunks(BATCH) {
            self.create(batch)?;
            eprintln!("  {} more pods", batch.len());
        }
        Ok(())
    }

    fn create(&self, pods: &[Value]) -> Result<()> {
        let text = list(pods);
        self.kubectl.feed(["create", "-f", "-"], &text)?;
        self.kubectl.feed(["replace", "--subresource=status", "-f", "-"], &text).map(drop)
    }

    /// Starts an agent without pins and measures it.
    fn start(&self, others: usize) -> Result<Start> {
        let netns = Netns::at(&self.cluster.netns(NODE), NODE)?;
        let agent = self.agent()?;
        let (audited, wire) = (self.audited()?.len(), bytes(&netns)?);
        let begun = Instant::now();
        let process = Process(netns.start(&mut self.command(&agent)?)?);
        let relevant = others.div_ceil(10);
        let expected = LOCAL + relevant;
        wait("the agent to know every pod of its tenant", PATIENCE, || {
            let (_, text) = page::get(&netns, PAGES.into(), "/metrics")?;
            let known = Metrics::parse(&text).sum("bulkhead_bpf_map_entries", &[("map", "peers_v4")]);
            ensure!(known as usize >= expected, "its map has {known} of {expected} pods; see {}", agent.log.display());
            Ok(())
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        // The audit log contains a request only a moment after its answer.
        thread::sleep(Duration::from_secs(1));
        let (events, then) = (self.audited()?, bytes(&netns)?);
        thread::sleep(QUIET);
        let (later, after) = (self.audited()?, bytes(&netns)?);
        let memory_kib = process.memory()?;
        drop(process);
        fs::remove_dir_all(&agent.pin_dir)?;
        let requests = &events[audited..];
        let watches = requests.iter().filter(|what| what.starts_with("watch ")).count();
        let pod = self.kubectl.run(["get", "--raw", &format!("/api/v1/namespaces/{}/pods/local-0", TENANT.1[0])])?;
        Ok(Start {
            others,
            relevant,
            pod_bytes: pod.len(),
            requests: requests.len() - watches,
            watches,
            by_resource: count(requests),
            received: then.received - wire.received,
            sent: then.sent - wire.sent,
            seconds,
            memory_kib,
            requests_after: later.len() - events.len(),
            received_after: after.received - then.received,
        })
    }

    /// The requests of the agent's account in order, each once: verb and resource.
    fn audited(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.cluster.audit_log())?;
        let agent = format!("system:serviceaccount:{SYSTEM}:bulkhead-agent");
        let mut seen = BTreeSet::new();
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut requests = Vec::new();
        for event in events.filter(|event| event["user"]["username"] == agent.as_str()) {
            if seen.insert(event["auditID"].to_string()) {
                let field = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
                let resource = field("/objectRef/resource");
                let what = if resource.is_empty() { field("/requestURI") } else { resource };
                requests.push(format!("{} {what}", field("/verb")));
            }
        }
        Ok(requests)
    }

    /// The files of an agent with the service account of the manifests.
    fn agent(&self) -> Result<ApiAgent> {
        let token = self.kubectl.run(["create", "token", "bulkhead-agent", "-n", SYSTEM])?;
        let admin = fs::read_to_string(self.cluster.kubeconfig())?;
        let mut config: Value =
            serde_json::from_str(&admin).context("the kubeconfig of the test cluster is not JSON")?;
        config["users"][0]["user"] = json!({"token": token.trim()});
        let (kubeconfig, pin_dir) = (self.scope.file("kubeconfig"), self.scope.pin_dir());
        fs::write(&kubeconfig, config.to_string())?;
        Ok(ApiAgent { kubeconfig, pin_dir, log: self.scope.file("agent.log") })
    }

    fn command(&self, agent: &ApiAgent) -> Result<Command> {
        let binary = tier::agent_binary().context("there is no agent to run: set BULKHEAD_BIN")?;
        let mut command = Command::new(binary);
        command
            .args(["run", "--node-name", NODE, "--pod-cidr", "10.244.0.0/16,10.245.0.0/16"])
            .args(["--service-cidr", cluster::plan::SERVICE_RANGES])
            .arg("--pin-dir")
            .arg(&agent.pin_dir)
            .arg("--socket")
            .arg(self.scope.file("agent.sock"))
            .env("KUBECONFIG", &agent.kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&agent.log)?);
        Ok(command)
    }
}

struct ApiAgent {
    kubeconfig: std::path::PathBuf,
    pin_dir: std::path::PathBuf,
    log: std::path::PathBuf,
}

fn count(requests: &[String]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for what in requests {
        *counts.entry(what.clone()).or_default() += 1;
    }
    counts
}

/// A process that is killed with the value.
struct Process(Child);

impl Process {
    fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bytes over the interfaces of a namespace, without loopback.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    received: u64,
    sent: u64,
}

fn bytes(netns: &Netns) -> Result<Bytes> {
    let table = netns.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
    Ok(total(&table))
}

fn total(table: &str) -> Bytes {
    let mut total = Bytes::default();
    for (name, numbers) in table.lines().filter_map(|line| line.split_once(':')) {
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        if let (true, Some(received), Some(sent)) = (name.trim() != "lo", numbers.first(), numbers.get(8)) {
            total.received += received;
            total.sent += sent;
        }
    }
    total
}

fn other(n: usize) -> String {
    format!("other-{n}")
}

fn stranger(n: usize) -> String {
    format!("stranger-{n}")
}

fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn node(name: &str, ranges: &[&str]) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": ranges, "podCIDR": ranges.first()}})
}

fn tenant(name: &str) -> Value {
    json!({
        "apiVersion": "bulkhead.dev/v1alpha1",
        "kind": "NetworkTenant",
        "metadata": {"name": name},
        "spec": {"namespaceSelector": {"matchLabels": {"bulkhead.dev/tenant": name}}},
    })
}

/// A pod of usual size, which no kubelet runs.
fn pod(namespace: &str, name: &str, node: &str, address: &str) -> Value {
    let env: Vec<Value> =
        (0..12).map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value-{n}")})).collect();
    let container = |n: usize| {
        json!({
            "name": format!("c{n}"), "image": "registry.example/team/application:1.2.3", "env": env,
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
        })
    };
    let labels = json!({"app.kubernetes.io/name": "application", "app.kubernetes.io/instance": name, "pod-template-hash": "5d9f8c7b6"});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [container(0), container(1)]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

/// The figures, aligned.
pub fn table(starts: &[Start]) -> String {
    let mut text = String::from(
        "other pods  relevant  requests  watches   received       sent  ready after  agent's memory  10 s after\n",
    );
    for start in starts {
        text += &format!(
            "{:>10}  {:>8}  {:>8}  {:>7}  {:>5} KiB  {:>5} KiB  {:>9.2} s  {:>10} KiB  {} requests, {} KiB\n",
            start.others,
            start.relevant,
            start.requests,
            start.watches,
            start.received / 1024,
            start.sent / 1024,
            start.seconds,
            start.memory_kib,
            start.requests_after,
            start.received_after / 1024,
        );
    }
    if let Some(last) = starts.last() {
        text += &format!("a pod as the server writes it: {} bytes; requests of the last start:\n", last.pod_bytes);
        for (what, count) in &last.by_resource {
            text += &format!("  {count:>4}  {what}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_does_not_count() {
        let table = "Inter-|   Receive |  Transmit\n face |bytes\n    lo: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n  eth0: 100 2 0 0 0 0 0 0 30 1 0 0 0 0 0 0\n";
        let bytes = total(table);
        assert_eq!((bytes.received, bytes.sent), (100, 30));
    }

    #[test]
    fn a_tenth_of_the_other_pods_belongs_to_the_node_s_tenant() {
        let relevant = |others: usize| (0..others).filter(|n| n % 10 == 0).count();
        assert_eq!([10, 1000, 10_000].map(relevant), [10_usize, 1000, 10_000].map(|others| others.div_ceil(10)));
    }
}
