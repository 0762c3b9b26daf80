//! Frames below and beside IP: VLAN tags, foreign EtherTypes, ARP, tunnels. ATK-090 to ATK-097.

use std::net::Ipv4Addr;

use super::builder::Corpus;
use super::craft::{Body, Frame, Payload, words};
use super::topology::{
    A, A_MAC, A6, B, B_MAC, B6, BROADCAST_MAC, EXTERNAL, GATEWAY, GATEWAY_MAC, Mac, NODE, PEER, PEER_MAC,
};

fn udp(to: Ipv4Addr) -> Frame {
    Frame::v4(to, Payload::udp(40000, 9000))
}

pub(super) fn add(corpus: &mut Corpus) {
    tags(corpus);
    ethertypes(corpus);
    arp(corpus);
    tunnels(corpus);
}

fn tags(corpus: &mut Corpus) {
    corpus.class = "vlan";
    let reason = "cross_tenant_or_vlan";
    for (name, tags) in [
        ("vid-0", vec![(0x8100, 0)]),
        ("vid-100", vec![(0x8100, 100)]),
        ("vid-4095", vec![(0x8100, 4095)]),
        ("priority-7", vec![(0x8100, 7 << 13)]),
        ("1ad-vid-0", vec![(0x88a8, 0)]),
        ("two-tags", vec![(0x88a8, 100), (0x8100, 200)]),
        ("two-tags-vid-0", vec![(0x8100, 0), (0x8100, 0)]),
    ] {
        let frame = udp(B).with(|f| f.tags = tags);
        corpus.denied("ATK-090", &format!("cross4-{name}"), reason, &frame);
    }
    let v6 = Frame::v6(B6, Payload::udp(40000, 9000)).with(|f| f.tags = vec![(0x8100, 0)]);
    corpus.denied("ATK-090", "cross6-vid-0", reason, &v6);
    let claim = message(2, A_MAC, GATEWAY, BROADCAST_MAC, GATEWAY).with(|f| f.tags = vec![(0x8100, 0)]);
    corpus.denied("ATK-090", "arp-claims-gateway-vid-0", "arp_spoof_or_vlan", &claim);
    corpus.either("ATK-090", "peer4-vid-0", "allowed_or_vlan", &udp(PEER).with(|f| f.tags = vec![(0x8100, 0)]));
}

/// EtherTypes that are none of IPv4, IPv6 and ARP.
const ETHERTYPES: [u16; 22] = [
    0x8847, 0x8848, 0x8863, 0x8864, 0x88cc, 0x888e, 0x88e5, 0x894f, 0x9000, 0x4305, 0x6558, 0x1234, 0x88f7, 0x8906,
    0x88a2, 0x88ca, 0x8892, 0x88b5, 0x0842, 0x0a00, 0x9100, 0x22f3,
];

fn ethertypes(corpus: &mut Corpus) {
    corpus.class = "ethertype";
    let inner = packet(&udp(B));
    for ethertype in ETHERTYPES {
        let reason = if ethertype == 0x9100 { "ethertype_or_vlan" } else { "ethertype" };
        let frame = Frame::other(ethertype, &inner).with(|f| f.to = B_MAC);
        corpus.denied("ATK-092", &format!("type-{ethertype:04x}"), reason, &frame);
    }
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &inner].concat();
    corpus.denied("ATK-093", "llc-snap-ipv4", "ethertype", &Frame::other(snap.len() as u16, &snap));
    let bpdu = [&[0x42, 0x42, 3][..], &[0; 35]].concat();
    let frame = Frame::other(38, &bpdu).with(|f| (f.to, f.unmarked) = ([1, 0x80, 0xc2, 0, 0, 0], true));
    corpus.denied("ATK-093", "llc-stp", "ethertype", &frame);
}

/// An ARP message (RFC 826) from pod A's hardware address, to everybody.
pub(super) fn message(operation: u16, sender: Mac, sender_ip: Ipv4Addr, target: Mac, target_ip: Ipv4Addr) -> Frame {
    let head = words(&[1, 0x0800, 0x0604, operation]);
    let bytes = [&head[..], &sender, &sender_ip.octets(), &target, &target_ip.octets()].concat();
    Frame::other(0x0806, &bytes).with(|f| (f.to, f.unmarked) = (BROADCAST_MAC, true))
}

