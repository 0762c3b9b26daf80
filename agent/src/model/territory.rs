//! Who owns which range: the cluster its own, each tenant its subnets, nobody twice.
//!
//! A subnet entry that overlaps an older tenant's, or the cluster's ranges, grants nothing and owns
//! nothing: the whole entry, not only the overlap. Half a database subnet that works is harder to
//! understand than a condition that names the other half's owner, and the remedy is one edit.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::cluster::Cluster;
use super::input::Tenant;
use super::report::{Conflict, ConflictKind, Overflows};
use super::settings::{Limit, Settings};
use super::word::Word;

/// Who owns a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The cluster itself.
    Cluster,
    /// A tenant.
    Tenant(Word),
}

/// The owned ranges and what came of the claims to them.
#[derive(Clone, Debug, Default)]
pub struct Territory {
    v4: Spans,
    v6: Spans,
    granted: BTreeMap<Word, Vec<usize>>,
    unplaced: Vec<IpNet>,
    /// Claims that were refused.
    pub conflicts: Vec<Conflict>,
    /// Ranges that did not fit.
    pub overflows: Overflows,
}

/// Ranges of one family by first address; they never overlap.
type Spans = BTreeMap<u128, Span>;

#[derive(Clone, Debug)]
struct Span {
    last: u128,
    net: IpNet,
    owner: Owner,
}

impl Territory {
    /// Distributes the ranges: the cluster's first, then tenants by age.
    pub fn new(cluster: &Cluster) -> Self {
        let mut territory = Self::default();
        let settings = cluster.settings();
        for (_, net) in settings.cluster_ranges() {
            territory.place(net, Owner::Cluster, settings);
        }
        let mut tenants: Vec<&Arc<Tenant>> = cluster.tenants().values().collect();
        tenants.sort_by(|a, b| a.age.cmp(&b.age));
        tenants.into_iter().for_each(|tenant| territory.settle(tenant, settings));
        territory
    }

    /// Every owned range and its owner.
    pub fn owners(&self) -> impl Iterator<Item = (IpNet, &Owner)> {
        self.v4.values().chain(self.v6.values()).map(|span| (span.net, &span.owner))
    }

    /// Which of a tenant's subnet entries, by position, it really has.
    pub fn granted(&self, tenant: &str) -> &[usize] {
        self.granted.get(tenant).map_or(&[], Vec::as_slice)
    }

    /// Whether part of `net` is owned by somebody else than `tenant`.
    pub fn is_contested(&self, net: &IpNet, tenant: &str) -> bool {
        self.overlapping(net).any(|span| !matches!(&span.owner, Owner::Tenant(name) if **name == *tenant))
    }

    /// Whether part of `net` should be somebody's, but the kernel's table has no room to say so.
    pub fn is_unplaced(&self, net: &IpNet) -> bool {
        self.unplaced.iter().any(|unplaced| unplaced.contains(net) || net.contains(unplaced))
    }

    fn settle(&mut self, tenant: &Arc<Tenant>, settings: &Settings) {
        let name = Word::from(tenant.age.name.as_str());
        let mut granted = Vec::new();
        for (at, range) in tenant.subnets.iter().enumerate() {
            let net = range.cidr.trunc();
            match self.dispute(&net, &name) {
                Some((kind, with)) => self.conflicts.push(refusal(&name, range.name.as_str(), &net, kind, &with)),
                None if self.place(net, Owner::Tenant(name.clone()), settings) => granted.push(at),
                None => {}
            }
        }
        self.granted.insert(name, granted);
    }

    fn dispute(&self, net: &IpNet, tenant: &Word) -> Option<(ConflictKind, String)> {
        self.overlapping(net).find_map(|span| match &span.owner {
            Owner::Cluster => Some((ConflictKind::ClusterRange, format!("the cluster's range {}", span.net))),
            Owner::Tenant(other) if other == tenant => None,
            Owner::Tenant(other) => {
                Some((ConflictKind::SubnetOverlap, format!("{} of the older tenant {other}", span.net)))
            }
        })
    }

    /// Ranges that share an address with `net`, last first. Ranges are disjoint, so the first one
    /// that ends too early is followed only by others that do.
    fn overlapping(&self, net: &IpNet) -> impl Iterator<Item = &Span> {
        let (first, last) = bounds(net);
        let spans = if net.addr().is_ipv4() { &self.v4 } else { &self.v6 };
        spans.range(..=last).rev().map(|(_, span)| span).take_while(move |span| span.last >= first)
    }

