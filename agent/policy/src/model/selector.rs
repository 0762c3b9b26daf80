//! Matches label selectors, with the meaning that Kubernetes gives them but for one point.
//!
//! Knows only labels, no object. An empty selector selects nothing here.

use std::collections::BTreeMap;

use super::input::{Requirement, Selector};

/// Whether `selector` selects an object with `labels`.
///
/// An empty selector selects nothing. In Kubernetes it selects everything, so a missing line would give a tenant the
/// whole cluster.
pub fn matches(selector: &Selector, labels: &BTreeMap<String, String>) -> bool {
    let empty = selector.labels.is_empty() && selector.expressions.is_empty();
    !empty
        && selector.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.expressions.iter().all(|requirement| meets(requirement, labels))
}

/// Whether `selector` only excludes namespaces, and so selects all others.
pub fn is_negative(selector: &Selector) -> bool {
    let negative = |one: &Requirement| matches!(one, Requirement::NotIn(..) | Requirement::DoesNotExist(_));
    selector.labels.is_empty() && selector.expressions.iter().all(negative)
}

fn meets(requirement: &Requirement, labels: &BTreeMap<String, String>) -> bool {
    match requirement {
        Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
        Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
        Requirement::Exists(key) => labels.contains_key(key),
        Requirement::DoesNotExist(key) => !labels.contains_key(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn expression(requirement: Requirement) -> Selector {
        Selector { expressions: vec![requirement], ..Selector::default() }
    }

    #[test]
    fn an_empty_selector_selects_nothing() {
        assert!(!matches(&Selector::default(), &labels(&[])));
        assert!(!matches(&Selector::default(), &labels(&[("a", "b")])));
    }

    #[test]
    fn every_label_must_have_its_value() {
        let both = Selector { labels: labels(&[("t", "acme"), ("env", "prod")]), ..Selector::default() };
        assert!(matches(&both, &labels(&[("t", "acme"), ("env", "prod"), ("more", "x")])));
        assert!(!matches(&both, &labels(&[("t", "acme")])));
        assert!(!matches(&both, &labels(&[("t", "acme"), ("env", "test")])));
    }

    #[test]
    fn requirements_mean_what_kubernetes_means() {
        let values = || vec!["a".to_owned(), "b".to_owned()];
        let (with_a, with_c, without) = (labels(&[("k", "a")]), labels(&[("k", "c")]), labels(&[]));
        for (requirement, a, c, none) in [
            (Requirement::In("k".into(), values()), true, false, false),
            (Requirement::NotIn("k".into(), values()), false, true, true),
            (Requirement::Exists("k".into()), true, true, false),
            (Requirement::DoesNotExist("k".into()), false, false, true),
        ] {
            let selector = expression(requirement);
            let got = [&with_a, &with_c, &without].map(|labels| matches(&selector, labels));
            assert_eq!(got, [a, c, none], "{selector:?}");
        }
    }
}
