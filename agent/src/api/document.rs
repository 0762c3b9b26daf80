//! One YAML document to one object of the model, or to everything that is wrong with it.
//!
//! Order matters for readable reports: shape first, then the rules, then meaning; a later step runs
//! only when the earlier found nothing, so that one mistake is told once.

use std::fmt;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::finding::Code;
use super::structure::{self, Issue};
use super::yaml::Node;
use super::{API_VERSION, Endpoint, NetworkTenant, cidr, convert, rules};
use policy::model::input;

/// The kinds a file may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `bulkhead.dev/v1alpha1`, cluster-scoped.
    NetworkTenant,
    /// `v1`.
    Namespace,
    /// `bulkhead.dev/v1alpha1`, namespaced, files only.
    Endpoint,
}

/// Names an object among all documents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for the other kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// An object as the model takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "one per kind")]
pub enum Object {
    Tenant(input::Tenant),
    Namespace(input::Namespace),
    Endpoint(input::Endpoint),
}

/// The definition's schema, with `metadata` as the API server knows it.
pub fn tenant_schema() -> &'static Json {
    static SCHEMA: LazyLock<Json> = LazyLock::new(|| {
        let crd = serde_json::to_value(super::crd()).expect("a derived definition serialises");
        let mut schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        schema["properties"]["apiVersion"] = json!({"type": "string", "enum": [API_VERSION]});
        schema["properties"]["kind"] = json!({"type": "string", "enum": ["NetworkTenant"]});
        schema["properties"]["metadata"] = metadata_schema();
        schema
    });
    &SCHEMA
}

/// Which object a document is, as far as it can be read.
pub fn identify(node: &Node) -> Result<Key, Issue> {
    let issue = |field: &str, problem: String, remedy: &str| Issue {
        field: field.to_owned(),
        line: node.line_of(field),
        code: Code::UnknownKind,
        problem,
        remedy: remedy.to_owned(),
    };
    let kinds = "known: bulkhead.dev/v1alpha1 NetworkTenant and Endpoint, v1 Namespace";
    let said = (node.text("apiVersion").unwrap_or_default(), node.text("kind").unwrap_or_default());
    let kind = match said {
        (API_VERSION, "NetworkTenant") => Kind::NetworkTenant,
        (API_VERSION, "Endpoint") => Kind::Endpoint,
        ("v1", "Namespace") => Kind::Namespace,
        ("", _) => return Err(issue("apiVersion", "is missing, or is not a string".to_owned(), kinds)),
        (_, "") => return Err(issue("kind", "is missing, or is not a string".to_owned(), kinds)),
        (version, kind) => return Err(issue("kind", format!("{version} {kind} is not understood here"), kinds)),
    };
    let meta = |key: &str| node.get("metadata").and_then(|meta| meta.text(key)).unwrap_or_default().to_owned();
    let namespace = if kind == Kind::Endpoint { meta("namespace") } else { String::new() };
    match meta("name") {
        name if name.is_empty() => Err(Issue {
            code: Code::Structure,
            ..issue("metadata.name", "is missing, empty, or not a string".to_owned(), "")
        }),
        name => Ok(Key { kind, namespace, name }),
    }
}

/// The object, or what is wrong with it.
pub fn read(kind: Kind, node: &Node) -> Result<Object, Vec<Issue>> {
    match kind {
        Kind::NetworkTenant => {
            let object = shape(tenant_schema(), node)?;
            let broken = rules::broken(&object);
            if !broken.is_empty() {
                return Err(broken.into_iter().map(|rule| rule_issue(node, rule)).collect());
            }
            meaning(node, object, |tenant: NetworkTenant| convert::tenant(&tenant).map(Object::Tenant))
        }
        Kind::Namespace => {
            let object = shape(&NAMESPACE, node)?;
            meaning(node, object, |ns: Namespace| convert::namespace(&ns, |_| true).map(Object::Namespace))
        }
        Kind::Endpoint => {
            let object = shape(&ENDPOINT, node)?;
            meaning(node, object, |endpoint: Endpoint| convert::endpoint(&endpoint).map(Object::Endpoint))
        }
    }
}

impl Kind {
    /// As documents write it.
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

static NAMESPACE: LazyLock<Json> = LazyLock::new(schema_of::<Namespace>);
static ENDPOINT: LazyLock<Json> = LazyLock::new(schema_of::<Endpoint>);

fn metadata_schema() -> Json {
    schema_of::<ObjectMeta>()
}

fn schema_of<T: JsonSchema>() -> Json {
    let settings = schemars::generate::SchemaSettings::openapi3().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

fn shape(schema: &Json, node: &Node) -> Result<Json, Vec<Issue>> {
    match structure::check(schema, node) {
        issues if issues.is_empty() => Ok(node.to_json()),
        issues => Err(issues),
    }
}

/// The rules cannot name the canonical form of a network; we can.
fn rule_issue(node: &Node, rule: rules::Broken) -> Issue {
    let remedy = match node.text_at(&rule.field).map(cidr::parse) {
        Some(Err(cidr::Error::HostBits { canonical, .. })) => format!("write {canonical}"),
        _ => String::new(),
    };
    Issue { line: node.line_of(&rule.field), field: rule.field, code: Code::Rule, problem: rule.message, remedy }
}

fn meaning<T: DeserializeOwned>(
    node: &Node,
    object: Json,
    convert: impl FnOnce(T) -> Result<Object, convert::Error>,
) -> Result<Object, Vec<Issue>> {
    let value = |field: String, problem: String, remedy: String| {
        vec![Issue { line: node.line_of(&field), field, code: Code::Value, problem, remedy }]
    };
    let typed =
        serde_json::from_value(object).map_err(|error| value(String::new(), error.to_string(), String::new()))?;
    convert(typed).map_err(|error| value(error.field.clone(), error.problem.to_string(), error.remedy().to_owned()))
}