    /// Gives `net`, which nobody else has, to `owner`; false when the table is full. Ranges inside
    /// one of the same owner's are not listed again.
    fn place(&mut self, net: IpNet, owner: Owner, settings: &Settings) -> bool {
        if self.overlapping(&net).any(|span| span.net.contains(&net)) {
            return true;
        }
        let (first, last) = bounds(&net);
        let (spans, limit) = match net {
            IpNet::V4(_) => (&mut self.v4, Limit::OwnersV4),
            IpNet::V6(_) => (&mut self.v6, Limit::OwnersV6),
        };
        let inner: Vec<u128> = spans.range(first..=last).map(|(at, _)| *at).collect();
        let room = settings.limits.get(limit);
        if spans.len() - inner.len() >= room {
            self.overflows.note(limit, room, net);
            self.unplaced.push(net);
            return false;
        }
        inner.iter().for_each(|at| _ = spans.remove(at));
        spans.insert(first, Span { last, net, owner });
        true
    }
}

fn refusal(tenant: &Word, entry: &str, net: &IpNet, kind: ConflictKind, with: &str) -> Conflict {
    let message = format!(
        "subnet {entry} ({net}) of tenant {tenant} overlaps {with}: the entry grants and owns nothing; \
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
    use crate::model::settings::Limits;
    use crate::model::testing::{cluster, range, tenant};

    fn owner_of(name: &str, created: i64, subnets: &[&str]) -> Tenant {
        let subnets = subnets.iter().map(|cidr| range(cidr, &[])).collect();
        Tenant { age: Age { created, name: name.to_owned() }, subnets, ..tenant(name) }
    }

    fn territory(settings: Settings, tenants: Vec<Tenant>) -> Territory {
        Territory::new(&cluster(settings, vec![Change::Tenants(tenants)]))
    }

    fn owners(territory: &Territory) -> Vec<String> {
        let text = |(net, owner): (IpNet, &Owner)| match owner {
            Owner::Cluster => format!("{net} cluster"),
            Owner::Tenant(name) => format!("{net} {name}"),
        };
        territory.owners().map(text).collect()
    }

    #[test]
    fn the_older_tenant_keeps_a_disputed_range_whatever_the_order_of_news() {
        for (old, young) in [("a", "z"), ("z", "a")] {
            let both = || vec![owner_of(young, 2, &["10.1.0.0/16", "10.9.0.0/24"]), owner_of(old, 1, &["10.1.2.0/24"])];
            let territory = territory(Settings::default(), both());
            assert_eq!(owners(&territory), [format!("10.1.2.0/24 {old}"), format!("10.9.0.0/24 {young}")]);
            assert_eq!((territory.granted(young), territory.granted(old)), (&[1][..], &[0][..]));
            let [conflict] = territory.conflicts.as_slice() else { panic!("{:?}", territory.conflicts) };
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
        let territory = territory(settings, vec![owner_of("acme", 0, &subnets)]);
        assert_eq!(territory.granted("acme"), [2], "the paired control is granted");
        assert!(territory.conflicts.iter().all(|conflict| conflict.kind == ConflictKind::ClusterRange));
        assert_eq!(territory.conflicts.len(), 2);
    }

    #[test]
    fn a_tenant_s_own_ranges_may_nest_and_its_neighbours_touch() {
        let tenants = vec![
            owner_of("acme", 0, &["10.0.1.0/24", "10.0.0.0/16", "10.0.2.0/24"]),
            owner_of("globex", 1, &["10.1.0.0/16", "9.255.255.255/32"]),
        ];
        let territory = territory(Settings::default(), tenants);
        assert_eq!(owners(&territory), ["9.255.255.255/32 globex", "10.0.0.0/16 acme", "10.1.0.0/16 globex"]);
        assert_eq!(territory.granted("acme"), [0, 1, 2]);
        assert!(territory.conflicts.is_empty());
    }

    #[test]
    fn a_range_is_contested_exactly_if_somebody_else_owns_part_of_it() {
        let tenants = vec![owner_of("acme", 0, &["10.0.0.0/24"]), owner_of("globex", 1, &["10.0.2.0/24"])];
        let territory = territory(Settings::default(), tenants);
        for (net, contested) in [
            ("0.0.0.0/0", true),
            ("10.0.0.0/23", false),
            ("10.0.0.0/22", true),
            ("10.0.2.9/32", true),
            ("10.0.3.0/24", false),
            ("::/0", false),
        ] {
            let net = net.parse().expect("a range");
            assert_eq!(territory.is_contested(&net, "acme"), contested, "{net}");
        }
    }

    #[test]
    fn a_range_without_room_grants_nothing_and_wide_ranges_over_it_are_withheld() {
        let limits = Limits { owners_v4: 1, ..Limits::default() };
        let settings = Settings { limits, ..Settings::default() };
        let tenants = vec![owner_of("acme", 0, &["10.0.0.0/24"]), owner_of("globex", 1, &["10.0.2.0/24", "fd00::/64"])];
        let territory = territory(settings, tenants);
        assert_eq!(territory.granted("globex"), [1]);
        assert!(territory.is_unplaced(&"0.0.0.0/0".parse().expect("a range")));
        assert!(!territory.is_unplaced(&"10.0.0.0/24".parse().expect("a range")));
        assert_eq!(territory.overflows.as_slice().len(), 1);
    }
}
