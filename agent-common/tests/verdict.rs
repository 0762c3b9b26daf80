//! The verdict, rule by rule, in both families: which packets pass, which are denied, and the reason.
//!
//! Each denial has a control: a packet that differs in one thing and passes.

mod world;

use std::collections::BTreeSet;

use agent_common::addr::{V4, V6};
use agent_common::counters::Outcome;
use agent_common::flow::Direction::{self, Egress, Ingress};
use agent_common::layout::{EndpointEntry, Grant, PORTS_ANY, PORTS_NONE, PeerEntry, PrefixGrant};
use agent_common::mem_tables::MemTables;
use agent_common::reason::DropReason::{self, *};
use agent_common::tenant::{TenantId, TenantState};
use world::*;

const ALLOWED: Denial = None;

// Rules 1 and 2: EtherType, source and headers.

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

// Rule 3: replies.

#[test]
fn a_reply_passes_only_on_a_connection_that_the_other_side_opened() {
    let world = World::default();
    for (from, denied) in [(WORLD, OffSubnet), (NODE, Node)] {
        assert_eq!(world.sends(from, &syn_ack_from(80)), Some(denied), "no connection");
        assert_eq!(world.receives(from, &syn_to(80)), ALLOWED);
        assert_eq!(world.sends(from, &syn_ack_from(80)), ALLOWED);
        assert_eq!(world.sends(from, &syn_ack_from(81)), Some(denied), "another port");
        let other = Content::Tcp { remote: 50_001, local: 80, flags: ACK };
        assert_eq!(world.sends(from, &other), Some(denied), "another client port");
        assert_eq!(world.sends(from, &Content::Udp { remote: 50_000, local: 80 }), Some(denied), "another protocol");
    }
    assert_eq!(world.sends([198, 51, 100, 10], &syn_ack_from(80)), Some(OffSubnet), "another host");
}

#[test]
fn only_an_echo_reply_answers_an_echo_request() {
    let world = World::default();
    assert_eq!(world.receives(WORLD, &Content::Echo { id: 9 }), ALLOWED);
    assert_eq!(world.sends(WORLD, &Content::EchoReply { id: 9 }), ALLOWED);
    assert_eq!(world.sends(WORLD, &Content::EchoReply { id: 10 }), Some(OffSubnet), "another identifier");
    assert_eq!(world.sends(WORLD, &Content::Echo { id: 9 }), Some(OffSubnet), "a request is no reply");
}

#[test]
fn a_packet_that_opens_no_connection_allows_no_reply() {
    let world = World::default();
    let reset = Content::Tcp { remote: 50_000, local: 80, flags: RST };
    assert_eq!(world.receives(WORLD, &reset), ALLOWED);
    assert_eq!(world.receives(WORLD, &Content::Later(TCP)), ALLOWED);
    assert_eq!(world.receives(WORLD, &Content::EchoReply { id: 9 }), ALLOWED);
    assert_eq!(world.sends(WORLD, &syn_ack_from(80)), Some(OffSubnet));
    assert_eq!(world.sends(WORLD, &Content::Later(TCP)), Some(OffSubnet));
    assert_eq!(world.sends(WORLD, &Content::Echo { id: 9 }), Some(OffSubnet));
}

#[test]
fn a_reply_to_a_tunnel_port_of_a_node_is_denied() {
    let world = World::default();
    for (remote, expected) in [(50_000, ALLOWED), (4789, Some(Node)), (8472, Some(Node)), (6081, Some(Node))] {
        let content = Content::Udp { remote, local: 53 };
        for (from, expected) in [(NODE, expected), (WORLD, ALLOWED)] {
            assert_eq!(world.receives(from, &content), ALLOWED);
            assert_eq!(world.sends(from, &content), expected, "{from:?} {remote}");
        }
    }
    for protocol in [4, 41, 47] {
        assert_eq!(world.receives(NODE, &Content::Other(protocol)), ALLOWED);
        assert_eq!(world.sends(NODE, &Content::Other(protocol)), Some(Node), "{protocol}");
    }
}

#[test]
fn a_connection_without_packets_expires() {
    let world = World::default();
    let (request, reply) = (Content::Udp { remote: 50_000, local: 53 }, Content::Udp { remote: 50_000, local: 53 });
    assert_eq!(world.receives(WORLD, &request), ALLOWED);
    world.wait(59);
    assert_eq!(world.sends(WORLD, &reply), ALLOWED, "one minute for the first reply");
    world.wait(179);
    assert_eq!(world.sends(WORLD, &reply), ALLOWED, "three minutes after a reply");
    world.wait(180);
    assert_eq!(world.sends(WORLD, &reply), Some(OffSubnet));
    assert_eq!(world.receives(WORLD, &request), ALLOWED, "the opener opens it again");
    assert_eq!(world.sends(WORLD, &reply), ALLOWED);
}

#[test]
fn a_closing_connection_expires_earlier() {
    let world = World::default();
    let fin = Content::Tcp { remote: 50_000, local: 80, flags: FIN | ACK };
    assert_eq!(world.receives(WORLD, &syn_to(80)), ALLOWED);
    assert_eq!(world.sends(WORLD, &syn_ack_from(80)), ALLOWED);
    world.wait(3_600);
    assert_eq!(world.sends(WORLD, &fin), ALLOWED, "three hours while it is open");
    world.wait(121);
    assert_eq!(world.sends(WORLD, &fin), Some(OffSubnet), "two minutes once it closes");
}

#[test]
fn a_later_pod_with_the_same_address_inherits_no_connection() {
    let mut world = World::default();
    assert_eq!(world.receives(WORLD, &syn_to(80)), ALLOWED);
    assert_eq!(world.sends(WORLD, &syn_ack_from(80)), ALLOWED);
    world.tables.endpoints.get_mut(&1).expect("the pod").cookie += 1;
    assert_eq!(world.sends(WORLD, &syn_ack_from(80)), Some(OffSubnet));
}

