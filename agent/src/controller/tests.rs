//! Tests of the statuses that follow from objects, without a clock and with a fake API server.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::conditions::{event_conditions, is_current, of_kind};
use super::nodes::{Absences, TAINT, to_untaint, without_ours};
use super::state::{AgentPod, ControllerEvent, ControllerState, NodeState, Urgency};
use super::statuses::{Report, report};
use super::watches;
use crate::api::NetworkTenantStatus;
use crate::kube_watch::fake_api::{self, FakeResponse, end_of_list, event};
use crate::kube_watch::objects::{NamespaceLite, namespace_reader};
use crate::kube_watch::update::Update;
use policy::model::input::{EndpointKey, Namespace};
use policy::model::settings::{Settings, TenancyKey};

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a well-formed object")
}

/// A tenant that selects its namespaces by `t=<name>`, created at `age`; `spec` adds to it.
fn tenant(name: &str, age: u8, spec: Value) -> Box<DynamicObject> {
    let mut whole = json!({"namespaceSelector": {"matchLabels": {"t": name}}});
    spec.as_object().expect("a spec").iter().for_each(|(field, value)| whole[field] = value.clone());
    object(json!({
        "apiVersion": "bulkhead.dev/v1alpha1",
        "kind": "NetworkTenant",
        "metadata": {"name": name, "generation": 1, "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")},
        "spec": whole,
    }))
}

fn namespace(name: &str, labels: Value) -> Namespace {
    let object: NamespaceLite = object(json!({"metadata": {"name": name, "labels": labels}}));
    namespace_reader(&[])(object).expect("it can be read").expect("a namespace")
}

fn pod(namespace: &str, name: &str) -> EndpointKey {
    EndpointKey { namespace: namespace.into(), name: name.into() }
}

fn all<T>(objects: Vec<T>) -> Update<T> {
    Update::Snapshot { objects, unreadable: Vec::new() }
}

fn unreadable<T>(namespace: &str, name: &str) -> Update<T> {
    Update::Snapshot { objects: Vec::new(), unreadable: vec![pod(namespace, name)] }
}

fn gone<T>(key: EndpointKey) -> Update<T> {
    Update::Delete { key, uid: String::new() }
}

#[expect(clippy::vec_box, reason = "a watch delivers each undecoded object in a box")]
fn state(settings: Settings, tenants: Vec<Box<DynamicObject>>, namespaces: Vec<Namespace>) -> ControllerState {
    let mut state = ControllerState::new(settings);
    state.apply(ControllerEvent::Tenant(all(tenants)));
    state.apply(ControllerEvent::Namespace(all(namespaces)));
    state
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn status(state: &ControllerState, name: &str) -> NetworkTenantStatus {
    report(state, at(1_000)).statuses.remove(name).expect("a status")
}

/// `True/Reason` of one condition.
fn state_of(status: &NetworkTenantStatus, kind: &str) -> String {
    let condition = of_kind(status, kind).expect("a condition");
    format!("{}/{}", condition.status, condition.reason)
}

fn ready(state: &ControllerState, name: &str) -> String {
    state_of(&status(state, name), "Ready")
}

#[test]
fn a_tenant_with_namespaces_and_pods_is_ready_and_counted() {
    let namespaces = vec![namespace("b", json!({"t": "acme"})), namespace("a", json!({"t": "acme"}))];
    let mut state = state(Settings::default(), vec![tenant("acme", 0, json!({}))], namespaces);
    state.apply(ControllerEvent::Pod(all(vec![pod("a", "x"), pod("a", "y"), pod("b", "x"), pod("other", "x")])));
    let status = status(&state, "acme");
    let kinds = ["Accepted", "ResolvedRefs", "Conflicted", "Ready"].map(|kind| state_of(&status, kind));
    assert_eq!(kinds, ["True/Accepted", "True/ResolvedRefs", "False/NoConflict", "True/Ready"]);
    assert_eq!((status.namespace_count, status.pod_count), (Some(2), Some(3)));
    assert_eq!(status.namespaces, ["a", "b"]);
    assert_eq!(status.observed_generation, Some(1));
}

#[test]
fn a_tenant_without_namespaces_is_ready_with_the_reason_empty_selection() {
    let state = state(Settings::default(), vec![tenant("acme", 0, json!({}))], vec![]);
    assert_eq!(state_of(&status(&state, "acme"), "Accepted"), "True/EmptySelection");
    assert_eq!(ready(&state, "acme"), "True/Ready");
}

#[test]
fn a_namespace_claimed_twice_stays_with_the_older_tenant_and_the_newer_reports_it() {
    let both = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "a"}}});
    let tenants = vec![tenant("older", 1, both.clone()), tenant("aaa-newer", 2, both)];
    let state = state(Settings::default(), tenants, vec![namespace("a", json!({}))]);
    assert_eq!(ready(&state, "older"), "True/Ready");
    assert_eq!(ready(&state, "aaa-newer"), "False/NamespaceClaimed");
    assert_eq!(status(&state, "older").namespaces, ["a"]);
    let newer = status(&state, "aaa-newer");
    assert_eq!(newer.namespace_count, Some(0));
    assert!(of_kind(&newer, "Conflicted").is_some_and(|found| found.message.contains("the older tenant older")));
    assert_eq!(report(&state, at(0)).conflicts.get("namespace_claimed"), Some(&1));
}

