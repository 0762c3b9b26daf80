//! Tests of the objects that stay in force after each kind of edit.
//!
//! The result depends on the last good files, not on the looks before them.

use super::*;
use crate::api::document::ObjectKind;

const TENANT: &str = "apiVersion: bulkhead.dev/v1alpha1\nkind: NetworkTenant\nmetadata: {name: NAME}\nspec: {namespaceSelector: {matchLabels: {t: NAME}}, subnets: [{name: a, cidr: CIDR}]}\n";

fn tenant(name: &str, cidr: &str) -> String {
    TENANT.replace("NAME", name).replace("CIDR", cidr)
}

fn file(texts: &[String]) -> Look {
    files(&[("a.yaml", &texts.join("---\n"))])
}

fn files(files: &[(&str, &str)]) -> Look {
    let files = files.iter().map(|(path, text)| (path.into(), Ok(text.as_bytes().to_vec()))).collect();
    Look { files, listing: None }
}

fn unlistable() -> Look {
    Look { listing: Some(unreadable(Path::new("."), 0, "gone")), ..Look::default() }
}

/// Tenants in force with their first subnet.
fn in_force(merge: &Merge) -> Vec<String> {
    let one = |(key, object): (Key, Object)| match object {
        Object::Tenant(tenant) => format!("{} {}", key.name, tenant.subnets[0].cidr),
        _ => key.to_string(),
    };
    merge.in_force().into_iter().map(one).collect()
}

fn codes(outcome: &Outcome) -> Vec<Code> {
    outcome.findings.iter().map(|finding| finding.code).collect()
}

