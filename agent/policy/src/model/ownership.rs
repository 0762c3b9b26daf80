//! Ownership: which tenant, or the cluster itself, owns each range. The longest range around an address owns it.
//!
//! Knows no tenant number and no kernel table. A subnet entry that overlaps an older tenant's, or a range that the
//! administrator has set, grants and owns nothing. This holds for the whole entry, not only for the overlap. Half a
//! database subnet that works is harder to understand than a condition that names the other owner, and the remedy is one
//! edit. A range that was only learnt gives way to an entry inside it, and takes only its own addresses from an entry
//! around it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::cluster::Cluster;
use super::input::{Range, Tenant};
use super::limits::{Limit, Limits};
use super::name::Name;
use super::ranges::{self, RangeKind, RangeOrigin};
use super::report::{Conflict, ConflictKind, Overflows};

/// The owner of a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The cluster: ranges of pods and Services.
    Cluster,
    /// The cluster's nodes.
    Nodes,
    /// Nobody, but pods of an unknown range may be there. Only a range that is not wide opens a part of it.
    Unknown,
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
    /// The same refusals as conflicts, and wide egress ranges while the range of pods is unknown.
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

/// Ranges of one family, sorted by address; of two that begin alike the wider one is first. Ranges of tenants never
/// overlap each other: a range inside another one of the same tenant is not listed. Ranges of the cluster may nest, also
/// with those of tenants.
type Spans = Vec<Span>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    first: u128,
    last: u128,
    net: IpNet,
    /// 0 is the cluster. Tenants follow, the older ones first.
    rank: u32,
    owner: Owner,
    /// Whether an administrator or a tenant states it. A learnt range gives way.
    is_set: bool,
    /// Position of the next wider range around it.
    parent: Option<usize>,
}

/// A claim to a range. It is small, because thousands of claims are sorted at every edit.
struct Claim<'a> {
    first: u128,
    last: u128,
    range: &'a Range,
    /// 1 and above: the rank of a tenant's spans.
    rank: u32,
    /// Position among the claimant's ranges.
    at: u32,
}

/// The tenants by age. The rank of the first is 1.
type Claimants<'a> = Vec<(&'a Name, &'a Arc<Tenant>)>;

