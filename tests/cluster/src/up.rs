//! Brings a cluster up: removes what a crashed run left, then starts everything that can start in parallel.

use std::{fs, os::unix::fs::symlink, path::Path, thread, time::Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{Cluster, Node, Options, control, dns, down, exclusive, images, network, parts::Parts, plan::NODES, setup};

/// See [`Cluster::up`].
pub(crate) fn up(cluster: &Cluster, parts: &Parts, options: Options) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "namespaces and cgroups need root");
    setup::packages()?;
    let images = images::archive(parts, parts.cache())?;
    let clock = Clock(Instant::now());
    let _alone = exclusive::cluster(cluster)?;
    let left = down::reclaim(cluster)?;
    if left.anything() {
        eprintln!("removed {left}, left by an earlier run");
    }
    prepare(cluster, parts)?;
    clock.tell("namespaces and keys");
    if options.nodes { whole(cluster, options, &images, &clock) } else { control(cluster, &clock) }
        .with_context(|| format!("cluster {} is not up; logs in {}", cluster.id, cluster.directory("log").display()))
}

fn prepare(cluster: &Cluster, parts: &Parts) -> Result<()> {
    for directory in ["bin", "log", "pids"] {
        fs::create_dir_all(cluster.directory(directory))?;
    }
    for program in parts.programs()? {
        let name = program.file_name().context("a program has a name")?;
        symlink(&program, cluster.directory("bin").join(name))?;
    }
    cluster.keys().make()?;
    network::build(&cluster.id)
}

fn control(cluster: &Cluster, clock: &Clock) -> Result<()> {
    control::up(cluster)?;
    clock.tell("API server ready");
    Ok(())
}

/// Starts kubelets only after the API server, because a kubelet that does not find it pauses for seconds. The first
/// pods are created after the images are imported, because a kubelet that does not find them pauses, too.
fn whole(cluster: &Cluster, options: Options, images: &Path, clock: &Clock) -> Result<()> {
    thread::scope(|scope| {
        let boot = |node: Node<'_>| node.boot(options.cni);
        let boots = cluster
            .nodes()
            .map(|node| scope.spawn(move || boot(node).map(|()| scope.spawn(move || node.import(images)))));
        control(cluster, clock)?;
        register(cluster)?;
        let imports = boots.map(|boot| boot.join().expect("booting a node does not panic"));
        for node in cluster.nodes() {
            node.start("kubelet")?;
            node.start("kube-proxy")?;
        }
        imports.into_iter().try_for_each(|import| import?.join().expect("an import does not panic"))
    })?;
    clock.tell("containerd has the images");
    dns::apply(&cluster.kubectl())?;
    wait_ready(cluster, clock)
}

fn register(cluster: &Cluster) -> Result<()> {
    let nodes: Vec<_> = NODES.iter().map(|host| node(host.name, &host.pod_ranges())).collect();
    cluster.kubectl().apply(&json!({"apiVersion": "v1", "kind": "List", "items": nodes}).to_string()).map(drop)
}

/// A Node object. It is created before its kubelet starts, because only then can its pod ranges be chosen. The label
/// spreads pods over nodes. The kubelet would set it too late for the first pods.
fn node(name: &str, ranges: &[String]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
    })
}

fn wait_ready(cluster: &Cluster, clock: &Clock) -> Result<()> {
    let kubectl = cluster.kubectl();
    kubectl.run(["wait", "node", "--all", "--for=condition=Ready", "--timeout=90s"])?;
    clock.tell("both nodes ready");
    kubectl.run(["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s"])?;
    clock.tell("DNS ready");
    Ok(())
}

/// Prints each step with the time since the start.
struct Clock(Instant);

impl Clock {
    fn tell(&self, what: &str) {
        eprintln!("{:5.1} s  {what}", self.0.elapsed().as_secs_f32());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_first_range_is_the_one_old_clients_see() {
        let object = node("a", &NODES[0].pod_ranges());
        assert_eq!(object["spec"]["podCIDR"], "10.244.1.0/24");
        assert_eq!(object["spec"]["podCIDRs"][1], "fd00:10:244:1::/64");
    }
}
