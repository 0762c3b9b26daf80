//! Ownership: which tenant, or the cluster itself, owns each range. No address has two owners.
//!
//! Knows no tenant number and no kernel table. A subnet entry that overlaps an older tenant's, or the cluster's ranges,
//! grants and owns nothing. This holds for the whole entry, not only for the overlap. Half a database subnet that works
//! is harder to understand than a condition that names the other owner, and the remedy is one edit.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::cluster::Cluster;
use super::input::{Range, Tenant};
use super::limits::{Limit, Limits};
use super::name::Name;
use super::report::{Conflict, ConflictKind, Overflows};

/// The owner of a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The cluster: ranges of pods and Services.
    Cluster,
    /// The cluster's nodes.
    Nodes,
    /// A tenant.
    Tenant(Name),
}

/// The owned ranges, and the outcome of the claims to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    v4: Spans,
    v6: Spans,
    granted: BTreeMap<Name, Vec<usize>>,
    unplaced: Vec<IpNet>,
    /// Subnet entries that were refused.
    pub refusals: Vec<Refusal>,
    /// The same refusals as conflicts.
    pub conflicts: Vec<Conflict>,
    /// Ranges that did not fit.
    pub overflows: Overflows,
}

/// A subnet entry that grants and owns nothing, because part of its range is owned already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The tenant whose entry it is.
    pub tenant: Name,
    /// Position of the entry among the tenant's subnets.
    pub entry: usize,
    /// The owned range that it overlaps.
    pub owned: IpNet,
    /// The owner of that range.
    pub owner: Owner,
}

/// Ranges of one family, sorted. They never overlap: a range inside another one of the same owner is not listed.
type Spans = Vec<Span>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    first: u128,
    last: u128,
    net: IpNet,
    rank: u32,
    owner: Owner,
}

/// A claim to a range. It is small, because thousands of claims are sorted at every edit.
struct Claim<'a> {
    first: u128,
    last: u128,
    range: &'a Range,
    /// 0 is the cluster, 1 are its nodes. Tenants follow, the older ones first.
    rank: u32,
    /// Position among the claimant's ranges.
    at: u32,
}

/// A claimant with its ranges. Its position in the list is its rank.
struct Claimant<'a> {
    owner: Owner,
    ranges: &'a [Range],
}

