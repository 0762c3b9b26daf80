//! The manifests are applied to a cluster that is full of running pods.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::Cni;
use testbed::host::Family;
use testbed::kube::{Site, kernel};
use testbed::stream::DatagramStream;

/// The destination port of datagrams, which no other test uses.
const EAR: u16 = 7300;
/// The longest pause of traffic: pods are denied until they are known, and unassigned until tenants are applied.
const TOLERABLE: Duration = Duration::from_secs(15);

/// Before: every host reaches every other, and the kernel holds nothing of ours. After: the policy holds for every pod,
/// and every container is the same as before.
pub fn enforces(site: &mut Site) -> Result<()> {
    for node in site.cluster.nodes() {
        let traces = kernel::look(&node)?;
        ensure!(traces.is_empty(), "node {} is not empty: {traces:?}", node.name());
    }
    let asked = site.settle_open()?;
    let before = site.restarts()?;
    let (from, to) = (site.world.pod("shop", "a")?, site.world.pod("shop", "b")?);
    let (source, target) = (from.address(Family::V4)?, to.address(Family::V4)?);
    let stream = DatagramStream::between(&from.netns, source, &to.netns, SocketAddr::new(target, EAR))?;
    site.install()?;
    site.apply_policy()?;
    site.fast_verdict()?;
    site.check()?;
    println!("{asked} questions: all answered before, as the policy says after");
    let gap = stream.stop().longest_gap();
    ensure!(gap < TOLERABLE, "a tenant's own pods did not hear each other for {gap:?}");
    println!("a tenant's own pods did not hear each other for {} ms", gap.as_millis());
    let after = site.restarts()?;
    let missing: Vec<_> = before.iter().filter(|pod| !after.contains(pod)).collect();
    ensure!(missing.is_empty(), "these pods are not the same any more: {missing:?}\nnow: {after:#?}");
    for node in site.cluster.nodes() {
        let traces = kernel::look(&node)?;
        println!("node {}: {traces}", node.name());
        // Two directions a pod that is not on the host's network, and the guards: the uplink, and the bridge if there is one.
        let pods = site.world.pods.iter().filter(|pod| pod.node == node.name()).count() + 1;
        let guards = if site.cni == Cni::Bridge { 2 } else { 1 };
        ensure!(traces.hooks.len() == 2 * pods + guards, "{} pods, and programs at {:?}", pods, traces.hooks);
    }
    site.healthy()
}
