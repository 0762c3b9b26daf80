//! The one verdict: `from_pod` and `to_pod`, generic over a packet and tables.
//!
//! The order of the rules is the order of the code. Everything that is not allowed by a rule is
//! denied by the last one; nothing here has a default that passes. Plain packets take a short way to
//! the same rules; everything else, and everything suspicious, is *odd* and read with care.

use crate::access::{Denied, Family, LocalTenant, Tables, identify};
use crate::addr::{Address, Mac, V4, V6};
use crate::conntrack::icmp;
use crate::decide;
use crate::flow::{Direction, Flow, Kind};
use crate::headers::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_QINQ_OLD, ETHERTYPE_VLAN, Ethernet, ICMP,
    ICMPV6,
};
use crate::layout::EndpointEntry;
use crate::neighbor;
use crate::parse::{self, Packet};
use crate::post_nat::MarkKind;
use crate::query::Query;
use crate::reason::DropReason;
use crate::tenant::{TenantId, TenantState};

/// What happens to a packet. One register, so that the kernel's functions can return it; the zero
/// value is a denial.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Verdict(u64);

impl Verdict {
    /// Lets the next program on the hook decide.
    pub const ALLOW: Self = Self(1 << 8);
    /// The same, because of who sends and where to, and nothing that is remembered: judged once more
    /// where it leaves the node or arrives, for the node may lead it elsewhere (`post_nat`).
    pub const ALLOW_MARKED: Self = Self(Self::ALLOW.0 | Self::REQUEST);
    /// The same, as what goes back to whoever asked, or to a node for somebody else: wherever it is led may
    /// be anybody but another tenant.
    pub const ALLOW_REPLY: Self = Self(Self::ALLOW.0 | Self::REPLY);
    const REQUEST: u64 = 1 << 9;
    const REPLY: u64 = 1 << 10;

    /// A denial that names no other side.
    pub const fn deny(reason: DropReason) -> Self {
        Self::because(Denied { reason, peer: TenantId::UNKNOWN })
    }

    /// A denial.
    pub const fn because(denied: Denied) -> Self {
        Self(denied.reason.number() as u64 | (denied.peer.0 as u64) << 32)
    }

    /// As a register.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From a register: any value that is none of the three constants is a denial.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether the packet passes.
    pub const fn is_allow(self) -> bool {
        self.0 == Self::ALLOW.0 || self.mark().is_some()
    }

    /// As what it is judged once more, if it passes.
    pub const fn mark(self) -> Option<MarkKind> {
        match self {
            Self::ALLOW_MARKED => Some(MarkKind::Request),
            Self::ALLOW_REPLY => Some(MarkKind::Reply),
            _ => None,
        }
    }

    /// Why it does not; `None` if it does.
    pub const fn denied(self) -> Option<Denied> {
        if self.is_allow() {
            return None;
        }
        let reason = match DropReason::from_number(self.0 as u8) {
            Some(reason) => reason,
            None => DropReason::Internal,
        };
        Some(Denied { reason, peer: TenantId((self.0 >> 32) as u32) })
    }
}

impl core::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.denied() {
            Some(denied) => write!(f, "{denied:?}"),
            None => write!(f, "Allow, {:?}", self.mark()),
        }
    }
}

/// The local pod a packet comes from or goes to.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Its entry.
    pub entry: &'a EndpointEntry,
    /// Its tenant.
    pub local: LocalTenant,
}

impl<'a> Endpoint<'a> {
    /// `None` where the interface is unclaimed or its tenant not written: `not_ready`.
    #[inline(always)]
    pub fn new(entry: &'a EndpointEntry, state: TenantState) -> Option<Self> {
        let ready = entry.tenant.is_known() && entry.cookie != 0 && state.has(TenantState::VALID);
        ready.then_some(Self { entry, local: LocalTenant { tenant: entry.tenant, state } })
    }
}

/// Judges a frame that a pod sent.
pub fn from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4> + Tables<V6>,
{
    let fast = fast_verdict(packet, endpoint, tables, Direction::Egress);
    fast.unwrap_or_else(|| slow_from_pod(packet, endpoint, tables))
}

/// Judges a frame on its way to a pod: the second guard on the same door.
pub fn to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4> + Tables<V6>,
{
    let fast = fast_verdict(packet, endpoint, tables, Direction::Ingress);
    fast.unwrap_or_else(|| slow_to_pod(packet, endpoint, tables))
}

