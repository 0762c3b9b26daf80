//! ARP and neighbour discovery: a pod may find its gateway and those it may talk to, and claim
//! nothing but its own addresses.
//!
//! Router advertisements and redirects from pods never pass (CVE-2020-10749). Discovery behind
//! extension headers or in fragments never passes (RFC 6980).

use crate::access::{Family, Tables, identify};
use crate::addr::{Address, Mac, V4, V6};
use crate::conntrack::icmp;
use crate::flow::{Flow, Kind};
use crate::headers::{
    Arp, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, Ethernet, ICMPV6, Ipv6, Neighbor, NeighborOption, Octet,
    Transport,
};
use crate::layout::EndpointEntry;
use crate::parse::{self, Packet};
use crate::query::Query;
use crate::reason::DropReason;
use crate::verdict::{Endpoint, Verdict};

const ARP_OFFSET: usize = ETHERNET_LEN;
const MESSAGE: usize = ETHERNET_LEN + 40;
const OPTIONS: usize = MESSAGE + 24;
const MAX_OPTIONS: usize = 4;
const LENGTHS_6_4: u16 = u16::from_ne_bytes([6, 4]);
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;

const CLAIM: Verdict = Verdict::deny(DropReason::SpoofedNeighbor);
const MALFORMED: Verdict = Verdict::deny(DropReason::Malformed);

const DISCOVERY: core::ops::RangeInclusive<u8> = icmp::ROUTER_SOLICITATION..=icmp::REDIRECT_V6;

/// Whether an IPv6 frame carries ICMPv6 of types 133 to 137 (RFC 4861) right behind its header.
#[inline(always)]
pub fn is_discovery<P: Packet + ?Sized>(packet: &P) -> bool {
    // Whole headers, not single bytes: an option of a byte is two in one register, of which verifiers
    // refuse to copy one that was never written.
    let Some(ip) = packet.read::<Ipv6>(ETHERNET_LEN) else { return false };
    if ip.next_header != ICMPV6 {
        return false;
    }
    let Some(message) = packet.read::<Transport>(MESSAGE) else { return false };
    let [kind, _] = message.first_be.to_ne_bytes();
    DISCOVERY.contains(&kind)
}

/// Whether a packet carries discovery where nobody may put it: behind extension headers.
#[inline(always)]
pub fn is_hidden(flow: &Flow<V6>) -> bool {
    flow.kind == Kind::Icmp && flow.protocol == ICMPV6 && DISCOVERY.contains(&flow.icmp_type)
}

/// A discovery message with the parts of its IPv6 header that matter.
struct Message {
    source: V6,
    destination: V6,
    target: V6,
    end: usize,
}

/// The reason for hidden discovery: that of the message, where pods may never send it at all.
#[inline(always)]
pub fn hidden_reason(flow: &Flow<V6>) -> DropReason {
    never_from_pods(flow.icmp_type).unwrap_or(DropReason::Malformed)
}

/// Router messages and redirects. Pods are told their routes by the CNI.
#[inline(always)]
const fn never_from_pods(kind: u8) -> Option<DropReason> {
    match kind {
        icmp::ROUTER_ADVERTISEMENT => Some(DropReason::RouterAdvertisement),
        icmp::REDIRECT_V6 => Some(DropReason::IcmpRedirect),
        // Nobody answers, and on a bridge everybody hears.
        icmp::ROUTER_SOLICITATION => Some(DropReason::Multicast),
        _ => None,
    }
}

/// ARP or neighbour discovery from a pod.
#[inline(always)]
pub fn from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4> + Tables<V6>,
{
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return MALFORMED };
    if u16::from_be(ethernet.ethertype_be) == ETHERTYPE_ARP {
        return arp_from_pod(packet, &ethernet, endpoint, tables);
    }
    nd_from_pod(packet, endpoint, tables)
}

/// ARP or neighbour discovery to a pod.
#[inline(always)]
pub fn to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4> + Tables<V6>,
{
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return MALFORMED };
    if u16::from_be(ethernet.ethertype_be) == ETHERTYPE_ARP {
        return arp_to_pod(packet, endpoint, tables);
    }
    nd_to_pod(packet, &ethernet, endpoint, tables)
}

