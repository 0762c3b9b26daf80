//! IPv4 packets that a pod may send, and those it may not: ATK-001 to ATK-043.

use std::net::Ipv4Addr;

use super::builder::Corpus;
use super::craft::{Frame, Payload, words};
use super::topology::{B, B_MAC, BROADCAST_MAC, DNS, EXTERNAL, GATEWAY, METADATA, NODE, PEER, PEER_MAC};

const CROSS: &str = "cross_tenant";
const SPOOF: &str = "spoof_src_ip";

/// The datagram of most cases.
pub(super) fn udp() -> Payload {
    Payload::udp(40000, 9000)
}

/// TCP flags by their letters.
pub(super) fn flags(letters: &str) -> u8 {
    letters.chars().map(|letter| 1 << "FSRPAUEC".find(letter).expect("a TCP flag")).sum()
}

/// An SCTP INIT chunk behind its common header (RFC 9260). No program checks its checksum.
pub(super) fn sctp() -> Payload {
    Payload::raw(132, &words(&[40000, 9000, 0, 0, 0, 0, 0x0100, 20, 0, 0x1234, 1, 0, 10, 10, 0, 1]))
}

pub(super) fn add(corpus: &mut Corpus) {
    controls(corpus);
    transports(corpus);
    destinations(corpus);
    sources(corpus);
}

fn controls(corpus: &mut Corpus) {
    corpus.class = "control";
    let peer = |payload| Frame::v4(PEER, payload);
    corpus.control("peer4-udp", &peer(udp()));
    corpus.control(
        "peer4-udp-no-checksum",
        &peer(Payload::Udp { source: 40000, destination: 9000, length: None, bare: true }),
    );
    corpus.control("peer4-tcp-syn", &peer(Payload::tcp(9000, flags("S"))));
    corpus.control("peer4-tcp-data", &peer(Payload::tcp(9000, flags("PA"))));
    corpus.control("peer4-icmp-echo", &peer(Payload::icmp(8, 0)));
    corpus.control("peer4-sctp-init", &peer(sctp()));
    corpus.control("peer4-tos-all-bits", &peer(udp()).ip(|ip| ip.tos = 0xff));
    corpus.control("peer4-ttl-1", &peer(udp()).ip(|ip| ip.ttl = 1));
    corpus.control("peer4-first-fragment", &peer(udp()).ip(|ip| ip.fragment = 0x2000));
    corpus.control("peer4-later-fragment", &peer(udp()).ip(|ip| ip.fragment = 5));
    let full = 1500 - 28 - "peer4-udp-1500-bytes".len();
    corpus.control(
        "peer4-udp-1500-bytes",
        &peer(Payload::raw(17, &[&words(&[40000, 9000, 1480, 0])[..], &vec![b'x'; full]].concat())),
    );
    corpus.control("dns4-udp", &Frame::v4(DNS, Payload::udp(40000, 53)));
    corpus.control("dns4-tcp", &Frame::v4(DNS, Payload::tcp(53, flags("S"))));
    for last in ["10.10.0.0", "10.10.255.255"] {
        corpus.either("ATK-011", &format!("own4-edge-{last}"), "allowed", &Frame::v4(address(last), udp()));
    }
}

fn transports(corpus: &mut Corpus) {
    corpus.class = "v4-cross";
    let cross = |payload| Frame::v4(B, payload);
    corpus.denied("ATK-001", "cross4-udp", CROSS, &cross(udp()));
    let bare = Payload::Udp { source: 40000, destination: 9000, length: None, bare: true };
    corpus.denied("ATK-001", "cross4-udp-no-checksum", CROSS, &cross(bare));
    corpus.denied("ATK-002", "cross4-tcp-syn", CROSS, &cross(Payload::tcp(9000, flags("S"))));
    for (name, letters) in [
        ("ack", "A"),
        ("syn-ack", "SA"),
        ("rst", "R"),
        ("rst-ack", "RA"),
        ("fin", "F"),
        ("no-flags", ""),
        ("fin-psh-urg", "FPU"),
        ("syn-ece-cwr", "SEC"),
    ] {
        corpus.denied("ATK-003", &format!("cross4-tcp-{name}"), CROSS, &cross(Payload::tcp(9000, flags(letters))));
    }
    for (name, kind) in [("echo", 8), ("echo-reply", 0), ("timestamp", 13), ("address-mask", 17), ("source-quench", 4)]
    {
        corpus.denied("ATK-005", &format!("cross4-icmp-{name}"), CROSS, &cross(Payload::icmp(kind, 0)));
    }
    let quote = Frame::v4(A_AS_SEEN, udp());
    for (name, kind, code) in [("unreachable", 3, 1), ("frag-needed", 3, 4), ("time-exceeded", 11, 0)] {
        corpus.denied("ATK-005", &format!("cross4-icmp-{name}-unasked"), CROSS, &cross(quoting(kind, code, &quote)));
    }
    let redirect =
        Payload::Icmp { kind: 5, code: 1, body: [&super::topology::A.octets()[..], &quote.build(b"")[14..]].concat() };
    for (name, to) in [("b", B), ("peer", PEER), ("gateway", GATEWAY)] {
        corpus.denied(
            "ATK-007",
            &format!("icmp4-redirect-to-{name}"),
            "icmp_redirect",
            &Frame::v4(to, redirect.clone()),
        );
    }
    corpus.denied("ATK-008", "cross4-sctp-init", CROSS, &cross(sctp()));
    for (name, number) in PROTOCOLS {
        let payload = Payload::raw(number, &words(&[0x4500, 0x1c, 0, 0, 1, 2]));
        corpus.denied("ATK-008", &format!("cross4-protocol-{name}"), CROSS, &cross(payload));
    }
}

