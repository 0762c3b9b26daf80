//! A packet to a Service is judged twice: by the tenant of the Service's pods, and by its final destination.

mod world;

use agent_common::addr::{V4, V6};
use agent_common::endpoint::Endpoint;
use agent_common::flow::Direction::{Egress, Ingress};
use agent_common::headers::Header;
use agent_common::layout::PeerEntry;
use agent_common::mark::{MarkKind, PacketMark};
use agent_common::post_nat::{Network, check_leaving, may_arrive};
use agent_common::reason::DropReason::{self, CrossTenant, MetadataService, Node, NotReady, OffSubnet, PortDenied};
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
fn a_packet_to_a_listed_address_is_not_marked() {
    // The tenant lists exactly this address, so everything behind it is allowed.
    assert_eq!(verdict(&World::default(), Egress, LISTED), Verdict::ALLOW);
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
fn only_tunnel_packets_may_go_to_a_node() {
    let world = World::default();
    for port in [4789, 8472, 6081] {
        assert_eq!(checked(&world, NODE, MarkKind::Request, &udp(port)), None, "{port}");
    }
    for content in [syn(10_250), syn(4789), udp(53), Content::Echo { id: 1 }] {
        assert_eq!(checked(&world, NODE, MarkKind::Request, &content), Some(Node), "{content:?}");
    }
    for protocol in [4, 41, 47] {
        assert_eq!(checked(&world, NODE, MarkKind::Request, &Content::Other(protocol)), None, "{protocol}");
    }
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
        for kind in [MarkKind::Request, MarkKind::Reply] {
            let mark = PacketMark { tenant, kind };
            assert_eq!(PacketMark::from_bits(mark.bits()), Some(mark));
            assert!(mark.bits() <= u32::from(u16::MAX));
        }
    }
    for number in [0, 1, 0x3fff, 0x7fff, 1 << 16 | 0x8001, u32::MAX] {
        assert_eq!(PacketMark::from_bits(number), None, "{number:x}");
    }
}
