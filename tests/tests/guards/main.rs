//! Tests of each guard alone: an unclaimed pod has no program on its interface and still sends nothing out of the node.
//!
//! This holds with and without a running agent. Claimed pods and the node itself do send out of the node.

mod groups;
mod replies;

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use testbed::agent::Agent;
use testbed::capture::Capture;
use testbed::frames::craft::{Frame, Payload};
use testbed::host::{Family, Host, UPSTREAM};
use testbed::matrix::{Cell, probe_in};
use testbed::probe::{Outcome, Transport, probe};
use testbed::raw;
use testbed::stream::{DatagramStream, EchoConnection};
use testbed::world::{Layout, World};

/// The pod that no endpoint names.
const STRANGER: Host = Host::GlobexWeb;
/// The time within which the agent must notice a change.
const SOON: Duration = Duration::from_secs(3);

/// An agent whose configuration omits one pod; `guarded` says whether its guards are on.
fn agent(world: &World, guarded: bool) -> Agent {
    let mut config = world.config();
    config.endpoints.retain(|endpoint| endpoint.name != STRANGER.name());
    config.write(&world.config_path()).expect("a configuration");
    let beyond = world.outside().name();
    let flags = ["--foreign-netns", beyond, "--uplink", if guarded { "auto" } else { "none" }];
    let agent = Agent::start_flagged(world, &flags).expect("an agent");
    agent.wait_ready(Duration::from_secs(60)).expect("the agent becomes ready");
    agent
}

/// Datagrams of the unclaimed pod that leave the node, by family.
fn datagrams_out(world: &World) -> [usize; 2] {
    let streams =
        Family::ALL.map(|family| DatagramStream::start(world, STRANGER, Host::Internet, family).expect("a stream"));
    thread::sleep(Duration::from_millis(250));
    streams.map(|stream| {
        let stream = stream.stop();
        assert!(stream.sent > 50, "only {} were sent", stream.sent);
        stream.arrived.len()
    })
}

/// Raw frames of the unclaimed pod that leave the node, sent both by packet socket and by ring, under the source
/// addresses of `claimed_addresses`.
fn frames_out(world: &World, claimed_addresses: Host, marker: &'static str) -> usize {
    let (own, gateway) = STRANGER.macs();
    let next_hop = if world.layout == Layout::Routed { gateway } else { [0x02, 0xfe, 0, 0, 1, 1] };
    let payload = || Payload::udp(40000, Host::Internet.port());
    let frames = [
        Frame::v4(Host::Internet.v4(), payload()).ip(|ip| ip.source = claimed_addresses.v4()),
        Frame::v6(Host::Internet.v6(), payload()).ip6(|ip| ip.source = claimed_addresses.v6()),
    ];
    let frames = frames.map(|frame| frame.with(|f| (f.from, f.to) = (own, next_hop)).build(marker.as_bytes()));
    // Servers answer, and ICMP errors about their answers quote the marker. Only UDP to the destination counts.
    let holds = move |bytes: &[u8]| {
        let (v4, v6) = (Host::Internet.v4().octets(), Host::Internet.v6().octets());
        let goes_v4 = bytes.get(30..34) == Some(&v4[..]) && bytes[23] == 17;
        let goes = goes_v4 || (bytes.get(38..54) == Some(&v6[..]) && bytes[20] == 17);
        goes && bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
    };
    let capture = Capture::start(world.outside(), holds).expect("a capture");
    raw::send_frames(world.netns(STRANGER), "eth0", &frames).expect("frames are sent");
    raw::send_through_ring(world.netns(STRANGER), "eth0", &frames).expect("a ring of frames is sent");
    capture.stop().len()
}

fn assert_closed_to_the_unclaimed(world: &World, when: &'static str) {
    let layout = world.layout;
    assert_eq!(datagrams_out(world), [0, 0], "{layout:?} {when}");
    assert_eq!(frames_out(world, STRANGER, when), 0, "{layout:?} {when}");
    // A self-assigned address does not help.
    assert_eq!(frames_out(world, Host::Internet, when), 0, "{layout:?} {when}");
    let tcp = Cell { from: STRANGER, to: Host::GlobexDb, family: Family::V4, transport: Transport::Tcp };
    assert_eq!(probe_in(world, tcp), Outcome::Silence, "{layout:?} {when}");
}

