//! What pods send to the node itself: the input guard drops it unless an exact entry of the tenant names the port.
//!
//! A Service of a tenant's own may lead its pods there.
//! No program sees the translated destination, because the node translates a packet before it delivers it. The control
//! is the same Service with the guard switched off, and with an end in the tenant's own pod.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::host::Family;
use testbed::kube::world::{NODE_PORT, PORT, text};
use testbed::kube::{PATIENCE, Site};
use testbed::probe::{Outcome, Transport, connects, probe};

const NAMESPACE: &str = "acme-web";
/// An unused address in a subnet of acme's, which its pods may reach and its Service names.
const EXTERNAL: &str = "10.41.0.98";
const SERVICE_PORT: u16 = 7300;
/// A port of the nodes that no entry names: the kubelet's.
const KUBELET: u16 = 10_250;
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

/// An exact egress entry with ports opens these ports of a node, and of the API server, to the tenant that has it.
pub(crate) fn is_opened_by_exact_entries(site: &mut Site) -> Result<()> {
    let tenant = site.kubectl().json(["get", "networktenant", "acme"])?;
    let before = tenant["spec"]["egress"].clone();
    let outcome = opens_ports(site, &before);
    entries(site, &before)?;
    outcome?;
    site.settle()
}

fn opens_ports(site: &Site, before: &Value) -> Result<()> {
    let service = site.kubectl().json(["get", "service", "-n", "default", "kubernetes"])?;
    let slices = site.kubectl().json(["get", "endpointslices", "-n", "default", "kubernetes"])?;
    let api_port = slices["ports"][0]["port"].as_u64().context("a port of the API server")?;
    let api: IpAddr = text(&service, "/spec/clusterIP").parse()?;
    let api_end: IpAddr = text(&slices, "/endpoints/0/addresses/0").parse()?;
    let ends = site.world.nodes.iter().flat_map(|(.., addresses)| addresses.iter().copied()).filter(IpAddr::is_ipv4);
    let nodes: Vec<IpAddr> = ends.collect();
    let opened: Vec<SocketAddr> = nodes.iter().map(|node| SocketAddr::new(*node, NODE_PORT)).collect();
    let kubelets: Vec<SocketAddr> = nodes.iter().map(|node| SocketAddr::new(*node, KUBELET)).collect();
    let entry = |name: &str, addresses: &[IpAddr], port: u64| {
        let cidrs: Vec<String> = addresses.iter().map(|address| format!("{address}/32")).collect();
        json!({"name": name, "cidrs": cidrs, "ports": [{"protocol": "TCP", "port": port}]})
    };
    let added = [
        entry("node-port", &nodes, NODE_PORT.into()),
        entry("api", &[api], 443),
        entry("api-end", &[api_end], api_port),
    ];
    let api = SocketAddr::new(api, 443);
    let closed = || {
        opened
            .iter()
            .chain(&kubelets)
            .chain([&api])
            .try_for_each(|target| connection_becomes(site, *target, Outcome::Silence))
    };
    closed().context("before the entries")?;
    let old = before.as_array().map_or(&[][..], Vec::as_slice);
    entries(site, &old.iter().cloned().chain(added).collect::<Value>())?;
    opened.iter().chain([&api]).try_for_each(|target| connection_becomes(site, *target, Outcome::Answered))?;
    kubelets.iter().try_for_each(|target| connection_becomes(site, *target, Outcome::Silence))?;
    entries(site, before)?;
    closed().context("after the entries")
}

/// Gives the tenant these egress entries.
fn entries(site: &Site, egress: &Value) -> Result<()> {
    let patch = json!({"spec": {"egress": egress}}).to_string();
    site.kubectl().run(["patch", "networktenant", "acme", "--type=merge", "-p", &patch]).map(drop)
}

/// Waits until the pod's connections to a server end so three times in a row.
fn connection_becomes(site: &Site, target: SocketAddr, wanted: Outcome) -> Result<()> {
    let from = site.world.pod("shop", NODE)?;
    three_times(wanted, || from.netns.run(|| connects(None, target))).with_context(|| format!("to {target}"))
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
    three_times(wanted, || from.netns.run(|| probe(Transport::Tcp, None, target)))
}

fn three_times(wanted: Outcome, try_once: impl Fn() -> Outcome) -> Result<()> {
    let start = Instant::now();
    let mut in_a_row = 0;
    while in_a_row < 3 {
        let outcome = try_once();
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
