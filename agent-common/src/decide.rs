//! The rules: from a query and the tables to a verdict. Knows no packet.
//!
//! [`verdict`] decides at once where the remote identity alone is enough, and evaluates [`egress`] or [`ingress`]
//! otherwise. Those two are complete: they do not rely on an earlier answer. The generation is read before any rule is
//! evaluated. So an entry of the reply table never names a later policy than the one that allowed it.

use crate::access::{
    Access, Lookup, RemoteIdentity, access, access_if_listed, between, identify, identify_fast, is_tunnelled,
    may_open_node, other_owner,
};
use crate::conntrack::{Opener, ReplyEntry, ReplyPacket, ReplyState};
use crate::flow::Direction;
use crate::headers::ICMP;
use crate::layout::PeerEntry;
use crate::query::Query;
use crate::reason::DropReason;
use crate::tables::{Family, Tables};
use crate::tenant::{LocalTenant, TenantState};
use crate::verdict::{Denied, Verdict};

/// The rules as methods. The kernel overrides each with a global function, which the verifier checks once; every other
/// implementation keeps the defaults.
pub trait Rules<A: Family>: Lookup<A> {
    /// See [`access()`].
    fn access(&self, query: &Query<A>, identity: RemoteIdentity) -> Access {
        access(self, query, identity)
    }

    /// See [`egress`].
    fn egress(&self, query: &Query<A>, identity: RemoteIdentity) -> Verdict {
        egress(self, query, identity)
    }

    /// See [`ingress`].
    fn ingress(&self, query: &Query<A>, identity: RemoteIdentity) -> Verdict {
        ingress(self, query, identity)
    }

    /// See [`lookup_reply`].
    fn lookup_reply(&self, packet: &ReplyPacket, generation: u64) -> ReplyState {
        lookup_reply(self, packet, generation)
    }

    /// See [`record`].
    fn record(&self, packet: &ReplyPacket, generation: u64) {
        record(self, packet, generation)
    }
}

/// Decides on a packet: at once where the remote identity alone allows it, else by the rules.
#[inline(always)]
pub fn verdict<A: Family, T: Rules<A>>(tables: &T, query: &Query<A>, direction: Direction) -> Verdict {
    let identity = identify_fast(tables, query);
    match direction {
        Direction::Egress if identity.is_sufficient() => Verdict::ALLOW_MARKED,
        Direction::Ingress if identity.is_sufficient() => Verdict::ALLOW,
        Direction::Egress => tables.egress(query, identity),
        Direction::Ingress => tables.ingress(query, identity),
    }
}

/// Decides on a packet from the pod, given what the lookup found for its destination.
#[inline(always)]
pub fn egress<A: Family, T: Rules<A>>(tables: &T, query: &Query<A>, identity: RemoteIdentity) -> Verdict {
    let generation = tables.runtime().generation;
    let access = tables.access(query, identity);
    if access == Access::BOTH_WAYS {
        return match identity.peer() {
            // The node may have sent the pod a packet of another sender under its own address. A reply goes back to
            // that sender.
            Some(peer) if peer.kind == PeerEntry::NODE => Verdict::ALLOW_REPLY,
            // The tenant lists exactly this address.
            Some(peer) if !peer.is_pods() => Verdict::ALLOW_LISTED,
            _ => Verdict::ALLOW_MARKED,
        };
    }
    if access == Access::ONE_WAY {
        record_opening(tables, query, Opener::Pod, generation);
        return Verdict::ALLOW_MARKED;
    }
    let denied = access.denied();
    if access.allows_reply() && (is_reply_from_pod(tables, query, denied, generation) || may_resolve(query, denied)) {
        return Verdict::ALLOW_REPLY;
    }
    let is_closed = match denied.reason {
        DropReason::MetadataService => true,
        DropReason::Node => is_tunnelled(query),
        _ => false,
    };
    if query.local.state.has(TenantState::OPEN) && !is_closed {
        return egress_of_open_tenant(tables, query);
    }
    Verdict::from_denied(denied)
}

