//! The access decision: whether a tenant may open a connection to an address. These are rules 5 to 11 of the verdict.
//!
//! Knows no packet: a pure function of tenant, address and ports. Exact addresses come first, because one lookup covers
//! a million pods. Prefixes come second, and the owner of a range only where two tenants could claim it.

use crate::addr::{Address, EMBEDDED, V4};
use crate::headers::{ICMP, ICMPV6, SCTP, TCP, UDP};
use crate::layout::{Grant, GrantKey, PORT_RANGES, PORTS_ANY, PeerEntry, PrefixGrant};
use crate::query::Query;
use crate::reason::DropReason;
use crate::tables::{Family, Tables};
use crate::tenant::{LocalTenant, TenantId, TenantState};
use crate::verdict::Denied;

/// The lookups that the kernel overrides with global functions, which the verifier checks once.
pub trait Lookup<A: Family>: Tables<A> + Sized {
    /// See [`range`].
    fn range(&self, query: &Query<A>) -> Range {
        range(self, query)
    }

    /// See [`opens_node`].
    fn opens_node(&self, query: &Query<A>) -> bool {
        opens_node(self, query)
    }

    /// See [`embedded_at`].
    fn embedded_at(&self, query: &Query<A>, index: u32) -> Access {
        embedded_at(self, &query.local, query.remote, index)
    }

    /// Whether the tenant may reach every IPv4 address that the remote address embeds: a translator on the way may send the
    /// packet there. A prefix of a translator opens the addresses behind it that are nobody's.
    #[inline(always)]
    fn embedded_access(&self, query: &Query<A>) -> Access {
        let mut index = 0;
        while index < EMBEDDED && query.remote.embeds_v4() {
            let access = self.embedded_at(query, index);
            if access != Access::BOTH_WAYS {
                return access;
            }
            index += 1;
        }
        Access::BOTH_WAYS
    }
}

/// The prefix of a tenant that holds an address, and whether its ports allow the query. It is one register; the zero
/// value is no prefix.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range(u64);

impl Range {
    const ALLOWS_PORTS: u64 = 1 << 32;

    /// From a prefix, and whether its ports allow the query.
    #[inline(always)]
    const fn new(grant: PrefixGrant, allows_ports: bool) -> Self {
        let PrefixGrant { ports, flags, length } = grant;
        let allows_ports = if allows_ports { Self::ALLOWS_PORTS } else { 0 };
        Self(ports as u64 | (flags as u64) << 16 | (length as u64) << 24 | allows_ports)
    }

    /// As a register.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From a register.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The prefix.
    #[inline(always)]
    pub const fn grant(self) -> PrefixGrant {
        PrefixGrant { ports: self.0 as u16, flags: (self.0 >> 16) as u8, length: (self.0 >> 24) as u8 }
    }

    /// Whether the ports of the prefix allow the query.
    #[inline(always)]
    pub const fn allows_ports(self) -> bool {
        self.0 & Self::ALLOWS_PORTS != 0
    }

    /// Whether they do, and no other tenant owns a part of the range.
    #[inline(always)]
    pub const fn is_undisputed(self) -> bool {
        self.allows_ports() && self.grant().flags & PrefixGrant::CONTESTED == 0
    }
}

/// The access decision. It is one register, as [`crate::verdict::Verdict`] is; the zero value is a denial.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Access(u64);

impl Access {
    const REPLY: u64 = 1 << 8;
    /// The pod may open connections, and packets in the other direction need no entry in the reply table.
    pub const BOTH_WAYS: Self = Self(1 << 9);
    /// The pod may open connections, and the other side may only reply.
    pub const ONE_WAY: Self = Self(1 << 10);

    /// As a register.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From a register. Any value that is neither [`Access::BOTH_WAYS`] nor [`Access::ONE_WAY`] is a denial.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The pod may not open connections.
    #[inline(always)]
    pub const fn deny(reason: DropReason, peer: TenantId) -> Self {
        Self(reason.number() as u64 | (peer.0 as u64) << 32)
    }

    /// The pod may not open connections, but the other side may: the packet may be a reply.
    #[inline(always)]
    pub const fn deny_but_reply(reason: DropReason, peer: TenantId) -> Self {
        Self(Self::deny(reason, peer).0 | Self::REPLY)
    }

    /// Whether the other side may open connections to the pod.
    #[inline(always)]
    pub const fn allows_reply(self) -> bool {
        self.0 & Self::REPLY != 0
    }

    /// Why the pod may not open connections. Without meaning if it may.
    #[inline(always)]
    pub const fn denied(self) -> Denied {
        let reason = match DropReason::from_number(self.0 as u8) {
            Some(reason) => reason,
            None => DropReason::Internal,
        };
        Denied { reason, peer: TenantId((self.0 >> 32) as u32) }
    }
}

