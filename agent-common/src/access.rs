//! Who may open a connection to whom: rules 5 to 11, a pure function of tenant and address.
//!
//! Knows nothing of packets. Exact addresses come first, because one lookup answers for a million
//! pods; prefixes only on a miss; the owner of a range only where two could claim it.

use crate::addr::{Address, V4, V6};
use crate::conntrack::{Opener, ReplyEntry, ReplyKey, ReplyState};
use crate::decide;
use crate::fast_path;
use crate::flow::Flow;
use crate::headers::{ICMP, ICMPV6};
use crate::layout::{
    EndpointEntry, Grant, GrantKey, PORT_RANGES, PORTS_ANY, PeerEntry, PortSet, PrefixGrant, ROW_PREFIXES, RowV4,
    RowV6, Runtime,
};
use crate::parse::{self, Packet};
use crate::query::Query;
use crate::reason::DropReason;
use crate::tenant::{TenantId, TenantState};
use crate::verdict::Verdict;

/// Tables of one address family, and those that serve both. The kernel queries its maps, a test a
/// few `HashMap`s.
pub trait Tables<A: Family> {
    /// What stands at exactly this address.
    fn peer(&self, address: A) -> Option<PeerEntry>;
    /// A row of prefixes.
    fn row(&self, row: u16) -> Option<&A::Row>;
    /// The longest prefix of a tenant that has too many for a row; zero for none.
    fn trie(&self, tenant: TenantId, address: A) -> PrefixGrant;
    /// Whose subnet, or whether the cluster's own range, holds this address.
    fn owner(&self, address: A) -> Option<TenantId>;
    /// A permission between two tenants.
    fn grant(&self, key: &GrantKey) -> Option<Grant>;
    /// A port set.
    fn port_set(&self, set: u16) -> Option<&PortSet>;
    /// A remembered connection.
    fn reply(&self, key: &ReplyKey<A>) -> Option<ReplyEntry>;
    /// Remembers a connection; failing to is counted, and only costs its replies.
    fn insert_reply(&self, key: &ReplyKey<A>, entry: ReplyEntry);
    /// Generation and clock offset.
    fn runtime(&self) -> Runtime;
    /// Monotonic clock; coarse will do.
    fn now_ns(&self) -> u64;

    /// `range`; the kernel calls it as a function that is verified on its own.
    fn range(&self, query: &Query<A>) -> Range
    where
        Self: Sized,
    {
        range(self, query)
    }

    /// `access`, as above.
    fn access(&self, query: &Query<A>, identity: RemoteIdentity) -> Access
    where
        Self: Sized,
    {
        access(self, query, identity)
    }

    /// `decide::egress`, as above.
    fn egress(&self, query: &Query<A>, identity: RemoteIdentity) -> Verdict
    where
        Self: Sized,
    {
        decide::egress(self, query, identity)
    }

    /// `decide::ingress`, as above.
    fn ingress(&self, query: &Query<A>, identity: RemoteIdentity) -> Verdict
    where
        Self: Sized,
    {
        decide::ingress(self, query, identity)
    }

    /// `decide::lookup_reply`, as above.
    fn lookup_reply(&self, query: &Query<A>, opener: Opener, reply: bool, generation: u64) -> ReplyState
    where
        Self: Sized,
    {
        decide::lookup_reply(self, query, opener, reply, generation)
    }

    /// `decide::record`, as above.
    fn record(&self, query: &Query<A>, opener: Opener, reply: bool, generation: u64)
    where
        Self: Sized,
    {
        decide::record(self, query, opener, reply, generation)
    }
}

/// What differs between IPv4 and IPv6 in the rules.
pub trait Family: Address {
    /// A row of prefixes.
    type Row;
    /// Bits of an address.
    const BITS: u8;
    /// The tenant flag that sends lookups to the trie.
    const TRIE: u32;
    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// First prefix of the row that holds the address: the longest, as rows are sorted. Zero for
    /// none: an option of four bytes is two registers, of which one may be undefined, and verifiers
    /// refuse to copy that.
    fn find(self, row: &Self::Row) -> PrefixGrant;
    /// The pod's own address, or `NONE`.
    fn own(entry: &EndpointEntry) -> Self;
    /// The short way to read a packet.
    fn read_fast<P: Packet + ?Sized>(packet: &P) -> Option<Flow<Self>>;
    /// The packet that an ICMP error quotes at `offset`.
    fn quoted<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Flow<Self>>;
}