/// The destination of the packet that an ICMP error to B quotes. B has sent no such packet.
const A_AS_SEEN: Ipv4Addr = super::topology::A;

/// Protocols that are no TCP, UDP or ICMP.
const PROTOCOLS: [(&str, u8); 11] = [
    ("udplite", 136),
    ("dccp", 33),
    ("esp", 50),
    ("ah", 51),
    ("igmp", 2),
    ("vrrp", 112),
    ("ospf", 89),
    ("l2tp", 115),
    ("0", 0),
    ("253", 253),
    ("255", 255),
];

/// An ICMP error that quotes a packet.
pub(super) fn quoting(kind: u8, code: u8, quoted: &Frame) -> Payload {
    Payload::Icmp { kind, code, body: [&[0; 4][..], &quoted.build(b"")[14..]].concat() }
}

fn destinations(corpus: &mut Corpus) {
    corpus.class = "v4-destination";
    let to = |text: &str, payload| Frame::v4(address(text), payload);
    corpus.denied("ATK-010", "external4-udp", "off_subnet", &Frame::v4(EXTERNAL, udp()));
    corpus.denied("ATK-010", "external4-tcp-443", "off_subnet", &Frame::v4(EXTERNAL, Payload::tcp(443, flags("S"))));
    corpus.denied("ATK-011", "own4-one-past", "off_subnet", &to("10.11.0.0", udp()));
    corpus.denied("ATK-011", "own4-one-before", "off_subnet", &to("10.9.255.255", udp()));
    for cloud in ["169.254.169.254", "169.254.170.2", "169.254.170.23", "168.63.129.16", "100.100.100.200"] {
        let reason = "metadata_or_off_subnet_or_martian";
        corpus.denied("ATK-012", &format!("metadata4-{cloud}"), reason, &to(cloud, Payload::tcp(80, flags("S"))));
    }
    let resolver = to("169.254.169.253", Payload::udp(40000, 53));
    corpus.denied("ATK-012", "metadata4-resolver", "metadata_or_off_subnet_or_martian", &resolver);
    corpus.denied("ATK-012", "metadata4-icmp", "metadata", &Frame::v4(METADATA, Payload::icmp(8, 0)));
    for port in [10250, 10255, 9090, 2379] {
        corpus.denied(
            "ATK-013",
            &format!("node4-tcp-{port}"),
            "node",
            &Frame::v4(NODE, Payload::tcp(port, flags("S"))),
        );
    }
    corpus.denied("ATK-013", "node4-udp", "node", &Frame::v4(NODE, udp()));
    corpus.denied("ATK-013", "gateway4-udp", "node_or_martian", &Frame::v4(GATEWAY, udp()));
    for martian in ["127.0.0.1", "0.0.0.0", "240.0.0.1"] {
        corpus.denied("ATK-014", &format!("martian4-{martian}"), "martian_or_off_subnet", &to(martian, udp()));
    }
    let broadcast = to("255.255.255.255", Payload::udp(68, 67)).with(|f| f.to = BROADCAST_MAC);
    corpus.denied("ATK-015", "broadcast4-dhcp", "multicast", &broadcast);
    for (group, port) in [("224.0.0.1", 9000), ("224.0.0.251", 5353), ("239.1.2.3", 9000)] {
        let [_, b, c, d] = address(group).octets();
        let frame = to(group, Payload::udp(5353, port)).with(|f| f.to = [1, 0, 0x5e, b & 0x7f, c, d]);
        corpus.denied("ATK-015", &format!("multicast4-{group}"), "multicast", &frame);
    }
    corpus.denied("ATK-016", "service4-nobodys", "off_subnet", &to("10.96.7.7", udp()));
    corpus.denied("ATK-016", "dns4-next-address", "off_subnet", &to("10.96.0.11", Payload::udp(40000, 53)));
}

fn sources(corpus: &mut Corpus) {
    corpus.class = "v4-source";
    for (name, source) in [
        ("peer", PEER),
        ("other-tenant", B),
        ("unassigned-own-range", address("10.10.9.9")),
        ("gateway", GATEWAY),
        ("node", NODE),
        ("external", EXTERNAL),
        ("dns", DNS),
        ("unspecified", Ipv4Addr::UNSPECIFIED),
        ("loopback", Ipv4Addr::LOCALHOST),
        ("broadcast", Ipv4Addr::BROADCAST),
        ("multicast", address("224.0.0.1")),
        ("metadata", METADATA),
    ] {
        let frame = Frame::v4(PEER, udp()).ip(|ip| ip.source = source);
        corpus.denied("ATK-020", &format!("spoof4-{name}-to-peer"), SPOOF, &frame);
    }
    let as_b = Frame::v4(address("10.20.1.8"), udp()).ip(|ip| ip.source = B);
    corpus.denied("ATK-020", "spoof4-other-tenant-to-its-own", SPOOF, &as_b);
    let neighbour = Frame::v4(PEER, udp()).ip(|ip| ip.source = address("10.10.1.4"));
    corpus.denied("ATK-020", "spoof4-one-below", SPOOF, &neighbour);
    for (name, mac) in [("other-pod", B_MAC), ("peer", PEER_MAC), ("multicast", [1, 0, 0x5e, 0, 0, 1])] {
        let frame = Frame::v4(PEER, udp()).with(|f| f.from = mac);
        corpus.denied("ATK-021", &format!("spoof-mac-{name}"), "spoof_src_mac", &frame);
    }
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().expect("an IPv4 address")
}
