//! Random frames from a seed: mutations of known frames, and frames of random fields.
//!
//! Holds no expectation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_common::flow::Direction;
use testbed::frames::craft::{Body, Frame, Payload, fragment, options};
use testbed::frames::topology::{self, A, A_MAC, A6};

use super::variant::PEERS;
use crate::repair_checksum;

/// A deterministic pseudo-random number generator (xorshift64).
pub(super) struct Dice(u64);

impl Dice {
    /// Every seed is taken; zero alone would stay zero.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    pub(super) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    fn bytes(&mut self, longest: usize) -> Vec<u8> {
        (0..self.below(longest + 1)).map(|_| self.byte()).collect()
    }
}

/// Protocol numbers that mean something to the parser.
const PROTOCOLS: [u8; 14] = [0, 1, 4, 6, 17, 43, 44, 50, 51, 58, 59, 60, 132, 135];

/// Mutates a frame: changes a few bytes, often in headers, sometimes changes the length or repairs the IPv4 checksum.
pub(super) fn mutated(frame: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    for _ in 0..dice.below(4) {
        let at = dice.below(bytes.len().min(90));
        bytes[at] = match dice.below(4) {
            0 => bytes[at] ^ (1 << dice.below(8)),
            1 => dice.pick(&PROTOCOLS),
            _ => dice.byte(),
        };
    }
    match dice.below(8) {
        0 => bytes.truncate(14 + dice.below(bytes.len().saturating_sub(13))),
        1 => bytes.resize(bytes.len() + dice.below(40), 0x5a),
        _ => {}
    }
    if dice.one_in(2) {
        repair_checksum(&mut bytes);
    }
    bytes
}

/// Builds a frame between the pod and a random remote end, with random fields, some of them wrong.
pub(super) fn generated(dice: &mut Dice) -> (Direction, Vec<u8>) {
    let way = dice.pick(&Direction::ALL);
    let frame = if dice.one_in(2) { ipv4(dice, way) } else { ipv6(dice, way) };
    let frame = frame.with(|frame| {
        if way == Direction::Ingress {
            (frame.to, frame.from) = (A_MAC, topology::GATEWAY_MAC);
        }
        if dice.one_in(64) {
            frame.tags.push((dice.pick(&[0x8100, 0x88a8, 0x9100]), 7));
        }
        if dice.one_in(64) {
            frame.from = topology::B_MAC;
        }
        frame.trailer = if dice.one_in(8) { dice.below(32) } else { 0 };
        frame.unmarked = dice.one_in(8);
    });
    (way, frame.build(b"marker"))
}

fn ipv4(dice: &mut Dice, way: Direction) -> Frame {
    let further = PEERS.map(|(four, ..)| four).into_iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let known = [
        topology::PEER,
        topology::B,
        topology::NODE,
        topology::GATEWAY,
        topology::DNS,
        topology::EXTERNAL,
        topology::METADATA,
        A,
        Ipv4Addr::new(10, 10, 9, 9),
        Ipv4Addr::new(10, 20, 9, 9),
        Ipv4Addr::new(10, 96, 3, 3),
        Ipv4Addr::new(192, 0, 2, 200),
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::from(dice.below(1 << 32) as u32),
    ];
    let remote = dice.pick(&known.into_iter().chain(further).collect::<Vec<_>>());
    let payload = payload(dice, way, false);
    Frame::v4(remote, payload).ip(|ip| {
        if way == Direction::Ingress {
            (ip.source, ip.destination) = (remote, A);
        }
        if dice.one_in(32) {
            ip.source = Ipv4Addr::from(dice.below(1 << 32) as u32);
        }
        ip.fragment = if dice.one_in(8) { dice.pick(&[0x2000, 1, 0x2005, 0x1fff, 0x4000, 0x8000]) } else { 0 };
        if dice.one_in(6) {
            ip.options = (0..4 * dice.below(11)).map(|_| dice.pick(&[0, 1, 4, 7, 68, 131, 137, 148, 255])).collect();
        }
        ip.checksum_error = u16::from(dice.one_in(32));
        ip.total = dice.one_in(24).then(|| dice.below(120) as u16);
        ip.version_ihl = dice.one_in(48).then(|| dice.byte());
    })
}