fn arp(corpus: &mut Corpus) {
    corpus.class = "arp";
    let zero = [0; 6];
    corpus.control("arp-asks-for-gateway", &message(1, A_MAC, A, zero, GATEWAY));
    corpus.control("arp-asks-for-gateway-padded", &message(1, A_MAC, A, zero, GATEWAY).with(|f| f.trailer = 18));
    corpus.control("arp-answers-gateway", &message(2, A_MAC, A, GATEWAY_MAC, GATEWAY).with(|f| f.to = GATEWAY_MAC));
    corpus.control("arp-own-gratuitous", &message(1, A_MAC, A, zero, A));
    let deny = |corpus: &mut Corpus, name: &str, frame: Frame| corpus.denied("ATK-095", name, "arp_spoof", &frame);
    deny(corpus, "arp-claims-gateway", message(2, A_MAC, GATEWAY, BROADCAST_MAC, GATEWAY));
    deny(corpus, "arp-claims-other-pod", message(2, A_MAC, B, BROADCAST_MAC, B));
    deny(corpus, "arp-claims-peer", message(2, A_MAC, PEER, BROADCAST_MAC, PEER));
    deny(corpus, "arp-gratuitous-for-gateway", message(1, A_MAC, GATEWAY, zero, GATEWAY));
    deny(corpus, "arp-asks-as-peer", message(1, A_MAC, PEER, zero, GATEWAY));
    deny(corpus, "arp-hardware-sender-foreign", message(2, PEER_MAC, A, BROADCAST_MAC, A));
    deny(corpus, "arp-probe-for-peer", message(1, A_MAC, Ipv4Addr::UNSPECIFIED, zero, PEER));
    let changed = |at: usize, byte: u8| {
        message(1, A_MAC, A, zero, GATEWAY).with(|f| {
            if let Body::Other(_, bytes) = &mut f.body {
                bytes[at] = byte;
            }
        })
    };
    let malformed = "malformed_or_arp_spoof";
    corpus.denied("ATK-095", "arp-hardware-type-6", malformed, &changed(1, 6));
    corpus.denied("ATK-095", "arp-hardware-length-8", malformed, &changed(4, 8));
    corpus.denied("ATK-095", "arp-protocol-ipv6", malformed, &changed(2, 0x86));
    corpus.denied("ATK-095", "arp-operation-9", malformed, &changed(7, 9));
    let truncated = message(1, A_MAC, A, zero, GATEWAY).with(|f| f.cut = Some(14 + 20));
    corpus.denied("ATK-095", "arp-truncated", malformed, &truncated);
    let reverse = message(3, A_MAC, A, A_MAC, A).with(|f| f.ethertype = Some(0x8035));
    corpus.denied("ATK-095", "rarp", "ethertype", &reverse);
}

/// A packet without its Ethernet header.
fn packet(frame: &Frame) -> Vec<u8> {
    frame.build(b"")[14..].to_vec()
}

/// The headers of tunnels around an inner packet.
fn encapsulations() -> Vec<(&'static str, Payload)> {
    let v4 = packet(&udp(B));
    let v6 = packet(&Frame::v6(B6, Payload::udp(40000, 9000)));
    let ethernet = udp(B).with(|f| (f.to, f.from) = (B_MAC, A_MAC)).build(b"");
    let over = |protocol, head: &[u8], inner: &[u8]| Payload::raw(protocol, &[head, inner].concat());
    let over_udp = |port, head: &[u8], inner: &[u8]| {
        let length = (8 + head.len() + inner.len()) as u16;
        Payload::raw(17, &[&words(&[40000, port, length, 0])[..], head, inner].concat())
    };
    vec![
        ("ipip", over(4, &[], &v4)),
        ("6in4", over(41, &[], &v6)),
        ("gre", over(47, &words(&[0, 0x0800]), &v4)),
        ("gre-ethernet", over(47, &words(&[0, 0x6558]), &ethernet)),
        ("mpls", over(137, &[0, 0, 0x11, 64], &v4)),
        ("vxlan", over_udp(4789, &[8, 0, 0, 0, 0, 0, 1, 0], &ethernet)),
        ("vxlan-8472", over_udp(8472, &[8, 0, 0, 0, 0, 0, 1, 0], &ethernet)),
        ("geneve", over_udp(6081, &[0, 0, 0x65, 0x58, 0, 0, 1, 0], &ethernet)),
        ("gue", over_udp(6080, &[0, 4, 0, 0], &v4)),
        ("fou", over_udp(5555, &[], &v4)),
        ("wireguard", over_udp(51820, &[4, 0, 0, 0, 0, 0, 0, 1], &v4)),
        ("gtp-u", over_udp(2152, &[0x30, 0xff, 0, 36, 0, 0, 0, 1], &v4)),
    ]
}

fn tunnels(corpus: &mut Corpus) {
    corpus.class = "tunnel";
    for (name, payload) in encapsulations() {
        for (host, to, reason) in
            [("node", NODE, "node"), ("b", B, "cross_tenant"), ("external", EXTERNAL, "off_subnet")]
        {
            corpus.denied("ATK-096", &format!("{name}-to-{host}"), reason, &Frame::v4(to, payload.clone()));
        }
    }
    for (name, payload) in encapsulations().into_iter().take(2) {
        corpus.either("ATK-097", &format!("{name}-to-peer"), "allowed_or_tunnel", &Frame::v4(PEER, payload));
    }
    let inner = packet(&Frame::v6(B6, Payload::udp(40000, 9000)).ip6(|ip| ip.source = A6));
    let nested = Frame::v6(super::topology::NODE6, Payload::raw(41, &inner));
    corpus.denied("ATK-096", "6in6-to-node", "node", &nested);
}
