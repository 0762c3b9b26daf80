//! A packet to a Service is judged twice: by the tenant of the Service's pods, and by its final destination.

mod world;

use agent_common::addr::{V4, V6};
use agent_common::endpoint::Endpoint;
use agent_common::flow::Direction::{Egress, Ingress};
use agent_common::headers::Header;
use agent_common::layout::PeerEntry;
use agent_common::mark::{CHECKED, MarkKind, PacketMark};
use agent_common::post_nat::{ConnDirection, Network, PacketSender, check_leaving, effective_kind, may_arrive, sender};
use agent_common::reason::DropReason::{
    self, CrossTenant, ExtensionHeader, Fragment, MetadataService, Node, NotReady, OffSubnet, PortDenied,
};
use agent_common::tenant::{LocalTenant, TenantId, TenantState};
use agent_common::verdict::Verdict;
use world::*;

const SERVICE: Host = [10, 96, 0, 10];

fn serving(tenant: TenantId) -> World {
    let mut world = World::default();
    world.peer(SERVICE, PeerEntry { tenant, kind: PeerEntry::SERVICE, ..PeerEntry::default() });
    world
}

/// The verdict on a packet with another host, the same in both families.
fn verdict(world: &World, direction: agent_common::flow::Direction, other: Host) -> Verdict {
    let entry = world.tables.endpoints[&1];
    let endpoint = Endpoint::new(&entry, world.tables.tenants[&entry.tenant]).expect("it is claimed");
    let content = if direction == Egress { syn(80) } else { syn_to(80) };
    let [four, six] = [false, true]
        .map(|six| world.tables.verdict(&endpoint, direction, &frame(six, direction, other, &content)[..]));
    assert_eq!(four, six);
    four
}

/// A frame as the uplink guard reads it: from its network header on.
struct LeavingPacket(Vec<u8>);

impl Network for LeavingPacket {
    fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.0[12], self.0[13]])
    }
    fn read<H: Header>(&self, offset: u32) -> Option<H> {
        let from = 14 + offset as usize;
        H::read_from_bytes(self.0.get(from..from + size_of::<H>())?).ok()
    }
}

/// The post-NAT check of a marked packet of the pod's tenant, whose final destination is `to`.
fn checked(world: &World, to: Host, kind: MarkKind, content: &Content) -> Option<DropReason> {
    let local = LocalTenant { tenant: MINE, state: world.tables.tenants.get(&MINE).copied().unwrap_or_default() };
    let [four, six] = [false, true]
        .map(|six| check_leaving(&world.tables, local, kind, &LeavingPacket(frame(six, Egress, to, content))));
    assert_eq!(four, six, "{to:?} {content:?}");
    four
}

fn request(world: &World, to: Host) -> Option<DropReason> {
    checked(world, to, MarkKind::Request, &syn(80))
}

fn reply(world: &World, to: Host) -> Option<DropReason> {
    checked(world, to, MarkKind::Reply, &syn_ack_from(80))
}

#[test]
fn a_packet_allowed_by_its_ends_alone_is_marked() {
    let mut world = serving(MINE);
    for host in [SERVICE, OWN_POD, SHARED] {
        assert_eq!(verdict(&world, Egress, host), Verdict::ALLOW_MARKED, "{host:?}");
        assert_eq!(verdict(&world, Ingress, host), Verdict::ALLOW, "{host:?}");
    }
    assert_eq!(verdict(&world, Egress, FILES), Verdict::ALLOW_MARKED);
    world = serving(THEIRS);
    assert_eq!(verdict(&world, Egress, SERVICE).denied().map(|denied| denied.reason), Some(CrossTenant));
    world.grant(MINE, THEIRS, u64::MAX);
    assert_eq!(verdict(&world, Egress, SERVICE), Verdict::ALLOW_MARKED, "one way");
    world.grant(THEIRS, MINE, u64::MAX);
    assert_eq!(verdict(&world, Egress, SERVICE), Verdict::ALLOW_MARKED, "both ways");
    world = serving(THEIRS).with(TenantState::OPEN);
    assert_eq!(verdict(&world, Egress, SERVICE), Verdict::ALLOW_MARKED, "an open tenant");
}

#[test]
fn a_packet_to_a_listed_address_may_be_led_to_an_address_that_nobody_owns_and_nowhere_else() {
    let mut world = World::default();
    assert_eq!(verdict(&world, Egress, LISTED), Verdict::ALLOW_LISTED);
    world.peer(SERVICE, PeerEntry { kind: PeerEntry::SERVICE_LISTED, ..PeerEntry::default() });
    for (to, expected) in [
        (LISTED, None),
        (WORLD, None),
        (OWN_POD, None),
        (FILES, None),
        (OTHER_POD, Some(CrossTenant)),
        (THEIR_DATABASE, Some(CrossTenant)),
        (NODE, Some(Node)),
        (METADATA, Some(MetadataService)),
        (NO_POD, Some(OffSubnet)),
        (DATABASE, Some(PortDenied)),
    ] {
        assert_eq!(checked(&world, to, MarkKind::Listed, &syn(80)), expected, "{to:?}");
    }
}

