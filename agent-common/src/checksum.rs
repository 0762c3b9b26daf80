//! What the kernel will still write into a packet after everybody has looked at it: its checksum.
//!
//! Where a card or the next device finishes checksums, a packet carries where to begin and where to write
//! (`CHECKSUM_PARTIAL`). For what the kernel's own sockets send that is the field of the transport header.
//! Whoever writes frames himself may name any place (`PACKET_VNET_HDR`, a tap device), and choose by the
//! payload what will be written there: another destination, of which no program has ever heard. Nothing is
//! finished between a pod and another of the node, so it is asked where packets leave the node.

use crate::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6, SCTP, TCP, UDP};
use crate::relay::Network;

/// `CHECKSUM_PARTIAL` (include/linux/skbuff.h).
pub const PARTIAL: u8 = 3;

/// Whether a checksum that is written that many bytes behind the beginning of the IP header changes
/// neither addresses nor ports. Where extension headers hide the ports, nothing can be said.
#[inline(always)]
pub fn is_harmless<N: Network>(packet: &N, at: i32) -> bool {
    let behind = match packet.ethertype() {
        ETHERTYPE_IPV4 => packet.read::<Ipv4>(0).map(|ip| (i32::from(ip.version_ihl & 0x0f) * 4, ip.protocol)),
        ETHERTYPE_IPV6 => packet.read::<Ipv6>(0).map(|ip| (size_of::<Ipv6>() as i32, ip.next_header)),
        _ => None,
    };
    match behind {
        Some((_, protocol)) if is_extension(protocol) => false,
        Some((header, TCP | UDP | SCTP)) => at >= header + 4,
        Some((header, _)) => at >= header,
        None => false,
    }
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

    #[test]
    fn a_transport_s_own_field_is_harmless_and_what_stands_before_is_not() {
        for (packet, header) in [(v4(5, TCP), 20), (v4(15, UDP), 60), (v6(TCP), 40), (v6(UDP), 40), (v6(SCTP), 40)] {
            for (at, harmless) in
                [(-20, false), (0, false), (header - 2, false), (header + 2, false), (header + 3, false)]
            {
                assert_eq!(is_harmless(&packet, at), harmless, "{at} of {header}");
            }
            for at in [header + 4, header + 6, header + 8, header + 16, header + 1000] {
                assert!(is_harmless(&packet, at), "{at} of {header}");
            }
        }
    }

    #[test]
    fn where_there_are_no_ports_the_first_word_counts_too() {
        assert!(is_harmless(&v4(5, 1), 22) && is_harmless(&v6(58), 42), "the checksum of ICMP");
        assert!(!is_harmless(&v4(5, 1), 18) && !is_harmless(&v6(58), 38));
    }

    #[test]
    fn what_cannot_be_read_is_not_harmless() {
        for next in [0, 43, 44, 60, 135, 139, 140] {
            assert!(!is_harmless(&v6(next), 1_000), "{next}");
        }
        assert!(!is_harmless(&Bytes(ETHERTYPE_IPV4, std::vec![0x45; 19]), 40));
        assert!(!is_harmless(&Bytes(0x88cc, std::vec![0; 60]), 50));
    }
}
