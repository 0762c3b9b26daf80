//! Tests of interfaces and guards: what is attached, in which order, and what happens to programs that vanish.

use super::*;

#[test]
fn an_interface_is_attached_before_its_pod_is_claimed() {
    let mut test = TestLoop::new(Settings::default());
    let mut changes = two_tenants();
    changes[3] = Change::Links(vec![]);
    test.step(changes);
    assert_eq!(test.condition("web/a"), EndpointCondition::Pending);
    assert!(test.kernel.ports.is_empty() && test.claimed_by(7).is_none());
    test.kernel.fail_ports = [7].into();
    let outcome = test.step(vec![Change::Links(vec![link(7, "veth7")])]);
    assert!(outcome.pending > 0 && !outcome.in_force && test.claimed_by(7).is_none());
    assert_eq!(test.condition("web/a"), EndpointCondition::Error);
    assert_eq!(test.state.snapshot().attach_failures, 1);
    test.kernel.fail_ports.clear();
    assert_eq!(test.wait(1).pending, 0);
    assert_eq!(test.claimed_by(7).as_deref(), Some("acme"));
    assert_eq!(test.condition("web/a"), EndpointCondition::Enforced);
}

#[test]
fn many_interfaces_are_attached_and_claimed_a_few_at_a_time_the_newest_first() {
    let mut test = TestLoop::new(Settings::default());
    let mut changes = two_tenants();
    let pods = 1..=20_u32;
    let pod = |i: u32| local(&format!("web/p{i}"), &[&format!("10.0.1.{i}")], &format!("veth{i}"));
    changes[2] = Change::Endpoints(pods.clone().map(pod).collect());
    changes[3] = Change::Links(pods.clone().map(|i| link(i, &format!("veth{i}"))).collect());
    // An interface that cannot be attached must not use up the limit.
    test.kernel.fail_ports = [20].into();
    let mut outcome = test.step(changes);
    let claimed = |test: &TestLoop| pods.clone().filter(|i| test.claimed_by(*i).is_some()).collect::<Vec<_>>();
    assert_eq!(claimed(&test), (12..=19).collect::<Vec<_>>());
    assert_eq!(test.condition("web/p1"), EndpointCondition::Pending);
    let mut steps = 1;
    while outcome.wake == test.now.tick {
        assert!(!outcome.in_force, "some still wait");
        outcome = test.step(vec![]);
        steps += 1;
    }
    assert_eq!((steps, claimed(&test)), (3, (1..=19).collect::<Vec<_>>()));
    assert_eq!(test.condition("web/p20"), EndpointCondition::Error);
    test.kernel.fail_ports.clear();
    assert_eq!(test.wait(1).pending, 0);
    assert_eq!(claimed(&test).len(), 20);
}

#[test]
fn guards_are_attached_after_the_existing_pods_are_claimed() {
    let mut test = TestLoop::new(Settings { uplinks: Uplinks::Auto, ..Settings::default() });
    let mut changes = two_tenants();
    let pods = 3..=22_u32;
    let pod = |i: u32| local(&format!("web/p{i}"), &[&format!("10.0.1.{i}")], &format!("veth{i}"));
    changes[2] = Change::Endpoints(pods.clone().map(pod).collect());
    changes[3] = Change::Links(pods.map(pods_end).chain([link(2, "eth0")]).collect());
    let mut outcome = test.step(changes);
    while outcome.wake == test.now.tick {
        assert_eq!(test.kernel.guards, Guards::default());
        outcome = test.step(vec![]);
    }
    let guards = test.kernel.guards.clone();
    assert_eq!(guards.own, [0, 2].into());
    assert_eq!((guards.interfaces.keys().collect::<Vec<_>>(), guards.senders.len()), (vec![&2], 20));
    test.step(vec![Change::EndpointGone { key: key("web/p3"), uid: "uid of web/p3".into() }]);
    assert_eq!(test.kernel.guards.senders.len(), 19);
}

