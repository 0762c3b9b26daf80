//! Each rule of the definition with a good and a bad object, judged as a file would be.

use crate::api::document::{Object, ObjectKind, identify, read};
use crate::api::finding::Code;
use crate::api::structure::Issue;
use crate::api::yaml;

/// What is wrong with a tenant `acme` of this spec, as `line field: problem`.
fn wrong(spec: &str) -> Vec<Issue> {
    wrong_named("acme", spec)
}

fn wrong_named(name: &str, spec: &str) -> Vec<Issue> {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    whole(&format!(
        "apiVersion: bulkhead.dev/v1alpha1\nkind: NetworkTenant\nmetadata: {{name: {name}}}\nspec:\n{indented}"
    ))
}

fn whole(text: &str) -> Vec<Issue> {
    let chunks = yaml::split(text);
    let node = yaml::parse(chunks[0]).expect("YAML");
    match identify(&node) {
        Err(issue) => vec![issue],
        Ok(key) => read(key.kind, &node).err().unwrap_or_default(),
    }
}

const SELECTOR: &str = "namespaceSelector: {matchLabels: {team: acme}}\n";

/// The rest of a spec with a good selector before it.
fn with(rest: &str) -> Vec<Issue> {
    wrong(&format!("{SELECTOR}{rest}"))
}

#[track_caller]
fn good(issues: Vec<Issue>) {
    assert!(issues.is_empty(), "{issues:#?}");
}

#[track_caller]
fn bad(issues: Vec<Issue>, code: Code, field: &str, problem: &str) {
    let [issue] = issues.as_slice() else { panic!("wanted one issue: {issues:#?}") };
    assert_eq!((issue.code, issue.field.as_str()), (code, field), "{issue:?}");
    assert!(issue.problem.contains(problem), "{issue:?}");
    assert!(issue.line >= 1);
}

#[test]
fn a_tenant_with_every_field_is_valid() {
    good(wrong(
        "namespaceSelector: {matchLabels: {capsule.clastix.io/tenant: acme}}\nclass: Isolated\nmode: Enforce\nsubnets:\n\
         - {name: rds-a, cidr: 10.40.0.0/24, ports: [{protocol: TCP, port: 5432}]}\n- {name: efs-a, cidr: 10.40.1.0/24}\negress:\n\
         - {name: corp-proxy, cidrs: [192.0.2.10/32], ports: [{protocol: TCP, port: 3128}]}\npeers:\n\
         - {tenant: globex, direction: Egress, until: \"2027-01-31T00:00:00Z\", reason: \"migration CHG-1234\"}\n",
    ));
}

#[test]
fn an_empty_selector_is_refused() {
    good(wrong("namespaceSelector: {matchLabels: {a: b}}"));
    good(wrong("namespaceSelector: {matchExpressions: [{key: a, operator: Exists}]}"));
    bad(wrong("namespaceSelector: {}"), Code::Rule, "spec.namespaceSelector", "every namespace");
    bad(wrong("namespaceSelector: {matchLabels: {}}"), Code::Rule, "spec.namespaceSelector", "every namespace");
    bad(
        wrong("namespaceSelector: {matchLabels: {}, matchExpressions: []}"),
        Code::Rule,
        "spec.namespaceSelector",
        "every",
    );
    bad(wrong("mode: Audit"), Code::Structure, "spec.namespaceSelector", "required");
    bad(wrong("namespaceSelector:"), Code::Structure, "spec.namespaceSelector", "null");
    bad(wrong("namespaceSelector: {matchLabels: null}"), Code::Structure, "spec.namespaceSelector.matchLabels", "null");
}

#[test]
fn operators_and_values_must_match() {
    let selector = |expression: &str| wrong(&format!("namespaceSelector: {{matchExpressions: [{expression}]}}"));
    let at = "spec.namespaceSelector.matchExpressions[0]";
    good(selector("{key: a, operator: In, values: [x]}"));
    good(selector("{key: a, operator: DoesNotExist}"));
    bad(selector("{key: a, operator: In}"), Code::Rule, at, "need values");
    bad(selector("{key: a, operator: NotIn, values: []}"), Code::Rule, at, "need values");
    bad(selector("{key: a, operator: Exists, values: [x]}"), Code::Rule, at, "no values");
    bad(selector("{key: a, operator: Is}"), Code::Structure, &format!("{at}.operator"), "not allowed");
    bad(selector("{key: 'a b', operator: DoesNotExist}"), Code::Value, &format!("{at}.key"), "label");
}

