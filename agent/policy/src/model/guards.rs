//! The guards: where they are attached, and which interfaces are the node's own.
//!
//! A guard is open if it takes a pod's interface for the node's own. In the opposite case it drops what the node
//! forwards. So nothing that a pod can influence decides: an interface with its other end in a named network namespace
//! is a pod's, whatever its name and whatever else is known of it. Packets of the node itself pass every guard, so a
//! mistake here cannot cut the node off.

use std::collections::{BTreeMap, BTreeSet};

use agent_common::guard::Guard;
use agent_common::guard::interface::{NODE_IFACES_LISTED, Sender, senders};
use agent_common::layout::EndpointEntry;

use super::cgroup_guard::{self, CgroupGuardState};
use super::cluster::Cluster;
use super::endpoints::{Endpoints, is_pods};
use super::input::{Link, LinkKind};
use super::settings::Uplinks;

/// The guards as they should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// Interfaces that should have a guard's program, with their names.
    pub interfaces: BTreeMap<u32, (Guard, String)>,
    /// The node's own interfaces, and [`NODE_IFACES_LISTED`]. A bridge with a guard counts only while its program is
    /// attached.
    pub own: BTreeSet<u32>,
    /// Addresses of claimed pods, each with the pod's interface.
    pub senders: BTreeMap<Sender, u32>,
    /// The cgroup guard. `None` means that there should be none.
    pub pods: Option<CgroupGuardState>,
    /// What is not guarded although it should be: one message each.
    pub gaps: Vec<String>,
}

/// Compiles the guards. `entries` are the claims in the kernel, and `attached` the interfaces with programs.
pub fn compile(
    cluster: &Cluster,
    endpoints: &Endpoints,
    entries: &BTreeMap<u32, EndpointEntry>,
    attached: &BTreeSet<u32>,
) -> Guards {
    let (pods, gap) = cgroup_guard::compile(cluster, endpoints, attached);
    let mut guards = Guards { pods, gaps: gap.into_iter().collect(), ..Guards::default() };
    let names = endpoints.ports.keys().filter_map(|ifindex| cluster.links().get(ifindex)).filter(|link| link.xdp);
    guards.gaps.extend(names.map(|link| {
        format!(
            "interface {0} of a pod runs an XDP program, which may redirect packets before Bulkhead judges them; find it \
             with `ip link show {0}`, and detach it",
            link.name
        )
    }));
    if cluster.settings().uplinks == Uplinks::None {
        return guards;
    }
    guards.own = own(cluster).collect();
    guards.own.insert(NODE_IFACES_LISTED);
    for link in cluster.links().values() {
        let bridge = (link.kind == LinkKind::Bridge).then(|| BridgePorts::of(link, cluster));
        if bridge.as_ref().is_some_and(BridgePorts::are_pods) {
            guards.interfaces.insert(link.ifindex, (Guard::Bridge, link.name.clone()));
            continue;
        }
        if bridge.is_some_and(|ports| ports.pods > 0) {
            guards.gaps.push(format!(
                "bridge {} gets no guard, because it has ports that are not pods', or is the node's way out: the \
                 node forwards what unclaimed pods behind it send; give the pods a bridge of their own",
                link.name
            ));
        }
        if is_own(link, cluster) && link.kind != LinkKind::Loopback && is_meant(link, cluster) {
            guards.interfaces.insert(link.ifindex, (Guard::Uplink, link.name.clone()));
        }
    }
    guards.gaps.extend(switches(cluster).map(|name| {
        format!(
            "device {name} gets no guard, because it has pods as ports but is no bridge: the node forwards what \
             unclaimed pods behind it send; use a bridge for the pods"
        )
    }));
    let claimed = entries.iter().flat_map(|(ifindex, entry)| senders(entry).map(|sender| (sender, *ifindex)));
    guards.senders = claimed.collect();
    if let Uplinks::Named(names) = &cluster.settings().uplinks {
        let missing = names.iter().filter(|name| !cluster.links().values().any(|link| link.name == **name));
        let message = |name: &String| format!("uplink {name} does not exist, so it gets no guard; correct --uplink");
        guards.gaps.extend(missing.map(message));
    }
    guards
}

/// The node's own interfaces, bridges of pods included.
fn own(cluster: &Cluster) -> impl Iterator<Item = u32> {
    cluster.links().values().filter(|link| is_own(link, cluster)).map(|link| link.ifindex)
}

/// The node's own interfaces by which nothing arrives from a pod.
pub(super) fn own_without_pods(cluster: &Cluster) -> impl Iterator<Item = u32> {
    let has_pods = |link: &&Link| link.kind == LinkKind::Bridge && BridgePorts::of(link, cluster).pods > 0;
    let own = cluster.links().values().filter(|link| is_own(link, cluster));
    own.filter(move |link| !has_pods(link)).map(|link| link.ifindex)
}

