//! Exact entries: the ports of a node that a tenant may reach, such as a node-local DNS cache or the API server.
//!
//! A wide range never opens an address of a node. An `egress` entry of exactly one address does, on the ports that it
//! states itself: ports of wider ranges around it do not count. Knows no node, because an exact entry has no effect where
//! the address is no node's.

use std::collections::{BTreeMap, BTreeSet};
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

/// How many ports of all addresses together a tenant's exact entries open. Further entries open none.
pub const MOST_PORTS: usize = 1_024;

/// What a tenant's exact entries open on nodes.
pub fn compile(tenant: &Tenant) -> Vec<Prefix> {
    let mut count = 0;
    let fits = |opening: &Prefix| {
        let ports = each_port(opening).count();
        let fits = ports > 0 && opening.ports.fits() && count + ports <= MOST_PORTS;
        count += if fits { ports } else { 0 };
        fits
    };
    stated(tenant).filter(fits).collect()
}

/// What the exact entries state, by address.
fn stated(tenant: &Tenant) -> impl Iterator<Item = Prefix> {
    let mut openings: BTreeMap<IpNet, Ports> = BTreeMap::new();
    for range in tenant.egress.iter().filter(|range| is_exact(range)) {
        let ports = openings.entry(range.cidr.trunc()).or_insert_with(Ports::none);
        *ports = ports.union(&ports_of(range));
    }
    openings.into_iter().map(|(net, ports)| Prefix { net, ports, contested: false })
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
    let tenants = cluster.tenants().values().filter(|tenant| !tenant.shared);
    tenants.flat_map(|tenant| without_effect_of(tenant, cluster)).collect()
}

fn without_effect_of(tenant: &Tenant, cluster: &Cluster) -> Vec<Conflict> {
    let opened: BTreeSet<IpAddr> = compile(tenant).iter().map(|opening| opening.net.addr()).collect();
    let names_node = |range: &&Range| is_exact(range) && cluster.nodes().contains(&range.cidr.addr());
    let idle = |range: &&Range| !opened.contains(&range.cidr.addr()) || ports_of(range).is_none();
    let name = &tenant.age.name;
    let conflict = |range: &Range| Conflict {
        tenant: Name::from(name.as_str()),
        kind: ConflictKind::NodeWithoutPorts,
        message: format!(
            "egress entry {} of tenant {name} names {}, an address of a node, and opens nothing there: state TCP or UDP \
             ports, at most {WIDEST_RULE} a rule and {MOST_PORTS} in all",
            range.name,
            range.cidr.addr()
        ),
    };
    tenant.egress.iter().filter(names_node).filter(idle).map(conflict).collect()
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

    #[test]
    fn a_tenant_opens_a_bounded_number_of_ports_and_the_rest_is_reported() {
        let entry = |host: u8| Range { ports: vec![udp(1, WIDEST_RULE)], ..range(&format!("192.0.2.{host}/32"), &[]) };
        let acme = Tenant { egress: (1..=17).map(entry).collect(), ..tenant("acme") };
        assert_eq!(compile(&acme).len(), MOST_PORTS / usize::from(WIDEST_RULE), "16 of 17 addresses");
        let nodes = ["192.0.2.16", "192.0.2.17"].map(ip).to_vec();
        let changes = vec![Change::Tenants(vec![acme]), Change::ClusterNodes(nodes)];
        let reported = without_effect(&cluster(Settings::default(), changes));
        assert!(reported.len() == 1 && reported[0].message.contains("192.0.2.17"), "{reported:?}");
    }
}