#[test]
fn a_reply_is_marked_as_a_reply() {
    // The node may send the packet on to another sender behind its address.
    assert_eq!(verdict(&World::default().with(TenantState::NODES_ALLOWED), Egress, NODE), Verdict::ALLOW_REPLY);
    let world = World::default();
    assert_eq!(world.receives(WORLD, &syn_to(80)), None);
    let reply = frame(false, Egress, WORLD, &syn_ack_from(80));
    let entry = world.tables.endpoints[&1];
    let endpoint = Endpoint::new(&entry, world.tables.tenants[&entry.tenant]).expect("it is claimed");
    assert_eq!(world.tables.verdict(&endpoint, Egress, &reply[..]), Verdict::ALLOW_REPLY);
}

#[test]
fn a_marked_reply_may_go_anywhere_but_to_another_tenant() {
    let mut world = World::default();
    for (to, expected) in [
        (OWN_POD, None),
        (NODE, None),
        (WORLD, None),
        (DATABASE, None),
        (OTHER_POD, Some(CrossTenant)),
        (THEIR_DATABASE, Some(CrossTenant)),
        (METADATA, Some(MetadataService)),
        (NO_POD, Some(OffSubnet)),
    ] {
        assert_eq!(reply(&world, to), expected, "{to:?}");
    }
    world.grant(THEIRS, MINE, u64::MAX);
    assert_eq!(reply(&world, OTHER_POD), None, "it may open connections, so replies to it pass");
    assert_eq!(request(&world, OTHER_POD), Some(CrossTenant), "but no requests");
    assert_eq!(reply(&world, THEIR_DATABASE), Some(CrossTenant));
}

#[test]
fn no_packet_of_a_pod_is_led_to_a_node_or_its_tunnels() {
    let world = World::default();
    for content in [syn(10_250), syn(4789), udp(53), udp(4789), udp(8472), udp(6081), Content::Echo { id: 1 }] {
        assert_eq!(checked(&world, NODE, MarkKind::Request, &content), Some(Node), "{content:?}");
    }
    for protocol in [4, 41, 47] {
        assert_eq!(checked(&world, NODE, MarkKind::Request, &Content::Other(protocol)), Some(Node), "{protocol}");
    }
    assert_eq!(checked(&world, NODE, MarkKind::Request, &Content::Other(50)), None, "IPsec of the node's own");
    for flag in [TenantState::NODES_ALLOWED, TenantState::SHARED, TenantState::OPEN] {
        let world = World::default().with(flag);
        for (content, expected) in
            [(udp(8472), Some(Node)), (Content::Other(47), Some(Node)), (udp(53), None), (syn(10_250), None)]
        {
            assert_eq!(checked(&world, NODE, MarkKind::Request, &content), expected, "{content:?}");
            let direct = verdict_on(&world, NODE, &content).denied().map(|denied| denied.reason);
            assert_eq!(direct, expected, "{content:?} without translation");
        }
    }
}

/// The verdict on a packet from the pod, the same in both families.
fn verdict_on(world: &World, to: Host, content: &Content) -> Verdict {
    let entry = world.tables.endpoints[&1];
    let endpoint = Endpoint::new(&entry, world.tables.tenants[&entry.tenant]).expect("it is claimed");
    let [four, six] =
        [false, true].map(|six| world.tables.verdict(&endpoint, Egress, &frame(six, Egress, to, content)[..]));
    assert_eq!(four, six);
    four
}

#[test]
fn a_reply_must_be_one_for_kernel_conntrack_too_and_a_wiped_mark_opens_nothing() {
    use MarkKind::{Listed, Reply, Request};
    let (original, reply) = (Some(ConnDirection::Original), Some(ConnDirection::Reply));
    for (kind, direction, expected) in [
        (Some(Reply), original, Request),
        (Some(Reply), reply, Reply),
        (Some(Reply), None, Reply),
        (Some(Request), reply, Request),
        (Some(Listed), original, Listed),
        (None, original, Request),
        (None, reply, Reply),
        (None, None, Reply),
    ] {
        assert_eq!(effective_kind(kind, direction), expected, "{kind:?} {direction:?}");
    }
    let states = [0, 0xff00, 0xff01, 0xff02, 0xff03, 0xff04, 0xff07].map(ConnDirection::from_state);
    assert_eq!(states, [None, original, None, original, reply, reply, None]);
}

