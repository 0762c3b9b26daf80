//! The objects that users write: their types, schema, rules, and conversion to the model.
//!
//! One set of rules serves the API server, a static file and `bulkhead lint`. Schema and CEL rules are derived from the
//! types here; [`convert`] checks again what a schema cannot express. Refuses to know where an object came from, what
//! time it is, and what other objects contain.
//!
//! A field that this version does not know is an error, because it may narrow a permission.

pub(crate) mod cidr;
pub(crate) mod convert;
pub(crate) mod document;
pub(crate) mod endpoint;
pub(crate) mod finding;
pub(crate) mod rules;
pub(crate) mod schema;
pub(crate) mod status;
pub(crate) mod structure;
pub(crate) mod tenant;
pub(crate) mod yaml;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub(crate) use endpoint::Endpoint;
pub(crate) use status::NetworkTenantStatus;
pub(crate) use tenant::NetworkTenant;

/// Group and version of `NetworkTenant` and `Endpoint`, as in `apiVersion`.
pub(crate) const API_VERSION: &str = "bulkhead.dev/v1alpha1";

/// The CustomResourceDefinition of `NetworkTenant`.
pub(crate) fn crd() -> CustomResourceDefinition {
    NetworkTenant::crd()
}

/// The text of `deploy/crd.yaml`.
pub(crate) fn crd_yaml() -> String {
    let mut crd = serde_json::to_value(crd()).expect("a derived definition serialises");
    whole_numbers(&mut crd);
    let text = serde_saphyr::to_string(&crd).expect("plain JSON serialises to YAML");
    format!("# Generated from agent/src/api/tenant.rs by `cargo xtask crds`. Do not edit.\n{}\n", text.trim_end())
}

/// Turns bounds such as 65535.0, which the definition's types hold, into whole numbers.
fn whole_numbers(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Number(number) => {
            let whole = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e15);
            if let Some(whole) = whole {
                *number = serde_json::Number::from(whole as i64);
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
