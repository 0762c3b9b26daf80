//! Exact entries: the ports of a node that a tenant may reach, such as a node-local DNS cache or the API server.
//!
//! A wide range never opens an address of a node. An `egress` entry of exactly one address does, on the ports that it
//! states itself: ports of wider ranges around it do not count. Knows no node, because an exact entry has no effect where
//! the address is no node's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use agent_common::headers::{TCP, UDP};
use agent_common::layout::PortRange;
use ipnet::IpNet;

use super::cluster::Cluster;
use super::input::{Range, Tenant};
use super::name::Name;
use super::ports::{IpFamily, Ports};
use super::prefixes::Prefix;
use super::report::{Conflict, ConflictKind};

/// How many ports a rule of an exact entry opens on a node. The input guard holds each port by itself.
pub const WIDEST_RULE: u16 = 64;

/// What a tenant's exact entries open on nodes.
pub fn compile(tenant: &Tenant) -> Vec<Prefix> {
    let mut openings: BTreeMap<IpNet, Ports> = BTreeMap::new();
    for range in tenant.egress.iter().filter(|range| is_exact(range)) {
        let ports = openings.entry(range.cidr.trunc()).or_insert_with(Ports::none);
        *ports = ports.union(&ports_of(range));
    }
    openings.retain(|_, ports| ports.fits() && !ports.is_none());
    openings.into_iter().map(|(net, ports)| Prefix { net, ports, contested: false }).collect()
}

/// The ports of an opening, one by one: transport protocol and port.
pub fn each_port(opening: &Prefix) -> impl Iterator<Item = (u8, u16)> + '_ {
    let ranges: &[PortRange] = match &opening.ports {
        Ports::Ranges(ranges) => ranges,
        Ports::Any => &[],
    };
    ranges.iter().flat_map(|range| (range.low..=range.high).map(|port| (range.protocol, port)))
}

/// Exact entries for addresses of nodes that open nothing there: they state no port, or too many.
pub fn without_effect(cluster: &Cluster) -> Vec<Conflict> {
    let nodes = cluster.nodes();
    let is_node = |range: &&Range| is_exact(range) && nodes.contains(&range.cidr.addr());
    let conflict = |tenant: &Tenant, range: &Range| {
        let (name, address): (_, IpAddr) = (&tenant.age.name, range.cidr.addr());
        Conflict {
            tenant: Name::from(name.as_str()),
            kind: ConflictKind::NodeWithoutPorts,
            message: format!(
                "egress entry {} of tenant {name} names {address}, an address of a node, and opens nothing there: state \
                 TCP or UDP ports, at most {WIDEST_RULE} a rule",
                range.name
            ),
        }
    };
    let tenants = cluster.tenants().values().map(AsRef::as_ref).filter(|tenant: &&Tenant| !tenant.shared);
    let found = tenants.flat_map(|tenant| tenant.egress.iter().filter(is_node).map(move |range| (tenant, range)));
    found.filter(|(_, range)| ports_of(range).is_none()).map(|(tenant, range)| conflict(tenant, range)).collect()
}

fn is_exact(range: &Range) -> bool {
    range.cidr.prefix_len() == range.cidr.max_prefix_len()
}

/// The ports that an exact entry opens on a node.
fn ports_of(range: &Range) -> Ports {
    let family = if range.cidr.addr().is_ipv4() { IpFamily::V4 } else { IpFamily::V6 };
    let Ports::Ranges(ranges) = Ports::of(&range.ports, family) else { return Ports::none() };
    let opens = |range: &PortRange| matches!(range.protocol, TCP | UDP) && range.high - range.low < WIDEST_RULE;
    Ports::Ranges(ranges.into_iter().filter(opens).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::{Change, PortRule, Protocol};
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
        let openings = compile(&acme);
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
}