/// An ARP packet from a pod.
#[inline(always)]
fn arp_from_pod<P, T>(packet: &P, ethernet: &Ethernet, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4>,
{
    let Some(arp) = read_arp(packet) else { return MALFORMED };
    let entry = endpoint.entry;
    let sender = V4(join(arp.sender));
    let target = V4(join(arp.target));
    if arp.sender_mac != ethernet.source || !own_mac(entry, arp.sender_mac) || entry.v4 == V4::default() {
        return CLAIM;
    }
    match u16::from_be(arp.operation_be) {
        // A probe for the pod's own address claims nothing yet (RFC 5227, 1.1).
        1 if sender == V4::default() && target == entry.v4 => Verdict::ALLOW,
        1 | 2 if sender != entry.v4 => CLAIM,
        1 if target == entry.v4 || target == entry.gateway_v4 => Verdict::ALLOW,
        1 => resolve(endpoint, tables, target),
        2 => Verdict::ALLOW,
        _ => MALFORMED,
    }
}

/// An ARP packet to a pod: nobody but the gateway may speak for the gateway, or for the pod.
#[inline(always)]
fn arp_to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4>,
{
    let Some(arp) = read_arp(packet) else { return MALFORMED };
    let entry = endpoint.entry;
    let sender = V4(join(arp.sender));
    let from_gateway = entry.gateway_mac.is_unknown() || arp.sender_mac == entry.gateway_mac;
    if (sender == entry.gateway_v4 && !from_gateway) || sender == entry.v4 {
        return CLAIM;
    }
    if from_gateway || sender == V4::default() {
        return Verdict::ALLOW;
    }
    resolve(endpoint, tables, sender)
}

/// A discovery message from a pod.
#[inline(always)]
fn nd_from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V6>,
{
    let entry = endpoint.entry;
    let Some(Octet { value: kind }) = packet.read(MESSAGE) else { return MALFORMED };
    if let Some(reason) = never_from_pods(kind) {
        return Verdict::deny(reason);
    }
    let Some(message) = read_message(packet) else { return MALFORMED };
    let Message { source, destination, target, .. } = message;
    if !options_are_ours(packet, message.end, entry) {
        return CLAIM;
    }
    if kind == icmp::NEIGHBOR_ADVERTISEMENT {
        let own = own_v6(entry, target) && own_v6(entry, source);
        return if own { heard(endpoint, tables, destination, target) } else { CLAIM };
    }
    if source == V6::UNSPECIFIED {
        // Duplicate address detection: only for addresses the pod was given. Another pod's would
        // deny it its own.
        let own = own_v6(entry, target) || (target.is_link_local() && entry.link_local == V6::UNSPECIFIED);
        return if own { heard(endpoint, tables, destination, target) } else { CLAIM };
    }
    if !own_v6(entry, source) {
        return Verdict::deny(DropReason::SpoofedSource);
    }
    let heard = heard(endpoint, tables, destination, target);
    if !heard.is_allow() {
        return heard;
    }
    if target == entry.gateway_v6 || own_v6(entry, target) {
        return Verdict::ALLOW;
    }
    resolve(endpoint, tables, target)
}

/// Whether a message may go where it is sent. Routers forward discovery like anything else, and its
/// options carry whatever the sender likes: only what stays on the link, and whom the pod may find anyway.
#[inline(always)]
fn heard<T: Tables<V6>>(endpoint: &Endpoint<'_>, tables: &T, destination: V6, target: V6) -> Verdict {
    let entry = endpoint.entry;
    let group = destination == V6::ALL_NODES || destination == target.solicited_node();
    if group || destination.is_link_local() || destination == entry.gateway_v6 || own_v6(entry, destination) {
        return Verdict::ALLOW;
    }
    resolve(endpoint, tables, destination)
}

/// A discovery message to a pod.
#[inline(always)]
fn nd_to_pod<P, T>(packet: &P, ethernet: &Ethernet, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V6>,
{
    let entry = endpoint.entry;
    let Some(Octet { value: kind }) = packet.read(MESSAGE) else { return MALFORMED };
    if let Some(reason) = never_from_pods(kind) {
        return Verdict::deny(reason);
    }
    let Some(message) = read_message(packet) else { return MALFORMED };
    let Message { source, target, .. } = message;
    let from_gateway = entry.gateway_mac.is_unknown() || ethernet.source == entry.gateway_mac;
    if kind == icmp::NEIGHBOR_ADVERTISEMENT {
        if own_v6(entry, target) || (target == entry.gateway_v6 && !from_gateway) {
            return CLAIM;
        }
        return if from_gateway { Verdict::ALLOW } else { resolve(endpoint, tables, target) };
    }
    if own_v6(entry, source) {
        return CLAIM;
    }
    if from_gateway || source == V6::UNSPECIFIED {
        return Verdict::ALLOW;
    }
    if source.is_link_local() {
        // A neighbour on the bridge, asking from its link-local address: only for what we own.
        return if own_v6(entry, target) { Verdict::ALLOW } else { Verdict::deny(DropReason::NotOwnAddress) };
    }
    resolve(endpoint, tables, source)
}

/// Whether the pod may know where an address is: if it may talk to it at all, or be talked to.
#[inline(always)]
fn resolve<A: Family, T: Tables<A>>(endpoint: &Endpoint<'_>, tables: &T, remote: A) -> Verdict {
    let query = Query {
        local: endpoint.local,
        cookie: endpoint.entry.cookie,
        remote,
        remote_port: 0,
        local_port: 0,
        protocol: 0,
        bits: Query::<A>::RESOLVES,
        tcp_flags: 0,
    };
    tables.egress(&query, identify(tables, &query))
}

#[inline(always)]
fn read_arp<P: Packet + ?Sized>(packet: &P) -> Option<Arp> {
    let arp: Arp = packet.read(ARP_OFFSET)?;
    let ethernet = u16::from_be(arp.hardware_type_be) == 1;
    let ipv4 = u16::from_be(arp.protocol_type_be) == ETHERTYPE_IPV4;
    (ethernet && ipv4 && arp.lengths_be == LENGTHS_6_4).then_some(arp)
}

/// A solicitation or advertisement that has not crossed a router (RFC 4861, 7.1).
#[inline(always)]
fn read_message<P: Packet + ?Sized>(packet: &P) -> Option<Message> {
    let ip: Ipv6 = packet.read(ETHERNET_LEN)?;
    let body: Neighbor = packet.read(MESSAGE)?;
    let payload = usize::from(u16::from_be(ip.payload_length_be));
    let target = parse::words(body.target);
    let fits = payload >= 24 && MESSAGE + payload <= packet.length();
    let valid = ip.version_class >> 4 == 6 && ip.hop_limit == 255 && body.code == 0 && !target.is_multicast();
    let (source, destination) = (parse::words(ip.source), parse::words(ip.destination));
    let message = Message { source, destination, target, end: MESSAGE + payload };
    (fits && valid).then_some(message)
}

/// Whether every link-layer address in the options is the pod's own, and nothing is left unread.
#[inline(always)]
fn options_are_ours<P: Packet + ?Sized>(packet: &P, end: usize, entry: &EndpointEntry) -> bool {
    let mut at = OPTIONS;
    let mut step = 0;
    while step < MAX_OPTIONS {
        if at >= end {
            return true;
        }
        let Some(option) = packet.read::<NeighborOption>(at) else { return false };
        let speaks = option.kind == SOURCE_MAC || option.kind == TARGET_MAC;
        if option.length != 1 || (speaks && !own_mac(entry, option.mac)) {
            return false;
        }
        at += 8;
        step += 1;
    }
    at >= end
}

#[inline(always)]
fn own_mac(entry: &EndpointEntry, mac: Mac) -> bool {
    entry.mac.is_unknown() || mac == entry.mac
}

#[inline(always)]
fn own_v6(entry: &EndpointEntry, address: V6) -> bool {
    address != V6::UNSPECIFIED && (address == entry.v6 || address == entry.link_local)
}

#[inline(always)]
fn join(halves: [u16; 2]) -> u32 {
    if cfg!(target_endian = "little") {
        u32::from(halves[0]) | u32::from(halves[1]) << 16
    } else {
        u32::from(halves[0]) << 16 | u32::from(halves[1])
    }
}