#[test]
fn a_new_policy_decides_on_old_connections_again() {
    let mut world = World::default();
    assert_eq!(world.receives(WORLD, &syn_to(80)), ALLOWED);
    world.tables.runtime.generation += 1;
    assert_eq!(world.sends(WORLD, &syn_ack_from(80)), ALLOWED, "nothing changed for it");
    world.owner(WORLD, 24, THEIRS);
    world.tables.runtime.generation += 1;
    assert_eq!(world.sends(WORLD, &syn_ack_from(80)), Some(CrossTenant), "another tenant owns it now");
    assert_eq!(world.receives(WORLD, &syn_to(80)), Some(CrossTenant));
}

#[test]
fn a_removed_grant_cuts_live_connections() {
    let mut world = World::default();
    world.grant(THEIRS, MINE, Grant::FOREVER);
    assert_eq!(world.receives(OTHER_POD, &syn_to(80)), ALLOWED);
    assert_eq!(world.sends(OTHER_POD, &syn_ack_from(80)), ALLOWED);
    world.tables.grants.clear();
    assert_eq!(world.sends(OTHER_POD, &syn_ack_from(80)), Some(CrossTenant));
    assert_eq!(world.receives(OTHER_POD, &syn_to(80)), Some(CrossTenant));
}

// Rule 4: discovery and ICMP errors.

#[test]
fn an_icmp_error_passes_only_if_it_quotes_an_open_connection() {
    let world = World::default();
    let about = Content::Udp { remote: 50_000, local: 53 };
    let error = Content::Unreachable(Box::new(about.clone()));
    assert_eq!(world.sends(WORLD, &error), Some(OffSubnet), "no connection");
    assert_eq!(world.receives(WORLD, &about), ALLOWED);
    assert_eq!(world.sends(WORLD, &error), ALLOWED);
    let other = Content::Unreachable(Box::new(Content::Udp { remote: 50_000, local: 54 }));
    assert_eq!(world.sends(WORLD, &other), Some(OffSubnet), "it quotes another connection");
    assert_eq!(world.sends(OTHER_POD, &error), Some(CrossTenant), "it goes to another host");
}

#[test]
fn an_icmp_error_must_quote_a_packet_between_its_own_ends() {
    let world = World::default();
    let about = Content::Udp { remote: 50_000, local: 53 };
    assert_eq!(world.receives(WORLD, &about), ALLOWED);
    for six in [false, true] {
        let quoted = frame(six, Ingress, WORLD, &about);
        let (kind, protocol) = if six { (1, ICMPV6) } else { (3, ICMP) };
        let body = [&[kind, 1, 0, 0, 0, 0, 0, 0][..], &quoted[14..]].concat();
        assert_eq!(world.judge(Egress, &packet(six, true, LOCAL, WORLD, protocol, 0, &body)), ALLOWED);
        let other = packet(six, true, LOCAL, [198, 51, 100, 10], protocol, 0, &body);
        assert_eq!(world.judge(Egress, &other), Some(OffSubnet), "the quote names another host");
        let cut = &body[..body.len() - 8];
        assert_eq!(
            world.judge(Egress, &packet(six, true, LOCAL, WORLD, protocol, 0, cut)),
            Some(OffSubnet),
            "no ports"
        );
    }
}

#[test]
fn an_icmp_redirect_from_a_pod_is_denied() {
    let world = World::default();
    let redirect = packet(false, true, LOCAL, OWN_POD, ICMP, 0, &[5, 1, 0, 0, 10, 10, 1, 6]);
    assert_eq!(world.judge(Egress, &redirect), Some(IcmpRedirect));
    let echo = packet(false, true, LOCAL, OWN_POD, ICMP, 0, &[8, 0, 0, 0, 0, 1, 0, 1]);
    assert_eq!(world.judge(Egress, &echo), ALLOWED);
}

/// ARP from or to the pod.
fn arp(out: bool, operation: u8, sender_mac: [u8; 6], sender: Host, target: Host) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&ethernet(out, 0x0806)[..], &head, &sender_mac, &sender, &[0; 6], &target].concat()
}

#[test]
fn a_pod_resolves_only_allowed_addresses_and_claims_only_its_own() {
    let world = World::default();
    for (operation, mac, sender, target, expected, why) in [
        (1, MAC, LOCAL, GATEWAY, ALLOWED, "resolves its gateway"),
        (1, MAC, LOCAL, OWN_POD, ALLOWED, "resolves a pod of its tenant"),
        (1, MAC, LOCAL, FILES, ALLOWED, "resolves an address of its subnet"),
        (1, MAC, LOCAL, LOCAL, ALLOWED, "announces itself"),
        (1, MAC, [0; 4], LOCAL, ALLOWED, "probes for itself"),
        (2, MAC, LOCAL, OWN_POD, ALLOWED, "replies"),
        (1, MAC, LOCAL, NODE, ALLOWED, "resolves its node, to reply"),
        (1, MAC, LOCAL, OTHER_POD, Some(CrossTenant), "resolves a pod of another tenant"),
        (1, MAC, LOCAL, WORLD, Some(OffSubnet), "resolves an address outside the cluster"),
        (1, MAC, [0; 4], OWN_POD, Some(SpoofedNeighbor), "probes for another pod's address"),
        (2, MAC, GATEWAY, OWN_POD, Some(SpoofedNeighbor), "claims the gateway"),
        (1, MAC, GATEWAY, GATEWAY, Some(SpoofedNeighbor), "announces the gateway"),
        (2, OTHER_MAC, LOCAL, OWN_POD, Some(SpoofedNeighbor), "at another hardware address"),
        (3, MAC, LOCAL, OWN_POD, Some(Malformed), "neither request nor reply"),
    ] {
        assert_eq!(world.judge(Egress, &arp(true, operation, mac, sender, target)), expected, "{why}");
    }
    let good = arp(true, 1, MAC, LOCAL, GATEWAY);
    for (at, byte) in [(15, 6), (16, 0), (18, 8), (19, 16)] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert_eq!(world.judge(Egress, &bad), Some(Malformed), "byte {at}");
    }
    assert_eq!(world.judge(Egress, &good[..41]), Some(Malformed), "cut short");
}