/// Decides for a tenant with [`TenantState::OPEN`]: only data subnets of other tenants and tunnels of nodes are denied,
/// because nothing behind them would deny the packet.
#[inline(always)]
fn egress_of_open_tenant<A: Family, T: Lookup<A>>(tables: &T, query: &Query<A>) -> Verdict {
    let embedded = tables.embedded_access(query);
    if embedded != Access::BOTH_WAYS {
        return Verdict::from_denied(embedded.denied());
    }
    match other_owner(tables, &query.local, query.remote) {
        Some(denied) if denied.peer.is_known() => Verdict::from_denied(denied),
        Some(denied) if is_node(denied) && is_tunnelled(query) => Verdict::from_denied(denied),
        _ => Verdict::ALLOW_MARKED,
    }
}

/// Whether the query resolves an address to which the pod may reply, or that it may reach on some port: both need the
/// neighbour's hardware address. A query that resolves has no port, so a prefix with ports denies it as a fragment. That
/// counts for ARP only, which stays on the link: neighbour discovery is ICMPv6, which a router would forward.
#[inline(always)]
fn may_resolve<A: Family>(query: &Query<A>, denied: Denied) -> bool {
    let some_port = denied.reason == DropReason::Fragment && A::ICMP == ICMP;
    query.has(Query::<A>::RESOLVES) && (denied.peer.is_known() || denied.reason == DropReason::Node || some_port)
}

/// Rule 3: whether the packet is a reply on a connection that the other side opened, and still may open.
#[inline(always)]
fn is_reply_from_pod<A: Family, T: Rules<A>>(tables: &T, query: &Query<A>, denied: Denied, generation: u64) -> bool {
    if !query.has(Query::<A>::MAY_REPLY) || is_tunnelled(query) && is_to_node(tables, query, denied) {
        return false;
    }
    match tables.lookup_reply(&query.reply_packet(Opener::Remote, true), generation) {
        ReplyState::Unknown => return false,
        ReplyState::Current => return true,
        ReplyState::Stale => {}
    }
    if !may_open_to_pod(tables, query, denied) {
        return false;
    }
    tables.record(&query.reply_packet(Opener::Remote, true), generation);
    true
}

/// Whether the pod may have sent a packet that an ICMP error quotes: to an address that it may reach, or on a connection
/// that the other side opened. It records no connection, and no reply.
#[inline(always)]
pub fn may_have_sent<A: Family, T: Rules<A>>(tables: &T, query: &Query<A>) -> bool {
    let access = tables.access(query, identify(tables, query));
    if access == Access::BOTH_WAYS || access == Access::ONE_WAY {
        return true;
    }
    let packet = ReplyPacket { begins: false, flags: 0, ..query.reply_packet(Opener::Remote, false) };
    let known = || tables.lookup_reply(&packet, tables.runtime().generation) != ReplyState::Unknown;
    query.local.state.has(TenantState::OPEN) || (access.allows_reply() && known())
}

/// Whether a denied packet goes to a node: to a known one, or into a range of nodes.
#[inline(always)]
fn is_to_node<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>, denied: Denied) -> bool {
    denied.reason == DropReason::Node || other_owner(tables, &query.local, query.remote).is_some_and(is_node)
}

/// Whether the other side may open connections to the pod, given an [`Access`] that allows replies. A pod or a node
/// may, as that access decision says. An address outside the cluster may, unless another tenant owns it by now.
#[inline(always)]
pub fn may_open_to_pod<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>, denied: Denied) -> bool {
    let decided = denied.reason == DropReason::Node || denied.peer.is_known();
    decided || other_owner(tables, &query.local, query.remote).is_none_or(is_node)
}

