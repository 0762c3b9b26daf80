//! The verdict on a frame: from the bytes of a packet to a query, and to the rules of [`crate::decide`].
//!
//! The order of the rules is the order of the code. A packet that no rule allows is denied by the last one; nothing here
//! passes by default. Nearly all packets take the fast path. The slow path reads every other packet completely, and
//! reaches the same rules.

use crate::access::{RemoteIdentity, identify};
use crate::addr::{Address, Mac, V4, V6};
use crate::conntrack::icmp;
use crate::decide::{self, Rules};
use crate::endpoint::Endpoint;
use crate::flow::{Direction, Flow, Kind};
use crate::headers::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_QINQ_OLD, ETHERTYPE_VLAN, Ethernet, ICMP,
};
use crate::layout::{EndpointEntry, PeerEntry};
use crate::neighbor;
use crate::parse::{self, Packet};
use crate::query::Query;
use crate::reason::DropReason;
use crate::tables::Family;
use crate::verdict::Verdict;

/// Decides on a frame from a pod.
pub fn from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V4> + Rules<V6>,
{
    let fast = fast_verdict(packet, endpoint, tables, Direction::Egress);
    fast.unwrap_or_else(|| slow_from_pod(packet, endpoint, tables))
}

/// Decides on a frame to a pod.
pub fn to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V4> + Rules<V6>,
{
    let fast = fast_verdict(packet, endpoint, tables, Direction::Ingress);
    fast.unwrap_or_else(|| slow_to_pod(packet, endpoint, tables))
}

/// The verdict of the fast path; `None` leaves the packet to the slow path.
fn fast_verdict<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T, direction: Direction) -> Option<Verdict>
where
    P: Packet + ?Sized,
    T: Rules<V4> + Rules<V6>,
{
    match ethertype(packet)? {
        ETHERTYPE_IPV4 => Some(decide::verdict::<V4, _>(tables, &fast_query(packet, endpoint, direction)?, direction)),
        ETHERTYPE_IPV6 => Some(decide::verdict::<V6, _>(tables, &fast_query(packet, endpoint, direction)?, direction)),
        _ => None,
    }
}

/// The query of a packet that the fast path can read, and whose own end is the pod's. `None` denies nothing: the packet
/// takes the slow path.
#[inline(always)]
pub fn fast_query<A: Family, P: Packet + ?Sized>(
    packet: &P,
    endpoint: &Endpoint<'_>,
    direction: Direction,
) -> Option<Query<A>> {
    let flow = A::read_fast(packet)?;
    let own = A::own(endpoint.entry);
    let outbound = direction == Direction::Egress;
    let (own_end, other_end) = if outbound { (flow.source, flow.destination) } else { (flow.destination, flow.source) };
    let own_frame = !outbound || (owns_mac(packet, endpoint.entry.mac) && !is_to_group(packet));
    if !owns(own, own_end) || (other_end == own && !outbound) || !own_frame {
        return None;
    }
    Some(Query::new(endpoint.local, endpoint.claim(), &flow, outbound))
}

/// The EtherType of a frame in host order; `None` if the frame is too short.
#[inline(always)]
pub fn ethertype<P: Packet + ?Sized>(packet: &P) -> Option<u16> {
    packet.read::<Ethernet>(0).map(|ethernet| u16::from_be(ethernet.ethertype_be))
}

/// Decides on any frame from a pod.
#[inline(always)]
pub fn slow_from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V4> + Rules<V6>,
{
    if !owns_mac(packet, endpoint.entry.mac) {
        return Verdict::deny(DropReason::SpoofedMac);
    }
    by_ethertype(
        packet,
        || ipv4_from_pod(packet, endpoint, tables),
        || ipv6_from_pod(packet, endpoint, tables),
        || neighbor::from_pod(packet, endpoint, tables),
    )
}

/// Decides on any frame to a pod.
#[inline(always)]
pub fn slow_to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V4> + Rules<V6>,
{
    by_ethertype(
        packet,
        || ipv4_to_pod(packet, endpoint, tables),
        || ipv6_to_pod(packet, endpoint, tables),
        || neighbor::to_pod(packet, endpoint, tables),
    )
}