#[test]
fn the_sender_is_known_by_its_interface_and_by_its_mark_only_behind_a_bridge() {
    let mark = |tenant, kind| Some(PacketMark { tenant, kind });
    let from = |tenant, kind| Some(PacketSender { tenant, kind });
    let (nobody, request) = (TenantId::UNKNOWN, Some(MarkKind::Request));
    for (claimant, mark, expected) in [
        (MINE, mark(nobody, MarkKind::Request), from(MINE, request)),
        (MINE, mark(MINE, MarkKind::Request), from(MINE, request)),
        (MINE, mark(THEIRS, MarkKind::Request), from(MINE, None)),
        (MINE, None, from(MINE, None)),
        (nobody, mark(THEIRS, MarkKind::Request), from(THEIRS, request)),
        (nobody, mark(nobody, MarkKind::Request), None),
        (nobody, None, None),
    ] {
        assert_eq!(sender(claimant, mark), expected, "{claimant:?} {mark:?}");
    }
}

#[test]
fn a_port_behind_extension_headers_is_judged_too() {
    let world = World::default();
    let local = LocalTenant { tenant: MINE, state: world.tables.tenants[&MINE] };
    let checked = |headers: &[(u8, &[u8])], port: u16| {
        let mut packet = frame(true, Egress, DATABASE, &syn(port));
        let first = packet[14 + 6];
        let behind = packet.split_off(14 + 40);
        let mut kinds = headers.iter().map(|(kind, _)| *kind).chain([first]);
        packet[14 + 6] = kinds.next().expect("a header");
        for ((_, body), next) in headers.iter().zip(kinds) {
            packet.push(next);
            packet.extend(*body);
        }
        packet.extend(behind);
        check_leaving(&world.tables, local, MarkKind::Request, &LeavingPacket(packet))
    };
    let options: (u8, &[u8]) = (60, &[0, 1, 4, 0, 0, 0, 0]);
    let longer: (u8, &[u8]) = (0, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let atomic: (u8, &[u8]) = (44, &[0, 0, 0, 0, 0, 0, 7]);
    let first: (u8, &[u8]) = (44, &[0, 0, 1, 0, 0, 0, 7]);
    let later: (u8, &[u8]) = (44, &[0, 0, 8, 0, 0, 0, 7]);
    let authentication: (u8, &[u8]) = (51, &[1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
    for headers in [&[options][..], &[longer, options], &[atomic], &[first], &[authentication], &[]] {
        assert_eq!(checked(headers, 5432), None, "{headers:?}");
        assert_eq!(checked(headers, 22), Some(PortDenied), "{headers:?}");
    }
    assert_eq!(checked(&[later], 22), None, "a later fragment");
    assert_eq!(checked(&[options; 9], 5432), Some(ExtensionHeader), "more than from_pod reads");
}

#[test]
fn a_packet_that_hides_its_port_is_no_later_fragment() {
    let world = World::default();
    let local = LocalTenant { tenant: MINE, state: world.tables.tenants[&MINE] };
    let mut packet = frame(false, Egress, DATABASE, &syn(5432));
    let check = |packet: &[u8]| check_leaving(&world.tables, local, MarkKind::Request, &LeavingPacket(packet.to_vec()));
    assert_eq!(check(&packet), None, "the control");
    packet.truncate(14 + 20 + 4);
    assert_eq!(check(&packet), Some(Fragment));
}

#[test]
fn arp_and_neighbour_discovery_leave_by_a_port_of_a_bridge() {
    let world = World::default();
    let local = LocalTenant { tenant: MINE, state: world.tables.tenants[&MINE] };
    let check = |packet: Vec<u8>| check_leaving(&world.tables, local, MarkKind::Request, &LeavingPacket(packet));
    let mut arp = vec![0; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(check(arp), None);
    let mut discovery = frame(true, Egress, WORLD, &Content::Echo { id: 1 });
    discovery[14 + 40] = 135;
    assert_eq!(check(discovery.clone()), Some(OffSubnet), "a router has forwarded it");
    discovery[14 + 7] = 255;
    assert_eq!(check(discovery), None);
}

#[test]
fn a_marked_request_must_go_where_the_pod_may_open_connections() {
    let mut world = World::default();
    for (to, expected) in [
        (OWN_POD, None),
        (SHARED, None),
        (FILES, None),
        (NODE, Some(Node)),
        (OTHER_POD, Some(CrossTenant)),
        (THEIR_DATABASE, Some(CrossTenant)),
        (DATABASE, Some(PortDenied)),
        (METADATA, Some(MetadataService)),
        (WORLD, Some(OffSubnet)),
        (NO_POD, Some(OffSubnet)),
    ] {
        assert_eq!(request(&world, to), expected, "{to:?}");
    }
    assert_eq!(checked(&world, DATABASE, MarkKind::Request, &syn(5432)), None);
    for (to, expected) in [(DATABASE, None), (THEIR_DATABASE, Some(CrossTenant)), (WORLD, Some(OffSubnet))] {
        assert_eq!(
            checked(&world, to, MarkKind::Request, &Content::Later(TCP)),
            expected,
            "a later fragment to {to:?}"
        );
    }
    world.grant(MINE, THEIRS, u64::MAX);
    assert_eq!(request(&world, OTHER_POD), None);
    assert_eq!(request(&world, THEIR_DATABASE), Some(CrossTenant));
}

#[test]
fn an_open_tenant_still_reaches_no_subnet_of_another_tenant() {
    let world = World::default().with(TenantState::OPEN);
    assert_eq!(request(&world, WORLD), None);
    assert_eq!(request(&world, THEIR_DATABASE), Some(CrossTenant));
    let world = World::default().with(TenantState::AUDIT);
    assert_eq!(request(&world, THEIR_DATABASE), None, "Audit mode denies nothing");
}

#[test]
fn a_marked_packet_of_a_removed_tenant_is_denied() {
    let mut world = World::default();
    world.tables.tenants.clear();
    assert_eq!(request(&world, OWN_POD), Some(NotReady));
}

#[test]
fn the_mark_names_the_sender_of_a_packet_with_a_translated_source() {
    let mut world = World::default();
    let local = |world: &World, tenant| LocalTenant { tenant, state: world.tables.tenants[&tenant] };
    let arrives = |world: &World, from, to| {
        let (from, to) = (local(world, from), local(world, to));
        let four = may_arrive::<V4, _>(&world.tables, from, to);
        assert_eq!(four, may_arrive::<V6, _>(&world.tables, from, to));
        four
    };
    for (from, to, expected) in
        [(MINE, MINE, true), (MINE, COMMON, true), (COMMON, MINE, true), (MINE, THEIRS, false), (THEIRS, MINE, false)]
    {
        assert_eq!(arrives(&world, from, to), expected, "{from:?} to {to:?}");
    }
    let open = World::default().with(TenantState::OPEN);
    assert!(arrives(&open, THEIRS, MINE), "an open tenant refuses nobody");
    assert!(!arrives(&open, MINE, THEIRS), "but is refused by another tenant's pod, whatever its source became");
    world.grant(MINE, THEIRS, u64::MAX);
    assert!(arrives(&world, MINE, THEIRS) && arrives(&world, THEIRS, MINE), "it opens connections, and gets replies");
}

#[test]
fn a_mark_names_its_tenant_and_other_numbers_are_no_mark() {
    for tenant in [0, 1, 2, 511, 16_383].map(TenantId) {
        for kind in [MarkKind::Request, MarkKind::Reply, MarkKind::Listed] {
            let mark = PacketMark { tenant, kind };
            assert_eq!(PacketMark::from_bits(mark.bits()), Some(mark));
            assert!(mark.bits() <= u32::from(u16::MAX));
        }
    }
    for number in [0, 1, 0x3fff, CHECKED, 1 << 16 | 0x8001, u32::MAX] {
        assert_eq!(PacketMark::from_bits(number), None, "{number:x}");
    }
    let routed = PacketMark { tenant: TenantId::UNKNOWN, kind: MarkKind::Listed };
    assert_eq!(routed.bits() & 0x1f, 0, "Cilium reads these bits as its own");
}

#[test]
fn a_packet_that_ends_before_its_port_leaves_for_nowhere() {
    let world = World::default().with(TenantState::NODES_ALLOWED);
    let local = LocalTenant { tenant: MINE, state: world.tables.tenants[&MINE] };
    for (content, to) in
        [(udp(80), OWN_POD), (syn(80), FILES), (udp(6081), NODE), (Content::Sctp { remote: 1, local: 2 }, FILES)]
    {
        for (six, header) in [(false, 20), (true, 40)] {
            let mut packet = LeavingPacket(frame(six, Egress, to, &content));
            let whole = check_leaving(&world.tables, local, MarkKind::Request, &packet);
            assert_eq!(whole, (to == NODE).then_some(Node), "the tunnel alone is denied: {content:?}");
            packet.0.truncate(14 + header + 2);
            let cut = check_leaving(&world.tables, local, MarkKind::Request, &packet);
            assert_eq!(cut, Some(Fragment), "{content:?} six {six}");
        }
    }
}
