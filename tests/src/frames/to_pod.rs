//! Packets that may reach a pod, and those that may not: ATK-100 to ATK-103.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::builder::Corpus;
use super::craft::{Frame, Payload, fragment, options};
use super::from_pod_v4::{flags, quoting};
use super::link::message;
use super::topology::{
    A, A_MAC, A6, B, B_MAC, B6, BROADCAST_MAC, EXTERNAL, GATEWAY, GATEWAY_MAC, GATEWAY6, NODE, NODE6, PEER, PEER_MAC,
    PEER6, group_mac, solicited,
};
use super::{Hook, topology::ALL_NODES};

const CROSS: &str = "cross_tenant";

/// A packet for pod A, as its gateway sends it.
fn from(source: impl Into<IpAddr>, payload: Payload) -> Frame {
    let frame = match source.into() {
        IpAddr::V4(source) => Frame::v4(A, payload).ip(|ip| ip.source = source),
        IpAddr::V6(source) => Frame::v6(A6, payload).ip6(|ip| ip.source = source),
    };
    frame.with(|f| (f.to, f.from) = (A_MAC, GATEWAY_MAC))
}

fn udp() -> Payload {
    Payload::udp(9000, 40000)
}

pub(super) fn add(corpus: &mut Corpus) {
    corpus.hook = Hook::ToPod;
    controls(corpus);
    crossing(corpus);
    unasked(corpus);
    pieces(corpus);
    local(corpus);
}

fn controls(corpus: &mut Corpus) {
    corpus.class = "to-pod";
    corpus.control("in-peer4-udp", &from(PEER, udp()));
    corpus.control("in-peer4-tcp-syn", &from(PEER, Payload::tcp(9000, flags("S"))));
    corpus.control("in-peer4-icmp-echo", &from(PEER, Payload::icmp(8, 0)));
    corpus.control("in-peer6-udp", &from(PEER6, udp()));
    corpus.control("in-peer6-tcp-syn", &from(PEER6, Payload::tcp(9000, flags("S"))));
    corpus.control("in-node4-tcp-syn", &from(NODE, Payload::tcp(9000, flags("S"))));
    corpus.control("in-node6-tcp-syn", &from(NODE6, Payload::tcp(9000, flags("S"))));
    let arp = |operation, target| message(operation, GATEWAY_MAC, GATEWAY, target, A).with(|f| f.from = GATEWAY_MAC);
    corpus.control("in-arp-gateway-asks", &arp(1, [0; 6]));
    corpus.control("in-arp-gateway-answers", &arp(2, A_MAC).with(|f| f.to = A_MAC));
    corpus.control("in-ns-gateway", &neighbour(135, GATEWAY6, A6, solicited(A6), GATEWAY_MAC));
    corpus.control("in-na-gateway", &neighbour(136, GATEWAY6, GATEWAY6, A6, GATEWAY_MAC));
    corpus.either("ATK-103", "in-external4-udp-unasked", "allowed", &from(EXTERNAL, udp()));
}

fn crossing(corpus: &mut Corpus) {
    for (family, source) in [("4", IpAddr::V4(B)), ("6", IpAddr::V6(B6))] {
        corpus.denied("ATK-100", &format!("in-cross{family}-udp"), CROSS, &from(source, udp()));
        let syn = from(source, Payload::tcp(9000, flags("S")));
        corpus.denied("ATK-100", &format!("in-cross{family}-tcp-syn"), CROSS, &syn);
    }
    corpus.denied("ATK-100", "in-cross4-sctp", CROSS, &from(B, Payload::raw(132, &[0; 16])));
}

fn unasked(corpus: &mut Corpus) {
    for (family, source) in [("4", IpAddr::V4(B)), ("6", IpAddr::V6(B6))] {
        for letters in ["SA", "A", "R"] {
            let frame =
                from(source, Payload::Tcp { source: 9000, destination: 40001, flags: flags(letters), offset: 5 });
            corpus.denied("ATK-101", &format!("in-cross{family}-tcp-{}", letters.to_lowercase()), CROSS, &frame);
        }
        let answer = from(source, Payload::udp(53, 40000));
        corpus.denied("ATK-101", &format!("in-cross{family}-udp-from-53"), CROSS, &answer);
    }
    corpus.denied("ATK-101", "in-cross4-icmp-echo", CROSS, &from(B, Payload::icmp(8, 0)));
    corpus.denied("ATK-101", "in-cross6-icmp-echo", CROSS, &from(B6, Payload::icmp(128, 0)));
    let quoted = Frame::v4(B, Payload::udp(40000, 9000));
    corpus.denied("ATK-101", "in-cross4-icmp-unreachable", CROSS, &from(B, quoting(3, 1, &quoted)));
    let redirect = from(B, Payload::Icmp { kind: 5, code: 1, body: B.octets().to_vec() });
    corpus.denied("ATK-101", "in-cross4-icmp-redirect", "cross_tenant_or_icmp_redirect", &redirect);
    let too_big = Frame::v6(B6, Payload::udp(40000, 9000));
    corpus.denied("ATK-101", "in-cross6-icmp-too-big", CROSS, &from(B6, quoting(2, 0, &too_big)));
}