impl Ownership {
    /// Assigns the ranges: first those of the cluster, then those of tenants by age.
    pub fn new(cluster: &Cluster) -> Self {
        let mut ownership = Self::default();
        let (nodes, pods): (Vec<Range>, Vec<Range>) =
            cluster.settings().cluster_ranges().map(cluster_range).partition(|range| range.name == "node");
        let claimants = claimants(&pods, &nodes, cluster.tenants());
        let (mut v4, mut v6): (Vec<_>, Vec<_>) =
            claims(&claimants).partition(|claim: &Claim<'_>| claim.range.cidr.addr().is_ipv4());
        let limits = &cluster.settings().limits;
        ownership.v4 = ownership.distribute(&mut v4, &claimants, Limit::OwnersV4, limits);
        ownership.v6 = ownership.distribute(&mut v6, &claimants, Limit::OwnersV6, limits);
        ownership.granted.values_mut().for_each(|granted| granted.sort_unstable());
        ownership
    }

    /// Every owned range and its owner.
    pub fn owners(&self) -> impl Iterator<Item = (IpNet, &Owner)> {
        self.v4.iter().chain(&self.v6).map(|span| (span.net, &span.owner))
    }

    /// Positions of the tenant's subnet entries that overlap no other owner's range. [`Self::is_unplaced`] may still
    /// hold for some of them.
    pub fn granted(&self, tenant: &str) -> &[usize] {
        self.granted.get(tenant).map_or(&[], Vec::as_slice)
    }

    /// Whether part of `net` has another owner than `tenant`.
    pub(crate) fn is_contested(&self, net: &IpNet, tenant: &str) -> bool {
        let (first, last) = bounds(net);
        let spans = if net.addr().is_ipv4() { &self.v4 } else { &self.v6 };
        let from = spans.partition_point(|span| span.last < first);
        let overlapping = spans.iter().skip(from).take_while(|span| span.first <= last);
        let is_other = |span: &Span| !matches!(&span.owner, Owner::Tenant(name) if **name == *tenant);
        overlapping.into_iter().any(is_other)
    }

    /// Whether part of `net` has an owner that did not fit in the kernel's table.
    pub(crate) fn is_unplaced(&self, net: &IpNet) -> bool {
        self.unplaced.iter().any(|unplaced| unplaced.contains(net) || net.contains(unplaced))
    }

    /// Assigns the ranges of one family. Two ranges are either nested or disjoint, so sorted claims form groups that do
    /// not overlap. Nearly every group has one claimant. Only in the others does age decide.
    fn distribute(&mut self, claims: &mut [Claim<'_>], who: &[Claimant<'_>], limit: Limit, limits: &Limits) -> Spans {
        claims.sort_unstable_by_key(|claim| (claim.first, Reverse(claim.last), claim.rank));
        let mut spans = Vec::with_capacity(claims.len());
        let mut rest = claims;
        while let Some(outer) = rest.first() {
            let end = outer.last;
            let size = rest.iter().position(|claim| claim.first > end).unwrap_or(rest.len());
            let (group, others) = rest.split_at_mut(size);
            self.settle(group, who, &mut spans);
            rest = others;
        }
        self.cut(spans, limit, limits)
    }

    /// Decides on the claims inside one outermost range.
    fn settle(&mut self, claims: &mut [Claim<'_>], who: &[Claimant<'_>], spans: &mut Spans) {
        let Some(outer) = claims.first() else { return };
        if claims.iter().all(|claim| claim.rank == outer.rank) {
            spans.extend(outer.span(who));
            return claims.iter().for_each(|claim| self.grant(claim, who));
        }
        claims.sort_by_key(|claim| claim.rank);
        let mut taken: BTreeMap<u128, Span> = BTreeMap::new();
        for claim in claims.iter() {
            match dispute(&taken, claim) {
                Some(span) => {
                    self.conflicts.extend(claim.conflict(&span, who));
                    self.refusals.extend(claim.refusal(&span, who));
                }
                None => {
                    place(&mut taken, claim, who);
                    self.grant(claim, who);
                }
            }
        }
        spans.extend(taken.into_values());
    }

    fn grant(&mut self, claim: &Claim<'_>, who: &[Claimant<'_>]) {
        let Some(Owner::Tenant(name)) = claim.owner(who) else { return };
        match self.granted.get_mut(name) {
            Some(granted) => granted.push(claim.at as usize),
            None => _ = self.granted.insert(name.clone(), vec![claim.at as usize]),
        }
    }

    /// Leaves out ranges that do not fit, those of the youngest tenants first.
    fn cut(&mut self, mut spans: Spans, limit: Limit, limits: &Limits) -> Spans {
        let capacity = limits.get(limit);
        if spans.len() <= capacity {
            return spans;
        }
        spans.sort_by_key(|span| (span.rank, span.first));
        for span in spans.drain(capacity..) {
            self.overflows.note(limit, capacity, span.net);
            self.unplaced.push(span.net);
        }
        spans.sort_by_key(|span| span.first);
        spans
    }
}