impl core::fmt::Debug for Access {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::BOTH_WAYS => f.write_str("BothWays"),
            Self::ONE_WAY => f.write_str("OneWay"),
            other => write!(f, "No {{ {:?}, allows_reply: {} }}", other.denied(), other.allows_reply()),
        }
    }
}

/// What the lookup found for a remote address. It is one register; the zero value is no peer.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct RemoteIdentity(u64);

impl RemoteIdentity {
    /// No pod, Service, node or metadata service is at the address. Ranges were not looked up.
    const UNKNOWN: Self = Self(0);
    /// Packets in both directions are allowed because of this identity alone.
    const SUFFICIENT: Self = Self(1 << 61);
    const IN_RANGE: u64 = 1 << 62;
    const PEER: u64 = 1 << 63;

    #[inline(always)]
    const fn of(PeerEntry { tenant, kind, flags, .. }: PeerEntry) -> Self {
        Self(Self::PEER | tenant.0 as u64 | (kind as u64) << 32 | (flags as u64) << 40)
    }

    /// As a register.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From a register.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether no rule has to be evaluated.
    #[inline(always)]
    pub const fn is_sufficient(self) -> bool {
        self.0 == Self::SUFFICIENT.0
    }

    /// The peer at exactly this address.
    #[inline(always)]
    pub const fn peer(self) -> Option<PeerEntry> {
        let (tenant, kind, flags) = (TenantId(self.0 as u32), (self.0 >> 32) as u8, (self.0 >> 40) as u8);
        if self.0 & Self::PEER == 0 { None } else { Some(PeerEntry { tenant, kind, flags, _pad: 0 }) }
    }

    /// The local tenant's range that holds the address. It is looked up only if that has not been done.
    #[inline(always)]
    pub fn range<A: Family, T: Lookup<A>>(self, tables: &T, query: &Query<A>) -> Range {
        if self.0 & Self::IN_RANGE != 0 { Range(self.0 & !Self::IN_RANGE) } else { tables.range(query) }
    }
}

/// Looks up the peer at the remote address.
#[inline(always)]
pub fn identify<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>) -> RemoteIdentity {
    tables.peer(query.remote).map_or(RemoteIdentity::UNKNOWN, RemoteIdentity::of)
}

/// Looks up the peer at the remote address, and decides at once for nearly all packets. These are packets to or from
/// the same tenant, a Shared one, or an undisputed range of the local tenant. A positive answer is final: the full
/// rules would allow the packet too. Otherwise the full rules have to be evaluated.
#[inline(always)]
pub fn identify_fast<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>) -> RemoteIdentity {
    match tables.peer(query.remote) {
        Some(peer) if peer.is_pods() && is_same_or_shared(&query.local, peer) => RemoteIdentity::SUFFICIENT,
        Some(peer) => RemoteIdentity::of(peer),
        None if query.local.state.has(A::TRIE) || query.remote.is_special() => RemoteIdentity::UNKNOWN,
        None => {
            let range = range(tables, query);
            if range.is_undisputed() {
                RemoteIdentity::SUFFICIENT
            } else {
                RemoteIdentity(RemoteIdentity::IN_RANGE | range.0)
            }
        }
    }
}

/// Rules 5 to 11 of the verdict, for connections that the pod opens.
#[inline(always)]
pub fn access<A: Family, T: Lookup<A>>(tables: &T, query: &Query<A>, identity: RemoteIdentity) -> Access {
    let local = &query.local;
    let peer = identity.peer().unwrap_or_default();
    match peer.kind {
        PeerEntry::POD | PeerEntry::SERVICE => between(tables, local, peer),
        // What a node unwraps would be taken for another node's, whoever may open connections to nodes.
        PeerEntry::NODE if is_tunnelled(query) => Access::deny(DropReason::Node, TenantId::UNKNOWN),
        PeerEntry::NODE if local.state.has(TenantState::NODES_ALLOWED | TenantState::SHARED) => Access::BOTH_WAYS,
        PeerEntry::NODE if may_open_node(tables, query) => Access::BOTH_WAYS,
        PeerEntry::NODE => Access::deny_but_reply(DropReason::Node, TenantId::UNKNOWN),
        PeerEntry::METADATA | PeerEntry::SERVICE_LISTED => {
            access_if_listed(identity.range(tables, query), A::BITS, peer)
        }
        _ if identity.peer().is_some() => Access::deny(DropReason::Internal, peer.tenant),
        _ if query.remote.is_multicast() => Access::deny(DropReason::Multicast, TenantId::UNKNOWN),
        _ if query.remote.is_martian() => Access::deny(DropReason::Martian, TenantId::UNKNOWN),
        _ => access_by_range(tables, query, identity.range(tables, query)),
    }
}