impl Family for V4 {
    type Row = RowV4;
    const BITS: u8 = 32;
    const TRIE: u32 = TenantState::TRIE_V4;
    const ICMP: u8 = ICMP;

    #[inline(always)]
    fn find(self, row: &RowV4) -> PrefixGrant {
        let mut i = 0;
        while i < ROW_PREFIXES {
            let prefix = &row.prefixes[i];
            if !prefix.grant.is_some() {
                break;
            }
            if self.0 & prefix.mask.0 == prefix.net.0 {
                return prefix.grant;
            }
            i += 1;
        }
        PrefixGrant::default()
    }

    #[inline(always)]
    fn own(entry: &EndpointEntry) -> Self {
        entry.v4
    }

    #[inline(always)]
    fn read_fast<P: Packet + ?Sized>(packet: &P) -> Option<Flow<Self>> {
        fast_path::ipv4(packet)
    }

    #[inline(always)]
    fn quoted<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Flow<Self>> {
        parse::quoted_v4(packet, offset)
    }
}

impl Family for V6 {
    type Row = RowV6;
    const BITS: u8 = 128;
    const TRIE: u32 = TenantState::TRIE_V6;
    const ICMP: u8 = ICMPV6;

    #[inline(always)]
    fn find(self, row: &RowV6) -> PrefixGrant {
        let mut i = 0;
        while i < ROW_PREFIXES {
            let prefix = &row.prefixes[i];
            if !prefix.grant.is_some() {
                break;
            }
            if self.hi & prefix.mask.hi == prefix.net.hi && self.lo & prefix.mask.lo == prefix.net.lo {
                return prefix.grant;
            }
            i += 1;
        }
        PrefixGrant::default()
    }

    #[inline(always)]
    fn own(entry: &EndpointEntry) -> Self {
        entry.v6
    }

    #[inline(always)]
    fn read_fast<P: Packet + ?Sized>(packet: &P) -> Option<Flow<Self>> {
        fast_path::ipv6(packet)
    }

    #[inline(always)]
    fn quoted<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Flow<Self>> {
        parse::quoted_v6(packet, offset)
    }
}

/// The local side of a question: a tenant and its state.
#[derive(Clone, Copy, Debug)]
pub struct LocalTenant {
    /// Its number.
    pub tenant: TenantId,
    /// What the kernel knows of it.
    pub state: TenantState,
}

/// The prefix of a tenant that holds an address, and whether it allows what is asked for; in one
/// register, the zero value being none.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range(u64);

impl Range {
    const FITS: u64 = 1 << 32;

    /// What was found.
    #[inline(always)]
    const fn new(grant: PrefixGrant, fits: bool) -> Self {
        let PrefixGrant { ports, flags, length } = grant;
        let fits = if fits { Self::FITS } else { 0 };
        Self(ports as u64 | (flags as u64) << 16 | (length as u64) << 24 | fits)
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

    /// Whether its ports allow what is asked for.
    #[inline(always)]
    pub const fn fits(self) -> bool {
        self.0 & Self::FITS != 0
    }

    /// Whether it does, and nobody else may claim the address.
    #[inline(always)]
    pub const fn is_clear(self) -> bool {
        self.fits() && self.grant().flags & PrefixGrant::CONTESTED == 0
    }
}

/// Why not, and whose the other side is, if known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why.
    pub reason: DropReason,
    /// The other side's tenant; 0 where unknown or none.
    pub peer: TenantId,
}

/// Whether a local pod may open a connection to an address. One register, like `Verdict`; the zero
/// value is never.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Access(u64);

impl Access {
    const REPLY: u64 = 1 << 8;
    /// Yes, and packets the other way need no justification either.
    pub const BOTH_WAYS: Self = Self(1 << 9);
    /// Yes, but the other side may only answer.
    pub const ONE_WAY: Self = Self(1 << 10);

    /// As a register.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From a register: any value that is neither `YES` nor `ONE_WAY` is a denial.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// No.
    #[inline(always)]
    pub const fn deny(reason: DropReason, peer: TenantId) -> Self {
        Self(reason.number() as u64 | (peer.0 as u64) << 32)
    }

    /// No; but the other side may open connections to the pod, so this may be an answer.
    #[inline(always)]
    pub const fn deny_but_reply(reason: DropReason, peer: TenantId) -> Self {
        Self(Self::deny(reason, peer).0 | Self::REPLY)
    }

    /// Whether the other side may open connections to the pod.
    #[inline(always)]
    pub const fn allows_reply(self) -> bool {
        self.0 & Self::REPLY != 0
    }

