//! Whether a selector matches labels, with the meaning Kubernetes gives it.
//!
//! TODO: remove this file once `policy::model` offers the same; there must be one answer.

use std::collections::BTreeMap;

use policy::model::input::{Requirement, Selector};

/// Whether `selector` selects an object with `labels`; an empty one selects nothing.
pub fn matches(selector: &Selector, labels: &BTreeMap<String, String>) -> bool {
    let empty = selector.labels.is_empty() && selector.expressions.is_empty();
    !empty
        && selector.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.expressions.iter().all(|requirement| meets(requirement, labels))
}

/// Whether it says only what a namespace must not be, and so takes in all others.
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