/// Whether an exact entry of the tenant opens the remote address, which is a node's, on this port.
#[inline(always)]
pub fn may_open_node<A: Family, T: Lookup<A>>(tables: &T, query: &Query<A>) -> bool {
    query.local.state.has(TenantState::NODE_OPENINGS) && tables.opens_node(query)
}

/// Whether the tenant has an entry of exactly this address whose own ports allow the query. Wider ranges never open a node.
#[inline(always)]
pub fn opens_node<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>) -> bool {
    let grant = tables.trie(query.local.tenant.of_openings(), query.remote);
    grant.length == A::BITS && grant.ports != PORTS_ANY && set_allows_ports(tables, grant.ports, query)
}

/// Whether the other end would unwrap the packet and take what is inside for another node's: VXLAN (RFC 7348, and the
/// port that Linux chose before it), Geneve (RFC 8926), and every protocol without ports. A later fragment alone is
/// unwrapped by nobody.
#[inline(always)]
pub fn is_tunnelled<A: Family>(query: &Query<A>) -> bool {
    const VXLAN: [u16; 2] = [4789, 8472];
    const GENEVE: u16 = 6081;
    match query.protocol {
        _ if query.has(Query::<A>::RESOLVES) => false,
        UDP => {
            query.has(Query::<A>::PORTS_KNOWN) && (VXLAN.contains(&query.remote_port) || query.remote_port == GENEVE)
        }
        TCP | SCTP | ICMP | ICMPV6 => false,
        _ => true,
    }
}

/// The access decision from a pod to a pod, or to a Service whose endpoints are pods of one tenant.
#[inline(always)]
pub fn between<A: Family, T: Tables<A>>(tables: &T, local: &LocalTenant, peer: PeerEntry) -> Access {
    if is_same_or_shared(local, peer) {
        return Access::BOTH_WAYS;
    }
    between_tenants(tables, local, peer)
}

/// Whether both are of one tenant, or one of them is Shared.
#[inline(always)]
fn is_same_or_shared(local: &LocalTenant, peer: PeerEntry) -> bool {
    let same = peer.tenant.0 == local.tenant.0;
    let shared = peer.flags & PeerEntry::SHARED != 0 || local.state.has(TenantState::SHARED);
    (same || shared) && peer.tenant.is_known()
}

#[inline(always)]
fn between_tenants<A: Family, T: Tables<A>>(tables: &T, local: &LocalTenant, peer: PeerEntry) -> Access {
    if local.state.has(TenantState::HAS_GRANTS) && peer.tenant.is_known() {
        let out = has_grant(tables, local.tenant, peer.tenant);
        let back = has_grant(tables, peer.tenant, local.tenant);
        match (out, back) {
            (true, true) => return Access::BOTH_WAYS,
            (true, false) => return Access::ONE_WAY,
            (false, true) => return Access::deny_but_reply(DropReason::CrossTenant, peer.tenant),
            (false, false) => {}
        }
    }
    if local.state.has(TenantState::UNASSIGNED) {
        return Access::deny(DropReason::UnassignedSource, peer.tenant);
    }
    if peer.flags & PeerEntry::UNASSIGNED != 0 {
        return Access::deny(DropReason::UnassignedDestination, peer.tenant);
    }
    Access::deny(DropReason::CrossTenant, peer.tenant)
}

/// Whether `from` has a grant to open connections to `to` that has not expired.
#[inline(never)]
fn has_grant<A: Family, T: Tables<A>>(tables: &T, from: TenantId, to: TenantId) -> bool {
    match tables.grant(&GrantKey { from, to }) {
        None => false,
        Some(grant) if grant.until == Grant::FOREVER => true,
        Some(grant) => {
            let offset = tables.runtime().clock_offset_ns;
            // With an offset of 0 the time of day is unknown: no grant that expires counts.
            offset != 0 && tables.now_ns().wrapping_add(offset) / 1_000_000_000 < grant.until
        }
    }
}

/// The access decision for an address that only a prefix of exactly this address grants, never a wider one.
#[inline(always)]
pub fn access_if_listed(range: Range, length: u8, peer: PeerEntry) -> Access {
    if range.grant().length == length && range.allows_ports() {
        return Access::BOTH_WAYS;
    }
    let metadata = peer.kind == PeerEntry::METADATA;
    Access::deny(if metadata { DropReason::MetadataService } else { DropReason::CrossTenant }, TenantId::UNKNOWN)
}

