//! The golden event, and what is left out if it is not known.
//!
//! Names come from fixtures. Needs no kernel and no cluster.

use super::*;
use agent_common::event::FlowEvent;

use crate::events::fixtures::{FixtureNames, checked, enricher, flow, mapped, report};
use serde_json::Value;

const GOLDEN: &str = include_str!("../golden.json");

fn json(event: FlowEvent) -> Value {
    let record = checked(event);
    let flow_report = FlowReport { record, count: event.count, first_ns: event.first_ns, last_ns: event.last_ns };
    serde_json::to_value(enricher().violation(&flow_report)).expect("JSON")
}

fn without_id(mut event: Value) -> Value {
    event.as_object_mut().expect("an object").remove("id");
    event
}

#[test]
fn an_event_is_exactly_the_golden_one() {
    let event = serde_json::to_value(enricher().violation(&report(1, 37))).expect("JSON");
    let golden: Value = serde_json::from_str(GOLDEN).expect("JSON");
    assert_eq!(without_id(event), without_id(golden));
}

#[test]
fn keys_are_in_reading_order() {
    let line = serde_json::to_string(&enricher().violation(&report(1, 1))).expect("JSON");
    let places: Vec<_> = ["\"schema\"", "\"time\"", "\"id\"", "\"type\"", "\"severity\"", "\"source\"", "\"message\""]
        .into_iter()
        .map(|key| line.find(key).expect(key))
        .collect();
    assert!(places.is_sorted(), "{line}");
}

#[test]
fn identifiers_sort_by_the_time_of_the_event() {
    let (early, late) = (enricher().violation(&report(1, 1)), enricher().violation(&report(1, 37)));
    assert!(early.id.0 < late.id.0);
    assert_eq!(early.id.0.get_version_num(), 7);
}

#[test]
fn a_spoofed_packet_names_the_pod_that_sent_it_and_the_address_it_claimed() {
    let event = json(FlowEvent { source: mapped("10.244.2.40"), reason: 5, ..flow(1) });
    assert_eq!(event["source"]["ip"], "10.244.2.40");
    assert_eq!(event["source"]["pod"], "shop-6c9d7f9b5-x2v8k");
    assert_eq!(event["severity"], "high");
    assert_eq!(event["policy"]["rule"], "guard-own-address");
}

#[test]
fn unknown_values_are_left_out() {
    let event = json(FlowEvent {
        source: [0; 16],
        destination: [0; 16],
        ifindex: 99,
        cookie: 0,
        tenant: TenantId::UNKNOWN,
        peer_tenant: TenantId::UNKNOWN,
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        family: 0,
        ethertype: 0x88cc,
        reason: 15,
        tcp_flags: 0,
        ..flow(1)
    });
    let kind_only = serde_json::json!({ "kind": "unknown" });
    assert_eq!((&event["source"], &event["destination"]), (&kind_only, &kind_only));
    assert_eq!(event["network"], serde_json::json!({ "ethertype": 0x88cc, "length": 60 }));
    assert_eq!(event["message"], "dropped 1 packet unknown -> unknown: ethertype");
    assert!(no_null_no_empty(&event), "{event}");
}

#[test]
fn an_arp_claim_has_addresses_and_is_not_ipv4() {
    let event = json(FlowEvent {
        ethertype: 0x0806,
        protocol: 0,
        source_port: 0,
        destination_port: 0,
        tcp_flags: 0,
        reason: 14,
        ..flow(1)
    });
    assert_eq!(event["network"], serde_json::json!({ "ethertype": 0x0806, "length": 60 }));
    assert_eq!(event["source"]["ip"], "10.244.1.17");
}

#[test]
fn icmp_has_type_and_code_instead_of_ports() {
    let event = json(FlowEvent { protocol: 1, icmp_type: 8, icmp_code: 0, tcp_flags: 0, ..flow(1) });
    assert_eq!((&event["network"]["icmp_type"], &event["network"]["transport"]), (&8.into(), &"icmp".into()));
    assert!(event["network"].get("community_id").is_none() && event["source"].get("port").is_none());
}

#[test]
fn an_ipv6_event_has_bracketed_addresses_in_its_sentence() {
    let event = json(FlowEvent {
        source: mapped("fd00::11"),
        destination: mapped("2001:db8::9"),
        family: 6,
        ethertype: 0x86dd,
        peer_tenant: TenantId::UNKNOWN,
        reason: 2,
        direction: 0,
        ..flow(1)
    });
    assert_eq!(event["destination"], serde_json::json!({ "kind": "external", "ip": "2001:db8::9", "port": 5432 }));
    let message = event["message"].as_str().expect("a sentence");
    assert!(message.ends_with("-> [2001:db8::9]:5432: off_subnet"), "{message}");
}

#[test]
fn a_subnet_of_another_tenant_is_named() {
    let event = json(FlowEvent { destination: mapped("10.40.0.9"), ..flow(1) });
    assert_eq!(event["destination"]["subnet"], "rds-a");
    assert_eq!(
        (&event["destination"]["kind"], &event["destination"]["tenant"]),
        (&"external".into(), &"globex".into())
    );
}

#[test]
fn a_denied_port_names_the_range() {
    let event = json(FlowEvent { destination: mapped("10.40.1.9"), reason: 12, ..flow(1) });
    assert_eq!(event["policy"]["rule"], "subnets/efs-a");
}

#[test]
fn an_unknown_address_of_the_cluster_is_not_external() {
    let event = json(FlowEvent { destination: mapped("10.244.9.9"), peer_tenant: TenantId::CLUSTER, ..flow(1) });
    assert_eq!(event["destination"], serde_json::json!({ "kind": "unknown", "ip": "10.244.9.9", "port": 5432 }));
}

#[test]
fn the_local_pod_is_the_destination_of_an_audited_ingress_event() {
    let event = json(FlowEvent {
        ifindex: 13,
        cookie: 8,
        tenant: TenantId(2),
        peer_tenant: TenantId(1),
        direction: 1,
        outcome: 2,
        ..flow(2)
    });
    assert_eq!(
        (&event["source"]["pod"], &event["destination"]["pod"]),
        (&"shop-6c9d7f9b5-x2v8k".into(), &"postgres-0".into())
    );
    assert_eq!((&event["policy"]["tenant"], &event["policy"]["mode"]), (&"globex".into(), &"audit".into()));
    assert_eq!((&event["verdict"], &event["severity"]), (&"audited".into(), &"low".into()));
}

#[test]
fn a_cluster_without_a_name_has_no_key() {
    let nameless = Enricher::new("node".into(), Some(String::new()), Arc::new(FixtureNames));
    let event = serde_json::to_value(nameless.violation(&report(1, 1))).expect("JSON");
    assert!(event.get("cluster").is_none());
}

fn no_null_no_empty(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => items.iter().all(no_null_no_empty),
        Value::Object(items) => items.values().all(no_null_no_empty),
        _ => true,
    }
}
