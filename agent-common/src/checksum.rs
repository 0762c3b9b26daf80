//! The checksum that the kernel has yet to write into a packet, after all programs have read the packet.
//!
//! Where the next device finishes checksums, a packet carries the offset at which the sum begins, and the one where it
//! is written (`CHECKSUM_PARTIAL`). The kernel's own sockets name the field of the transport header. A sender of whole
//! frames may name any offset (`PACKET_VNET_HDR`, a tap device), and its payload sets the value written there. That
//! value may be a new destination that no program has read. No checksum is finished between two pods of one node, so
//! the check is made where packets leave the node. Knows no tables.

use crate::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Extension, HOP_BY_HOP, Ipv4, Ipv6, SCTP, TCP, UDP};
use crate::post_nat::Network;

/// `CHECKSUM_PARTIAL` (include/linux/skbuff.h).
pub const PARTIAL: u8 = 3;

/// An unfinished checksum: a sum over the bytes from `start` on, to be written at `field`. Both offsets count from the
/// beginning of the IP header. If the packet is to be segmented (GSO), transport headers are written at `start` too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Offset at which the sum begins.
    pub start: i32,
    /// Offset at which the sum is written.
    pub field: i32,
}

/// Whether writing the checksum changes neither addresses nor ports. If an extension header hides the ports, or the
/// packet is not IP (MPLS, PPPoE, QinQ), it is accepted only without a mark. The node itself has encapsulated unmarked
/// packets.
#[inline(always)]
pub fn is_harmless<N: Network>(packet: &N, Unfinished { start, field }: Unfinished, marked: bool) -> bool {
    let behind = match packet.ethertype() {
        ETHERTYPE_IPV4 => packet.read::<Ipv4>(0).map(|ip| (i32::from(ip.version_ihl & 0x0f) * 4, ip.protocol)),
        ETHERTYPE_IPV6 => packet.read::<Ipv6>(0).map(|ip| match big_tcp(packet, &ip) {
            true => (BIG_TCP_LEN, TCP),
            false => (size_of::<Ipv6>() as i32, ip.next_header),
        }),
        _ => return !marked,
    };
    let Some((header, protocol)) = behind else { return false };
    if is_extension(protocol) && marked {
        return false;
    }
    let ports = if matches!(protocol, TCP | UDP | SCTP) { 4 } else { 0 };
    start >= header && field >= header + ports
}

/// Length of the headers of a BIG TCP packet before TCP.
const BIG_TCP_LEN: i32 = 48;

/// Whether the packet is one of the kernel's own beyond 64 KiB (BIG TCP, Linux 5.19 to 6.18 at least): TCP behind a
/// hop-by-hop header with nothing but a jumbo payload option (RFC 2675), which the device removes when it segments.
#[inline(always)]
fn big_tcp<N: Network>(packet: &N, ip: &Ipv6) -> bool {
    const JUMBO_OPTION: [u8; 2] = [0xc2, 4];
    if ip.next_header != HOP_BY_HOP || ip.payload_length_be != 0 {
        return false;
    }
    let Some(header) = packet.read::<Extension>(size_of::<Ipv6>() as u32) else { return false };
    header.next_header == TCP && header.length == 0 && header.word_be.to_ne_bytes() == JUMBO_OPTION
}

/// Whether the protocol is an extension header, which precedes the transport header. The list: hop-by-hop, routing,
/// fragment, destination options, mobility, HIP, shim6 (RFC 8200; IANA's list of extension headers). In IPv4 none of
/// them is a protocol with ports.
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
        let [marked, unmarked] = [true, false].map(|marked| is_harmless(packet, Unfinished { start, field }, marked));
        assert!(unmarked || !marked);
        marked
    }

    #[test]
    fn a_sum_written_into_the_transport_header_is_harmless_and_one_before_it_is_not() {
        for (packet, header) in [(v4(5, TCP), 20), (v4(15, UDP), 60), (v6(TCP), 40), (v6(UDP), 40), (v6(SCTP), 40)] {
            for field in [-20, 0, header - 2, header, header + 2, header + 3] {
                assert!(!harmless(&packet, header, field), "{field} of {header}");
            }
            for field in [header + 4, header + 6, header + 8, header + 16, header + 1000] {
                assert!(harmless(&packet, header, field), "{field} of {header}");
                // Segmentation would write transport headers over the address.
                assert!(!harmless(&packet, header - 12, field), "{field} of {header}");
            }
        }
    }

    #[test]
    fn without_ports_the_first_word_of_the_header_may_be_written() {
        assert!(harmless(&v4(5, 1), 20, 22) && harmless(&v6(58), 40, 42), "the checksum of ICMP");
        assert!(!harmless(&v4(5, 1), 20, 18) && !harmless(&v6(58), 40, 38));
    }

    #[test]
    fn a_sum_in_an_unreadable_marked_packet_is_not_harmless() {
        for next in [0, 43, 44, 60, 135, 139, 140] {
            assert!(!harmless(&v6(next), 1_000, 1_000), "{next}");
            assert!(is_harmless(&v6(next), Unfinished { start: 48, field: 64 }, false), "{next}, of a tunnel");
            assert!(!is_harmless(&v6(next), Unfinished { start: 48, field: 24 }, false), "{next}, of a tunnel");
        }
        let big = |bytes: [u8; 4], length: u8| {
            let mut packet = v6(HOP_BY_HOP);
            packet.1[40..44].copy_from_slice(&bytes);
            packet.1[5] = length;
            packet
        };
        let jumbo = [TCP, 0, 0xc2, 4];
        assert!(harmless(&big(jumbo, 0), 48, 64), "BIG TCP, as the kernel makes it");
        assert!(
            !harmless(&big(jumbo, 0), 40, 64) && !harmless(&big(jumbo, 0), 48, 50),
            "BIG TCP, over headers or ports"
        );
        for (packet, what) in [
            (big(jumbo, 1), "a length"),
            (big([UDP, 0, 0xc2, 4], 0), "UDP"),
            (big([TCP, 1, 0xc2, 4], 0), "a longer header"),
            (big([TCP, 0, 1, 4], 0), "another option"),
        ] {
            assert!(!harmless(&packet, 48, 64), "{what}");
        }
        assert!(!harmless(&Bytes(ETHERTYPE_IPV4, std::vec![0x45; 19]), 20, 40));
        let mpls = Bytes(0x8847, std::vec![0; 60]);
        assert!(!harmless(&mpls, 40, 50) && is_harmless(&mpls, Unfinished { start: 40, field: 50 }, false));
    }
}
