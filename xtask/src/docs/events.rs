//! The page of events, from their JSON Schema.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::page::{Page, code, list, scalar, text};

const INTRODUCTION: &str = "\
Each event is one line of JSON. `bulkhead schema` prints the complete JSON Schema. Within version 1, fields are only added. A
value that is not known has no key: there is neither an empty string nor `null`. Counters are exact, and events are best effort:
what could not be reported is counted in `bulkhead_events_lost_total` and in events of the type `suppressed`.";

/// Writes the page.
pub(super) fn render(facts: &Value) -> String {
    let schema = &facts["events"];
    let mut page = Page::new("Events", INTRODUCTION);
    page.section("Every event", "");
    page.table(FIELDS, &fields(schema));
    for kind in list(schema, "oneOf") {
        let name = scalar(&kind["properties"]["type"]["const"]);
        let body = kind["$ref"].as_str().and_then(|reference| resolve(schema, reference)).unwrap_or(kind);
        page.section(&format!("Type {}", code(&name)), description(kind, body));
        page.table(FIELDS, &fields(body));
    }
    let none = Map::new();
    for (name, definition) in schema["$defs"].as_object().unwrap_or(&none) {
        let rows = fields(definition);
        if !rows.is_empty() && !is_body(schema, name) {
            page.section(&format!("Object {}", code(name)), text(definition, "description"));
            page.table(FIELDS, &rows);
        }
        let values = values(definition);
        if !values.is_empty() {
            let summary =
                if values.iter().any(|value| !value[1].is_empty()) { text(definition, "description") } else { "" };
            page.section(&format!("Values of {}", code(name)), summary);
            page.table(["value", "meaning"], &values);
        }
    }
    page.finish()
}

const FIELDS: [&str; 4] = ["field", "type", "always there", "meaning"];

fn fields(object: &Value) -> Vec<[String; 4]> {
    let required: BTreeSet<&str> = list(object, "required").iter().filter_map(Value::as_str).collect();
    let none = Map::new();
    let properties = object["properties"].as_object().unwrap_or(&none);
    let row = |(name, field): (&String, &Value)| {
        let always = if required.contains(name.as_str()) { "yes" } else { "" };
        [code(name), kind(field), always.to_owned(), text(field, "description").to_owned()]
    };
    properties.iter().map(row).collect()
}

/// The JSON type of a field, or the name of its definition.
fn kind(field: &Value) -> String {
    if let Some(reference) = field["$ref"].as_str() {
        return code(reference.rsplit('/').next().unwrap_or(reference));
    }
    match text(field, "type") {
        "array" => format!("list of {}", kind(&field["items"])),
        "" => code(&scalar(&field["const"])),
        plain => match text(field, "format") {
            "" => plain.to_owned(),
            format => format!("{plain} ({format})"),
        },
    }
}

/// The values of an enumeration, each with its meaning.
fn values(definition: &Value) -> Vec<[String; 2]> {
    let described = list(definition, "oneOf").iter().filter(|choice| choice["const"].is_string());
    let listed = list(definition, "enum").iter().map(|value| [code(&scalar(value)), String::new()]);
    described
        .map(|choice| [code(&scalar(&choice["const"])), text(choice, "description").to_owned()])
        .chain(listed)
        .collect()
}

fn resolve<'a>(schema: &'a Value, reference: &str) -> Option<&'a Value> {
    schema.pointer(reference.strip_prefix('#')?)
}

/// The text of the variant, or of the definition that it refers to.
fn description<'a>(variant: &'a Value, body: &'a Value) -> &'a str {
    match text(variant, "description") {
        "" => text(body, "description"),
        text => text,
    }
}

/// True for a definition that has a section as the body of an event.
fn is_body(schema: &Value, name: &str) -> bool {
    list(schema, "oneOf").iter().any(|kind| text(kind, "$ref").ends_with(&format!("/{name}")))
}
