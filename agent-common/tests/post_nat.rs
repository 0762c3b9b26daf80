//! A packet to a Service is judged twice: by whose pods stand behind it, and by where it really goes.

mod world;

use agent_common::access::LocalTenant;
use agent_common::addr::{V4, V6};
use agent_common::flow::Direction::{Egress, Ingress};
use agent_common::headers::Header;
use agent_common::layout::PeerEntry;
use agent_common::post_nat::{MarkKind, Network, PacketMark, arrives, leaves};
use agent_common::reason::DropReason::{self, CrossTenant, MetadataService, Node, NotReady, OffSubnet, PortDenied};
use agent_common::tenant::{TenantId, TenantState};
use agent_common::verdict::{Endpoint, Verdict};
use world::*;

const SERVICE: Host = [10, 96, 0, 10];

fn serving(tenant: TenantId) -> World {
    let mut world = World::default();
    world.peer(SERVICE, PeerEntry { tenant, kind: PeerEntry::SERVICE, ..PeerEntry::default() });
    world
}

/// The bare verdict, the same in both families.
fn verdict(world: &World, direction: agent_common::flow::Direction, other: Host) -> Verdict {
    let entry = world.tables.endpoints[&1];
    let endpoint = Endpoint::new(&entry, world.tables.tenants[&entry.tenant]).expect("it is claimed");
    let what = if direction == Egress { syn(80) } else { syn_to(80) };
    let [four, six] =
        [false, true].map(|six| world.tables.verdict(&endpoint, direction, &frame(six, direction, other, &what)[..]));
    assert_eq!(four, six);
    four
}

/// A frame, as the guard sees it: from its network header on.
struct Led(Vec<u8>);

impl Network for Led {
    fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.0[12], self.0[13]])
    }
    fn read<H: Header>(&self, offset: u32) -> Option<H> {
        let from = 14 + offset as usize;
        H::read_from_bytes(self.0.get(from..from + size_of::<H>())?).ok()
    }
}

/// Where a marked packet of the pod's tenant may really go.
fn led(world: &World, to: Host, kind: MarkKind, what: &What) -> Option<DropReason> {
    let local = LocalTenant { tenant: MINE, state: world.tables.tenants.get(&MINE).copied().unwrap_or_default() };
    let [four, six] = [false, true].map(|six| leaves(&world.tables, local, kind, &Led(frame(six, Egress, to, what))));
    assert_eq!(four, six, "{to:?} {what:?}");
    four
}

fn post_nat(world: &World, to: Host) -> Option<DropReason> {
    led(world, to, MarkKind::Request, &syn(80))
}

fn answered(world: &World, to: Host) -> Option<DropReason> {
    led(world, to, MarkKind::Reply, &syn_ack_from(80))
}

