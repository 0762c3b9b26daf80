//! Tests of each guard alone: the agent is stopped (SIGSTOP) before an interface or a pod appears, so no program is
//! attached to it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use cluster::wait;
use serde_json::json;
use testbed::host::Family;
use testbed::kube::world::{PORT, is_ready, items, of_family, pod_spec, text};
use testbed::kube::{PATIENCE, Site};
use testbed::netns::Netns;
use testbed::probe::{Outcome, Transport, probe};

use crate::nri::Stopped;
use crate::unclaimed::Stranger;

const NODE: &str = "a";
/// The destination beyond the uplink guard: the other node, which answers every sender.
const OTHER: &str = "b";
/// The node port that a pod probes: the kubelet's.
const KUBELET: u16 = 10_250;

/// An unclaimed sender gets nothing out of its node, with and without an agent. The node and claimed pods do. With the
/// guard removed by hand the unclaimed sender does too, because the stopped agent cannot restore the guard.
pub(crate) fn stand_alone(site: &mut Site) -> Result<()> {
    let nodes = site.kubectl().json(["get", "nodes"])?;
    let other = items(&nodes).find(|node| text(node, "/metadata/name").ends_with(OTHER)).context("another node")?;
    let other: IpAddr = text(other, "/status/addresses/0/address").parse()?;
    let drops = || {
        Ok::<_, anyhow::Error>(
            site.agent_metrics(NODE)?.sum("bulkhead_guard_drop_packets_total", &[("guard", "uplink")]),
        )
    };
    let guarded = site.agent_metrics(NODE)?.sum("bulkhead_guard_interfaces", &[("guard", "uplink")]);
    ensure!(guarded >= 1.0, "no interface of the node is guarded");
    let (before, pods) = (drops()?, site.world.pod("shop", NODE)?);

    let agent = Stopped::agent_of(site, NODE)?;
    let node = site.cluster.node(NODE)?;
    // An address of the node's own range, to which the other node has a route.
    let IpAddr::V4(shop) = pods.address(Family::V4)? else { unreachable!("it was asked for by family") };
    let [x, y, z, _] = shop.octets();
    let _stranger = Stranger::arrive_with(node, &format!("{x}.{y}.{z}.250"))?;
    let stranger = Netns::at(&node.path("/run/netns/stranger")?, "stranger")?;
    let outcome_of = |transport| stranger.run(|| probe(transport, None, SocketAddr::new(other, PORT)));
    for transport in Transport::ALL {
        let outcome = outcome_of(transport);
        ensure!(outcome == Outcome::Silence, "an unclaimed sender got {outcome:?} over {}", transport.name());
    }
    // At the same time, all other probes end as the policy states.
    site.check().context("while the agent is stopped")?;

    let removed = node.command("sh")?.args(["-ec", "rm /sys/fs/bpf/bulkhead/*/guards/*-uplink"]).output()?;
    ensure!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    let outcome = outcome_of(Transport::Icmp);
    ensure!(outcome == Outcome::Answered, "the control, without the guard, got {outcome:?}");
    agent.goes_on()?;
    wait("the restored guard", PATIENCE, || {
        let pins = node.command("sh")?.args(["-ec", "ls /sys/fs/bpf/bulkhead/*/guards"]).output()?;
        ensure!(String::from_utf8_lossy(&pins.stdout).contains("-uplink"), "no pin of the guard exists");
        Ok(())
    })?;
    ensure!(drops()? > before, "the guard counted no drop");
    site.healthy()
}

