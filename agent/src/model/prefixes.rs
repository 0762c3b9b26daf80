//! What one tenant may reach outside: its ranges as prefixes for a longest-prefix match.
//!
//! The match takes the longest prefix and asks no other. So each prefix carries the permissions of
//! every wider one around it: a narrow entry adds to a wide one and never replaces it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::input::Tenant;
use super::ports::{Family, Ports};
use super::report::{Conflict, ConflictKind};
use super::settings::Settings;
use super::territory::Territory;
use super::word::Word;

/// One prefix and what it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The range.
    pub net: IpNet,
    /// What is allowed there, wider ranges' permissions included. Never nothing, always fits.
    pub ports: Ports,
    /// Part of it is somebody else's.
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

/// Compiles `tenant`'s granted subnets and its egress ranges.
pub fn compile(tenant: &Tenant, territory: &Territory, settings: &Settings) -> Prefixes {
    let name = Word::from(tenant.age.name.as_str());
    let mut compiled = Prefixes::default();
    let own = own_ranges(tenant, territory, &name, &mut compiled.conflicts);
    let mut nest: Vec<(IpNet, Ports, bool)> = Vec::new();
    let mut prefixes = Vec::new();
    // Sorted by address and then length, every range comes after those around it.
    for (net, ports) in own {
        while nest.last().is_some_and(|(outer, ..)| !outer.contains(&net)) {
            nest.pop();
        }
        let contested = territory.is_contested(&net, &name);
        let around = nest.last();
        let all = around.map_or_else(|| ports.clone(), |(_, outer, _)| outer.union(&ports));
        if !all.fits() {
            compiled.conflicts.push(too_many(&name, &net, "together with the wider ranges around it"));
            continue;
        }
        let same = around.is_some_and(|(_, outer, outer_contested)| *outer == all && *outer_contested == contested);
        if !same || is_listed_exactly(&net, &settings.metadata) {
            prefixes.push(Prefix { net, ports: all.clone(), contested });
        }
        nest.push((net, all, contested));
    }
    prefixes.sort_by_key(|prefix| (std::cmp::Reverse(prefix.net.prefix_len()), prefix.net));
    (compiled.v4, compiled.v6) = prefixes.into_iter().partition(|prefix| prefix.net.addr().is_ipv4());
    compiled
}

/// Ranges by address, equal ones united, hopeless ones reported and left out.
fn own_ranges(
    tenant: &Tenant,
    territory: &Territory,
    name: &Word,
    conflicts: &mut Vec<Conflict>,
) -> BTreeMap<IpNet, Ports> {
    let granted = territory.granted(name).iter().filter_map(|at| tenant.subnets.get(*at));
    let mut ranges: BTreeMap<IpNet, Ports> = BTreeMap::new();
    for range in granted.chain(&tenant.egress).filter(|range| !territory.is_unplaced(&range.cidr)) {
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

/// Metadata addresses open only to an entry of exactly their own, so such an entry is never
/// folded into a wider one.
fn is_listed_exactly(net: &IpNet, metadata: &BTreeSet<IpAddr>) -> bool {
    net.prefix_len() == net.max_prefix_len() && metadata.contains(&net.addr())
}

fn family(net: &IpNet) -> Family {
    if net.addr().is_ipv4() { Family::V4 } else { Family::V6 }
}

fn too_many(tenant: &Word, net: &IpNet, when: &str) -> Conflict {
    let message = format!(
        "range {net} of tenant {tenant} has more than {} port ranges {when}: its ports grant nothing; \
         use fewer or wider ranges",
        agent_common::layout::PORT_RANGES
    );
    Conflict { tenant: tenant.clone(), kind: ConflictKind::TooManyPorts, message }
}