#[test]
fn what_passes_by_its_ends_alone_is_noted() {
    let mut world = serving(MINE);
    for host in [SERVICE, FRIEND, SHARED] {
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
    assert_eq!(verdict(&world, Egress, SERVICE), Verdict::ALLOW_MARKED, "not judged yet");
}

#[test]
fn what_goes_back_or_is_meant_as_it_stands_is_not() {
    // An administrator has named this very address: what stands behind it is meant.
    assert_eq!(verdict(&World::default(), Egress, LISTED), Verdict::ALLOW);
}

#[test]
fn what_goes_back_is_noted_as_an_answer() {
    // Under a node's address may be anybody, to whom the node sends it on.
    assert_eq!(verdict(&World::default().with(TenantState::NODES_ALLOWED), Egress, NODE), Verdict::ALLOW_REPLY);
    let world = World::default();
    assert_eq!(world.gets(WORLD, &syn_to(80)), None);
    let answer = frame(false, Egress, WORLD, &syn_ack_from(80));
    let entry = world.tables.endpoints[&1];
    let endpoint = Endpoint::new(&entry, world.tables.tenants[&entry.tenant]).expect("it is claimed");
    assert_eq!(world.tables.verdict(&endpoint, Egress, &answer[..]), Verdict::ALLOW_REPLY);
}

#[test]
fn an_answer_is_led_to_anybody_but_another_tenant() {
    let mut world = World::default();
    for (to, fate) in [
        (FRIEND, None),
        (NODE, None),
        (WORLD, None),
        (DATABASE, None),
        (STRANGER, Some(CrossTenant)),
        (THEIR_DATABASE, Some(CrossTenant)),
        (METADATA, Some(MetadataService)),
        (NO_POD, Some(OffSubnet)),
    ] {
        assert_eq!(answered(&world, to), fate, "{to:?}");
    }
    world.grant(THEIRS, MINE, u64::MAX);
    assert_eq!(answered(&world, STRANGER), None, "who may query is answered");
    assert_eq!(post_nat(&world, STRANGER), Some(CrossTenant), "and asked nothing");
    assert_eq!(answered(&world, THEIR_DATABASE), Some(CrossTenant));
}

#[test]
fn to_a_node_goes_only_what_a_tunnel_has_wrapped_up() {
    let world = World::default();
    for port in [4789, 8472, 6081] {
        assert_eq!(led(&world, NODE, MarkKind::Request, &udp(port)), None, "{port}");
    }
    for what in [syn(10_250), syn(4789), udp(53), What::Echo { id: 1 }] {
        assert_eq!(led(&world, NODE, MarkKind::Request, &what), Some(Node), "{what:?}");
    }
    for protocol in [4, 41, 47] {
        assert_eq!(led(&world, NODE, MarkKind::Request, &What::Other(protocol)), None, "{protocol}");
    }
}

#[test]
fn it_must_end_where_the_pod_may_go_itself() {
    let mut world = World::default();
    for (to, fate) in [
        (FRIEND, None),
        (SHARED, None),
        (FILES, None),
        (NODE, Some(Node)),
        (STRANGER, Some(CrossTenant)),
        (THEIR_DATABASE, Some(CrossTenant)),
        (DATABASE, Some(PortDenied)),
        (METADATA, Some(MetadataService)),
        (WORLD, Some(OffSubnet)),
        (NO_POD, Some(OffSubnet)),
    ] {
        assert_eq!(post_nat(&world, to), fate, "{to:?}");
    }
    assert_eq!(led(&world, DATABASE, MarkKind::Request, &syn(5432)), None);
    for (to, fate) in [(DATABASE, None), (THEIR_DATABASE, Some(CrossTenant)), (WORLD, Some(OffSubnet))] {
        assert_eq!(led(&world, to, MarkKind::Request, &What::Later(TCP)), fate, "a later fragment to {to:?}");
    }
    world.grant(MINE, THEIRS, u64::MAX);
    assert_eq!(post_nat(&world, STRANGER), None);
    assert_eq!(post_nat(&world, THEIR_DATABASE), Some(CrossTenant));
}

#[test]
fn a_tenant_that_is_not_judged_still_reaches_no_other_s_subnet() {
    let world = World::default().with(TenantState::OPEN);
    assert_eq!(post_nat(&world, WORLD), None);
    assert_eq!(post_nat(&world, THEIR_DATABASE), Some(CrossTenant));
    let world = World::default().with(TenantState::AUDIT);
    assert_eq!(post_nat(&world, THEIR_DATABASE), None, "audit stops nothing");
}

#[test]
fn a_tenant_that_is_gone_goes_nowhere() {
    let mut world = World::default();
    world.tables.tenants.clear();
    assert_eq!(post_nat(&world, FRIEND), Some(NotReady));
}

#[test]
fn who_arrives_under_another_address_is_known_by_the_note() {
    let mut world = World::default();
    let local = |world: &World, tenant| LocalTenant { tenant, state: world.tables.tenants[&tenant] };
    let comes = |world: &World, from, to| {
        let (from, to) = (local(world, from), local(world, to));
        let four = arrives::<V4, _>(&world.tables, from, to);
        assert_eq!(four, arrives::<V6, _>(&world.tables, from, to));
        four
    };
    for (from, to, fate) in
        [(MINE, MINE, true), (MINE, COMMON, true), (COMMON, MINE, true), (MINE, THEIRS, false), (THEIRS, MINE, false)]
    {
        assert_eq!(comes(&world, from, to), fate, "{from:?} to {to:?}");
    }
    world.grant(MINE, THEIRS, u64::MAX);
    assert!(comes(&world, MINE, THEIRS) && comes(&world, THEIRS, MINE), "it queries, and is answered");
}

#[test]
fn a_note_names_its_tenant_and_other_numbers_nobody() {
    // Nobody's is judged as nobody's: never.
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
