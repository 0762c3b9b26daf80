//! The wire formats of headers, and the protocol numbers.
//!
//! Interprets nothing. Each header is read whole, with one bounds check, in words of its fields' own width. Byte-wise
//! reads made the first trial of this parser five times slower.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::addr::Mac;

/// A header: any bytes of its size are a valid value.
///
/// `size_of` is the size on the wire. No type here has padding, or an alignment above 4: [`crate::parse::Packet::read`]
/// relies on that.
pub trait Header: Copy + FromBytes + KnownLayout + Immutable {}

macro_rules! header {
    ($(#[doc = $doc:literal])+ $name:ident, $size:literal { $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty,)+ }) => {
        $(#[doc = $doc])+
        #[repr(C)]
        #[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
        pub struct $name { $($(#[doc = $field_doc])+ pub $field: $type,)+ }
        const _: () = assert!(size_of::<$name>() == $size);
        const _: () = assert!(align_of::<$name>() <= 4);
        impl Header for $name {}
    };
}

header! {
    /// Ethernet II (IEEE 802.3).
    Ethernet, 14 {
        /// Destination.
        destination: Mac,
        /// Source.
        source: Mac,
        /// Network order.
        ethertype_be: u16,
    }
}

header! {
    /// IPv4 without options (RFC 791), in words of wire order, so that its checksum is a sum of words.
    Ipv4, 20 {
        /// Version (high nibble) and header length in 4-byte words.
        version_ihl: u8,
        /// Traffic class.
        tos: u8,
        /// Header and payload, network order.
        total_length_be: u16,
        /// Identification.
        id_be: u16,
        /// Flags (3 bits) and offset in 8-byte units (13 bits), network order.
        fragment_be: u16,
        /// Time to live.
        ttl: u8,
        /// IANA protocol number.
        protocol: u8,
        /// Header checksum.
        checksum_be: u16,
        /// Source, wire order.
        source: u32,
        /// Destination, wire order.
        destination: u32,
    }
}

header! {
    /// The same IPv4 header as five words in wire order: its checksum is a sum of five words instead of ten.
    Ipv4Words, 20 {
        /// Version and length, traffic class, total length; identification, fragment; time to live, protocol,
        /// checksum; source; destination.
        words: [u32; 5],
    }
}

header! {
    /// IPv6 (RFC 8200).
    Ipv6, 40 {
        /// Version (high nibble) and traffic class.
        version_class: u8,
        /// Traffic class and flow label.
        label: [u8; 3],
        /// Payload after this header, network order.
        payload_length_be: u16,
        /// IANA protocol number of what follows.
        next_header: u8,
        /// Hop limit.
        hop_limit: u8,
        /// Source, wire order.
        source: [u32; 4],
        /// Destination, wire order.
        destination: [u32; 4],
    }
}

header! {
    /// The first 8 bytes common to IPv6 extension headers (RFC 8200, 4.2; RFC 8200, 4.5 for the
    /// fragment header).
    Extension, 8 {
        /// IANA protocol number of what follows.
        next_header: u8,
        /// Length beyond the first 8 bytes, in 8-byte units; reserved in a fragment header.
        length: u8,
        /// Fragment header: offset (13 bits), reserved, more-fragments; network order. Routing
        /// header: type and segments left.
        word_be: u16,
        /// Fragment header: identification.
        id_be: u32,
    }
}

header! {
    /// The first 8 bytes of a transport header, with the ports or the ICMP type.
    Transport, 8 {
        /// Source port (TCP, UDP, SCTP), network order; ICMP type and code.
        first_be: u16,
        /// Destination port, network order; ICMP checksum.
        second_be: u16,
        /// TCP sequence; UDP length and checksum; ICMP echo identifier.
        third_be: u16,
        /// TCP sequence; UDP checksum; ICMP echo sequence.
        fourth_be: u16,
    }
}

header! {
    /// TCP without options (RFC 9293).
    Tcp, 20 {
        /// Source port, network order.
        source_be: u16,
        /// Destination port, network order.
        destination_be: u16,
        /// Sequence number.
        sequence_be: u32,
        /// Acknowledgment number.
        acknowledgment_be: u32,
        /// Header length in 4-byte words (high nibble).
        offset: u8,
        /// CWR ECE URG ACK PSH RST SYN FIN.
        flags: u8,
        /// Window.
        window_be: u16,
        /// Checksum.
        checksum_be: u16,
        /// Urgent pointer.
        urgent_be: u16,
    }
}

header! {
    /// ARP for IPv4 over Ethernet (RFC 826), in words of two bytes, because the addresses are not aligned.
    Arp, 28 {
        /// 1 is Ethernet, network order.
        hardware_type_be: u16,
        /// 0x0800 is IPv4, network order.
        protocol_type_be: u16,
        /// 6 and 4.
        lengths_be: u16,
        /// 1 request, 2 reply, network order.
        operation_be: u16,
        /// Sender's hardware address.
        sender_mac: Mac,
        /// Sender's address, wire order, halves.
        sender: [u16; 2],
        /// Target's hardware address.
        target_mac: Mac,
        /// Target's address, wire order, halves.
        target: [u16; 2],
    }
}

header! {
    /// Neighbour solicitation and advertisement (RFC 4861, 4.3 and 4.4), without options.
    Neighbor, 24 {
        /// ICMPv6 type.
        kind: u8,
        /// ICMPv6 code.
        code: u8,
        /// Checksum.
        checksum_be: u16,
        /// Flags of an advertisement.
        flags: u32,
        /// The address that is solicited or claimed, wire order.
        target: [u32; 4],
    }
}

header! {
    /// A neighbour discovery option of 8 bytes (RFC 4861, 4.6): link-layer address or nonce.
    NeighborOption, 8 {
        /// 1 source, 2 target link-layer address, 14 nonce (RFC 3971).
        kind: u8,
        /// Whole length in 8-byte units.
        length: u8,
        /// The hardware address.
        mac: Mac,
    }
}

header! {
    /// One byte: an IPv4 option's type, or its length.
    Octet, 1 {
        /// The byte.
        value: u8,
    }
}

/// IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// 802.1ad.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
/// The outer VLAN tag that some vendors used before 802.1ad.
pub const ETHERTYPE_QINQ_OLD: u16 = 0x9100;

/// IPv6 hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// ICMP.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// IPv6 routing header.
pub const ROUTING: u8 = 43;
/// IPv6 fragment header.
pub const FRAGMENT: u8 = 44;
/// IPsec: Encapsulating Security Payload (RFC 4303).
pub const ENCRYPTED: u8 = 50;
/// IPsec: Authentication Header (RFC 4302).
pub const AUTHENTICATION: u8 = 51;
/// ICMPv6.
pub const ICMPV6: u8 = 58;
/// IPv6 destination options.
pub const DESTINATION_OPTIONS: u8 = 60;
/// SCTP.
pub const SCTP: u8 = 132;

/// Bytes of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;
