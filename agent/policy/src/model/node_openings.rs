//! Exact entries: the ports of a node that a tenant may reach, such as a node-local DNS cache or the API server.
//!
//! A wide range never opens an address of a node. An `egress` entry of exactly one address does, on the ports that it
//! states itself: ports of wider ranges around it do not count. Knows no node, because an exact entry has no effect where
//! the address is no node's.

use std::collections::{BTreeMap, BTreeSet};

use agent_common::layout::PortRange;
use ipnet::IpNet;

use super::cluster::Cluster;
use super::input::{PortRule, Protocol, Range, Tenant};
use super::name::Name;
use super::ports::{IpFamily, Ports, TUNNELS};
use super::prefixes::Prefix;
use super::report::{Conflict, ConflictKind};

/// How many ports a rule of an exact entry opens on a node, at most. The input guard holds each port by itself.
pub const WIDEST_RULE: u16 = 64;
/// How many ports of all addresses together a tenant's exact entries open. Entries beyond that open none.
pub const MOST_PORTS: usize = 128;

/// What the exact entries of a tenant open on nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeOpenings {
    /// The ports of each address.
    pub openings: Vec<Prefix>,
    /// Indices of the `egress` entries with a rule that opens nothing on nodes.
    idle: BTreeSet<usize>,
}

/// Compiles the exact entries of a tenant, in their order in the object: a further entry never closes an earlier one.
pub fn compile(tenant: &Tenant) -> NodeOpenings {
    let mut compiled = NodeOpenings::default();
    let mut openings: BTreeMap<IpNet, Ports> = BTreeMap::new();
    let mut left = MOST_PORTS;
    for (at, range) in tenant.egress.iter().enumerate().filter(|(_, range)| is_exact(range)) {
        let rules: Vec<PortRule> = range.ports.iter().copied().filter(opens).collect();
        let count: usize = rules.iter().map(|rule| usize::from(rule.high - rule.low) + 1).sum();
        let opened = openings.entry(range.cidr.trunc()).or_insert_with(Ports::none);
        let together = opened.union(&Ports::of(&rules, family(range)));
        let fits = !rules.is_empty() && count <= left && together.fits();
        if fits {
            left -= count;
            *opened = together;
        }
        if !fits || rules.len() < range.ports.len() {
            compiled.idle.insert(at);
        }
    }
    let opening = |(net, ports)| Prefix { net, ports, contested: false };
    compiled.openings = openings.into_iter().filter(|(_, ports)| !ports.is_none()).map(opening).collect();
    compiled
}

/// The ports of an opening, one by one: transport protocol and port.
pub fn each_port(opening: &Prefix) -> impl Iterator<Item = (u8, u16)> + '_ {
    let ranges: &[PortRange] = match &opening.ports {
        Ports::Ranges(ranges) => ranges,
        Ports::Any => &[],
    };
    ranges.iter().flat_map(|range| (range.low..=range.high).map(|port| (range.protocol, port)))
}

/// Exact entries for addresses of nodes with a rule that opens nothing there.
pub fn without_effect(cluster: &Cluster) -> Vec<Conflict> {
    let tenants = cluster.tenants().values().filter(|tenant| !tenant.shared);
    tenants.flat_map(|tenant| without_effect_of(tenant, cluster)).collect()
}

fn without_effect_of(tenant: &Tenant, cluster: &Cluster) -> Vec<Conflict> {
    let name = &tenant.age.name;
    let conflict = |range: &Range| Conflict {
        tenant: Name::from(name.as_str()),
        kind: ConflictKind::NodeWithoutPorts,
        message: format!(
            "egress entry {} of tenant {name} names {}, an address of a node, and not all of its rules open something \
             there: state TCP or UDP ports, at most {WIDEST_RULE} a rule and {MOST_PORTS} in all, and none of a tunnel",
            range.name,
            range.cidr.addr()
        ),
    };
    let idle = compile(tenant).idle.into_iter().filter_map(|at| tenant.egress.get(at));
    idle.filter(|range| cluster.nodes().contains(&range.cidr.addr())).map(conflict).collect()
}

fn is_exact(range: &Range) -> bool {
    range.cidr.prefix_len() == range.cidr.max_prefix_len()
}

