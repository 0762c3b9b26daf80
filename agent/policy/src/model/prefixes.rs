//! Prefixes: what one tenant may reach outside the cluster, for a longest-prefix match.
//!
//! Knows no number of a row or port set. The match uses only the longest prefix. So each prefix has the permissions of
//! every wider one around it: a narrow entry adds to a wide one and never replaces it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::name::Name;
use super::ownership::Ownership;
use super::ports::{IpFamily, Ports};
use super::report::{Conflict, ConflictKind};
use super::tenancy::Member;

/// One prefix and what it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The range.
    pub net: IpNet,
    /// What is allowed there, with the permissions of wider ranges. It is never empty, and fits in a port set.
    pub ports: Ports,
    /// Whether part of it has another owner.
    pub contested: bool,
}

/// A tenant's prefixes, longest first and then by address, and what was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// IPv4.
    pub v4: Vec<Prefix>,
    /// IPv6.
    pub v6: Vec<Prefix>,
    /// Ranges with too many ports.
    pub conflicts: Vec<Conflict>,
}

/// Compiles a tenant's granted subnets and its egress ranges. A Shared tenant also gets the ranges of pods and
/// Services, so it reaches pods that this node does not know.
pub fn compile(tenant: &Member, ownership: &Ownership, metadata: &BTreeSet<IpAddr>) -> Prefixes {
    let name = Name::from(tenant.age().map_or("", |age| age.name.as_str()));
    let mut compiled = Prefixes::default();
    let open: Vec<IpNet> = if tenant.is_shared() { ownership.of_pods_and_services() } else { Vec::new() };
    let own = own_ranges(tenant, &open, ownership, &name, &mut compiled.conflicts);
    let mut nest: Vec<(IpNet, Ports, bool)> = Vec::new();
    let mut prefixes = Vec::new();
    // The ranges are sorted by address and then length, so every range follows those around it.
    for (net, ports) in own {
        while nest.last().is_some_and(|(outer, ..)| !outer.contains(&net)) {
            nest.pop();
        }
        let contested = ownership.is_contested(&net, &name) && !is_inside(&open, &net);
        let around = nest.last();
        let all = around.map_or_else(|| ports.clone(), |(_, outer, _)| outer.union(&ports));
        if !all.fits() {
            compiled.conflicts.push(too_many(&name, &net, "together with the wider ranges around it"));
            continue;
        }
        let same = around.is_some_and(|(_, outer, outer_contested)| *outer == all && *outer_contested == contested);
        if !same || is_listed_exactly(&net, metadata) {
            prefixes.push(Prefix { net, ports: all.clone(), contested });
        }
        nest.push((net, all, contested));
    }
    prefixes.sort_by_key(|prefix| (std::cmp::Reverse(prefix.net.prefix_len()), prefix.net));
    (compiled.v4, compiled.v6) = prefixes.into_iter().partition(|prefix| prefix.net.addr().is_ipv4());
    compiled
}

/// Whether one of these ranges, which are disjoint and sorted, contains `net`.
fn is_inside(ranges: &[IpNet], net: &IpNet) -> bool {
    let after = ranges.partition_point(|range| range.network() <= net.network());
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|range| range.contains(net))
}

/// Ranges by address, equal ones merged. Ranges with too many ports are reported and left out.
fn own_ranges(
    tenant: &Member,
    open: &[IpNet],
    ownership: &Ownership,
    name: &Name,
    conflicts: &mut Vec<Conflict>,
) -> BTreeMap<IpNet, Ports> {
    let (subnets, egress) = tenant
        .object
        .as_ref()
        .map_or((&[][..], &[][..]), |object| (object.subnets.as_slice(), object.egress.as_slice()));
    let granted = ownership.granted(name).iter().filter_map(|at| subnets.get(*at));
    let mut ranges: BTreeMap<IpNet, Ports> = BTreeMap::new();
    ranges.extend(open.iter().map(|net| (*net, Ports::of(&[], family(net)))));
    for range in granted.chain(egress).filter(|range| !ownership.is_unplaced(&range.cidr)) {
        let ports = Ports::of(&range.ports, family(&range.cidr));
        let all = ranges.entry(range.cidr.trunc()).or_insert_with(Ports::none);
        *all = all.union(&ports);
    }
    ranges.retain(|net, ports| {
        if !ports.fits() {
            conflicts.push(too_many(name, net, "after merging"));
        }
        ports.fits() && !ports.is_none()
    });
    ranges
}

/// Whether a range is exactly one metadata address. Only such a range opens the address, so it is never merged into a
/// wider one.
fn is_listed_exactly(net: &IpNet, metadata: &BTreeSet<IpAddr>) -> bool {
    net.prefix_len() == net.max_prefix_len() && metadata.contains(&net.addr())
}

fn family(net: &IpNet) -> IpFamily {
    if net.addr().is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }
}