#[test]
fn only_the_gateway_may_claim_the_gateways_address() {
    let world = World::default();
    for (mac, sender, expected, why) in [
        (GATEWAY_MAC, GATEWAY, ALLOWED, "the gateway does"),
        (OTHER_MAC, OWN_POD, ALLOWED, "a pod claims its own address"),
        (OTHER_MAC, GATEWAY, Some(SpoofedNeighbor), "a pod claims the gateway's"),
        (OTHER_MAC, LOCAL, Some(SpoofedNeighbor), "another pod claims this pod's"),
        (OTHER_MAC, WORLD, Some(OffSubnet), "a host outside the cluster"),
    ] {
        assert_eq!(world.judge(Ingress, &arp(false, 2, mac, sender, LOCAL)), expected, "{why}");
    }
}

/// A discovery message with one option.
fn discovery(out: bool, kind: u8, source: V6, destination: V6, target: V6, mac: [u8; 6]) -> Vec<u8> {
    let option = if kind == 135 { 1 } else { 2 };
    let body = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[option, 1], &mac].concat();
    let mut frame = ethernet(out, 0x86dd);
    frame.extend(ipv6(source.octets(), destination.octets(), ICMPV6, body.len()));
    frame[21] = 255;
    frame.extend(body);
    frame
}

#[test]
fn discovery_from_a_pod_claims_only_its_own_addresses() {
    let world = World::default();
    let (local, link, gateway) = (six(LOCAL), link_local(5), link_local(1));
    for (kind, source, target, mac, expected, why) in [
        (135, local, gateway, MAC, ALLOWED, "resolves its gateway"),
        (135, link, gateway, MAC, ALLOWED, "from its link-local address"),
        (135, local, six(OWN_POD), MAC, ALLOWED, "resolves a pod of its tenant"),
        (135, local, six(WORLD), MAC, Some(OffSubnet), "resolves an address outside the cluster"),
        (135, six(OWN_POD), gateway, MAC, Some(SpoofedSource), "from another pod's address"),
        (135, local, gateway, OTHER_MAC, Some(SpoofedNeighbor), "at another hardware address"),
        (136, local, local, MAC, ALLOWED, "advertises its own address"),
        (136, link, link, MAC, ALLOWED, "and for its link-local address"),
        (136, local, gateway, MAC, Some(SpoofedNeighbor), "claims the gateway"),
        (136, local, six(OTHER_POD), MAC, Some(SpoofedNeighbor), "claims an address of another tenant"),
        (136, local, local, OTHER_MAC, Some(SpoofedNeighbor), "itself at another hardware address"),
        (134, link, gateway, MAC, Some(RouterAdvertisement), "says it is a router"),
        (137, link, gateway, MAC, Some(IcmpRedirect), "redirects"),
        (133, link, gateway, MAC, Some(Multicast), "solicits routers"),
    ] {
        assert_eq!(world.judge(Egress, &discovery(true, kind, source, gateway, target, mac)), expected, "{why}");
    }
    let probe = |target: V6| {
        let mut frame = discovery(true, 135, V6::UNSPECIFIED, target.solicited_node(), target, MAC);
        frame.truncate(14 + 40 + 24);
        frame[19] = 24;
        world.judge(Egress, &frame)
    };
    assert_eq!((probe(local), probe(link)), (ALLOWED, ALLOWED), "duplicate address detection");
    assert_eq!(probe(six(OWN_POD)), Some(SpoofedNeighbor), "for another pod's address");
    let mut routed = discovery(true, 135, local, gateway, gateway, MAC);
    routed[21] = 254;
    assert_eq!(world.judge(Egress, &routed), Some(Malformed), "crossed a router");
}

#[test]
fn discovery_from_a_pod_goes_only_to_the_link_or_to_allowed_addresses() {
    let world = World::default();
    let (local, link, gateway) = (six(LOCAL), link_local(5), link_local(1));
    let group = V6 { lo: 0x0101_u64.to_be(), ..V6::ALL_NODES };
    for (destination, expected) in [
        (gateway, ALLOWED),
        (link_local(9), ALLOWED),
        (V6::ALL_NODES, ALLOWED),
        (six(OWN_POD), ALLOWED),
        (local, ALLOWED),
        (six(WORLD), Some(OffSubnet)),
        (six(THEIR_DATABASE), Some(CrossTenant)),
        (six(OTHER_POD), Some(CrossTenant)),
        (six(METADATA), Some(MetadataService)),
        (group, Some(Multicast)),
    ] {
        for (kind, source, target, why) in [
            (135, local, gateway, "resolves its gateway"),
            (135, link, gateway, "from its link-local address"),
            (135, local, six(OWN_POD), "resolves a pod of its tenant"),
            (136, local, local, "advertises its own address"),
            (136, link, link, "and for its link-local address"),
            (135, V6::UNSPECIFIED, local, "detects duplicates of its address"),
        ] {
            let frame = discovery(true, kind, source, destination, target, MAC);
            assert_eq!(world.judge(Egress, &frame), expected, "{why}, of {:x?}", destination.octets());
        }
    }
    for target in [gateway, six(OWN_POD)] {
        let frame = discovery(true, 135, local, target.solicited_node(), target, MAC);
        assert_eq!(world.judge(Egress, &frame), ALLOWED, "the group of the target");
        let others = discovery(true, 135, local, six(OTHER_POD).solicited_node(), target, MAC);
        assert_eq!(world.judge(Egress, &others), Some(Multicast), "another group of the link");
    }
}

