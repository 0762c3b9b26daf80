//! ARP and neighbour discovery: a pod may claim only its own addresses, and resolve its gateway and the addresses with
//! which it may exchange packets.
//!
//! Router advertisements and redirects from pods never pass (CVE-2020-10749). Discovery behind extension headers or in
//! fragments never passes (RFC 6980).

use crate::access::identify;
use crate::addr::{Address, Mac, V4, V6};
use crate::conntrack::icmp;
use crate::decide::Rules;
use crate::endpoint::Endpoint;
use crate::flow::{Flow, Kind};
use crate::headers::{
    Arp, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, Ethernet, ICMPV6, Ipv6, Neighbor, NeighborOption, Octet,
    Transport,
};
use crate::layout::EndpointEntry;
use crate::parse::{self, Packet};
use crate::query::Query;
use crate::reason::DropReason;
use crate::tables::Family;
use crate::verdict::Verdict;

const ARP_OFFSET: usize = ETHERNET_LEN;
const MESSAGE: usize = ETHERNET_LEN + 40;
const OPTIONS: usize = MESSAGE + 24;
const MAX_OPTIONS: usize = 4;
/// Ethernet pads frames to this length in bytes, without the checksum (IEEE 802.3).
const SHORTEST_FRAME: usize = 60;
const LENGTHS_6_4: u16 = u16::from_ne_bytes([6, 4]);
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;

const SPOOFED: Verdict = Verdict::deny(DropReason::SpoofedNeighbor);
const MALFORMED: Verdict = Verdict::deny(DropReason::Malformed);

const DISCOVERY: core::ops::RangeInclusive<u8> = icmp::ROUTER_SOLICITATION..=icmp::REDIRECT_V6;

/// Whether an IPv6 frame carries ICMPv6 of types 133 to 137 (RFC 4861) right behind its header.
#[inline(always)]
pub fn is_discovery<P: Packet + ?Sized>(packet: &P) -> bool {
    // Whole headers are read, not single bytes. An `Option<u8>` is two bytes in one register, and verifiers refuse to
    // copy the second if it was never written.
    let Some(ip) = packet.read::<Ipv6>(ETHERNET_LEN) else { return false };
    if ip.next_header != ICMPV6 {
        return false;
    }
    let Some(message) = packet.read::<Transport>(MESSAGE) else { return false };
    let [kind, _] = message.first_be.to_ne_bytes();
    DISCOVERY.contains(&kind)
}

/// Whether a packet carries discovery behind extension headers, where no sender may put it.
#[inline(always)]
pub fn is_hidden(flow: &Flow<V6>) -> bool {
    flow.kind == Kind::Icmp && flow.protocol == ICMPV6 && DISCOVERY.contains(&flow.icmp_type)
}

/// A discovery message, with its addresses and the end of its options.
struct Message {
    source: V6,
    destination: V6,
    target: V6,
    end: usize,
}

/// The reason for discovery behind extension headers: that of the message if pods may never send it, else malformed.
#[inline(always)]
pub fn hidden_reason(flow: &Flow<V6>) -> DropReason {
    never_from_pods(flow.icmp_type).unwrap_or(DropReason::Malformed)
}

/// The reason for router messages and redirects: a pod gets its routes from the CNI, and never sends them.
#[inline(always)]
const fn never_from_pods(kind: u8) -> Option<DropReason> {
    match kind {
        icmp::ROUTER_ADVERTISEMENT => Some(DropReason::RouterAdvertisement),
        icmp::REDIRECT_V6 => Some(DropReason::IcmpRedirect),
        // No router would answer, and on a bridge all pods would receive it.
        icmp::ROUTER_SOLICITATION => Some(DropReason::Multicast),
        _ => None,
    }
}

/// Decides on ARP or neighbour discovery from a pod.
#[inline(always)]
pub fn from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V4> + Rules<V6>,
{
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return MALFORMED };
    if u16::from_be(ethernet.ethertype_be) == ETHERTYPE_ARP {
        return arp_from_pod(packet, &ethernet, endpoint, tables);
    }
    nd_from_pod(packet, endpoint, tables)
}

/// Decides on ARP or neighbour discovery to a pod.
#[inline(always)]
pub fn to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V4> + Rules<V6>,
{
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return MALFORMED };
    if u16::from_be(ethernet.ethertype_be) == ETHERTYPE_ARP {
        return arp_to_pod(packet, endpoint, tables);
    }
    nd_to_pod(packet, &ethernet, endpoint, tables)
}

