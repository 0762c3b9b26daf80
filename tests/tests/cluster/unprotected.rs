//! Tests of pods with traffic that no program judges.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::wait;
use serde_json::{Value, json};
use testbed::kube::world::pod_spec;
use testbed::kube::{PATIENCE, Site};

const NODE: &str = "a";
const NAMESPACE: &str = "acme-jobs";
const NAME: &str = "on-node";

/// A host-network pod of a tenant is counted and reported once, with what to do, and its node stays ready. The cluster's
/// own host-network pods are not counted.
pub(crate) fn host_network_pods_are_reported(site: &mut Site) -> Result<()> {
    let count = |reason: &str| {
        Ok::<_, anyhow::Error>(site.agent_metrics(NODE)?.sum("bulkhead_unprotected_pods", &[("reason", reason)]))
    };
    ensure!(count("host_network")? == 0.0, "agents and the API server's pods are counted");
    let pod = HostNetworkPod::start(site)?;
    wait("a count", PATIENCE, || {
        ensure!(count("host_network")? == 1.0, "the pod is not counted");
        Ok(())
    })?;
    let begun = reported(site, "pod_unprotected")?;
    ensure!(begun.len() == 1, "reported {} times: {begun:?}", begun.len());
    ensure!(begun[0]["severity"] == "high" && begun[0]["tenant"] == "acme", "{}", begun[0]);
    ensure!(begun[0]["unprotected"]["reason"] == "host_network", "{}", begun[0]);
    // Longer than the time after which a pod counts.
    std::thread::sleep(Duration::from_secs(12));
    let (status, page) = site.agent_page(NODE, "/readyz")?;
    ensure!(status == 200, "a tenant made the node unready: {page}");
    ensure!(reported(site, "pod_unprotected")?.len() == 1, "it was reported again");
    drop(pod);
    wait("the end", PATIENCE, || {
        ensure!(count("host_network")? == 0.0, "the pod is still counted");
        ensure!(reported(site, "pod_protected")?.len() == 1, "no event reports the end");
        Ok(())
    })?;
    for reason in ["no_pair", "second_interface", "no_interface", "netns_unreadable", "no_ethernet", "not_attached"] {
        ensure!(count(reason)? == 0.0, "an ordinary pod is counted as {reason}");
    }
    site.healthy()
}

/// The events of this state about the pod.
fn reported(site: &Site, state: &str) -> Result<Vec<Value>> {
    let lines = site.agent_lines(NODE)?;
    let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(events.filter(|event| event["state"] == state && event["unprotected"]["pod"] == NAME).collect())
}

/// A pod of acme on the node's network. Dropping the value removes it.
struct HostNetworkPod<'a>(&'a Site);

impl<'a> HostNetworkPod<'a> {
    fn start(site: &'a Site) -> Result<Self> {
        let mut spec = pod_spec();
        spec["nodeName"] = json!(NODE);
        spec["hostNetwork"] = json!(true);
        let container = spec["containers"][0].as_object_mut().context("a container")?;
        // A server's port may be taken on the node.
        container.insert("args".to_owned(), json!(["pause"]));
        container.remove("readinessProbe");
        let metadata = json!({"name": NAME, "namespace": NAMESPACE});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        let started = Self(site);
        site.kubectl().apply(&pod.to_string())?;
        Ok(started)
    }
}

impl Drop for HostNetworkPod<'_> {
    fn drop(&mut self) {
        let delete = ["delete", "pod", "-n", NAMESPACE, NAME, "--grace-period=0", "--force"];
        let _ = self.0.kubectl().run(delete);
    }
}
