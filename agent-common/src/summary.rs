//! The summary of a denied frame for its event: the fields that can be read, however broken the frame is.
//!
//! [`crate::parse`] refuses what it does not understand; this module reads as far as it can. It decides nothing. A field
//! that cannot be read stays zero.

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
use crate::tables::Tables;
use crate::tenant::LocalTenant;
use crate::verdict::Denied;

/// The readable fields of a frame.
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

/// Reads a frame as far as possible.
#[inline(always)]
pub fn summarize<P: Packet + ?Sized>(packet: &P) -> PacketSummary {
    let mut summary = PacketSummary::default();
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return summary };
    summary.ethertype = u16::from_be(ethernet.ethertype_be);
    match summary.ethertype {
        ETHERTYPE_IPV4 => ipv4(packet, &mut summary),
        ETHERTYPE_IPV6 => ipv6(packet, &mut summary),
        ETHERTYPE_ARP => arp(packet, &mut summary),
        _ => {}
    }
    summary
}

/// Names the owner of the remote address in a denial, if it has one.
#[inline(always)]
pub fn attribute<T>(
    tables: &T,
    local: &LocalTenant,
    summary: &PacketSummary,
    direction: Direction,
    denied: Denied,
) -> Denied
where
    T: Tables<V4> + Tables<V6>,
{
    match summary.family {
        4 => attribute_owner::<V4, _>(tables, local, summary.remote_v4(direction), denied),
        6 => attribute_owner::<V6, _>(tables, local, summary.remote_v6(direction), denied),
        _ => denied,
    }
}

#[inline(always)]
fn ipv4<P: Packet + ?Sized>(packet: &P, summary: &mut PacketSummary) {
    let Some(ip) = packet.read::<Ipv4>(ETHERNET_LEN) else { return };
    if ip.version_ihl >> 4 != 4 {
        return;
    }
    summary.family = 4;
    summary.protocol = ip.protocol;
    summary.source.lo = u64::from(ip.source);
    summary.destination.lo = u64::from(ip.destination);
    if u16::from_be(ip.fragment_be) & 0x1fff == 0 {
        // The mask bounds the length, so that every verifier sees a bounded offset.
        transport(packet, summary, ETHERNET_LEN + usize::from(ip.version_ihl & 0x0f) * 4);
    }
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized>(packet: &P, summary: &mut PacketSummary) {
    let Some(ip) = packet.read::<Ipv6>(ETHERNET_LEN) else { return };
    if ip.version_class >> 4 != 6 {
        return;
    }
    summary.family = 6;
    summary.protocol = ip.next_header;
    summary.source = parse::words(ip.source);
    summary.destination = parse::words(ip.destination);
    transport(packet, summary, ETHERNET_LEN + 40);
}

#[inline(always)]
fn arp<P: Packet + ?Sized>(packet: &P, summary: &mut PacketSummary) {
    let Some(arp) = packet.read::<Arp>(ETHERNET_LEN) else { return };
    let join = |halves: [u16; 2]| u64::from(halves[0]) | u64::from(halves[1]) << 16;
    summary.family = 4;
    summary.source.lo = join(arp.sender);
    summary.destination.lo = join(arp.target);
}

#[inline(always)]
fn transport<P: Packet + ?Sized>(packet: &P, summary: &mut PacketSummary, offset: usize) {
    match summary.protocol {
        TCP | UDP | SCTP => {
            let Some(header) = packet.read::<Transport>(offset) else { return };
            summary.source_port = u16::from_be(header.first_be);
            summary.destination_port = u16::from_be(header.second_be);
            if summary.protocol == TCP {
                summary.tcp_flags = packet.read::<Tcp>(offset).map_or(0, |tcp| tcp.flags);
            }
        }
        ICMP | ICMPV6 => {
            let Some(header) = packet.read::<Transport>(offset) else { return };
            [summary.icmp_type, summary.icmp_code] = header.first_be.to_ne_bytes();
        }
        _ => {}
    }
}

impl PacketSummary {
    /// The key of the denied flow that the frame belongs to.
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
