//! Builds frames field by field. A field that is not given has its correct value.
//!
//! Lengths and checksums are computed unless a case overrides them. Each malformed frame is therefore wrong in exactly
//! the one field that its name states.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::payload::checksum;
pub use super::payload::{Payload, words};
use super::topology::{A, A_MAC, A6, GATEWAY_MAC, Mac};

/// A whole frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Ethernet destination.
    pub to: Mac,
    /// Ethernet source.
    pub from: Mac,
    /// VLAN tags: EtherType and tag.
    pub tags: Vec<(u16, u16)>,
    /// EtherType, if it does not match the body.
    pub ethertype: Option<u16>,
    /// What follows.
    pub body: Body,
    /// Bytes behind the packet.
    pub trailer: usize,
    /// Length to cut the frame to.
    pub cut: Option<usize>,
    /// Whether to omit the marker, which would be read as an option after the last one.
    pub unmarked: bool,
}

/// What an Ethernet header carries.
#[derive(Clone, Debug)]
pub enum Body {
    /// IPv4.
    V4(V4),
    /// IPv6.
    V6(V6),
    /// An EtherType and bytes; the marker is appended.
    Other(u16, Vec<u8>),
}

/// An IPv4 packet (RFC 791).
#[derive(Clone, Debug)]
pub struct V4 {
    /// Source.
    pub source: Ipv4Addr,
    /// Destination.
    pub destination: Ipv4Addr,
    /// Traffic class.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Flags and offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Version and header length, if wrong.
    pub version_ihl: Option<u8>,
    /// Total length, if wrong.
    pub total: Option<u16>,
    /// Difference from the right header checksum.
    pub checksum_error: u16,
    /// What it carries.
    pub payload: Payload,
}

/// An IPv6 packet (RFC 8200).
#[derive(Clone, Debug)]
pub struct V6 {
    /// Source.
    pub source: Ipv6Addr,
    /// Destination.
    pub destination: Ipv6Addr,
    /// Hop limit.
    pub hops: u8,
    /// Version, if wrong.
    pub version: u8,
    /// Payload length, if wrong.
    pub length: Option<u16>,
    /// Extension headers: protocol number, and everything after the next-header byte.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// What it carries.
    pub payload: Payload,
}

impl Frame {
    /// A frame from pod A to its gateway.
    pub fn new(body: Body) -> Self {
        Self {
            to: GATEWAY_MAC,
            from: A_MAC,
            tags: Vec::new(),
            ethertype: None,
            body,
            trailer: 0,
            cut: None,
            unmarked: false,
        }
    }

    /// IPv4 from pod A.
    pub fn v4(destination: Ipv4Addr, payload: Payload) -> Self {
        Self::new(Body::V4(V4 {
            source: A,
            destination,
            tos: 0,
            id: 0x4242,
            fragment: 0,
            ttl: 64,
            options: Vec::new(),
            version_ihl: None,
            total: None,
            checksum_error: 0,
            payload,
        }))
    }

    /// IPv6 from pod A.
    pub fn v6(destination: Ipv6Addr, payload: Payload) -> Self {
        let (source, extensions) = (A6, Vec::new());
        Self::new(Body::V6(V6 { source, destination, hops: 64, version: 6, length: None, extensions, payload }))
    }

    /// Another EtherType.
    pub fn other(ethertype: u16, bytes: &[u8]) -> Self {
        Self::new(Body::Other(ethertype, bytes.to_vec()))
    }

    /// Changes the IPv4 packet.
    pub fn ip(mut self, change: impl FnOnce(&mut V4)) -> Self {
        if let Body::V4(packet) = &mut self.body {
            change(packet);
        }
        self
    }

    /// Changes the IPv6 packet.
    pub fn ip6(mut self, change: impl FnOnce(&mut V6)) -> Self {
        if let Body::V6(packet) = &mut self.body {
            change(packet);
        }
        self
    }

    /// Changes anything else.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The bytes, with a marker as innermost payload.
    pub fn build(&self, marker: &[u8]) -> Vec<u8> {
        let marker = if self.unmarked { &[] } else { marker };
        let (ethertype, body) = match &self.body {
            Body::V4(packet) => (0x0800, packet.bytes(marker)),
            Body::V6(packet) => (0x86dd, packet.bytes(marker)),
            Body::Other(ethertype, bytes) => (*ethertype, [bytes, marker].concat()),
        };
        let mut frame = [self.to, self.from].concat();
        for (kind, tag) in &self.tags {
            frame.extend(words(&[*kind, *tag]));
        }
        frame.extend(self.ethertype.unwrap_or(ethertype).to_be_bytes());
        frame.extend(body);
        frame.resize(frame.len() + self.trailer, 0x5a);
        frame.truncate(self.cut.unwrap_or(usize::MAX));
        frame
    }
}

impl V4 {
    /// The packet, without Ethernet.
    pub fn bytes(&self, marker: &[u8]) -> Vec<u8> {
        let later = self.fragment & 0x1fff != 0;
        let payload = match &self.payload {
            _ if later => marker.to_vec(),
            payload => payload.bytes(self.source.into(), self.destination.into(), marker),
        };
        let length = 20 + self.options.len();
        let version_ihl = self.version_ihl.unwrap_or(0x40 | (length / 4) as u8);
        let total = self.total.unwrap_or((length + payload.len()) as u16);
        let mut header = words(&[
            u16::from_be_bytes([version_ihl, self.tos]),
            total,
            self.id,
            self.fragment,
            u16::from_be_bytes([self.ttl, self.payload.protocol(false)]),
            0,
        ]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(&self.options);
        let sum = checksum(&header).wrapping_add(self.checksum_error);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(payload);
        header
    }
}

impl V6 {
    /// The packet, without Ethernet.
    pub fn bytes(&self, marker: &[u8]) -> Vec<u8> {
        let later = self.extensions.iter().any(|(kind, rest)| *kind == 44 && (rest[1], rest[2] & 0xf8) != (0, 0));
        let payload = match &self.payload {
            _ if later => marker.to_vec(),
            payload => payload.bytes(self.source.into(), self.destination.into(), marker),
        };
        let mut kinds: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).collect();
        kinds.push(self.payload.protocol(true));
        let mut rest = Vec::new();
        for ((_, bytes), next) in self.extensions.iter().zip(&kinds[1..]) {
            rest.push(*next);
            rest.extend(bytes);
        }
        rest.extend(payload);
        let mut packet = vec![self.version << 4, 0, 0, 0];
        packet.extend(self.length.unwrap_or(rest.len() as u16).to_be_bytes());
        packet.extend([kinds[0], self.hops]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(rest);
        packet
    }
}

/// Options of a hop-by-hop or destination header of 8 bytes: length 0, one unknown option.
pub fn options() -> Vec<u8> {
    vec![0, 0x1e, 4, 0xde, 0xad, 0xbe, 0xef]
}

/// A fragment header's bytes: offset in units of 8, whether more follow.
pub fn fragment(offset: u16, more: bool) -> Vec<u8> {
    [&[0][..], &(offset << 3 | u16::from(more)).to_be_bytes(), &[0, 0, 0, 0x77]].concat()
}