/// Decides on a packet to the pod, given what the lookup found for its source. The source is not the pod itself.
#[inline(always)]
pub fn ingress<A: Family, T: Rules<A>>(tables: &T, query: &Query<A>, identity: RemoteIdentity) -> Verdict {
    let generation = tables.runtime().generation;
    match identity.peer() {
        Some(peer) if peer.is_pods() => ingress_from_pod(tables, query, peer, generation),
        Some(peer) if peer.kind == PeerEntry::NODE => {
            // Replies need no entry where the pod may open connections to nodes itself.
            let state = query.local.state;
            if !state.has(TenantState::NODES_ALLOWED | TenantState::SHARED) && !may_open_node(tables, query) {
                record_opening(tables, query, Opener::Remote, generation);
            }
            Verdict::ALLOW
        }
        // A packet from such an address is a reply, and only a tenant that lists the address sends requests to it.
        Some(peer) if peer.kind == PeerEntry::METADATA || peer.kind == PeerEntry::SERVICE_LISTED => {
            let range = identity.range(tables, query);
            match access_if_listed(range, A::BITS, peer) {
                Access::BOTH_WAYS => Verdict::ALLOW,
                // Kernel conntrack puts the Service's address on ICMP errors about a request, such as "packet too big". They
                // and later fragments of a reply have no port.
                _ if range.grant().length == A::BITS && !has_port(query) => Verdict::ALLOW,
                _ if query.local.state.has(TenantState::OPEN) && peer.kind == PeerEntry::SERVICE_LISTED => {
                    Verdict::ALLOW
                }
                access => Verdict::from_denied(access.denied()),
            }
        }
        Some(peer) => Verdict::from_denied(Denied { reason: DropReason::Internal, peer: peer.tenant }),
        None => ingress_from_world(tables, query, identity, generation),
    }
}

/// Whether the packet shows the port of a connection.
#[inline(always)]
fn has_port<A>(query: &Query<A>) -> bool {
    query.has(Query::<A>::PORTS_KNOWN) && !query.has(Query::<A>::ICMP_ERROR)
}

#[inline(always)]
fn ingress_from_pod<A: Family, T: Rules<A>>(tables: &T, query: &Query<A>, peer: PeerEntry, generation: u64) -> Verdict {
    let access = between(tables, &query.local, peer);
    if access == Access::BOTH_WAYS {
        return Verdict::ALLOW;
    }
    if access == Access::ONE_WAY {
        let reply = is_reply_to_pod(tables, query, generation) || query.has(Query::<A>::RESOLVES);
        let denied = Denied { reason: DropReason::CrossTenant, peer: peer.tenant };
        return if reply { Verdict::ALLOW } else { Verdict::from_denied(denied) };
    }
    if access.allows_reply() {
        record_opening(tables, query, Opener::Remote, generation);
        return Verdict::ALLOW;
    }
    if query.local.state.has(TenantState::OPEN) {
        return Verdict::ALLOW;
    }
    Verdict::from_denied(swap_unassigned(access.denied()))
}

/// Exchanges `unassigned_source` and `unassigned_destination`: they name the ends of the packet, and the access
/// decision was made for the other direction.
#[inline(always)]
fn swap_unassigned(denied: Denied) -> Denied {
    let reason = match denied.reason {
        DropReason::UnassignedSource => DropReason::UnassignedDestination,
        DropReason::UnassignedDestination => DropReason::UnassignedSource,
        other => other,
    };
    Denied { reason, ..denied }
}

#[inline(always)]
fn ingress_from_world<A: Family, T: Rules<A>>(
    tables: &T,
    query: &Query<A>,
    identity: RemoteIdentity,
    generation: u64,
) -> Verdict {
    if query.remote.is_multicast() || query.remote.is_martian() {
        return Verdict::deny(DropReason::Martian);
    }
    let embedded = tables.embedded_access(query);
    if embedded != Access::BOTH_WAYS && embedded.denied().peer.is_known() {
        return Verdict::from_denied(embedded.denied());
    }
    // Where the pod may open connections itself, replies need no entry.
    let range = identity.range(tables, query);
    if range.is_undisputed() || (range.allows_ports() && other_owner(tables, &query.local, query.remote).is_none()) {
        return Verdict::ALLOW;
    }
    let tracked = query.has(Query::<A>::MAY_OPEN | Query::<A>::MAY_CONTINUE);
    let state = if tracked {
        tables.lookup_reply(&query.reply_packet(Opener::Remote, false), generation)
    } else {
        ReplyState::Unknown
    };
    if state == ReplyState::Current {
        return Verdict::ALLOW;
    }
    if let Some(denied) = other_owner(tables, &query.local, query.remote)
        && !is_node(denied)
    {
        return Verdict::from_denied(Denied { reason: DropReason::CrossTenant, ..denied });
    }
    if state == ReplyState::Stale || query.has(Query::<A>::MAY_OPEN) {
        tables.record(&query.reply_packet(Opener::Remote, false), generation);
    }
    Verdict::ALLOW
}