#[test]
fn names_are_label_values_and_none_is_reserved() {
    good(wrong_named("a.b-c", SELECTOR));
    bad(wrong_named(&"a".repeat(64), SELECTOR), Code::Rule, "", "63 characters");
    bad(wrong_named("world", SELECTOR), Code::Rule, "", "reserved");
    bad(wrong_named("Acme", SELECTOR), Code::Value, "metadata.name", "valid name");
    bad(wrong_named("123", SELECTOR), Code::Structure, "metadata.name", "not a string");
}

#[test]
fn networks_must_be_in_canonical_form() {
    let subnet = |cidr: &str| with(&format!("subnets:\n- {{name: a, cidr: '{cidr}'}}\n"));
    let at = "spec.subnets[0].cidr";
    good(subnet("10.40.0.0/24"));
    good(subnet("fd00:40::/64"));
    bad(subnet("10.40.0.5/24"), Code::Rule, at, "host bits");
    assert_eq!(subnet("10.40.0.5/24")[0].remedy, "write 10.40.0.0/24");
    for text in [" 10.10.0.0/16", "10.10.0.0/33", "10.10/16", "::ffff:10.20.0.0/112", "fe80::1%eth0/64"] {
        bad(subnet(text), Code::Rule, at, "must be a network");
    }
    // The API server's parser refuses this one; the evaluator here does not, so conversion must.
    bad(subnet("010.10.0.0/16"), Code::Value, at, "is not a network");
    bad(subnet("10.10.0.0/016"), Code::Rule, at, "must be a network");
    bad(subnet(""), Code::Structure, at, "at least 1");
    bad(with("subnets:\n- {name: a}\n"), Code::Structure, at, "required");
    bad(with("subnets:\n- {name: a, cidr: null}\n"), Code::Structure, at, "null");
}

#[test]
fn a_data_subnet_must_be_ownable() {
    let subnet = |cidr: &str| with(&format!("subnets: [{{name: a, cidr: '{cidr}'}}]"));
    let at = "spec.subnets[0].cidr";
    good(subnet("10.0.0.0/8"));
    good(subnet("2001::/16"));
    for wide in ["0.0.0.0/0", "::/0", "8.0.0.0/7", "fd00::/8"] {
        assert!(subnet(wide).iter().any(|issue| issue.problem.contains("wider")), "{wide}");
    }
    for special in [
        "127.0.0.0/8",
        "169.254.0.0/16",
        "169.254.169.254/32",
        "169.0.0.0/8",
        "224.0.0.0/8",
        "fe80::/64",
        "ff02::/16",
        "::1/128",
    ] {
        bad(subnet(special), Code::Rule, at, "ordinary unicast");
    }
    good(with("egress: [{name: internet, cidrs: [0.0.0.0/0, '::/0']}]"));
    good(with("egress: [{name: metadata, cidrs: [169.254.169.254/32]}]"));
}

#[test]
fn entry_names_are_labels_and_unique() {
    good(with("subnets: [{name: a, cidr: 10.0.0.0/24}, {name: b, cidr: 10.0.1.0/24}]"));
    bad(
        with("subnets: [{name: a, cidr: 10.0.0.0/24}, {name: a, cidr: 10.0.1.0/24}]"),
        Code::Structure,
        "spec.subnets[1].name",
        "twice",
    );
    bad(
        with("subnets: [{name: a, cidr: 10.0.0.0/24}]\negress: [{name: a, cidrs: [192.0.2.0/24]}]"),
        Code::Rule,
        "spec.egress",
        "once",
    );
    bad(with("subnets: [{name: A_b, cidr: 10.0.0.0/24}]"), Code::Rule, "spec.subnets[0].name", "lower-case");
    bad(with("egress: [{name: '', cidrs: [192.0.2.0/24]}]"), Code::Structure, "spec.egress[0].name", "at least 1");
}

