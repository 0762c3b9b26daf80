//! IPv6 packets that a pod may send, and those it may not: ATK-050 to ATK-072.

use std::net::Ipv6Addr;

use super::builder::Corpus;
use super::craft::{Frame, Payload, fragment, options, words};
use super::from_pod_v4::{flags, quoting, sctp};
use super::topology::{
    A_LOCAL, A_MAC, A6, ALL_NODES, B_MAC, B6, DNS6, EXTERNAL6, GATEWAY_MAC, GATEWAY6, METADATA6, Mac, NODE6, PEER6,
    group_mac, solicited,
};

const CROSS: &str = "cross_tenant";

fn udp() -> Payload {
    Payload::udp(40000, 9000)
}

pub(super) fn add(corpus: &mut Corpus) {
    controls(corpus);
    transports(corpus);
    addresses(corpus);
    extensions(corpus);
    advertisements(corpus);
    neighbours(corpus);
}

fn controls(corpus: &mut Corpus) {
    corpus.class = "control";
    let peer = |payload| Frame::v6(PEER6, payload);
    corpus.control("peer6-udp", &peer(udp()));
    corpus.control("peer6-tcp-syn", &peer(Payload::tcp(9000, flags("S"))));
    corpus.control("peer6-icmp-echo", &peer(Payload::icmp(128, 0)));
    corpus.control("peer6-sctp-init", &peer(sctp()));
    corpus.control("peer6-first-fragment", &extended(PEER6, &[(44, fragment(0, true))]));
    corpus.control("peer6-later-fragment", &extended(PEER6, &[(44, fragment(5, false))]));
    corpus.control("dns6-udp", &Frame::v6(DNS6, Payload::udp(40000, 53)));
    corpus.control("dns6-tcp", &Frame::v6(DNS6, Payload::tcp(53, flags("S"))));
    corpus.control("nd-solicits-gateway", &solicitation(A6, GATEWAY6, A_MAC));
    corpus.control("nd-solicits-gateway-from-link-local", &solicitation(A_LOCAL, GATEWAY6, A_MAC));
    corpus.control(
        "nd-answers-gateway",
        &advertisement(A6, A6, A_MAC).with(|f| f.to = GATEWAY_MAC).ip6(|ip| ip.destination = GATEWAY6),
    );
    corpus.control("nd-own-dad", &solicitation(Ipv6Addr::UNSPECIFIED, A6, A_MAC));
}

fn transports(corpus: &mut Corpus) {
    corpus.class = "v6-cross";
    let cross = |payload| Frame::v6(B6, payload);
    corpus.denied("ATK-050", "cross6-udp", CROSS, &cross(udp()));
    for letters in ["S", "A", "SA", "R", ""] {
        let name =
            format!("cross6-tcp-{}", if letters.is_empty() { "none".to_owned() } else { letters.to_lowercase() });
        corpus.denied("ATK-050", &name, CROSS, &cross(Payload::tcp(9000, flags(letters))));
    }
    corpus.denied("ATK-050", "cross6-sctp-init", CROSS, &cross(sctp()));
    for (name, kind) in [("echo", 128), ("echo-reply", 129)] {
        corpus.denied("ATK-050", &format!("cross6-icmp-{name}"), CROSS, &cross(Payload::icmp(kind, 0)));
    }
    let quote = Frame::v6(A6, udp()).ip6(|ip| ip.source = B6);
    corpus.denied("ATK-050", "cross6-icmp-too-big-unasked", CROSS, &cross(quoting(2, 0, &quote)));
    corpus.denied("ATK-072", "cross6-node-information", CROSS, &cross(Payload::icmp(139, 0)));
}