/// Calls the function for the frame's EtherType. In the kernel, the three are global functions.
#[inline(always)]
pub fn by_ethertype<P: Packet + ?Sized>(
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
        other => Verdict::deny(unsupported_reason(other)),
    }
}

/// Whether the Ethernet source is the pod's own. True if the pod's hardware address is unknown, or the frame too short:
/// [`by_ethertype`] denies that frame.
#[inline(always)]
pub fn owns_mac<P: Packet + ?Sized>(packet: &P, own: Mac) -> bool {
    let source = packet.read::<Ethernet>(0).map(|ethernet| ethernet.source);
    source.is_none_or(|source| source == own) || own.is_unknown()
}

/// Whether the frame goes to all stations of its link or to a group of them (IEEE 802.3, 3.2.3). On a bridge such a frame
/// reaches every pod, whatever IP destination it has.
#[inline(always)]
fn is_to_group<P: Packet + ?Sized>(packet: &P) -> bool {
    packet.read::<Ethernet>(0).is_some_and(|ethernet| ethernet.destination.is_group())
}

/// Decides on an IPv4 packet from a pod.
#[inline(always)]
pub fn ipv4_from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V4>,
{
    match parse::ipv4(packet) {
        Ok(flow) if !owns(endpoint.entry.v4, flow.source) => Verdict::deny(DropReason::SpoofedSource),
        Ok(flow) => egress(packet, &flow, endpoint, tables),
        Err(reason) => Verdict::deny(reason),
    }
}

/// Decides on an IPv4 packet to a pod.
#[inline(always)]
pub fn ipv4_to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V4>,
{
    match parse::ipv4(packet) {
        Ok(flow) => ingress(packet, &flow, endpoint.entry.v4, endpoint, tables),
        Err(reason) => Verdict::deny(reason),
    }
}

/// Decides on an IPv6 packet from a pod that is no neighbour discovery.
#[inline(always)]
pub fn ipv6_from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V6>,
{
    match parse::ipv6(packet) {
        Ok(flow) if neighbor::is_hidden(&flow) => Verdict::deny(neighbor::hidden_reason(&flow)),
        Ok(flow) if !owns(endpoint.entry.v6, flow.source) => Verdict::deny(spoofed_reason(&flow, endpoint.entry)),
        Ok(flow) => egress(packet, &flow, endpoint, tables),
        Err(reason) => Verdict::deny(reason),
    }
}

/// Decides on an IPv6 packet to a pod that is no neighbour discovery.
#[inline(always)]
pub fn ipv6_to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V6>,
{
    match parse::ipv6(packet) {
        Ok(flow) if neighbor::is_hidden(&flow) => Verdict::deny(neighbor::hidden_reason(&flow)),
        Ok(flow) => ingress(packet, &flow, endpoint.entry.v6, endpoint, tables),
        Err(reason) => Verdict::deny(reason),
    }
}

/// Whether the address is the pod's own. A pod without an address of this family owns no address of it.
#[inline(always)]
fn owns<A: Family>(own: A, address: A) -> bool {
    address == own && own != A::NONE
}

#[inline(always)]
fn ingress<A: Family, P: Packet + ?Sized, T: Rules<A>>(
    packet: &P,
    flow: &Flow<A>,
    own: A,
    endpoint: &Endpoint<'_>,
    tables: &T,
) -> Verdict {
    if !owns(own, flow.destination) {
        return Verdict::deny(not_own_reason(flow.destination));
    }
    if flow.source == own {
        return Verdict::deny(DropReason::Martian);
    }
    let query = Query::new(endpoint.local, endpoint.claim(), flow, false);
    let identity = identify(tables, &query);
    let verdict = tables.ingress(&query, identity);
    let is_error = query.has(Query::<A>::ICMP_ERROR) && !verdict.is_allow();
    let is_pod = identity.peer().is_some_and(PeerEntry::is_pods);
    if is_error && quotes_own_packet(packet, flow, is_pod, &query, tables) {
        return Verdict::ALLOW;
    }
    verdict
}

