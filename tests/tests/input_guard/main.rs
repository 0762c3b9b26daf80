//! Tests of the input guard: which packets of a pod reach the node itself.
//!
//! Real packets in network namespaces, without an agent. Each test has a control: the same packet has the other outcome
//! under other rules. The program `nft` checks one listing and makes the changes that are not the guard's.

mod packets;
mod table;
mod world;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use policy::model::input_guard::InputRules;
use testbed::probe::Outcome::{Answered, Refused, Silence};
use testbed::probe::Transport::{self, Icmp, Tcp, Udp};
use testbed::stream::EchoConnection;
use world::{ENDS, InputWorld, NODE, NODE6, OTHER, OTHER_PORT, OTHER6, POD, POD_PORT, POD6, PORT, TCP, UDP, opening};

/// Addresses of the node, one of them on `lo`.
const NODES: [IpAddr; 3] = [NODE, NODE6, OTHER];

fn assert_reached(world: &InputWorld, when: &str) {
    for node in NODES {
        for transport in Transport::ALL {
            assert_eq!(world.pod_to_node(transport, node, PORT), Answered, "{when}: {transport:?} {node}");
        }
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_pod_reaches_the_node_only_if_allowed() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    assert_reached(&world, "the control: no guard");
    guard.sync(&world.strict());
    let mut before = guard.drops();
    for node in NODES {
        for transport in Transport::ALL {
            assert_eq!(world.pod_to_node(transport, node, PORT), Silence, "{transport:?} {node}");
            let after = guard.drops();
            assert!(after.node.packets > before.node.packets, "{transport:?} {node}: {after:?}");
            assert!(after.node.bytes > before.node.bytes, "{transport:?} {node}: {after:?}");
            assert_eq!(after.tunnel, before.tunnel, "{transport:?} {node}");
            before = after;
        }
    }
    guard.sync(&world.open());
    assert_reached(&world, "open");
    assert_eq!(guard.drops(), before, "what passes is not counted");
    guard.sync(&world.strict());
    assert_eq!(world.pod_to_node(Tcp, NODE, PORT), Silence, "closed again");
    guard.sync(&InputRules::default());
    assert_reached(&world, "removed");
    assert!(!guard.remove(), "empty rules leave no table");
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn an_opening_is_for_one_pod_address_protocol_and_port() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    let stranger = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 77));
    let stranger6 = IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0x77));
    for (pod, stranger, node, other) in [(POD, stranger, NODE, OTHER), (POD6, stranger6, NODE6, OTHER6)] {
        let outcomes = || {
            let targets = [(Tcp, node, PORT), (Tcp, node, OTHER_PORT), (Tcp, other, PORT), (Udp, node, PORT)];
            targets.map(|(transport, to, port)| world.pod_to_node(transport, to, port))
        };
        assert_eq!(outcomes(), [Answered; 4], "the control: no guard, {pod}");
        guard.sync(&world.exact([opening(pod, node, TCP, PORT)]));
        assert_eq!(outcomes(), [Answered, Silence, Silence, Silence], "TCP, {pod}");
        guard.sync(&world.exact([opening(pod, node, UDP, PORT)]));
        assert_eq!(outcomes(), [Silence, Silence, Silence, Answered], "UDP, {pod}");
        guard.sync(&world.exact([TCP, UDP].map(|protocol| opening(stranger, node, protocol, PORT))));
        assert_eq!(outcomes(), [Silence; 4], "another pod, {pod}");
        guard.sync(&InputRules::default());
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn an_opening_for_a_protocol_without_ports_opens_nothing() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    for ((pod, node), protocol) in ENDS.into_iter().zip([1, 58]) {
        guard.sync(&world.open());
        assert_eq!(world.pod_to_node(Icmp, node, PORT), Answered, "the control: open, {pod}");
        // An echo request has its checksum where the destination port would be.
        guard.sync(&world.exact((0..=u16::MAX).map(|checksum| opening(pod, node, protocol, checksum))));
        assert!(guard.is_intact());
        assert_eq!(world.pod_to_node(Icmp, node, PORT), Silence, "{pod}");
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn the_node_reaches_the_pod_and_gets_answers() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    guard.sync(&world.strict());
    for (pod, node) in ENDS {
        assert_eq!(world.pod_to_node(Tcp, node, PORT), Silence, "the control: the guard works, {pod}");
        world.forget_neighbours();
        for transport in Transport::ALL {
            assert_eq!(world.node_to_pod(transport, pod, POD_PORT), Answered, "{transport:?} {pod}");
        }
        // An ICMP error about a packet of the node is related, in the direction of replies.
        assert_eq!(world.node_to_pod(Udp, pod, POD_PORT + 1), Refused, "a closed port, {pod}");
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_connection_that_the_pod_opened_before_is_cut() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    // As on a node with kube-proxy. Otherwise conntrack begins with the guard, and may take the server for the opener.
    world.nft(
        "add table inet other; add chain inet other in { type filter hook input priority 0; }; \
         add rule inet other in ct state new",
    );
    let connections = ENDS.map(|(pod, node)| {
        let target = SocketAddr::new(node, PORT);
        EchoConnection::between(&world.pod, Some(pod), target).expect("a connection")
    });
    thread::sleep(Duration::from_millis(300));
    guard.sync(&world.strict());
    // An answer that has already arrived may be read a little later.
    thread::sleep(Duration::from_millis(50));
    let cut = Instant::now();
    for connection in connections {
        let record = connection.stop();
        let (answers, late) = (record.answers.len(), record.answers_after(cut));
        assert!(answers > 20, "the control: only {answers} answers before");
        assert!(late == 0 && record.error.is_some(), "{late} answers, {:?}", record.error);
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn translated_packets_are_judged_by_their_final_address() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    let service = IpAddr::V4(Ipv4Addr::new(10, 99, 8, 8));
    world.nft(&format!(
        "add table ip nat; add chain ip nat in {{ type nat hook prerouting priority dstnat; }}; \
         add rule ip nat in ip daddr {service} tcp dport 80 dnat to {NODE}:{PORT}"
    ));
    let outcome = || world.pod_to_node(Tcp, service, 80);
    assert_eq!(outcome(), Answered, "the control: no guard");
    guard.sync(&world.strict());
    assert_eq!(outcome(), Silence);
    assert!(guard.drops().node.packets > 0);
    guard.sync(&world.exact([opening(POD, NODE, TCP, PORT)]));
    assert_eq!(outcome(), Answered, "the final address is open");
    guard.sync(&world.exact([opening(POD, service, TCP, 80)]));
    assert_eq!(outcome(), Silence, "only the first address is open");
}
