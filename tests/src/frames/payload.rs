//! Transport headers of the corpus, and the checksum that they share with IPv4.

use std::net::IpAddr;

/// A transport header; the marker follows it.
#[derive(Clone, Debug)]
pub enum Payload {
    /// UDP.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Length, if wrong.
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
    pub(super) fn bytes(&self, source: IpAddr, destination: IpAddr, marker: &[u8]) -> Vec<u8> {
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
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
