//! Rule 3: replies and the connections they belong to, and packets to the pod.

use agent_common::flow::Direction::Ingress;
use agent_common::layout::Grant;
use agent_common::reason::DropReason::*;

use crate::ALLOWED;
use crate::world::*;

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
    world.wait(121);
    assert_eq!(world.sends(WORLD, &fin), Some(OffSubnet), "two minutes while the opener has sent a SYN alone");
    assert_eq!(world.receives(WORLD, &syn_to(80)), ALLOWED);
    assert_eq!(world.sends(WORLD, &syn_ack_from(80)), ALLOWED);
    assert_eq!(world.receives(WORLD, &ack_to(80)), ALLOWED);
    world.wait(3_600);
    assert_eq!(world.sends(WORLD, &fin), ALLOWED, "three hours while it is open");
    world.wait(121);
    assert_eq!(world.sends(WORLD, &fin), Some(OffSubnet), "two minutes once it closes");
}

#[test]
fn a_new_connection_with_the_ports_of_a_closed_one_expires_as_late_as_any() {
    for closes in [FIN | ACK, RST] {
        let world = World::default();
        assert_eq!(world.receives(WORLD, &syn_to(80)), ALLOWED);
        assert_eq!(world.sends(WORLD, &syn_ack_from(80)), ALLOWED);
        assert_eq!(world.sends(WORLD, &Content::Tcp { remote: 50_000, local: 80, flags: closes }), ALLOWED);
        world.wait(60);
        assert_eq!(world.receives(WORLD, &syn_to(80)), ALLOWED, "the same ports again");
        assert_eq!(world.sends(WORLD, &syn_ack_from(80)), ALLOWED);
        assert_eq!(world.receives(WORLD, &ack_to(80)), ALLOWED);
        world.wait(3_600);
        assert_eq!(world.sends(WORLD, &syn_ack_from(80)), ALLOWED, "{closes:#x}: an hour without a packet");
    }
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
    assert!(world.tables.replies.borrow().is_empty());
    assert_eq!(world.receives(WORLD, &syn_to(80)), ALLOWED);
    assert_eq!(world.tables.replies.borrow().len(), 2, "one for each family");
}
