//! Rule 4: ARP, neighbour discovery and ICMP errors.

use agent_common::addr::{V4, V6};
use agent_common::flow::Direction::{Egress, Ingress};
use agent_common::layout::EndpointEntry;
use agent_common::reason::DropReason::*;

use crate::ALLOWED;
use crate::world::*;

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

/// An ICMP error to the pod from `from`, which quotes a packet of the pod to `to`.
fn error_to_pod(six: bool, from: Host, to: Host, about: &Content) -> Vec<u8> {
    let quoted = frame(six, Egress, to, about);
    let (kind, protocol) = if six { (1, ICMPV6) } else { (3, ICMP) };
    let body = [&[kind, 1, 0, 0, 0, 0, 0, 0][..], &quoted[14..]].concat();
    packet(six, false, from, LOCAL, protocol, 0, &body)
}

#[test]
fn an_icmp_error_about_what_the_pod_may_send_reaches_it_from_any_router() {
    let mut world = World::default();
    world.grant(MINE, THEIRS, u64::MAX);
    let cases = [
        (OTHER_POD, OTHER_POD, udp(53), ALLOWED, "the peer of a one-way grant refuses"),
        (THEIR_DATABASE, OTHER_POD, udp(53), ALLOWED, "a router in another tenant's subnet"),
        (NO_POD, FILES, udp(53), ALLOWED, "a router in the pods' range"),
        ([169, 254, 7, 7], FILES, udp(53), ALLOWED, "a router with a link-local address"),
        (THEIR_DATABASE, DATABASE, udp(53), Some(CrossTenant), "about a port that the pod may not use"),
        (THEIR_DATABASE, THEIR_DATABASE, udp(53), Some(CrossTenant), "about another tenant's subnet"),
        (OTHER_POD, FILES, udp(53), Some(CrossTenant), "a pod for somebody else"),
    ];
    for (from, to, about, expected, what) in cases {
        for six in [false, true] {
            let skipped = six && from[0] == 169;
            let verdict = world.judge(Ingress, &error_to_pod(six, from, to, &about));
            assert!(skipped || verdict == expected, "{what}: {verdict:?}");
        }
    }
    assert!(world.tables.replies.borrow().is_empty(), "an error records no connection");
    // It quotes a packet that the pod did not send.
    let foreign = packet(false, false, THEIR_DATABASE, LOCAL, ICMP, 0, &{
        let quoted = packet(false, true, OWN_POD, FILES, UDP, 0, &[0, 1, 0, 2, 0, 8, 0, 0]);
        [&[3, 1, 0, 0, 0, 0, 0, 0][..], &quoted[14..]].concat()
    });
    assert_eq!(world.judge(Ingress, &foreign), Some(CrossTenant));
}

#[test]
fn a_unicast_packet_leaves_in_no_frame_to_a_group() {
    let world = World::default();
    for six in [false, true] {
        let mut sent = frame(six, Egress, OWN_POD, &udp(53));
        assert_eq!(world.judge(Egress, &sent), ALLOWED, "to the gateway's address");
        for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            sent[..6].copy_from_slice(&group);
            assert_eq!(world.judge(Egress, &sent), Some(Multicast), "{group:x?}");
        }
        let mut fragment = frame(six, Egress, FILES, &Content::Later(UDP));
        assert_eq!(world.judge(Egress, &fragment), ALLOWED, "a later fragment");
        fragment[..6].copy_from_slice(&[0xff; 6]);
        assert_eq!(world.judge(Egress, &fragment), Some(Multicast), "a later fragment to all");
    }
}

