//! Checks the structure of a document against its schema, as the API server does before it evaluates CEL rules.
//!
//! Reports unknown and missing fields, types, enums, bounds and duplicate list keys, each with its line. Knows no kind:
//! the schema is an argument. Stricter than the API server in one point: a null that the schema does not allow is
//! refused, while the server drops it silently.

use serde_json::Value as Json;

use super::finding::Code;
use super::yaml::{Entry, Node, YamlValue};

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issue {
    /// Path of the field.
    pub field: String,
    /// Its line in the file.
    pub line: usize,
    /// Kind of the finding.
    pub code: Code,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// Everything that is wrong with the structure of `node`.
pub(crate) fn check(schema: &Json, node: &Node) -> Vec<Issue> {
    let mut walk = Walk { issues: Vec::new() };
    walk.value(schema, node, &At { path: String::new(), line: node.line });
    walk.issues
}

struct Walk {
    issues: Vec<Issue>,
}

/// The position of a value: its path, and the line of its key.
struct At {
    path: String,
    line: usize,
}

impl At {
    fn key(&self, key: &str, line: usize) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { path, line }
    }

    fn item(&self, index: usize, line: usize) -> Self {
        Self { path: format!("{}[{index}]", self.path), line }
    }
}

impl Walk {
    fn value(&mut self, schema: &Json, node: &Node, at: &At) {
        let kind = schema["type"].as_str();
        match (kind, &node.value) {
            (_, YamlValue::Null) => self.null(schema, at),
            (Some("object"), YamlValue::Map(entries)) => self.map(schema, entries, at),
            (Some("array"), YamlValue::List(items)) => self.list(schema, items, at),
            (Some("string"), YamlValue::Text(text)) => self.text(schema, text, at),
            (Some("integer"), YamlValue::Int(number)) => self.integer(schema, *number, at),
            (Some("number"), YamlValue::Int(_) | YamlValue::Float(_))
            | (Some("boolean"), YamlValue::Bool(_))
            | (None, _) => {}
            (Some(wanted), found) => self.wrong_type(wanted, found, at),
        }
    }

    fn null(&mut self, schema: &Json, at: &At) {
        let free = schema["nullable"] == true || at.path.starts_with("metadata.") || at.path.starts_with("status");
        if !free {
            self.bad(at, "must not be null", "set a value, or remove the field");
        }
    }

