//! Where the locks stand, and whom they know: which interfaces are the node's own.
//!
//! A lock that takes a pod's interface for the node's own is open, and one that takes the node's for a
//! stranger's stops what the node forwards. Neither is decided by a name, nor by anything a pod could
//! bring about: an interface with its other end in a named network namespace is a pod's whatever else
//! is said of it. What the node sends itself passes every lock, so no mistake here can cut it off.

use std::collections::{BTreeMap, BTreeSet};

use agent_common::layout::EndpointEntry;
use agent_common::lock::{Lock, Sender, senders};

use super::cluster::Cluster;
use super::endpoints::{Endpoints, is_pods};
use super::groups::{self, PodsLock};
use super::input::{Link, LinkKind};
use super::settings::Uplinks;

/// What the locks should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    /// Interfaces that hold a lock's program, with their names.
    pub doors: BTreeMap<u32, (Lock, String)>,
    /// The node's own interfaces. A bridge with a lock counts only while it holds its program.
    pub own: BTreeSet<u32>,
    /// Addresses of claimed pods, and behind which interface they are.
    pub senders: BTreeMap<Sender, u32>,
    /// The lock on the control groups of pods; `None`: there shall be none.
    pub pods: Option<PodsLock>,
    /// What is not locked though it should be, each a sentence.
    pub gaps: Vec<String>,
}

/// Compiles the locks. `entries` are the claims that the kernel holds, `attached` interfaces with programs.
pub fn compile(
    cluster: &Cluster,
    endpoints: &Endpoints,
    entries: &BTreeMap<u32, EndpointEntry>,
    attached: &BTreeSet<u32>,
) -> Locks {
    let (pods, gap) = groups::compile(cluster, endpoints, attached);
    let mut locks = Locks { pods, gaps: gap.into_iter().collect(), ..Locks::default() };
    if cluster.settings().uplinks == Uplinks::None {
        return locks;
    }
    for link in cluster.links().values() {
        let bridge = (link.kind == LinkKind::Bridge).then(|| Ports::of(link, cluster));
        if bridge.as_ref().is_some_and(Ports::are_pods) {
            locks.own.insert(link.ifindex);
            locks.doors.insert(link.ifindex, (Lock::Bridge, link.name.clone()));
            continue;
        }
        if bridge.is_some_and(|ports| ports.pods > 0) {
            locks.gaps.push(format!(
                "bridge {} has ports that are not pods': what a pod nobody has claimed yet sends through the node's \
                 own stack from there is not held back",
                link.name
            ));
        }
        if is_own(link, cluster) {
            locks.own.insert(link.ifindex);
            if link.kind != LinkKind::Loopback && is_meant(link, cluster) {
                locks.doors.insert(link.ifindex, (Lock::Uplink, link.name.clone()));
            }
        }
    }
    locks.gaps.extend(switches(cluster).map(|name| {
        format!("pods are ports of {name}, which is no bridge: what rises there from a pod nobody has claimed yet is not held back")
    }));
    let claimed = entries.iter().flat_map(|(ifindex, entry)| senders(entry).map(|sender| (sender, *ifindex)));
    locks.senders = claimed.collect();
    if let Uplinks::Named(names) = &cluster.settings().uplinks {
        let missing = names.iter().filter(|name| !cluster.links().values().any(|link| link.name == **name));
        locks.gaps.extend(missing.map(|name| format!("uplink {name} does not exist: nothing is locked there")));
    }
    locks
}

/// What pods are ports of and is no bridge (Open vSwitch, VRF): there is no lock for it.
fn switches(cluster: &Cluster) -> impl Iterator<Item = &str> {
    let ports = cluster.links().values().filter(|link| link.controller != 0 && is_pods(link, cluster));
    let controllers: BTreeSet<u32> = ports.map(|link| link.controller).collect();
    let found = controllers.into_iter().filter_map(|ifindex| cluster.links().get(&ifindex));
    found.filter(|link| link.kind != LinkKind::Bridge).map(|link| link.name.as_str())
}

/// How many ports of a bridge are pods', and how many are not.
struct Ports {
    pods: usize,
    others: usize,
}

impl Ports {
    fn of(bridge: &Link, cluster: &Cluster) -> Self {
        let ports = cluster.links().values().filter(|link| link.controller == bridge.ifindex);
        let (pods, others): (Vec<&Link>, Vec<&Link>) = ports.partition(|link| is_pods(link, cluster));
        Self { pods: pods.len(), others: others.len() }
    }

    /// A bridge without ports carries nothing yet: the first that comes may be a pod's.
    fn are_pods(&self) -> bool {
        self.others == 0
    }
}