/// Decides on an ARP packet from a pod.
#[inline(always)]
fn arp_from_pod<P, T>(packet: &P, ethernet: &Ethernet, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V4>,
{
    let Some(arp) = read_arp(packet) else { return MALFORMED };
    let entry = endpoint.entry;
    let sender = V4(join(arp.sender));
    let target = V4(join(arp.target));
    if arp.sender_mac != ethernet.source || !is_own_mac(entry, arp.sender_mac) || entry.v4 == V4::default() {
        return SPOOFED;
    }
    match u16::from_be(arp.operation_be) {
        // A probe for the pod's own address claims nothing yet (RFC 5227, 1.1).
        1 if sender == V4::default() && target == entry.v4 => Verdict::ALLOW,
        1 | 2 if sender != entry.v4 => SPOOFED,
        1 if target == entry.v4 || target == entry.gateway_v4 => Verdict::ALLOW,
        1 if only_node_hears(entry) => Verdict::ALLOW,
        1 => resolve(endpoint, tables, target),
        2 => Verdict::ALLOW,
        _ => MALFORMED,
    }
}

/// Decides on an ARP packet to a pod. Only the gateway may claim the gateway's address, and no sender the pod's.
#[inline(always)]
fn arp_to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V4>,
{
    let Some(arp) = read_arp(packet) else { return MALFORMED };
    let entry = endpoint.entry;
    let sender = V4(join(arp.sender));
    let from_gateway = entry.gateway_mac.is_unknown() || arp.sender_mac == entry.gateway_mac;
    if (sender == entry.gateway_v4 && !from_gateway) || sender == entry.v4 {
        return SPOOFED;
    }
    if from_gateway || sender == V4::default() {
        return Verdict::ALLOW;
    }
    resolve(endpoint, tables, sender)
}

/// Decides on a discovery message from a pod.
#[inline(always)]
fn nd_from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V6>,
{
    let entry = endpoint.entry;
    let Some(Octet { value: kind }) = packet.read(MESSAGE) else { return MALFORMED };
    if let Some(reason) = never_from_pods(kind) {
        return Verdict::deny(reason);
    }
    let Some(message) = read_message(packet) else { return MALFORMED };
    let Message { source, destination, target, .. } = message;
    if !options_hold_own_mac(packet, message.end, entry) {
        return SPOOFED;
    }
    if kind == icmp::NEIGHBOR_ADVERTISEMENT {
        let own = is_own_v6(entry, target) && is_own_v6(entry, source);
        return if own { check_destination(endpoint, tables, destination, target) } else { SPOOFED };
    }
    if source == V6::UNSPECIFIED {
        // Duplicate address detection is allowed only for the pod's own addresses: for another pod's it would keep that
        // pod from using it.
        let own = is_own_v6(entry, target) || (target.is_link_local() && entry.link_local == V6::UNSPECIFIED);
        // It goes to those who may have the address too (RFC 4862, 5.4.2), and to nobody else.
        let to_group = destination == target.solicited_node();
        return match (own, to_group) {
            (true, true) => Verdict::ALLOW,
            (true, false) => Verdict::deny(DropReason::Multicast),
            (false, _) => SPOOFED,
        };
    }
    if !is_own_v6(entry, source) {
        return Verdict::deny(DropReason::SpoofedSource);
    }
    let destination = check_destination(endpoint, tables, destination, target);
    if !destination.is_allow() {
        return destination;
    }
    if target == entry.gateway_v6 || is_own_v6(entry, target) || only_node_hears(entry) {
        return Verdict::ALLOW;
    }
    resolve(endpoint, tables, target)
}

/// Whether nobody but the node hears what the pod asks on its link. Then it may ask for any address: its gateway need not
/// be an address of the node (Calico's 169.254.1.1, a logical router), and only the node could answer.
#[inline(always)]
fn only_node_hears(entry: &EndpointEntry) -> bool {
    entry.flags & EndpointEntry::BRIDGED == 0
}

/// Decides on the destination of a discovery message: the link, or an address that the pod may resolve. Routers forward
/// discovery like any packet, and its options could carry data to another tenant.
#[inline(always)]
fn check_destination<T: Rules<V6>>(endpoint: &Endpoint<'_>, tables: &T, destination: V6, target: V6) -> Verdict {
    let entry = endpoint.entry;
    let group = destination == V6::ALL_NODES || destination == target.solicited_node();
    if group || destination.is_link_local() || destination == entry.gateway_v6 || is_own_v6(entry, destination) {
        return Verdict::ALLOW;
    }
    resolve(endpoint, tables, destination)
}

/// Decides on a discovery message to a pod.
#[inline(always)]
fn nd_to_pod<P, T>(packet: &P, ethernet: &Ethernet, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Rules<V6>,
{
    let entry = endpoint.entry;
    let Some(Octet { value: kind }) = packet.read(MESSAGE) else { return MALFORMED };
    let is_gateway_known = !entry.gateway_mac.is_unknown();
    let from_gateway = !is_gateway_known || ethernet.source == entry.gateway_mac;
    if let Some(reason) = never_from_pods(kind) {
        // The pod gets its routes from its gateway, if it gets them this way.
        let routes = kind == icmp::ROUTER_ADVERTISEMENT && is_gateway_known && from_gateway;
        return if routes { Verdict::ALLOW } else { Verdict::deny(reason) };
    }
    let Some(message) = read_message(packet) else { return MALFORMED };
    let Message { source, target, .. } = message;
    if kind == icmp::NEIGHBOR_ADVERTISEMENT {
        if is_own_v6(entry, target) || (target == entry.gateway_v6 && !from_gateway) {
            return SPOOFED;
        }
        return if from_gateway { Verdict::ALLOW } else { resolve(endpoint, tables, target) };
    }
    if is_own_v6(entry, source) {
        return SPOOFED;
    }
    if from_gateway {
        return Verdict::ALLOW;
    }
    if source.is_link_local() || source == V6::UNSPECIFIED {
        // A neighbour on the bridge solicits from its link-local address, or probes for an address that it wants: only
        // for the pod's own addresses.
        return if is_own_v6(entry, target) { Verdict::ALLOW } else { Verdict::deny(DropReason::NotOwnAddress) };
    }
    resolve(endpoint, tables, source)
}

/// Decides whether the pod may resolve an address: only if connections are allowed in at least one direction.
#[inline(always)]
fn resolve<A: Family, T: Rules<A>>(endpoint: &Endpoint<'_>, tables: &T, remote: A) -> Verdict {
    let query = Query {
        local: endpoint.local,
        claim: endpoint.claim(),
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
    let ends = packet.length() <= SHORTEST_FRAME;
    (ethernet && ipv4 && ends && arp.lengths_be == LENGTHS_6_4).then_some(arp)
}

/// Reads a solicitation or advertisement that has not crossed a router (RFC 4861, 7.1).
#[inline(always)]
fn read_message<P: Packet + ?Sized>(packet: &P) -> Option<Message> {
    let ip: Ipv6 = packet.read(ETHERNET_LEN)?;
    let body: Neighbor = packet.read(MESSAGE)?;
    let payload = usize::from(u16::from_be(ip.payload_length_be));
    let target = parse::words(body.target);
    let end = MESSAGE + payload;
    // Bytes behind the message would carry data between tenants of one bridge.
    let fits = payload >= 24 && end <= packet.length() && packet.length() <= end.max(SHORTEST_FRAME);
    let valid = ip.version_class >> 4 == 6 && ip.hop_limit == 255 && body.code == 0 && !target.is_multicast();
    let (source, destination) = (parse::words(ip.source), parse::words(ip.destination));
    let message = Message { source, destination, target, end };
    (fits && valid).then_some(message)
}

/// Whether every link-layer address in the options is the pod's own, and all options were read.
#[inline(always)]
fn options_hold_own_mac<P: Packet + ?Sized>(packet: &P, end: usize, entry: &EndpointEntry) -> bool {
    let mut at = OPTIONS;
    let mut step = 0;
    while step < MAX_OPTIONS {
        if at >= end {
            return true;
        }
        let Some(option) = packet.read::<NeighborOption>(at) else { return false };
        let is_mac = option.kind == SOURCE_MAC || option.kind == TARGET_MAC;
        if option.length != 1 || (is_mac && !is_own_mac(entry, option.mac)) {
            return false;
        }
        at += 8;
        step += 1;
    }
    at >= end
}

#[inline(always)]
fn is_own_mac(entry: &EndpointEntry, mac: Mac) -> bool {
    entry.mac.is_unknown() || mac == entry.mac
}

#[inline(always)]
fn is_own_v6(entry: &EndpointEntry, address: V6) -> bool {
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
