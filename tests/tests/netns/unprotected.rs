//! Tests of pods with traffic that no program judges, with real interfaces.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use testbed::agent::Agent;
use testbed::host::Host;
use testbed::scope::Scope;
use testbed::world::{Layout, World};

/// A namespace is read at least every 30 seconds, and a pod counts after ten more. The rest is for a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn count(agent: &Agent, reasons: &[&str]) -> f64 {
    let metrics = agent.metrics().expect("metrics");
    reasons.iter().map(|reason| metrics.sum("bulkhead_unprotected_pods", &[("reason", reason)])).sum()
}

/// The pods of the events of this state, once a pod and reason each.
fn reported(agent: &Agent, state: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = agent.events();
    let ours = events.iter().filter(|event| event["state"] == state);
    ours.map(|event| (text(&event["unprotected"]["pod"]), text(&event["severity"]))).collect()
}

fn is_ready(agent: &Agent) -> bool {
    agent.get("/readyz").expect("a page").0 == 200
}

fn status(agent: &Agent) -> String {
    String::from_utf8(agent.query(&["status"]).expect("it runs").stdout).expect("text")
}

/// A pod with a macvlan, and one with a pair to a third namespace, are reported. Pods with interfaces that lead through
/// the judged one are not. None of them makes the node unready.
#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn further_interfaces_of_pods_are_reported_and_leave_the_node_ready() {
    let world = World::new(Layout::Bridged).expect("a world");
    let agent = Agent::ready(&world).expect("an agent");
    let name = |host: Host| world.scope.netns_name(host.name());
    let inside = world.netns(Host::AcmeApi).ip(
        "link add br0 type bridge\nlink add inner0 type veth peer name inner1\nlink add link eth0 name inner2 type macvlan mode bridge",
    );
    inside.expect("the control's interfaces");
    let held = format!("link add second type veth peer name net1 netns {}", name(Host::GlobexApi));
    world.node.ip(&held).expect("a second pair with the node");
    let elsewhere = format!("link add third type veth peer name net1 netns {}", name(Host::GlobexWeb));
    world.outside().ip(&elsewhere).expect("a pair with a third namespace");
    let macvlan = format!("link add link uplink name net1 netns {} type macvlan mode bridge", name(Host::AcmeWeb));
    world.node.ip(&macvlan).expect("this kernel lacks macvlan");

    agent.wait(PATIENCE, "reported", || count(&agent, &["second_interface"]) == 2.0).expect("two pods");
    assert!(is_ready(&agent), "what a pod's author can cause never makes the node unready");
    let others = ["host_network", "no_pair", "no_interface", "netns_unreadable", "no_ethernet", "not_attached"];
    assert_eq!(count(&agent, &others), 0.0, "a second pair with the node is held and closed: {}", status(&agent));
    let screen = status(&agent);
    for (host, kind) in [(Host::AcmeWeb, "macvlan"), (Host::GlobexWeb, "veth")] {
        let pod = format!("pod {}/{} is unprotected", host.namespace().expect("a pod"), host.name());
        assert!(screen.lines().any(|line| line.contains(&pod) && line.contains(kind)), "{screen}");
    }
    let event = agent.wait_event(PATIENCE, |event| event["unprotected"]["pod"] == Host::AcmeWeb.name());
    assert!(event.is_some_and(|event| event["state"] == "pod_unprotected" && event["tenant"] == "acme"));

    world.netns(Host::AcmeWeb).ip("link del net1").expect("it is removed");
    world.outside().ip("link del third").expect("it is removed");
    agent.wait(PATIENCE, "protected", || count(&agent, &["second_interface"]) == 0.0).expect("none is left");
    let pods: BTreeSet<&str> = [Host::AcmeWeb.name(), Host::GlobexWeb.name()].into();
    for (state, severity) in [("pod_unprotected", "high"), ("pod_protected", "info")] {
        agent.wait(PATIENCE, state, || reported(&agent, state).len() >= 2).expect("an event for each pod");
        let seen = reported(&agent, state);
        assert!(seen.len() == 2 && seen.iter().all(|(_, is)| is == severity), "{state}, once each: {seen:?}");
        assert_eq!(seen.iter().map(|(pod, _)| pod.as_str()).collect::<BTreeSet<_>>(), pods);
    }
}

/// A pod whose only interface is a macvlan has no end on the node, so no link of the node shows it.
#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_pod_whose_interface_is_no_pair_is_reported_and_leaves_the_node_ready() {
    let mut world = World::without_pods(Layout::Bridged, Scope::new().expect("a scope")).expect("a world");
    world.add_pod(Host::AcmeApi).expect("a pod");
    let agent = Agent::ready(&world).expect("an agent");
    let pod = world.scope.netns(Host::AcmeWeb.name()).expect("a namespace");
    let macvlan = format!("link add link uplink name eth0 netns {} type macvlan mode bridge", pod.name());
    world.node.ip(&macvlan).expect("this kernel lacks macvlan");
    agent.wait(PATIENCE, "reported", || count(&agent, &["no_pair"]) == 1.0).expect("one pod");
    assert!(is_ready(&agent) && status(&agent).contains("acme-web is unprotected (no_pair)"), "{}", status(&agent));
    pod.ip("link del eth0").expect("it is removed");
    agent.wait(PATIENCE, "closed", || count(&agent, &["no_pair"]) == 0.0).expect("nothing can leave it");
}

/// The agent cannot attach to a pod's interface, because something has taken the path of its pin.
#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn an_interface_whose_programs_are_not_attached_makes_the_node_unready() {
    let mut world = World::without_pods(Layout::Routed, Scope::new().expect("a scope")).expect("a world");
    world.add_pod(Host::AcmeApi).expect("the control");
    let agent = Agent::ready(&world).expect("an agent");
    let taken = take_pins(&world);
    world.add_pod(Host::AcmeWeb).expect("a pod");
    agent.wait(PATIENCE, "reported", || count(&agent, &["not_attached"]) == 1.0).expect("one pod");
    let (code, page) = agent.get("/readyz").expect("a page");
    assert_eq!(code, 503, "{page}");
    let line = page.lines().find(|line| line.contains("(not_attached)")).unwrap_or_default();
    assert!(line.contains("acme-prod/acme-web") && line.contains("holds no programs; look in"), "{page}");
    assert!(!page.contains("acme-api"), "the control is protected: {page}");
    taken.iter().for_each(|path| fs::remove_dir(path).expect("it is removed"));
    agent.wait(PATIENCE, "ready", || is_ready(&agent)).expect("the next attempt succeeds");
    assert_eq!(count(&agent, &["not_attached"]), 0.0);
}

/// Takes the paths of the pins of interfaces that do not exist yet.
fn take_pins(world: &World) -> Vec<PathBuf> {
    let pins = world.scope.pins();
    let is_link = |path: &&PathBuf| path.parent().is_some_and(|parent| parent.ends_with("links"));
    let links = pins.iter().find(is_link).and_then(|pin| pin.parent()).expect("a pin of a link").to_owned();
    let free = (1..100).map(|ifindex| links.join(format!("{ifindex}-from_pod")));
    free.filter(|path| fs::create_dir(path).is_ok()).collect()
}
