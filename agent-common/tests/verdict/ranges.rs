//! Rules 8 to 11: ranges and nodes.

use agent_common::addr::{V4, V6};
use agent_common::flow::Direction::{Egress, Ingress};
use agent_common::layout::{PORTS_ANY, PrefixGrant};
use agent_common::reason::DropReason::*;
use agent_common::tenant::{TenantId, TenantState};

use crate::ALLOWED;
use crate::world::*;

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
        let [out, _] = both_ways(text);
        assert_eq!(world.judge(Egress, &out), expected, "{text}");
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

/// A datagram of the pod to an IPv6 address, and one back.
fn both_ways(text: &str) -> [Vec<u8>; 2] {
    let address: std::net::Ipv6Addr = text.parse().expect("an address");
    let payload = [0, 1, 0, 2, 0, 8, 0, 0];
    let build = |out: bool| {
        let (source, destination) = (six(LOCAL).octets(), address.octets());
        let (source, destination) = if out { (source, destination) } else { (destination, source) };
        let mut frame = ethernet(out, 0x86dd);
        frame.extend(ipv6(source, destination, UDP, payload.len()));
        frame.extend(payload);
        frame
    };
    [build(true), build(false)]
}

#[test]
fn a_translator_s_prefix_opens_no_address_that_is_somebody_s() {
    let mut world = World::default();
    world.row(MINE, &[([0, 0, 0, 0], 0, PORTS_ANY)], 0);
    let row = world.tables.rows_v6.get_mut(&1).expect("the row");
    let prefix = |text: &str, length: u8| {
        let mut prefix = row.prefixes[0];
        prefix.net = V6::new(text.parse::<std::net::Ipv6Addr>().expect("an address").octets());
        (prefix.mask, prefix.grant.length) = (V6::mask(length), length);
        prefix
    };
    let prefixes = [
        prefix("64:ff9b::", 96),
        prefix("64:ff9b:1::", 48),
        prefix("2002::", 16),
        prefix("2001::", 32),
        prefix("2001:db8::", 64),
    ];
    row.prefixes[..prefixes.len()].copy_from_slice(&prefixes);
    for (text, expected) in [
        ("64:ff9b::1.2.3.4", ALLOWED),
        ("64:ff9b::10.40.1.9", ALLOWED),
        ("64:ff9b::10.50.0.9", Some(CrossTenant)),
        ("64:ff9b::10.10.2.7", Some(CrossTenant)),
        ("64:ff9b::10.10.1.6", ALLOWED),
        ("64:ff9b::10.10.9.9", Some(OffSubnet)),
        ("64:ff9b::192.0.2.10", Some(Node)),
        ("64:ff9b::168.63.129.16", Some(MetadataService)),
        ("64:ff9b:1::10.50.0.9", Some(CrossTenant)),
        ("64:ff9b:1:a32:0:900::", Some(CrossTenant)),
        ("64:ff9b:1:a32:1:200::", ALLOWED),
        ("2002:a32:9::1", Some(CrossTenant)),
        ("2002:102:304::1", ALLOWED),
        ("2001:0:102:304:0:0:f5cd:fff6", Some(CrossTenant)),
        ("2001:db8::5efe:a32:9", Some(CrossTenant)),
        ("2001:db8::1", ALLOWED),
    ] {
        let [out, _] = both_ways(text);
        assert_eq!(world.judge(Egress, &out), expected, "{text}");
    }
    // Back, the rest may enter as it may from IPv4.
    for (text, expected) in [
        ("64:ff9b::1.2.3.4", ALLOWED),
        ("64:ff9b::10.50.0.9", Some(CrossTenant)),
        ("64:ff9b::192.0.2.10", ALLOWED),
        ("2001:db8::5efe:a32:9", Some(CrossTenant)),
    ] {
        let [_, back] = both_ways(text);
        assert_eq!(world.judge(Ingress, &back), expected, "{text}, back");
    }
    // A tenant whose packets are not checked reaches no other tenant's subnet this way either.
    let open = world.with(TenantState::OPEN);
    for (text, expected) in [("64:ff9b::10.50.0.9", Some(CrossTenant)), ("64:ff9b::1.2.3.4", ALLOWED)] {
        let [out, _] = both_ways(text);
        assert_eq!(open.judge(Egress, &out), expected, "{text}, open");
    }
}

#[test]
fn an_exact_entry_opens_ports_of_a_node_and_a_wide_range_opens_none() {
    let mut world = World::default();
    let wide = ([0, 0, 0, 0], 0, PORTS_ANY);
    world.row(MINE, &[wide], PrefixGrant::CONTESTED);
    // A node that is known by its range only.
    const FAR_NODE: Host = [192, 0, 3, 10];
    world.owner([192, 0, 3, 0], 24, TenantId::NODES);
    let dns = [(NODE, 53), (FAR_NODE, 53), (NODE, 8472), (NODE, 22)].map(|(node, port)| (node, udp(port)));
    for (node, content) in &dns {
        assert_eq!(world.sends(*node, content), Some(Node), "no entry: {content:?}");
    }
    world.ports(SQUID, &[(UDP, 53, 53), (TCP, 53, 53), (UDP, 8472, 8472)]);
    for node in [NODE, FAR_NODE] {
        let grant = |length| PrefixGrant { ports: SQUID, flags: 0, length };
        world.tables.trie_v4.push((MINE.of_openings(), V4::new(node), 32, grant(32)));
        world.tables.trie_v6.push((MINE.of_openings(), six(node), 128, grant(128)));
    }
    assert_eq!(world.sends(NODE, &udp(53)), Some(Node), "without the tenant's flag the entry is not read");
    let world = world.with(TenantState::NODE_OPENINGS);
    let expected = [ALLOWED, ALLOWED, Some(Node), Some(Node)];
    for ((node, content), expected) in dns.iter().zip(expected) {
        assert_eq!(world.sends(*node, content), expected, "{content:?}: neither a tunnel's port nor another one");
    }
    assert_eq!(world.sends(NODE, &syn(53)), ALLOWED);
    assert_eq!(world.sends(NODE, &Content::Echo { id: 1 }), Some(Node));
    assert_eq!(world.sends(NODE, &Content::Later(UDP)), Some(Node), "a later fragment shows no port");
    assert_eq!(world.sends([192, 0, 3, 11], &udp(53)), Some(Node), "another node");
}