/// A pod that starts while the agent is stopped does not even reach its own node, because the guard drops the packets
/// of its sockets. With the guard removed by hand it does. Once the agent continues, the policy applies to the pod.
/// Host-network pods (agents, controllers) send all the time.
pub(crate) fn stand_alone_on_control_groups(site: &mut Site) -> Result<()> {
    let count = |metric| Ok::<_, anyhow::Error>(site.agent_metrics(NODE)?.sum(metric, &[("guard", "cgroup")]));
    ensure!(count("bulkhead_guard_interfaces")? == 1.0, "no guard is attached to the pods' cgroup");
    wait("claims of every pod of the node, including host-network pods", PATIENCE, || {
        let selector = format!("spec.nodeName={NODE},status.phase=Running");
        let pods = site.kubectl().json(["get", "pods", "-A", "--field-selector", &selector])?;
        let claimed = site.agent_metrics(NODE)?.sum("bulkhead_bpf_map_entries", &[("map", "pod_cgroups")]);
        ensure!(claimed as usize == items(&pods).count(), "{claimed} of {} pods are claimed", items(&pods).count());
        Ok(())
    })?;
    let before = count("bulkhead_guard_drop_packets_total")?;
    let address = site.world.nodes.iter().find(|(name, ..)| *name == NODE).map(|(.., addresses)| addresses);
    let node = SocketAddr::new(of_family(address.context("the node")?, Family::V4).context("an address")?, KUBELET);
    let friend = SocketAddr::new(site.world.pod("shop", NODE)?.address(Family::V4)?, PORT);

    let agent = Stopped::agent_of(site, NODE)?;
    let pod = Early::start(site)?;
    ensure!(!pod.reaches(node), "the node answered an unclaimed pod");
    let remove = |what: &str| -> Result<()> {
        let output = site.cluster.node(NODE)?.command("sh")?.args(["-ec", what]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    remove("rm /sys/fs/bpf/bulkhead/*/cgroup/cgroup")?;
    // The kernel releases a link some time after its last pin is removed.
    wait("an answer without the guard", PATIENCE, || {
        ensure!(pod.reaches(node), "the node does not answer");
        Ok(())
    })?;
    agent.goes_on()?;
    wait("the ready pod, and the restored guard", PATIENCE, || {
        ensure!(
            is_ready(&site.kubectl().json(["get", "pod", "-n", Early::NAMESPACE, Early::NAME])?),
            "the pod is not ready"
        );
        remove("ls /sys/fs/bpf/bulkhead/*/cgroup/cgroup")
    })?;
    ensure!(pod.reaches(friend), "a pod of the same tenant did not answer");
    ensure!(!pod.reaches(node), "the node answered");
    ensure!(count("bulkhead_guard_drop_packets_total")? > before, "the guard counted no drop");
    site.check()?;
    site.healthy()
}

/// A pod that starts before the agent.
struct Early<'a>(&'a Site);

impl<'a> Early<'a> {
    const NAMESPACE: &'static str = "acme-jobs";
    const NAME: &'static str = "early";

    /// Waits until its process runs. The pod is not ready yet, because the kubelet's probe gets no answer.
    fn start(site: &'a Site) -> Result<Self> {
        let mut spec = pod_spec();
        spec["nodeName"] = json!(NODE);
        let metadata = json!({"name": Self::NAME, "namespace": Self::NAMESPACE});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        let early = Self(site);
        site.kubectl().apply(&pod.to_string())?;
        wait("a running pod", PATIENCE, || {
            let pod = site.kubectl().json(["get", "pod", "-n", Self::NAMESPACE, Self::NAME])?;
            ensure!(!pod["status"]["containerStatuses"][0]["state"]["running"].is_null(), "{}", pod["status"]);
            Ok(())
        })?;
        Ok(early)
    }

    /// Whether a process of the pod can connect to that address.
    fn reaches(&self, target: SocketAddr) -> bool {
        let target = target.to_string();
        let connect = ["/agnhost", "connect", "--timeout=1500ms", &target];
        self.0.kubectl().exec(Self::NAMESPACE, Self::NAME, &connect).is_ok()
    }
}

impl Drop for Early<'_> {
    fn drop(&mut self) {
        let delete = ["delete", "pod", "-n", Self::NAMESPACE, Self::NAME, "--grace-period=0", "--force"];
        let _ = self.0.kubectl().run(delete);
    }
}