fn addresses(corpus: &mut Corpus) {
    corpus.class = "v6-destination";
    corpus.denied("ATK-051", "external6-udp", "off_subnet", &Frame::v6(EXTERNAL6, udp()));
    corpus.denied("ATK-051", "metadata6-tcp", "metadata", &Frame::v6(METADATA6, Payload::tcp(80, flags("S"))));
    corpus.denied("ATK-051", "node6-udp", "node", &Frame::v6(NODE6, udp()));
    corpus.denied("ATK-051", "own6-one-past", "off_subnet", &Frame::v6(address("fd00:a:0:1::"), udp()));
    corpus.denied(
        "ATK-051",
        "own6-one-before",
        "off_subnet",
        &Frame::v6(address("fd00:9:ffff:ffff:ffff:ffff:ffff:ffff"), udp()),
    );
    for martian in ["::1", "::", "fec0::7", "fe80::b107"] {
        corpus.denied(
            "ATK-051",
            &format!("martian6-{martian}"),
            "martian_or_off_subnet",
            &Frame::v6(address(martian), udp()),
        );
    }
    // IPv4 addresses of tenant B embedded in IPv6: mapped, compatible, NAT64, 6to4.
    for coat in ["::ffff:10.20.1.7", "::10.20.1.7", "64:ff9b::10.20.1.7", "2002:a14:107::1"] {
        let reason = "embedded_v4_or_martian_or_off_subnet";
        corpus.denied("ATK-051", &format!("embedded-{coat}"), reason, &Frame::v6(address(coat), udp()));
    }
    for group in ["ff02::1", "ff02::fb", "ff0e::1234"] {
        let group = address(group);
        let frame = Frame::v6(group, Payload::udp(5353, 5353)).with(|f| f.to = group_mac(group));
        corpus.denied("ATK-052", &format!("multicast6-{group}"), "multicast", &frame);
    }
    corpus.class = "v6-source";
    for (name, source) in [
        ("peer", PEER6),
        ("other-tenant", B6),
        ("node", NODE6),
        ("unspecified", Ipv6Addr::UNSPECIFIED),
        ("multicast", ALL_NODES),
        ("loopback", Ipv6Addr::LOCALHOST),
        ("foreign-link-local", address("fe80::b107")),
        ("own-link-local", A_LOCAL),
        ("high-half-wrong", address("fd00:b::105")),
        ("low-half-wrong", address("fd00:a::104")),
    ] {
        let frame = Frame::v6(PEER6, udp()).ip6(|ip| ip.source = source);
        corpus.denied("ATK-053", &format!("spoof6-{name}-to-peer"), "spoof_src_ip", &frame);
    }
    corpus.class = "v6-header";
    let malformed = "malformed_or_cross_tenant";
    for (name, to) in [("cross6", B6), ("peer6", PEER6)] {
        let reason = if to == B6 { malformed } else { "malformed" };
        corpus.denied(
            "ATK-054",
            &format!("{name}-length-0"),
            reason,
            &Frame::v6(to, udp()).ip6(|ip| ip.length = Some(0)),
        );
        corpus.denied(
            "ATK-054",
            &format!("{name}-length-beyond-frame"),
            reason,
            &Frame::v6(to, udp()).ip6(|ip| ip.length = Some(1400)),
        );
        corpus.denied("ATK-054", &format!("{name}-version-4"), reason, &Frame::v6(to, udp()).ip6(|ip| ip.version = 4));
    }
    corpus.denied(
        "ATK-054",
        "peer6-39-byte-header",
        "malformed",
        &Frame::v6(PEER6, udp()).with(|f| f.cut = Some(14 + 39)),
    );
}

/// UDP behind extension headers.
fn extended(to: Ipv6Addr, extensions: &[(u8, Vec<u8>)]) -> Frame {
    Frame::v6(to, udp()).ip6(|ip| ip.extensions = extensions.to_vec())
}

