//! Rules 1 and 2: EtherType, headers, and the source of a packet.

use agent_common::addr::{V4, V6};
use agent_common::flow::Direction::{self, Egress};
use agent_common::reason::DropReason::*;

use crate::ALLOWED;
use crate::world::*;

#[test]
fn only_ipv4_ipv6_and_arp_ethertypes_pass() {
    let world = World::default();
    let good = frame(false, Egress, OWN_POD, &udp(9000));
    assert_eq!(world.judge(Egress, &good), ALLOWED);
    for (ethertype, reason) in
        [(0x8100, Vlan), (0x88a8, Vlan), (0x9100, Vlan), (0x88cc, Ethertype), (0x8035, Ethertype), (0x002e, Ethertype)]
    {
        for direction in Direction::ALL {
            let mut bad = frame(false, direction, OWN_POD, &udp(9000));
            bad[12..14].copy_from_slice(&u16::to_be_bytes(ethertype));
            assert_eq!(world.judge(direction, &bad), Some(reason), "{ethertype:#x}");
        }
    }
    let mut crossed = good;
    crossed[12..14].copy_from_slice(&[0x86, 0xdd]);
    assert_eq!(world.judge(Egress, &crossed), Some(Malformed), "IPv4 under IPv6's number");
}

#[test]
fn a_source_mac_that_is_not_the_pods_is_denied_where_the_pods_is_known() {
    let mut world = World::default();
    for six in [false, true] {
        let mut bad = frame(six, Egress, OWN_POD, &udp(9000));
        assert_eq!(world.judge(Egress, &bad), ALLOWED);
        bad[6..12].copy_from_slice(&OTHER_MAC);
        assert_eq!(world.judge(Egress, &bad), Some(SpoofedMac));
    }
    let mut bad = frame(false, Egress, OWN_POD, &udp(9000));
    bad[6..12].copy_from_slice(&OTHER_MAC);
    world.tables.endpoints.get_mut(&1).expect("the pod").mac = Default::default();
    assert_eq!(world.judge(Egress, &bad), ALLOWED, "an unknown address is not checked");
}

#[test]
fn a_source_address_that_is_not_the_pods_own_is_denied() {
    let mut world = World::default();
    for source in [OWN_POD, OTHER_POD, NODE, GATEWAY, WORLD, [0; 4], [127, 0, 0, 1], [255; 4], METADATA, [10, 10, 1, 4]]
    {
        for six in [false, true] {
            let spoofed = packet(six, true, source, OWN_POD, UDP, 0, &[0, 1, 0, 2, 0, 8, 0, 0]);
            assert_eq!(world.judge(Egress, &spoofed), Some(SpoofedSource), "{source:?}");
        }
    }
    // A pod without an address of a family owns no address of it, not even the unspecified one.
    let entry = world.tables.endpoints.get_mut(&1).expect("the pod");
    (entry.v4, entry.v6) = (V4::default(), V6::UNSPECIFIED);
    for source in [[0; 4], LOCAL] {
        for six in [false, true] {
            let frame = packet(six, true, source, OWN_POD, UDP, 0, &[0, 1, 0, 2, 0, 8, 0, 0]);
            assert_eq!(world.judge(Egress, &frame), Some(SpoofedSource), "{source:?}");
        }
    }
    let mut unspecified = ethernet(true, 0x86dd);
    unspecified.extend(ipv6([0; 16], six(OWN_POD).octets(), UDP, 8));
    unspecified.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    assert_eq!(world.judge(Egress, &unspecified), Some(SpoofedSource));
}