fn family(range: &Range) -> IpFamily {
    if range.cidr.addr().is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }
}

/// Whether a rule opens ports of nodes. Nothing of a pod reaches what unwraps packets.
fn opens(rule: &PortRule) -> bool {
    let is_narrow = rule.low <= rule.high && rule.high - rule.low < WIDEST_RULE;
    match rule.protocol {
        Protocol::Tcp => is_narrow,
        Protocol::Udp => is_narrow && !TUNNELS.iter().any(|port| (rule.low..=rule.high).contains(port)),
        Protocol::Sctp | Protocol::Icmp => false,
    }
}

#[cfg(test)]
mod tests {
    use agent_common::headers::{TCP, UDP};

    use super::*;
    use crate::model::input::Change;
    use crate::model::settings::Settings;
    use crate::model::testing::{cluster, ip, range, tenant};

    fn udp(low: u16, high: u16) -> PortRule {
        PortRule { protocol: Protocol::Udp, low, high }
    }

    #[test]
    fn only_exact_entries_with_ports_open_nodes_and_only_on_their_own_ports() {
        let with = |cidr, ports| Range { ports, ..range(cidr, &[]) };
        let egress = vec![
            range("0.0.0.0/0", &[]),
            range("192.0.2.1/32", &[443, 444]),
            with("192.0.2.1/32", vec![udp(53, 53)]),
            range("192.0.2.2/32", &[]),
            with("192.0.2.3/32", vec![udp(1000, 1000 + WIDEST_RULE)]),
            with("192.0.2.4/32", vec![PortRule { protocol: Protocol::Icmp, low: 0, high: u16::MAX }]),
            range("192.0.2.6/31", &[443]),
            range("fd00::1/128", &[53]),
        ];
        let acme = Tenant { egress, ..tenant("acme") };
        let openings = compile(&acme).openings;
        let ports: Vec<_> =
            openings.iter().map(|one| (one.net.to_string(), each_port(one).collect::<Vec<_>>())).collect();
        let expected = [
            ("192.0.2.1/32".to_owned(), vec![(TCP, 443), (TCP, 444), (UDP, 53)]),
            ("fd00::1/128".to_owned(), vec![(TCP, 53)]),
        ];
        assert_eq!(ports, expected);
        let nodes = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.6"].map(ip).to_vec();
        let changes = vec![Change::Tenants(vec![acme]), Change::ClusterNodes(nodes)];
        let reported = without_effect(&cluster(Settings::default(), changes));
        assert_eq!(reported.len(), 2, "{reported:?}");
        assert!(reported[0].message.contains("192.0.2.2") && reported[1].message.contains("192.0.2.3"), "{reported:?}");
    }

    #[test]
    fn a_rule_that_opens_nothing_is_reported_and_closes_no_other_rule() {
        let entry = |host: u8, ports| Range { ports, ..range(&format!("192.0.2.{host}/32"), &[]) };
        let wide = |low| udp(low, low + WIDEST_RULE - 1);
        let egress = vec![
            entry(9, vec![wide(1), wide(1 + WIDEST_RULE)]),
            entry(1, vec![udp(53, 53)]),
            entry(2, vec![udp(8472, 8472)]),
            entry(9, vec![udp(53, 53), udp(1000, 3000)]),
        ];
        let acme = Tenant { egress, ..tenant("acme") };
        let compiled = compile(&acme);
        let ports: Vec<_> = compiled.openings.iter().map(|one| (one.net.to_string(), each_port(one).count())).collect();
        assert_eq!(
            ports,
            [("192.0.2.9/32".to_owned(), 2 * usize::from(WIDEST_RULE))],
            "the first entry takes all there is"
        );
        assert_eq!(compiled.idle, [1, 2, 3].into(), "no port is left, a tunnel's, and a wide one");
        let nodes = ["192.0.2.1", "192.0.2.9"].map(ip).to_vec();
        let reported = without_effect(&cluster(
            Settings::default(),
            vec![Change::Tenants(vec![acme]), Change::ClusterNodes(nodes)],
        ));
        assert_eq!(reported.len(), 2, "two of the three name a node: {reported:?}");
    }
}