impl Ownership {
    /// Assigns the ranges: first those of the cluster, then those of tenants by age.
    pub fn new(cluster: &Cluster) -> Self {
        let mut ownership = Self::default();
        let mut tenants: Claimants<'_> = cluster.tenants().iter().collect();
        tenants.sort_by(|(_, a), (_, b)| a.age.cmp(&b.age));
        let (c4, c6): (Vec<_>, Vec<_>) = cluster_spans(cluster).partition(|span| span.net.addr().is_ipv4());
        let (mut t4, mut t6): (Vec<_>, Vec<_>) =
            claims(&tenants).partition(|claim: &Claim<'_>| claim.range.cidr.addr().is_ipv4());
        let limits = &cluster.settings().limits;
        ownership.v4 = ownership.distribute(c4, &mut t4, &tenants, Limit::OwnersV4, limits);
        ownership.v6 = ownership.distribute(c6, &mut t6, &tenants, Limit::OwnersV6, limits);
        ownership.granted.values_mut().for_each(|granted| granted.sort_unstable());
        if cluster.pod_range_gap().is_some() {
            ownership.conflicts.extend(tenants.iter().flat_map(|(name, tenant)| closed_egress(name, tenant)));
        }
        ownership
    }

    /// Every owned range and its owner. The longest one around an address counts.
    pub fn owners(&self) -> impl Iterator<Item = (IpNet, &Owner)> {
        self.v4.iter().chain(&self.v6).map(|span| (span.net, &span.owner))
    }

    /// Positions of the tenant's subnet entries that overlap no other owner's range. [`Self::is_unplaced`] may still
    /// hold for some of them.
    pub fn granted(&self, tenant: &str) -> &[usize] {
        self.granted.get(tenant).map_or(&[], Vec::as_slice)
    }

    /// The ranges of pods and Services, without those of nodes and tenants inside them. They are disjoint and sorted.
    pub(crate) fn of_pods_and_services(&self) -> Vec<IpNet> {
        let all = || self.v4.iter().chain(&self.v6);
        let others: Vec<IpNet> = all().filter(|span| span.owner != Owner::Cluster).map(|span| span.net).collect();
        let open: Vec<IpNet> = all()
            .filter(|span| span.owner == Owner::Cluster)
            .flat_map(|span| ranges::without(span.net, &others))
            .collect();
        IpNet::aggregate(&open)
    }

    /// Subnets of tenants inside ranges that were only learnt.
    pub(super) fn inside_learnt(&self) -> impl Iterator<Item = (&Name, IpNet)> {
        [&self.v4, &self.v6].into_iter().flat_map(|spans| {
            spans.iter().filter_map(|span| match &span.owner {
                Owner::Tenant(name) if around(spans, span.parent).any(Span::is_learnt) => Some((name, span.net)),
                _ => None,
            })
        })
    }

    /// Conflicts of subnets inside learnt ranges in which a known pod or node has an address. Such an address keeps its
    /// own meaning.
    pub fn in_use(&self, cluster: &Cluster) -> Vec<Conflict> {
        let inside: Vec<(&Name, IpNet)> = self.inside_learnt().collect();
        if inside.is_empty() {
            return Vec::new();
        }
        let known = cluster.nodes().iter().copied().chain(cluster.address_index().addresses());
        let mut used: BTreeMap<(&Name, IpNet), IpAddr> = BTreeMap::new();
        for address in known {
            let subnet = inside.iter().find(|(_, net)| net.contains(&address));
            subnet.into_iter().for_each(|subnet| _ = used.entry(*subnet).or_insert(address));
        }
        let conflict = |((tenant, net), address): ((&Name, IpNet), IpAddr)| Conflict {
            tenant: tenant.clone(),
            kind: ConflictKind::SubnetInUse,
            message: format!(
                "subnet {net} of tenant {tenant} contains {address}, which is a pod's or a node's: that address is not \
                 the tenant's; choose a subnet without pods and nodes"
            ),
        };
        used.into_iter().map(conflict).collect()
    }

    /// Whether part of `net` has another owner than `tenant`.
    pub(crate) fn is_contested(&self, net: &IpNet, tenant: &str) -> bool {
        let (first, last) = bounds(net);
        let spans = if net.addr().is_ipv4() { &self.v4 } else { &self.v6 };
        let is_other = |span: &Span| match &span.owner {
            Owner::Tenant(name) => **name != *tenant,
            Owner::Unknown => ranges::is_wide(net),
            Owner::Cluster | Owner::Nodes => true,
        };
        let from = spans.partition_point(|span| (span.first, Reverse(span.last)) < (first, Reverse(last)));
        let mut inside = spans.iter().skip(from).take_while(|span| span.first <= last);
        if inside.any(is_other) {
            return true;
        }
        // Of the ranges around it the longest counts, but a narrow entry in an unknown range counts as if that were not
        // there. A range that contains the entry contains the range before it too, or is that range.
        let is_equal = spans.get(from).is_some_and(|span| (span.first, span.last) == (first, last));
        let mut around = around(spans, from.checked_sub(1)).filter(|span| span.last >= last);
        let counts = |span: &&Span| span.owner != Owner::Unknown || ranges::is_wide(net);
        !is_equal && around.find(counts).is_some_and(is_other)
    }

    /// Whether part of `net` has an owner that did not fit in the kernel's table.
    pub(crate) fn is_unplaced(&self, net: &IpNet) -> bool {
        self.unplaced.iter().any(|unplaced| unplaced.contains(net) || net.contains(unplaced))
    }

    /// Assigns the ranges of one family. Claims are either nested or disjoint, so sorted claims form groups that do not
    /// overlap. Nearly every group has one claimant. Only in the others does age decide.
    fn distribute(
        &mut self,
        cluster: Spans,
        claims: &mut Vec<Claim<'_>>,
        who: &Claimants<'_>,
        limit: Limit,
        limits: &Limits,
    ) -> Spans {
        let by_net: BTreeMap<IpNet, &Span> = cluster.iter().map(|span| (span.net, span)).collect();
        let set: Vec<&Span> = cluster.iter().filter(|span| span.is_set && span.owner != Owner::Unknown).collect();
        claims.retain(|claim| {
            let equal = by_net.get(&claim.range.cidr.trunc()).filter(|span| span.owner != Owner::Unknown);
            let owned = equal.or_else(|| set.iter().find(|span| span.overlaps(claim)));
            owned.inspect(|span| self.refuse(claim, span, who)).is_none()
        });
        claims.sort_unstable_by_key(|claim| (claim.first, Reverse(claim.last), claim.rank));
        let mut spans = Vec::with_capacity(claims.len());
        let mut rest = claims.as_slice();
        while let Some(outer) = rest.first() {
            let end = outer.last;
            let size = rest.iter().position(|claim| claim.first > end).unwrap_or(rest.len());
            let (group, others) = rest.split_at(size);
            self.settle(group, who, &mut spans);
            rest = others;
        }
        let taken: BTreeSet<IpNet> = spans.iter().map(|span| span.net).collect();
        spans.extend(cluster.into_iter().filter(|span| !taken.contains(&span.net)));
        self.cut(spans, limit, limits)
    }

    /// Decides on the claims inside one outermost range.
    fn settle(&mut self, claims: &[Claim<'_>], who: &Claimants<'_>, spans: &mut Spans) {
        let Some(outer) = claims.first() else { return };
        if claims.iter().all(|claim| claim.rank == outer.rank) {
            spans.extend(outer.span(who));
            return claims.iter().for_each(|claim| self.grant(claim, who));
        }
        let mut claims: Vec<&Claim<'_>> = claims.iter().collect();
        claims.sort_by_key(|claim| claim.rank);
        let mut taken: BTreeMap<u128, Span> = BTreeMap::new();
        for claim in claims {
            match dispute(&taken, claim) {
                Some(span) => self.refuse(claim, &span, who),
                None => {
                    place(&mut taken, claim, who);
                    self.grant(claim, who);
                }
            }
        }
        spans.extend(taken.into_values());
    }

    fn refuse(&mut self, claim: &Claim<'_>, span: &Span, who: &Claimants<'_>) {
        self.conflicts.extend(claim.conflict(span, who));
        self.refusals.extend(claim.refusal(span, who));
    }

    fn grant(&mut self, claim: &Claim<'_>, who: &Claimants<'_>) {
        let Some(name) = claim.tenant(who) else { return };
        match self.granted.get_mut(name) {
            Some(granted) => granted.push(claim.at as usize),
            None => _ = self.granted.insert(name.clone(), vec![claim.at as usize]),
        }
    }

    /// Sorts the ranges, and leaves out those that do not fit, those of the youngest tenants first.
    fn cut(&mut self, mut spans: Spans, limit: Limit, limits: &Limits) -> Spans {
        let capacity = limits.get(limit);
        if spans.len() > capacity {
            spans.sort_by_key(|span| (span.rank, span.first));
            for span in spans.drain(capacity..) {
                self.overflows.note(limit, capacity, span.net);
                self.unplaced.push(span.net);
            }
        }
        spans.sort_by_key(|span| (span.first, Reverse(span.last)));
        let mut nest: Vec<(usize, u128)> = Vec::new();
        for (at, span) in spans.iter_mut().enumerate() {
            while nest.last().is_some_and(|(_, last)| *last < span.first) {
                nest.pop();
            }
            span.parent = nest.last().map(|(parent, _)| *parent);
            nest.push((at, span.last));
        }
        spans
    }
}

impl Claim<'_> {
    fn tenant<'w>(&self, who: &Claimants<'w>) -> Option<&'w Name> {
        who.get((self.rank as usize).checked_sub(1)?).map(|(name, _)| *name)
    }

    fn span(&self, who: &Claimants<'_>) -> Option<Span> {
        let owner = Owner::Tenant(self.tenant(who)?.clone());
        Some(Span::new(self.range.cidr.trunc(), self.rank, owner, true))
    }

    fn refusal(&self, span: &Span, who: &Claimants<'_>) -> Option<Refusal> {
        let (entry, owner) = (self.at as usize, span.owner.clone());
        Some(Refusal { tenant: self.tenant(who)?.clone(), entry, owned: span.net, owner })
    }

    fn conflict(&self, span: &Span, who: &Claimants<'_>) -> Option<Conflict> {
        let (kind, with) = match &span.owner {
            Owner::Tenant(other) => (ConflictKind::SubnetOverlap, format!("{} of the older tenant {other}", span.net)),
            _ => (ConflictKind::ClusterRange, format!("the cluster's range {}", span.net)),
        };
        Some(conflict(self.tenant(who)?, &self.range.name, &self.range.cidr, kind, &with))
    }
}