fn extensions(corpus: &mut Corpus) {
    corpus.class = "v6-extension";
    let (hop, destination) = (|| (0, options()), || (60, options()));
    let cross = "cross_tenant_or_malformed";
    corpus.denied("ATK-060", "cross6-hop", CROSS, &extended(B6, &[hop()]));
    corpus.denied("ATK-060", "cross6-destination", CROSS, &extended(B6, &[destination()]));
    corpus.denied("ATK-060", "cross6-hop-destination", CROSS, &extended(B6, &[hop(), destination()]));
    corpus.denied("ATK-060", "cross6-hop-twice", cross, &extended(B6, &[hop(), hop()]));
    corpus.denied("ATK-060", "cross6-hop-not-first", cross, &extended(B6, &[destination(), hop()]));
    corpus.either("ATK-060", "peer6-hop", "allowed", &extended(PEER6, &[hop()]));
    corpus.either("ATK-060", "peer6-destination", "allowed", &extended(PEER6, &[destination()]));
    let chain = vec![destination(); 12];
    corpus.denied("ATK-060", "cross6-twelve-headers", "ext_header", &extended(B6, &chain));
    corpus.denied("ATK-060", "peer6-twelve-headers", "ext_header", &extended(PEER6, &chain));

    corpus.denied("ATK-062", "cross6-first-fragment", CROSS, &extended(B6, &[(44, fragment(0, true))]));
    corpus.denied("ATK-062", "cross6-atomic-fragment", CROSS, &extended(B6, &[(44, fragment(0, false))]));
    corpus.denied("ATK-062", "cross6-later-fragment", CROSS, &extended(B6, &[(44, fragment(5, true))]));
    corpus.denied(
        "ATK-062",
        "cross6-fragment-twice",
        cross,
        &extended(B6, &[(44, fragment(0, true)), (44, fragment(0, true))]),
    );
    corpus.denied(
        "ATK-062",
        "cross6-fragment-between-options",
        CROSS,
        &extended(B6, &[destination(), (44, fragment(0, true)), destination()]),
    );

    // Routing headers of type 0, 2 and 4 with a segment left: the destination is not the final one.
    for kind in [0, 2, 4] {
        let header = [&[2, kind, 1, 0, 0, 0, 0][..], &B6.octets()].concat();
        corpus.denied("ATK-060", &format!("peer6-routing-{kind}"), "routing_header", &extended(PEER6, &[(43, header)]));
    }

    for (name, number) in [
        ("mobility", 135),
        ("ah", 51),
        ("esp", 50),
        ("no-next", 59),
        ("hip", 139),
        ("shim6", 140),
        ("253", 253),
        ("255", 255),
        ("icmpv4", 1),
        ("ipv4", 4),
    ] {
        let payload = Payload::raw(number, &words(&[0x0000, 0, 0, 0]));
        corpus.denied("ATK-064", &format!("cross6-next-{name}"), CROSS, &Frame::v6(B6, payload));
    }
    let overrun = || (0, vec![200, 1, 4, 0, 0, 0, 0]);
    corpus.denied("ATK-065", "cross6-hop-overruns", cross, &extended(B6, &[overrun()]));
    corpus.denied("ATK-065", "peer6-hop-overruns", "malformed", &extended(PEER6, &[overrun()]));
    let cut = extended(PEER6, &[hop()]).ip6(|ip| ip.length = Some(1)).with(|f| f.cut = Some(14 + 41));
    corpus.denied("ATK-065", "peer6-hop-cut-at-1", "malformed", &cut);
    let jumbo = (0, vec![0, 0xc2, 4, 0, 1, 0x11, 0x70]);
    corpus.denied(
        "ATK-065",
        "cross6-jumbo-70000",
        cross,
        &extended(B6, std::slice::from_ref(&jumbo)).ip6(|ip| ip.length = Some(0)),
    );
    corpus.denied(
        "ATK-065",
        "peer6-jumbo-70000",
        "malformed",
        &extended(PEER6, &[jumbo]).ip6(|ip| ip.length = Some(0)),
    );
}

/// A discovery message: hop limit 255, to a group's hardware address.
fn discovery(source: Ipv6Addr, to: Ipv6Addr, kind: u8, body: Vec<u8>) -> Frame {
    let frame = Frame::v6(to, Payload::Icmp { kind, code: 0, body });
    let mac = if to.is_multicast() { group_mac(to) } else { GATEWAY_MAC };
    frame.ip6(|ip| (ip.source, ip.hops) = (source, 255)).with(|f| (f.to, f.unmarked) = (mac, true))
}

