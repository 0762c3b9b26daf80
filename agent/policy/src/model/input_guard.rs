//! The input guard: which packets of pods may be delivered to the node itself.
//!
//! `from_pod` judges the destination that a pod wrote. The node may translate it to its own address, or deliver a
//! broadcast, an anycast or a decapsulated packet to itself. So everything from a pod is judged once more where the node
//! takes it: by the sender's interface, or behind a bridge by its source address, which `from_pod` has verified. Knows no
//! nftables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use agent_common::addr::{V4, V6};
use agent_common::layout::EndpointEntry;
use agent_common::tenant::TenantState;

use super::cluster::Cluster;
use super::desired::Desired;
use super::guards;
use super::node_openings;
use super::pod::{v4_addr, v6_addr};
use super::ports::TUNNELS;

/// What the guard holds. The default is no guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputRules {
    /// Indexes of interfaces that lead to pods. Everything that arrives there is judged.
    pub interfaces: BTreeSet<u32>,
    /// Addresses of pods. Packets with such a source are judged wherever they arrive.
    pub pods: BTreeSet<IpAddr>,
    /// Addresses of pods that may reach all of the node except its tunnels.
    pub open: BTreeSet<IpAddr>,
    /// What a pod may reach besides.
    pub exact: BTreeSet<InputOpening>,
    /// UDP ports of tunnel devices, which no pod may reach.
    pub tunnels: BTreeSet<u16>,
    /// Indexes of the node's own interfaces. What arrives by an interface that is neither these nor a pod's with programs
    /// reaches no tunnel device: a pod that starts while no agent runs may send any frame.
    pub own: BTreeSet<u32>,
}

/// One port of the node that one pod may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InputOpening {
    /// The pod's address.
    pub pod: IpAddr,
    /// The node's address, after NAT. An address of the other family opens nothing.
    pub to: IpAddr,
    /// The IANA number of the transport protocol; only 6 (TCP) and 17 (UDP) open anything.
    pub protocol: u8,
    /// The destination port, after NAT.
    pub port: u16,
}

impl InputRules {
    /// The rules that deny what these or `next` deny. Written before a change of policy, they close before it opens.
    pub fn between(&self, next: &Self) -> Self {
        Self {
            interfaces: &self.interfaces | &next.interfaces,
            pods: &self.pods | &next.pods,
            open: &self.open & &next.open,
            exact: &self.exact & &next.exact,
            tunnels: &self.tunnels | &next.tunnels,
            // Without the node's own interfaces its overlay would stop.
            own: next.own.clone(),
        }
    }
}

/// Compiles the rules. `entries` are the claims in the kernel, and `attached` the interfaces with programs: others are as
/// open as before.
pub fn compile(
    cluster: &Cluster,
    desired: &Desired,
    entries: &BTreeMap<u32, EndpointEntry>,
    attached: &BTreeSet<u32>,
) -> InputRules {
    if !cluster.settings().input_guard {
        return InputRules::default();
    }
    let is_port = |ifindex: &u32| cluster.links().get(ifindex).is_some_and(|link| link.controller != 0);
    let observed = cluster.links().values().filter_map(|link| link.tunnel_port);
    let mut rules = InputRules {
        interfaces: attached.iter().copied().filter(|ifindex| !is_port(ifindex)).collect(),
        tunnels: TUNNELS.into_iter().chain(observed).collect(),
        own: guards::own_without_pods(cluster).collect(),
        ..InputRules::default()
    };
    let wanted = desired.endpoints.entries.iter().filter(|(ifindex, _)| attached.contains(ifindex));
    for (_, entry) in wanted.clone().chain(entries) {
        rules.pods.extend(addresses(entry));
    }
    for (_, entry) in wanted {
        match may_open_to_nodes(desired, entry) {
            true => rules.open.extend(addresses(entry)),
            false => rules.exact.extend(exact(cluster, desired, entry)),
        }
    }
    rules
}

/// Whether a pod's tenant may open connections to nodes, or is only audited.
fn may_open_to_nodes(desired: &Desired, entry: &EndpointEntry) -> bool {
    let open = TenantState::NODES_ALLOWED | TenantState::SHARED | TenantState::OPEN | TenantState::AUDIT;
    desired.tenants.get(&entry.tenant).is_some_and(|policy| policy.flags & open != 0)
}

/// The ports of this node that a pod's tenant may reach.
fn exact(cluster: &Cluster, desired: &Desired, entry: &EndpointEntry) -> BTreeSet<InputOpening> {
    let mut exact = BTreeSet::new();
    let openings = desired.tenants.get(&entry.tenant).map_or(&[][..], |policy| policy.openings.as_slice());
    for opening in openings.iter().filter(|opening| cluster.is_delivered_here(opening.net.addr())) {
        let to = opening.net.addr();
        for pod in addresses(entry).filter(|pod| pod.is_ipv4() == to.is_ipv4()) {
            let ports = node_openings::each_port(opening);
            exact.extend(ports.map(|(protocol, port)| InputOpening { pod, to, protocol, port }));
        }
    }
    exact
}

