//! The fast path of the parser: the packets that nearly all are, read with one comparison for each header.
//!
//! It reads whole TCP and UDP packets directly behind an IPv4 header without options, or an IPv6 header. `None` denies
//! nothing: [`crate::parse`] then reads the packet and finds the reason, if there is one. A packet that both can read
//! gives the same flow; a test compares them.

use crate::addr::{V4, V6};
use crate::flow::{Flow, Kind};
use crate::headers::{ETHERNET_LEN, Ipv4Words, Ipv6, TCP, Tcp, Transport, UDP};
use crate::parse::{Packet, words};

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;

/// Reads an IPv4 packet behind an Ethernet header.
#[inline(always)]
pub fn ipv4<P: Packet + ?Sized>(packet: &P) -> Option<Flow<V4>> {
    let Ipv4Words { words } = packet.read(ETHERNET_LEN)?;
    // Version 4, a header of five words, and no fragment.
    let first = u32::from_be(words[0]);
    let fragment = u32::from_be(words[1]) & 0x3fff;
    if first >> 24 != 0x45 || fragment != 0 {
        return None;
    }
    let total = (first & 0xffff) as usize;
    if total < IPV4_LEN || ETHERNET_LEN + total > packet.length() || !has_right_checksum(words) {
        return None;
    }
    let protocol = (u32::from_be(words[2]) >> 16) as u8;
    let flow = Flow::unread(V4(words[3]), V4(words[4]), protocol);
    transport(packet, flow, ETHERNET_LEN + IPV4_LEN, total - IPV4_LEN)
}

/// Reads an IPv6 packet behind an Ethernet header.
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

/// Whether the header checksum is right (RFC 1071). The sum of 4-byte words, with its carries added, equals that of
/// 2-byte words, in any byte order.
#[inline(always)]
fn has_right_checksum(words: [u32; 5]) -> bool {
    let sum = words.iter().fold(0_u64, |sum, word| sum + u64::from(*word));
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

#[inline(always)]
fn transport<P: Packet + ?Sized, A>(packet: &P, mut flow: Flow<A>, offset: usize, available: usize) -> Option<Flow<A>> {
    match flow.protocol {
        TCP => {
            let tcp: Tcp = packet.read(offset)?;
            let header_len = usize::from(tcp.offset >> 4) * 4;
            if header_len < 20 || header_len > available {
                return None;
            }
            flow.tcp_flags = tcp.flags;
            flow.source_port = u16::from_be(tcp.source_be);
            flow.destination_port = u16::from_be(tcp.destination_be);
        }
        UDP => {
            let udp: Transport = packet.read(offset)?;
            let length = usize::from(u16::from_be(udp.third_be));
            if length < 8 || length > available {
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
