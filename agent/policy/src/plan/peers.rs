//! Exact addresses: the writes for marked addresses, each compared by itself.
//!
//! Knows no rule of the policy: `desired_peer` returns the entry of an address. An address that does not fit replaces
//! no other entry.

use std::collections::BTreeSet;
use std::net::IpAddr;

use agent_common::addr::{V4, V6};
use agent_common::layout::{PeerEntry, PeerKeyV4};

use super::phases::Phases;
use super::{Actual, Ledger, Op};
use crate::model::cluster::Cluster;
use crate::model::desired::{Desired, NOBODYS, desired_peer};
use crate::model::dirty::Dirty;
use crate::model::limits::Limit;
use crate::model::pod::{v4_addr, v6_addr};

/// How many new addresses one plan adds. Further ones are left to later plans. So a cold start with a million pods
/// needs no memory for a million ops, and a new local pod does not wait for them.
pub const MOST_NEW: usize = 65_536;

/// Addresses that the plan does not add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    pub deferred: bool,
    pub refused: Vec<IpAddr>,
}

/// Adds the writes that bring the marked addresses from `ledger` to what they should be.
///
/// This runs last: whether a removal can happen in one step depends on what else the plan changes.
pub(super) fn diff(cluster: &Cluster, desired: &Desired, ledger: &Ledger, dirty: &Dirty, phases: &mut Phases) -> Rest {
    let mut peers = Peers { ledger, quiet: phases.is_quiet(), new: [0, 0], rest: Rest::default() };
    let actual = ledger.actual();
    if !dirty.everything {
        for address in &dirty.addresses {
            let wanted = desired_peer(cluster, desired, *address);
            peers.bring(*address, current(actual, *address), wanted, cluster, phases);
        }
        return peers.rest;
    }
    for (address, entry) in known(actual) {
        let wanted = desired_peer(cluster, desired, address);
        peers.bring(address, Some(entry), wanted, cluster, phases);
    }
    for address in all(cluster) {
        if peers.new.iter().sum::<usize>() >= MOST_NEW {
            peers.rest.deferred = true;
            break;
        }
        if current(actual, address).is_none() {
            peers.bring(address, None, desired_peer(cluster, desired, address), cluster, phases);
        }
    }
    peers.rest
}

struct Peers<'a> {
    ledger: &'a Ledger,
    quiet: bool,
    new: [usize; 2],
    rest: Rest,
}

impl Peers<'_> {
    fn bring(
        &mut self,
        address: IpAddr,
        old: Option<PeerEntry>,
        new: Option<PeerEntry>,
        cluster: &Cluster,
        phases: &mut Phases,
    ) {
        match (old, new) {
            (None, Some(new)) if self.has_capacity(address, cluster) => appear(address, new, phases),
            (Some(old), Some(new)) if old != new => change(address, old, new, phases),
            (Some(_), None) if self.quiet => phases.fence.push(op(address, None)),
            (Some(_), None) => {
                phases.fence.push(op(address, Some(NOBODYS)));
                phases.settle.push(op(address, None));
            }
            _ => {}
        }
    }

    fn has_capacity(&mut self, address: IpAddr, cluster: &Cluster) -> bool {
        let (at, limit, used) = match address {
            IpAddr::V4(_) => (0, Limit::PeersV4, self.ledger.actual().peers_v4.len()),
            IpAddr::V6(_) => (1, Limit::PeersV6, self.ledger.actual().peers_v6.len()),
        };
        let capacity = cluster.settings().limits.get(limit);
        let fits = used + self.new[at] < capacity;
        if fits {
            self.new[at] += 1;
        } else {
            self.rest.refused.push(address);
        }
        fits
    }
}

/// Adds an entry. It closes the address to wide ranges of other tenants, and opens it to its own tenant.
fn appear(address: IpAddr, new: PeerEntry, phases: &mut Phases) {
    if phases.demotes && new != NOBODYS {
        phases.fence.push(op(address, Some(NOBODYS)));
        return phases.settle.push(op(address, Some(new)));
    }
    phases.fence.push(op(address, Some(new)));
}

/// Changes an entry. If it gets another tenant or kind, it is [`NOBODYS`] in between. If it only becomes Shared, it is
/// written with the grants. If it only ceases to be Shared, it is written with the revocations.
fn change(address: IpAddr, old: PeerEntry, new: PeerEntry, phases: &mut Phases) {
    let same_owner = (old.tenant, old.kind) == (new.tenant, new.kind);
    if same_owner && new.flags & !old.flags & PeerEntry::SHARED == 0 {
        return phases.fence.push(op(address, Some(new)));
    }
    if !same_owner && old != NOBODYS {
        phases.fence.push(op(address, Some(NOBODYS)));
    }
    if new != NOBODYS {
        phases.settle.push(op(address, Some(new)));
    }
}

/// Every address of a pod, a Service, a node or a metadata service, and every disputed address.
fn all(cluster: &Cluster) -> impl Iterator<Item = IpAddr> + '_ {
    let metadata = cluster.settings().metadata.iter().copied();
    let special: BTreeSet<IpAddr> =
        metadata.chain(cluster.nodes().iter().copied()).chain(cluster.rivals().keys().copied()).collect();
    let is_new = |address: &IpAddr| !cluster.nodes().contains(address);
    let pods = cluster.address_index().addresses().filter(is_new);
    let services = cluster
        .services()
        .address_index()
        .addresses()
        .filter(move |address| cluster.address_index().get(*address).is_none());
    special.into_iter().chain(pods).chain(services)
}

fn known(actual: &Actual) -> impl Iterator<Item = (IpAddr, PeerEntry)> + '_ {
    let v4 = actual.peers_v4.iter().filter(|(key, _)| key.network == 0);
    let v4 = v4.map(|(key, entry)| (v4_addr(key.address).into(), *entry));
    v4.chain(actual.peers_v6.iter().map(|(address, entry)| (v6_addr(*address).into(), *entry)))
}

fn current(actual: &Actual, address: IpAddr) -> Option<PeerEntry> {
    match address {
        IpAddr::V4(v4) => actual.peers_v4.get(&key(v4)).copied(),
        IpAddr::V6(v6) => actual.peers_v6.get(&V6::new(v6.octets())).copied(),
    }
}

fn op(address: IpAddr, entry: Option<PeerEntry>) -> Op {
    match address {
        IpAddr::V4(v4) => Op::PeerV4(key(v4), entry),
        IpAddr::V6(v6) => Op::PeerV6(V6::new(v6.octets()), entry),
    }
}

fn key(address: std::net::Ipv4Addr) -> PeerKeyV4 {
    PeerKeyV4 { network: 0, address: V4::new(address.octets()) }
}
