//! Who may open a connection to whom: rules 5 to 11, a pure function of tenant and address.
//!
//! Knows nothing of packets. Exact addresses come first, because one lookup answers for a million
//! pods; prefixes only on a miss; the owner of a range only where two could claim it.

use crate::addr::{Address, V4, V6};
use crate::ask::Ask;
use crate::conntrack::{ReplyEntry, ReplyKey};
use crate::decide;
use crate::flow::Flow;
use crate::headers::{ICMP, ICMPV6};
use crate::layout::{
    Grant, GrantKey, PORT_RANGES, PORTS_ANY, PeerEntry, PortSet, PrefixGrant, ROW_PREFIXES, RowV4, RowV6, Runtime,
};
use crate::parse::{self, Packet};
use crate::reason::DropReason;
use crate::tenant::{TenantId, TenantState};
use crate::verdict::Verdict;

/// Tables of one address family, and those that serve both. The kernel asks its maps, a test a
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
    fn remember(&self, key: &ReplyKey<A>, entry: ReplyEntry);
    /// Generation and clock offset.
    fn runtime(&self) -> Runtime;
    /// Monotonic clock; coarse will do.
    fn now_ns(&self) -> u64;

    /// `decide::egress`; the kernel calls it as a function that is verified on its own.
    fn egress(&self, ask: &Ask<A>) -> Verdict
    where
        Self: Sized,
    {
        decide::egress(self, ask)
    }

    /// `decide::ingress`, as above.
    fn ingress(&self, ask: &Ask<A>) -> Verdict
    where
        Self: Sized,
    {
        decide::ingress(self, ask)
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
    fn quoted<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Flow<Self>> {
        parse::quoted_v6(packet, offset)
    }
}

/// The local side of a question: a tenant and its state.
#[derive(Clone, Copy, Debug)]
pub struct Party {
    /// Its number.
    pub tenant: TenantId,
    /// What the kernel knows of it.
    pub state: TenantState,
}

/// What is asked for at the remote side.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// IANA protocol number.
    pub protocol: u8,
    /// Port in host order, if `known`.
    pub port: u16,
    /// Whether the packet says; if it does not, only "all ports" will do.
    pub known: bool,
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
pub struct Reach(u64);

impl Reach {
    const ANSWER: u64 = 1 << 8;
    /// Yes, and packets the other way need no justification either.
    pub const YES: Self = Self(1 << 9);
    /// Yes, but the other side may only answer.
    pub const ONE_WAY: Self = Self(1 << 10);

    /// No.
    #[inline(always)]
    pub const fn never(reason: DropReason, peer: TenantId) -> Self {
        Self(reason.number() as u64 | (peer.0 as u64) << 32)
    }

    /// No; but the other side may open connections to the pod, so this may be an answer.
    #[inline(always)]
    pub const fn answer(reason: DropReason, peer: TenantId) -> Self {
        Self(Self::never(reason, peer).0 | Self::ANSWER)
    }

    /// Whether the other side may open connections to the pod.
    #[inline(always)]
    pub const fn may_be_answer(self) -> bool {
        self.0 & Self::ANSWER != 0
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

impl core::fmt::Debug for Reach {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::YES => f.write_str("Yes"),
            Self::ONE_WAY => f.write_str("OneWay"),
            other => write!(f, "No {{ {:?}, may_be_answer: {} }}", other.denied(), other.may_be_answer()),
        }
    }
}

/// Rules 5 to 11 of the verdict, for connections that `me` opens to `remote`.
#[inline(always)]
pub fn reach<A: Family, T: Tables<A>>(tables: &T, me: &Party, remote: A, service: Service) -> Reach {
    match tables.peer(remote) {
        Some(peer) => reach_known(tables, me, peer, remote, service),
        None => reach_range(tables, me, remote, service),
    }
}

#[inline(always)]
fn reach_known<A: Family, T: Tables<A>>(tables: &T, me: &Party, peer: PeerEntry, remote: A, service: Service) -> Reach {
    match peer.kind {
        PeerEntry::POD | PeerEntry::SERVICE => between(tables, me, peer),
        PeerEntry::NODE if me.state.has(TenantState::NODES_ALLOWED | TenantState::SHARED) => Reach::YES,
        PeerEntry::NODE => Reach::answer(DropReason::Node, TenantId::UNKNOWN),
        PeerEntry::METADATA => listed(tables, me, remote, service, DropReason::MetadataService),
        PeerEntry::SERVICE_LISTED => listed(tables, me, remote, service, DropReason::CrossTenant),
        _ => Reach::never(DropReason::Internal, peer.tenant),
    }
}

/// Pod to pod, or to a Service of pods.
#[inline(always)]
pub fn between<A: Family, T: Tables<A>>(tables: &T, me: &Party, peer: PeerEntry) -> Reach {
    let same = peer.tenant.0 == me.tenant.0;
    let shared = peer.flags & PeerEntry::SHARED != 0 || me.state.has(TenantState::SHARED);
    if (same || shared) && peer.tenant.is_known() {
        return Reach::YES;
    }
    between_strangers(tables, me, peer)
}