/// What must continue: claimed pods, and the node, which sends and forwards.
fn assert_open_to_the_others(world: &World, when: &str) {
    for (from, to) in [(Host::Dns, Host::Internet), (Host::AcmeWeb, Host::AcmeFar), (Host::Node, Host::Internet)] {
        for (family, transport) in
            [(Family::V4, Transport::Udp), (Family::V6, Transport::Tcp), (Family::V4, Transport::Icmp)]
        {
            let cell = Cell { from, to, family, transport };
            assert_eq!(probe_in(world, cell), Outcome::Answered, "{:?} {when}: {cell:?}", world.layout);
        }
    }
    // From outside to a pod: in through the uplink, and the answer out through it.
    let probe = Cell { from: Host::AcmeFar, to: Host::AcmeWeb, family: Family::V4, transport: Transport::Tcp };
    assert_eq!(probe_in(world, probe), Outcome::Answered, "{:?} {when}: {probe:?}", world.layout);
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn only_claimed_pods_and_the_node_itself_send_out_of_the_node_with_and_without_an_agent() {
    for layout in [Layout::Routed, Layout::Bridged] {
        let world = World::new(layout).expect("a world");
        // The control: without the guard the unclaimed pod's interface is left alone.
        drop(agent(&world, false));
        assert!(datagrams_out(&world).iter().all(|arrived| *arrived > 50), "{layout:?}");
        assert_eq!(frames_out(&world, STRANGER, "before"), 4, "{layout:?}");

        let mut agent = agent(&world, true);
        assert_closed_to_the_unclaimed(&world, "guarded");
        assert_open_to_the_others(&world, "guarded");
        let guard = if layout == Layout::Routed { "uplink" } else { "bridge" };
        let drops = |agent: &Agent| {
            agent.metrics().expect("metrics").sum("bulkhead_guard_drop_packets_total", &[("guard", guard)])
        };
        let before = drops(&agent);
        assert!(before > 100.0, "{before} of {guard}");

        let connection = EchoConnection::start(&world, Host::AcmeWeb, Host::AcmeDb, Family::V4).expect("a connection");
        agent.kill();
        assert_closed_to_the_unclaimed(&world, "killed");
        assert_open_to_the_others(&world, "killed");
        agent.start_again().expect("it starts again");
        agent.wait_ready(Duration::from_secs(60)).expect("the agent becomes ready again");
        assert_closed_to_the_unclaimed(&world, "back");
        assert_open_to_the_others(&world, "back");
        assert!(drops(&agent) > before, "what was dropped meanwhile is counted");
        let connection = connection.stop();
        assert!(
            connection.error.is_none() && connection.longest_gap() < Duration::from_secs(1),
            "{:?}",
            connection.error
        );
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_pod_that_appears_while_no_agent_runs_sends_nothing_out_until_it_is_claimed() {
    for layout in [Layout::Routed, Layout::Bridged] {
        let mut world = World::new(layout).expect("a world");
        let mut agent = agent(&world, true);
        agent.kill();
        world.remove_pod(Host::Dns).expect("it is removed");
        world.add_pod(Host::Dns).expect("it is added");
        world.introduce().expect("neighbours");
        let stream = DatagramStream::start(&world, Host::Dns, Host::Internet, Family::V4).expect("a stream");
        thread::sleep(Duration::from_millis(300));
        let back = Instant::now();
        agent.start_again().expect("it starts again");
        agent.wait_ready(Duration::from_secs(60)).expect("the agent becomes ready again");
        let ready = Instant::now();
        thread::sleep(Duration::from_millis(1500));
        let stream = stream.stop();
        assert!(
            stream.arrived.iter().all(|at| *at > back),
            "{layout:?}: packets left before the agent claimed the pod"
        );
        assert!(stream.arrived_after(ready) > 100, "{layout:?}: only {} arrived", stream.arrived_after(ready));
    }
}

/// Runs nftables commands on the node.
fn rule(world: &World, commands: &str) {
    let nft = world.node.start(std::process::Command::new("nft").arg(commands)).expect("nft runs").wait();
    assert!(nft.expect("it ends").success());
}

/// Makes the node translate addresses: rules for the chains `in` and `out` of the table `nat`.
fn translate(world: &World, rules: &str) {
    let chains = "add table ip nat; add chain ip nat in { type nat hook prerouting priority dstnat; }; \
                  add chain ip nat out { type nat hook postrouting priority srcnat; }; ";
    rule(world, &(chains.to_owned() + rules));
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn source_nat_does_not_hide_an_unclaimed_sender() {
    let world = World::new(Layout::Routed).expect("a world");
    translate(&world, "add rule ip nat out oifname uplink masquerade");
    let masked = |from: Host, marker: &'static str| {
        let node = Host::Node.v4().octets();
        let holds = move |bytes: &[u8]| {
            bytes.get(26..30) == Some(&node[..])
                && bytes[23] == 17
                && bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
        };
        let capture = Capture::start(world.outside(), holds).expect("a capture");
        let (own, gateway) = from.macs();
        let frame = Frame::v4(Host::Internet.v4(), Payload::udp(40000, Host::Internet.port()));
        let frame = frame.ip(|ip| ip.source = from.v4()).with(|f| (f.from, f.to) = (own, gateway));
        raw::send_frames(world.netns(from), "eth0", &[frame.build(marker.as_bytes())]).expect("it is sent");
        capture.stop().len()
    };
    assert_eq!(masked(STRANGER, "before"), 1, "the control: it leaves under the node's address");
    let _agent = agent(&world, true);
    assert_eq!((masked(STRANGER, "stranger"), masked(Host::Dns, "claimed")), (0, 1));
}

/// Ports of an allowed pod's address that the node translates to other destinations.
const TO_FOREIGN_DATABASE: u16 = 6000;
const TO_OWN_DATABASE: u16 = 6001;
const TO_FOREIGN_POD: u16 = 6002;

/// Translates as kube-proxy does for external addresses of Services, with the node's address as the source.
fn translate_destinations(world: &World) {
    let service = Host::AcmeFar.v4();
    let rule_for = |port: u16, to: Host| {
        let target = SocketAddr::new(to.address(Family::V4), to.port());
        format!("add rule ip nat in ip daddr {service} tcp dport {port} dnat to {target}; ")
    };
    let rules = rule_for(TO_FOREIGN_DATABASE, Host::GlobexDb)
        + &rule_for(TO_OWN_DATABASE, Host::AcmeDb)
        + &rule_for(TO_FOREIGN_POD, Host::GlobexApi)
        + &format!("add rule ip nat out ip daddr {} masquerade", Host::GlobexApi.v4());
    translate(world, &rules);
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn translated_packets_are_checked_at_their_final_destination() {
    for layout in [Layout::Routed, Layout::Bridged] {
        let world = World::new(layout).expect("a world");
        translate_destinations(&world);
        let connects = |from: Host, port: u16| {
            let target = SocketAddr::new(Host::AcmeFar.address(Family::V4), port);
            world.netns(from).run(|| probe(Transport::Tcp, Some(from.address(Family::V4)), target))
        };
        // The control: without the guard the translated packets arrive.
        let unguarded = agent(&world, false);
        assert_eq!(connects(Host::AcmeWeb, TO_FOREIGN_DATABASE), Outcome::Answered, "{layout:?}");
        drop(unguarded);
        let guarded = agent(&world, true);
        guarded
            .wait(SOON, "guarded", || connects(Host::AcmeWeb, TO_FOREIGN_DATABASE) == Outcome::Silence)
            .expect("the guard drops it");
        assert_eq!(
            connects(Host::AcmeWeb, TO_OWN_DATABASE),
            Outcome::Answered,
            "{layout:?}: acme may reach its own database"
        );
        let drops = guarded.metrics().expect("metrics");
        let reason = [("guard", "uplink"), ("reason", "cross_tenant")];
        assert!(drops.sum("bulkhead_guard_drop_packets_total", &reason) > 0.0, "{layout:?}");
        // The receiver knows the sender despite source NAT: a Shared tenant's pod may connect, acme's may not.
        assert_eq!(connects(Host::Dns, TO_FOREIGN_POD), Outcome::Answered, "{layout:?}");
        assert_eq!(connects(Host::AcmeWeb, TO_FOREIGN_POD), Outcome::Silence, "{layout:?}");
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_packet_that_leaves_by_two_guarded_interfaces_is_judged_once() {
    let world = World::new(Layout::Routed).expect("a world");
    let (node, gateway) = (Host::Node.v4(), UPSTREAM.0);
    let stacked = format!(
        "link add over type bridge\nlink set over up\naddr del {node}/24 dev uplink\naddr add {node}/24 dev over\n\
         link set uplink master over\nroute replace default via {gateway} dev over\n"
    );
    world.node.ip(&stacked).expect("a bridge over the uplink");
    world.node.wait_until_up().expect("the uplink is a port of it");
    // acme lists the metadata service's address, and the node leads packets to it elsewhere.
    let (listed, port) = (Host::Metadata.v4(), 6003);
    let rule_for = |port: u16, to: Host| {
        let target = SocketAddr::new(to.address(Family::V4), to.port());
        format!("add rule ip nat in ip daddr {listed} tcp dport {port} dnat to {target}; ")
    };
    translate(&world, &(rule_for(port, Host::Internet) + &rule_for(port + 1, Host::GlobexDb)));
    let mut config = world.config();
    config.tenants.iter_mut().filter(|tenant| tenant.name == "acme").for_each(|tenant| {
        tenant.egress.push(("listed".to_owned(), vec![format!("{listed}/32")], vec![]));
    });
    config.write(&world.config_path()).expect("a configuration");
    let agent = Agent::start_flagged(&world, &["--foreign-netns", world.outside().name(), "--uplink", "auto"]);
    let agent = agent.expect("an agent");
    agent.wait_ready(Duration::from_secs(60)).expect("the agent becomes ready");
    let connects = |port: u16| {
        let target = SocketAddr::new(Host::Metadata.address(Family::V4), port);
        world.netns(Host::AcmeWeb).run(|| probe(Transport::Tcp, Some(Host::AcmeWeb.address(Family::V4)), target))
    };
    agent.wait(SOON, "a path", || connects(port) == Outcome::Answered).expect("an address that nobody owns");
    assert_eq!(connects(port + 1), Outcome::Silence, "another tenant's database");
    let status = String::from_utf8(agent.query(&["status"]).expect("it runs").stdout).expect("text");
    assert!(status.contains("over") && status.contains("uplink"), "both have the guard: {status}");
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn guards_are_shown_by_status_outlive_the_agent_and_are_removed_by_cleanup() {
    let world = World::new(Layout::Bridged).expect("a world");
    let mut agent = agent(&world, true);
    let status = agent.query(&["status"]).expect("it runs");
    let status = String::from_utf8(status.stdout).expect("text");
    assert!(status.contains("guard uplink: uplink\n") && status.contains("guard bridge: cni0\n"), "{status}");
    agent.kill();
    let dry = agent.on_pins(&["cleanup", "--dry-run"]).expect("it runs");
    let dry = String::from_utf8(dry.stdout).expect("text");
    assert!(dry.contains("programs on uplink ") && dry.contains("programs on cni0 "), "{dry}");
    assert_eq!(datagrams_out(&world), [0, 0], "a dry run removes nothing");
    assert!(agent.on_pins(&["cleanup"]).expect("it runs").status.success());
    assert_eq!(world.scope.pins(), Vec::<std::path::PathBuf>::new());
    let end = Instant::now() + SOON;
    while !datagrams_out(&world).iter().all(|arrived| *arrived > 50) {
        assert!(Instant::now() < end, "a guard is still attached");
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn an_agent_with_guards_switched_off_removes_them() {
    let world = World::new(Layout::Routed).expect("a world");
    drop(agent(&world, true));
    assert_eq!(datagrams_out(&world), [0, 0]);
    let unguarded = agent(&world, false);
    unguarded
        .wait(SOON, "unguarded", || datagrams_out(&world).iter().all(|arrived| *arrived > 50))
        .expect("the agent detaches its guards");
}

/// Source ports of requests. The node sends replies to another destination, as if its conntrack entry had expired.
const REPLY_TO_FOREIGN_DATABASE: u16 = 7600;
const REPLY_TO_OWN_DATABASE: u16 = 7601;
/// The node redirects no reply to this port.
const PLAIN_REPLY: u16 = 7603;

fn translate_replies(world: &World) {
    let rule_for = |port: u16, to: Host| {
        let (client, to) = (Host::Internet.v4(), to.v4());
        format!("add rule ip raw in iifname != uplink ip daddr {client} udp dport {port} ip daddr set {to}; ")
    };
    let rules = "add table ip raw; add chain ip raw in { type filter hook prerouting priority raw; }; ".to_owned()
        + &rule_for(REPLY_TO_FOREIGN_DATABASE, Host::GlobexDb)
        + &rule_for(REPLY_TO_OWN_DATABASE, Host::AcmeDb);
    rule(world, &rules);
}

/// An outside host sends to acme's pod from a port, and the pod answers. Returns the answers that arrive at the
/// translated destination.
fn answers_at(world: &World, port: u16, end: Host) -> usize {
    let pod = world.netns(Host::AcmeWeb).run(|| UdpSocket::bind((Host::AcmeWeb.v4(), 7602))).expect("a socket");
    let client = world.outside().run(|| UdpSocket::bind((Host::Internet.v4(), port))).expect("a socket");
    pod.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    let to = end.v4().octets();
    let translated =
        move |bytes: &[u8]| bytes.get(30..34) == Some(&to[..]) && bytes.get(36..38) == Some(&port.to_be_bytes()[..]);
    let capture = Capture::start(world.outside(), translated).expect("a capture");
    for _ in 0..5 {
        client.send_to(b"asked", (Host::AcmeWeb.v4(), 7602)).expect("it is sent");
        let (_, prober) = pod.recv_from(&mut [0; 8]).expect("the request arrives");
        pod.send_to(b"answered", prober).expect("it is answered");
    }
    capture.stop().len()
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_translated_reply_reaches_no_other_tenant() {
    let world = World::new(Layout::Routed).expect("a world");
    translate_replies(&world);
    drop(agent(&world, false));
    for (port, end) in [(REPLY_TO_FOREIGN_DATABASE, Host::GlobexDb), (REPLY_TO_OWN_DATABASE, Host::AcmeDb)] {
        assert_eq!(answers_at(&world, port, end), 5, "the control: without the guard");
    }
    let agent = agent(&world, true);
    assert_eq!(answers_at(&world, REPLY_TO_FOREIGN_DATABASE, Host::GlobexDb), 0);
    assert_eq!(answers_at(&world, PLAIN_REPLY, Host::Internet), 5, "the control: a reply that conntrack knows");
    let dropped =
        |reason| agent.metrics().expect("metrics").sum("bulkhead_guard_drop_packets_total", &[("reason", reason)]);
    assert!(dropped("cross_tenant") >= 5.0);
    // What conntrack does not know as a reply is judged as a request, and acme's database has other ports.
    assert_eq!(answers_at(&world, REPLY_TO_OWN_DATABASE, Host::AcmeDb), 0);
    assert!(dropped("port_denied") >= 5.0);
}

/// Frames of acme's pod to its own database, with a deferred checksum that would overwrite the destination with
/// globex's database when the kernel completes it. Returns the frames that arrived there.
fn overwritten(world: &World) -> usize {
    let (own, theirs) = (Host::AcmeDb.v6().octets(), Host::GlobexDb.v6().octets());
    // The offset of the word in which the two destinations differ.
    let word = (0..8).find(|at| own[at * 2..at * 2 + 2] != theirs[at * 2..at * 2 + 2]).expect("they differ");
    let start = 14 + 24 + 2 * word;
    let (mac, gateway) = Host::AcmeWeb.macs();
    let frame = Frame::v6(Host::AcmeDb.v6(), Payload::tcp(Host::AcmeDb.port(), 2));
    let frame = frame.ip6(|ip| ip.source = Host::AcmeWeb.v6()).with(|f| (f.from, f.to) = (mac, gateway));
    let mut frame = frame.build(b"\0\0written over");
    // The kernel writes the complement of the sum of all words from there on. The first payload word adjusts it.
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
    };
    let carry = |sum: u32| (0..2).fold(sum, |sum, _| (sum & 0xffff) + (sum >> 16));
    let wanted = u32::from(!u16::from_be_bytes([theirs[2 * word], theirs[2 * word + 1]]));
    let payload = 14 + 40 + 20;
    let marker = (wanted + 0xffff - carry(words(&frame[start..]))) % 0xffff;
    frame[payload..payload + 2].copy_from_slice(&(marker as u16).to_be_bytes());
    assert_eq!(carry(words(&frame[start..])), wanted);
    let goes = move |bytes: &[u8]| bytes.get(38..54) == Some(&theirs[..]) && bytes.ends_with(b"written over");
    let capture = Capture::start(world.outside(), goes).expect("a capture");
    for _ in 0..5 {
        raw::send_unfinished(world.netns(Host::AcmeWeb), "eth0", &frame, start as u16, 0).expect("it is sent");
    }
    capture.stop().len()
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_deferred_checksum_changes_no_address() {
    let world = World::new(Layout::Routed).expect("a world");
    raw::finish_checksums(&world.node, "uplink").expect("a setting of the interface");
    drop(agent(&world, false));
    assert_eq!(overwritten(&world), 5, "the control: without the guard");
    let agent = agent(&world, true);
    assert_eq!(overwritten(&world), 0);
    let dropped =
        agent.metrics().expect("metrics").sum("bulkhead_guard_drop_packets_total", &[("reason", "malformed")]);
    assert!(dropped >= 5.0, "{dropped}");
    assert_open_to_the_others(&world, "with deferred checksums");
}