impl Claim<'_> {
    fn owner<'w>(&self, who: &'w [Claimant<'_>]) -> Option<&'w Owner> {
        who.get(self.rank as usize).map(|claimant| &claimant.owner)
    }

    fn span(&self, who: &[Claimant<'_>]) -> Option<Span> {
        let owner = self.owner(who)?.clone();
        Some(Span { first: self.first, last: self.last, net: self.range.cidr.trunc(), rank: self.rank, owner })
    }

    fn refusal(&self, span: &Span, who: &[Claimant<'_>]) -> Option<Refusal> {
        let Some(Owner::Tenant(tenant)) = self.owner(who) else { return None };
        let (entry, owner) = (self.at as usize, span.owner.clone());
        Some(Refusal { tenant: tenant.clone(), entry, owned: span.net, owner })
    }

    fn conflict(&self, span: &Span, who: &[Claimant<'_>]) -> Option<Conflict> {
        let Some(Owner::Tenant(tenant)) = self.owner(who) else { return None };
        let (kind, with) = match &span.owner {
            Owner::Cluster | Owner::Nodes => (ConflictKind::ClusterRange, format!("the cluster's range {}", span.net)),
            Owner::Tenant(other) => (ConflictKind::SubnetOverlap, format!("{} of the older tenant {other}", span.net)),
        };
        Some(conflict(tenant, &self.range.name, &self.range.cidr, kind, &with))
    }
}

fn cluster_range((kind, cidr): (&'static str, IpNet)) -> Range {
    Range { name: kind.to_owned(), cidr, ports: Vec::new() }
}

fn claimants<'a>(
    cluster: &'a [Range],
    nodes: &'a [Range],
    tenants: &'a BTreeMap<Name, Arc<Tenant>>,
) -> Vec<Claimant<'a>> {
    let mut tenants: Vec<(&Name, &Arc<Tenant>)> = tenants.iter().collect();
    tenants.sort_by(|(_, a), (_, b)| a.age.cmp(&b.age));
    let tenant = |(name, tenant): (&Name, &'a Arc<Tenant>)| Claimant {
        owner: Owner::Tenant(name.clone()),
        ranges: tenant.subnets.as_slice(),
    };
    let cluster = Claimant { owner: Owner::Cluster, ranges: cluster };
    [cluster, Claimant { owner: Owner::Nodes, ranges: nodes }]
        .into_iter()
        .chain(tenants.into_iter().map(tenant))
        .collect()
}

fn claims<'a>(who: &[Claimant<'a>]) -> impl Iterator<Item = Claim<'a>> {
    who.iter().zip(0..).flat_map(|(claimant, rank)| {
        claimant.ranges.iter().zip(0..).map(move |(range, at)| {
            let (first, last) = bounds(&range.cidr);
            Claim { first, last, range, rank, at }
        })
    })
}

/// A range of another owner that overlaps a claimed range.
fn dispute(taken: &BTreeMap<u128, Span>, claim: &Claim<'_>) -> Option<Span> {
    let before = taken.range(..=claim.last).rev().map(|(_, span)| span);
    before.take_while(|span| span.last >= claim.first).find(|span| span.rank != claim.rank).cloned()
}

/// Adds a range that overlaps no other owner's.
fn place(taken: &mut BTreeMap<u128, Span>, claim: &Claim<'_>, who: &[Claimant<'_>]) {
    let around = taken.range(..=claim.first).next_back();
    if around.is_some_and(|(_, span)| span.last >= claim.last) {
        return;
    }
    let inside: Vec<u128> = taken.range(claim.first..=claim.last).map(|(first, _)| *first).collect();
    inside.iter().for_each(|first| _ = taken.remove(first));
    taken.extend(claim.span(who).map(|span| (claim.first, span)));
}

fn conflict(tenant: &Name, entry: &str, net: &IpNet, kind: ConflictKind, with: &str) -> Conflict {
    let message = format!(
        "subnet {entry} ({net}) of tenant {tenant} overlaps {with}: the whole entry grants and owns nothing; \
         remove the overlap from one of the two"
    );
    Conflict { tenant: tenant.clone(), kind, message }
}