#[inline(always)]
fn access_by_range<A: Family, T: Lookup<A>>(tables: &T, query: &Query<A>, range: Range) -> Access {
    let grant = range.grant();
    if !grant.is_some() {
        return Access::deny_but_reply(DropReason::OffSubnet, TenantId::UNKNOWN);
    }
    if query.remote.embeds_v4() {
        // ::/0 means IPv6, and not every IPv4 address through a translator.
        if grant.length < 16 {
            return Access::deny(DropReason::Martian, TenantId::UNKNOWN);
        }
        let embedded = tables.embedded_access(query);
        if embedded != Access::BOTH_WAYS {
            return embedded;
        }
    }
    if grant.flags & PrefixGrant::CONTESTED != 0
        && let Some(denied) = other_owner(tables, &query.local, query.remote)
    {
        return match denied.reason {
            DropReason::Node if may_open_node(tables, query) && !is_tunnelled(query) => Access::BOTH_WAYS,
            DropReason::Node => Access::deny_but_reply(denied.reason, denied.peer),
            reason => Access::deny(reason, denied.peer),
        };
    }
    if range.allows_ports() {
        return Access::BOTH_WAYS;
    }
    let reason = if query.has(Query::<A>::PORTS_KNOWN) { DropReason::PortDenied } else { DropReason::Fragment };
    Access::deny_but_reply(reason, TenantId::UNKNOWN)
}

/// The local tenant's range that holds the remote address.
#[inline(always)]
pub fn range<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>) -> Range {
    let grant = prefix(tables, &query.local, query.remote);
    Range::new(grant, grant.is_some() && allows_ports(tables, grant.ports, query))
}

/// The prefix of the local tenant that holds the address; zero for none.
#[inline(always)]
pub fn prefix<A: Family, T: Tables<A>>(tables: &T, local: &LocalTenant, remote: A) -> PrefixGrant {
    if local.state.has(A::TRIE) {
        return tables.trie(local.tenant, remote);
    }
    match tables.row(local.state.row) {
        Some(row) => remote.find(row),
        None => PrefixGrant::default(),
    }
}

/// Whether the tenant may reach the `index`th IPv4 address that the remote address embeds.
#[inline(always)]
pub fn embedded_at<A: Family, T: Tables<A>>(tables: &T, local: &LocalTenant, remote: A, index: u32) -> Access {
    let address = remote.embedded(index);
    if address == V4::NONE {
        return Access::BOTH_WAYS;
    }
    match embedded_denial(tables, local, address) {
        Some(Denied { reason, peer }) => Access::deny(reason, peer),
        None => Access::BOTH_WAYS,
    }
}

#[inline(always)]
fn embedded_denial<A: Family, T: Tables<A>>(tables: &T, local: &LocalTenant, address: V4) -> Option<Denied> {
    let (peer, owner) = tables.at_v4(address);
    let Some(peer) = peer else { return denied_owner(local, owner) };
    let reason = match peer.kind {
        PeerEntry::METADATA => DropReason::MetadataService,
        PeerEntry::NODE => DropReason::Node,
        _ if peer.is_pods() && is_same_or_shared(local, peer) => return None,
        _ => DropReason::CrossTenant,
    };
    Some(Denied { reason, peer: peer.tenant })
}

/// Rule 8: the denial for an address that another tenant owns, or the cluster; `None` where neither does.
#[inline(always)]
pub fn other_owner<A: Family, T: Tables<A>>(tables: &T, local: &LocalTenant, remote: A) -> Option<Denied> {
    denied_owner(local, tables.owner(remote))
}

#[inline(always)]
fn denied_owner(local: &LocalTenant, owner: Option<TenantId>) -> Option<Denied> {
    match owner {
        None => None,
        Some(owner) if owner.0 == local.tenant.0 => None,
        Some(TenantId::CLUSTER) => Some(Denied { reason: DropReason::OffSubnet, peer: TenantId::UNKNOWN }),
        Some(TenantId::NODES) => Some(Denied { reason: DropReason::Node, peer: TenantId::UNKNOWN }),
        Some(owner) => Some(Denied { reason: DropReason::CrossTenant, peer: owner }),
    }
}

/// Whether a port set allows the query.
#[inline(always)]
fn allows_ports<A: Family, T: Tables<A>>(tables: &T, set: u16, query: &Query<A>) -> bool {
    set == PORTS_ANY || set_allows_ports(tables, set, query)
}

#[inline(always)]
fn set_allows_ports<A: Family, T: Tables<A>>(tables: &T, set: u16, query: &Query<A>) -> bool {
    let Some(set) = tables.port_set(set) else { return false };
    let known = query.has(Query::<A>::PORTS_KNOWN);
    let mut i = 0;
    while i < PORT_RANGES {
        let range = &set.ranges[i];
        if range.protocol == 0 {
            return false;
        }
        if range.protocol == query.protocol {
            let inside = range.low <= query.remote_port && query.remote_port <= range.high;
            let all = range.low == 0 && range.high == u16::MAX;
            // A packet without a readable port needs a range of all ports.
            if all || (known && inside) {
                return true;
            }
        }
        i += 1;
    }
    false
}
