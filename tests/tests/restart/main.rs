//! Tests of an agent that stops and starts: denied packets stay denied, and allowed packets continue.

mod edits;
mod traffic;

use std::thread;
use std::time::{Duration, Instant};

use testbed::agent::Agent;
use testbed::host::{Family, Host};
use testbed::matrix::{Cell, allowed, assert_matrix, probe_in};
use testbed::probe::{Outcome, Transport};
use testbed::stream::{DatagramStream, EchoConnection};
use testbed::world::{Layout, World};
use traffic::{SOON, Traffic, assert_cut, pause};

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_kill_and_restart_under_traffic_allows_and_interrupts_nothing() {
    for layout in [Layout::Routed, Layout::Bridged] {
        let world = World::new(layout).expect("a world");
        let mut agent = Agent::ready(&world).expect("an agent");
        let traffic = Traffic::start(&world);
        for _ in 0..2 {
            pause();
            agent.kill();
            pause();
            agent.start_again().expect("it starts again");
            agent.wait_ready(Duration::from_secs(15)).expect("the agent becomes ready again");
        }
        pause();
        traffic.assert_undisturbed();
        assert_matrix(&world, allowed);
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn sigterm_ends_the_agent_and_enforcement_stays() {
    let world = World::new(Layout::Routed).expect("a world");
    let mut agent = Agent::ready(&world).expect("an agent");
    let traffic = Traffic::start(&world);
    pause();
    let status = agent.terminate().expect("it ends");
    assert!(status.success(), "{status}; its log:\n{}", agent.log().join("\n"));
    for state in ["agent_started", "agent_stopping"] {
        let event = agent.wait_event(Duration::from_secs(5), |event| event["state"] == state);
        assert!(event.is_some(), "no event {state}: {:?}", agent.events());
    }
    pause();
    traffic.assert_undisturbed();
    assert_matrix(&world, allowed);
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn counters_and_links_survive_a_restart_and_are_not_doubled() {
    let world = World::new(Layout::Routed).expect("a world");
    let mut agent = Agent::ready(&world).expect("an agent");
    let denied = Cell { from: Host::AcmeWeb, to: Host::GlobexWeb, family: Family::V4, transport: Transport::Udp };
    assert_eq!(probe_in(&world, denied), Outcome::Silence);
    let drops = |agent: &Agent| {
        agent.metrics().expect("metrics").sum("bulkhead_drop_packets_total", &[("reason", "cross_tenant")])
    };
    let (before, pins) = (drops(&agent), world.scope.pins());
    assert!(before > 0.0);
    agent.kill();
    assert_eq!(probe_in(&world, denied), Outcome::Silence);
    agent.start_again().expect("it starts again");
    agent.wait_ready(Duration::from_secs(15)).expect("the agent becomes ready again");
    // Drops during the absence are counted.
    assert!(drops(&agent) > before);
    assert_eq!(world.scope.pins().len(), pins.len());
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn drops_during_an_absence_are_reported_with_names() {
    let world = World::new(Layout::Routed).expect("a world");
    let mut agent = Agent::ready(&world).expect("an agent");
    agent.kill();
    let denied = Cell { from: Host::AcmeApi, to: Host::GlobexApi, family: Family::V6, transport: Transport::Udp };
    assert_eq!(probe_in(&world, denied), Outcome::Silence);
    agent.start_again().expect("it starts again");
    agent.wait_ready(Duration::from_secs(15)).expect("the agent becomes ready again");
    let target = denied.to.v6().to_string();
    let event = agent.wait_event(SOON, |event| event["destination"]["ip"] == *target);
    let event = event.expect("it is reported, late");
    assert_eq!(
        (&event["source"]["pod"], &event["destination"]["tenant"]),
        (&"acme-api".into(), &"globex".into()),
        "{event:#}"
    );
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_file_changed_while_no_agent_ran_is_in_force_after_the_start() {
    let world = World::new(Layout::Routed).expect("a world");
    let mut agent = Agent::ready(&world).expect("an agent");
    let denied = DatagramStream::start(&world, Host::AcmeWeb, Host::GlobexWeb, Family::V4).expect("a stream");
    let victim = EchoConnection::start(&world, Host::AcmeWeb, Host::AcmeDb, Family::V4).expect("a connection");
    let granted = DatagramStream::start(&world, Host::AcmeApi, Host::Internet, Family::V4).expect("a stream");
    pause();
    agent.kill();
    let mut config = world.config();
    config.tenant("acme").subnets.clear();
    config.tenant("acme").egress.push(("web".into(), vec!["198.51.100.0/24".into()], vec![]));
    config.write(&world.config_path()).expect("an edit");
    pause();
    let back = Instant::now();
    agent.start_again().expect("it starts again");
    agent.wait_ready(Duration::from_secs(15)).expect("the agent becomes ready again");
    let moment = Instant::now();
    thread::sleep(SOON + Duration::from_secs(1));
    assert_eq!(denied.stop().arrived.len(), 0);
    let granted = granted.stop();
    assert!(granted.arrived.iter().all(|at| *at > back), "datagrams arrived before the grant was in force");
    assert!(granted.arrived_after(moment) > 500, "only {} arrived", granted.arrived_after(moment));
    assert_cut(victim, moment);
}
