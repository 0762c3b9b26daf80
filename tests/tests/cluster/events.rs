//! Violation events on the agents' standard output name both sides correctly.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::{Cni, wait};
use serde_json::Value;
use testbed::host::Family;
use testbed::kube::expect::Unassigned;
use testbed::kube::world::{Pod, outside};
use testbed::kube::{Site, world};
use testbed::probe::{Outcome, Transport, probe};

/// A port that no other scenario uses, so that its events belong to this one.
const PORT: u16 = 6100;

/// Pods of DaemonSets, a Deployment and a StatefulSet, on the same node and on the other, in both families.
pub(crate) fn name_both_sides(site: &mut Site) -> Result<()> {
    // Earlier scenarios may have used up the event budgets, which recover within this time.
    std::thread::sleep(Duration::from_secs(2));
    let pairs = [
        (("shop", "a"), ("store", "b"), Family::V4),
        (("shop", "a"), ("store", "a"), Family::V6),
        (("batch", "a"), ("ledger", "b"), Family::V4),
        (("ledger", "b"), ("batch", "a"), Family::V6),
    ];
    for ((from, node), (to, far), family) in pairs {
        // On one bridge the denied packet is the ARP request for the other pod, so no TCP packet is sent.
        if site.cni == Cni::Bridge && node == far {
            continue;
        }
        let (from, to) = (site.world.pod(from, node)?, site.world.pod(to, far)?);
        let event = provoked(site, from, to.address(family)?, Transport::Tcp)?;
        ensure!(event["reason"] == "cross_tenant" && event["verdict"] == "dropped", "{event}");
        ensure!(event["direction"] == "egress" && event["node"] == *from.node, "{event}");
        is_pod(&event["source"], from).with_context(|| event.to_string())?;
        is_pod(&event["destination"], to).with_context(|| event.to_string())?;
        ensure!(event["network"]["transport"] == "tcp" && event["count"].as_u64() > Some(0), "{event}");
    }
    Ok(())
}

/// A destination that is no pod has no pod name, and the reason states the violation.
pub(crate) fn name_the_reason(site: &mut Site) -> Result<()> {
    let node = world::of_family(&site.world.nodes[1].2, Family::V4).context("an address")?;
    let cases = [
        ("shop", outside("globex-db")?, "cross_tenant"),
        ("shop", outside("nobodys")?, "off_subnet"),
        ("shop", outside("internet")?, "off_subnet"),
        ("shop", outside("acme-rds")?, "port_denied"),
        ("shop", outside("metadata")?, "metadata_service"),
        ("store", node, "node"),
    ];
    for (from, to, reason) in cases {
        let from = site.world.pod(from, "b")?;
        let event = provoked(site, from, to, Transport::Udp)?;
        ensure!(event["reason"] == reason, "the reason is not {reason}: {event}");
        is_pod(&event["source"], from).with_context(|| event.to_string())?;
        let other = &event["destination"];
        ensure!(other["ip"] == to.to_string() && other["pod"].is_null() && other["kind"] != "pod", "{event}");
    }
    let owned = provoked(site, site.world.pod("shop", "a")?, outside("globex-db")?, Transport::Udp)?;
    ensure!(owned["destination"]["tenant"] == "globex", "the subnet's owner is not named: {owned}");
    let store = |service: &&world::Service| service.namespace == "globex-web" && service.name == "store";
    let store = site.world.services.iter().find(store).context("a Service of globex")?;
    let address = world::of_family(&store.addresses, Family::V4).context("an address")?;
    let service = provoked(site, site.world.pod("shop", "a")?, address, Transport::Tcp)?;
    let named = &service["destination"];
    ensure!(named["kind"] == "service" && named["name"] == "store" && named["tenant"] == "globex", "{service}");
    Ok(())
}

/// A packet of an unassigned pod is reported as audited by the sending node and as dropped by the receiving node. Each
/// agent names both sides.
pub(crate) fn name_both_sides_where_it_arrives(site: &mut Site) -> Result<()> {
    site.set_unassigned(Unassigned::Audit)?;
    let (from, to) = (site.world.pod("stray", "a")?, site.world.pod("shop", "b")?);
    let address = to.address(Family::V4)?;
    let left = provoked(site, from, address, Transport::Tcp)?;
    ensure!(left["verdict"] == "audited" && left["direction"] == "egress", "{left}");
    let arrived = reported(site, "b", from, address)?;
    ensure!(arrived["verdict"] == "dropped" && arrived["direction"] == "ingress", "{arrived}");
    for event in [&left, &arrived] {
        let source = &event["source"];
        ensure!(
            source["namespace"] == "stray" && source["pod"] == *from.name && source["pod_uid"] == *from.uid,
            "{event}"
        );
        ensure!(source["workload"]["kind"] == "DaemonSet" && source["workload"]["name"] == "stray", "{event}");
        is_pod(&event["destination"], to).with_context(|| event.to_string())?;
    }
    Ok(())
}

/// Sends a probe that must get no answer, and returns the events of the sender's node.
fn provoked(site: &Site, from: &Pod, to: IpAddr, transport: Transport) -> Result<Value> {
    let answer = from.netns.run(|| probe(transport, None, SocketAddr::new(to, PORT)));
    ensure!(matches!(answer, Outcome::Silence | Outcome::Unreachable), "{} to {to}: {answer:?}", from.label());
    reported(site, &from.node, from, to)
}

/// The events of a node's agent about the probe.
fn reported(site: &Site, node: &str, from: &Pod, to: IpAddr) -> Result<Value> {
    wait("an event", Duration::from_secs(10), || {
        let ours = |event: &Value| {
            event["destination"]["ip"] == to.to_string()
                && event["destination"]["port"] == PORT
                && event["source"]["pod_uid"] == *from.uid
        };
        site.violations(node)?.into_iter().rfind(ours).context("the agent has not reported it")
    })
    .with_context(|| format!("{} to {to}, on node {node}", from.label()))
}

fn is_pod(side: &Value, pod: &Pod) -> Result<()> {
    let tenant = if pod.namespace.starts_with("acme") { "acme" } else { "globex" };
    let expected =
        [("kind", "pod"), ("tenant", tenant), ("namespace", &pod.namespace), ("pod", &pod.name), ("pod_uid", &pod.uid)];
    for (field, value) in expected {
        ensure!(side[field] == value, "{field} should be {value}: {side}");
    }
    let workload = &side["workload"];
    ensure!(workload["kind"] == *pod.kind && workload["name"] == *pod.app, "{} {}: {side}", pod.kind, pod.app);
    Ok(())
}