#[test]
fn a_broken_ipv4_header_is_malformed() {
    let world = World::default();
    let good = frame(false, Egress, OWN_POD, &udp(9000));
    let with = |at: usize, byte: u8, fix: bool| {
        let mut bad = good.clone();
        bad[at] = byte;
        if fix {
            fix_checksum(&mut bad);
        }
        world.judge(Egress, &bad)
    };
    assert_eq!(with(22, 1, true), ALLOWED, "control: another TTL");
    assert_eq!(with(22, 1, false), Some(Malformed), "a checksum that does not fit");
    assert_eq!(with(14, 0x44, true), Some(Malformed), "a header of 16 bytes");
    assert_eq!(with(14, 0x65, true), Some(Malformed), "version 6");
    assert_eq!(with(17, 19, true), Some(Malformed), "total length inside the header");
    assert_eq!(with(17, 200, true), Some(Malformed), "total length beyond the frame");
    assert_eq!(with(38, 0, false), ALLOWED, "control: UDP length 12, high byte");
    assert_eq!(with(39, 7, false), Some(Malformed), "UDP length inside its header");
    assert_eq!(with(39, 13, false), Some(Malformed), "UDP length beyond the packet");
    let mut tcp = frame(false, Egress, OWN_POD, &syn(80));
    assert_eq!(world.judge(Egress, &tcp), ALLOWED);
    tcp[46] = 0x40;
    assert_eq!(world.judge(Egress, &tcp), Some(Malformed), "TCP header of 16 bytes");
    tcp[46] = 0x60;
    assert_eq!(world.judge(Egress, &tcp), Some(Malformed), "TCP header beyond the packet");
    let padded = [&good[..], &[0; 18]].concat();
    assert_eq!(world.judge(Egress, &padded), ALLOWED, "Ethernet padding");
}

#[test]
fn a_broken_ipv6_header_is_malformed() {
    let world = World::default();
    let good = frame(true, Egress, OWN_POD, &udp(9000));
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        world.judge(Egress, &bad)
    };
    assert_eq!(with(21, 3), ALLOWED, "control: another hop limit");
    assert_eq!(with(14, 0x40), Some(Malformed), "version 4");
    assert_eq!(with(19, 0), Some(Malformed), "no payload and no jumbogram");
    assert_eq!(with(19, 13), Some(Malformed), "payload beyond the frame");
    assert_eq!(with(19, 11), Some(Malformed), "UDP length beyond the payload");
}

#[test]
fn ipv4_options_pass_and_source_routes_are_denied() {
    let world = World::default();
    let with = |options: &[u8]| {
        let transport = [0, 1, 0, 2, 0, 8, 0, 0];
        let mut frame = ethernet(true, 0x0800);
        frame.extend(ipv4(LOCAL, OWN_POD, UDP, 0, options, transport.len()));
        frame.extend(transport);
        world.judge(Egress, &frame)
    };
    assert_eq!(with(&[1, 1, 1, 1]), ALLOWED, "no operations");
    assert_eq!(with(&[1; 40]), ALLOWED, "all of them");
    assert_eq!(with(&[7, 7, 4, 0, 0, 0, 0, 0]), ALLOWED, "record route");
    assert_eq!(with(&[0, 131, 3, 4]), ALLOWED, "no option follows the end of the list");
    assert_eq!(with(&[131, 3, 4, 0]), Some(SourceRoute), "loose");
    assert_eq!(with(&[1, 137, 3, 4]), Some(SourceRoute), "strict, behind a no operation");
    assert_eq!(with(&[7, 1, 0, 0]), Some(Malformed), "an option of length 1");
    assert_eq!(with(&[7, 5, 0, 0]), Some(Malformed), "an option longer than the header");
    assert_eq!(with(&[1, 1, 1, 7]), Some(Malformed), "an option without a length");
}