fn pieces(corpus: &mut Corpus) {
    corpus.denied("ATK-102", "in-cross4-first-fragment", CROSS, &from(B, udp()).ip(|ip| ip.fragment = 0x2000));
    corpus.denied("ATK-102", "in-cross4-later-fragment", CROSS, &from(B, udp()).ip(|ip| ip.fragment = 5));
    corpus.denied("ATK-102", "in-cross4-ihl-6", CROSS, &from(B, udp()).ip(|ip| ip.options = vec![1; 4]));
    let extended = |header| from(B6, udp()).ip6(|ip| ip.extensions = vec![header]);
    corpus.denied("ATK-102", "in-cross6-hop", CROSS, &extended((0, options())));
    corpus.denied("ATK-102", "in-cross6-first-fragment", CROSS, &extended((44, fragment(0, true))));
    corpus.denied("ATK-102", "in-cross6-later-fragment", CROSS, &extended((44, fragment(5, false))));
    let tagged = |tags: &[(u16, u16)]| from(B, udp()).with(|f| f.tags = tags.to_vec());
    corpus.denied("ATK-102", "in-cross4-vid-0", "cross_tenant_or_vlan", &tagged(&[(0x8100, 0)]));
    corpus.denied("ATK-102", "in-cross4-two-tags", "cross_tenant_or_vlan", &tagged(&[(0x88a8, 1), (0x8100, 2)]));
}

/// A discovery message to pod A.
fn neighbour(kind: u8, source: Ipv6Addr, target: Ipv6Addr, to: Ipv6Addr, mac: [u8; 6]) -> Frame {
    let (option, head) = if kind == 135 { (1, [0; 4]) } else { (2, [0xe0, 0, 0, 0]) };
    let body = [&head[..], &target.octets(), &[option, 1], &mac].concat();
    let frame = Frame::v6(to, Payload::Icmp { kind, code: 0, body });
    let link = if to.is_multicast() { group_mac(to) } else { A_MAC };
    frame.ip6(|ip| (ip.source, ip.hops) = (source, 255)).with(|f| (f.to, f.from, f.unmarked) = (link, mac, true))
}

fn local(corpus: &mut Corpus) {
    corpus.denied("ATK-103", "in-own4-source", "martian", &from(A, udp()));
    corpus.denied("ATK-103", "in-own6-source", "martian", &from(A6, udp()));
    for martian in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST] {
        corpus.denied("ATK-103", &format!("in-source-{martian}"), "martian", &from(martian, udp()));
    }
    let router = [&[64, 0, 7, 8][..], &[0; 8], &[1, 1], &B_MAC].concat();
    let advertisement = Frame::v6(ALL_NODES, Payload::Icmp { kind: 134, code: 0, body: router })
        .ip6(|ip| (ip.source, ip.hops) = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xb107), 255))
        .with(|f| (f.to, f.from, f.unmarked) = (group_mac(ALL_NODES), B_MAC, true));
    corpus.denied("ATK-103", "in-ra-from-other-pod", "nd_ra", &advertisement);
    let claim = message(2, B_MAC, GATEWAY, BROADCAST_MAC, A).with(|f| f.from = B_MAC);
    corpus.denied("ATK-103", "in-arp-other-pod-claims-gateway", "arp_spoof", &claim);
    let own = message(2, PEER_MAC, A, BROADCAST_MAC, A).with(|f| f.from = PEER_MAC);
    corpus.denied("ATK-103", "in-arp-peer-claims-own-address", "arp_spoof", &own);
    let na = neighbour(136, B6, GATEWAY6, ALL_NODES, B_MAC);
    corpus.denied("ATK-103", "in-na-other-pod-claims-gateway", "nd_spoof_or_cross_tenant", &na);
    let unknown = Frame::other(0x88b5, b"anything").with(|f| (f.to, f.from) = (A_MAC, B_MAC));
    corpus.denied("ATK-103", "in-unknown-ethertype", "ethertype", &unknown);
    let elsewhere = from(PEER, udp()).ip(|ip| ip.destination = PEER);
    corpus.denied("ATK-103", "in-not-our-address", "l2_dst_mismatch", &elsewhere);
}