    /// Why not, unless the answer is yes.
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
            Self::BOTH_WAYS => f.write_str("Yes"),
            Self::ONE_WAY => f.write_str("OneWay"),
            other => write!(f, "No {{ {:?}, allows_reply: {} }}", other.denied(), other.allows_reply()),
        }
    }
}

/// What is known of an address before the rules are asked, in one register; the zero value is nothing.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct RemoteIdentity(u64);

impl RemoteIdentity {
    /// No pod, Service, node or metadata service; ranges have not been asked.
    const UNKNOWN: Self = Self(0);
    /// Identity alone justifies packets both ways.
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

    /// Whether nothing more need be asked.
    #[inline(always)]
    pub const fn is_sufficient(self) -> bool {
        self.0 == Self::SUFFICIENT.0
    }

    /// What stands at exactly this address.
    #[inline(always)]
    pub const fn peer(self) -> Option<PeerEntry> {
        let (tenant, kind, flags) = (TenantId(self.0 as u32), (self.0 >> 32) as u8, (self.0 >> 40) as u8);
        if self.0 & Self::PEER == 0 { None } else { Some(PeerEntry { tenant, kind, flags, _pad: 0 }) }
    }

    /// The tenant's range that holds the address, asked for only if that has not been done.
    #[inline(always)]
    pub fn range<A: Family, T: Tables<A>>(self, tables: &T, query: &Query<A>) -> Range {
        if self.0 & Self::IN_RANGE != 0 { Range(self.0 & !Self::IN_RANGE) } else { tables.range(query) }
    }
}

/// What stands at the address that is asked for.
#[inline(always)]
pub fn identify<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>) -> RemoteIdentity {
    tables.peer(query.remote).map_or(RemoteIdentity::UNKNOWN, RemoteIdentity::of)
}

/// The same, and whether it is plain, as it is for nearly all packets: the same tenant or a Shared one
/// stands there, or it lies in a range of the pod's tenant that nobody disputes. No rule says otherwise
/// where this says plain; where it does not, the rules have not been asked yet.
#[inline(always)]
pub fn identify_fast<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>) -> RemoteIdentity {
    match tables.peer(query.remote) {
        Some(peer) if peer.is_pods() && are_kin(&query.local, peer) => RemoteIdentity::SUFFICIENT,
        Some(peer) => RemoteIdentity::of(peer),
        None if query.local.state.has(A::TRIE) || query.remote.is_special() => RemoteIdentity::UNKNOWN,
        None => {
            let range = range(tables, query);
            if range.is_clear() {
                RemoteIdentity::SUFFICIENT
            } else {
                RemoteIdentity(RemoteIdentity::IN_RANGE | range.0)
            }
        }
    }
}

/// Rules 5 to 11 of the verdict, for connections that the pod opens.
#[inline(always)]
pub fn access<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>, identity: RemoteIdentity) -> Access {
    let local = &query.local;
    let peer = identity.peer().unwrap_or_default();
    match peer.kind {
        PeerEntry::POD | PeerEntry::SERVICE => between(tables, local, peer),
        PeerEntry::NODE if local.state.has(TenantState::NODES_ALLOWED | TenantState::SHARED) => Access::BOTH_WAYS,
        PeerEntry::NODE => Access::deny_but_reply(DropReason::Node, TenantId::UNKNOWN),
        PeerEntry::METADATA | PeerEntry::SERVICE_LISTED => listed(identity.range(tables, query), A::BITS, peer),
        _ if identity.peer().is_some() => Access::deny(DropReason::Internal, peer.tenant),
        _ if query.remote.is_multicast() => Access::deny(DropReason::Multicast, TenantId::UNKNOWN),
        _ if query.remote.is_martian() => Access::deny(DropReason::Martian, TenantId::UNKNOWN),
        _ => access_by_range(tables, query, identity.range(tables, query)),
    }
}

/// Pod to pod, or to a Service of pods.
#[inline(always)]
pub fn between<A: Family, T: Tables<A>>(tables: &T, local: &LocalTenant, peer: PeerEntry) -> Access {
    if are_kin(local, peer) {
        return Access::BOTH_WAYS;
    }
    between_strangers(tables, local, peer)
}

/// Whether both are of one tenant, or one of them is Shared.
#[inline(always)]
fn are_kin(local: &LocalTenant, peer: PeerEntry) -> bool {
    let same = peer.tenant.0 == local.tenant.0;
    let shared = peer.flags & PeerEntry::SHARED != 0 || local.state.has(TenantState::SHARED);
    (same || shared) && peer.tenant.is_known()
}