/// The short way, for plain packets.
fn fast_verdict<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T, direction: Direction) -> Option<Verdict>
where
    P: Packet + ?Sized,
    T: Tables<V4> + Tables<V6>,
{
    match ethertype(packet)? {
        ETHERTYPE_IPV4 => Some(decide::judge::<V4, _>(tables, &fast_query(packet, endpoint, direction)?, direction)),
        ETHERTYPE_IPV6 => Some(decide::judge::<V6, _>(tables, &fast_query(packet, endpoint, direction)?, direction)),
        _ => None,
    }
}

/// What a plain packet queries, if the end that should be the pod is. `None` refuses nothing: the packet
/// is odd, and judged as such.
#[inline(always)]
pub fn fast_query<A: Family, P: Packet + ?Sized>(
    packet: &P,
    endpoint: &Endpoint<'_>,
    direction: Direction,
) -> Option<Query<A>> {
    let flow = A::read_fast(packet)?;
    let own = A::own(endpoint.entry);
    let outbound = direction == Direction::Egress;
    let (ours, theirs) = if outbound { (flow.source, flow.destination) } else { (flow.destination, flow.source) };
    let genuine = !outbound || owns_mac(packet, endpoint.entry.mac);
    if !owns(own, ours) || (theirs == own && !outbound) || !genuine {
        return None;
    }
    Some(Query::new(endpoint.local, endpoint.entry.cookie, &flow, outbound))
}

/// The frame's EtherType in host order; `None` where it is too short for one.
#[inline(always)]
pub fn ethertype<P: Packet + ?Sized>(packet: &P) -> Option<u16> {
    packet.read::<Ethernet>(0).map(|ethernet| u16::from_be(ethernet.ethertype_be))
}

/// Judges a frame that a pod sent, whatever it is.
#[inline(always)]
pub fn slow_from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4> + Tables<V6>,
{
    if !owns_mac(packet, endpoint.entry.mac) {
        return Verdict::deny(DropReason::SpoofedMac);
    }
    branch(
        packet,
        || ipv4_from_pod(packet, endpoint, tables),
        || ipv6_from_pod(packet, endpoint, tables),
        || neighbor::from_pod(packet, endpoint, tables),
    )
}

/// Judges a frame on its way to a pod, whatever it is.
#[inline(always)]
pub fn slow_to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4> + Tables<V6>,
{
    branch(
        packet,
        || ipv4_to_pod(packet, endpoint, tables),
        || ipv6_to_pod(packet, endpoint, tables),
        || neighbor::to_pod(packet, endpoint, tables),
    )
}

/// Goes the way of a frame's EtherType. The kernel's branches are functions of their own.
#[inline(always)]
pub fn branch<P: Packet + ?Sized>(
    packet: &P,
    ipv4: impl FnOnce() -> Verdict,
    ipv6: impl FnOnce() -> Verdict,
    neighbor: impl FnOnce() -> Verdict,
) -> Verdict {
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return Verdict::deny(DropReason::Malformed) };
    match u16::from_be(ethernet.ethertype_be) {
        ETHERTYPE_IPV4 => ipv4(),
        ETHERTYPE_IPV6 if neighbor::is_discovery(packet) => neighbor(),
        ETHERTYPE_IPV6 => ipv6(),
        ETHERTYPE_ARP => neighbor(),
        other => Verdict::deny(unsupported(other)),
    }
}

/// Whether the Ethernet source is the pod's, as far as that is known. A frame without one is left to
/// `branch`.
#[inline(always)]
pub fn owns_mac<P: Packet + ?Sized>(packet: &P, own: Mac) -> bool {
    let source = packet.read::<Ethernet>(0).map(|ethernet| ethernet.source);
    source.is_none_or(|source| source == own) || own.is_unknown()
}

/// An IPv4 packet from a pod.
#[inline(always)]
pub fn ipv4_from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4>,
{
    match parse::ipv4(packet) {
        Ok(flow) if !owns(endpoint.entry.v4, flow.source) => Verdict::deny(DropReason::SpoofedSource),
        Ok(flow) => egress(packet, &flow, endpoint, tables),
        Err(reason) => Verdict::deny(reason),
    }
}

/// An IPv4 packet to a pod.
#[inline(always)]
pub fn ipv4_to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4>,
{
    match parse::ipv4(packet) {
        Ok(flow) => delivered(&flow, endpoint.entry.v4, endpoint, tables),
        Err(reason) => Verdict::deny(reason),
    }
}

