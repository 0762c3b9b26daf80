//! A Service of a tenant's own leads its pods to the node itself: the input guard drops what arrives there.
//!
//! No program sees the translated destination, because the node translates a packet before it delivers it. The control
//! is the same Service with the guard switched off, and with an end in the tenant's own pod.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testbed::host::Family;
use testbed::kube::world::{NODE_PORT, PORT};
use testbed::kube::{PATIENCE, Site};
use testbed::probe::{Outcome, Transport, probe};

const NAMESPACE: &str = "acme-web";
/// An unused address in a subnet of acme's, which its pods may reach and its Service names.
const EXTERNAL: &str = "10.41.0.98";
const SERVICE_PORT: u16 = 7300;
/// The sender's node.
const NODE: &str = "a";

/// Runs the test, and removes its Service.
pub(crate) fn is_denied(site: &mut Site) -> Result<()> {
    let ports = json!([{"name": "t", "protocol": "TCP", "port": SERVICE_PORT}]);
    let metadata = json!({"name": "inward", "namespace": NAMESPACE});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {"externalIPs": [EXTERNAL], "ports": ports}});
    site.kubectl().apply(&service.to_string())?;
    let outcome = all(site);
    site.kubectl().run(["delete", "service", "inward", "-n", NAMESPACE, "--wait=false"])?;
    site.kubectl().run(["delete", "endpointslice", "inward-1", "-n", NAMESPACE, "--ignore-not-found"])?;
    outcome
}

fn all(site: &mut Site) -> Result<()> {
    let own_pod = site.world.pod("shop", "b")?.address(Family::V4)?;
    leads_to(site, own_pod, PORT)?;
    becomes(site, Outcome::Answered).context("the control, the tenant's own pod")?;
    for node in ["a", "b"] {
        let (_, _, addresses) = site.world.nodes.iter().find(|(name, ..)| *name == node).context("a node")?;
        let address = *addresses.iter().find(|address| address.is_ipv4()).context("an IPv4 address")?;
        leads_to(site, address, NODE_PORT)?;
        becomes(site, Outcome::Silence).with_context(|| format!("to node {node}"))?;
        if node == NODE {
            let dropped = || dropped(site);
            ensure!(dropped()? > 0.0, "the guard counts nothing");
            remove_table(site)?;
            becomes(site, Outcome::Silence).context("after another process removed the guard")?;
            site.set_input_guard(false)?;
            becomes(site, Outcome::Answered).context("the control, without the guard")?;
            site.set_input_guard(true)?;
            becomes(site, Outcome::Silence).context("with the guard again")?;
        }
    }
    site.settle()
}

/// Writes the endpoint of the Service.
fn leads_to(site: &Site, address: IpAddr, port: u16) -> Result<()> {
    let labels = json!({"kubernetes.io/service-name": "inward"});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "inward-1", "namespace": NAMESPACE, "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "t", "protocol": "TCP", "port": port}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    });
    site.kubectl().apply(&slice.to_string()).map(drop)
}

/// Waits until a connection to the Service's external address ends so three times in a row: kube-proxy and the agent
/// learn of an edit at different times.
fn becomes(site: &Site, wanted: Outcome) -> Result<()> {
    let from = site.world.pod("shop", NODE)?;
    let target = SocketAddr::new(EXTERNAL.parse()?, SERVICE_PORT);
    let start = Instant::now();
    let mut in_a_row = 0;
    while in_a_row < 3 {
        let outcome = from.netns.run(|| probe(Transport::Tcp, None, target));
        in_a_row = if outcome == wanted { in_a_row + 1 } else { 0 };
        ensure!(start.elapsed() < PATIENCE, "{outcome:?}, not {wanted:?}");
    }
    Ok(())
}

fn dropped(site: &Site) -> Result<f64> {
    Ok(site.agent_metrics(NODE)?.sum("bulkhead_guard_drop_packets_total", &[("guard", "input"), ("reason", "node")]))
}

/// Removes the guard's table, as an administrator's script might.
fn remove_table(site: &Site) -> Result<()> {
    let (_, netns, _) = site.world.nodes.iter().find(|(name, ..)| *name == NODE).context("a node")?;
    let mut nft = Command::new("nft");
    nft.args(["delete", "table", "inet", "bulkhead"]).stdout(Stdio::null());
    ensure!(netns.start(&mut nft)?.wait()?.success(), "nft cannot remove the table");
    Ok(())
}