#[inline(always)]
fn between_strangers<A: Family, T: Tables<A>>(tables: &T, local: &LocalTenant, peer: PeerEntry) -> Access {
    if local.state.has(TenantState::HAS_GRANTS) && peer.tenant.is_known() {
        let out = granted(tables, local.tenant, peer.tenant);
        let back = granted(tables, peer.tenant, local.tenant);
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

#[inline(never)]
fn granted<A: Family, T: Tables<A>>(tables: &T, from: TenantId, to: TenantId) -> bool {
    match tables.grant(&GrantKey { from, to }) {
        None => false,
        Some(grant) if grant.until == Grant::FOREVER => true,
        Some(grant) => {
            let offset = tables.runtime().clock_offset_ns;
            // 0: nobody has told what day it is.
            offset != 0 && tables.now_ns().wrapping_add(offset) / 1_000_000_000 < grant.until
        }
    }
}

/// Addresses that a wide range must not be taken to mean: only an entry for exactly this one.
#[inline(always)]
fn listed(range: Range, length: u8, peer: PeerEntry) -> Access {
    if range.grant().length == length && range.fits() {
        return Access::BOTH_WAYS;
    }
    let metadata = peer.kind == PeerEntry::METADATA;
    Access::deny(if metadata { DropReason::MetadataService } else { DropReason::CrossTenant }, TenantId::UNKNOWN)
}

#[inline(always)]
fn access_by_range<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>, range: Range) -> Access {
    let grant = range.grant();
    if !grant.is_some() {
        return Access::deny_but_reply(DropReason::OffSubnet, TenantId::UNKNOWN);
    }
    // ::/0 means IPv6, not every IPv4 address again through a translator.
    if query.remote.embeds_v4() && grant.length < 16 {
        return Access::deny(DropReason::Martian, TenantId::UNKNOWN);
    }
    if grant.flags & PrefixGrant::CONTESTED != 0
        && let Some(denied) = foreign(tables, &query.local, query.remote)
    {
        return match denied.reason {
            DropReason::Node => Access::deny_but_reply(denied.reason, denied.peer),
            reason => Access::deny(reason, denied.peer),
        };
    }
    if range.fits() {
        return Access::BOTH_WAYS;
    }
    let reason = if query.has(Query::<A>::KNOWN) { DropReason::PortDenied } else { DropReason::Fragment };
    Access::deny_but_reply(reason, TenantId::UNKNOWN)
}

/// The pod's tenant's range at the address that is asked for.
#[inline(always)]
pub fn range<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>) -> Range {
    let grant = prefix(tables, &query.local, query.remote);
    Range::new(grant, grant.is_some() && fits(tables, grant.ports, query))
}

/// The prefix of `local` that holds the address; zero for none.
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

/// Rule 8: whether the address lies in a subnet of somebody else, or is the cluster's.
#[inline(always)]
pub fn foreign<A: Family, T: Tables<A>>(tables: &T, local: &LocalTenant, remote: A) -> Option<Denied> {
    match tables.owner(remote) {
        None => None,
        Some(owner) if owner.0 == local.tenant.0 => None,
        Some(TenantId::CLUSTER) => Some(Denied { reason: DropReason::OffSubnet, peer: TenantId::UNKNOWN }),
        Some(TenantId::NODES) => Some(Denied { reason: DropReason::Node, peer: TenantId::UNKNOWN }),
        Some(owner) => Some(Denied { reason: DropReason::CrossTenant, peer: owner }),
    }
}

/// Whether a port set allows what is asked for.
#[inline(always)]
pub fn fits<A: Family, T: Tables<A>>(tables: &T, set: u16, query: &Query<A>) -> bool {
    set == PORTS_ANY || fits_set(tables, set, query)
}

#[inline(always)]
fn fits_set<A: Family, T: Tables<A>>(tables: &T, set: u16, query: &Query<A>) -> bool {
    let Some(set) = tables.port_set(set) else { return false };
    let known = query.has(Query::<A>::KNOWN);
    let mut i = 0;
    while i < PORT_RANGES {
        let range = &set.ranges[i];
        if range.protocol == 0 {
            return false;
        }
        if range.protocol == query.protocol {
            let inside = range.low <= query.remote_port && query.remote_port <= range.high;
            let all = range.low == 0 && range.high == u16::MAX;
            // A packet that does not tell its port needs all of them.
            if all || (known && inside) {
                return true;
            }
        }
        i += 1;
    }
    false
}
