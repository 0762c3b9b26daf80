//! The JSON Schema against real events.
//!
//! The checker knows only the keywords that our schema uses. It fails on any other keyword, so an event cannot pass
//! because the checker ignored a rule.

use serde_json::{Value, json};

use super::*;
use crate::events::fixtures;

const GOLDEN: &str = include_str!("../golden.json");

fn schema() -> Value {
    serde_json::to_value(json_schema()).expect("JSON")
}

fn check(schema: &Value, root: &Value, value: &Value, path: &str) -> Result<(), String> {
    let fail = |why: &str| Err(format!("{path}: {why}: {value}"));
    let Value::Object(rules) = schema else { return Ok(()) };
    for (keyword, rule) in rules {
        match (keyword.as_str(), rule) {
            ("$schema" | "$defs" | "title" | "description" | "format" | "pattern", _) => {}
            ("$ref", Value::String(target)) => {
                let target = root.pointer(target.trim_start_matches('#')).ok_or("dangling reference")?;
                check(target, root, value, path)?;
            }
            ("type", Value::String(kind)) if !is(value, kind) => return fail(&format!("not of type {kind}")),
            ("type", Value::String(_)) => {}
            ("const", rule) if rule != value => return fail("not the constant"),
            ("const", _) => {}
            ("enum", Value::Array(values)) if !values.contains(value) => return fail("not in the list"),
            ("enum", _) => {}
            ("minimum", rule) if value.as_f64() < rule.as_f64() => return fail("too small"),
            ("maximum", rule) if value.as_f64() > rule.as_f64() => return fail("too large"),
            ("minimum" | "maximum", _) => {}
            ("required", Value::Array(names)) => {
                for name in names.iter().filter_map(Value::as_str) {
                    if value.get(name).is_none() {
                        return fail(&format!("{name} is missing"));
                    }
                }
            }
            ("properties", Value::Object(fields)) => {
                for (name, field) in fields {
                    if let Some(value) = value.get(name) {
                        check(field, root, value, &format!("{path}/{name}"))?;
                    }
                }
            }
            ("items", rule) => {
                for item in value.as_array().into_iter().flatten() {
                    check(rule, root, item, &format!("{path}[]"))?;
                }
            }
            ("oneOf", Value::Array(choices)) => {
                let found: Vec<_> = choices.iter().map(|choice| check(choice, root, value, path)).collect();
                if found.iter().filter(|result| result.is_ok()).count() != 1 {
                    return Err(format!("{path}: not exactly one of: {found:?}"));
                }
            }
            (other, rule) => return Err(format!("{path}: the checker does not know {other}: {rule}")),
        }
    }
    Ok(())
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        _ => false,
    }
}

fn valid(value: &Value) -> Result<(), String> {
    let schema = schema();
    check(&schema, &schema, value, "")
}

#[test]
fn the_golden_event_fits_the_schema_and_our_types() {
    let golden: Value = serde_json::from_str(GOLDEN).expect("JSON");
    assert_eq!(valid(&golden), Ok(()));
    let event: Event = serde_json::from_str(GOLDEN).expect("our types");
    assert_eq!(serde_json::to_value(&event).expect("JSON"), golden, "nothing is lost on the way");
}

#[test]
fn the_schema_refuses_what_we_promise_never_to_write() {
    let golden: Value = serde_json::from_str(GOLDEN).expect("JSON");
    let with = |path: &str, value: Value| {
        let mut event = golden.clone();
        *event.pointer_mut(path).expect(path) = value;
        valid(&event)
    };
    assert!(with("/source/tenant", Value::Null).is_err(), "null");
    assert!(with("/network/family", Value::Null).is_err(), "null behind a reference");
    assert!(with("/count", json!("37")).is_err(), "a number as a string");
    assert!(with("/reason", json!("because")).is_err(), "a reason that is not in the list");
    assert!(with("/verdict", json!("allowed")).is_err(), "an allowed packet");
    assert!(with("/schema", json!("bulkhead.dev/violation/v2")).is_err(), "another version");
}

#[test]
fn an_optional_field_may_be_missing_and_a_required_one_may_not() {
    let mut event = serde_json::to_value(fixtures::event(1)).expect("JSON");
    event.as_object_mut().expect("an object").remove("cluster");
    assert_eq!(valid(&event), Ok(()));
    event.as_object_mut().expect("an object").remove("node");
    assert!(valid(&event).is_err());
}

#[test]
fn the_schema_explains_every_reason_and_never_allows_null() {
    let text = schema().to_string();
    for reason in DropReason::ALL {
        assert!(text.contains(reason.describe()), "{}", reason.as_str());
    }
    assert!(!text.contains("null"), "an absent value has no key");
}

#[test]
fn times_always_have_nine_digits() {
    let time = Time("2026-11-21T19:22:31Z".parse().expect("a time"));
    assert_eq!(time.to_string(), "2026-11-21T19:22:31.000000000Z");
}
