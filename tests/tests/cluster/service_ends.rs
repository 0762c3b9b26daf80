//! Services whose ends are gone: a stale end does not deny the others, and a Service without ends is refused by the node.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::host::Family;
use testbed::kube::world::PORT;
use testbed::kube::{PATIENCE, Site};
use testbed::probe::{Outcome, Transport, probe};

const NAMESPACE: &str = "acme-web";
const SERVICE_PORT: u16 = 7400;
/// An address in the range of pods that no pod has.
const GONE: &str = "10.244.1.250";

/// Runs the test, and removes its Services.
pub(crate) fn are_judged_by_who_is_there(site: &mut Site) -> Result<()> {
    let outcome = all(site);
    site.kubectl().run([
        "delete",
        "service",
        "empty",
        "stale",
        "-n",
        NAMESPACE,
        "--wait=false",
        "--ignore-not-found",
    ])?;
    site.kubectl().run(["delete", "endpointslice", "stale-1", "-n", NAMESPACE, "--ignore-not-found"])?;
    outcome
}

fn all(site: &Site) -> Result<()> {
    let (empty, stale) = (service(site, "empty")?, service(site, "stale")?);
    let own_pod = site.world.pod("shop", "b")?.address(Family::V4)?;
    let gone = json!({"addresses": [GONE], "conditions": {"ready": false, "serving": false, "terminating": true}});
    let there = json!({"addresses": [own_pod], "conditions": {"ready": true}});
    site.kubectl().apply(&slice(&[there, gone]).to_string())?;
    becomes(site, "shop", stale, &[Outcome::Answered]).context("a Service with a stale end")?;
    becomes(site, "shop", empty, &[Outcome::Refused, Outcome::Unreachable]).context("a Service without ends")?;
    for (name, address) in [("empty", empty), ("stale", stale)] {
        becomes(site, "store", address, &[Outcome::Silence])
            .with_context(|| format!("another tenant's pod, {name}"))?;
    }
    Ok(())
}

/// Makes a Service without a selector. Returns its address.
fn service(site: &Site, name: &str) -> Result<IpAddr> {
    let port = json!({"name": "t", "protocol": "TCP", "port": SERVICE_PORT});
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [port]}});
    site.kubectl().apply(&object.to_string())?;
    let object = site.kubectl().json(["get", "service", name, "-n", NAMESPACE])?;
    Ok(object["spec"]["clusterIP"].as_str().context("an address")?.parse()?)
}

fn slice(endpoints: &[Value]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "stale-1", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "stale"}},
        "addressType": "IPv4",
        "ports": [{"name": "t", "protocol": "TCP", "port": PORT}],
        "endpoints": endpoints,
    })
}

/// Waits until a connection from a pod on node a ends in one of these ways three times in a row.
fn becomes(site: &Site, from: &str, to: IpAddr, wanted: &[Outcome]) -> Result<()> {
    let from = site.world.pod(from, "a")?;
    let start = Instant::now();
    let mut in_a_row = 0;
    while in_a_row < 3 {
        let outcome = from.netns.run(|| probe(Transport::Tcp, None, SocketAddr::new(to, SERVICE_PORT)));
        in_a_row = if wanted.contains(&outcome) { in_a_row + 1 } else { 0 };
        ensure!(start.elapsed() < PATIENCE, "{} to {to}: {outcome:?}, not {wanted:?}", from.label());
    }
    Ok(())
}
