//! The lock on what leaves a node, alone: the agent is stopped (SIGSTOP) before an interface appears, so that no program is
//! ever put on it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use bench::kube::Site;
use bench::kube::world::{PORT, items, text};
use bench::netns::Netns;
use bench::place::Family;
use bench::probe::{Outcome, Speech, ask};

use crate::nri::Stopped;
use crate::strangers::Stranger;

const NODE: &str = "a";
/// Where a way out of a node ends that a lock can shut: the other node, which answers everybody.
const OTHER: &str = "b";

/// A sender nobody has claimed gets nothing out of its node, agent or no agent; the node, its probes and claimed pods do.
/// With the lock removed by hand it does, which nobody notices who would have put it back.
pub fn stand_alone(site: &mut Site) -> Result<()> {
    let nodes = site.kubectl().json(["get", "nodes"])?;
    let other = items(&nodes).find(|node| text(node, "/metadata/name").ends_with(OTHER)).context("another node")?;
    let other: IpAddr = text(other, "/status/addresses/0/address").parse()?;
    let drops = || {
        Ok::<_, anyhow::Error>(site.agent_metrics(NODE)?.sum("bulkhead_lock_drop_packets_total", &[("lock", "uplink")]))
    };
    let shut = site.agent_metrics(NODE)?.sum("bulkhead_lock_interfaces", &[("lock", "uplink")]);
    ensure!(shut >= 1.0, "no interface of the node is locked");
    let (before, pods) = (drops()?, site.world.pod("shop", NODE)?);

    let agent = Stopped::agent_of(site, NODE)?;
    let node = site.cluster.node(NODE)?;
    // An address of the node's own range, to which the other node knows the way back.
    let IpAddr::V4(shop) = pods.address(Family::V4)? else { unreachable!("it was asked for by family") };
    let [x, y, z, _] = shop.octets();
    let _stranger = Stranger::arrive_with(node, &format!("{x}.{y}.{z}.250"))?;
    let stranger = Netns::at(&node.path("/run/netns/stranger")?, "stranger")?;
    let asked = |speech| stranger.run(|| ask(speech, None, SocketAddr::new(other, PORT)));
    for speech in Speech::ALL {
        let outcome = asked(speech);
        ensure!(outcome == Outcome::Silence, "a stranger got {outcome:?} over {}", speech.name());
    }
    // The same node at the same moment: claimed pods of all tenants, the node and those outside.
    site.check().context("while the agent is stopped")?;

    let removed = node.command("sh")?.args(["-ec", "rm /sys/fs/bpf/bulkhead/*/locks/*-uplink"]).output()?;
    ensure!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    let outcome = asked(Speech::Icmp);
    ensure!(outcome == Outcome::Answered, "the control, without the lock, got {outcome:?}");
    agent.goes_on()?;
    cluster::wait("the lock to be put back", bench::kube::PATIENCE, || {
        let pins = node.command("sh")?.args(["-ec", "ls /sys/fs/bpf/bulkhead/*/locks"]).output()?;
        ensure!(String::from_utf8_lossy(&pins.stdout).contains("-uplink"), "there is none");
        Ok(())
    })?;
    ensure!(drops()? > before, "nothing was counted");
    site.healthy()
}