/// Devices that have pods as ports but are no bridge (Open vSwitch, VRF). No guard exists for them.
fn switches(cluster: &Cluster) -> impl Iterator<Item = &str> {
    let ports = cluster.links().values().filter(|link| link.controller != 0 && is_pods(link, cluster));
    let controllers: BTreeSet<u32> = ports.map(|link| link.controller).collect();
    let found = controllers.into_iter().filter_map(|ifindex| cluster.links().get(&ifindex));
    found.filter(|link| link.kind != LinkKind::Bridge).map(|link| link.name.as_str())
}

/// How many ports of a bridge are pods', and how many are not.
struct BridgePorts {
    pods: usize,
    others: usize,
}

impl BridgePorts {
    fn of(bridge: &Link, cluster: &Cluster) -> Self {
        let ports = cluster.links().values().filter(|link| link.controller == bridge.ifindex);
        let (pods, others): (Vec<&Link>, Vec<&Link>) = ports.partition(|link| is_pods(link, cluster));
        // The node's way out leads through the bridge, also while its card is no port of it.
        let others = others.len() + usize::from(bridge.gateway);
        Self { pods: pods.len(), others }
    }

    /// Whether all ports are pods'. A guard on the node's way out would cut it off.
    fn are_pods(&self) -> bool {
        self.pods > 0 && self.others == 0
    }

    /// Whether it has no ports. It is nobody's then: its first port may be a pod's.
    fn is_empty(&self) -> bool {
        self.pods + self.others == 0
    }
}

/// Whether an interface is the node's own. A pair whose other end is in a network namespace without a name may be a
/// pod's. If the node is itself a network namespace, its uplink is such a pair, and has a gateway behind it.
fn is_own(link: &Link, cluster: &Cluster) -> bool {
    if is_pods(link, cluster) {
        return false;
    }
    match link.kind {
        LinkKind::Pair => link.netns.is_some() || link.gateway || is_named(link, cluster),
        LinkKind::Bridge => !BridgePorts::of(link, cluster).is_empty(),
        LinkKind::Other | LinkKind::Loopback => true,
    }
}

/// Whether an interface of the node's own gets the uplink guard.
fn is_meant(link: &Link, cluster: &Cluster) -> bool {
    match &cluster.settings().uplinks {
        Uplinks::None => false,
        Uplinks::Auto => true,
        Uplinks::Named(names) => names.contains(&link.name),
    }
}