/// Whether the owner of an address is the cluster's nodes. They may open connections to pods: probes, and packets that
/// leave a node after SNAT. Data subnets of other tenants and unknown pods may not.
#[inline(always)]
fn is_node(owner: Denied) -> bool {
    owner.reason == DropReason::Node
}

/// Whether a packet to the pod is a reply on a connection that the pod opened, and still may open.
#[inline(always)]
fn is_reply_to_pod<A: Family, T: Rules<A>>(tables: &T, query: &Query<A>, generation: u64) -> bool {
    if !query.has(Query::<A>::MAY_REPLY) {
        return false;
    }
    match tables.lookup_reply(&query.reply_packet(Opener::Pod, true), generation) {
        ReplyState::Unknown => return false,
        ReplyState::Current => {}
        ReplyState::Stale => tables.record(&query.reply_packet(Opener::Pod, true), generation),
    }
    true
}

/// Writes or refreshes the entry of the connection that this allowed packet opens or continues.
#[inline(always)]
fn record_opening<A: Family, T: Rules<A>>(tables: &T, query: &Query<A>, opener: Opener, generation: u64) {
    if !query.has(Query::<A>::MAY_OPEN | Query::<A>::MAY_CONTINUE) {
        return;
    }
    match tables.lookup_reply(&query.reply_packet(opener, false), generation) {
        ReplyState::Current => {}
        ReplyState::Unknown if !query.has(Query::<A>::MAY_OPEN) => {}
        ReplyState::Unknown | ReplyState::Stale => tables.record(&query.reply_packet(opener, false), generation),
    }
}

/// The state of a packet's connection. If the policy of `generation` allowed it, this packet refreshes the entry at once.
/// Otherwise the caller decides, and calls [`record`].
#[inline(always)]
pub fn lookup_reply<A: Family, T: Tables<A>>(tables: &T, packet: &ReplyPacket, generation: u64) -> ReplyState {
    let Some(entry) = tables.reply(&packet.key) else { return ReplyState::Unknown };
    let now = tables.now_ns();
    if !entry.is_live(now) {
        return ReplyState::Unknown;
    }
    if entry.generation != generation {
        return ReplyState::Stale;
    }
    if let Some(next) = entry.touched(packet, generation, now) {
        tables.refresh_reply(&packet.key, next);
    }
    ReplyState::Current
}

/// Records that the policy of `generation` allows the connection, and this packet of it.
#[inline(always)]
pub fn record<A: Family, T: Tables<A>>(tables: &T, packet: &ReplyPacket, generation: u64) {
    let now = tables.now_ns();
    let flags = match tables.reply(&packet.key) {
        Some(entry) if entry.is_live(now) && !packet.begins => entry.flags,
        _ => 0,
    };
    let entry = ReplyEntry::new(packet.key.protocol, flags | packet.flags, generation, now);
    tables.insert_reply(&packet.key, entry, now);
}

/// Names the owner of an address that no rule allowed: `off_subnet` becomes `cross_tenant` where another tenant owns
/// it. A denial stays a denial.
#[inline(always)]
pub fn attribute_owner<A: Family, T: Tables<A>>(tables: &T, local: &LocalTenant, remote: A, denied: Denied) -> Denied {
    match denied.reason {
        DropReason::OffSubnet => other_owner(tables, local, remote).unwrap_or(denied),
        _ => denied,
    }
}
