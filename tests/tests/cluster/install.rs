//! The manifests are applied to a cluster that is full of running pods.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::Cni;
use testbed::host::Family;
use testbed::kube::{Site, kernel};
use testbed::stream::DatagramStream;

/// The destination port of datagrams, which no other test uses.
const DATAGRAM_PORT: u16 = 7300;
/// The longest pause of traffic: pods are denied until they are known, and unassigned until tenants are applied.
const TOLERABLE: Duration = Duration::from_secs(15);

/// Before: every host reaches every other, and the kernel holds nothing of Bulkhead. After: the policy holds for every
/// pod, and every container is the same as before.
pub(crate) fn enforces(site: &mut Site) -> Result<()> {
    for node in site.cluster.nodes() {
        let traces = kernel::look(&node)?;
        ensure!(traces.is_empty(), "node {} already has programs, maps or pins: {traces:?}", node.name());
    }
    let asked = site.settle_open()?;
    let before = site.restarts()?;
    let (from, to) = (site.world.pod("shop", "a")?, site.world.pod("shop", "b")?);
    let (source, target) = (from.address(Family::V4)?, to.address(Family::V4)?);
    let stream = DatagramStream::between(&from.netns, source, &to.netns, SocketAddr::new(target, DATAGRAM_PORT))?;
    site.install()?;
    site.apply_policy()?;
    site.settle()?;
    site.check()?;
    println!("{asked} probes: all got an answer before the installation, and end as the policy states after it");
    let gap = stream.stop().longest_gap();
    ensure!(gap < TOLERABLE, "datagrams within a tenant were interrupted for {gap:?}");
    println!("datagrams within a tenant were interrupted for {} ms", gap.as_millis());
    let after = site.restarts()?;
    let missing: Vec<_> = before.iter().filter(|pod| !after.contains(pod)).collect();
    ensure!(missing.is_empty(), "these pods were restarted or replaced: {missing:?}\nnow: {after:#?}");
    for node in site.cluster.nodes() {
        let traces = kernel::look(&node)?;
        println!("node {}: {traces}", node.name());
        // Two directions a pod that is not on the host's network, and the guards: the uplink, and the bridge if there
        // is one.
        let pods = site.world.pods.iter().filter(|pod| pod.node == node.name()).count() + 1;
        let guards = if site.cni == Cni::Bridge { 2 } else { 1 };
        ensure!(traces.hooks.len() == 2 * pods + guards, "{} pods, and programs at {:?}", pods, traces.hooks);
    }
    site.healthy()
}