#[test]
fn discovery_to_a_pod_claims_only_addresses_of_its_sender() {
    let world = World::default();
    let (local, gateway) = (six(LOCAL), link_local(1));
    let from_other = |kind, source, target| {
        let mut frame = discovery(false, kind, source, local, target, OTHER_MAC);
        frame[6..12].copy_from_slice(&OTHER_MAC);
        world.judge(Ingress, &frame)
    };
    assert_eq!(from_other(136, six(OWN_POD), six(OWN_POD)), ALLOWED);
    assert_eq!(from_other(136, six(OWN_POD), gateway), Some(SpoofedNeighbor), "claims the gateway");
    assert_eq!(from_other(136, six(OWN_POD), local), Some(SpoofedNeighbor), "claims the pod");
    assert_eq!(from_other(136, six(OTHER_POD), six(OTHER_POD)), Some(CrossTenant));
    assert_eq!(from_other(135, link_local(9), local), ALLOWED, "a neighbour resolves the pod");
    assert_eq!(from_other(135, link_local(9), six(OWN_POD)), Some(NotOwnAddress));
    assert_eq!(from_other(134, link_local(9), local), Some(RouterAdvertisement));
    let gateways = discovery(false, 136, gateway, local, gateway, GATEWAY_MAC);
    assert_eq!(world.judge(Ingress, &gateways), ALLOWED);
}

// Rule 5: metadata.

#[test]
fn a_metadata_service_needs_a_prefix_of_exactly_its_address() {
    let mut world = World::default();
    assert_eq!(world.sends(METADATA, &syn(80)), Some(MetadataService));
    world.row(MINE, &[([0, 0, 0, 0], 0, PORTS_ANY)], 0);
    assert_eq!(world.sends(METADATA, &syn(80)), Some(MetadataService), "a wide range does not include it");
    world.row(MINE, &[(METADATA, 24, PORTS_ANY)], 0);
    assert_eq!(world.sends(METADATA, &syn(80)), Some(MetadataService), "nor does a narrow one");
    world.row(MINE, &[(METADATA, 32, HTTP), ([0, 0, 0, 0], 0, PORTS_ANY)], 0);
    assert_eq!(world.sends(METADATA, &syn(80)), ALLOWED, "listed");
    assert_eq!(world.sends(METADATA, &syn(81)), Some(MetadataService), "on another port");
}

// Rule 6: pods.

#[test]
fn pods_reach_their_own_tenant_and_shared_ones() {
    let world = World::default();
    for content in [
        udp(9000),
        syn(80),
        Content::Echo { id: 1 },
        Content::Later(UDP),
        Content::Other(50),
        Content::Sctp { remote: 1, local: 2 },
    ] {
        assert_eq!(world.sends(OWN_POD, &content), ALLOWED);
        assert_eq!(world.sends(SHARED, &content), ALLOWED);
        assert_eq!(world.sends(OTHER_POD, &content), Some(CrossTenant));
        assert_eq!(world.sends(UNCLAIMED, &content), Some(UnassignedDestination));
        assert_eq!(world.receives(OWN_POD, &content), ALLOWED);
        assert_eq!(world.receives(SHARED, &content), ALLOWED);
        assert_eq!(world.receives(OTHER_POD, &content), Some(CrossTenant));
        assert_eq!(world.receives(UNCLAIMED, &content), Some(UnassignedSource));
    }
}

#[test]
fn no_tcp_flags_open_a_way_to_another_tenant() {
    let world = World::default();
    for flags in 0..=255 {
        let content = Content::Tcp { remote: 50_000, local: 80, flags };
        assert_eq!(world.sends(OTHER_POD, &content), Some(CrossTenant), "{flags:#x}");
        assert_eq!(world.receives(OTHER_POD, &content), Some(CrossTenant), "{flags:#x}");
    }
}

#[test]
fn a_shared_pod_reaches_every_pod_and_no_subnet_of_another_tenant() {
    let mut world = World::default();
    world.pod_is(COMMON);
    for host in [OWN_POD, OTHER_POD, SHARED, UNCLAIMED, NODE] {
        assert_eq!(world.sends(host, &udp(1)), ALLOWED);
        assert_eq!(world.receives(host, &udp(1)), ALLOWED);
    }
    assert_eq!(world.sends(THEIR_DATABASE, &udp(1)), Some(CrossTenant));
    assert_eq!(world.sends(WORLD, &udp(1)), Some(OffSubnet));
}

#[test]
fn a_pod_of_an_unassigned_namespace_reaches_that_namespace_and_shared_tenants() {
    let mut world = World::default();
    world.pod_is(UNASSIGNED);
    assert_eq!(world.sends(UNCLAIMED, &udp(1)), ALLOWED, "its own namespace");
    assert_eq!(world.sends(SHARED, &udp(1)), ALLOWED);
    assert_eq!(world.sends(OWN_POD, &udp(1)), Some(UnassignedSource));
    assert_eq!(world.receives(OWN_POD, &udp(1)), Some(UnassignedDestination));
    assert_eq!(world.sends(WORLD, &udp(1)), Some(OffSubnet));
}