#[test]
fn an_overlapping_subnet_stays_with_the_older_tenant() {
    let subnet = |cidr: &str| json!({"subnets": [{"name": "rds", "cidr": cidr}]});
    let tenants = vec![tenant("newer", 2, subnet("10.40.0.0/25")), tenant("older", 1, subnet("10.40.0.0/24"))];
    let state = state(Settings::default(), tenants, vec![]);
    assert_eq!([ready(&state, "older"), ready(&state, "newer")], ["True/Ready", "False/SubnetOverlap"]);
}

#[test]
fn a_subnet_in_the_clusters_own_ranges_is_refused() {
    let settings = Settings { pod_cidrs: vec!["10.244.0.0/16".parse().expect("a range")], ..Settings::default() };
    let inside = json!({"subnets": [{"name": "rds", "cidr": "10.244.7.0/24"}]});
    let state = state(settings, vec![tenant("acme", 0, inside)], vec![]);
    assert_eq!(ready(&state, "acme"), "False/ClusterRange");
}

#[test]
fn a_peer_is_resolved_once_both_sides_agree_on_a_direction() {
    let peer = |other: &str, direction: &str| json!({"peers": [{"tenant": other, "direction": direction}]});
    let acme = || tenant("acme", 0, peer("globex", "Egress"));
    for (globex, expected) in [
        (None, "False/PeerNotFound"),
        (Some(json!({})), "False/PeerNotMutual"),
        (Some(peer("acme", "Egress")), "False/PeerNotMutual"),
        (Some(peer("acme", "Ingress")), "True/ResolvedRefs"),
        (Some(peer("acme", "Both")), "True/ResolvedRefs"),
        (Some(json!({"class": "Shared"})), "True/ResolvedRefs"),
    ] {
        let tenants = [acme()].into_iter().chain(globex.clone().map(|spec| tenant("globex", 1, spec))).collect();
        let state = state(Settings::default(), tenants, vec![]);
        assert_eq!(state_of(&status(&state, "acme"), "ResolvedRefs"), expected, "{globex:?}");
    }
}

#[test]
fn a_permission_that_both_sides_ended_is_resolved_and_one_that_only_the_peer_ended_is_not() {
    let until = "1970-01-01T00:00:50Z";
    let acme = |spec| tenant("acme", 0, json!({"peers": [spec]}));
    let globex = tenant("globex", 1, json!({"peers": [{"tenant": "acme", "direction": "Ingress", "until": until}]}));
    let bounded = acme(json!({"tenant": "globex", "direction": "Egress", "until": until}));
    let unbounded = acme(json!({"tenant": "globex", "direction": "Egress"}));
    for (acme, expected) in [(bounded, "True/ResolvedRefs"), (unbounded, "False/PeerNotMutual")] {
        let state = state(Settings::default(), vec![acme, globex.clone()], vec![]);
        let (before, after) = (report(&state, at(49)), report(&state, at(50)));
        assert_eq!(state_of(&before.statuses["acme"], "ResolvedRefs"), "True/ResolvedRefs");
        assert_eq!(state_of(&after.statuses["acme"], "ResolvedRefs"), expected);
        assert_eq!((before.next_end, after.next_end), (Some(50), None));
    }
}