/// An option with a hardware address: 1 is the source's, 2 the target's.
fn link_option(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

fn solicitation(source: Ipv6Addr, target: Ipv6Addr, mac: Mac) -> Frame {
    let option = if source.is_unspecified() { Vec::new() } else { link_option(1, mac) };
    let body = [&[0; 4][..], &target.octets(), &option].concat();
    discovery(source, solicited(target), 135, body)
}

fn advertisement(source: Ipv6Addr, target: Ipv6Addr, mac: Mac) -> Frame {
    let body = [&[0x20, 0, 0, 0][..], &target.octets(), &link_option(2, mac)].concat();
    discovery(source, ALL_NODES, 136, body)
}

fn advertisements(corpus: &mut Corpus) {
    corpus.class = "v6-discovery";
    let body = || [&[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &link_option(1, A_MAC)].concat();
    let router = |source, to| discovery(source, to, 134, body());
    corpus.denied("ATK-070", "ra-to-all-nodes", "nd_ra", &router(A_LOCAL, ALL_NODES));
    corpus.denied("ATK-070", "ra-to-gateway", "nd_ra", &router(A_LOCAL, GATEWAY6));
    corpus.denied("ATK-070", "ra-as-gateway", "nd_ra_or_spoof_src_ip", &router(GATEWAY6, ALL_NODES));
    corpus.denied("ATK-070", "ra-to-peer", "nd_ra", &router(A_LOCAL, PEER6));
    let behind = |header| router(A_LOCAL, ALL_NODES).ip6(|ip| ip.extensions = vec![header]);
    corpus.denied("ATK-070", "ra-behind-hop", "nd_ra", &behind((0, options())));
    corpus.denied("ATK-070", "ra-behind-fragment", "nd_ra", &behind((44, fragment(0, false))));
    let redirect = [&[0; 4][..], &A6.octets(), &B6.octets()].concat();
    corpus.denied("ATK-071", "redirect6-as-gateway", "nd_redirect", &discovery(GATEWAY6, PEER6, 137, redirect.clone()));
    corpus.denied("ATK-071", "redirect6-as-self", "nd_redirect", &discovery(A_LOCAL, PEER6, 137, redirect));
}

fn neighbours(corpus: &mut Corpus) {
    let spoof = "nd_spoof_or_spoof_src_ip";
    corpus.denied("ATK-072", "na-claims-gateway", spoof, &advertisement(A_LOCAL, GATEWAY6, A_MAC));
    corpus.denied("ATK-072", "na-claims-other-tenant", spoof, &advertisement(A6, B6, A_MAC));
    corpus.denied("ATK-072", "na-claims-peer", spoof, &advertisement(A6, PEER6, A_MAC));
    corpus.denied("ATK-072", "na-self-at-foreign-mac", spoof, &advertisement(A6, A6, B_MAC));
    corpus.denied("ATK-072", "na-from-foreign-source", spoof, &advertisement(PEER6, A6, A_MAC));
    corpus.denied("ATK-072", "dad-for-other-pod", spoof, &solicitation(Ipv6Addr::UNSPECIFIED, B6, A_MAC));
    corpus.denied("ATK-072", "dad-for-peer", spoof, &solicitation(Ipv6Addr::UNSPECIFIED, PEER6, A_MAC));
    corpus.denied("ATK-072", "ns-with-foreign-mac", spoof, &solicitation(A6, GATEWAY6, B_MAC));
    corpus.denied("ATK-072", "ns-as-peer", spoof, &solicitation(PEER6, GATEWAY6, A_MAC));
    let routed = solicitation(A6, GATEWAY6, A_MAC).ip6(|ip| ip.hops = 254);
    corpus.denied("ATK-072", "ns-hop-limit-254", "malformed_or_nd_spoof", &routed);
}

fn address(text: &str) -> Ipv6Addr {
    text.parse().expect("an IPv6 address")
}