#[test]
fn link_local_multicast_of_the_pod_itself_is_no_attack() {
    let world = World::default();
    let asks = |source: V6| {
        let mut frame = ethernet(true, 0x86dd);
        frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 0xfb]);
        let group: std::net::Ipv6Addr = "ff02::fb".parse().expect("an address");
        frame.extend(ipv6(source.octets(), group.octets(), UDP, 8));
        frame.extend([0x14, 0xe9, 0x14, 0xe9, 0, 8, 0, 0]);
        world.judge(Egress, &frame)
    };
    assert_eq!(asks(link_local(5)), Some(Multicast), "mDNS from its own address");
    assert_eq!(asks(link_local(9)), Some(SpoofedSource), "mDNS from a neighbour's");
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
pub(crate) fn arp(out: bool, operation: u8, sender_mac: [u8; 6], sender: Host, target: Host) -> Vec<u8> {
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
        (1, MAC, LOCAL, DATABASE, ALLOWED, "resolves an address that it may reach on one port"),
        (1, MAC, LOCAL, THEIR_DATABASE, Some(CrossTenant), "resolves an address of another tenant's subnet"),
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
fn on_a_link_that_only_the_node_hears_a_pod_resolves_any_address_and_claims_only_its_own() {
    let mut world = World::default();
    let entry = world.tables.endpoints[&1];
    let without_gateway = EndpointEntry { gateway_v4: V4::default(), gateway_v6: V6::default(), ..entry };
    world.tables.endpoints.insert(1, EndpointEntry { flags: 0, ..without_gateway });
    for target in [[169, 254, 1, 1], WORLD, OTHER_POD] {
        assert_eq!(world.judge(Egress, &arp(true, 1, MAC, LOCAL, target)), ALLOWED, "{target:?}");
        assert_eq!(world.judge(Egress, &arp(true, 1, MAC, target, GATEWAY)), Some(SpoofedNeighbor), "{target:?}");
    }
    for target in [link_local(1), six(WORLD)] {
        let group = target.solicited_node();
        assert_eq!(world.judge(Egress, &discovery(true, 135, six(LOCAL), group, target, MAC)), ALLOWED);
        let to_other = discovery(true, 135, six(LOCAL), six(OTHER_POD), target, MAC);
        assert_eq!(world.judge(Egress, &to_other), Some(CrossTenant), "a router would forward it");
    }
    world.tables.endpoints.insert(1, without_gateway);
    assert_eq!(world.judge(Egress, &arp(true, 1, MAC, LOCAL, WORLD)), Some(OffSubnet), "the control: on a bridge");
}

#[test]
fn a_router_advertisement_comes_only_from_the_gateway() {
    let world = World::default();
    let group = V6::ALL_NODES;
    let advertisement = |mac: [u8; 6]| {
        let mut frame = discovery(false, 134, link_local(1), group, group, mac);
        frame[6..12].copy_from_slice(&mac);
        world.judge(Ingress, &frame)
    };
    assert_eq!((advertisement(GATEWAY_MAC), advertisement(OTHER_MAC)), (ALLOWED, Some(RouterAdvertisement)));
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
pub(crate) fn discovery(out: bool, kind: u8, source: V6, destination: V6, target: V6, mac: [u8; 6]) -> Vec<u8> {
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
fn discovery_and_arp_carry_nothing_between_tenants() {
    let world = World::default();
    let (local, probe_target) = (six(LOCAL), six(LOCAL));
    let probe = |destination: V6| {
        let mut frame = discovery(true, 135, V6::UNSPECIFIED, destination, probe_target, MAC);
        frame.truncate(14 + 40 + 24);
        frame[19] = 24;
        frame
    };
    let longer = |frame: &[u8], bytes: usize| [frame, &vec![7; bytes]].concat();
    let solicits = discovery(true, 135, local, link_local(1), link_local(1), MAC);
    let asks = arp(true, 1, MAC, LOCAL, GATEWAY);
    for frame in [&probe(probe_target.solicited_node()), &solicits, &asks] {
        assert_eq!(world.judge(Egress, frame), ALLOWED, "the control");
        assert_eq!(world.judge(Egress, &longer(frame, 1000)), Some(Malformed), "bytes behind the message");
    }
    assert_eq!(world.judge(Egress, &longer(&asks, 60 - asks.len())), ALLOWED, "padded to the shortest frame");
    for elsewhere in [link_local(9), V6::ALL_NODES, six(OTHER_POD)] {
        assert_eq!(world.judge(Egress, &probe(elsewhere)), Some(Multicast), "a probe to {:x?}", elsewhere.octets());
    }
    let hears = |target: V6| {
        let mut frame = discovery(false, 135, V6::UNSPECIFIED, target.solicited_node(), target, OTHER_MAC);
        frame[6..12].copy_from_slice(&OTHER_MAC);
        world.judge(Ingress, &frame)
    };
    assert_eq!((hears(local), hears(six(OTHER_POD))), (ALLOWED, Some(NotOwnAddress)), "probes for its own address");
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