/// An IPv6 packet from a pod that is no neighbour discovery.
#[inline(always)]
pub fn ipv6_from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V6>,
{
    match parse::ipv6(packet) {
        Ok(flow) if neighbor::is_hidden(&flow) => Verdict::deny(neighbor::hidden_reason(&flow)),
        Ok(flow) if !owns(endpoint.entry.v6, flow.source) => Verdict::deny(spoofed_v6(&flow, endpoint.entry)),
        Ok(flow) => egress(packet, &flow, endpoint, tables),
        Err(reason) => Verdict::deny(reason),
    }
}

/// An IPv6 packet to a pod that is no neighbour discovery.
#[inline(always)]
pub fn ipv6_to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V6>,
{
    match parse::ipv6(packet) {
        Ok(flow) if neighbor::is_hidden(&flow) => Verdict::deny(neighbor::hidden_reason(&flow)),
        Ok(flow) => delivered(&flow, endpoint.entry.v6, endpoint, tables),
        Err(reason) => Verdict::deny(reason),
    }
}

/// A pod without an address of a family owns none, least of all the unspecified one.
#[inline(always)]
fn owns<A: Family>(own: A, address: A) -> bool {
    address == own && own != A::NONE
}

#[inline(always)]
fn delivered<A: Family, T: Tables<A>>(flow: &Flow<A>, own: A, endpoint: &Endpoint<'_>, tables: &T) -> Verdict {
    if !owns(own, flow.destination) {
        return Verdict::deny(not_ours(flow.destination));
    }
    if flow.source == own {
        return Verdict::deny(DropReason::Martian);
    }
    let query = Query::new(endpoint.local, endpoint.entry.cookie, flow, false);
    tables.ingress(&query, identify(tables, &query))
}

/// The reason for an EtherType that is none of ours.
#[inline(always)]
fn unsupported(ethertype: u16) -> DropReason {
    match ethertype {
        ETHERTYPE_VLAN | ETHERTYPE_QINQ | ETHERTYPE_QINQ_OLD => DropReason::Vlan,
        _ => DropReason::Ethertype,
    }
}

/// A pod's kernel announces multicast membership from its link-local address at every start: that
/// is multicast, not an attack.
#[inline(always)]
fn spoofed_v6(flow: &Flow<V6>, entry: &EndpointEntry) -> DropReason {
    let own = flow.source == entry.link_local || flow.source == V6::UNSPECIFIED;
    if own && flow.protocol == ICMPV6 && flow.destination.is_multicast() {
        return DropReason::Multicast;
    }
    DropReason::SpoofedSource
}

#[inline(always)]
fn not_ours<A: Address>(destination: A) -> DropReason {
    if destination.is_multicast() { DropReason::Multicast } else { DropReason::NotOwnAddress }
}

#[inline(always)]
fn egress<A: Family, P: Packet + ?Sized, T: Tables<A>>(
    packet: &P,
    flow: &Flow<A>,
    endpoint: &Endpoint<'_>,
    tables: &T,
) -> Verdict {
    if is_redirect(flow) {
        return Verdict::deny(DropReason::IcmpRedirect);
    }
    let query = Query::new(endpoint.local, endpoint.entry.cookie, flow, true);
    let verdict = tables.egress(&query, identify(tables, &query));
    if query.has(Query::<A>::QUOTES) && !verdict.is_allow() && quotes(packet, flow, &query, tables) {
        return Verdict::ALLOW_REPLY;
    }
    verdict
}

#[inline(always)]
fn is_redirect<A: Family>(flow: &Flow<A>) -> bool {
    // ICMPv6 redirects are neighbour discovery and judged there.
    A::ICMP == ICMP && flow.protocol == ICMP && flow.kind == Kind::Icmp && flow.icmp_type == icmp::REDIRECT
}

/// Rule 4: whether an ICMP error is about a connection that the other side opened and still may
/// open, quoting its packet.
#[inline(always)]
fn quotes<A: Family, P: Packet + ?Sized, T: Tables<A>>(
    packet: &P,
    flow: &Flow<A>,
    query: &Query<A>,
    tables: &T,
) -> bool {
    let Some(quoted) = A::quoted(packet, usize::from(flow.transport) + 8) else { return false };
    let about_us = quoted.source == flow.destination && quoted.destination == flow.source;
    // The answer to the quoted packet: judged like any other, it is allowed or it is not.
    let answer = Query {
        bits: Query::<A>::ANSWERS | Query::<A>::KNOWN,
        ..Query::new(query.local, query.cookie, &quoted, false)
    };
    about_us && tables.egress(&answer, identify(tables, &answer)).is_allow()
}
