//! Tests of each check between objects, with a valid and an invalid set, and of the samples in `deploy/samples`.

use std::path::Path;

use super::*;

/// 2026-01-01.
const NOW: i64 = 1_767_225_600;

fn tenant(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: bulkhead.dev/v1alpha1\nkind: NetworkTenant\nmetadata: {{name: {name}}}\nspec:\n  namespaceSelector: {{matchLabels: {{tenant: {name}}}}}\n{rest}"
    )
}

fn namespace(name: &str, tenant: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{tenant: {tenant}}}}}\n")
}

fn endpoint(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: bulkhead.dev/v1alpha1\nkind: Endpoint\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn findings(documents: &[String]) -> Vec<Finding> {
    let bytes = documents.join("---\n").into_bytes();
    lint(&[Input { file: "t.yaml".into(), bytes }], NOW)
}

fn lines(documents: &[String]) -> Vec<String> {
    findings(documents).iter().map(print::line).collect()
}

#[track_caller]
fn one(documents: &[String], code: Code, field: &str, says: &str) {
    let found = findings(documents);
    let [finding] = found.as_slice() else { panic!("there is not exactly one finding: {found:#?}") };
    assert_eq!((finding.code, finding.field.as_str()), (code, field), "{finding:?}");
    assert!(finding.to_string().contains(says), "{finding}");
}

#[test]
fn two_tenants_that_share_nothing_are_clean() {
    let acme = tenant("acme", "  subnets: [{name: a, cidr: 10.1.0.0/24}, {name: b, cidr: 10.1.0.0/25}]\n");
    let globex = tenant("globex", "  subnets: [{name: a, cidr: 10.1.1.0/24}, {name: six, cidr: 'fd00::/64'}]\n");
    assert_eq!(lines(&[acme, globex]), Vec::<String>::new(), "a tenant may nest its own subnets");
}

#[test]
fn overlapping_subnets_are_reported_at_the_loser_with_file_and_line() {
    let acme = tenant("acme", "  subnets:\n  - {name: a, cidr: 10.1.0.0/16}\n");
    let globex = tenant("globex", "  subnets:\n  - {name: a, cidr: 10.9.0.0/24}\n  - {name: b, cidr: 10.1.2.0/24}\n");
    assert_eq!(
        lines(&[acme.clone(), globex.clone()]),
        [
            "t.yaml:16  error  BH010  NetworkTenant/globex: spec.subnets[1].cidr: 10.1.2.0/24 overlaps 10.1.0.0/16 of NetworkTenant/acme (t.yaml:1), which comes first by name: the whole entry grants and owns nothing; remove the overlap from one of the two"
        ]
    );
    let older = globex.replace("{name: globex}", "{name: globex, creationTimestamp: '2020-01-01T00:00:00Z'}");
    let newer = acme.replace("{name: acme}", "{name: acme, creationTimestamp: '2021-01-01T00:00:00Z'}");
    one(&[newer, older], Code::SubnetOverlap, "spec.subnets[0].cidr", "which is older");
    let equal = |name: &str| tenant(name, "  subnets: [{name: a, cidr: 'fd00::/64'}]\n");
    one(&[equal("b"), equal("a")], Code::SubnetOverlap, "spec.subnets[0].cidr", "NetworkTenant/a");
}

#[test]
fn a_namespace_claimed_twice_is_reported_once_for_each_pair() {
    let wide = "apiVersion: bulkhead.dev/v1alpha1\nkind: NetworkTenant\nmetadata: {name: initech}\nspec:\n  namespaceSelector:\n    matchExpressions: [{key: tenant, operator: Exists}]\n";
    let documents = [tenant("acme", ""), wide.into(), namespace("acme-db", "acme"), namespace("acme-web", "acme")];
    one(
        &documents,
        Code::NamespaceClaimed,
        "spec.namespaceSelector",
        "also matches acme-db and 1 more, owned by NetworkTenant/acme",
    );
}

#[test]
fn a_selector_that_selects_nothing_or_everything_else_is_suspect() {
    let documents = [tenant("acme", ""), namespace("web", "acme")];
    assert_eq!(lines(&documents), Vec::<String>::new());
    one(
        &[tenant("acme", ""), namespace("web", "globex")],
        Code::SelectorEmpty,
        "spec.namespaceSelector",
        "no namespace",
    );
    let negative = tenant("acme", "")
        .replace("{matchLabels: {tenant: acme}}", "{matchExpressions: [{key: x, operator: DoesNotExist}]}");
    one(&[negative], Code::SelectorNegative, "spec.namespaceSelector", "every other namespace");
}

fn peers(ours: &str, theirs: &str) -> [String; 2] {
    [tenant("acme", &format!("  peers: [{ours}]\n")), tenant("globex", &format!("  peers: [{theirs}]\n"))]
}

#[test]
fn peers_must_list_each_other_in_matching_directions() {
    let at = "spec.peers[0].tenant";
    let good = peers("{tenant: globex, direction: Egress}", "{tenant: acme, direction: Ingress}");
    assert_eq!(lines(&good), Vec::<String>::new());
    assert_eq!(
        lines(&peers("{tenant: globex, direction: Both}", "{tenant: acme, direction: Ingress}")),
        Vec::<String>::new()
    );
    one(
        &peers("{tenant: globex, direction: Egress}", ""),
        Code::PeerNotMutual,
        at,
        "{tenant: acme, direction: Ingress}",
    );
    one(&peers("{tenant: initech, direction: Both}", ""), Code::PeerUnknown, at, "no NetworkTenant \"initech\"");
    let same = findings(&peers("{tenant: globex, direction: Egress}", "{tenant: acme, direction: Egress}"));
    assert_eq!(same.iter().map(|f| f.code).collect::<Vec<_>>(), [Code::PeerDirection, Code::PeerDirection]);
    let shared = [tenant("acme", "  peers: [{tenant: dns, direction: Egress}]\n"), tenant("dns", "  class: Shared\n")];
    one(&shared, Code::PeerShared, at, "needs no permission");
}

#[test]
fn an_expired_permission_is_reported_at_its_date() {
    let with = |until: &str| {
        peers(&format!("{{tenant: globex, direction: Both, until: '{until}'}}"), "{tenant: acme, direction: Both}")
    };
    assert_eq!(lines(&with("2026-01-01T00:00:01Z")), Vec::<String>::new());
    one(&with("2026-01-01T00:00:00Z"), Code::PeerExpired, "spec.peers[0].until", "expired");
}

#[test]
fn endpoints_have_their_own_addresses_interfaces_and_a_tenant() {
    let base = [tenant("acme", ""), namespace("web", "acme")];
    let with = |more: &[String]| [base.as_slice(), more].concat();
    let a = endpoint("web", "a", "addresses: [10.244.0.2, 'fe80::1'], interface: veth0");
    assert_eq!(
        lines(&with(&[a.clone(), endpoint("web", "b", "addresses: [10.244.0.3, 'fe80::1'], netns: veth0")])),
        Vec::<String>::new()
    );
    one(
        &with(&[a.clone(), endpoint("web", "b", "addresses: [10.244.0.2]")]),
        Code::AddressClaimed,
        "spec.addresses[0]",
        "web/a",
    );
    one(
        &with(&[a.clone(), endpoint("web", "b", "addresses: [10.244.0.3], interface: veth0")]),
        Code::InterfaceClaimed,
        "spec.interface",
        "web/a",
    );
    one(
        &with(&[endpoint("db", "a", "addresses: [10.244.0.2]")]),
        Code::EndpointUnassigned,
        "metadata.namespace",
        "not in these files",
    );
    one(
        &with(&[namespace("db", "nobody"), endpoint("db", "a", "addresses: [10.244.0.2]")]),
        Code::EndpointUnassigned,
        "metadata.namespace",
        "no tenant",
    );
    let greedy = tenant("acme", "  subnets: [{name: a, cidr: 10.244.0.0/16}]\n");
    one(&[greedy, namespace("web", "acme"), a], Code::SubnetHoldsEndpoint, "spec.subnets[0].cidr", "10.244.0.2");
}

#[test]
fn a_duplicate_is_reported_and_its_content_does_not_count() {
    let second = tenant("acme", "  subnets: [{name: a, cidr: 10.1.0.0/24}]\n");
    let globex = tenant("globex", "  subnets: [{name: a, cidr: 10.1.0.0/24}]\n");
    one(&[tenant("acme", ""), second, globex], Code::Duplicate, "", "t.yaml:1");
}

#[test]
fn findings_are_ordered_by_line_and_invalid_documents_hide_nothing() {
    let documents =
        [tenant("acme", "  mood: good\n"), tenant("globex", "  peers: [{tenant: acme, direction: Both}]\n")];
    let codes: Vec<_> = findings(&documents).into_iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [Code::UnknownField, Code::PeerUnknown]);
}

