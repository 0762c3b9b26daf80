//! The one verdict: `from_pod` and `to_pod`, generic over a packet and tables.
//!
//! The order of the rules is the order of the code. Everything that is not allowed by a rule is
//! denied by the last one; nothing here has a default that passes.

use crate::addr::{Address, V4, V6};
use crate::ask::Ask;
use crate::conntrack::icmp;
use crate::flow::{Flow, Kind};
use crate::headers::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_QINQ_OLD, ETHERTYPE_VLAN, Ethernet, ICMP,
    ICMPV6,
};
use crate::layout::EndpointEntry;
use crate::neighbor;
use crate::parse::{self, Packet};
use crate::reach::{Denied, Family, Party, Tables};
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

    /// From a register: any value that is not `ALLOW` is a denial.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether the packet passes.
    pub const fn is_allow(self) -> bool {
        self.0 == Self::ALLOW.0
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
            None => f.write_str("Allow"),
            Some(denied) => write!(f, "{denied:?}"),
        }
    }
}

/// The local pod a packet comes from or goes to.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Its entry.
    pub entry: &'a EndpointEntry,
    /// Its tenant.
    pub party: Party,
}

impl<'a> Endpoint<'a> {
    /// `None` where the interface is unclaimed or its tenant not written: `not_ready`.
    #[inline(always)]
    pub fn new(entry: &'a EndpointEntry, state: TenantState) -> Option<Self> {
        let ready = entry.tenant.is_known() && entry.cookie != 0 && state.has(TenantState::VALID);
        ready.then_some(Self { entry, party: Party { tenant: entry.tenant, state } })
    }
}

/// Judges a frame that a pod sent.
#[inline(always)]
pub fn from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4> + Tables<V6>,
{
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return Verdict::deny(DropReason::Malformed) };
    let mac = endpoint.entry.mac;
    if ethernet.source != mac && !mac.is_unknown() {
        return Verdict::deny(DropReason::SpoofedMac);
    }
    match u16::from_be(ethernet.ethertype_be) {
        ETHERTYPE_IPV4 => match parse::ipv4(packet) {
            Ok(flow) if flow.source != endpoint.entry.v4 => Verdict::deny(DropReason::SpoofedSource),
            Ok(flow) => egress(packet, &flow, endpoint, tables),
            Err(reason) => Verdict::deny(reason),
        },
        ETHERTYPE_IPV6 => match parse::ipv6(packet) {
            Ok(flow) if neighbor::is_discovery(&flow) => neighbor::nd_from_pod(packet, &flow, endpoint, tables),
            Ok(flow) if flow.source != endpoint.entry.v6 => Verdict::deny(spoofed_v6(&flow, endpoint.entry)),
            Ok(flow) => egress(packet, &flow, endpoint, tables),
            Err(reason) => Verdict::deny(reason),
        },
        ETHERTYPE_ARP => neighbor::arp_from_pod(packet, &ethernet, endpoint, tables),
        other => Verdict::deny(unsupported(other)),
    }
}

/// Judges a frame on its way to a pod: the second lock on the same door.
#[inline(always)]
pub fn to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4> + Tables<V6>,
{
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return Verdict::deny(DropReason::Malformed) };
    match u16::from_be(ethernet.ethertype_be) {
        ETHERTYPE_IPV4 => match parse::ipv4(packet) {
            Ok(flow) if flow.destination != endpoint.entry.v4 => Verdict::deny(not_ours(flow.destination)),
            Ok(flow) if flow.source == endpoint.entry.v4 => Verdict::deny(DropReason::Martian),
            Ok(flow) => ingress(&flow, endpoint, tables),
            Err(reason) => Verdict::deny(reason),
        },
        ETHERTYPE_IPV6 => match parse::ipv6(packet) {
            Ok(flow) if neighbor::is_discovery(&flow) => neighbor::nd_to_pod(packet, &flow, endpoint, tables),
            Ok(flow) if flow.destination != endpoint.entry.v6 => Verdict::deny(not_ours(flow.destination)),
            Ok(flow) if flow.source == endpoint.entry.v6 => Verdict::deny(DropReason::Martian),
            Ok(flow) => ingress(&flow, endpoint, tables),
            Err(reason) => Verdict::deny(reason),
        },
        ETHERTYPE_ARP => neighbor::arp_to_pod(packet, endpoint, tables),
        other => Verdict::deny(unsupported(other)),
    }
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
    let ask = Ask::new(endpoint.party, endpoint.entry.cookie, flow, true);
    let verdict = tables.egress(&ask);
    if ask.has(Ask::<A>::QUOTES) && !verdict.is_allow() && quotes(packet, flow, &ask, tables) {
        return Verdict::ALLOW;
    }
    verdict
}

#[inline(always)]
fn ingress<A: Family, T: Tables<A>>(flow: &Flow<A>, endpoint: &Endpoint<'_>, tables: &T) -> Verdict {
    tables.ingress(&Ask::new(endpoint.party, endpoint.entry.cookie, flow, false))
}

#[inline(always)]
fn is_redirect<A: Family>(flow: &Flow<A>) -> bool {
    // ICMPv6 redirects are neighbour discovery and judged there.
    A::ICMP == ICMP && flow.protocol == ICMP && flow.kind == Kind::Icmp && flow.icmp_type == icmp::REDIRECT
}

/// Rule 4: whether an ICMP error is about a connection that the other side opened and still may
/// open, quoting its packet.
#[inline(always)]
fn quotes<A: Family, P: Packet + ?Sized, T: Tables<A>>(packet: &P, flow: &Flow<A>, ask: &Ask<A>, tables: &T) -> bool {
    let Some(quoted) = A::quoted(packet, usize::from(flow.transport) + 8) else { return false };
    let about_us = quoted.source == flow.destination && quoted.destination == flow.source;
    // The answer to the quoted packet: judged like any other, it is allowed or it is not.
    let answer = Ask { bits: Ask::<A>::ANSWERS | Ask::<A>::KNOWN, ..Ask::new(ask.me, ask.cookie, &quoted, false) };
    about_us && tables.egress(&answer).is_allow()
}