#[test]
fn an_invalid_spec_is_reported_and_its_last_good_version_keeps_its_claims() {
    let subnet = json!({"subnets": [{"name": "rds", "cidr": "10.40.0.0/24"}]});
    let tenants = vec![tenant("older", 1, subnet.clone()), tenant("newer", 2, subnet)];
    let mut state = state(Settings::default(), tenants, vec![]);
    let broken = || tenant("older", 1, json!({"subnets": [{"name": "rds", "cidr": "10.40.0.0/24", "prots": []}]}));
    assert_eq!(state.apply(ControllerEvent::Tenant(Update::Upsert(broken()))), Urgency::Soon);
    assert_eq!([ready(&state, "older"), ready(&state, "newer")], ["False/Invalid", "False/SubnetOverlap"]);
    state.apply(ControllerEvent::Tenant(all(vec![broken()])));
    assert_eq!(ready(&state, "older"), "False/Invalid");
    state.apply(ControllerEvent::Tenant(gone(pod("", "older"))));
    assert_eq!(report(&state, at(0)).statuses.len(), 0);
}

#[test]
fn a_tenancy_key_on_a_namespace_cannot_make_a_tenant_look_broken() {
    let settings = Settings { keys: vec![TenancyKey::NamespaceLabel { key: "mark".into() }], ..Settings::default() };
    let marked = namespace("a", json!({"mark": "acme"}));
    let state = state(settings, vec![tenant("acme", 0, json!({}))], vec![marked]);
    assert_eq!(ready(&state, "acme"), "True/Ready");
    let Report { conflicts, marks, .. } = report(&state, at(0));
    assert_eq!((conflicts.get("key_not_selected"), marks.len()), (Some(&1), 1));
}

#[test]
fn transition_times_change_only_with_the_status_and_nothing_is_written_twice() {
    let mut state = state(Settings::default(), vec![tenant("acme", 0, json!({}))], vec![]);
    let first = report(&state, at(100)).statuses.remove("acme").expect("a status");
    state.objects.get_mut("acme").expect("acme").status = first.clone();
    let same = report(&state, at(200)).statuses.remove("acme").expect("a status");
    assert!(is_current(&first, &same));

    state.apply(ControllerEvent::Namespace(Update::Upsert(namespace("a", json!({"t": "acme"})))));
    let other = report(&state, at(300)).statuses.remove("acme").expect("a status");
    assert!(!is_current(&first, &other), "the count and the reason changed");
    let since = |status: &NetworkTenantStatus| of_kind(status, "Accepted").map(|one| one.last_transition_time.clone());
    assert_eq!(since(&other), since(&first), "the status of Accepted did not change");
}

#[test]
fn conditions_of_other_controllers_are_ignored() {
    let state = state(Settings::default(), vec![tenant("acme", 0, json!({}))], vec![]);
    let wanted = status(&state, "acme");
    let mut current = wanted.clone();
    current.conditions.reverse();
    current.conditions.push(object(json!({
        "type": "Billed", "status": "True", "reason": "Paid", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    })));
    assert!(is_current(&current, &wanted));
}

#[test]
fn an_event_is_written_once_and_again_when_its_message_changes() {
    let both = json!({"namespaceSelector": {"matchLabels": {"team": "x"}}});
    let tenants = vec![tenant("older", 1, both.clone()), tenant("newer", 2, both)];
    let mut state = state(Settings::default(), tenants, vec![namespace("a", json!({"team": "x"}))]);
    let reasons = |current: &NetworkTenantStatus, wanted: &NetworkTenantStatus| {
        event_conditions(current, wanted).map(|one| one.reason.clone()).collect::<Vec<_>>()
    };
    let first = status(&state, "newer");
    assert_eq!(reasons(&NetworkTenantStatus::default(), &first), ["NamespaceClaimed"]);
    assert_eq!(reasons(&first, &first), Vec::<String>::new());
    state.apply(ControllerEvent::Namespace(Update::Upsert(namespace("b", json!({"team": "x"})))));
    assert_eq!(reasons(&first, &status(&state, "newer")), ["NamespaceClaimed"]);
    assert_eq!(reasons(&NetworkTenantStatus::default(), &status(&state, "older")), Vec::<String>::new());
}