#[test]
fn an_open_tenant_reaches_everything_but_metadata_services() {
    let world = World::default().with(TenantState::OPEN);
    for host in [OTHER_POD, UNCLAIMED, WORLD, NODE, OWN_POD] {
        assert_eq!(world.sends(host, &udp(1)), ALLOWED, "{host:?}");
    }
    assert_eq!(world.receives(OTHER_POD, &udp(1)), ALLOWED);
    assert_eq!(world.sends(METADATA, &udp(1)), Some(MetadataService));
    let spoofed = packet(false, true, OWN_POD, WORLD, UDP, 0, &[0, 1, 0, 2, 0, 8, 0, 0]);
    assert_eq!(world.judge(Egress, &spoofed), Some(SpoofedSource), "nor its source");
}

#[test]
fn a_mutual_grant_allows_connections_in_both_directions() {
    let mut world = World::default();
    world.grant(MINE, THEIRS, Grant::FOREVER);
    world.grant(THEIRS, MINE, Grant::FOREVER);
    assert_eq!(world.sends(OTHER_POD, &syn(80)), ALLOWED);
    assert_eq!(world.receives(OTHER_POD, &syn_to(80)), ALLOWED);
    assert_eq!(world.sends(UNCLAIMED, &syn(80)), Some(UnassignedDestination), "and to no other tenant");
    assert_eq!(world.sends(THEIR_DATABASE, &syn(80)), Some(CrossTenant), "and not their subnets");
}

#[test]
fn under_a_one_way_grant_the_other_side_may_only_reply() {
    let mut world = World::default();
    world.grant(MINE, THEIRS, Grant::FOREVER);
    let reply = Content::Tcp { remote: 80, local: 40_000, flags: SYN | ACK };
    assert_eq!(world.receives(OTHER_POD, &reply), Some(CrossTenant), "no connection");
    assert_eq!(world.sends(OTHER_POD, &syn(80)), ALLOWED);
    assert_eq!(world.receives(OTHER_POD, &reply), ALLOWED);
    assert_eq!(world.receives(OTHER_POD, &syn_to(80)), Some(CrossTenant), "a connection of its own");
    let other = Content::Tcp { remote: 80, local: 40_001, flags: ACK };
    assert_eq!(world.receives(OTHER_POD, &other), Some(CrossTenant), "another port");
    assert_eq!(world.sends(OTHER_POD, &Content::Echo { id: 3 }), ALLOWED);
    assert_eq!(world.receives(OTHER_POD, &Content::EchoReply { id: 3 }), ALLOWED);
    assert_eq!(
        world.receives(OTHER_POD, &Content::Echo { id: 3 }),
        Some(CrossTenant),
        "a request with the same identifier"
    );
}

#[test]
fn the_receiving_side_of_a_one_way_grant_may_only_reply() {
    let mut world = World::default();
    world.grant(THEIRS, MINE, Grant::FOREVER);
    assert_eq!(world.sends(OTHER_POD, &syn_ack_from(80)), Some(CrossTenant));
    assert_eq!(world.receives(OTHER_POD, &syn_to(80)), ALLOWED);
    assert_eq!(world.sends(OTHER_POD, &syn_ack_from(80)), ALLOWED);
    assert_eq!(world.sends(OTHER_POD, &syn(80)), Some(CrossTenant), "a connection of its own");
}

#[test]
fn a_grant_expires_at_its_time() {
    let mut world = World::default();
    let day = 1_800_000_000;
    world.tables.runtime.clock_offset_ns = day * SECOND - START;
    world.grant(MINE, THEIRS, day + 60);
    world.grant(THEIRS, MINE, day + 60);
    assert_eq!(world.sends(OTHER_POD, &syn(80)), ALLOWED);
    world.wait(59);
    assert_eq!(world.sends(OTHER_POD, &syn(80)), ALLOWED);
    world.wait(1);
    assert_eq!(world.sends(OTHER_POD, &syn(80)), Some(CrossTenant));
    assert_eq!(world.receives(OTHER_POD, &syn_to(80)), Some(CrossTenant));
    world.grant(MINE, THEIRS, 0);
    assert_eq!(world.sends(OTHER_POD, &syn(80)), Some(CrossTenant), "the zero value has ended");
    world.grant(MINE, THEIRS, day + 3_600);
    assert_eq!(world.sends(OTHER_POD, &syn(80)), ALLOWED);
    world.tables.runtime.clock_offset_ns = 0;
    assert_eq!(world.sends(OTHER_POD, &syn(80)), Some(CrossTenant), "the time of day is unknown");
}

// Rule 7: Services.

#[test]
fn a_service_belongs_to_the_tenant_of_its_pods_or_must_be_listed() {
    let mut world = World::default();
    let service = [10, 96, 0, 10];
    world.peer(service, PeerEntry { tenant: THEIRS, kind: PeerEntry::SERVICE, ..PeerEntry::default() });
    assert_eq!(world.sends(service, &syn(80)), Some(CrossTenant));
    world.peer(service, PeerEntry { tenant: MINE, kind: PeerEntry::SERVICE, ..PeerEntry::default() });
    assert_eq!(world.sends(service, &syn(80)), ALLOWED);
    assert_eq!(world.sends(LISTED, &syn(80)), ALLOWED);
    assert_eq!(world.sends(LISTED, &syn(81)), Some(CrossTenant));
    assert_eq!(world.sends(UNLISTED, &syn(80)), Some(CrossTenant));
}

// Rules 8 to 11: ranges.