    fn map(&mut self, schema: &Json, entries: &[Entry], at: &At) {
        let known = schema["properties"].as_object();
        let rest = schema.get("additionalProperties").filter(|rest| rest.is_object());
        self.bound(schema, "maxProperties", entries.len(), "entries", at);
        for entry in entries {
            let here = at.key(&entry.key, entry.line);
            match (known.and_then(|known| known.get(&entry.key)), rest, known) {
                (Some(property), _, _) => self.value(property, &entry.node, &here),
                (None, Some(rest), _) => self.value(rest, &entry.node, &here),
                (None, None, Some(known)) if schema["x-kubernetes-preserve-unknown-fields"] != true => {
                    self.unknown(&entry.key, known.keys(), &here);
                }
                _ => {}
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            if !entries.iter().any(|entry| entry.key == name) {
                self.bad(&at.key(name, at.line), "is required", "");
            }
        }
    }

    fn list(&mut self, schema: &Json, items: &[Node], at: &At) {
        self.bound(schema, "maxItems", items.len(), "entries", at);
        self.bound(schema, "minItems", items.len(), "entries", at);
        for (index, item) in items.iter().enumerate() {
            self.value(&schema["items"], item, &at.item(index, item.line));
        }
        self.unique(schema, items, at);
    }

    /// Reports members that occur twice in a set or a keyed list.
    fn unique(&mut self, schema: &Json, items: &[Node], at: &At) {
        let keys: Vec<&str> = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => Vec::new(),
            Some("map") => {
                schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Json::as_str).collect()
            }
            _ => return,
        };
        let mut seen = std::collections::BTreeMap::new();
        for (index, item) in items.iter().enumerate() {
            let (member, field) = match keys.as_slice() {
                [] => (Some(item.to_json()), ""),
                [key] => (item.get(key).map(Node::to_json), *key),
                keys => (Some(keys.iter().filter_map(|key| item.get(key).map(Node::to_json)).collect()), ""),
            };
            let Some(member) = member.map(|member| member.to_string()) else { continue };
            if let Some(first) = seen.get(&member) {
                let here = at.item(index, item.line);
                let here = if field.is_empty() { here } else { here.key(field, item.line_of(field)) };
                self.bad(&here, &format!("{member} is listed twice, first on line {first}"), "remove one");
            } else {
                seen.insert(member, item.line);
            }
        }
    }

    fn text(&mut self, schema: &Json, text: &str, at: &At) {
        let length = text.chars().count();
        self.bound(schema, "maxLength", length, "characters", at);
        self.bound(schema, "minLength", length, "characters", at);
        if let Some(choices) = schema["enum"].as_array() {
            let choices: Vec<&str> = choices.iter().filter_map(Json::as_str).collect();
            if !choices.contains(&text) {
                self.bad(at, &format!("{text:?} is not allowed"), &format!("write {}", choices.join(", ")));
            }
        }
        if schema["format"] == "date-time" && !super::convert::is_rfc3339(text) {
            self.bad(
                at,
                &format!("{text:?} is not a time with a zone"),
                "write RFC 3339 with a zone: 2027-01-31T00:00:00Z",
            );
        }
    }

    fn integer(&mut self, schema: &Json, number: i128, at: &At) {
        let (low, high) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
        let beyond = low.is_some_and(|low| (number as f64) < low) || high.is_some_and(|high| (number as f64) > high);
        let width = match schema["format"].as_str() {
            Some("int32") => i32::try_from(number).is_ok(),
            _ => i64::try_from(number).is_ok(),
        };
        if beyond || !width {
            let range = match (low, high) {
                (Some(low), Some(high)) => format!("write a number from {low} to {high}"),
                _ => String::new(),
            };
            self.bad(at, &format!("{number} is out of range"), &range);
        }
    }

    fn bound(&mut self, schema: &Json, bound: &str, have: usize, what: &str, at: &At) {
        let Some(limit) = schema[bound].as_u64() else { return };
        let have = have as u64;
        if bound.starts_with("max") && have > limit {
            self.bad(at, &format!("has {have} {what}; at most {limit} are allowed"), "");
        } else if bound.starts_with("min") && have < limit {
            let remedy = if have == 0 { "set a value, or remove the field" } else { "" };
            self.bad(at, &format!("has {have} {what}; at least {limit} are required"), remedy);
        }
    }

    fn wrong_type(&mut self, wanted: &str, found: &YamlValue, at: &At) {
        let (found, quote) = match found {
            YamlValue::Null => ("null", false),
            YamlValue::Bool(_) => ("true or false", true),
            YamlValue::Int(_) | YamlValue::Float(_) => ("a number", true),
            YamlValue::Text(_) => ("a string", false),
            YamlValue::List(_) => ("a list", false),
            YamlValue::Map(_) => ("a map", false),
        };
        let wanted_words = match wanted {
            "object" => "a map",
            "array" => "a list",
            "string" => "a string",
            "integer" => "a whole number",
            other => other,
        };
        let remedy = if quote && wanted == "string" { "put it in quotes" } else { "" };
        self.bad(at, &format!("must be {wanted_words}, not {found}"), remedy);
    }

    fn unknown<'a>(&mut self, key: &str, known: impl Iterator<Item = &'a String>, at: &At) {
        let known: Vec<&str> = known.map(String::as_str).collect();
        let remedy = match nearest(key, &known) {
            Some(near) => format!("did you mean {near}?"),
            None if known.len() > 12 => "remove it".to_owned(),
            None => format!("the known fields are {}", known.join(", ")),
        };
        self.issue(at, Code::UnknownField, "unknown field", &remedy);
    }

    fn bad(&mut self, at: &At, problem: &str, remedy: &str) {
        self.issue(at, Code::Structure, problem, remedy);
    }

    fn issue(&mut self, at: &At, code: Code, problem: &str, remedy: &str) {
        let (field, line) = (at.path.clone(), at.line);
        self.issues.push(Issue { field, line, code, problem: problem.to_owned(), remedy: remedy.to_owned() });
    }
}

/// The known name that is at most two edits away, regardless of case.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    known
        .iter()
        .map(|near| (strsim::levenshtein(&name, &near.to_ascii_lowercase()), *near))
        .filter(|(edits, near)| *edits <= 2 && *edits < near.len())
        .min()
        .map(|(_, near)| near)
}