#[test]
fn the_first_look_sends_everything_and_the_same_again_sends_nothing() {
    let mut merge = Merge::default();
    let look =
        file(&[tenant("acme", "10.1.0.0/24"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n".into()]);
    let outcome = merge.take(&look);
    let [Change::Tenants(tenants), Change::Namespaces(namespaces), Change::Endpoints(endpoints)] =
        outcome.changes.as_slice()
    else {
        panic!("a full resync: {outcome:?}")
    };
    assert_eq!((tenants.len(), namespaces.len(), endpoints.len()), (1, 1, 0));
    assert_eq!(outcome.objects, [1, 1, 0]);
    assert!(merge.take(&look).changes.is_empty());
}

#[test]
fn an_invalid_document_keeps_its_last_good_version_and_nothing_else() {
    let mut merge = Merge::default();
    merge.take(&file(&[tenant("acme", "10.1.0.0/24"), tenant("globex", "10.2.0.0/24")]));
    let outcome = merge.take(&file(&[tenant("acme", "10.1.0.5/24"), tenant("globex", "10.3.0.0/24")]));
    assert_eq!(in_force(&merge), ["acme 10.1.0.0/24", "globex 10.3.0.0/24"]);
    assert_eq!((codes(&outcome), outcome.kept), (vec![Code::Rule], 1));
    assert!(!outcome.changes.is_empty());
}

#[test]
fn a_document_that_was_never_valid_grants_nothing() {
    let mut merge = Merge::default();
    let outcome = merge.take(&file(&[tenant("acme", "10.1.0.5/24")]));
    assert!(in_force(&merge).is_empty());
    assert_eq!((outcome.kept, outcome.changes.len()), (0, 3));
}

#[test]
fn deleting_a_document_removes_its_object() {
    let mut merge = Merge::default();
    merge.take(&file(&[tenant("acme", "10.1.0.0/24"), tenant("globex", "10.2.0.0/24")]));
    merge.take(&file(&[tenant("globex", "10.2.0.0/24")]));
    assert_eq!(in_force(&merge), ["globex 10.2.0.0/24"]);
}

#[test]
fn deleting_an_invalid_document_removes_its_last_good_version_too() {
    let mut merge = Merge::default();
    merge.take(&file(&[tenant("acme", "10.1.0.0/24"), tenant("globex", "10.2.0.0/24")]));
    merge.take(&file(&[tenant("acme", "bad"), tenant("globex", "10.2.0.0/24")]));
    merge.take(&file(&[tenant("globex", "10.2.0.0/24")]));
    assert_eq!(in_force(&merge), ["globex 10.2.0.0/24"]);
}

#[test]
fn a_document_without_a_readable_name_keeps_every_missing_object() {
    let mut merge = Merge::default();
    let (acme, globex) = (tenant("acme", "10.1.0.0/24"), tenant("globex", "10.2.0.0/24"));
    merge.take(&file(&[acme, globex.clone()]));
    let outcome = merge.take(&file(&["{{{\n".into(), globex.clone()]));
    assert_eq!(in_force(&merge), ["acme 10.1.0.0/24", "globex 10.2.0.0/24"]);
    assert_eq!((codes(&outcome), outcome.kept), (vec![Code::Syntax], 1));
    merge.take(&file(&[globex]));
    assert_eq!(in_force(&merge), ["globex 10.2.0.0/24"]);
}

#[test]
fn files_that_cannot_be_read_change_nothing() {
    let mut merge = Merge::default();
    merge.take(&file(&[tenant("acme", "10.1.0.0/24")]));
    let unreadable = Look { files: BTreeMap::from([("a.yaml".into(), Err("denied".into()))]), listing: None };
    for look in [unreadable, unlistable(), files(&[("a.yaml", "\u{0}")])] {
        for _ in 0..3 {
            let outcome = merge.take(&look);
            assert!(outcome.changes.is_empty() && outcome.kept == 1 && outcome.findings.len() == 1, "{outcome:?}");
        }
    }
    assert_eq!(in_force(&merge), ["acme 10.1.0.0/24"]);
}

#[test]
fn nothing_is_sent_before_a_file_was_read() {
    let mut merge = Merge::default();
    assert!(merge.take(&unlistable()).changes.is_empty());
    assert_eq!(merge.take(&file(&[tenant("acme", "10.1.0.0/24")])).changes.len(), 3);
}

#[test]
fn a_missing_or_empty_file_loses_its_objects_at_the_second_look() {
    let both = files(&[("a.yaml", &tenant("acme", "10.1.0.0/24")), ("b.yaml", &tenant("globex", "10.2.0.0/24"))]);
    let without = files(&[("b.yaml", &tenant("globex", "10.2.0.0/24"))]);
    let truncated = files(&[("a.yaml", ""), ("b.yaml", &tenant("globex", "10.2.0.0/24"))]);
    for less in [without, truncated] {
        let mut merge = Merge::default();
        merge.take(&both);
        let first = merge.take(&less);
        assert!(first.look_again && first.changes.is_empty() && first.findings.len() == 1, "{first:?}");
        assert!(merge.take(&both).changes.is_empty(), "the file is back before the second look");
        merge.take(&less);
        let second = merge.take(&less);
        assert!(!second.look_again && second.findings.is_empty(), "{second:?}");
        assert_eq!(in_force(&merge), ["globex 10.2.0.0/24"]);
    }
}

#[test]
fn the_first_of_two_documents_with_one_name_counts() {
    let mut merge = Merge::default();
    let outcome = merge.take(&file(&[tenant("acme", "10.1.0.0/24"), tenant("acme", "10.2.0.0/24")]));
    assert_eq!(in_force(&merge), ["acme 10.1.0.0/24"]);
    assert_eq!(codes(&outcome), [Code::Duplicate]);
    assert!(outcome.findings[0].problem.contains("a.yaml:1"), "{:?}", outcome.findings);
    let across = files(&[("b.yaml", &tenant("acme", "10.3.0.0/24")), ("a.yaml", &tenant("acme", "10.2.0.0/24"))]);
    merge.take(&across);
    assert_eq!(in_force(&merge), ["acme 10.2.0.0/24"], "files are merged in the order of their names");
}

#[test]
fn an_invalid_first_document_does_not_admit_the_second() {
    let mut merge = Merge::default();
    let outcome = merge.take(&file(&[tenant("acme", "bad"), tenant("acme", "10.2.0.0/24")]));
    assert!(in_force(&merge).is_empty());
    assert_eq!(codes(&outcome), [Code::Rule, Code::Duplicate]);
}

#[test]
fn a_document_may_move_to_another_file() {
    let mut merge = Merge::default();
    merge.take(&files(&[("a.yaml", "# none\n"), ("b.yaml", &tenant("acme", "10.1.0.0/24"))]));
    merge.take(&files(&[("a.yaml", &tenant("acme", "10.1.0.9/24")), ("b.yaml", &tenant("globex", "10.2.0.0/24"))]));
    assert_eq!(in_force(&merge), ["acme 10.1.0.0/24", "globex 10.2.0.0/24"], "its last good version moves with it");
}

#[test]
fn the_result_does_not_depend_on_earlier_looks() {
    let steps = [
        file(&[tenant("acme", "10.1.0.0/24")]),
        file(&[tenant("globex", "10.2.0.0/24"), tenant("acme", "10.4.0.0/24")]),
        unlistable(),
        file(&[tenant("initech", "10.3.0.0/24")]),
    ];
    let end = file(&[tenant("acme", "10.1.0.0/24"), tenant("globex", "10.9.0.0/24")]);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 1, 2, 2]] {
        let mut merge = Merge::default();
        for step in order {
            merge.take(&steps[step]);
        }
        let outcome = merge.take(&end);
        assert_eq!(in_force(&merge), ["acme 10.1.0.0/24", "globex 10.9.0.0/24"]);
        assert_eq!(outcome.objects[ObjectKind::NetworkTenant as usize], 2);
    }
}
