//! The cluster's ranges, which agents learn where the manifests are as shipped: two tenants that share no node and may
//! reach every address do not reach each other, and a cluster whose ranges are not stated is not ready.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cluster::wait;
use serde_json::{Value, json};
use testbed::config::TENANT_LABEL;
use testbed::host::Family;
use testbed::kube::world::{PORT, Pod, is_ready, outside, pod_spec};
use testbed::kube::{PATIENCE, Site};
use testbed::probe::{Outcome, Transport, probe};

/// Tenants, and the node on which each has its only pod.
const TENANTS: [(&str, &str); 2] = [("east", "a"), ("west", "b")];
/// A node object without ranges for pods.
const SILENT_NODE: &str = "silent";

/// Runs the test, and removes its objects.
pub(crate) fn are_learnt(site: &mut Site) -> Result<()> {
    let objects: Vec<Value> = TENANTS.iter().flat_map(|(tenant, node)| objects(tenant, node)).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    site.kubectl().apply(&list)?;
    let outcome = stay_apart(site);
    let tenants = TENANTS.map(|(tenant, _)| tenant);
    site.kubectl().run(["delete", "node", SILENT_NODE, "--ignore-not-found"])?;
    site.kubectl().run([&["delete", "networktenant"], &tenants[..]].concat())?;
    site.kubectl().run([&["delete", "namespace", "--timeout=60s"], &tenants[..]].concat())?;
    outcome?;
    site.healthy()
}

fn objects(tenant: &str, node: &str) -> [Value; 3] {
    let mut spec = pod_spec();
    spec["nodeName"] = json!(node);
    let policy = json!({
        "namespaceSelector": {"matchLabels": {TENANT_LABEL: tenant}},
        "egress": [{"name": "all", "cidrs": ["0.0.0.0/0", "::/0"]}],
    });
    [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": tenant, "labels": {TENANT_LABEL: tenant}}}),
        json!({"apiVersion": "bulkhead.dev/v1alpha1", "kind": "NetworkTenant", "metadata": {"name": tenant}, "spec": policy}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "only", "namespace": tenant}, "spec": spec}),
    ]
}

fn stay_apart(site: &Site) -> Result<()> {
    let [east, west] = TENANTS.map(|(tenant, _)| pod(site, tenant));
    let (east, west) = (east?, west?);
    for (from, to) in [(&east, &west), (&west, &east)] {
        for name in ["internet", "nobodys"] {
            becomes(from, outside(name)?, Outcome::Answered).with_context(|| format!("the control, {name}"))?;
        }
        for family in Family::ALL {
            let outcome = outcome(from, to.address(family)?);
            ensure!(outcome == Outcome::Silence, "{} to {}: {outcome:?}", from.label(), to.label());
        }
    }
    let silent = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": SILENT_NODE}});
    site.kubectl().apply(&silent.to_string())?;
    // Some addresses of pods are stated no longer, so a private address may be one.
    for node in ["a", "b"] {
        readiness_is(site, node, false)?;
        ensure!(site.agent_metrics(node)?.sum("bulkhead_pod_range_known", &[]) == 0.0, "the metric of {node}");
    }
    becomes(&east, outside("nobodys")?, Outcome::Silence).context("a private address")?;
    becomes(&east, outside("internet")?, Outcome::Answered).context("a public address, the control")?;
    let condition = "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=PodRangeUnknown";
    site.kubectl().run(["wait", "networktenant/east", &format!("--for={condition}"), "--timeout=30s"])?;
    site.kubectl().run(["delete", "node", SILENT_NODE])?;
    for node in ["a", "b"] {
        readiness_is(site, node, true)?;
    }
    becomes(&east, outside("nobodys")?, Outcome::Answered).context("a private address, once ranges are known again")?;
    site.kubectl().run(["wait", "networktenant/east", "--for=condition=Ready", "--timeout=30s"])?;
    Ok(())
}

fn pod(site: &Site, tenant: &str) -> Result<Pod> {
    let object = wait("a ready pod", PATIENCE, || {
        let object = site.kubectl().json(["get", "pod", "-n", tenant, "only"])?;
        ensure!(is_ready(&object), "{}", object["status"]);
        Ok(object)
    })?;
    Pod::find(&site.cluster, &object, &[PORT])
}

fn readiness_is(site: &Site, node: &str, ready: bool) -> Result<()> {
    wait("the agent's readiness", PATIENCE, || {
        let (status, page) = site.agent_page(node, "/readyz")?;
        let states_range = page.contains("range of pods");
        ensure!((status == 200) == ready && states_range != ready, "{node}: {status} {page}");
        Ok(())
    })
}

fn outcome(from: &Pod, to: IpAddr) -> Outcome {
    from.netns.run(|| probe(Transport::Tcp, None, SocketAddr::new(to, PORT)))
}

/// Waits until a probe has this outcome.
fn becomes(from: &Pod, to: IpAddr, wanted: Outcome) -> Result<()> {
    let start = Instant::now();
    loop {
        let outcome = outcome(from, to);
        if outcome == wanted {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "{} to {to}: {outcome:?}, not {wanted:?}", from.label());
    }
}