#[test]
fn eight_extension_headers_are_followed_and_nine_are_denied() {
    let world = World::default();
    let udp = [0, 1, 0, 2, 0, 8, 0, 0];
    // Each: kind, then its bytes without the next-header byte in front.
    let with = |chain: &[(u8, &[u8])], last: u8, transport: &[u8]| {
        let kinds = chain.iter().map(|(kind, _)| *kind).skip(1).chain([last]);
        let body: Vec<u8> =
            chain.iter().zip(kinds).flat_map(|((_, rest), next)| [&[next][..], rest].concat()).collect();
        let mut frame = ethernet(true, 0x86dd);
        let first = chain.first().map_or(last, |(kind, _)| *kind);
        frame.extend(ipv6(six(LOCAL).octets(), six(OWN_POD).octets(), first, body.len() + transport.len()));
        frame.extend(body);
        frame.extend(transport);
        world.judge(Egress, &frame)
    };
    const PAD: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    assert_eq!(with(&[(0, PAD), (60, PAD)], UDP, &udp), ALLOWED);
    assert_eq!(with(&[(60, PAD); 7], UDP, &udp), ALLOWED, "seven");
    assert_eq!(with(&[(60, PAD); 8], UDP, &udp), ALLOWED, "eight");
    assert_eq!(with(&[(60, PAD); 9], UDP, &udp), Some(ExtensionHeader), "nine");
    assert_eq!(with(&[(60, PAD), (0, PAD)], UDP, &udp), Some(Malformed), "hop-by-hop comes first");
    assert_eq!(with(&[(0, PAD), (0, PAD)], UDP, &udp), Some(Malformed), "twice");
    assert_eq!(with(&[(43, &[0, 2, 0, 0, 0, 0, 0])], UDP, &udp), ALLOWED, "routed already");
    assert_eq!(with(&[(43, &[0, 2, 1, 0, 0, 0, 0])], UDP, &udp), Some(RoutingHeader), "one segment left");
    assert_eq!(with(&[(60, &[9, 1, 4, 0, 0, 0, 0])], UDP, &udp), Some(Malformed), "longer than the packet");
    assert_eq!(with(&[(44, &[0, 0, 0, 0, 0, 0, 1])], UDP, &udp), ALLOWED, "atomic fragment");
    assert_eq!(with(&[(44, &[0, 0, 1, 0, 0, 0, 1])], UDP, &udp), ALLOWED, "first fragment");
    assert_eq!(with(&[(44, &[0, 0, 8, 0, 0, 0, 1])], UDP, &udp), ALLOWED, "later fragment, by address");
    assert_eq!(with(&[(44, &[0, 0, 1, 0, 0, 0, 1])], TCP, &udp), Some(Fragment), "ports but no flags");
    let twice: [(u8, &[u8]); 2] = [(44, &[0, 0, 1, 0, 0, 0, 1]), (44, &[0, 0, 1, 0, 0, 0, 1])];
    assert_eq!(with(&twice, UDP, &udp), Some(Malformed), "a fragment of a fragment");
    assert_eq!(with(&[(60, PAD)], 59, &udp), ALLOWED, "no next header: by address");
}

#[test]
fn neighbour_discovery_behind_extension_headers_is_denied() {
    let world = World::default();
    let message = |kind: u8, chain: bool| {
        let body = [kind, 0, 0, 0, 0, 0, 0, 0];
        let mut frame = ethernet(true, 0x86dd);
        let extra: &[u8] = if chain { &[58, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
        let first = if chain { 0 } else { ICMPV6 };
        frame.extend(ipv6(six(LOCAL).octets(), six(OWN_POD).octets(), first, extra.len() + body.len()));
        frame.extend(extra);
        frame.extend(body);
        world.judge(Egress, &frame)
    };
    assert_eq!(message(128, true), ALLOWED, "an echo request may");
    for (kind, reason) in
        [(133, Multicast), (134, RouterAdvertisement), (135, Malformed), (136, Malformed), (137, IcmpRedirect)]
    {
        assert_eq!(message(kind, true), Some(reason), "{kind}");
    }
}

/// Writes the right checksum into an IPv4 header of the length it names.
fn fix_checksum(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 0x0f).max(5) * 4;
    frame[24..26].fill(0);
    let sum: u32 = frame[14..end].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}