#[test]
fn ports_must_match_their_protocol_and_each_other() {
    let ports = |ports: &str| with(&format!("egress: [{{name: a, cidrs: [192.0.2.0/24], ports: {ports}}}]"));
    let at = "spec.egress[0].ports[0]";
    good(ports(
        "[{protocol: TCP, port: 1, endPort: 65535}, {protocol: UDP}, {protocol: ICMP}, {protocol: SCTP, port: 9}]",
    ));
    bad(ports("[{protocol: ICMP, port: 8}]"), Code::Rule, at, "ICMP");
    bad(ports("[{protocol: TCP, endPort: 8}]"), Code::Rule, at, "endPort");
    bad(ports("[{protocol: TCP, port: 9, endPort: 8}]"), Code::Rule, at, "endPort");
    bad(ports("[{protocol: TCP, port: 0}]"), Code::Structure, &format!("{at}.port"), "out of range");
    bad(ports("[{protocol: TCP, port: 65536}]"), Code::Structure, &format!("{at}.port"), "out of range");
    bad(ports("[{protocol: TCP, port: 99999999999999999999999}]"), Code::Structure, &format!("{at}.port"), "");
    bad(ports("[{protocol: TCP, port: '80'}]"), Code::Structure, &format!("{at}.port"), "whole number");
    bad(ports("[{protocol: tcp, port: 80}]"), Code::Structure, &format!("{at}.protocol"), "not allowed");
    bad(ports("[{port: 80}]"), Code::Structure, &format!("{at}.protocol"), "required");
}

#[test]
fn an_empty_or_null_list_never_means_everything() {
    let egress = |rest: &str| with(&format!("egress: [{{name: a, {rest}}}]"));
    bad(egress("cidrs: []"), Code::Structure, "spec.egress[0].cidrs", "at least 1");
    bad(egress("cidrs: null"), Code::Structure, "spec.egress[0].cidrs", "null");
    bad(egress("cidrs: [null]"), Code::Structure, "spec.egress[0].cidrs[0]", "null");
    bad(egress("ports: [{protocol: TCP}]"), Code::Structure, "spec.egress[0].cidrs", "required");
    bad(egress("cidrs: [192.0.2.0/24], ports: []"), Code::Structure, "spec.egress[0].ports", "at least 1");
    bad(egress("cidrs: [192.0.2.0/24], ports: null"), Code::Structure, "spec.egress[0].ports", "null");
    bad(
        egress("cidrs: [192.0.2.0/24], ports: [{protocol: TCP, port: null}]"),
        Code::Structure,
        "spec.egress[0].ports[0].port",
        "null",
    );
    bad(with("egress: null"), Code::Structure, "spec.egress", "null");
    good(with("egress: []\nsubnets: []\npeers: []"));
}

#[test]
fn peers_are_others_listed_once_and_never_of_a_shared_tenant() {
    good(with("peers: [{tenant: globex, direction: Both}]"));
    bad(with("peers: [{tenant: acme, direction: Both}]"), Code::Rule, "", "own peer");
    bad(
        with("peers:\n- {tenant: b, direction: Both}\n- {tenant: b, direction: Egress}"),
        Code::Structure,
        "spec.peers[1].tenant",
        "twice",
    );
    bad(with("class: Shared\npeers: [{tenant: b, direction: Both}]"), Code::Rule, "spec.peers", "Shared");
    good(with("class: Shared\npeers: []"));
    bad(with("peers: [{tenant: b}]"), Code::Structure, "spec.peers[0].direction", "required");
    bad(with("peers: [{tenant: b, direction: egress}]"), Code::Structure, "spec.peers[0].direction", "not allowed");
    bad(with("peers: [{tenant: '', direction: Both}]"), Code::Structure, "spec.peers[0].tenant", "at least 1");
}

