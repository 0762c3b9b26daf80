//! Any bytes of the ring buffer, one record or several.
//!
//! - A record that decodes is byte for byte what came in, and its numbers are in the lists.
//! - Each reported line is JSON, and each address, port and count in it is that of a record. Nothing has a name.

use std::net::{IpAddr, Ipv6Addr};

use agent_common::counters::Outcome;
use agent_common::event::{Checked, FlowEvent};
use serde_json::Value;
use zerocopy::IntoBytes;

/// Records of one input.
const MOST: usize = 32;

/// Checks one input.
pub fn check(input: &[u8]) {
    let records: Vec<&[u8]> = input.chunks(size_of::<FlowEvent>()).take(MOST).collect();
    let decoded: Vec<Checked> = records.iter().filter_map(|bytes| decoded(bytes)).collect();
    let packets: u128 = decoded.iter().map(|record| u128::from(record.event.count)).sum();
    let mut reported: u128 = 0;
    for line in bulkhead::fuzzing::event_lines(&records) {
        let line: Value = serde_json::from_slice(&line).expect("a line is JSON");
        if line["type"] == "violation" {
            reported += u128::from(line["count"].as_u64().expect("a count"));
            assert!(decoded.iter().any(|record| describes(&line, record)), "no record says this: {line}");
        }
    }
    assert!(reported <= packets, "{reported} packets were reported, and the records count {packets}");
}

/// The record in these bytes, if they are one.
fn decoded(bytes: &[u8]) -> Option<Checked> {
    let record = FlowEvent::decode(bytes);
    assert!(record.is_none() || bytes.len() == size_of::<FlowEvent>(), "a record of another size");
    let record = record?;
    assert_eq!(record.event.as_bytes(), bytes, "the record says something else than its bytes");
    assert_eq!(record.reason.number(), record.event.reason);
    assert_eq!(record.direction as u8, record.event.direction);
    assert_eq!(record.outcome as u8, record.event.outcome);
    assert!(record.outcome != Outcome::Allowed, "an allowed packet is no violation");
    Some(record)
}

/// Whether every field of a line is that of the record, or is left out.
fn describes(line: &Value, record: &Checked) -> bool {
    let event = &record.event;
    let end = |name: &str, address: [u8; 16], port: u16| {
        let end = &line[name];
        let ip = end.get("ip").is_none_or(|ip| ip.as_str() == Some(&text(address, event.family)));
        let named = ["tenant", "namespace", "pod", "pod_uid", "workload", "name", "subnet"];
        ip && is_left_out_or(end, "port", port.into()) && named.iter().all(|name| end.get(name).is_none())
    };
    let network = &line["network"];
    line["reason"] == record.reason.as_str()
        && line["direction"] == record.direction.as_str()
        && end("source", event.source, event.source_port)
        && end("destination", event.destination, event.destination_port)
        && is_left_out_or(network, "ethertype", event.ethertype.into())
        && is_left_out_or(network, "protocol_number", event.protocol.into())
        && is_left_out_or(network, "icmp_type", event.icmp_type.into())
        && is_left_out_or(network, "icmp_code", event.icmp_code.into())
        && network["length"] == event.length
        && line["policy"]["revision"] == event.generation
}

fn is_left_out_or(object: &Value, name: &str, number: u64) -> bool {
    object.get(name).is_none_or(|value| value.as_u64() == Some(number))
}

/// An address of a record in text: IPv4 in mapped form is IPv4, unless the packet was IPv6.
fn text(bytes: [u8; 16], family: u8) -> String {
    let address = Ipv6Addr::from(bytes);
    let address: IpAddr = if family == 6 { address.into() } else { address.to_canonical() };
    address.to_string()
}
