//! What the kernel will still write into a packet after everybody has looked at it: its checksum.
//!
//! Where a card or the next device finishes checksums, a packet carries where to begin and where to write
//! (`CHECKSUM_PARTIAL`). For what the kernel's own sockets send that is the field of the transport header.
//! Whoever writes frames himself may name any place (`PACKET_VNET_HDR`, a tap device), and choose by the
//! payload what will be written there: another destination, of which no program has ever heard. Nothing is
//! finished between a pod and another of the node, so it is asked where packets leave the node.

use crate::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6, SCTP, TCP, UDP};
use crate::post_nat::Network;

/// `CHECKSUM_PARTIAL` (include/linux/skbuff.h).
pub const PARTIAL: u8 = 3;

/// What is still to be written: a sum over the bytes from `start` on, at `field`, both in bytes behind the
/// beginning of the IP header. Where a packet is to be cut in segments (GSO), their transport headers are
/// written at `start`, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Where the sum begins.
    pub start: i32,
    /// Where it is written.
    pub field: i32,
}

/// Whether that changes neither addresses nor ports. Where extension headers hide the ports, or another
/// protocol the IP header (MPLS, PPPoE, a second VLAN tag), only the node is believed: what it has wrapped up
/// has no note any more (`noted`).
#[inline(always)]
pub fn is_harmless<N: Network>(packet: &N, Unfinished { start, field }: Unfinished, noted: bool) -> bool {
    let behind = match packet.ethertype() {
        ETHERTYPE_IPV4 => packet.read::<Ipv4>(0).map(|ip| (i32::from(ip.version_ihl & 0x0f) * 4, ip.protocol)),
        ETHERTYPE_IPV6 => packet.read::<Ipv6>(0).map(|ip| (size_of::<Ipv6>() as i32, ip.next_header)),
        _ => return !noted,
    };
    let Some((header, protocol)) = behind else { return false };
    if is_extension(protocol) && noted {
        return false;
    }
    let ports = if matches!(protocol, TCP | UDP | SCTP) { 4 } else { 0 };
    start >= header && field >= header + ports
}

/// Whether something else follows before the transport header: hop-by-hop, routing, fragment, destination
/// options, mobility, HIP, shim6 (RFC 8200; IANA's list of extension headers). In IPv4 none is a protocol
/// with ports.
#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 44 | 60 | 135 | 139 | 140)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;
    use crate::headers::Header;

    struct Bytes(u16, Vec<u8>);

    impl Network for Bytes {
        fn ethertype(&self) -> u16 {
            self.0
        }
        fn read<H: Header>(&self, offset: u32) -> Option<H> {
            let from = offset as usize;
            H::read_from_bytes(self.1.get(from..from + size_of::<H>())?).ok()
        }
    }

    fn v4(words: u8, protocol: u8) -> Bytes {
        let mut bytes = std::vec![0; 60];
        (bytes[0], bytes[9]) = (0x40 | words, protocol);
        Bytes(ETHERTYPE_IPV4, bytes)
    }

    fn v6(next: u8) -> Bytes {
        let mut bytes = std::vec![0; 60];
        (bytes[0], bytes[6]) = (0x60, next);
        Bytes(ETHERTYPE_IPV6, bytes)
    }

    fn harmless(packet: &Bytes, start: i32, field: i32) -> bool {
        let [noted, wrapped] = [true, false].map(|noted| is_harmless(packet, Unfinished { start, field }, noted));
        assert!(wrapped || !noted);
        noted
    }

    #[test]
    fn a_transport_s_own_field_is_harmless_and_what_stands_before_is_not() {
        for (packet, header) in [(v4(5, TCP), 20), (v4(15, UDP), 60), (v6(TCP), 40), (v6(UDP), 40), (v6(SCTP), 40)] {
            for field in [-20, 0, header - 2, header, header + 2, header + 3] {
                assert!(!harmless(&packet, header, field), "{field} of {header}");
            }
            for field in [header + 4, header + 6, header + 8, header + 16, header + 1000] {
                assert!(harmless(&packet, header, field), "{field} of {header}");
                // Segments would be given a transport header where the address stands.
                assert!(!harmless(&packet, header - 12, field), "{field} of {header}");
            }
        }
    }

    #[test]
    fn where_there_are_no_ports_the_first_word_counts_too() {
        assert!(harmless(&v4(5, 1), 20, 22) && harmless(&v6(58), 40, 42), "the checksum of ICMP");
        assert!(!harmless(&v4(5, 1), 20, 18) && !harmless(&v6(58), 40, 38));
    }

    #[test]
    fn what_cannot_be_read_is_not_harmless() {
        for next in [0, 43, 44, 60, 135, 139, 140] {
            assert!(!harmless(&v6(next), 1_000, 1_000), "{next}");
            assert!(is_harmless(&v6(next), Unfinished { start: 48, field: 64 }, false), "{next}, of a tunnel");
            assert!(!is_harmless(&v6(next), Unfinished { start: 48, field: 24 }, false), "{next}, of a tunnel");
        }
        assert!(!harmless(&Bytes(ETHERTYPE_IPV4, std::vec![0x45; 19]), 20, 40));
        let mpls = Bytes(0x8847, std::vec![0; 60]);
        assert!(!harmless(&mpls, 40, 50) && is_harmless(&mpls, Unfinished { start: 40, field: 50 }, false));
    }
}
