//! The rules below the global_fns: tenant, address, ports and state to a verdict. No packet in sight.
//!
//! `judge` settles at once what identity alone justifies, and queries `egress` and `ingress` for the
//! rest. Those two are complete: they need no answer to have been given before.

use crate::access::{Access, Denied, Family, LocalTenant, RemoteIdentity, Tables, between, foreign, identify_fast};
use crate::conntrack::{Opener, ReplyEntry, ReplyState};
use crate::flow::Direction;
use crate::headers::{ICMP, ICMPV6, SCTP, TCP, UDP};
use crate::layout::PeerEntry;
use crate::query::Query;
use crate::reason::DropReason;
use crate::tenant::TenantState;
use crate::verdict::Verdict;

/// Judges a packet: at once where identity alone justifies it, else by the rules.
#[inline(always)]
pub fn judge<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>, direction: Direction) -> Verdict {
    let identity = identify_fast(tables, query);
    match direction {
        Direction::Egress if identity.is_sufficient() => Verdict::ALLOW_MARKED,
        Direction::Ingress if identity.is_sufficient() => Verdict::ALLOW,
        Direction::Egress => tables.egress(query, identity),
        Direction::Ingress => tables.ingress(query, identity),
    }
}

/// Judges what a pod sends, of whose destination that much is known. The generation is read before any
/// rule is asked, so that nothing is remembered as judged by a later policy than the one that judged it.
#[inline(always)]
pub fn egress<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>, identity: RemoteIdentity) -> Verdict {
    let generation = tables.runtime().generation;
    let access = tables.access(query, identity);
    if access == Access::BOTH_WAYS {
        return match identity.peer() {
            // What a node has sent to the pod under its own address, for somebody else, goes back to that one.
            Some(peer) if peer.kind == PeerEntry::NODE => Verdict::ALLOW_REPLY,
            // Whoever lists the very address of a Service or of the metadata means what is behind it.
            Some(peer) if !peer.is_pods() => Verdict::ALLOW,
            _ => Verdict::ALLOW_MARKED,
        };
    }
    if access == Access::ONE_WAY {
        open(tables, query, Opener::Pod, generation);
        return Verdict::ALLOW_MARKED;
    }
    let denied = access.denied();
    if access.allows_reply() && (answers(tables, query, denied, generation) || resolves(query, denied)) {
        return Verdict::ALLOW_REPLY;
    }
    if query.local.state.has(TenantState::OPEN) && denied.reason != DropReason::MetadataService {
        return open_world(tables, query);
    }
    Verdict::because(denied)
}

/// Where destinations are not judged, others' data subnets still are: nothing behind them would.
#[inline(never)]
fn open_world<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>) -> Verdict {
    match foreign(tables, &query.local, query.remote) {
        Some(denied) if denied.peer.is_known() => Verdict::because(denied),
        _ => Verdict::ALLOW_MARKED,
    }
}

/// To answer somebody, a pod must learn where it is.
#[inline(always)]
fn resolves<A: Family>(query: &Query<A>, denied: Denied) -> bool {
    query.has(Query::<A>::RESOLVES) && (denied.peer.is_known() || denied.reason == DropReason::Node)
}

/// Rule 3: whether the packet answers a connection that the other side opened and still may open.
#[inline(always)]
fn answers<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>, denied: Denied, generation: u64) -> bool {
    if !query.has(Query::<A>::ANSWERS) || denied.reason == DropReason::Node && is_tunnelled(query) {
        return false;
    }
    match tables.lookup_reply(query, Opener::Remote, true, generation) {
        ReplyState::Unknown => return false,
        ReplyState::Current => return true,
        ReplyState::Stale => {}
    }
    if !may_ask(tables, query, denied) {
        return false;
    }
    tables.record(query, Opener::Remote, true, generation);
    true
}

/// Whether the other side may open connections to the pod: a pod or node may, as `access` has just said, the
/// world unless it is somebody's subnet by now.
#[inline(always)]
pub fn may_ask<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>, denied: Denied) -> bool {
    let judged_now = denied.reason == DropReason::Node || denied.peer.is_known();
    judged_now || foreign(tables, &query.local, query.remote).is_none_or(may_enter)
}

/// Whether the other end would unwrap what is in the packet and take it for another node's: VXLAN (RFC 7348,
/// and the port that Linux chose before it), Geneve (RFC 8926), and everything without ports. Where conntrack
/// has forgotten who asked from such a port, under the node's address, an answer would end there.
#[inline(always)]
pub fn is_tunnelled<A: Family>(query: &Query<A>) -> bool {
    const VXLAN: [u16; 2] = [4789, 8472];
    const GENEVE: u16 = 6081;
    match query.protocol {
        UDP if query.has(Query::<A>::KNOWN) => VXLAN.contains(&query.remote_port) || query.remote_port == GENEVE,
        TCP | SCTP | ICMP | ICMPV6 => false,
        _ => true,
    }
}

/// Judges what is on its way to a pod from an address that is not the pod's, of which that much is known.
#[inline(always)]
pub fn ingress<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>, identity: RemoteIdentity) -> Verdict {
    let generation = tables.runtime().generation;
    match identity.peer() {
        Some(peer) if peer.is_pods() => from_peer(tables, query, peer, generation),
        Some(peer) if peer.kind == PeerEntry::NODE => {
            // Answers need no state where the pod may open to nodes itself.
            if !query.local.state.has(TenantState::NODES_ALLOWED | TenantState::SHARED) {
                open(tables, query, Opener::Remote, generation);
            }
            Verdict::ALLOW
        }
        // Answers, where the pod may query; asking is judged at the pod.
        Some(peer) if peer.kind == PeerEntry::METADATA || peer.kind == PeerEntry::SERVICE_LISTED => Verdict::ALLOW,
        Some(peer) => Verdict::because(Denied { reason: DropReason::Internal, peer: peer.tenant }),
        None => from_world(tables, query, identity, generation),
    }
}

