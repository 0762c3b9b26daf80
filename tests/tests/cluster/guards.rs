//! Each guard alone: the agent is stopped (SIGSTOP) before an interface or a pod appears, so no program is attached to it.

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
pub fn stand_alone(site: &mut Site) -> Result<()> {
    let nodes = site.kubectl().json(["get", "nodes"])?;
    let other = items(&nodes).find(|node| text(node, "/metadata/name").ends_with(OTHER)).context("another node")?;
    let other: IpAddr = text(other, "/status/addresses/0/address").parse()?;
    let drops = || {
        Ok::<_, anyhow::Error>(
            site.agent_metrics(NODE)?.sum("bulkhead_guard_drop_packets_total", &[("guard", "uplink")]),
        )
    };
    let shut = site.agent_metrics(NODE)?.sum("bulkhead_guard_interfaces", &[("guard", "uplink")]);
    ensure!(shut >= 1.0, "no interface of the node is guarded");
    let (before, pods) = (drops()?, site.world.pod("shop", NODE)?);

    let agent = Stopped::agent_of(site, NODE)?;
    let node = site.cluster.node(NODE)?;
    // An address of the node's own range, to which the other node has a route.
    let IpAddr::V4(shop) = pods.address(Family::V4)? else { unreachable!("it was asked for by family") };
    let [x, y, z, _] = shop.octets();
    let _stranger = Stranger::arrive_with(node, &format!("{x}.{y}.{z}.250"))?;
    let stranger = Netns::at(&node.path("/run/netns/stranger")?, "stranger")?;
    let asked = |transport| stranger.run(|| probe(transport, None, SocketAddr::new(other, PORT)));
    for transport in Transport::ALL {
        let outcome = asked(transport);
        ensure!(outcome == Outcome::Silence, "a stranger got {outcome:?} over {}", transport.name());
    }
    // The same node at the same moment: claimed pods of all tenants, the node and those outside.
    site.check().context("while the agent is stopped")?;

    let removed = node.command("sh")?.args(["-ec", "rm /sys/fs/bpf/bulkhead/*/guards/*-uplink"]).output()?;
    ensure!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    let outcome = asked(Transport::Icmp);
    ensure!(outcome == Outcome::Answered, "the control, without the guard, got {outcome:?}");
    agent.goes_on()?;
    wait("the guard to be put back", PATIENCE, || {
        let pins = node.command("sh")?.args(["-ec", "ls /sys/fs/bpf/bulkhead/*/guards"]).output()?;
        ensure!(String::from_utf8_lossy(&pins.stdout).contains("-uplink"), "there is none");
        Ok(())
    })?;
    ensure!(drops()? > before, "nothing was counted");
    site.healthy()
}

/// A pod that starts while the agent is stopped does not even reach its own node: the guard stops its sockets. With the
/// guard removed by hand it does. Once the agent continues, the pod is served like any other. Host-network pods (agents,
/// controllers) send all the time.
pub fn stand_alone_on_control_groups(site: &mut Site) -> Result<()> {
    let count = |metric| Ok::<_, anyhow::Error>(site.agent_metrics(NODE)?.sum(metric, &[("guard", "cgroup")]));
    ensure!(count("bulkhead_guard_interfaces")? == 1.0, "no guard stands on the pods' control groups");
    wait("every pod of the node to be claimed, those on its network too", PATIENCE, || {
        let selector = format!("spec.nodeName={NODE},status.phase=Running");
        let pods = site.kubectl().json(["get", "pods", "-A", "--field-selector", &selector])?;
        let claimed = site.agent_metrics(NODE)?.sum("bulkhead_bpf_map_entries", &[("map", "pod_cgroups")]);
        ensure!(claimed as usize == items(&pods).count(), "{claimed} are, of {}", items(&pods).count());
        Ok(())
    })?;
    let before = count("bulkhead_guard_drop_packets_total")?;
    let address = site.world.nodes.iter().find(|(name, ..)| *name == NODE).map(|(.., addresses)| addresses);
    let node = SocketAddr::new(of_family(address.context("the node")?, Family::V4).context("an address")?, KUBELET);
    let friend = SocketAddr::new(site.world.pod("shop", NODE)?.address(Family::V4)?, PORT);

    let agent = Stopped::agent_of(site, NODE)?;
    let pod = Early::start(site)?;
    ensure!(!pod.reaches(node), "its node answered a pod nobody has claimed");
    let remove = |what: &str| -> Result<()> {
        let output = site.cluster.node(NODE)?.command("sh")?.args(["-ec", what]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    remove("rm /sys/fs/bpf/bulkhead/*/cgroup/cgroup")?;
    // The kernel releases a link some time after its last pin is removed.
    wait("an answer without the guard", PATIENCE, || {
        ensure!(pod.reaches(node), "there is none");
        Ok(())
    })?;
    agent.goes_on()?;
    wait("the pod to be served, and the guard to be put back", PATIENCE, || {
        ensure!(
            is_ready(&site.kubectl().json(["get", "pod", "-n", Early::NAMESPACE, Early::NAME])?),
            "it is not ready"
        );
        remove("ls /sys/fs/bpf/bulkhead/*/cgroup/cgroup")
    })?;
    ensure!(pod.reaches(friend), "its own tenant did not answer");
    ensure!(!pod.reaches(node), "its node answered");
    ensure!(count("bulkhead_guard_drop_packets_total")? > before, "nothing was counted");
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