fn is_named(link: &Link, cluster: &Cluster) -> bool {
    matches!(&cluster.settings().uplinks, Uplinks::Named(names) if names.contains(&link.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::Change;
    use crate::model::settings::Settings;
    use crate::model::testing::{cluster, link};

    const BRIDGE: u32 = 5;

    fn settings(uplinks: Uplinks) -> Settings {
        Settings { uplinks, foreign_netns: ["vpn".to_owned()].into(), ..Settings::default() }
    }

    fn pair(ifindex: u32, netns: Option<&str>) -> Link {
        let netns = netns.map(str::to_owned);
        Link { kind: LinkKind::Pair, netns, ..link(ifindex, &format!("if{ifindex}")) }
    }

    fn node() -> Vec<Link> {
        vec![
            Link { kind: LinkKind::Loopback, ..link(1, "lo") },
            link(2, "eth0"),
            pair(3, Some("cni-3")),
            pair(4, None),
            Link { kind: LinkKind::Bridge, ..link(BRIDGE, "cni0") },
            Link { controller: BRIDGE, ..pair(6, Some("cni-6")) },
            pair(7, Some("vpn")),
            Link { gateway: true, ..pair(8, None) },
        ]
    }

    fn guards(uplinks: Uplinks, links: Vec<Link>) -> Guards {
        compile(
            &cluster(settings(uplinks), vec![Change::Links(links)]),
            &Endpoints::default(),
            &BTreeMap::new(),
            &BTreeSet::new(),
        )
    }

    fn guarded_by(guards: &Guards, guard: Guard) -> Vec<u32> {
        guards.interfaces.iter().filter(|(_, (kind, _))| *kind == guard).map(|(ifindex, _)| *ifindex).collect()
    }

    #[test]
    fn everything_but_ends_of_pairs_is_the_node_s_own() {
        let guards = guards(Uplinks::Auto, node());
        assert_eq!(guards.own, [0, 1, 2, BRIDGE, 7, 8].into());
        assert_eq!(guarded_by(&guards, Guard::Uplink), [2, 7, 8], "not loopback, by which nothing leaves");
        assert_eq!(guarded_by(&guards, Guard::Bridge), [BRIDGE]);
        assert!(guards.gaps.is_empty());
    }

    #[test]
    fn a_route_through_a_pod_makes_its_interface_no_uplink() {
        let mut links = node();
        links[2].gateway = true;
        assert_eq!(guards(Uplinks::Auto, links).own, [0, 1, 2, BRIDGE, 7, 8].into());
    }

    #[test]
    fn without_the_setting_there_is_no_guard() {
        assert_eq!(guards(Uplinks::None, node()), Guards::default());
    }

    #[test]
    fn named_uplinks_are_the_only_ones_and_a_missing_one_is_reported() {
        let guards = guards(Uplinks::Named(["eth0".to_owned(), "if4".to_owned(), "eth9".to_owned()].into()), node());
        assert_eq!(guarded_by(&guards, Guard::Uplink), [2, 4]);
        assert_eq!(guards.own, [0, 1, 2, 4, BRIDGE, 7, 8].into(), "the node's own are still observed");
        assert!(guards.gaps.len() == 1 && guards.gaps[0].contains("eth9"), "{:?}", guards.gaps);
    }

    #[test]
    fn a_pod_s_interface_cannot_be_named_an_uplink() {
        let guards = guards(Uplinks::Named(["if3".to_owned()].into()), node());
        assert!(!guards.own.contains(&3) && guarded_by(&guards, Guard::Uplink).is_empty());
    }

    #[test]
    fn an_empty_bridge_is_nobody_s_and_one_with_other_ports_is_reported() {
        let empty = || Link { kind: LinkKind::Bridge, ..link(BRIDGE, "cni0") };
        let nobodys = guards(Uplinks::Auto, vec![empty()]);
        assert!(nobodys.interfaces.is_empty() && !nobodys.own.contains(&BRIDGE));
        let pod = || Link { controller: BRIDGE, ..pair(6, Some("cni-6")) };
        let way_out = || Link { gateway: true, ..empty() };
        assert_eq!(guarded_by(&guards(Uplinks::Auto, vec![empty(), pod()]), Guard::Bridge), [BRIDGE], "the control");
        for links in [vec![way_out()], vec![way_out(), pod()]] {
            let pods = links.len() - 1;
            let out = guards(Uplinks::Auto, links);
            assert!(guarded_by(&out, Guard::Bridge).is_empty() && out.own.contains(&BRIDGE));
            assert_eq!(out.gaps.len(), pods, "{:?}", out.gaps);
        }
        let mut links = node();
        links[1].controller = BRIDGE;
        let mixed = guards(Uplinks::Auto, links);
        assert!(guarded_by(&mixed, Guard::Bridge).is_empty() && mixed.own.contains(&BRIDGE));
        assert!(mixed.gaps.len() == 1 && mixed.gaps[0].contains("cni0"), "{:?}", mixed.gaps);
        let virtual_machines = vec![
            Link { kind: LinkKind::Bridge, ..link(BRIDGE, "virbr0") },
            Link { controller: BRIDGE, ..link(9, "tap0") },
        ];
        let others = guards(Uplinks::Auto, virtual_machines);
        assert!(others.gaps.is_empty() && others.own == [0, BRIDGE, 9].into(), "no pod, no gap");
    }

    #[test]
    fn pods_behind_a_switch_that_is_no_bridge_are_a_gap() {
        let links = vec![link(BRIDGE, "ovs-system"), Link { controller: BRIDGE, ..pair(6, Some("cni-6")) }];
        let guards = guards(Uplinks::Auto, links);
        assert!(guards.gaps.len() == 1 && guards.gaps[0].contains("ovs-system"), "{:?}", guards.gaps);
    }

    #[test]
    fn an_xdp_program_on_a_pod_s_interface_is_a_gap_also_without_guards() {
        let links = vec![Link { xdp: true, ..link(2, "eth0") }, Link { xdp: true, ..pair(6, Some("cni-6")) }];
        let cluster = cluster(Settings::default(), vec![Change::Links(links)]);
        let endpoints = Endpoints { ports: [(6, "if6".to_owned())].into(), ..Endpoints::default() };
        let gaps = compile(&cluster, &endpoints, &BTreeMap::new(), &BTreeSet::new()).gaps;
        assert!(gaps.len() == 1 && gaps[0].contains("if6"), "{gaps:?}");
    }

    #[test]
    fn senders_are_the_addresses_of_claims() {
        let entry = EndpointEntry {
            v4: agent_common::addr::V4::new([10, 0, 0, 1]),
            mac: agent_common::addr::Mac::new([2, 0, 0, 0, 0, 1]),
            ..EndpointEntry::default()
        };
        let cluster = cluster(settings(Uplinks::Auto), vec![Change::Links(node())]);
        let guards = compile(&cluster, &Endpoints::default(), &[(3, entry)].into(), &BTreeSet::new());
        assert_eq!(guards.senders.values().copied().collect::<Vec<_>>(), [3, 3]);
    }
}