#[test]
fn until_is_a_time_with_a_zone() {
    let until = |text: &str| with(&format!("peers: [{{tenant: b, direction: Both, until: {text}}}]"));
    good(until("2027-01-31T00:00:00Z"));
    good(until("'2027-01-31T00:00:00.5+01:00'"));
    for text in
        ["2027-01-31", "'2027-01-31T00:00:00'", "'2027-02-30T00:00:00Z'", "tomorrow", "''", "'2027-01-31 00:00:00Z'"]
    {
        bad(until(text), Code::Structure, "spec.peers[0].until", "time with a zone");
    }
    bad(until("1800000000"), Code::Structure, "spec.peers[0].until", "string");
    bad(until("null"), Code::Structure, "spec.peers[0].until", "null");
}

#[test]
fn an_unknown_field_is_an_error_that_names_the_nearest_field() {
    let issues = with("subnet: []");
    assert_eq!(issues[0].code, Code::UnknownField);
    assert_eq!(issues[0].remedy, "did you mean subnets?");
    assert_eq!(issues[0].line, 6);
    let issues = with("subnets: [{name: a, cidr: 10.0.0.0/24, port: 5}]");
    assert_eq!((issues[0].field.as_str(), issues[0].remedy.as_str()), ("spec.subnets[0].port", "did you mean ports?"));
    let issues =
        whole("apiVersion: bulkhead.dev/v1alpha1\nkind: NetworkTenant\nmetadata: {name: a, lables: {}}\nspecs: {}\n");
    assert_eq!(issues.len(), 3, "{issues:#?}");
}

#[test]
fn what_kubectl_exports_can_be_read_back() {
    good(whole(
        "apiVersion: bulkhead.dev/v1alpha1\nkind: NetworkTenant\nmetadata:\n  name: acme\n  uid: 5f1e\n  generation: 3\n  resourceVersion: \"12\"\n\
         \x20 creationTimestamp: \"2026-01-01T00:00:00Z\"\n  managedFields:\n  - {apiVersion: v1, fieldsV1: {f:spec: {}}}\nspec:\n  \
         namespaceSelector: {matchLabels: {a: b}}\nstatus:\n  podCount: 3\n  conditions: []\n",
    ));
    good(whole(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, creationTimestamp: null}\nspec: {finalizers: [kubernetes]}\nstatus: {}\n",
    ));
}

#[test]
fn lists_beyond_their_bound_are_refused_whole() {
    let many = |n: usize| (0..n).map(|i| format!("{{name: s{i}, cidr: 10.0.{i}.0/24}}")).collect::<Vec<_>>().join(", ");
    good(with(&format!("subnets: [{}]", many(64))));
    bad(with(&format!("subnets: [{}]", many(65))), Code::Structure, "spec.subnets", "at most 64");
    let cidrs = (0..10_000).map(|i| format!("10.{}.{}.0/24", i / 256, i % 256)).collect::<Vec<_>>().join(", ");
    bad(
        with(&format!("egress: [{{name: a, cidrs: [{cidrs}]}}]")),
        Code::Structure,
        "spec.egress[0].cidrs",
        "at most 32",
    );
}

#[test]
fn documents_of_other_kinds_are_refused() {
    bad(
        whole("apiVersion: bulkhead.dev/v1\nkind: NetworkTenant\nmetadata: {name: a}\n"),
        Code::UnknownKind,
        "kind",
        "not a known kind",
    );
    bad(whole("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"), Code::UnknownKind, "kind", "v1 Pod");
    bad(whole("kind: NetworkTenant\n"), Code::UnknownKind, "apiVersion", "missing");
    bad(whole("- a\n- b\n"), Code::UnknownKind, "apiVersion", "missing");
    bad(whole("just text\n"), Code::UnknownKind, "apiVersion", "missing");
    bad(whole("apiVersion: v1\nkind: Namespace\n"), Code::Structure, "metadata.name", "missing");
}

#[test]
fn a_good_document_becomes_its_object() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: web, labels: {team: acme}}\n";
    let node = yaml::parse(yaml::split(text)[0]).expect("YAML");
    let Ok(Object::Namespace(namespace)) = read(ObjectKind::Namespace, &node) else { panic!("a namespace") };
    assert_eq!(namespace.labels["team"], "acme");
}