#[test]
fn subnets_and_egress_ranges_are_allowed_on_their_ports_only() {
    let world = World::default();
    for (host, content, expected) in [
        (DATABASE, syn(5432), ALLOWED),
        (DATABASE, syn(5431), Some(PortDenied)),
        (DATABASE, syn(5433), Some(PortDenied)),
        (DATABASE, udp(5432), Some(PortDenied)),
        (DATABASE, Content::Echo { id: 1 }, Some(PortDenied)),
        (DATABASE, Content::Later(TCP), Some(Fragment)),
        (DATABASE, Content::Other(50), Some(PortDenied)),
        (FILES, udp(1), ALLOWED),
        (FILES, Content::Later(TCP), ALLOWED),
        (FILES, Content::Other(50), ALLOWED),
        (PROXY, syn(3128), ALLOWED),
        (PROXY, syn(3129), Some(PortDenied)),
        ([192, 0, 2, 201], syn(3128), Some(OffSubnet)),
        ([192, 0, 2, 199], syn(3128), Some(OffSubnet)),
        ([10, 40, 0, 0], syn(5432), ALLOWED),
        ([10, 40, 0, 255], syn(5432), ALLOWED),
        ([10, 39, 255, 255], syn(5432), Some(OffSubnet)),
        ([10, 40, 2, 0], syn(5432), Some(OffSubnet)),
        (NO_POD, syn(80), Some(OffSubnet)),
        (WORLD, syn(443), Some(OffSubnet)),
    ] {
        assert_eq!(world.sends(host, &content), expected, "{host:?} {content:?}");
    }
}

#[test]
fn all_ports_of_a_protocol_include_its_fragments() {
    let mut world = World::default();
    world.ports(POSTGRES, &[(TCP, 0, u16::MAX)]);
    assert_eq!(world.sends(DATABASE, &Content::Later(TCP)), ALLOWED);
    assert_eq!(world.sends(DATABASE, &Content::Later(UDP)), Some(Fragment));
    assert_eq!(world.sends(DATABASE, &syn(0)), ALLOWED);
    world.ports(POSTGRES, &[(50, 0, u16::MAX)]);
    assert_eq!(world.sends(DATABASE, &Content::Other(50)), ALLOWED);
    assert_eq!(world.sends(DATABASE, &Content::Other(51)), Some(PortDenied));
}

#[test]
fn port_ranges_include_both_ends() {
    let mut world = World::default();
    world.ports(POSTGRES, &[(UDP, 7, 7), (TCP, 1000, 2000), (TCP, u16::MAX, u16::MAX)]);
    for (port, allowed) in [(999, false), (1000, true), (1500, true), (2000, true), (2001, false), (65535, true)] {
        assert_eq!(world.sends(DATABASE, &syn(port)).is_none(), allowed, "{port}");
    }
    assert_eq!(world.sends(DATABASE, &udp(7)), ALLOWED);
    assert_eq!(world.sends(DATABASE, &syn(7)), Some(PortDenied));
}

#[test]
fn a_wide_egress_range_does_not_include_a_subnet_of_another_tenant() {
    let mut world = World::default();
    assert_eq!(world.sends(THEIR_DATABASE, &syn(5432)), Some(CrossTenant));
    world.row(MINE, &[([0, 0, 0, 0], 0, PORTS_ANY)], PrefixGrant::CONTESTED);
    assert_eq!(
        world.sends(THEIR_DATABASE, &syn(5432)),
        Some(CrossTenant),
        "a range of all addresses does not include it"
    );
    assert_eq!(world.sends(NO_POD, &syn(5432)), Some(OffSubnet), "nor the cluster's own ranges");
    assert_eq!(world.sends(DATABASE, &syn(1)), ALLOWED, "the tenant's own subnet is allowed");
    assert_eq!(world.sends(WORLD, &syn(443)), ALLOWED, "it includes all other addresses");
    assert_eq!(world.sends(OTHER_POD, &syn(443)), Some(CrossTenant), "a pod of another tenant");
    assert_eq!(world.receives(THEIR_DATABASE, &syn_to(80)), Some(CrossTenant));
    assert_eq!(world.receives(NO_POD, &syn_to(80)), Some(CrossTenant));
    assert_eq!(world.receives(WORLD, &syn_to(80)), ALLOWED);
}

#[test]
fn the_denial_for_a_subnet_of_another_tenant_names_the_owner() {
    let world = World::default();
    let judged = world.judged(Egress, &frame(false, Egress, THEIR_DATABASE, &syn(5432)));
    assert_eq!(judged.denied.map(|denied| denied.peer), Some(THEIRS));
    let judged = world.judged(Egress, &frame(true, Egress, OTHER_POD, &syn(5432)));
    assert_eq!(judged.denied.map(|denied| denied.peer), Some(THEIRS));
    let judged = world.judged(Egress, &frame(true, Egress, WORLD, &syn(5432)));
    assert_eq!(judged.denied.map(|denied| denied.peer), Some(TenantId::UNKNOWN));
}

#[test]
fn a_tenant_with_many_prefixes_uses_the_trie() {
    let mut world = World::default().with(TenantState::TRIE_V4 | TenantState::TRIE_V6);
    assert_eq!(world.sends(FILES, &udp(1)), Some(OffSubnet), "the row is not used");
    let grant = |ports, length| PrefixGrant { ports, flags: 0, length };
    for (tenant, host, length, ports) in
        [(MINE, [10, 40, 0, 0], 16, PORTS_ANY), (MINE, [10, 40, 1, 0], 24, POSTGRES), (THEIRS, WORLD, 32, PORTS_ANY)]
    {
        world.tables.trie_v4.push((tenant, V4::new(host), length, grant(ports, length)));
        let longer = if length == 32 { 128 } else { 16 + length * 2 };
        world.tables.trie_v6.push((tenant, six(host), longer, grant(ports, longer)));
    }
    assert_eq!(world.sends(DATABASE, &udp(1)), ALLOWED);
    assert_eq!(world.sends(FILES, &udp(1)), Some(PortDenied), "the longest decides");
    assert_eq!(world.sends(FILES, &syn(5432)), ALLOWED);
    assert_eq!(world.sends(WORLD, &udp(1)), Some(OffSubnet), "another tenant's prefix");
}

