//! Frames field by field: what is not said is right, what is said is written as it is.
//!
//! Lengths and checksums are computed unless a case overrides them, so that each malformed frame
//! is wrong in exactly the one place its name tells.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// EtherType, where it is not what the body says.
    pub ethertype: Option<u16>,
    /// What follows.
    pub body: Body,
    /// Bytes behind the packet.
    pub trailer: usize,
    /// Length to cut the frame to.
    pub cut: Option<usize>,
    /// No marker: behind the last option it would be read as another.
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
    /// Version and header length, where wrong.
    pub version_ihl: Option<u8>,
    /// Total length, where wrong.
    pub total: Option<u16>,
    /// Added to the right header checksum.
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
    /// Version, where wrong.
    pub version: u8,
    /// Payload length, where wrong.
    pub length: Option<u16>,
    /// Extension headers: protocol number, and everything after the next-header byte.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// What it carries.
    pub payload: Payload,
}

/// A transport header; the marker follows it.
#[derive(Clone, Debug)]
pub enum Payload {
    /// UDP.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Length, where wrong.
        length: Option<u16>,
        /// Without a checksum.
        bare: bool,
    },
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Flag bits.
        flags: u8,
        /// Data offset in words of four bytes.
        offset: u8,
    },
    /// ICMP of the packet's family.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// What follows the checksum.
        body: Vec<u8>,
    },
    /// Any other protocol.
    Raw {
        /// Its number.
        protocol: u8,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

impl Payload {
    /// UDP between two ports.
    pub const fn udp(source: u16, destination: u16) -> Self {
        Self::Udp { source, destination, length: None, bare: false }
    }

    /// TCP to the usual port, with these flags.
    pub const fn tcp(destination: u16, flags: u8) -> Self {
        Self::Tcp { source: 40001, destination, flags, offset: 5 }
    }

    /// An echo request or reply of identifier 1.
    pub fn icmp(kind: u8, code: u8) -> Self {
        Self::Icmp { kind, code, body: vec![0, 1, 0, 1] }
    }

    /// Bytes of another protocol.
    pub fn raw(protocol: u8, bytes: &[u8]) -> Self {
        Self::Raw { protocol, bytes: bytes.to_vec() }
    }

    /// Its protocol number behind IPv4 or IPv6.
    pub const fn protocol(&self, v6: bool) -> u8 {
        match self {
            Self::Udp { .. } => 17,
            Self::Tcp { .. } => 6,
            Self::Icmp { .. } => {
                if v6 {
                    58
                } else {
                    1
                }
            }
            Self::Raw { protocol, .. } => *protocol,
        }
    }

    /// Header and marker.
    fn bytes(&self, source: IpAddr, destination: IpAddr, marker: &[u8]) -> Vec<u8> {
        let (mut bytes, checksum_at) = match self {
            Self::Udp { source, destination, length, .. } => {
                let length = length.unwrap_or(8 + marker.len() as u16);
                (words(&[*source, *destination, length, 0]), Some(6))
            }
            Self::Tcp { source, destination, flags, offset } => {
                let control = u16::from_be_bytes([offset << 4, *flags]);
                (words(&[*source, *destination, 0, 1000, 0, 0, control, 64240, 0, 0]), Some(16))
            }
            Self::Icmp { kind, code, body } => ([&[*kind, *code, 0, 0], &body[..]].concat(), Some(2)),
            Self::Raw { bytes, .. } => (bytes.clone(), None),
        };
        bytes.extend_from_slice(marker);
        let bare = matches!(self, Self::Udp { bare: true, .. });
        if let Some(at) = checksum_at.filter(|_| !bare) {
            let plain = matches!((self, source), (Self::Icmp { .. }, IpAddr::V4(_)));
            let pseudo = if plain { Vec::new() } else { pseudo_header(source, destination, self, bytes.len()) };
            let sum = checksum(&[pseudo, bytes.clone()].concat());
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
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

/// 16-bit words in network order.
pub fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn pseudo_header(source: IpAddr, destination: IpAddr, payload: &Payload, length: usize) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let tail = words(&[u16::from(payload.protocol(false)), length as u16]);
            [&source.octets()[..], &destination.octets(), &tail].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let tail = words(&[0, length as u16, 0, u16::from(payload.protocol(true))]);
            [&source.octets()[..], &destination.octets(), &tail].concat()
        }
        _ => Vec::new(),
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