#[test]
fn a_guard_that_cannot_be_attached_is_reported_and_tried_again() {
    let mut test = TestLoop::new(Settings { uplinks: Uplinks::Auto, ..Settings::default() });
    test.kernel.fail_ports = [0, 2].into();
    let mut changes = two_tenants();
    changes[3] = Change::Links(vec![pods_end(7), link(2, "eth0")]);
    test.step(changes);
    assert!(test.state.snapshot().unguarded.len() == 1, "{:?}", test.state.snapshot().unguarded);
    test.kernel.fail_ports.clear();
    test.wait(1);
    assert!(test.state.snapshot().unguarded.is_empty());
}

/// The node's end of a pair, whose other end is in a pod.
fn pods_end(ifindex: u32) -> Link {
    Link { kind: LinkKind::Pair, netns: Some(format!("cni-{ifindex}")), ..link(ifindex, &format!("veth{ifindex}")) }
}

#[test]
fn an_interface_that_vanishes_leaves_nothing_behind() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    test.step(vec![Change::Links(vec![])]);
    assert!(test.kernel.actual.endpoints.is_empty() && test.kernel.ports.is_empty());
    assert_eq!(test.owner("10.0.0.1").as_deref(), Some("acme"), "its address is still the pod's");
}

#[test]
fn an_interface_without_a_pod_stays_denied_unless_the_settings_release_it() {
    for release in [false, true] {
        let mut test = TestLoop::new(Settings { release_unclaimed: release, ..Settings::default() });
        test.step(two_tenants());
        test.step(vec![Change::EndpointGone { key: key("web/a"), uid: String::new() }]);
        assert!(test.kernel.actual.endpoints.is_empty());
        assert_eq!(test.kernel.ports.is_empty(), release);
    }
}

#[test]
fn a_pod_on_a_reused_interface_is_cleared_before_it_is_claimed() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    let first = test.kernel.actual.endpoints[&7];
    test.step(vec![Change::Endpoints(vec![local("shop/b", &["10.0.0.9"], "veth7")])]);
    let writes: Vec<&Op> = test.kernel.log.iter().filter(|op| matches!(op, Op::Endpoint(..))).collect();
    let [Op::Endpoint(7, cleared), Op::Endpoint(7, claimed)] = writes[..] else { panic!("{writes:?}") };
    assert_eq!(*cleared, EndpointEntry::default());
    assert!(claimed.cookie != first.cookie && claimed.tenant != first.tenant);
}

#[test]
fn a_program_that_another_process_removed_is_attached_again() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    assert!(test.state.snapshot().repairs.is_empty());
    for times in 1..=2 {
        test.kernel.ports.clear();
        test.wait(ROUND.as_secs());
        assert_eq!(test.kernel.ports.len(), 1);
        assert_eq!(*test.state.snapshot().repairs, [(key("web/a"), times)].into());
    }
    test.wait(ROUND.as_secs());
    assert_eq!(*test.state.snapshot().repairs, [(key("web/a"), 2)].into(), "nothing was missing");
}

/// An interface whose other end is in the namespace `netns`.
fn pods(ifindex: u32, netns: &str) -> policy::model::input::Link {
    policy::model::input::Link { netns: Some(netns.to_owned()), ..link(ifindex, &format!("veth{ifindex}")) }
}

fn holding() -> Settings {
    Settings { hold_unknown: true, foreign_netns: ["vpn".to_owned()].into(), ..Settings::default() }
}

#[test]
fn an_interface_of_an_unknown_pod_is_denied_and_the_node_s_own_are_not() {
    let mut test = TestLoop::new(holding());
    test.step(nothing());
    test.step(vec![Change::Links(vec![link(2, "uplink"), pods(3, "vpn"), pods(7, "cni-1")])]);
    assert_eq!(test.held(), [7]);
    assert_eq!(test.claimed_by(7), None);
}

#[test]
fn an_interface_that_appears_before_all_kinds_is_denied_and_older_ones_stay() {
    let mut test = TestLoop::new(holding());
    test.step(vec![Change::Links(vec![pods(7, "cni-1")])]);
    test.step(vec![Change::Links(vec![pods(7, "cni-1"), pods(8, "cni-2")])]);
    assert_eq!(test.held(), [8]);
    test.step(nothing().into_iter().filter(|change| !matches!(change, Change::Links(_))).collect());
    assert_eq!(test.held(), [7, 8]);
}

