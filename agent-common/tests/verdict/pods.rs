//! Rules 5 to 7: metadata services, pods and Services.

use agent_common::flow::Direction::Egress;
use agent_common::layout::{Grant, PORTS_ANY, PeerEntry};
use agent_common::reason::DropReason::*;
use agent_common::tenant::TenantState;

use crate::ALLOWED;
use crate::world::*;

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

#[test]
fn only_a_tenant_that_lists_an_address_gets_replies_from_it() {
    let from = |port| Content::Tcp { remote: port, local: 40_000, flags: SYN | ACK };
    for (address, reason) in [(METADATA, MetadataService), (UNLISTED, CrossTenant)] {
        let mut world = World::default();
        for content in [from(80), Content::Udp { remote: 80, local: 50_000 }] {
            assert_eq!(world.receives(address, &content), Some(reason), "{address:?} {content:?}");
        }
        world.row(MINE, &[(address, 32, HTTP)], 0);
        assert_eq!(world.receives(address, &from(80)), ALLOWED, "{address:?} is listed");
        assert_eq!(world.receives(address, &from(81)), Some(reason), "{address:?} on another port");
        for content in [Content::Later(TCP), Content::Unreachable(Box::new(syn(80)))] {
            assert_eq!(world.receives(address, &content), ALLOWED, "{address:?} is listed: {content:?}");
        }
        world.row(MINE, &[(address, 24, PORTS_ANY)], 0);
        assert_eq!(world.receives(address, &Content::Later(TCP)), Some(reason), "a wider range lists no {address:?}");
    }
    let open = World::default().with(TenantState::OPEN);
    assert_eq!(open.sends(UNLISTED, &syn(80)), ALLOWED, "an open tenant may send");
    assert_eq!(open.receives(UNLISTED, &from(80)), ALLOWED, "and gets the reply");
    assert_eq!(open.receives(METADATA, &from(80)), Some(MetadataService));
}

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
