//! The schema of each kind that a document may hold, computed once.
//!
//! Derived from the types, as the definition for the API server is. Knows no document and no rule.

use std::sync::LazyLock;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde_json::{Value as Json, json};

use super::{API_VERSION, Endpoint};

/// Schema of `NetworkTenant`, with `metadata` as the API server knows it.
pub(crate) fn tenant() -> &'static Json {
    static SCHEMA: LazyLock<Json> = LazyLock::new(|| {
        let crd = serde_json::to_value(super::crd()).expect("a derived definition serialises");
        let mut schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        schema["properties"]["apiVersion"] = json!({"type": "string", "enum": [API_VERSION]});
        schema["properties"]["kind"] = json!({"type": "string", "enum": ["NetworkTenant"]});
        schema["properties"]["metadata"] = schema_of::<ObjectMeta>();
        schema
    });
    &SCHEMA
}

/// Schema of `Namespace`.
pub(crate) fn namespace() -> &'static Json {
    static SCHEMA: LazyLock<Json> = LazyLock::new(schema_of::<Namespace>);
    &SCHEMA
}

/// Schema of `Endpoint`.
pub(crate) fn endpoint() -> &'static Json {
    static SCHEMA: LazyLock<Json> = LazyLock::new(schema_of::<Endpoint>);
    &SCHEMA
}

fn schema_of<T: JsonSchema>() -> Json {
    let settings = schemars::generate::SchemaSettings::openapi3().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>().to_value()
}
