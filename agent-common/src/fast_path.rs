//! The short way in: packets as nearly all of them are, read with a comparison for each header.
//!
//! Plain is TCP or UDP, whole, directly behind an IPv4 header without options or an IPv6 header, all
//! of it readable. `None` says nothing but "not plain"; `parse` then reads the packet and gives the
//! reason, if there is one. What both read they read alike: a test holds them against each other.

use crate::addr::{V4, V6};
use crate::flow::{Flow, Kind};
use crate::headers::{ETHERNET_LEN, Ipv4Words, Ipv6, TCP, Tcp, Transport, UDP};
use crate::parse::{Packet, words};

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;

/// A plain IPv4 packet behind an Ethernet header.
#[inline(always)]
pub fn ipv4<P: Packet + ?Sized>(packet: &P) -> Option<Flow<V4>> {
    let Ipv4Words { words } = packet.read(ETHERNET_LEN)?;
    // Version 4, five words, and neither an offset nor more fragments.
    let first = u32::from_be(words[0]);
    let fragment = u32::from_be(words[1]) & 0x3fff;
    if first >> 24 != 0x45 || fragment != 0 {
        return None;
    }
    let total = (first & 0xffff) as usize;
    if total < IPV4_LEN || ETHERNET_LEN + total > packet.length() || !sums_up(words) {
        return None;
    }
    let protocol = (u32::from_be(words[2]) >> 16) as u8;
    let flow = Flow::unread(V4(words[3]), V4(words[4]), protocol);
    transport(packet, flow, ETHERNET_LEN + IPV4_LEN, total - IPV4_LEN)
}

/// A plain IPv6 packet behind an Ethernet header.
#[inline(always)]
pub fn ipv6<P: Packet + ?Sized>(packet: &P) -> Option<Flow<V6>> {
    let ip: Ipv6 = packet.read(ETHERNET_LEN)?;
    let payload = usize::from(u16::from_be(ip.payload_length_be));
    if ip.version_class >> 4 != 6 || ETHERNET_LEN + IPV6_LEN + payload > packet.length() {
        return None;
    }
    let flow = Flow::unread(words(ip.source), words(ip.destination), ip.next_header);
    transport(packet, flow, ETHERNET_LEN + IPV6_LEN, payload)
}

/// Whether the header checksum is right (RFC 1071): words of four bytes aggregate to the same sum as
/// words of two, in any byte order.
#[inline(always)]
fn sums_up(words: [u32; 5]) -> bool {
    let sum = words.iter().fold(0_u64, |sum, word| sum + u64::from(*word));
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

#[inline(always)]
fn transport<P: Packet + ?Sized, A>(packet: &P, mut flow: Flow<A>, offset: usize, room: usize) -> Option<Flow<A>> {
    match flow.protocol {
        TCP => {
            let tcp: Tcp = packet.read(offset)?;
            let header_len = usize::from(tcp.offset >> 4) * 4;
            if header_len < 20 || header_len > room {
                return None;
            }
            flow.tcp_flags = tcp.flags;
            flow.source_port = u16::from_be(tcp.source_be);
            flow.destination_port = u16::from_be(tcp.destination_be);
        }
        UDP => {
            let udp: Transport = packet.read(offset)?;
            let length = usize::from(u16::from_be(udp.third_be));
            if length < 8 || length > room {
                return None;
            }
            flow.source_port = u16::from_be(udp.first_be);
            flow.destination_port = u16::from_be(udp.second_be);
        }
        _ => return None,
    }
    flow.kind = Kind::Ports;
    flow.transport = offset as u16;
    Some(flow)
}
