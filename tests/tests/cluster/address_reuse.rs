//! A pod gets the address that another tenant's pod had before.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::wait;
use serde_json::json;
use testbed::host::Family;
use testbed::kube::addresses::give_again;
use testbed::kube::world::{PORT, Pod, is_ready, outside, pod_spec};
use testbed::kube::{PATIENCE, Site};
use testbed::probe::{Outcome, Transport, probe};
use testbed::stream::DatagramStream;

const NODE: &str = "b";
/// The destination port of datagrams, which no other test uses.
const DATAGRAM_PORT: u16 = 7200;
/// The time after which pods of the new owner's tenant must reach it.
const SOON: Duration = Duration::from_secs(5);

/// Three pods in a row have the same addresses: globex's, acme's, and globex's again. Each reaches pods of its own
/// tenant, also on the other node, and none of its predecessor's.
pub(crate) fn inherits_nothing(site: &mut Site) -> Result<()> {
    let mut before: Option<Vec<IpAddr>> = None;
    for (generation, own) in ["globex", "acme", "globex"].into_iter().enumerate() {
        let namespace = format!("{own}-web");
        if let Some(addresses) = &before {
            give_again(site.cluster.node(NODE)?, addresses.iter().copied())?;
            addresses.iter().try_for_each(|address| flush_neighbours(site, *address))?;
        }
        let pod = start(site, &namespace, &format!("successor-{generation}"))?;
        if let Some(addresses) = &before {
            ensure!(
                pod.addresses == *addresses,
                "the pod has {:?}, not its predecessor's addresses {addresses:?}",
                pod.addresses
            );
        }
        reaches_its_tenant_only(site, &pod, own).with_context(|| format!("pod {generation}, of {own}"))?;
        let (namespace, name) = (pod.namespace.as_str(), pod.name.as_str());
        site.kubectl().run(["delete", "pod", "-n", namespace, name, "--grace-period=0", "--force", "--timeout=30s"])?;
        before = Some(pod.addresses.clone());
        drop(pod);
    }
    Ok(())
}

/// Flushes neighbour entries. On a bridge, neighbours keep the old pod's hardware address for up to a minute, with or
/// without an agent. Real clusters reuse addresses less quickly than this test.
fn flush_neighbours(site: &Site, address: IpAddr) -> Result<()> {
    let pods = site.world.pods.iter().filter(|pod| pod.node == NODE).map(|pod| &pod.netns);
    let node = site.world.nodes.iter().filter(|(name, ..)| *name == NODE).map(|(_, netns, _)| netns);
    for netns in pods.chain(node) {
        let mut flush = Command::new("ip");
        flush.args(["neigh", "flush", "to", &address.to_string()]).stderr(Stdio::null());
        ensure!(netns.start(&mut flush)?.wait()?.success(), "cannot flush the neighbours of {}", netns.name());
    }
    Ok(())
}

fn start(site: &Site, namespace: &str, name: &str) -> Result<Pod> {
    let mut spec = pod_spec();
    spec["nodeName"] = json!(NODE);
    let metadata = json!({"name": name, "namespace": namespace});
    site.kubectl()
        .apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).to_string())?;
    let object = wait("a ready pod", PATIENCE, || {
        let object = site.kubectl().json(["get", "pod", "-n", namespace, name])?;
        ensure!(is_ready(&object), "{}", object["status"]);
        Ok(object)
    })?;
    Pod::find(&site.cluster, &object, &[PORT])
}

fn reaches_its_tenant_only(site: &Site, pod: &Pod, own: &str) -> Result<()> {
    let other = if own == "acme" { "globex" } else { "acme" };
    let friend = |tenant: &str, node: &str| site.world.pod(if tenant == "acme" { "shop" } else { "store" }, node);
    for family in Family::ALL {
        let address = pod.address(family)?;
        let stranger = friend(other, "a")?;
        let stream = DatagramStream::between(
            &stranger.netns,
            stranger.address(family)?,
            &pod.netns,
            SocketAddr::new(address, DATAGRAM_PORT),
        )?;
        for node in ["a", "b"] {
            reaches(friend(own, node)?, address).with_context(|| format!("{own}'s pod on {node} to {address}"))?;
            reaches(pod, friend(own, node)?.address(family)?).with_context(|| format!("to {own}'s pod on {node}"))?;
            let theirs = tcp_outcome(pod, friend(other, node)?.address(family)?);
            ensure!(matches!(theirs, Outcome::Silence | Outcome::Unreachable), "{other}'s pod on {node}: {theirs:?}");
        }
        let record = stream.stop();
        ensure!(
            record.sent > 0 && record.arrived.is_empty(),
            "{} of {other}'s datagrams arrived",
            record.arrived.len()
        );
    }
    let (own, other) = if own == "acme" { ("acme-rds", "globex-db") } else { ("globex-db", "acme-efs") };
    reaches(pod, outside(own)?).with_context(|| format!("to {own}"))?;
    let theirs = tcp_outcome(pod, outside(other)?);
    ensure!(matches!(theirs, Outcome::Silence), "{other}: {theirs:?}");
    Ok(())
}

fn tcp_outcome(from: &Pod, to: IpAddr) -> Outcome {
    from.netns.run(|| probe(Transport::Tcp, None, SocketAddr::new(to, PORT)))
}

/// Checks that a pod reaches an address within `SOON`: the other node may learn of a new pod after it is ready.
fn reaches(from: &Pod, to: IpAddr) -> Result<()> {
    let start = Instant::now();
    loop {
        let answer = tcp_outcome(from, to);
        if answer == Outcome::Answered {
            return Ok(());
        }
        ensure!(start.elapsed() < SOON, "{answer:?}");
    }
}
