//! Properties of the generated definition that a cluster depends on.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::*;

fn schema() -> Json {
    serde_json::to_value(crd()).expect("serialises")["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Every schema node with its path.
fn walk<'a>(schema: &'a Json, path: String, out: &mut Vec<(String, &'a Json)>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, format!("{path}.{name}"), out);
    }
    if schema["items"].is_object() {
        walk(&schema["items"], format!("{path}[]"), out);
    }
    if schema["additionalProperties"].is_object() {
        walk(&schema["additionalProperties"], format!("{path}{{}}"), out);
    }
    out.push((path, schema));
}

#[test]
fn the_committed_definition_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crd.yaml");
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == crd_yaml(), "deploy/crd.yaml is not what the types say: run `cargo xtask crds` and commit it");
}

#[test]
fn the_definition_has_the_names_that_users_type() {
    let crd = crd();
    assert_eq!(crd.metadata.name.as_deref(), Some("networktenants.bulkhead.dev"));
    assert_eq!(crd.spec.scope, "Cluster");
    assert_eq!(crd.spec.names.short_names, Some(vec!["nt".to_owned()]));
    assert_eq!(crd.spec.names.categories, Some(vec!["bulkhead".to_owned()]));
    let columns = crd.spec.versions[0].additional_printer_columns.clone().unwrap_or_default();
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["Mode", "Class", "Namespaces", "Pods", "Ready", "Reason", "Age"]);
}

#[test]
fn every_list_string_and_map_of_the_spec_has_a_bound() {
    let schema = schema();
    let mut nodes = Vec::new();
    walk(&schema["properties"]["spec"], "spec".to_owned(), &mut nodes);
    assert!(nodes.len() > 20);
    for (path, node) in nodes {
        let bounded = match node["type"].as_str() {
            Some("array") => node["maxItems"].is_u64(),
            Some("string") => node["maxLength"].is_u64() || node["enum"].is_array(),
            Some("integer") => node["maximum"].is_number(),
            Some("object") if node["additionalProperties"].is_object() => node["maxProperties"].is_u64(),
            _ => true,
        };
        assert!(bounded, "{path}: {node}");
    }
}

#[test]
fn the_schema_is_structural_and_holds_no_null() {
    let schema = schema();
    let mut nodes = Vec::new();
    walk(&schema["properties"]["spec"], "spec".to_owned(), &mut nodes);
    for (path, node) in nodes {
        assert!(node["type"].is_string(), "{path} has no type: {node}");
        assert!(node["nullable"] != json!(true), "{path} takes null");
        assert!(node["additionalProperties"] != json!(false), "{path}: the API server refuses this beside properties");
        assert!(!["uint8", "uint16", "uint32"].contains(&node["format"].as_str().unwrap_or_default()), "{path}");
    }
}

#[test]
fn no_rule_computes_its_message() {
    // The API server (1.36) prices string(cidr(...)) without a bound and refuses the whole definition.
    assert!(!crd_yaml().contains("messageExpression"));
}

#[test]
fn the_defaults_are_the_strict_ones() {
    let spec = &schema()["properties"]["spec"];
    assert_eq!(spec["properties"]["class"]["default"], "Isolated");
    assert_eq!(spec["properties"]["mode"]["default"], "Enforce");
    assert_eq!(spec["required"], json!(["namespaceSelector"]));
}

#[test]
fn the_bounds_in_the_schema_are_those_that_conversion_checks() {
    let spec = &schema()["properties"]["spec"]["properties"];
    let bounds = [
        (&spec["subnets"]["maxItems"], tenant::MAX_SUBNETS),
        (&spec["egress"]["maxItems"], tenant::MAX_EGRESS),
        (&spec["egress"]["items"]["properties"]["cidrs"]["maxItems"], tenant::MAX_CIDRS),
        (&spec["subnets"]["items"]["properties"]["ports"]["maxItems"], tenant::MAX_PORTS),
        (&spec["egress"]["items"]["properties"]["ports"]["maxItems"], tenant::MAX_PORTS),
        (&spec["peers"]["maxItems"], tenant::MAX_PEERS),
        (&spec["namespaceSelector"]["properties"]["matchLabels"]["maxProperties"], tenant::MAX_SELECTOR),
        (&spec["namespaceSelector"]["properties"]["matchExpressions"]["maxItems"], tenant::MAX_SELECTOR),
        (&spec["peers"]["items"]["properties"]["tenant"]["maxLength"], tenant::MAX_NAME),
    ];
    for (at, (bound, limit)) in bounds.into_iter().enumerate() {
        assert_eq!(*bound, json!(limit), "bound number {at}");
    }
}

#[test]
fn every_rule_compiles() {
    let compiled = kube::core::cel::compile_schema(&schema());
    fn check(schema: &kube::core::cel::CompiledSchema) {
        assert!(!schema.has_errors(), "{:?}", schema.compilation_errors());
        schema.properties.values().for_each(check);
        schema.items.as_deref().into_iter().for_each(check);
    }
    check(&compiled);
}