#[test]
fn the_input_guard_knows_a_pod_before_it_is_claimed_and_forgets_a_permission_before_it_ends() {
    let mut test = TestLoop::new(Settings { input_guard: true, ..Settings::default() });
    test.step(two_tenants());
    let claim = test
        .kernel
        .log
        .iter()
        .position(|op| matches!(op, Op::Endpoint(7, entry) if entry.cookie != 0))
        .expect("a claim");
    let (before, rules) = &test.kernel.inputs[0];
    assert!(*before <= claim && rules.interfaces.contains(&7) && rules.pods.contains(&ip("10.0.0.1")), "{rules:?}");
    assert!(test.kernel.inputs.iter().all(|(_, rules)| rules.open.is_empty()));

    let shared = |shared| Change::Tenant(Tenant { shared, ..tenant("acme") });
    test.kernel.inputs.clear();
    test.step(vec![shared(true)]);
    let opened: Vec<usize> = test.kernel.inputs.iter().map(|(_, rules)| rules.open.len()).collect();
    assert_eq!(opened, [1], "only after the other writes: {opened:?}");
    assert_eq!(test.kernel.inputs[0].0, test.kernel.log.len());
    test.kernel.inputs.clear();
    test.step(vec![shared(false)]);
    assert_eq!(test.kernel.inputs[0], (0, InputRules { open: BTreeSet::new(), ..test.kernel.inputs[0].1.clone() }));

    test.kernel.inputs.clear();
    test.step(vec![Change::InputGuardTouched]);
    assert_eq!(test.kernel.inputs.len(), 1, "it is read back");
    test.kernel.fail_input = true;
    test.step(vec![Change::InputGuardTouched]);
    let snapshot = test.state.snapshot();
    assert!(!snapshot.has_input_guard && snapshot.unguarded.iter().any(|why| why.contains("injected")));
    test.kernel.fail_input = false;
    test.wait(1);
    assert!(test.state.snapshot().has_input_guard && test.state.snapshot().unguarded.is_empty());
}

#[test]
fn programs_go_from_an_interface_that_they_cannot_read() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    assert!(test.kernel.ports.iter().any(|port| port.ifindex == 7), "the control: as an earlier agent left it");
    let mut links: Vec<Link> = test.state.cluster.links().values().cloned().collect();
    links.iter_mut().filter(|link| link.ifindex == 7).for_each(|link| link.lacks_ethernet = true);
    test.step(vec![Change::Links(links)]);
    assert!(test.claimed_by(7).is_none() && test.kernel.ports.iter().all(|port| port.ifindex != 7));
    assert_eq!(test.condition("web/a"), EndpointCondition::Error);
}

/// Pods `web/a` and `web/b` of acme behind veth7 and veth8.
fn two_pods() -> Vec<Change> {
    let mut changes = two_tenants();
    changes[2] =
        Change::Endpoints(vec![local("web/a", &["10.0.0.1"], "veth7"), local("web/b", &["10.0.0.3"], "veth8")]);
    changes[3] = Change::Links(vec![link(7, "veth7"), link(8, "veth8")]);
    changes
}

#[test]
fn a_pod_whose_programs_cannot_be_attached_is_unprotected_after_a_while_without_any_change() {
    let mut test = TestLoop::new(Settings::default());
    test.kernel.fail_ports = [7].into();
    test.step(two_pods());
    let unprotected = |test: &TestLoop| {
        let found = test.state.snapshot().unprotected.clone();
        found.iter().map(|found| (found.pod.clone(), found.reason)).collect::<Vec<_>>()
    };
    assert_eq!(unprotected(&test), [], "it starts");
    let patience = policy::model::unprotected::PATIENCE;
    let mut outcome = test.wait(0);
    while outcome.wake < patience {
        test.now.tick = outcome.wake.max(test.now.tick + Duration::from_millis(1));
        outcome = test.step(vec![]);
    }
    assert_eq!(unprotected(&test), []);
    test.now.tick = outcome.wake;
    assert!(test.step(vec![]).published, "the loop wakes by itself");
    assert_eq!(unprotected(&test), [(key("web/a"), UnprotectedReason::NotAttached)], "web/b is the control");
    test.kernel.fail_ports.clear();
    test.wait(31);
    assert_eq!(unprotected(&test), []);
}