#[inline(always)]
fn between_strangers<A: Family, T: Tables<A>>(tables: &T, me: &Party, peer: PeerEntry) -> Reach {
    if me.state.has(TenantState::HAS_GRANTS) && peer.tenant.is_known() {
        let out = granted(tables, me.tenant, peer.tenant);
        let back = granted(tables, peer.tenant, me.tenant);
        match (out, back) {
            (true, true) => return Reach::YES,
            (true, false) => return Reach::ONE_WAY,
            (false, true) => return Reach::answer(DropReason::CrossTenant, peer.tenant),
            (false, false) => {}
        }
    }
    if me.state.has(TenantState::UNASSIGNED) {
        return Reach::never(DropReason::UnassignedSource, peer.tenant);
    }
    if peer.flags & PeerEntry::UNASSIGNED != 0 {
        return Reach::never(DropReason::UnassignedDestination, peer.tenant);
    }
    Reach::never(DropReason::CrossTenant, peer.tenant)
}

#[inline(never)]
fn granted<A: Family, T: Tables<A>>(tables: &T, from: TenantId, to: TenantId) -> bool {
    match tables.grant(&GrantKey { from, to }) {
        None => false,
        Some(grant) if grant.until == Grant::FOREVER => true,
        Some(grant) => {
            let today = tables.now_ns().wrapping_add(tables.runtime().clock_offset_ns);
            today / 1_000_000_000 < grant.until
        }
    }
}

/// Addresses that a wide range must not be taken to mean: only an entry for exactly this one.
#[inline(never)]
fn listed<A: Family, T: Tables<A>>(tables: &T, me: &Party, remote: A, service: Service, reason: DropReason) -> Reach {
    let grant = prefix(tables, me, remote);
    if grant.is_some() && grant.length == A::BITS && fits(tables, grant.ports, service) {
        return Reach::YES;
    }
    Reach::never(reason, TenantId::UNKNOWN)
}

#[inline(always)]
fn reach_range<A: Family, T: Tables<A>>(tables: &T, me: &Party, remote: A, service: Service) -> Reach {
    if remote.is_multicast() {
        return Reach::never(DropReason::Multicast, TenantId::UNKNOWN);
    }
    if remote.is_martian() {
        return Reach::never(DropReason::Martian, TenantId::UNKNOWN);
    }
    let grant = prefix(tables, me, remote);
    if !grant.is_some() {
        return Reach::answer(DropReason::OffSubnet, TenantId::UNKNOWN);
    }
    // ::/0 means IPv6, not every IPv4 address again through a translator.
    if remote.embeds_v4() && grant.length < 16 {
        return Reach::never(DropReason::Martian, TenantId::UNKNOWN);
    }
    if grant.flags & PrefixGrant::CONTESTED != 0
        && let Some(denied) = foreign(tables, me, remote)
    {
        return match denied.reason {
            DropReason::Node => Reach::answer(denied.reason, denied.peer),
            reason => Reach::never(reason, denied.peer),
        };
    }
    if fits(tables, grant.ports, service) {
        return Reach::YES;
    }
    let reason = if service.known { DropReason::PortDenied } else { DropReason::Fragment };
    Reach::answer(reason, TenantId::UNKNOWN)
}

/// The prefix of `me` that holds the address; zero for none.
#[inline(always)]
pub fn prefix<A: Family, T: Tables<A>>(tables: &T, me: &Party, remote: A) -> PrefixGrant {
    if me.state.has(A::TRIE) {
        return tables.trie(me.tenant, remote);
    }
    match tables.row(me.state.row) {
        Some(row) => remote.find(row),
        None => PrefixGrant::default(),
    }
}

/// Rule 8: whether the address lies in a subnet of somebody else, or is the cluster's.
#[inline(always)]
pub fn foreign<A: Family, T: Tables<A>>(tables: &T, me: &Party, remote: A) -> Option<Denied> {
    match tables.owner(remote) {
        None => None,
        Some(owner) if owner.0 == me.tenant.0 => None,
        Some(TenantId::CLUSTER) => Some(Denied { reason: DropReason::OffSubnet, peer: TenantId::UNKNOWN }),
        Some(TenantId::NODES) => Some(Denied { reason: DropReason::Node, peer: TenantId::UNKNOWN }),
        Some(owner) => Some(Denied { reason: DropReason::CrossTenant, peer: owner }),
    }
}

/// Whether a port set allows the service.
#[inline(always)]
pub fn fits<A: Family, T: Tables<A>>(tables: &T, set: u16, service: Service) -> bool {
    set == PORTS_ANY || fits_set(tables, set, service)
}

#[inline(never)]
fn fits_set<A: Family, T: Tables<A>>(tables: &T, set: u16, service: Service) -> bool {
    let Some(set) = tables.port_set(set) else { return false };
    let mut i = 0;
    while i < PORT_RANGES {
        let range = &set.ranges[i];
        if range.protocol == 0 {
            return false;
        }
        if range.protocol == service.protocol {
            let inside = range.low <= service.port && service.port <= range.high;
            let all = range.low == 0 && range.high == u16::MAX;
            if all || (service.known && inside) {
                return true;
            }
        }
        i += 1;
    }
    false
}
