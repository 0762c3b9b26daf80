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
