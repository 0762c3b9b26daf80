//! The schema's description of a packet, made from its record.
//!
//! Knows no names. The invariant: a field is left out if its header was absent or was not read.

use std::net::{IpAddr, Ipv6Addr};

use agent_common::event::{Checked, FlowEvent};
use agent_common::reason::DropReason;

use super::schema::{IpFamily, Network, TcpFlag};

const ARP: u16 = 0x0806;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// The port, if the protocol has ports and the header was read.
pub(crate) fn service_port(event: &FlowEvent, port: u16) -> Option<u16> {
    (port != 0 && matches!(event.protocol, TCP | UDP | SCTP)).then_some(port)
}

/// The source address in the packet, if it has one.
pub(crate) fn source_ip(record: &Checked) -> Option<IpAddr> {
    address(record.event.source, record)
}

/// The destination address in the packet, if it has one.
pub(crate) fn destination_ip(record: &Checked) -> Option<IpAddr> {
    address(record.event.destination, record)
}

fn address(bytes: [u8; 16], record: &Checked) -> Option<IpAddr> {
    let v6 = Ipv6Addr::from(bytes);
    match record.event.family {
        // Zero means that the frame has no address. If IPv6 headers were read, it is the address `::`.
        6 if bytes == [0; 16] && record.reason == DropReason::Malformed => None,
        6 => Some(v6.into()),
        _ if bytes == [0; 16] => None,
        _ => Some(v6.to_canonical()),
    }
}

/// Describes the packet of a record.
pub(crate) fn network(record: &Checked) -> Network {
    let event = &record.event;
    let family = match (event.family, event.ethertype) {
        // An ARP frame carries IPv4 addresses but is not IPv4.
        (_, ARP) => None,
        (4, _) => Some(IpFamily::Ipv4),
        (6, _) => Some(IpFamily::Ipv6),
        _ => None,
    };
    let protocol = family.and(Some(event.protocol)).filter(|protocol| *protocol != 0);
    // A later fragment has a protocol but no header to read a type or flags from.
    let header = protocol.filter(|_| record.reason != DropReason::Fragment);
    let icmp = header.filter(|protocol| matches!(*protocol, ICMP | ICMPV6));
    Network {
        family,
        ethertype: family.is_none().then_some(event.ethertype).filter(|ethertype| *ethertype != 0),
        transport: protocol.and_then(transport).map(Into::into),
        protocol_number: protocol,
        tcp_flags: header.filter(|protocol| *protocol == TCP).map_or_else(Vec::new, |_| tcp_flags(event.tcp_flags)),
        icmp_type: icmp.map(|_| event.icmp_type),
        icmp_code: icmp.map(|_| event.icmp_code),
        length: event.length,
        community_id: header.and_then(|_| community_id(event, source_ip(record)?, destination_ip(record)?)),
    }
}

fn transport(protocol: u8) -> Option<&'static str> {
    Some(match protocol {
        ICMP => "icmp",
        TCP => "tcp",
        UDP => "udp",
        ICMPV6 => "ipv6-icmp",
        SCTP => "sctp",
        _ => return None,
    })
}

fn tcp_flags(bits: u8) -> Vec<TcpFlag> {
    use TcpFlag::{Ack, Cwr, Ece, Fin, Psh, Rst, Syn, Urg};
    let flags = [Fin, Syn, Rst, Psh, Ack, Urg, Ece, Cwr];
    flags.into_iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, flag)| flag).collect()
}

fn community_id(event: &FlowEvent, source: IpAddr, destination: IpAddr) -> Option<String> {
    let ports = (service_port(event, event.source_port)?, service_port(event, event.destination_port)?);
    let protocol = event.protocol;
    community_id::calculate_community_id(0, source, destination, Some(ports.0), Some(ports.1), protocol, false).ok()
}