#[inline(always)]
fn from_peer<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>, peer: PeerEntry, generation: u64) -> Verdict {
    let access = between(tables, &query.local, peer);
    if access == Access::BOTH_WAYS {
        return Verdict::ALLOW;
    }
    if access == Access::ONE_WAY {
        let answer = is_answer(tables, query, generation) || query.has(Query::<A>::RESOLVES);
        let denied = Denied { reason: DropReason::CrossTenant, peer: peer.tenant };
        return if answer { Verdict::ALLOW } else { Verdict::because(denied) };
    }
    if access.allows_reply() {
        open(tables, query, Opener::Remote, generation);
        return Verdict::ALLOW;
    }
    if query.local.state.has(TenantState::OPEN) {
        return Verdict::ALLOW;
    }
    Verdict::because(seen_from_inside(access.denied()))
}

/// `unassigned_source` and `unassigned_destination` name the ends of the packet, not of the rule.
#[inline(always)]
fn seen_from_inside(denied: Denied) -> Denied {
    let reason = match denied.reason {
        DropReason::UnassignedSource => DropReason::UnassignedDestination,
        DropReason::UnassignedDestination => DropReason::UnassignedSource,
        other => other,
    };
    Denied { reason, ..denied }
}

#[inline(always)]
fn from_world<A: Family, T: Tables<A>>(
    tables: &T,
    query: &Query<A>,
    identity: RemoteIdentity,
    generation: u64,
) -> Verdict {
    if query.remote.is_multicast() || query.remote.is_martian() {
        return Verdict::deny(DropReason::Martian);
    }
    // What the pod may open itself needs no state: answers are justified by identity.
    if identity.range(tables, query).is_clear() {
        return Verdict::ALLOW;
    }
    let tracked = query.has(Query::<A>::OPENS | Query::<A>::CONTINUES);
    let state =
        if tracked { tables.lookup_reply(query, Opener::Remote, false, generation) } else { ReplyState::Unknown };
    if state == ReplyState::Current {
        return Verdict::ALLOW;
    }
    if let Some(denied) = foreign(tables, &query.local, query.remote)
        && !may_enter(denied)
    {
        return Verdict::because(Denied { reason: DropReason::CrossTenant, ..denied });
    }
    if state == ReplyState::Stale || query.has(Query::<A>::OPENS) {
        tables.record(query, Opener::Remote, false, generation);
    }
    Verdict::ALLOW
}

/// Nodes may open connections to pods (probes, and everything that leaves a node translated); other
/// tenants' subnets, and pods nobody has told us of, may not.
#[inline(always)]
fn may_enter(owner: Denied) -> bool {
    owner.reason == DropReason::Node
}

/// Whether a packet to the pod answers a connection the pod opened, which it still may.
#[inline(always)]
fn is_answer<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>, generation: u64) -> bool {
    if !query.has(Query::<A>::ANSWERS) {
        return false;
    }
    match tables.lookup_reply(query, Opener::Pod, true, generation) {
        ReplyState::Unknown => return false,
        ReplyState::Current => {}
        ReplyState::Stale => tables.record(query, Opener::Pod, true, generation),
    }
    true
}

/// Remembers, or refreshes, the connection that this packet opens or continues, which it may.
#[inline(always)]
fn open<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>, opener: Opener, generation: u64) {
    if !query.has(Query::<A>::OPENS | Query::<A>::CONTINUES) {
        return;
    }
    match tables.lookup_reply(query, opener, false, generation) {
        ReplyState::Current => {}
        ReplyState::Unknown if !query.has(Query::<A>::OPENS) => {}
        ReplyState::Unknown | ReplyState::Stale => tables.record(query, opener, false, generation),
    }
}

/// What is remembered of a connection that `opener` opened. Where the policy of `generation` is the one that
/// allowed it, this packet is marked at once; else it is for the caller to judge, and to `note`.
#[inline(always)]
pub fn lookup_reply<A: Family, T: Tables<A>>(
    tables: &T,
    query: &Query<A>,
    opener: Opener,
    reply: bool,
    generation: u64,
) -> ReplyState {
    let key = query.key(opener);
    let Some(entry) = tables.reply(&key) else { return ReplyState::Unknown };
    let now = tables.now_ns();
    if !entry.is_live(key.protocol, now) {
        return ReplyState::Unknown;
    }
    if entry.generation != generation {
        return ReplyState::Stale;
    }
    if let Some(next) = entry.touched(query.mark(reply), generation, now) {
        tables.insert_reply(&key, next);
    }
    ReplyState::Current
}

/// Remembers that the policy of a generation allows the connection, and this packet of it.
#[inline(always)]
pub fn record<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>, opener: Opener, reply: bool, generation: u64) {
    let key = query.key(opener);
    let now = tables.now_ns();
    let flags = match tables.reply(&key) {
        Some(entry) if entry.is_live(key.protocol, now) => entry.flags,
        _ => 0,
    };
    tables.insert_reply(&key, ReplyEntry { seen_ns: now, generation, flags: flags | query.mark(reply), _pad: 0 });
}

/// Names the owner of an address that no rule allowed: `off_subnet` becomes `cross_tenant` where it
/// lies in somebody's subnet. Never turns a denial into anything else.
#[inline(always)]
pub fn attribute_owner<A: Family, T: Tables<A>>(tables: &T, local: &LocalTenant, remote: A, denied: Denied) -> Denied {
    match denied.reason {
        DropReason::OffSubnet => foreign(tables, local, remote).unwrap_or(denied),
        _ => denied,
    }
}
