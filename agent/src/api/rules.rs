//! The CEL rules of the definition, evaluated here as the API server does.
//!
//! The evaluator is not shared between threads, so each thread that asks keeps its own.

use kube::core::cel::{CompiledSchema, ErrorKind, Validator, compile_schema};
use serde_json::Value as Json;

use super::document::tenant_schema;

/// A rule that an object breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Path of the field the rule speaks of.
    pub field: String,
    /// The rule's own message.
    pub message: String,
}

thread_local! {
    static RULES: (Validator, CompiledSchema) = (Validator::new(), compile_schema(tenant_schema()));
}

/// The rules that a `NetworkTenant`, as JSON, breaks.
pub fn broken(object: &Json) -> Vec<Broken> {
    RULES.with(|(validator, schema)| match validator.validate_compiled(schema, object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors
            .into_vec()
            .into_iter()
            .map(|error| Broken {
                field: error.field_path.trim_start_matches('.').to_owned(),
                message: match error.kind {
                    ErrorKind::ValidationFailure => error.message,
                    kind => format!("a rule could not be evaluated ({kind:?}): {}", error.message),
                },
            })
            .collect(),
    })
}
