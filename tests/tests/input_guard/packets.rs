//! Tests of packets that ports alone do not describe: tunnels, fragments, link-local sources, neighbour discovery.

use std::net::IpAddr;

use policy::model::input_guard::InputRules;
use testbed::probe::Outcome::{Answered, Silence};
use testbed::probe::Transport::{Icmp, Tcp, Udp};

use crate::world::{ENDS, InputWorld, NODE, NODE6, POD_PORT, POD6, PORT, TCP, TUNNEL_PORT, UDP, opening};

/// ICMPv6, and the largest hop limit.
const ICMPV6: u8 = 58;
const UNROUTED: u8 = 255;

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn the_port_of_a_tunnel_is_closed_to_pods_that_are_open() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    guard.sync(&InputRules { tunnels: [].into(), ..world.open() });
    for (_, node) in ENDS {
        assert!(world.is_echoed(8, node, TUNNEL_PORT), "the control: not a tunnel, {node}");
    }
    assert_eq!(guard.drops().tunnel.packets, 0);
    guard.sync(&world.open());
    for ((_, node), count) in ENDS.into_iter().zip(1..) {
        assert_eq!(world.pod_to_node(Udp, node, PORT), Answered, "the control: another port, {node}");
        assert!(!world.is_echoed(8, node, TUNNEL_PORT), "{node}");
        assert_eq!(guard.drops().tunnel.packets, count, "{node}");
    }
    assert_eq!(guard.drops().node.packets, 0);
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn the_protocols_of_tunnels_are_closed_to_pods_that_are_open() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    guard.sync(&world.open());
    let mut tunnel_drops = |node: IpAddr, protocol: u8| {
        let before = guard.drops();
        world.send_packet(node, protocol, UNROUTED, &[0x45; 40]);
        let after = guard.drops();
        assert_eq!(after.node, before.node, "protocol {protocol} {node}");
        after.tunnel.packets - before.tunnel.packets
    };
    for (_, node) in ENDS {
        assert_eq!(world.pod_to_node(Icmp, node, PORT), Answered, "the control: open, {node}");
        for protocol in [4, 41, 47] {
            assert_eq!(tunnel_drops(node, protocol), 1, "protocol {protocol} {node}");
        }
        assert_eq!(tunnel_drops(node, 200), 0, "the control: no tunnel, {node}");
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn fragments_are_judged_as_one_packet() {
    /// More than three frames hold.
    const LENGTH: usize = 5000;
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    for (pod, node) in ENDS {
        // Only a few fragments wait for the answer of neighbour discovery.
        assert_eq!(world.pod_to_node(Icmp, node, PORT), Answered, "the control: no guard, {node}");
        for port in [PORT, TUNNEL_PORT] {
            assert!(world.is_echoed(LENGTH, node, port), "the control: no guard, {node} {port}");
        }
        guard.sync(&world.exact([opening(pod, node, UDP, PORT)]));
        assert!(world.is_echoed(LENGTH, node, PORT), "{node}");
        guard.sync(&world.strict());
        let before = guard.drops();
        assert!(!world.is_echoed(LENGTH, node, PORT), "{node}");
        assert_eq!(guard.drops().node.packets, before.node.packets + 1, "{node}");
        guard.sync(&world.open());
        assert!(!world.is_echoed(LENGTH, node, TUNNEL_PORT), "{node}");
        assert_eq!(guard.drops().tunnel.packets, before.tunnel.packets + 1, "{node}");
        guard.sync(&InputRules::default());
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_link_local_source_is_judged_by_its_interface() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    world.wait_for_multicast();
    let addresses_only = InputRules { interfaces: [].into(), ..world.strict() };
    guard.sync(&addresses_only);
    assert_eq!(world.pod_to_link_local(), Answered, "the control: the interface is not judged");
    guard.sync(&world.strict());
    assert_eq!(world.pod_to_link_local(), Silence);
    // The addresses of pods are judged on any interface.
    guard.sync(&addresses_only);
    for (pod, node) in ENDS {
        assert_eq!(world.pod_to_node(Tcp, node, PORT), Silence, "{pod}");
    }
    guard.sync(&InputRules { pods: [].into(), ..addresses_only });
    assert_eq!(world.pod_to_node(Tcp, NODE, PORT), Answered, "the control: nothing is judged");
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn neighbour_discovery_works_from_both_ends() {
    for (from_node, allowed) in [(true, true), (false, true), (true, false), (false, false)] {
        // Each case needs ends that do not know each other.
        let world = InputWorld::new().expect("a world");
        let mut guard = world.guard();
        world.wait_for_multicast();
        guard.sync(&world.exact([opening(POD6, NODE6, TCP, PORT)]));
        if !allowed {
            // The control: without its rule, neighbour discovery fails.
            world.nft(&format!("delete rule inet bulkhead judge handle {}", world.handle("icmpv6")));
        }
        let outcome = match from_node {
            true => world.node_to_pod(Tcp, POD6, POD_PORT),
            false => world.pod_to_node(Tcp, NODE6, PORT),
        };
        assert_eq!(outcome, if allowed { Answered } else { Silence }, "from the node: {from_node}");
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn neighbour_discovery_is_neither_routed_nor_announces_routes() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    assert_eq!(world.pod_to_node(Icmp, NODE6, PORT), Answered, "the ends know each other");
    guard.sync(&world.strict());
    let mut is_dropped = |kind: u8, hops: u8| {
        let before = guard.drops().node.packets;
        world.send_packet(NODE6, ICMPV6, hops, &[&[kind, 0, 0, 0][..], &[0; 36]].concat());
        guard.drops().node.packets > before
    };
    // Router solicitation, neighbour solicitation and neighbour advertisement (RFC 4861, section 4).
    for kind in [133, 135, 136] {
        assert!(!is_dropped(kind, UNROUTED), "the control: type {kind} of this link");
        assert!(is_dropped(kind, UNROUTED - 1), "type {kind} that a router forwarded");
    }
    assert!(is_dropped(134, UNROUTED), "a router advertisement");
    assert!(is_dropped(137, UNROUTED), "a redirect");
}