#[test]
fn a_thousand_namespaces_are_counted_and_256_of_them_named() {
    let namespaces = (0..1000).map(|n| namespace(&format!("n{n:04}"), json!({"t": "acme"}))).collect();
    let state = state(Settings::default(), vec![tenant("acme", 0, json!({}))], namespaces);
    let status = status(&state, "acme");
    assert_eq!((status.namespace_count, status.namespaces.len()), (Some(1000), 256));
    assert_eq!(status.namespaces[255], "n0255");
}

#[test]
fn a_snapshot_removes_missing_objects_and_pod_counts_are_less_urgent_than_objects() {
    let namespaces = vec![namespace("a", json!({"t": "acme"}))];
    let mut state = state(Settings::default(), vec![tenant("acme", 0, json!({}))], namespaces);
    assert_eq!(state.apply(ControllerEvent::Pod(all(vec![pod("a", "x")]))), Urgency::Later);
    assert_eq!(state.apply(ControllerEvent::Pod(Update::Upsert(pod("a", "x")))), Urgency::Never);
    assert_eq!(state.apply(ControllerEvent::Pod(gone(pod("a", "x")))), Urgency::Later);
    assert_eq!(status(&state, "acme").pod_count, Some(0));
    assert_eq!(state.apply(ControllerEvent::Namespace(all(vec![]))), Urgency::Soon);
    assert_eq!(status(&state, "acme").namespace_count, Some(0));
    assert_eq!(state.missing().iter().copied().collect::<Vec<_>>(), ["agents", "nodes", "ranges"]);
}

#[test]
fn ranges_that_nodes_state_are_the_cluster_s_and_without_any_wide_egress_is_reported() {
    let subnets = json!([{"name": "db", "cidr": "10.244.0.0/24"}, {"name": "in", "cidr": "10.244.0.0/28"}]);
    let egress = json!([{"name": "all", "cidrs": ["0.0.0.0/0"]}]);
    let tenants = vec![tenant("acme", 0, json!({"subnets": subnets})), tenant("globex", 1, json!({"egress": egress}))];
    let settings = Settings { learn_ranges: true, ..Settings::default() };
    let mut state = state(settings, tenants, vec![]);
    assert_eq!([ready(&state, "acme"), ready(&state, "globex")], ["True/Ready", "False/PodRangeUnknown"]);
    let ranges = || vec!["10.244.0.0/24".parse().expect("a range")];
    let stated = NodeState {
        pod_cidrs: ranges(),
        addresses: vec!["10.244.0.3".parse().expect("an address")],
        ..node("a", false)
    };
    assert_eq!(state.apply(ControllerEvent::Node(all(vec![stated]))), Urgency::Soon);
    assert_eq!([ready(&state, "acme"), ready(&state, "globex")], ["False/ClusterRange", "True/Ready"]);
    let status = status(&state, "acme");
    let message = &of_kind(&status, "Conflicted").expect("a condition").message;
    assert!(message.contains("10.244.0.0/24") && message.contains("10.244.0.3"), "{message}");
}

