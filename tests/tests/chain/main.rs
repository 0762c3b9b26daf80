//! Tests of our place in the chain: another program that is put before ours is overtaken, reported, and left attached.

mod clsact;

use std::thread;
use std::time::{Duration, Instant};

use aya::programs::TcAttachType;
use testbed::agent::Agent;
use testbed::foreign::{Foreign, NEXT, PASS};
use testbed::host::{Family, Host};
use testbed::matrix::{Cell, allowed, assert_matrix, probe_in};
use testbed::probe::{Outcome, Transport};
use testbed::stream::DatagramStream;
use testbed::world::{Layout, World, interface};

/// The time within which the agent checks the order again.
const ROUND: Duration = Duration::from_secs(40);
/// The time within which it looks again after it was overtaken.
const CONFIRM: Duration = Duration::from_secs(10);

fn outcome(world: &World, from: Host, to: Host) -> Outcome {
    probe_in(world, Cell { from, to, family: Family::V4, transport: Transport::Udp })
}

fn displacements(agent: &Agent) -> f64 {
    agent.metrics().expect("metrics").sum("bulkhead_displacements_total", &[])
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_program_put_before_ours_is_overtaken_without_a_gap_and_reported() {
    let world = World::new(Layout::Routed).expect("a world");
    let agent = Agent::ready(&world).expect("an agent");
    let (open, watched) = (interface(Host::AcmeWeb), interface(Host::AcmeApi));
    assert_eq!(outcome(&world, Host::AcmeWeb, Host::Internet), Outcome::Silence, "the control");
    assert_eq!(displacements(&agent), 0.0);
    let put = |interface: &str, verdict| {
        Foreign::before_all(&world.scope, &world.node, interface, TcAttachType::Ingress, verdict).expect("a program")
    };
    let stream = |to| DatagramStream::start(&world, Host::AcmeApi, to, Family::V4).expect("a stream");
    let (denied, granted) = (stream(Host::Internet), stream(Host::AcmeWeb));
    let (passes, counts) = (put(&open, PASS), put(&watched, NEXT));
    assert_eq!(outcome(&world, Host::AcmeWeb, Host::Internet), Outcome::Answered, "the attack: ours does not run");

    let silent = || outcome(&world, Host::AcmeWeb, Host::Internet) == Outcome::Silence;
    agent.wait(ROUND, "first again", silent).expect("ours runs first again");
    let (status, reasons) = agent.get("/readyz").expect("a page");
    assert_eq!(status, 503, "{reasons}");
    for text in [&*open, "from_pod", &format!("program {}", passes.id), &format!("program {}", counts.id)] {
        assert!(reasons.contains(text), "no {text} in {reasons}");
    }
    assert_eq!(displacements(&agent), 2.0);
    let of_interface = |state: &'static str| {
        let subject = format!("from_pod on interface {open}");
        move |event: &serde_json::Value| {
            event["state"] == state && event["message"].as_str().is_some_and(|message| message.contains(&subject))
        }
    };
    let lost = agent.wait_event(CONFIRM, of_interface("enforcement_lost")).expect("an event");
    assert_eq!(lost["severity"], "critical");
    agent.wait_ready(CONFIRM).expect("the next check finds ours first");
    agent.wait_event(CONFIRM, of_interface("enforcement_restored")).expect("an event");
    let reported = agent.events().into_iter().filter(of_interface("enforcement_lost")).count();
    assert_eq!((reported, displacements(&agent)), (1, 2.0), "each displacement is reported once");

    let (denied, granted) = (denied.stop(), granted.stop());
    assert_eq!(denied.arrived.len(), 0, "of {} sent while ours moved", denied.sent);
    let lost = granted.sent - granted.arrived.len() as u64;
    assert!(lost < 20 && granted.sent > 1000, "{lost} of {} were lost", granted.sent);
    drop((passes, counts));
    assert_matrix(&world, allowed);
    assert!(agent.on_pins(&["cleanup"]).expect("it runs").status.success());
    assert_eq!(world.scope.pins(), Vec::<std::path::PathBuf>::new());
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_program_put_before_ours_while_no_agent_runs_is_overtaken_at_the_start() {
    let world = World::new(Layout::Routed).expect("a world");
    let mut agent = Agent::ready(&world).expect("an agent");
    agent.kill();
    let at = interface(Host::AcmeWeb);
    let foreign = Foreign::before_all(&world.scope, &world.node, &at, TcAttachType::Ingress, PASS).expect("a program");
    assert_eq!(outcome(&world, Host::AcmeWeb, Host::Internet), Outcome::Answered, "the attack: ours does not run");
    agent.start_again().expect("it starts again");
    let silent = || outcome(&world, Host::AcmeWeb, Host::Internet) == Outcome::Silence;
    agent.wait(CONFIRM, "first again", silent).expect("ours runs first again");
    let name = format!("program {}", foreign.id);
    let event = agent.wait_event(CONFIRM, |event| event["message"].as_str().is_some_and(|text| text.contains(&name)));
    assert!(event.is_some(), "{:?}", agent.events());
    agent.wait_ready(CONFIRM).expect("the next check finds ours first");
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_program_put_before_a_guard_is_overtaken_and_stops_nothing_of_the_node() {
    let world = World::new(Layout::Routed).expect("a world");
    let mut config = world.config();
    config.endpoints.retain(|endpoint| endpoint.name != Host::GlobexWeb.name());
    config.write(&world.config_path()).expect("a configuration");
    let flags = ["--foreign-netns", world.outside().name(), "--uplink", "auto"];
    let agent = Agent::start_flagged(&world, &flags).expect("an agent");
    agent.wait_ready(Duration::from_secs(60)).expect("the agent becomes ready");
    let leaves = || outcome(&world, Host::GlobexWeb, Host::Internet);
    assert_eq!(leaves(), Outcome::Silence, "the control: no endpoint names the pod");
    let _foreign = Foreign::before_all(&world.scope, &world.node, "uplink", TcAttachType::Egress, PASS);
    let _foreign = _foreign.expect("a program");
    assert_eq!(leaves(), Outcome::Answered, "the attack: the guard does not run");
    let (began, mut lost) = (Instant::now(), 0);
    while leaves() == Outcome::Answered {
        lost += u32::from(outcome(&world, Host::Node, Host::Internet) != Outcome::Answered);
        assert!(began.elapsed() < ROUND, "the guard is not first again");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(lost, 0, "probes of the node that were lost");
    let (status, reasons) = agent.get("/readyz").expect("a page");
    assert!(status == 503 && reasons.contains("uplink on interface uplink"), "{status} {reasons}");
    agent.wait_ready(CONFIRM).expect("the next check finds the guard first");
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn an_xdp_program_on_a_pod_s_interface_is_a_problem_that_leaves_the_agent_ready() {
    let world = World::new(Layout::Routed).expect("a world");
    let agent = Agent::ready(&world).expect("an agent");
    let text = format!("interface {} of a pod runs an XDP program", interface(Host::AcmeWeb));
    let status = || String::from_utf8(agent.query(&["status"]).expect("it runs").stdout).expect("text");
    assert!(!status().contains(&text), "the control");
    Foreign::xdp(&world.scope, &world.node, &interface(Host::AcmeWeb)).expect("an XDP program");
    agent.wait(CONFIRM, "reported", || status().contains(&text)).expect("it is reported");
    agent.wait_ready(CONFIRM).expect("the agent stays ready");
}
