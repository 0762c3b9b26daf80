//! Tests of the agent with real sockets and frames: which packets pass, which do not, and which are reported.

mod frames;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use testbed::agent::{Agent, NODE_NAME};
use testbed::capture::Capture;
use testbed::host::{BRIDGED_GATEWAYS, Family, Host};
use testbed::matrix::{Cell, allowed, assert_matrix, probe_in};
use testbed::probe::{Outcome, Transport, probe};
use testbed::world::{Layout, World};

const DROPS: &str = "bulkhead_drop_packets_total";

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn tenants_are_kept_apart_in_both_layouts_and_families() {
    for layout in [Layout::Routed, Layout::Bridged] {
        let world = World::new(layout).expect("a world");
        // The control: without an agent everything passes.
        assert_matrix(&world, |_| true);
        let agent = Agent::ready(&world).expect("an agent");
        assert_matrix(&world, allowed);
        world.introduce().expect("neighbours");
        assert_matrix(&world, allowed);
        let metrics = agent.metrics().expect("metrics");
        for reason in ["cross_tenant", "off_subnet", "metadata_service", "node", "port_denied"] {
            assert!(metrics.sum(DROPS, &[("reason", reason)]) > 0.0, "{layout:?}: nothing was dropped as {reason}");
        }
        assert!(metrics.sum("bulkhead_packets_total", &[("verdict", "allowed")]) > 0.0);
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn the_gateway_forwards_and_offers_no_service() {
    let world = World::new(Layout::Bridged).expect("a world");
    let gateways = [IpAddr::V4(BRIDGED_GATEWAYS.0), IpAddr::V6(BRIDGED_GATEWAYS.1)];
    let outcomes = |transport| {
        let send = |gateway| probe(transport, None, SocketAddr::new(gateway, 10250));
        world.netns(Host::AcmeWeb).run(|| gateways.map(send))
    };
    assert_eq!(outcomes(Transport::Tcp), [Outcome::Refused; 2]);
    assert_eq!(outcomes(Transport::Icmp), [Outcome::Answered; 2]);
    let agent = Agent::ready(&world).expect("an agent");
    for transport in Transport::ALL {
        assert_eq!(outcomes(transport), [Outcome::Silence; 2], "{transport:?}");
    }
    let metrics = agent.metrics().expect("metrics");
    assert!(metrics.sum(DROPS, &[("reason", "node"), ("direction", "egress")]) > 0.0);
    let beyond = Cell { from: Host::AcmeWeb, to: Host::AcmeDb, family: Family::V4, transport: Transport::Tcp };
    assert_eq!(probe_in(&world, beyond), Outcome::Answered);
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_flood_is_counted_exactly_and_reported_in_few_events() {
    const COUNT: u64 = 20_000;
    let world = World::new(Layout::Routed).expect("a world");
    let agent = Agent::ready(&world).expect("an agent");
    let flooded = Instant::now();
    world.netns(Host::AcmeWeb).run(|| {
        let socket = UdpSocket::bind(SocketAddr::new(IpAddr::V4(Host::AcmeWeb.v4()), 0)).expect("a socket");
        socket.connect(Host::GlobexWeb.server(Family::V4)).expect("a target");
        for index in 0..COUNT {
            socket.send(&index.to_be_bytes()).expect("the kernel accepts it");
            if index % 200 == 0 {
                // A veth's queue holds a thousand packets. What the queue loses is not counted by the agent.
                thread::sleep(Duration::from_micros(500));
            }
        }
    });
    let counted = |labels: &[(&str, &str)], name| agent.metrics().expect("metrics").sum(name, labels);
    let egress = [("reason", "cross_tenant"), ("direction", "egress")];
    let same = agent.wait(Duration::from_secs(3), "exact", || counted(&egress, DROPS) >= COUNT as f64);
    same.expect("every packet is counted");
    assert_eq!(counted(&egress, DROPS), COUNT as f64);
    let by_tenant = [("source_tenant", "acme"), ("reason", "cross_tenant")];
    assert_eq!(counted(&by_tenant, "bulkhead_tenant_drop_packets_total"), COUNT as f64);
    let first = agent.wait_event(Duration::from_secs(2), |event| event["reason"] == "cross_tenant");
    assert!(first.is_some(), "nothing was reported {:?} after the flood began", flooded.elapsed());
    thread::sleep(Duration::from_secs(2));
    let events = agent.events();
    let reported: u64 = events.iter().filter_map(|event| event["count"].as_u64()).sum();
    assert!(events.len() < 200, "{} events for one flow", events.len());
    assert!(reported <= COUNT, "{reported} packets were reported, {COUNT} were sent");
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn an_event_names_both_pods_and_both_tenants() {
    let world = World::new(Layout::Routed).expect("a world");
    let agent = Agent::ready(&world).expect("an agent");
    for (family, transport) in
        [(Family::V4, Transport::Tcp), (Family::V6, Transport::Udp), (Family::V4, Transport::Icmp)]
    {
        let (from, to) = (Host::AcmeWeb, Host::GlobexApi);
        assert_eq!(probe_in(&world, Cell { from, to, family, transport }), Outcome::Silence);
        let destination = to.address(family).to_string();
        let about = |event: &serde_json::Value| {
            event["destination"]["ip"] == *destination
                && event["network"]["transport"].as_str().is_some_and(|t| t.contains(transport.name()))
        };
        let event = agent.wait_event(Duration::from_secs(2), about).unwrap_or_else(|| {
            panic!("{transport:?} {family:?} is not reported; events: {:#?}", agent.events());
        });
        for (pointer, expected) in [
            ("/schema", "bulkhead.dev/violation/v1"),
            ("/type", "violation"),
            ("/verdict", "dropped"),
            ("/reason", "cross_tenant"),
            ("/direction", "egress"),
            ("/node", NODE_NAME),
            ("/source/kind", "pod"),
            ("/source/ip", &from.address(family).to_string()),
            ("/source/tenant", "acme"),
            ("/source/namespace", "acme-prod"),
            ("/source/pod", "acme-web"),
            ("/destination/kind", "pod"),
            ("/destination/tenant", "globex"),
            ("/destination/namespace", "globex-prod"),
            ("/destination/pod", "globex-api"),
        ] {
            assert_eq!(event.pointer(pointer).and_then(|v| v.as_str()), Some(expected), "{pointer} of {event:#}");
        }
        assert!(event["count"].as_u64().is_some_and(|count| count >= 1), "{event:#}");
        if transport != Transport::Icmp {
            assert_eq!(event["destination"]["port"], to.port(), "{event:#}");
            assert!(event["source"]["port"].is_u64(), "{event:#}");
        }
        for key in ["time", "id", "severity", "first_seen", "last_seen", "message", "policy"] {
            assert!(!event[key].is_null(), "{key} of {event:#}");
        }
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn in_audit_mode_packets_pass_and_are_reported_but_reach_no_other_tenant() {
    let world = World::new(Layout::Routed).expect("a world");
    let mut config = world.config();
    config.tenant("acme").audit = true;
    config.write(&world.config_path()).expect("a configuration");
    let agent = Agent::start_with(&world).expect("an agent");
    agent.wait_ready(Duration::from_secs(15)).expect("the agent becomes ready");
    let outcome = |from, to| probe_in(&world, Cell { from, to, family: Family::V4, transport: Transport::Tcp });
    assert_eq!(outcome(Host::AcmeWeb, Host::Internet), Outcome::Answered);
    assert_eq!(outcome(Host::GlobexWeb, Host::Internet), Outcome::Silence);
    // globex is not in Audit mode: its pods still refuse the packets.
    assert_eq!(outcome(Host::AcmeWeb, Host::GlobexWeb), Outcome::Silence);
    let internet = Host::Internet.v4().to_string();
    let event = agent.wait_event(Duration::from_secs(2), |event| {
        event["destination"]["ip"] == *internet && event["source"]["tenant"] == "acme"
    });
    assert_eq!(event.expect("what would be dropped is reported")["verdict"], "audited");
    let metrics = agent.metrics().expect("metrics");
    assert!(metrics.sum("bulkhead_audit_packets_total", &[("reason", "off_subnet"), ("direction", "egress")]) > 0.0);
    assert!(metrics.sum("bulkhead_packets_total", &[("verdict", "audited")]) > 0.0);
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn denied_packets_never_arrive() {
    let world = World::new(Layout::Bridged).expect("a world");
    let _agent = Agent::ready(&world).expect("an agent");
    let source = Host::AcmeWeb.v4().octets();
    let from_acme = move |bytes: &[u8]| bytes.get(26..30) == Some(&source[..]) && bytes[12..14] == [8, 0];
    let there = Capture::start(world.netns(Host::GlobexWeb), from_acme).expect("a capture");
    let here = Capture::start(world.netns(Host::AcmeApi), from_acme).expect("a capture");
    for transport in Transport::ALL {
        let outcome = |to| probe_in(&world, Cell { from: Host::AcmeWeb, to, family: Family::V4, transport });
        assert_eq!((outcome(Host::GlobexWeb), outcome(Host::AcmeApi)), (Outcome::Silence, Outcome::Answered));
    }
    assert!(!here.stop().is_empty());
    assert_eq!(there.stop(), Vec::<Vec<u8>>::new());
}
