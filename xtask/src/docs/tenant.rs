//! The page of the NetworkTenant, from the schema of its definition.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::page::{Page, code, list, scalar, text};

const INTRODUCTION: &str = "\
A NetworkTenant (`bulkhead.dev/v1alpha1`, cluster-scoped) lists the namespaces of one tenant and the destinations that its pods
may reach. The API server refuses an object that breaks a rule below; `bulkhead lint` finds the same faults before. In a path,
`[]` stands for each item of a list.";

/// Writes the page.
pub(super) fn render(facts: &Value) -> String {
    let schema = &facts["tenant"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut page = Page::new("NetworkTenant", INTRODUCTION);
    for (title, part) in [("Spec", "spec"), ("Status", "status")] {
        let object = &schema["properties"][part];
        let (mut fields, mut rules) = (Vec::new(), Vec::new());
        walk(part, object, &mut fields, &mut rules);
        if fields.is_empty() {
            continue;
        }
        page.section(title, text(object, "description"));
        page.table(["field", "type", "required", "default", "limits", "meaning"], &fields);
        if !rules.is_empty() {
            page.section(&format!("Rules of the {part}"), "");
            page.table(["field", "message"], &rules);
        }
    }
    page.finish()
}

/// Adds the fields below an object, depth first, and the rules on it and on them.
fn walk(path: &str, object: &Value, fields: &mut Vec<[String; 6]>, rules: &mut Vec<[String; 2]>) {
    rules.extend(
        list(object, "x-kubernetes-validations").iter().map(|rule| [code(path), text(rule, "message").to_owned()]),
    );
    if object["items"].is_object() {
        return walk(&format!("{path}[]"), &object["items"], fields, rules);
    }
    let required: BTreeSet<&str> = list(object, "required").iter().filter_map(Value::as_str).collect();
    let none = Map::new();
    for (name, field) in object["properties"].as_object().unwrap_or(&none) {
        let path = format!("{path}.{name}");
        fields.push([
            code(&path),
            kind(field),
            if required.contains(name.as_str()) { "yes" } else { "" }.to_owned(),
            code(&scalar(&field["default"])),
            limits(field),
            text(field, "description").to_owned(),
        ]);
        walk(&path, field, fields, rules);
    }
}

fn kind(field: &Value) -> String {
    match text(field, "type") {
        "array" => format!("list of {}", kind(&field["items"])),
        "object" if field["additionalProperties"].is_object() => "map of strings".to_owned(),
        kind => kind.to_owned(),
    }
}

/// Values, sizes and ranges that the schema allows.
fn limits(field: &Value) -> String {
    let values: Vec<String> = list(field, "enum").iter().map(|value| code(&scalar(value))).collect();
    let range = |least: &str, most: &str, unit: &str| {
        let (least, most) = (scalar(&field[least]), scalar(&field[most]));
        match (least.as_str(), most.as_str()) {
            ("", "") => None,
            ("", most) => Some(format!("at most {most}{unit}")),
            (least, "") => Some(format!("at least {least}{unit}")),
            (least, most) => Some(format!("{least} to {most}{unit}")),
        }
    };
    let ranges = [
        range("minimum", "maximum", ""),
        range("minLength", "maxLength", " characters"),
        range("minItems", "maxItems", " items"),
        range("minProperties", "maxProperties", " entries"),
    ];
    let words = (!values.is_empty()).then(|| values.join(", "));
    words.into_iter().chain(ranges.into_iter().flatten()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_and_rules_are_found_below_lists() {
        let schema = json!({ "properties": { "ports": { "type": "array", "maxItems": 16, "items": {
            "type": "object", "required": ["port"], "x-kubernetes-validations": [{ "message": "no" }],
            "properties": { "port": { "type": "integer", "minimum": 1.0, "maximum": 65535.0, "default": 80 } },
        } } } });
        let (mut fields, mut rules) = (Vec::new(), Vec::new());
        walk("spec", &schema, &mut fields, &mut rules);
        assert_eq!(fields[0][..5], ["`spec.ports`", "list of object", "", "", "at most 16 items"]);
        assert_eq!(fields[1][..5], ["`spec.ports[].port`", "integer", "yes", "`80`", "1 to 65535"]);
        assert_eq!(rules, [["`spec.ports[]`", "no"]]);
    }
}
