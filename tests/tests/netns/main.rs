//! Tests of the test network itself, and of the agent's attachment, cleanup and commands.

mod unprotected;

use std::process::Output;
use std::thread;
use std::time::Duration;

use testbed::agent::{Agent, NODE_NAME};
use testbed::host::{Family, Host};
use testbed::matrix::{Cell, allowed, assert_matrix, over_each_transport, probe_in};
use testbed::probe::{Outcome, Transport};
use testbed::scope::Scope;
use testbed::stream::{DatagramStream, EchoConnection};
use testbed::world::{Layout, World};
use testbed::{netns, scope};

/// The time within which the agent must notice an interface.
const SOON: Duration = Duration::from_secs(2);

#[test]
#[ignore = "needs root: cargo xtask test netns"]
fn without_an_agent_every_host_reaches_every_other() {
    for layout in [Layout::Routed, Layout::Bridged] {
        let world = World::new(layout).expect("a world");
        assert_matrix(&world, |_| true);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test netns"]
fn a_test_network_is_removed_even_after_a_panic() {
    let world = World::new(Layout::Routed).expect("a world");
    let name = world.scope.name().to_owned();
    assert!(scope::exists(&name) && netns::list().contains(&world.scope.netns_name("node")));
    let panicked = std::thread::spawn(move || -> () {
        let world = world;
        panic!("a test fails in {}", world.scope.name());
    });
    assert!(panicked.join().is_err());
    assert!(!scope::exists(&name));
}

#[test]
#[ignore = "needs root: cargo xtask test netns"]
fn lasting_probes_deliver_what_they_send() {
    let world = World::new(Layout::Bridged).expect("a world");
    for family in Family::ALL {
        let stream = DatagramStream::start(&world, Host::AcmeWeb, Host::GlobexWeb, family).expect("a stream");
        let connection = EchoConnection::start(&world, Host::AcmeWeb, Host::AcmeDb, family).expect("a connection");
        thread::sleep(Duration::from_millis(300));
        let (stream, connection) = (stream.stop(), connection.stop());
        assert!(stream.sent > 100 && stream.refused == 0, "{} sent, {} refused", stream.sent, stream.refused);
        assert!(stream.arrived.len() as u64 == stream.sent, "{} of {}", stream.arrived.len(), stream.sent);
        assert!(
            connection.answers.len() > 50 && connection.error.is_none(),
            "{} answers, {:?}",
            connection.answers.len(),
            connection.error
        );
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn an_interface_that_appears_is_enforced_and_one_that_vanishes_leaves_nothing() {
    for layout in [Layout::Routed, Layout::Bridged] {
        let mut world = World::without_pods(layout, Scope::new().expect("a scope")).expect("a world");
        for host in [Host::GlobexWeb, Host::Dns] {
            world.add_pod(host).expect("a pod");
        }
        let agent = Agent::ready(&world).expect("an agent");
        let enforced = |agent: &Agent| {
            let metrics = agent.metrics().expect("metrics");
            metrics.sum("bulkhead_endpoints", &[("state", "enforced")])
                + metrics.sum("bulkhead_endpoints", &[("state", "shared")])
        };
        assert_eq!(enforced(&agent), 2.0);
        let pins = world.scope.pins();
        world.add_pod(Host::AcmeWeb).expect("a pod");
        world.introduce().expect("neighbours");
        let stream = |to| DatagramStream::start(&world, Host::AcmeWeb, to, Family::V4).expect("a stream");
        let streams = [Host::GlobexWeb, Host::Internet].map(stream);
        agent.wait(SOON, "attached", || enforced(&agent) == 3.0).expect("the agent notices");
        // The pod's ARP requests were denied until then, and the kernel repeats them once a second.
        let first = Cell { from: Host::AcmeWeb, to: Host::Dns, family: Family::V4, transport: Transport::Tcp };
        agent
            .wait(Duration::from_secs(10), "reachable", || probe_in(&world, first) == Outcome::Answered)
            .expect("its tenant's traffic passes");
        for cell in over_each_transport(Host::AcmeWeb, Host::Dns)
            .into_iter()
            .chain(over_each_transport(Host::Dns, Host::AcmeWeb))
        {
            assert_eq!(probe_in(&world, cell), Outcome::Answered, "{layout:?} {cell:?}");
        }
        for (index, stream) in streams.into_iter().enumerate() {
            let stream = stream.stop();
            assert_eq!(stream.arrived.len(), 0, "{layout:?} {index}: of {} sent", stream.sent);
        }
        world.remove_pod(Host::AcmeWeb).expect("it is removed");
        agent.wait(SOON, "detached", || enforced(&agent) == 2.0).expect("the agent notices");
        agent.wait(SOON, "clean", || world.scope.pins().len() == pins.len()).expect("no pin is left");
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn cleanup_removes_everything_and_lists_it() {
    for layout in [Layout::Routed, Layout::Bridged] {
        let world = World::new(layout).expect("a world");
        let mut agent = Agent::ready(&world).expect("an agent");
        agent.kill();
        let pins = world.scope.pins();
        assert!(!pins.is_empty());
        let dry = agent.on_pins(&["cleanup", "--dry-run"]).expect("it runs");
        assert!(dry.status.success() && !dry.stdout.is_empty(), "{dry:?}");
        assert_eq!(world.scope.pins(), pins);
        assert_matrix(&world, allowed);
        let clean = agent.on_pins(&["cleanup"]).expect("it runs");
        assert!(clean.status.success() && !clean.stdout.is_empty(), "{clean:?}");
        assert_eq!(world.scope.pins(), Vec::<std::path::PathBuf>::new());
        // The control: without the agent the traffic passes again.
        assert_matrix(&world, |_| true);
        let again = agent.on_pins(&["cleanup"]).expect("it runs");
        assert!(again.status.success(), "a second cleanup succeeds, too: {again:?}");
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn explain_works_without_an_agent_and_status_needs_one() {
    let world = World::new(Layout::Routed).expect("a world");
    let mut agent = Agent::ready(&world).expect("an agent");
    let stdout = |output: anyhow::Result<Output>| {
        let output = output.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let status = stdout(agent.query(&["status"]));
    assert!(status.contains(NODE_NAME), "{status}");
    agent.kill();
    let without_agent = agent.query(&["status"]).expect("it runs");
    assert_eq!(without_agent.status.code(), Some(1), "{without_agent:?}");
    let web = Host::AcmeWeb.v4().to_string();
    let denied = stdout(agent.on_pins(&["explain", &web, &format!("{}:8080", Host::GlobexWeb.v4())]));
    assert!(denied.contains("cross_tenant") && denied.contains("globex"), "{denied}");
    let granted = stdout(agent.on_pins(&["explain", &web, &format!("{}:5432", Host::AcmeDb.v4())]));
    assert!(granted.contains("ALLOWED") && granted.contains("TCP 5432"), "{granted}");
    let found = agent.on_pins(&["explain", "--exit-code", &web, &Host::Internet.v4().to_string()]).expect("it runs");
    assert_eq!(found.status.code(), Some(3), "{found:?}");
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn an_interface_without_an_ethernet_header_is_refused_and_named() {
    let world = World::new(Layout::Routed).expect("a world");
    // Both carry packets of a process: one with Ethernet headers, one without.
    world.node.ip("tuntap add dev tap0 mode tap\ntuntap add dev tun0 mode tun\n").expect("interfaces");
    let mut config = world.config();
    config.endpoint(Host::AcmeApi).attachment = Some(("interface", "tap0".into()));
    config.write(&world.config_path()).expect("a configuration");
    let agent = Agent::start_with(&world).expect("an agent");
    agent.wait_ready(Duration::from_secs(60)).expect("the control: an Ethernet header is there");
    let held = world.scope.pins().len();
    config.endpoint(Host::AcmeApi).attachment = Some(("interface", "tun0".into()));
    config.write(&world.config_path()).expect("a configuration");
    agent.wait(SOON, "refused", || agent.get("/readyz").is_ok_and(|(status, _)| status == 503)).expect("it is refused");
    let (_, reasons) = agent.get("/readyz").expect("a page");
    for text in ["acme-prod/acme-api", "interface tun0 has no Ethernet header", "TAP"] {
        assert!(reasons.contains(text), "no {text} in {reasons}");
    }
    let without = || world.scope.pins().len() + 2 == held;
    agent.wait(SOON, "released", without).expect("tap0 loses its two programs, and tun0 gets none");
    config.endpoint(Host::AcmeApi).attachment = Some(("interface", "tap0".into()));
    config.write(&world.config_path()).expect("a configuration");
    agent.wait_ready(SOON).expect("it is accepted");
    assert_eq!(world.scope.pins().len(), held);
}
