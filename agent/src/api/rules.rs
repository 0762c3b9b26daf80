//! The CEL rules of the definition, evaluated as the API server evaluates them.
//!
//! Knows no rule itself: the rules are part of the schema. The evaluator cannot be shared between threads, so each
//! thread has its own.

use kube::core::cel::{CompiledSchema, ErrorKind, Validator, compile_schema};
use serde_json::Value as Json;

use super::schema;

/// A rule that an object violates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleViolation {
    /// Path of the field that the rule is about.
    pub field: String,
    /// Message of the rule.
    pub message: String,
}

thread_local! {
    static RULES: (Validator, CompiledSchema) = (Validator::new(), compile_schema(schema::tenant()));
}

/// The rules that a `NetworkTenant`, as JSON, violates.
pub(crate) fn violations(object: &Json) -> Vec<RuleViolation> {
    RULES.with(|(validator, schema)| match validator.validate_compiled(schema, object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors
            .into_vec()
            .into_iter()
            .map(|error| RuleViolation {
                field: error.field_path.trim_start_matches('.').to_owned(),
                message: match error.kind {
                    ErrorKind::ValidationFailure => error.message,
                    kind => format!("cannot evaluate a rule of the definition ({kind:?}): {}", error.message),
                },
            })
            .collect(),
    })
}