#[tokio::test]
async fn every_watch_delivers_its_objects_to_the_state() {
    let client = fake_api::client(|path, _| {
        let metadata = json!({"name": "a", "namespace": "a", "uid": "u", "resourceVersion": "7"});
        let object = match path.rsplit('/').next().unwrap_or_default() {
            "networktenants" => fake_api::tenant("acme", json!("acme")),
            "namespaces" => json!({"metadata": {"name": "a", "labels": {"team": "acme"}, "resourceVersion": "7"}}),
            "pods" => json!({"metadata": metadata, "spec": {"containers": [], "nodeName": "a"}, "status": {
                "conditions": [{"type": "Ready", "status": "True"}]}}),
            "nodes" => json!({"metadata": metadata, "spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}]}}),
            "servicecidrs" | "ippools" | "ciliumpodippools" => {
                return FakeResponse::Ended(200, vec![json!({"items": []})]);
            }
            other => panic!("{other} is not watched"),
        };
        FakeResponse::Quiet(vec![event("ADDED", object), end_of_list()])
    });
    let (to, mut events) = mpsc::channel(16);
    let _watches = watches::start(&client, "bulkhead-system", &[], &to);
    let mut state = ControllerState::new(Settings::default());
    while !state.missing().is_empty() {
        let event = tokio::time::timeout(std::time::Duration::from_secs(10), events.recv()).await;
        state.apply(event.expect("an event in time").expect("the watches run"));
    }
    let status = status(&state, "acme");
    assert_eq!((status.namespace_count, status.pod_count), (Some(1), Some(1)));
    assert_eq!(to_untaint(&state), ["a"]);
}

fn node(name: &str, tainted: bool) -> NodeState {
    NodeState { name: name.into(), tainted, eligible: true, addresses: Vec::new(), pod_cidrs: Vec::new() }
}

fn agent(name: &str, node: &str, ready: bool) -> AgentPod {
    AgentPod { name: name.into(), node: node.into(), ready }
}

#[test]
fn a_node_loses_its_taint_once_its_own_agent_is_ready_and_not_before() {
    let mut state = ControllerState::new(Settings::default());
    state.apply(ControllerEvent::Node(all(vec![node("a", true), node("b", true), node("c", false)])));
    state.apply(ControllerEvent::Agent(all(vec![agent("x", "a", false), agent("y", "c", true)])));
    assert!(to_untaint(&state).is_empty());
    assert_eq!(state.apply(ControllerEvent::Agent(Update::Upsert(agent("x", "a", true)))), Urgency::Soon);
    assert_eq!(to_untaint(&state), ["a"]);
}

#[test]
fn a_snapshot_keeps_the_objects_that_cannot_be_read() {
    let namespaces = vec![namespace("a", json!({"t": "acme"}))];
    let mut state = state(Settings::default(), vec![tenant("acme", 0, json!({}))], namespaces);
    state.apply(ControllerEvent::Node(all(vec![node("n", true)])));
    state.apply(ControllerEvent::Agent(all(vec![agent("x", "n", true)])));
    state.apply(ControllerEvent::Pod(all(vec![pod("a", "p")])));
    assert_eq!(state.apply(ControllerEvent::Tenant(unreadable("", "acme"))), Urgency::Never);
    assert_eq!(state.apply(ControllerEvent::Namespace(unreadable("", "a"))), Urgency::Never);
    assert_eq!(state.apply(ControllerEvent::Agent(unreadable("bulkhead-system", "x"))), Urgency::Never);
    assert_eq!(state.apply(ControllerEvent::Node(unreadable("", "n"))), Urgency::Never);
    state.apply(ControllerEvent::Pod(unreadable("a", "p")));
    let status = status(&state, "acme");
    assert_eq!((status.namespace_count, status.pod_count), (Some(1), Some(1)));
    assert_eq!(to_untaint(&state), ["n"]);
}

#[test]
fn only_the_start_up_taint_is_removed_whatever_its_effect() {
    let taint = |key: &str, effect: &str| object::<v1::Taint>(json!({"key": key, "effect": effect}));
    let taints = [taint(TAINT, "NoSchedule"), taint("other", "NoSchedule"), taint(TAINT, "NoExecute")];
    assert_eq!(without_ours(&taints), Some(vec![taint("other", "NoSchedule")]));
    assert_eq!(without_ours(&[taint("other", "NoSchedule")]), None);
}

#[test]
fn a_node_without_a_ready_agent_is_reported_once_after_five_minutes() {
    let mut state = ControllerState::new(Settings::default());
    state
        .apply(ControllerEvent::Node(all(vec![node("a", false), NodeState { eligible: false, ..node("win", false) }])));
    let mut absences = Absences::default();
    assert!(absences.update(&state, at(0)).is_empty());
    assert!(absences.update(&state, at(299)).is_empty());
    assert_eq!(absences.update(&state, at(300)), ["a"]);
    assert!(absences.update(&state, at(600)).is_empty());
    assert_eq!(absences.long(at(600)).count(), 1);
    state.apply(ControllerEvent::Agent(Update::Upsert(agent("x", "a", true))));
    assert!(absences.update(&state, at(700)).is_empty());
    assert_eq!(absences.long(at(2000)).count(), 0);
}