fn bounds(net: &IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::{Age, Change};
    use crate::model::settings::Settings;
    use crate::model::testing::{cluster, range, tenant};

    fn owner_of(name: &str, created: i64, subnets: &[&str]) -> Tenant {
        let subnets = subnets.iter().map(|cidr| range(cidr, &[])).collect();
        Tenant { age: Age { created, name: name.to_owned() }, subnets, ..tenant(name) }
    }

    fn ownership(settings: Settings, tenants: Vec<Tenant>) -> Ownership {
        Ownership::new(&cluster(settings, vec![Change::Tenants(tenants)]))
    }

    fn owners(ownership: &Ownership) -> Vec<String> {
        let text = |(net, owner): (IpNet, &Owner)| match owner {
            Owner::Cluster => format!("{net} cluster"),
            Owner::Nodes => format!("{net} nodes"),
            Owner::Tenant(name) => format!("{net} {name}"),
        };
        ownership.owners().map(text).collect()
    }

    #[test]
    fn the_older_tenant_keeps_a_disputed_range_whatever_the_order_of_changes() {
        for (old, young) in [("a", "z"), ("z", "a")] {
            let both = || vec![owner_of(young, 2, &["10.1.0.0/16", "10.9.0.0/24"]), owner_of(old, 1, &["10.1.2.0/24"])];
            let ownership = ownership(Settings::default(), both());
            assert_eq!(owners(&ownership), [format!("10.1.2.0/24 {old}"), format!("10.9.0.0/24 {young}")]);
            assert_eq!((ownership.granted(young), ownership.granted(old)), (&[1][..], &[0][..]));
            let [conflict] = ownership.conflicts.as_slice() else { panic!("{:?}", ownership.conflicts) };
            assert_eq!((&*conflict.tenant, conflict.kind), (young, ConflictKind::SubnetOverlap));
            assert!(conflict.message.contains(old) && conflict.message.contains("10.1.0.0/16"));
        }
    }

    #[test]
    fn the_cluster_s_ranges_are_never_a_tenant_s() {
        let settings = Settings {
            pod_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
            service_cidrs: vec!["10.96.0.0/12".parse().expect("a range")],
            ..Settings::default()
        };
        let subnets = ["10.244.3.0/24", "10.0.0.0/8", "10.40.0.0/24"];
        let ownership = ownership(settings, vec![owner_of("acme", 0, &subnets)]);
        assert_eq!(ownership.granted("acme"), [2], "the paired control is granted");
        assert!(ownership.conflicts.iter().all(|conflict| conflict.kind == ConflictKind::ClusterRange));
        assert_eq!(ownership.conflicts.len(), 2);
    }

    #[test]
    fn a_tenant_s_own_ranges_may_nest_and_its_neighbours_touch() {
        let tenants = vec![
            owner_of("acme", 0, &["10.0.1.0/24", "10.0.0.0/16", "10.0.2.0/24"]),
            owner_of("globex", 1, &["10.1.0.0/16", "9.255.255.255/32"]),
        ];
        let ownership = ownership(Settings::default(), tenants);
        assert_eq!(owners(&ownership), ["9.255.255.255/32 globex", "10.0.0.0/16 acme", "10.1.0.0/16 globex"]);
        assert_eq!(ownership.granted("acme"), [0, 1, 2]);
        assert!(ownership.conflicts.is_empty());
    }

    #[test]
    fn a_range_is_contested_exactly_if_part_of_it_has_another_owner() {
        let tenants = vec![owner_of("acme", 0, &["10.0.0.0/24"]), owner_of("globex", 1, &["10.0.2.0/24"])];
        let ownership = ownership(Settings::default(), tenants);
        for (net, contested) in [
            ("0.0.0.0/0", true),
            ("10.0.0.0/23", false),
            ("10.0.0.0/22", true),
            ("10.0.2.9/32", true),
            ("10.0.3.0/24", false),
            ("::/0", false),
        ] {
            let net = net.parse().expect("a range");
            assert_eq!(ownership.is_contested(&net, "acme"), contested, "{net}");
        }
    }

    #[test]
    fn a_range_beyond_the_limit_grants_nothing_and_wide_ranges_over_it_are_withheld() {
        let limits = Limits { owners_v4: 1, ..Limits::default() };
        let settings = Settings { limits, ..Settings::default() };
        let tenants = vec![owner_of("acme", 0, &["10.0.0.0/24"]), owner_of("globex", 1, &["10.0.2.0/24", "fd00::/64"])];
        let ownership = ownership(settings, tenants);
        assert!(ownership.is_unplaced(&"10.0.2.0/24".parse().expect("a range")));
        assert!(!ownership.is_unplaced(&"fd00::/64".parse().expect("a range")));
        assert!(ownership.is_unplaced(&"0.0.0.0/0".parse().expect("a range")));
        assert!(!ownership.is_unplaced(&"10.0.0.0/24".parse().expect("a range")));
        assert_eq!(ownership.overflows.as_slice().len(), 1);
    }
}