#[test]
fn only_a_tenant_with_nodes_allowed_reaches_nodes() {
    let world = World::default();
    assert_eq!(world.sends(NODE, &syn(10250)), Some(Node));
    let world = world.with(TenantState::NODES_ALLOWED);
    assert_eq!(world.sends(NODE, &syn(10250)), ALLOWED);
}

#[test]
fn a_range_of_all_addresses_does_not_include_special_ones() {
    let mut world = World::default();
    world.row(MINE, &[([0, 0, 0, 0], 0, PORTS_ANY)], 0);
    let payload = [0, 1, 0, 2, 0, 8, 0, 0];
    for (host, expected) in [
        (WORLD, ALLOWED),
        ([127, 0, 0, 1], Some(Martian)),
        ([0, 0, 0, 0], Some(Martian)),
        ([240, 0, 0, 1], Some(Martian)),
        ([169, 254, 9, 9], Some(Martian)),
        ([255, 255, 255, 255], Some(Multicast)),
        ([224, 0, 0, 1], Some(Multicast)),
        ([239, 1, 2, 3], Some(Multicast)),
    ] {
        assert_eq!(world.judge(Egress, &packet(false, true, LOCAL, host, UDP, 0, &payload)), expected, "{host:?}");
    }
    for (text, expected) in [
        ("2001:db8::1", ALLOWED),
        ("::1", Some(Martian)),
        ("::", Some(Martian)),
        ("fe80::9", Some(Martian)),
        ("fec0::7", Some(Martian)),
        ("ff02::1", Some(Multicast)),
        ("ff0e::1234", Some(Multicast)),
        ("::ffff:10.20.1.7", Some(Martian)),
        ("::10.20.1.7", Some(Martian)),
        ("2002:a14:107::1", Some(Martian)),
        ("64:ff9b::a14:107", Some(Martian)),
        ("64:ff9b:1::a14:107", Some(Martian)),
        ("2001:0:1::1", Some(Martian)),
    ] {
        let address: std::net::Ipv6Addr = text.parse().expect("an address");
        let mut frame = ethernet(true, 0x86dd);
        frame.extend(ipv6(six(LOCAL).octets(), address.octets(), UDP, payload.len()));
        frame.extend(payload);
        assert_eq!(world.judge(Egress, &frame), expected, "{text}");
    }
}

#[test]
fn a_listed_nat64_prefix_is_allowed() {
    let mut world = World::default();
    world.row(MINE, &[([0, 0, 0, 0], 0, PORTS_ANY)], 0);
    let row = world.tables.rows_v6.get_mut(&1).expect("the row");
    let net = V6::new("64:ff9b::".parse::<std::net::Ipv6Addr>().expect("an address").octets());
    row.prefixes[1] = row.prefixes[0];
    row.prefixes[0].net = net;
    row.prefixes[0].mask = V6::mask(96);
    row.prefixes[0].grant.length = 96;
    let address: std::net::Ipv6Addr = "64:ff9b::1.2.3.4".parse().expect("an address");
    let mut frame = ethernet(true, 0x86dd);
    frame.extend(ipv6(six(LOCAL).octets(), address.octets(), UDP, 8));
    frame.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    assert_eq!(world.judge(Egress, &frame), ALLOWED);
}

// Packets to the pod.

#[test]
fn a_packet_to_a_pod_needs_the_pods_destination_and_another_source() {
    let world = World::default();
    let payload = [0, 1, 0, 2, 0, 8, 0, 0];
    for six in [false, true] {
        let to = |source, destination| world.judge(Ingress, &packet(six, false, source, destination, UDP, 0, &payload));
        assert_eq!(to(OWN_POD, LOCAL), ALLOWED);
        assert_eq!(to(OWN_POD, OWN_POD), Some(NotOwnAddress));
        assert_eq!(to(LOCAL, LOCAL), Some(Martian));
    }
    assert_eq!(world.judge(Ingress, &packet(false, false, OWN_POD, [224, 0, 0, 1], UDP, 0, &payload)), Some(Multicast));
    for source in [[127, 0, 0, 1], [0; 4], [255; 4], [224, 0, 0, 1]] {
        assert_eq!(world.judge(Ingress, &packet(false, false, source, LOCAL, UDP, 0, &payload)), Some(Martian));
    }
}

#[test]
fn replies_from_allowed_addresses_need_no_entry() {
    let world = World::default();
    assert_eq!(world.receives(DATABASE, &Content::Tcp { remote: 5432, local: 40_000, flags: ACK }), ALLOWED);
    assert_eq!(world.receives(FILES, &udp(2049)), ALLOWED);
    assert!(world.tables.replies_v4.borrow().is_empty() && world.tables.replies_v6.borrow().is_empty());
    assert_eq!(world.receives(WORLD, &syn_to(80)), ALLOWED);
    assert_eq!((world.tables.replies_v4.borrow().len(), world.tables.replies_v6.borrow().len()), (1, 1));
}

// Readiness, zero values, Audit mode and reasons.

#[test]
fn an_unclaimed_or_incomplete_entry_lets_nothing_pass() {
    let good = frame(false, Egress, OWN_POD, &udp(9000));
    type Break = fn(&mut MemTables);
    let breaks: [(&str, Break); 5] = [
        ("no entry", |t| t.endpoints.clear()),
        ("a zero entry", |t| *t.endpoints.get_mut(&1).expect("the pod") = EndpointEntry::default()),
        ("no cookie", |t| t.endpoints.get_mut(&1).expect("the pod").cookie = 0),
        ("no tenant", |t| t.tenants.clear()),
        ("a tenant without its valid bit", |t| t.tenants.get_mut(&MINE).expect("it").flags &= !TenantState::VALID),
    ];
    for (content, break_it) in breaks {
        let mut world = World::default();
        assert_eq!(world.judge(Egress, &good), ALLOWED);
        break_it(&mut world.tables);
        for direction in Direction::ALL {
            assert_eq!(world.judge(direction, &good), Some(NotReady), "{content}");
        }
    }
}

