//! Tests of the removal of Bulkhead, as `deploy/cleanup` documents it.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::wait;
use testbed::kube::{SYSTEM, Site, deploy, kernel};

/// Deleting the agents allows no additional traffic. The cleanup leaves no program, map, filter or pin on a node.
/// Afterwards every host reaches every other, and no pod was restarted.
pub(crate) fn restores(site: &mut Site) -> Result<()> {
    let before = site.restarts()?;
    let nodes = site.cluster.nodes();
    let traces: Vec<_> = nodes.iter().map(kernel::look).collect::<Result<_>>()?;
    ensure!(traces.iter().all(|t| !t.programs.is_empty() && !t.maps.is_empty() && !t.pins.is_empty()), "{traces:?}");

    for node in &nodes {
        ensure!(has_input_guard(site, node.name())?, "node {} has no input guard", node.name());
    }

    site.kubectl().run(["-n", SYSTEM, "delete", "daemonset", "bulkhead", "--timeout=60s"])?;
    wait("no agent", Duration::from_secs(30), || {
        ensure!(["a", "b"].iter().all(|node| site.agent(node).is_err()), "an agent is still there");
        Ok(())
    })?;
    site.check().context("with no agent at all, the last policy holds")?;

    let cleanup = fs::read_to_string(deploy().join("cleanup/daemonset.yaml"))?;
    site.kubectl().apply(&cleanup)?;
    site.kubectl().run(["-n", SYSTEM, "rollout", "status", "daemonset/bulkhead-cleanup", "--timeout=60s"])?;
    for (node, before) in nodes.iter().zip(&traces) {
        let left = kernel::look(node)?;
        ensure!(!has_input_guard(site, node.name())?, "node {} still has the input guard", node.name());
        ensure!(left.is_empty(), "node {} still has {left:?}", node.name());
        wait("freed programs and maps", Duration::from_secs(10), || {
            let (programs, maps) = kernel::remaining(before);
            ensure!(programs.is_empty() && maps.is_empty(), "still loaded: programs {programs:?}, maps {maps:?}");
            Ok(())
        })?;
        println!("node {}: {before} are gone", node.name());
    }
    site.settle_open().context("nothing is denied any more")?;

    let manifest = deploy().join("bulkhead.yaml");
    site.kubectl().run(["delete", "-f", &manifest.display().to_string(), "--ignore-not-found", "--timeout=90s"])?;
    ensure!(site.kubectl().run(["get", "networktenants"]).is_err(), "the custom resource is still defined");
    let after = site.restarts()?;
    let ours = |line: &&String| !line.starts_with(SYSTEM);
    let missing: Vec<_> = before.iter().filter(ours).filter(|pod| !after.contains(pod)).collect();
    ensure!(missing.is_empty(), "these pods were restarted or replaced: {missing:?}");
    site.healthy()
}

/// Whether the table of the input guard exists on a node.
fn has_input_guard(site: &Site, node: &str) -> Result<bool> {
    let (_, netns, _) = site.world.nodes.iter().find(|(name, ..)| *name == node).context("a node")?;
    let mut nft = Command::new("nft");
    nft.args(["list", "tables"]).stdout(Stdio::piped());
    let output = netns.start(&mut nft)?.wait_with_output()?;
    ensure!(output.status.success(), "nft cannot list tables");
    Ok(String::from_utf8_lossy(&output.stdout).contains("table inet bulkhead"))
}