impl Span {
    fn new(net: IpNet, rank: u32, owner: Owner, is_set: bool) -> Self {
        let (first, last) = bounds(&net);
        Self { first, last, net, rank, owner, is_set, parent: None }
    }

    fn is_learnt(&self) -> bool {
        !self.is_set && self.owner != Owner::Unknown
    }

    fn overlaps(&self, claim: &Claim<'_>) -> bool {
        self.first <= claim.last && claim.first <= self.last
    }
}

/// The range at this position and those around it, the longest first.
fn around(spans: &Spans, at: Option<usize>) -> impl Iterator<Item = &Span> {
    std::iter::successors(at.and_then(|at| spans.get(at)), |span| spans.get(span.parent?))
}

/// The cluster's own ranges; while that of pods is unknown, private ranges too.
fn cluster_spans(cluster: &Cluster) -> impl Iterator<Item = Span> {
    let known = cluster.ranges().of_cluster();
    let nets: BTreeSet<IpNet> = known.iter().map(|(net, ..)| *net).collect();
    let known = known.into_iter().map(|(net, origin, kind)| {
        let owner = if kind == RangeKind::Nodes { Owner::Nodes } else { Owner::Cluster };
        Span::new(net, 0, owner, origin == RangeOrigin::Set)
    });
    let unknown = ranges::private().filter(|_| cluster.pod_range_gap().is_some());
    let unknown = unknown.filter(move |net| !nets.contains(net));
    known.chain(unknown.map(|net| Span::new(net, 0, Owner::Unknown, false)))
}