fn too_many(tenant: &Name, net: &IpNet, when: &str) -> Conflict {
    let message = format!(
        "range {net} of tenant {tenant} has more than {} port ranges {when}: its ports grant nothing; \
         use fewer or wider port ranges",
        agent_common::layout::PORT_RANGES
    );
    Conflict { tenant: tenant.clone(), kind: ConflictKind::TooManyPorts, message }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::input::{Change, PortRule, Protocol, Range, Tenant};
    use crate::model::settings::Settings;
    use crate::model::tenancy::TenantOrigin;
    use crate::model::testing::{cluster, range, tenant};

    /// `net ports [!]` of everything `acme` may reach, beside a tenant that owns 10.9.0.0/16.
    fn lines(subnets: &[Range], egress: &[Range]) -> (Vec<String>, Vec<Conflict>) {
        let acme = Tenant { subnets: subnets.to_vec(), egress: egress.to_vec(), ..tenant("acme") };
        let other = Tenant { subnets: vec![range("10.9.0.0/16", &[])], ..tenant("aaa-older") };
        let cluster = cluster(Settings::default(), vec![Change::Tenants(vec![acme.clone(), other])]);
        let acme = Member { origin: TenantOrigin::Object, object: Some(Arc::new(acme)), local: true };
        let compiled = compile(&acme, &Ownership::new(&cluster), &cluster.settings().metadata);
        (compiled.v4.iter().chain(&compiled.v6).map(line).collect(), compiled.conflicts)
    }

    fn line(prefix: &Prefix) -> String {
        let ports = match &prefix.ports {
            Ports::Any => "any".to_owned(),
            Ports::Ranges(ranges) => ranges.iter().map(|r| r.low.to_string()).collect::<Vec<_>>().join(","),
        };
        format!("{} {ports}{}", prefix.net, if prefix.contested { " !" } else { "" })
    }

    #[test]
    fn a_shared_tenant_reaches_pods_and_services_that_are_not_known() {
        let settings = Settings { pod_cidrs: vec!["10.244.0.0/16".parse().expect("a range")], ..Settings::default() };
        let cluster = cluster(settings, vec![]);
        let dns = Member { origin: TenantOrigin::Shared, object: None, local: true };
        let compiled = compile(&dns, &Ownership::new(&cluster), &cluster.settings().metadata);
        assert_eq!(compiled.v4.iter().map(line).collect::<Vec<_>>(), ["10.244.0.0/16 any"]);
        let web = Member { origin: TenantOrigin::Unassigned, ..dns };
        assert_eq!(compile(&web, &Ownership::new(&cluster), &cluster.settings().metadata), Prefixes::default());
    }

    #[test]
    fn a_narrow_range_adds_to_a_wide_one_and_never_replaces_it() {
        let subnets = [range("10.1.0.0/16", &[443]), range("10.1.2.0/24", &[5432]), range("10.1.2.3/32", &[22])];
        let (lines, _) = lines(&subnets, &[range("10.1.2.0/25", &[80])]);
        let expected =
            ["10.1.2.3/32 22,80,443,5432", "10.1.2.0/25 80,443,5432", "10.1.2.0/24 443,5432", "10.1.0.0/16 443"];
        assert_eq!(lines, expected);
    }

    #[test]
    fn equal_ranges_unite_and_no_rule_at_all_means_every_port() {
        let egress = [range("192.0.2.0/24", &[80]), range("192.0.2.0/24", &[443]), range("198.51.100.0/24", &[])];
        assert_eq!(lines(&[], &egress).0, ["192.0.2.0/24 80,443", "198.51.100.0/24 any"]);
        let both = [range("192.0.2.0/24", &[80]), range("192.0.2.0/24", &[])];
        assert_eq!(lines(&[], &both).0, ["192.0.2.0/24 any"]);
    }

    #[test]
    fn only_ranges_that_overlap_another_owner_s_are_contested() {
        let (lines, _) = lines(&[range("10.8.0.0/16", &[])], &[range("0.0.0.0/0", &[]), range("10.9.1.0/24", &[80])]);
        assert_eq!(lines, ["10.8.0.0/16 any", "0.0.0.0/0 any !"], "the contested inner one adds nothing");
    }

    #[test]
    fn a_subnet_in_dispute_grants_nothing_and_its_neighbour_does() {
        let (lines, _) = lines(&[range("10.9.3.0/24", &[]), range("10.8.0.0/24", &[])], &[]);
        assert_eq!(lines, ["10.8.0.0/24 any"]);
    }

    #[test]
    fn a_metadata_address_keeps_its_own_entry() {
        let egress = [range("169.254.169.254/32", &[]), range("169.254.0.0/16", &[]), range("169.254.7.7/32", &[])];
        assert_eq!(lines(&[], &egress).0, ["169.254.169.254/32 any", "169.254.0.0/16 any"]);
    }

    #[test]
    fn too_many_port_ranges_grant_nothing_and_are_reported() {
        let many = |n: u16| Range { ports: (0..n).map(|i| rule(i * 2)).collect(), ..range("192.0.2.0/24", &[]) };
        let (fits, conflicts) = lines(&[], &[many(16)]);
        assert_eq!((fits.len(), conflicts.len()), (1, 0));
        let (got, conflicts) = lines(&[], &[many(17), range("192.0.2.7/32", &[99])]);
        assert_eq!(got, ["192.0.2.7/32 99"], "a narrow range does not get refused ports");
        assert_eq!(conflicts[0].kind, ConflictKind::TooManyPorts);
        let wide = Range { cidr: "192.0.0.0/16".parse().expect("a range"), ..many(16) };
        let (got, conflicts) = lines(&[], &[wide, range("192.0.2.7/32", &[99])]);
        assert_eq!((got.len(), conflicts.len()), (1, 1), "the narrow one adds nothing to the wide one");
    }

    #[test]
    fn senseless_rules_grant_nothing_and_host_bits_are_cut() {
        let senseless = Range { ports: vec![PortRule { low: 9, ..rule(8) }], ..range("192.0.2.0/24", &[]) };
        assert!(lines(&[], &[senseless]).0.is_empty());
        assert_eq!(lines(&[], &[range("192.0.2.77/24", &[])]).0, ["192.0.2.0/24 any"]);
    }

    fn rule(port: u16) -> PortRule {
        PortRule { protocol: Protocol::Tcp, low: port, high: port }
    }
}
