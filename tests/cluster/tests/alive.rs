//! Tests of the cluster without an agent: pods on both nodes, both families, Services by name, addresses outside, and a
//! complete removal. They need root, and minutes the first time, so they run only on request:
//! `cargo test -p bulkhead-cluster -- --ignored --test-threads=1`.

use std::{fs, process::Command, time::Duration};

use anyhow::{Result, bail, ensure};
use cluster::{Cluster, Cni, Kubectl, Options, Parts, Source, cache, images::AGNHOST, wait};
use serde_json::{Value, json};

#[test]
#[ignore = "needs root, and Go the first time"]
fn pods_reach_each_other_with_routed_veths() -> Result<()> {
    live(Cni::Ptp)
}

#[test]
#[ignore = "needs root, and Go the first time"]
fn pods_reach_each_other_on_a_bridge() -> Result<()> {
    live(Cni::Bridge)
}

#[test]
#[ignore = "needs root, and Go the first time"]
fn an_api_server_alone_is_enough_for_objects() -> Result<()> {
    with("objects", Options { nodes: false, ..Options::default() }, |cluster| {
        cluster.kubectl().namespace("many", &[("team", "blue")])?;
        cluster.stop_api_server()?;
        ensure!(cluster.kubectl().run(["get", "namespaces"]).is_err(), "the API server still answers");
        cluster.start_api_server()?;
        let namespaces = cluster.kubectl().run(["get", "namespaces", "-l", "team=blue", "-o", "name"])?;
        ensure!(namespaces.trim() == "namespace/many", "{namespaces}");
        ensure!(
            fs::read_to_string(cluster.audit_log())?.contains(r#""name":"many""#),
            "the audit log does not contain the namespace"
        );
        Ok(())
    })
}

#[test]
#[ignore = "needs root, and Go the first time"]
fn a_run_takes_what_a_crashed_one_left() -> Result<()> {
    let options = Options { nodes: false, ..Options::default() };
    with("crashed", options, |cluster| {
        cluster.kubectl().namespace("old", &[])?;
        cluster.up(&Parts::ready(&cache())?, options)?;
        ensure!(cluster.kubectl().run(["get", "namespace", "old"]).is_err(), "the old cluster is still there");
        Ok(())
    })
}

fn live(cni: Cni) -> Result<()> {
    with("alive", Options { cni, ..Options::default() }, |cluster| {
        let kubectl = cluster.kubectl();
        start_pods(&kubectl)?;
        cluster.start("db", "database", &["agnhost", "netexec", "--http-port=5432", "--udp-port=-1"])?;
        for from in ["web-a", "web-b"] {
            everything_answers(&kubectl, from)?;
        }
        nodes_are_whole(cluster)?;
        containers_survive_their_daemons(cluster)
    })
}

/// Brings a cluster up, runs the checks, and takes it down. The machine must then be as it was before.
fn with(purpose: &str, options: Options, look: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    let source = Source::find();
    ensure!(source == Source::Parts, "{source:?}");
    let cluster = Cluster::of_checkout(purpose)?;
    cluster.down()?;
    let before = traces(&cluster)?;
    let up = cluster.up(&Parts::ready(&cache())?, options);
    let seen = up.and_then(|()| look(&cluster));
    let removed = cluster.down()?;
    seen?;
    ensure!(removed.processes > 0 && removed.namespaces == 5 && removed.directory, "{removed}");
    let after = traces(&cluster)?;
    ensure!(after == before, "left: {after:#?}\nwas: {before:#?}");
    ensure!(!cluster.state().exists(), "its directory is still there");
    Ok(())
}

/// Everything of the machine that a cluster could leave changed, without the names of other clusters and tests.
fn traces(cluster: &Cluster) -> Result<Vec<String>> {
    let look = "ls /run/netns | grep -- \"$1\"; find /sys/fs/cgroup -maxdepth 3 -name \"*$1*\"; \
                ps -ww -eo args | grep -v grep | grep -- \"cluster/$1\"; cut -d' ' -f5 /proc/self/mountinfo | grep -- \"$1\"; \
                ls -d /etc/cni /opt/cni /var/lib/kubelet /var/lib/cni /var/lib/containerd /var/log/pods; \
                ip -o link | cut -d: -f2; ip route; ip -6 route; hostname; cat /etc/hosts /etc/resolv.conf";
    let output = Command::new("sh").args(["-c", look, "sh", &cluster.id().to_string()]).output()?;
    Ok(String::from_utf8(output.stdout)?.lines().map(String::from).collect())
}

/// Starts a server on each node, and a Service of both families for both servers.
fn start_pods(kubectl: &Kubectl) -> Result<()> {
    kubectl.namespace("shop", &[])?;
    let objects = [pod("a"), pod("b"), service()];
    kubectl.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    kubectl.run(["wait", "-n", "shop", "pod", "--all", "--for=condition=Ready", "--timeout=60s"]).map(drop)
}

fn pod(node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("web-{node}"), "namespace": "shop", "labels": {"app": "web"}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "web",
                "image": AGNHOST,
                "imagePullPolicy": "Never",
                "args": ["netexec"],
                "readinessProbe": {"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 1},
            }],
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

/// Connects from one pod to both pods, to their Service by name and by address, to the API server and the data subnets.
fn everything_answers(kubectl: &Kubectl, from: &str) -> Result<()> {
    let mut targets = vec![
        String::from("web:80"),
        "web.shop.svc.cluster.local:80".into(),
        "kubernetes.default:443".into(),
        "10.40.0.10:5432".into(),
        "[fd00:42::10]:5432".into(),
        "203.0.113.10:5432".into(),
        "169.254.169.254:5432".into(),
    ];
    targets.extend(addresses(kubectl, "service", "web", "/spec/clusterIPs")?.iter().map(|ip| socket(ip, 80)));
    for pod in ["web-a", "web-b"] {
        targets.extend(addresses(kubectl, "pod", pod, "/status/podIPs")?.iter().map(|ip| socket(ip, 8080)));
    }
    ensure!(targets.len() == 13, "an address is missing: {targets:?}");
    for target in targets {
        // kube-proxy may not have received the Service yet.
        let connect = || kubectl.exec("shop", from, &["/agnhost", "connect", "--timeout=2s", &target]);
        wait(&format!("{from} to {target}"), Duration::from_secs(5), connect)?;
    }
    let page = kubectl.exec("shop", from, &["timeout", "3", "wget", "-qO-", "http://web/hostname"])?;
    ensure!(page.starts_with("web-"), "busybox did not reach the Service by its name: {page}");
    let seen = kubectl.exec("shop", from, &["timeout", "3", "wget", "-qO-", "http://10.41.0.10:5432/clientip"])?;
    ensure!(seen.starts_with("10.244."), "the database sees the pod's own address, not {seen}");
    Ok(())
}

fn addresses(kubectl: &Kubectl, kind: &str, name: &str, at: &str) -> Result<Vec<String>> {
    let object = kubectl.json(["get", kind, name, "-n", "shop"])?;
    let Some(list) = object.pointer(at).and_then(Value::as_array) else { bail!("{kind} {name} has no {at}") };
    let text = |entry: &Value| entry.as_str().or_else(|| entry["ip"].as_str()).map(String::from);
    Ok(list.iter().filter_map(text).collect())
}

fn socket(ip: &str, port: u16) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// Checks that a node has what a machine has: its own processes and cgroups, NRI, a BPF file system, both families.
fn nodes_are_whole(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let look = "set -e; test -S /var/run/nri/nri.sock; grep -q '/sys/fs/bpf bpf' /proc/mounts; \
                    test \"$(hostname)\" = \"$1\"; test \"$(cat /proc/*/comm | grep -c '^kubelet$')\" = 1; \
                    find /sys/fs/cgroup -path '*/kubepods/*/pod*' -type d | grep -q .; ls /var/lib/cni/results | grep -q pods-";
        let output = node.command("sh")?.args(["-c", look, "sh", node.name()]).output()?;
        ensure!(output.status.success(), "node {}: {output:?}", node.name());
        let status = cluster.kubectl().json(["get", "node", node.name()])?;
        let addresses = status["status"]["addresses"].to_string();
        ensure!(addresses.contains("198.18.0.1") && addresses.contains("fd00:198:18::1"), "{addresses}");
    }
    ensure!(cluster.status().iter().all(|(_, runs)| *runs), "{:?}", cluster.status());
    Ok(())
}

/// Restarts the daemons of a node, as an upgrade does. The containers must be the same afterwards.
fn containers_survive_their_daemons(cluster: &Cluster) -> Result<()> {
    let (node, kubectl) = (cluster.node("a")?, cluster.kubectl());
    let container = "{.status.containerStatuses[0].containerID}{.status.containerStatuses[0].restartCount}";
    let ask = || kubectl.run(["get", "pod", "web-a", "-n", "shop", &format!("-o=jsonpath={container}")]);
    let before = ask()?;
    for daemon in ["kubelet", "containerd"] {
        node.stop(daemon)?;
    }
    for daemon in ["containerd", "kubelet"] {
        node.start(daemon)?;
    }
    wait("kubelet", Duration::from_secs(30), || kubectl.exec("shop", "web-a", &["true"]))?;
    ensure!(ask()? == before, "the container has been replaced");
    Ok(())
}