#[test]
fn zero_entries_grant_nothing() {
    let mut world = World::default();
    for (entry, reason) in [
        (PeerEntry::default(), Internal),
        (PeerEntry { kind: 99, tenant: MINE, ..PeerEntry::default() }, Internal),
        (PeerEntry { kind: PeerEntry::POD, ..PeerEntry::default() }, CrossTenant),
        (PeerEntry { kind: PeerEntry::POD, flags: PeerEntry::SHARED, ..PeerEntry::default() }, CrossTenant),
    ] {
        world.peer(WORLD, entry);
        assert_eq!(world.sends(WORLD, &udp(1)), Some(reason));
        assert_eq!(world.receives(WORLD, &udp(1)), Some(reason));
    }
    world.row(MINE, &[(FILES, 24, PORTS_NONE), (DATABASE, 24, PORTS_ANY)], 0);
    assert_eq!(world.sends(FILES, &udp(1)), Some(OffSubnet), "no port set");
    assert_eq!(world.sends(DATABASE, &udp(1)), Some(OffSubnet), "and the row ends there");
    world.row(MINE, &[(FILES, 24, 999)], 0);
    assert_eq!(world.sends(FILES, &udp(1)), Some(PortDenied), "a set that is not there");
    world.ports(999, &[]);
    assert_eq!(world.sends(FILES, &udp(1)), Some(PortDenied), "a set of nothing");
    world.ports(999, &[(0, 0, u16::MAX)]);
    let zero = packet(false, true, LOCAL, FILES, 0, 0, &[0; 8]);
    assert_eq!(world.judge(Egress, &zero), Some(PortDenied), "protocol 0 ends a set");
}

#[test]
fn audit_mode_reports_a_denied_packet_and_lets_it_pass() {
    let world = World::default().with(TenantState::AUDIT);
    let judged = world.judged(Egress, &frame(false, Egress, OTHER_POD, &udp(1)));
    assert!(judged.passes());
    assert_eq!((judged.outcome, judged.reason()), (Outcome::Audited, Some(CrossTenant)));
    let judged = world.judged(Egress, &frame(false, Egress, OWN_POD, &udp(1)));
    assert_eq!((judged.outcome, judged.reason()), (Outcome::Allowed, ALLOWED));
}

#[test]
fn every_drop_reason_has_a_frame_that_causes_it() {
    let mut world = World::default();
    world.peer([203, 0, 113, 1], PeerEntry::default());
    let mut seen = BTreeSet::new();
    let mut collect = |denial: Denial| seen.extend(denial);
    for host in [OTHER_POD, WORLD, UNCLAIMED, METADATA, NODE, [203, 0, 113, 1]] {
        collect(world.sends(host, &udp(1)));
    }
    collect(world.receives(UNCLAIMED, &udp(1)));
    collect(world.sends(DATABASE, &udp(1)));
    collect(world.sends(DATABASE, &Content::Later(TCP)));
    let payload = [0, 1, 0, 2, 0, 8, 0, 0];
    collect(world.judge(Egress, &packet(false, true, OWN_POD, OWN_POD, UDP, 0, &payload)));
    collect(world.judge(Egress, &packet(false, true, LOCAL, [127, 0, 0, 1], UDP, 0, &payload)));
    collect(world.judge(Egress, &packet(false, true, LOCAL, [224, 0, 0, 1], UDP, 0, &payload)));
    collect(world.judge(Egress, &packet(false, true, LOCAL, OWN_POD, ICMP, 0, &[5, 0, 0, 0, 0, 0, 0, 0])));
    collect(world.judge(Ingress, &packet(false, false, LOCAL, OWN_POD, UDP, 0, &payload)));
    collect(world.judge(Egress, &[]));
    collect(world.judge(Egress, &arp(true, 2, MAC, GATEWAY, OWN_POD)));
    collect(world.judge(Egress, &discovery(true, 134, link_local(5), link_local(1), link_local(1), MAC)));
    collect(world.judge(Egress, &ethernet(true, 0x88cc)));
    collect(world.judge(Egress, &ethernet(true, 0x8100)));
    collect(world.judge(Egress, &ethernet(false, 0x0800)));
    let mut routed = ethernet(true, 0x0800);
    routed.extend(ipv4(LOCAL, OWN_POD, UDP, 0, &[131, 3, 4, 0], 8));
    routed.extend(payload);
    collect(world.judge(Egress, &routed));
    for (kind, rest) in [(43, vec![17, 0, 0, 1, 0, 0, 0, 0]), (60, [60, 0, 1, 4, 0, 0, 0, 0].repeat(9))] {
        let mut frame = ethernet(true, 0x86dd);
        frame.extend(ipv6(six(LOCAL).octets(), six(OWN_POD).octets(), kind, rest.len()));
        frame.extend(rest);
        collect(world.judge(Egress, &frame));
    }
    world.pod_is(UNASSIGNED);
    collect(world.sends(OWN_POD, &udp(1)));
    world.tables.endpoints.clear();
    collect(world.sends(OWN_POD, &udp(1)));
    let missing: Vec<_> = DropReason::ALL.iter().filter(|reason| !seen.contains(reason)).collect();
    assert!(missing.is_empty(), "no frame was dropped for {missing:?}");
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