/// The addresses from which a pod may send.
fn addresses(entry: &EndpointEntry) -> impl Iterator<Item = IpAddr> {
    let v4 = (entry.v4 != V4::default()).then(|| v4_addr(entry.v4).into());
    let v6 = [entry.v6, entry.link_local].map(|address| (address != V6::default()).then(|| v6_addr(address).into()));
    [v4].into_iter().chain(v6).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::{Change, Link, Tenant};
    use crate::model::settings::Settings;
    use crate::model::testing::{cluster, compiled, ip, link, local, namespace, range, tenant};

    fn rules(settings: Settings, bridged: bool, attached: &[u32]) -> InputRules {
        let bridge = if bridged { 9 } else { 0 };
        let veth = |ifindex, name| Link { controller: bridge, ..link(ifindex, name) };
        let tunnel = Link { tunnel_port: Some(7000), ..link(8, "vxlan0") };
        let changes = vec![
            Change::Tenants(vec![tenant("acme"), Tenant { shared: true, ..tenant("dns") }]),
            Change::Namespaces(vec![namespace("web", "acme"), namespace("dns", "dns")]),
            Change::Links(vec![veth(7, "veth7"), veth(6, "veth6"), tunnel]),
            Change::Endpoints(vec![
                local("web/a", &["10.0.0.1", "fd00::1"], "veth7"),
                local("dns/d", &["10.0.0.2"], "veth6"),
            ]),
        ];
        let cluster = cluster(settings, changes);
        let desired = compiled(&cluster, 0);
        compile(&cluster, &desired, &BTreeMap::new(), &attached.iter().copied().collect())
    }

    fn guarded() -> Settings {
        Settings { input_guard: true, ..Settings::default() }
    }

    #[test]
    fn pods_are_judged_and_only_those_of_tenants_that_may_open_to_nodes_are_let_through() {
        let rules = rules(guarded(), false, &[6, 7]);
        assert_eq!(rules.interfaces, [6, 7].into());
        assert_eq!(rules.pods, ["10.0.0.1", "10.0.0.2", "fd00::1"].map(ip).into());
        assert_eq!(rules.open, [ip("10.0.0.2")].into());
        assert!(rules.tunnels.contains(&7000) && rules.tunnels.contains(&8472));
        assert!(rules.own.contains(&8), "the tunnel device is the node's own");
    }

    #[test]
    fn a_tenant_in_audit_mode_and_every_tenant_with_the_flag_are_let_through() {
        for settings in [Settings { audit: true, ..guarded() }, Settings { allow_nodes: true, ..guarded() }] {
            assert_eq!(rules(settings, false, &[6, 7]).open.len(), 3);
        }
    }

    #[test]
    fn an_exact_entry_opens_its_ports_of_the_node_to_pods_of_its_family() {
        let egress = vec![
            range("192.0.2.1/32", &[53, 443]),
            range("169.254.20.10/32", &[53]),
            range("192.0.2.2/32", &[]),
            range("192.0.2.9/32", &[443]),
            range("0.0.0.0/0", &[22]),
        ];
        let changes = vec![
            Change::Tenants(vec![Tenant { egress, ..tenant("acme") }, tenant("globex")]),
            Change::Nodes(vec![ip("192.0.2.1"), ip("192.0.2.2")]),
            Change::VirtualAddresses(vec![ip("169.254.20.10")]),
            Change::ClusterNodes(vec![ip("192.0.2.9")]),
            Change::Namespaces(vec![namespace("web", "acme"), namespace("shop", "globex")]),
            Change::Links(vec![link(7, "veth7"), link(6, "veth6")]),
            Change::Endpoints(vec![
                local("web/a", &["10.0.0.1", "fd00::1"], "veth7"),
                local("shop/b", &["10.0.0.2"], "veth6"),
            ]),
        ];
        let cluster = cluster(guarded(), changes);
        let rules = compile(&cluster, &compiled(&cluster, 0), &BTreeMap::new(), &[6, 7].into());
        let opening = |(to, port)| InputOpening { pod: ip("10.0.0.1"), to: ip(to), protocol: 6, port };
        let expected = [("192.0.2.1", 53), ("192.0.2.1", 443), ("169.254.20.10", 53)].map(opening);
        assert_eq!(rules.exact, expected.into(), "neither another node's, nor an entry without ports");
    }

    #[test]
    fn an_interface_behind_a_bridge_is_known_by_its_addresses_and_one_without_programs_not_at_all() {
        let bridged = rules(guarded(), true, &[6, 7]);
        assert!(bridged.interfaces.is_empty() && bridged.pods.len() == 3);
        let one = rules(guarded(), false, &[6]);
        assert_eq!((one.interfaces, one.pods), ([6].into(), [ip("10.0.0.2")].into()));
        assert_eq!(rules(Settings::default(), false, &[6, 7]), InputRules::default(), "off");
    }

    #[test]
    fn between_two_rules_nothing_is_open_that_one_of_them_denies() {
        let (old, new) =
            (rules(guarded(), false, &[6]), rules(Settings { allow_nodes: true, ..guarded() }, false, &[7]));
        let between = old.between(&new);
        assert_eq!((between.interfaces, between.pods.len()), ([6, 7].into(), 3));
        assert!(between.open.is_empty(), "{:?}", between.open);
    }
}
