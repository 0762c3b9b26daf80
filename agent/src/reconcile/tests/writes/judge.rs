//! A second, independent verdict over the ledger, as far as a plan can violate the policy.
//!
//! Shares no code with the rules of the programs.

use agent_common::addr::V4;
use agent_common::layout::{EndpointEntry, GrantKey, PORTS_ANY, PeerEntry, PeerKeyV4, PrefixGrant};
use agent_common::tenant::{TenantId, TenantState};
use ipnet::Ipv4Net;

use policy::model::pod::v4_addr;
use policy::plan::Actual;

/// A TCP packet.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub from: V4,
    pub to: V4,
    pub port: u16,
}

impl Probe {
    /// Every pair of a pod's address and an address that a rule treats differently, in both directions.
    pub(super) fn all() -> Vec<Self> {
        let pods = (1..=7).map(|n| V4::new([10, 0, 0, n]));
        let outside = [
            [10, 40, 0, 5],
            [10, 40, 0, 200],
            [10, 40, 1, 5],
            [10, 41, 0, 5],
            [8, 8, 8, 8],
            [192, 0, 2, 1],
            [169, 254, 169, 254],
        ];
        let addresses: Vec<V4> = pods.clone().chain(outside.map(V4::new)).collect();
        let mut probes = Vec::new();
        for from in &addresses {
            for to in addresses.iter().filter(|to| runs_here(*from) || runs_here(**to)) {
                let outside = !is_pod(*to);
                // Ports matter only for destinations outside the pod range.
                let ports: &[u16] = if outside { &[80, 443, 22] } else { &[80] };
                probes.extend(ports.iter().map(|port| Self { from: *from, to: *to, port: *port }));
            }
        }
        probes
    }
}

pub(super) fn key(address: V4) -> PeerKeyV4 {
    PeerKeyV4 { network: 0, address }
}

/// Whether a packet passes the interfaces of sender and receiver, as far as they are on this node.
pub(super) fn allows(actual: &Actual, probe: &Probe) -> bool {
    let endpoint = |address| actual.endpoints.values().find(|entry| entry.v4 == address);
    let (from, to) = (endpoint(probe.from), endpoint(probe.to));
    // A local pod without a claimed interface is denied.
    let sends = from.map_or(!runs_here(probe.from), |entry| may_send(actual, entry, probe));
    let receives = to.map_or(!runs_here(probe.to), |entry| may_receive(actual, entry, probe));
    (from.is_some() || to.is_some()) && sends && receives
}

fn is_pod(address: V4) -> bool {
    address.octets()[..3] == [10, 0, 0]
}

/// Pods 1 to 4 run on this node.
fn runs_here(address: V4) -> bool {
    is_pod(address) && address.octets()[3] <= 4
}

fn may_send(actual: &Actual, entry: &EndpointEntry, probe: &Probe) -> bool {
    let Some(state) = state(actual, entry.tenant) else { return false };
    if state.has(TenantState::AUDIT | TenantState::OPEN) {
        return true;
    }
    match actual.peers_v4.get(&key(probe.to)) {
        Some(peer) if peer.kind == PeerEntry::POD => knows(actual, entry.tenant, state, peer, true),
        Some(peer) if peer.kind == PeerEntry::NODE => state.has(TenantState::NODES_ALLOWED),
        Some(peer) if peer.kind == PeerEntry::METADATA => {
            let found = prefixes(actual, entry.tenant)
                .into_iter()
                .find(|(net, _)| net.prefix_len() == 32 && net.addr() == v4_addr(probe.to));
            found.is_some_and(|(_, grant)| fits(actual, grant, probe.port))
        }
        Some(_) => false,
        None => may_leave(actual, entry.tenant, probe),
    }
}

fn may_leave(actual: &Actual, tenant: TenantId, probe: &Probe) -> bool {
    let to = v4_addr(probe.to);
    let found = prefixes(actual, tenant)
        .into_iter()
        .filter(|(net, _)| net.contains(&to))
        .max_by_key(|(net, _)| net.prefix_len());
    let Some((_, grant)) = found else { return false };
    let contested = grant.flags & PrefixGrant::CONTESTED != 0;
    fits(actual, grant, probe.port) && (!contested || owner(actual, probe.to).is_none_or(|owner| owner == tenant))
}

fn may_receive(actual: &Actual, entry: &EndpointEntry, probe: &Probe) -> bool {
    let Some(state) = state(actual, entry.tenant) else { return false };
    if state.has(TenantState::AUDIT) {
        return true;
    }
    match actual.peers_v4.get(&key(probe.from)) {
        Some(peer) if peer.kind == PeerEntry::POD => knows(actual, entry.tenant, state, peer, false),
        Some(_) => true,
        None => owner(actual, probe.from).is_none_or(|owner| owner == entry.tenant || owner == TenantId::NODES),
    }
}

/// Whether `us` may open a connection to the pod `peer`, or `peer` one to `us`.
fn knows(actual: &Actual, us: TenantId, state: TenantState, peer: &PeerEntry, opens: bool) -> bool {
    let (from, to) = if opens { (us, peer.tenant) } else { (peer.tenant, us) };
    let granted = || state.has(TenantState::HAS_GRANTS) && actual.grants.contains_key(&GrantKey { from, to });
    let shared = state.has(TenantState::SHARED) || peer.flags & PeerEntry::SHARED != 0;
    peer.tenant.is_known() && (peer.tenant == us || shared || granted())
}

fn state(actual: &Actual, tenant: TenantId) -> Option<TenantState> {
    actual.tenants.get(&tenant).copied().filter(|state| state.has(TenantState::VALID))
}

fn fits(actual: &Actual, grant: PrefixGrant, port: u16) -> bool {
    let in_set = |set: u16| {
        let ranges = actual.port_sets.get(&set).map(|set| set.ranges).unwrap_or_default();
        ranges.iter().any(|range| range.protocol == 6 && (range.low..=range.high).contains(&port))
    };
    grant.is_some() && (grant.ports == PORTS_ANY || in_set(grant.ports))
}

fn owner(actual: &Actual, address: V4) -> Option<TenantId> {
    let owners = actual.owners_v4.iter().filter(|(net, _)| net.contains(&v4_addr(address)));
    owners.max_by_key(|(net, _)| net.prefix_len()).map(|(_, owner)| *owner)
}

/// A tenant's IPv4 prefixes, from its row or from the trie.
pub(super) fn prefixes(actual: &Actual, tenant: TenantId) -> Vec<(Ipv4Net, PrefixGrant)> {
    let Some(state) = actual.tenants.get(&tenant) else { return Vec::new() };
    let net = |net, length| Ipv4Net::new_assert(v4_addr(net), length);
    if state.has(TenantState::TRIE_V4) {
        let own = actual.trie_v4.iter().filter(|((key, _), _)| key.tenant == tenant);
        let mut found: Vec<_> = own.map(|((key, bits), grant)| (net(key.net, *bits), *grant)).collect();
        found.sort_by_key(|(net, _)| (std::cmp::Reverse(net.prefix_len()), *net));
        return found;
    }
    let Some(row) = actual.rows_v4.get(&state.row) else { return Vec::new() };
    let used = row.prefixes.iter().take_while(|prefix| prefix.grant.is_some());
    used.map(|prefix| (net(prefix.net, prefix.grant.length), prefix.grant)).collect()
}
