//! Converts one YAML document to one object of the model, or lists everything that is wrong with it.
//!
//! Structure is checked first, then the rules, then the values. A later step runs only if the earlier found nothing, so
//! that one mistake is reported once. Knows no other document.

use std::fmt;

use k8s_openapi::api::core::v1::Namespace;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::finding::Code;
use super::structure::{self, Issue};
use super::yaml::Node;
use super::{API_VERSION, Endpoint, NetworkTenant, cidr, convert, rules, schema};
use policy::model::input;

/// The kinds that a file may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `bulkhead.dev/v1alpha1`, cluster-scoped.
    NetworkTenant,
    /// `v1`.
    Namespace,
    /// `bulkhead.dev/v1alpha1`, namespaced, files only.
    Endpoint,
}

/// Identifies an object among all documents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its namespace; empty for the other kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// An object in the model's form.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::missing_docs_in_private_items, reason = "one per kind")]
pub enum Object {
    Tenant(input::Tenant),
    Namespace(input::Namespace),
    Endpoint(input::Endpoint),
}

/// Identifies the object of a document.
///
/// # Errors
/// Its kind or name is missing or unknown.
pub(crate) fn identify(node: &Node) -> Result<Key, Issue> {
    let issue = |field: &str, problem: String, remedy: &str| Issue {
        field: field.to_owned(),
        line: node.line_of(field),
        code: Code::UnknownKind,
        problem,
        remedy: remedy.to_owned(),
    };
    let kinds = "write bulkhead.dev/v1alpha1 NetworkTenant or Endpoint, or v1 Namespace";
    let written = (node.text("apiVersion").unwrap_or_default(), node.text("kind").unwrap_or_default());
    let kind = match written {
        (API_VERSION, "NetworkTenant") => ObjectKind::NetworkTenant,
        (API_VERSION, "Endpoint") => ObjectKind::Endpoint,
        ("v1", "Namespace") => ObjectKind::Namespace,
        ("", _) => return Err(issue("apiVersion", "is missing, or is not a string".to_owned(), kinds)),
        (_, "") => return Err(issue("kind", "is missing, or is not a string".to_owned(), kinds)),
        (version, kind) => return Err(issue("kind", format!("{version} {kind} is not a known kind"), kinds)),
    };
    let meta = |key: &str| node.get("metadata").and_then(|meta| meta.text(key)).unwrap_or_default().to_owned();
    let namespace = if kind == ObjectKind::Endpoint { meta("namespace") } else { String::new() };
    match meta("name") {
        name if name.is_empty() => Err(Issue {
            code: Code::Structure,
            ..issue("metadata.name", "is missing, empty, or not a string".to_owned(), "")
        }),
        name => Ok(Key { kind, namespace, name }),
    }
}

/// Reads the object of a document.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn read(kind: ObjectKind, node: &Node) -> Result<Object, Vec<Issue>> {
    match kind {
        ObjectKind::NetworkTenant => {
            let object = shape(schema::tenant(), node)?;
            let violations = rules::violations(&object);
            if !violations.is_empty() {
                return Err(violations.into_iter().map(|rule| rule_issue(node, rule)).collect());
            }
            meaning(node, object, |tenant: NetworkTenant| convert::tenant(&tenant).map(Object::Tenant))
        }
        ObjectKind::Namespace => {
            let object = shape(schema::namespace(), node)?;
            meaning(node, object, |ns: Namespace| convert::namespace(&ns, |_| true).map(Object::Namespace))
        }
        ObjectKind::Endpoint => {
            let object = shape(schema::endpoint(), node)?;
            meaning(node, object, |endpoint: Endpoint| convert::endpoint(&endpoint).map(Object::Endpoint))
        }
    }
}

impl ObjectKind {
    /// The name, as in `kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NetworkTenant => "NetworkTenant",
            Self::Namespace => "Namespace",
            Self::Endpoint => "Endpoint",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{}/{}", self.kind.as_str(), self.name),
            namespace => write!(f, "{}/{namespace}/{}", self.kind.as_str(), self.name),
        }
    }
}

fn shape(schema: &Json, node: &Node) -> Result<Json, Vec<Issue>> {
    match structure::check(schema, node) {
        issues if issues.is_empty() => Ok(node.to_json()),
        issues => Err(issues),
    }
}

/// Adds the canonical form of a network, which a CEL rule cannot compute.
fn rule_issue(node: &Node, rule: rules::RuleViolation) -> Issue {
    let remedy = match node.text_at(&rule.field).map(cidr::parse) {
        Some(Err(cidr::CidrError::HostBits { canonical, .. })) => format!("write {canonical}"),
        _ => String::new(),
    };
    Issue { line: node.line_of(&rule.field), field: rule.field, code: Code::Rule, problem: rule.message, remedy }
}

fn meaning<T: DeserializeOwned>(
    node: &Node,
    object: Json,
    convert: impl FnOnce(T) -> Result<Object, convert::ConvertError>,
) -> Result<Object, Vec<Issue>> {
    let value = |field: String, problem: String, remedy: String| {
        vec![Issue { line: node.line_of(&field), field, code: Code::Value, problem, remedy }]
    };
    let typed =
        serde_json::from_value(object).map_err(|error| value(String::new(), error.to_string(), String::new()))?;
    convert(typed).map_err(|error| value(error.field.clone(), error.problem.to_string(), error.remedy().to_owned()))
}