#[test]
fn exit_codes_distinguish_clean_files_findings_and_unreadable_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let code = |files: &[&Path], suppress: &[Code]| {
        let files = files.iter().map(|file| file.to_path_buf()).collect();
        format!("{:?}", run(&Args { files, output: Format::Json, suppress: suppress.to_vec() }))
    };
    let exit = |code: u8| format!("{:?}", ExitCode::from(code));
    let clean = file("clean.yaml", &tenant("acme", ""));
    let warned = file("warned.yaml", &tenant("acme", "  peers: [{tenant: globex, direction: Both}]\n"));
    assert_eq!(code(&[&clean], &[]), exit(0));
    assert_eq!(code(&[&warned], &[]), exit(3));
    assert_eq!(code(&[&warned], &[Code::PeerUnknown]), exit(0));
    assert_eq!(code(&[&clean, &dir.path().join("missing.yaml")], &[]), exit(1));
    assert_eq!(code(&[dir.path()], &[]), exit(3), "a directory includes all its files, and two of them define acme");
}

#[test]
fn codes_are_read_as_they_are_printed() {
    assert!(Code::ALL.iter().all(|known| code(known.as_str()) == Ok(*known)));
    assert!(code("BH999").is_err());
}

#[test]
fn the_samples_are_clean() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples");
    let kustomization = |file: &PathBuf| file.file_name().is_some_and(|name| name == "kustomization.yaml");
    let files: Vec<PathBuf> =
        config_files(&samples).expect("samples").into_iter().filter(|file| !kustomization(file)).collect();
    assert!(files.len() >= 4, "{files:?}");
    let inputs = |files: &[PathBuf]| -> Vec<Input> {
        files.iter().map(|file| Input { file: file.clone(), bytes: read(file).expect("readable") }).collect()
    };
    let (alone, cluster): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.ends_with("static.yaml"));
    for set in [alone, cluster] {
        let findings = lint(&inputs(&set), NOW);
        assert!(findings.is_empty(), "{findings:#?}");
    }
}