/// Whether an interface is the node's own. One end of a pair whose other end is in a namespace that
/// has no name here may be anybody's; the node's uplink (where the node is itself a namespace) shows
/// by a gateway behind it.
fn is_own(link: &Link, cluster: &Cluster) -> bool {
    if is_pods(link, cluster) {
        return false;
    }
    match link.kind {
        LinkKind::Pair => link.netns.is_some() || link.gateway || is_named(link, cluster),
        LinkKind::Other | LinkKind::Loopback | LinkKind::Bridge => true,
    }
}

/// Whether an interface of the node's own gets the lock on its way out.
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

    fn locks(uplinks: Uplinks, links: Vec<Link>) -> Locks {
        compile(
            &cluster(settings(uplinks), vec![Change::Links(links)]),
            &Endpoints::default(),
            &BTreeMap::new(),
            &BTreeSet::new(),
        )
    }

    fn doors(locks: &Locks, lock: Lock) -> Vec<u32> {
        locks.doors.iter().filter(|(_, (kind, _))| *kind == lock).map(|(ifindex, _)| *ifindex).collect()
    }

    #[test]
    fn everything_but_ends_of_pairs_is_the_node_s_own() {
        let locks = locks(Uplinks::Auto, node());
        assert_eq!(locks.own, [1, 2, BRIDGE, 7, 8].into());
        assert_eq!(doors(&locks, Lock::Uplink), [2, 7, 8], "and not loopback, whence nothing leaves");
        assert_eq!(doors(&locks, Lock::Bridge), [BRIDGE]);
        assert!(locks.gaps.is_empty());
    }

    #[test]
    fn a_route_through_a_pod_makes_its_interface_no_uplink() {
        let mut links = node();
        links[2].gateway = true;
        assert_eq!(locks(Uplinks::Auto, links).own, [1, 2, BRIDGE, 7, 8].into());
    }

    #[test]
    fn without_the_setting_there_is_no_lock() {
        assert_eq!(locks(Uplinks::None, node()), Locks::default());
    }

    #[test]
    fn named_uplinks_are_the_only_ones_and_a_missing_one_is_told() {
        let locks = locks(Uplinks::Named(["eth0".to_owned(), "if4".to_owned(), "eth9".to_owned()].into()), node());
        assert_eq!(doors(&locks, Lock::Uplink), [2, 4]);
        assert_eq!(locks.own, [1, 2, 4, BRIDGE, 7, 8].into(), "what is the node's own is still observed");
        assert!(locks.gaps.len() == 1 && locks.gaps[0].contains("eth9"), "{:?}", locks.gaps);
    }

    #[test]
    fn a_pod_s_interface_cannot_be_named_an_uplink() {
        let locks = locks(Uplinks::Named(["if3".to_owned()].into()), node());
        assert!(!locks.own.contains(&3) && doors(&locks, Lock::Uplink).is_empty());
    }

    #[test]
    fn an_empty_bridge_is_locked_and_one_with_other_ports_is_not_and_says_so() {
        let empty = vec![Link { kind: LinkKind::Bridge, ..link(BRIDGE, "cni0") }];
        assert_eq!(doors(&locks(Uplinks::Auto, empty), Lock::Bridge), [BRIDGE]);
        let mut links = node();
        links[1].controller = BRIDGE;
        let mixed = locks(Uplinks::Auto, links);
        assert!(doors(&mixed, Lock::Bridge).is_empty() && mixed.own.contains(&BRIDGE));
        assert!(mixed.gaps.len() == 1 && mixed.gaps[0].contains("cni0"), "{:?}", mixed.gaps);
        let virtual_machines = vec![
            Link { kind: LinkKind::Bridge, ..link(BRIDGE, "virbr0") },
            Link { controller: BRIDGE, ..link(9, "tap0") },
        ];
        let others = locks(Uplinks::Auto, virtual_machines);
        assert!(others.gaps.is_empty() && others.own == [BRIDGE, 9].into(), "no pod, no gap");
    }

    #[test]
    fn pods_behind_a_switch_that_is_no_bridge_are_a_gap() {
        let links = vec![link(BRIDGE, "ovs-system"), Link { controller: BRIDGE, ..pair(6, Some("cni-6")) }];
        let locks = locks(Uplinks::Auto, links);
        assert!(locks.gaps.len() == 1 && locks.gaps[0].contains("ovs-system"), "{:?}", locks.gaps);
    }

    #[test]
    fn senders_are_the_addresses_of_claims() {
        let entry = EndpointEntry {
            v4: agent_common::addr::V4::new([10, 0, 0, 1]),
            mac: agent_common::addr::Mac::new([2, 0, 0, 0, 0, 1]),
            ..EndpointEntry::default()
        };
        let cluster = cluster(settings(Uplinks::Auto), vec![Change::Links(node())]);
        let locks = compile(&cluster, &Endpoints::default(), &[(3, entry)].into(), &BTreeSet::new());
        assert_eq!(locks.senders.values().copied().collect::<Vec<_>>(), [3, 3]);
    }
}
