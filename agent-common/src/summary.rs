//! What can be told of a denied frame, however broken: the lenient twin of `parse`.
//!
//! Judges nothing. Fields it cannot read stay zero; it never invents a port.

use crate::access::{Denied, LocalTenant, Tables};
use crate::addr::{V4, V6};
use crate::aggregate::AggregateKey;
use crate::decide::attribute_owner;
use crate::event::FlowEvent;
use crate::flow::Direction;
use crate::headers::{
    Arp, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, ICMP, ICMPV6, Ipv4, Ipv6, SCTP, TCP,
    Tcp, Transport, UDP,
};
use crate::parse::{self, Packet};
use crate::reason::DropReason;

/// Readable parts of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketSummary {
    /// Source; IPv4 in `lo`.
    pub source: V6,
    /// Destination; IPv4 in `lo`.
    pub destination: V6,
    /// Host order.
    pub source_port: u16,
    /// Host order.
    pub destination_port: u16,
    /// Host order.
    pub ethertype: u16,
    /// 4, 6, or 0.
    pub family: u8,
    /// IANA protocol number.
    pub protocol: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
}

/// Reads what is there.
#[inline(always)]
pub fn summarize<P: Packet + ?Sized>(packet: &P) -> PacketSummary {
    let mut seen = PacketSummary::default();
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return seen };
    seen.ethertype = u16::from_be(ethernet.ethertype_be);
    match seen.ethertype {
        ETHERTYPE_IPV4 => ipv4(packet, &mut seen),
        ETHERTYPE_IPV6 => ipv6(packet, &mut seen),
        ETHERTYPE_ARP => arp(packet, &mut seen),
        _ => {}
    }
    seen
}

/// Whose address it was, if it was anybody's.
#[inline(always)]
pub fn attribute<T>(
    tables: &T,
    local: &LocalTenant,
    seen: &PacketSummary,
    direction: Direction,
    denied: Denied,
) -> Denied
where
    T: Tables<V4> + Tables<V6>,
{
    match seen.family {
        4 => attribute_owner::<V4, _>(tables, local, seen.remote_v4(direction), denied),
        6 => attribute_owner::<V6, _>(tables, local, seen.remote_v6(direction), denied),
        _ => denied,
    }
}

#[inline(always)]
fn ipv4<P: Packet + ?Sized>(packet: &P, seen: &mut PacketSummary) {
    let Some(ip) = packet.read::<Ipv4>(ETHERNET_LEN) else { return };
    if ip.version_ihl >> 4 != 4 {
        return;
    }
    seen.family = 4;
    seen.protocol = ip.protocol;
    seen.source.lo = u64::from(ip.source);
    seen.destination.lo = u64::from(ip.destination);
    if u16::from_be(ip.fragment_be) & 0x1fff == 0 {
        // The length nibble is bounded here so that every verifier sees a bounded offset.
        transport(packet, seen, ETHERNET_LEN + usize::from(ip.version_ihl & 0x0f) * 4);
    }
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized>(packet: &P, seen: &mut PacketSummary) {
    let Some(ip) = packet.read::<Ipv6>(ETHERNET_LEN) else { return };
    if ip.version_class >> 4 != 6 {
        return;
    }
    seen.family = 6;
    seen.protocol = ip.next_header;
    seen.source = parse::words(ip.source);
    seen.destination = parse::words(ip.destination);
    transport(packet, seen, ETHERNET_LEN + 40);
}

#[inline(always)]
fn arp<P: Packet + ?Sized>(packet: &P, seen: &mut PacketSummary) {
    let Some(arp) = packet.read::<Arp>(ETHERNET_LEN) else { return };
    let join = |halves: [u16; 2]| u64::from(halves[0]) | u64::from(halves[1]) << 16;
    seen.family = 4;
    seen.source.lo = join(arp.sender);
    seen.destination.lo = join(arp.target);
}

#[inline(always)]
fn transport<P: Packet + ?Sized>(packet: &P, seen: &mut PacketSummary, offset: usize) {
    match seen.protocol {
        TCP | UDP | SCTP => {
            let Some(header) = packet.read::<Transport>(offset) else { return };
            seen.source_port = u16::from_be(header.first_be);
            seen.destination_port = u16::from_be(header.second_be);
            if seen.protocol == TCP {
                seen.tcp_flags = packet.read::<Tcp>(offset).map_or(0, |tcp| tcp.flags);
            }
        }
        ICMP | ICMPV6 => {
            let Some(header) = packet.read::<Transport>(offset) else { return };
            [seen.icmp_type, seen.icmp_code] = header.first_be.to_ne_bytes();
        }
        _ => {}
    }
}

impl PacketSummary {
    /// What makes further packets the same story.
    #[inline(always)]
    pub fn key(&self, direction: Direction, cookie: u32, cause: DropReason) -> AggregateKey {
        let remote = match direction {
            Direction::Egress => self.destination,
            Direction::Ingress => self.source,
        };
        AggregateKey {
            remote_hi: remote.hi,
            remote_lo: remote.lo,
            cookie,
            port: self.destination_port,
            protocol: self.protocol,
            cause: AggregateKey::cause(direction, cause),
        }
    }

    /// Fills the parts of a record that come from the frame.
    #[inline(always)]
    pub fn fill(&self, event: &mut FlowEvent) {
        event.source = self.octets(self.source);
        event.destination = self.octets(self.destination);
        event.source_port = self.source_port;
        event.destination_port = self.destination_port;
        event.ethertype = self.ethertype;
        event.family = self.family;
        event.protocol = self.protocol;
        event.tcp_flags = self.tcp_flags;
        event.icmp_type = self.icmp_type;
        event.icmp_code = self.icmp_code;
    }

    #[inline(always)]
    fn octets(&self, address: V6) -> [u8; 16] {
        let address = if self.family == 4 { V6::mapped(V4(address.lo as u32)) } else { address };
        address.octets()
    }

    /// The other end as an IPv4 address.
    #[inline(always)]
    pub fn remote_v4(&self, direction: Direction) -> V4 {
        V4(self.remote_v6(direction).lo as u32)
    }

    /// The other end as an IPv6 address.
    #[inline(always)]
    pub fn remote_v6(&self, direction: Direction) -> V6 {
        match direction {
            Direction::Egress => self.destination,
            Direction::Ingress => self.source,
        }
    }
}