/// Rule 4: whether an ICMP error to the pod quotes a packet that the pod may send. Any router on the way may have sent the
/// error, whoever owns its address. A pod routes for nobody, so it may answer only for itself.
#[inline(always)]
fn quotes_own_packet<A: Family, P: Packet + ?Sized, T: Rules<A>>(
    packet: &P,
    flow: &Flow<A>,
    from_pod: bool,
    query: &Query<A>,
    tables: &T,
) -> bool {
    let Some(quoted) = A::quoted(packet, usize::from(flow.transport) + 8) else { return false };
    if quoted.source != flow.destination || (from_pod && quoted.destination != flow.source) {
        return false;
    }
    // Anybody may have made the quoted packet up, so it records nothing.
    let sent = Query::new(query.local, query.claim, &quoted, true);
    decide::may_have_sent(tables, &sent)
}

/// The reason for an EtherType other than IPv4, IPv6 and ARP.
#[inline(always)]
fn unsupported_reason(ethertype: u16) -> DropReason {
    match ethertype {
        ETHERTYPE_VLAN | ETHERTYPE_QINQ | ETHERTYPE_QINQ_OLD => DropReason::Vlan,
        _ => DropReason::Ethertype,
    }
}

/// The reason for a source address that is not the pod's global one. From the link-local address a pod announces its
/// multicast groups at every start, and asks for names (mDNS, LLMNR) and for leases (DHCPv6): that is multicast, and no
/// attack.
#[inline(always)]
fn spoofed_reason(flow: &Flow<V6>, entry: &EndpointEntry) -> DropReason {
    let own = flow.source == entry.link_local || flow.source == V6::UNSPECIFIED;
    if own && flow.destination.is_multicast() {
        return DropReason::Multicast;
    }
    DropReason::SpoofedSource
}

#[inline(always)]
fn not_own_reason<A: Address>(destination: A) -> DropReason {
    if destination.is_multicast() { DropReason::Multicast } else { DropReason::NotOwnAddress }
}

#[inline(always)]
fn egress<A: Family, P: Packet + ?Sized, T: Rules<A>>(
    packet: &P,
    flow: &Flow<A>,
    endpoint: &Endpoint<'_>,
    tables: &T,
) -> Verdict {
    if is_redirect(flow) {
        return Verdict::deny(DropReason::IcmpRedirect);
    }
    if is_to_group(packet) {
        return Verdict::deny(DropReason::Multicast);
    }
    let query = Query::new(endpoint.local, endpoint.claim(), flow, true);
    let identity = identify(tables, &query);
    let verdict = tables.egress(&query, identity);
    let is_error = query.has(Query::<A>::ICMP_ERROR) && !verdict.is_allow();
    if is_error && quotes_allowed_packet(packet, flow, &query, identity, tables) {
        return Verdict::ALLOW_REPLY;
    }
    verdict
}

#[inline(always)]
fn is_redirect<A: Family>(flow: &Flow<A>) -> bool {
    // An ICMPv6 redirect is neighbour discovery, so `neighbor` decides on it.
    A::ICMP == ICMP && flow.protocol == ICMP && flow.kind == Kind::Icmp && flow.icmp_type == icmp::REDIRECT
}

/// Rule 4: whether an ICMP error quotes a packet of a connection that the other side opened, and still may open.
#[inline(always)]
fn quotes_allowed_packet<A: Family, P: Packet + ?Sized, T: Rules<A>>(
    packet: &P,
    flow: &Flow<A>,
    query: &Query<A>,
    identity: RemoteIdentity,
    tables: &T,
) -> bool {
    let Some(quoted) = A::quoted(packet, usize::from(flow.transport) + 8) else { return false };
    let between_these_ends = quoted.source == flow.destination && quoted.destination == flow.source;
    // The error is allowed if a reply to the quoted packet would be.
    let reply = Query {
        remote_port: quoted.source_port,
        local_port: quoted.destination_port,
        protocol: quoted.protocol,
        bits: Query::<A>::MAY_REPLY | Query::<A>::PORTS_KNOWN,
        ..*query
    };
    between_these_ends && tables.egress(&reply, identity).is_allow()
}