fn ipv6(dice: &mut Dice, way: Direction) -> Frame {
    let further = PEERS.map(|(_, six, ..)| six).into_iter().filter_map(|address| match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    });
    let known = [
        topology::PEER6,
        topology::B6,
        topology::NODE6,
        topology::GATEWAY6,
        topology::DNS6,
        topology::EXTERNAL6,
        topology::METADATA6,
        A6,
        topology::A_LOCAL,
        topology::ALL_NODES,
        topology::solicited(A6),
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::LOCALHOST,
        topology::B.to_ipv6_mapped(),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0x0a14, 0x0107),
        Ipv6Addr::new(0xfd00, 0xa, 0, 0, 1, 2, 3, dice.below(1 << 16) as u16),
    ];
    let remote = dice.pick(&known.into_iter().chain(further).collect::<Vec<_>>());
    let payload = payload(dice, way, true);
    Frame::v6(remote, payload).ip6(|ip| {
        if way == Direction::Ingress {
            (ip.source, ip.destination) = (remote, A6);
        }
        if dice.one_in(24) {
            ip.source = dice.pick(&known);
        }
        ip.hops = dice.pick(&[64, 255, 1]);
        if dice.one_in(3) {
            ip.extensions = (0..dice.below(11)).map(|_| extension(dice)).collect();
        }
        ip.length = dice.one_in(24).then(|| dice.below(160) as u16);
        ip.version = if dice.one_in(48) { dice.byte() & 0x0f } else { 6 };
    })
}

fn extension(dice: &mut Dice) -> (u8, Vec<u8>) {
    match dice.below(4) {
        0 => (44, fragment(dice.pick(&[0, 0, 0, 5]), dice.one_in(2))),
        1 => (dice.pick(&[0, 43, 60, 135]), [&[0, dice.byte()][..], &[dice.pick(&[0, 1]); 5]].concat()),
        2 => (51, vec![dice.pick(&[0, 4]); 7]),
        _ => (dice.pick(&[0, 60, 60]), options()),
    }
}

fn payload(dice: &mut Dice, way: Direction, six: bool) -> Payload {
    let port = |dice: &mut Dice| match dice.below(8) {
        0 => dice.below(1 << 16) as u16,
        _ => dice.pick(&[53, 80, 4789, 6081, 9000, 40001, 50000]),
    };
    let (source, destination) = (port(dice), port(dice));
    match dice.below(8) {
        0..3 => Payload::Tcp {
            source,
            destination,
            flags: dice.pick(&[0, 1, 2, 4, 16, 17, 18, 24, 255]),
            offset: if dice.one_in(16) { dice.byte() & 0x0f } else { 5 },
        },
        3..5 => {
            let length = dice.one_in(16).then(|| dice.below(64) as u16);
            Payload::Udp { source, destination, length, bare: dice.one_in(2) }
        }
        5 => Payload::Icmp {
            kind: dice.pick(&[0, 1, 2, 3, 4, 5, 8, 11, 12, 128, 129, 133, 134, 135, 136, 137]),
            code: dice.pick(&[0, 1, 4]),
            body: vec![0, dice.pick(&[1, 2]), 0, 1],
        },
        6 => Payload::Icmp { kind: dice.pick(&[1, 2, 3, 4, 11]), code: 4, body: quote(dice, way, six) },
        _ => Payload::Raw {
            protocol: if dice.one_in(2) { dice.byte() } else { dice.pick(&PROTOCOLS) },
            bytes: dice.bytes(40),
        },
    }
}

/// The rest of an ICMP error: four bytes, and a packet of the other direction.
fn quote(dice: &mut Dice, way: Direction, six: bool) -> Vec<u8> {
    let port = |dice: &mut Dice| dice.pick(&[53, 80, 9000, 40001, 50000]);
    let payload = Payload::udp(port(dice), port(dice));
    let frame = match six {
        true => Frame::v6(dice.pick(&[topology::EXTERNAL6, topology::NODE6, topology::B6]), payload),
        false => Frame::v4(dice.pick(&[topology::EXTERNAL, topology::NODE, topology::B]), payload),
    };
    let packet = frame.with(|frame| match &mut frame.body {
        Body::V4(ip) if way == Direction::Egress => (ip.source, ip.destination) = (ip.destination, ip.source),
        Body::V6(ip) if way == Direction::Egress => (ip.source, ip.destination) = (ip.destination, ip.source),
        _ => {}
    });
    [&[0; 4][..], &packet.build(b"quoted")[14..]].concat()
}