/// The conflicts of a tenant's wide egress ranges while the range of pods is unknown.
fn closed_egress(name: &Name, tenant: &Tenant) -> Vec<Conflict> {
    let is_closed = |net: &IpNet| {
        ranges::is_wide(net) && ranges::private().any(|private| private.contains(net) || net.contains(&private))
    };
    let wide = tenant.egress.iter().filter(|range| is_closed(&range.cidr));
    let conflict = |range: &Range| Conflict {
        tenant: name.clone(),
        kind: ConflictKind::PodRangeUnknown,
        message: format!(
            "egress {} ({}) of tenant {name} opens no private address, because the range of pods is unknown; set \
             --pod-cidr, or list narrower ranges",
            range.name, range.cidr
        ),
    };
    wide.map(conflict).collect()
}

fn claims<'a>(who: &Claimants<'a>) -> impl Iterator<Item = Claim<'a>> {
    who.iter().zip(1..).flat_map(|((_, tenant), rank)| {
        tenant.subnets.iter().zip(0..).map(move |(range, at)| {
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
fn place(taken: &mut BTreeMap<u128, Span>, claim: &Claim<'_>, who: &Claimants<'_>) {
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
    use crate::model::ranges::LearntRanges;
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
            Owner::Unknown => format!("{net} unknown"),
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

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a range")).collect()
    }

    fn learnt(pods: &[&str]) -> Change {
        Change::Ranges(LearntRanges { pods: nets(pods), services: Vec::new(), covers_every_node: true })
    }

    /// Ownership where pods' ranges are learnt from objects.
    fn learning(settings: Settings, pods: &[&str], tenants: Vec<Tenant>) -> Ownership {
        let settings = Settings { learn_ranges: true, ..settings };
        Ownership::new(&cluster(settings, vec![learnt(pods), Change::Tenants(tenants)]))
    }

    fn contested(ownership: &Ownership, net: &str, tenant: &str) -> bool {
        ownership.is_contested(&net.parse().expect("a range"), tenant)
    }

    #[test]
    fn the_longest_range_owns_an_address_and_none_is_lost_because_it_overlaps() {
        let settings = Settings {
            pod_cidrs: nets(&["10.0.64.0/18"]),
            node_cidrs: nets(&["10.0.0.0/16"]),
            outside_cidrs: nets(&["10.0.127.0/24"]),
            ..Settings::default()
        };
        let ownership = ownership(settings, vec![owner_of("acme", 0, &["10.0.127.0/25"])]);
        let owners = owners(&ownership);
        for owned in ["10.0.0.0/18 nodes", "10.0.64.0/19 cluster", "10.0.127.0/25 acme"] {
            assert!(owners.iter().any(|line| line == owned), "{owned}: {owners:?}");
        }
        assert!(!owners.iter().any(|line| line.starts_with("10.0.127.128")), "{owners:?}");
        assert!(contested(&ownership, "0.0.0.0/0", "acme") && contested(&ownership, "10.0.64.2/32", "acme"));
        assert!(contested(&ownership, "10.0.1.9/32", "acme") && !contested(&ownership, "10.0.127.0/25", "acme"));
        assert!(contested(&ownership, "10.0.127.0/25", "globex"));
        assert!(!contested(&ownership, "10.1.0.0/16", "acme"));
    }

    #[test]
    fn a_learnt_range_gives_way_to_a_subnet_inside_it_and_takes_its_own_from_one_around_it() {
        let tenants = || vec![owner_of("acme", 0, &["10.0.5.0/24"]), owner_of("globex", 1, &["10.0.0.0/8"])];
        let tenants_apart = || vec![owner_of("acme", 0, &["10.0.5.0/24"]), owner_of("globex", 1, &["11.0.0.0/8"])];
        let inside = learning(Settings::default(), &["10.0.0.0/16"], tenants_apart());
        assert_eq!(owners(&inside), ["10.0.0.0/16 cluster", "10.0.5.0/24 acme", "11.0.0.0/8 globex"]);
        assert!(inside.conflicts.is_empty() && !contested(&inside, "10.0.5.0/24", "acme"));
        assert!(contested(&inside, "10.0.6.0/24", "acme"));
        let pods = |address: &str| {
            let changes = vec![
                learnt(&["10.0.0.0/16"]),
                Change::Tenants(tenants_apart()),
                Change::Endpoint(crate::model::testing::remote("web/a", &[address])),
            ];
            cluster(Settings { learn_ranges: true, ..Settings::default() }, changes)
        };
        let [used, free] = ["10.0.5.9", "10.0.6.9"].map(pods);
        assert_eq!(inside.in_use(&used).iter().map(|one| one.kind).collect::<Vec<_>>(), [ConflictKind::SubnetInUse]);
        assert!(inside.in_use(&free).is_empty());
        assert_eq!(inside.inside_learnt().map(|(name, _)| name.to_string()).collect::<Vec<_>>(), ["acme"]);
        let around = learning(Settings::default(), &["11.0.64.0/18"], tenants_apart());
        assert_eq!(around.granted("globex"), [0]);
        assert!(contested(&around, "11.0.0.0/8", "globex"), "the part of pods is not the tenant's");
        let equal = learning(Settings::default(), &["10.0.5.0/24"], tenants_apart());
        assert_eq!((equal.granted("acme"), equal.conflicts.len()), (&[][..], 1));
        let set = Settings { pod_cidrs: nets(&["10.0.0.0/16"]), ..Settings::default() };
        let set = learning(set, &[], tenants_apart());
        assert_eq!((set.granted("acme"), set.conflicts[0].kind), (&[][..], ConflictKind::ClusterRange));
        let disputed = learning(Settings::default(), &["10.9.0.0/16"], tenants());
        assert_eq!(disputed.granted("globex"), [] as [usize; 0], "among tenants age decides as ever");
    }

    #[test]
    fn while_the_range_of_pods_is_unknown_only_narrow_ranges_open_private_addresses() {
        let wide =
            |name: &str| Tenant { egress: vec![range("0.0.0.0/0", &[])], ..owner_of(name, 0, &["10.40.0.0/24"]) };
        let unknown = learning(Settings::default(), &[], vec![wide("acme")]);
        for (net, is_contested) in [
            ("0.0.0.0/0", true),
            ("10.0.0.0/8", true),
            ("10.0.0.0/9", true),
            ("192.168.0.0/16", false),
            ("10.50.0.0/16", false),
            ("10.40.0.0/24", false),
            ("8.0.0.0/8", false),
            ("::/0", true),
            ("fd00:1::/32", false),
        ] {
            assert_eq!(contested(&unknown, net, "acme"), is_contested, "{net}");
        }
        assert_eq!(unknown.conflicts.iter().map(|one| one.kind).collect::<Vec<_>>(), [ConflictKind::PodRangeUnknown]);
        let known = learning(Settings::default(), &["10.244.0.0/16"], vec![wide("acme")]);
        assert_eq!(owners(&known), ["10.40.0.0/24 acme", "10.244.0.0/16 cluster"]);
        assert!(known.conflicts.is_empty());
    }

    #[test]
    fn a_shared_tenant_s_ranges_leave_out_subnets_of_tenants_and_nodes() {
        let nodes =
            Settings { pod_cidrs: nets(&["10.0.4.0/22"]), node_cidrs: nets(&["10.0.7.0/24"]), ..Settings::default() };
        assert_eq!(learning(nodes, &[], vec![]).of_pods_and_services(), nets(&["10.0.4.0/23", "10.0.6.0/24"]));
        let ownership = learning(Settings::default(), &["10.0.4.0/22"], vec![owner_of("acme", 0, &["10.0.5.0/24"])]);
        assert_eq!(ownership.of_pods_and_services(), nets(&["10.0.4.0/24", "10.0.6.0/23"]));
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
