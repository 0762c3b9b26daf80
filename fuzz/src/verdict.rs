//! Any frame, under many policies, from the pod and to it.
//!
//! - Both paths give the same verdict, the same reply table and the same report.
//! - Empty tables let nothing pass, and no frame passes that claims to be from another source.
//! - A denied frame stays denied when its end is cut off.
//! - A frame that is aimed at another tenant is denied, whatever else is in it.

use agent_common::addr::{V4, V6};
use agent_common::classify;
use agent_common::counters::Outcome;
use agent_common::endpoint::Endpoint;
use agent_common::flow::Direction;
use agent_common::mem_tables::MemTables;
use agent_common::reason::DropReason;
use agent_common::summary;
use agent_common::{fast_path, parse};

use crate::settings;
use crate::world::{Host, METADATA, OTHER_POD, THEIR_DATABASE, UNCLAIMED, World, aim, claims_the_pod};

/// Bytes before the frame: settings of the tenant, of the policy, the direction, a length, and a port.
const HEAD: usize = 5;
/// The longest frame.
const LONGEST: usize = 600;

/// Checks one input.
pub fn check(input: &[u8]) {
    let Some((&[flags, policy, way, cut, port], frame)) = input.split_first_chunk::<HEAD>() else { return };
    if frame.len() > LONGEST {
        return;
    }
    let direction = if way & 1 == 0 { Direction::Egress } else { Direction::Ingress };
    let world = settings::world(flags, policy);
    paths_agree(&world, direction, frame);
    let judged = world.judged(direction, frame);
    assert_eq!(judged.denied.is_none(), judged.outcome == Outcome::Allowed, "a verdict without an outcome");
    if judged.denied.is_none() {
        assert!(direction == Direction::Ingress || claims_the_pod(frame), "passes with another source");
    } else if !resolves(frame) {
        let length = usize::from(cut) * frame.len() / 256;
        assert!(world.judged(direction, &frame[..length]).denied.is_some(), "the first {length} bytes alone pass");
    }
    assert!(MemTables::default().judge(1, direction, frame).denied.is_some(), "passes with empty tables");
    other_tenants_stay_denied(direction, frame, u16::from(port) * 257);
}

/// Whether the frame resolves an address. Such a frame is refused because of bytes behind it, so cutting may open it.
fn resolves(frame: &[u8]) -> bool {
    let discovery = frame.get(20) == Some(&58) && matches!(frame.get(54), Some(133..=137));
    frame.get(12..14) == Some(&[8, 6]) || discovery
}

/// Both paths give one verdict, and leave the same entries in the reply table.
fn paths_agree(world: &World, direction: Direction, frame: &[u8]) {
    let entry = world.tables.endpoints[&1];
    let endpoint = Endpoint::new(&entry, world.tables.tenants[&entry.tenant]).expect("it is claimed");
    let verdict = world.tables.verdict(&endpoint, direction, frame);
    let fast = world.tables.replies.take();
    let slow = match direction {
        Direction::Egress => classify::slow_from_pod(frame, &endpoint, &world.tables),
        Direction::Ingress => classify::slow_to_pod(frame, &endpoint, &world.tables),
    };
    assert_eq!(verdict, slow, "the slow path has another verdict");
    assert_eq!(fast, world.tables.replies.take(), "other entries");
    if let Some(flow) = fast_path::ipv4(frame) {
        assert_eq!(parse::ipv4(frame), Ok(flow));
    }
    if let Some(flow) = fast_path::ipv6(frame) {
        assert_eq!(parse::ipv6(frame), Ok(flow));
    }
    reports_agree(&endpoint, direction, frame);
}

/// The fast path counts a denied flow under the same key as the reader of the whole packet.
fn reports_agree(endpoint: &Endpoint<'_>, direction: Direction, frame: &[u8]) {
    let cause = DropReason::OffSubnet;
    let four = classify::fast_query::<V4, _>(frame, endpoint, direction)
        .map(|query| (query.aggregate_key(direction, cause), query.tcp_flags));
    let six = classify::fast_query::<V6, _>(frame, endpoint, direction)
        .map(|query| (query.aggregate_key(direction, cause), query.tcp_flags));
    let key = match classify::ethertype(frame) {
        Some(0x0800) => four,
        Some(0x86dd) => six,
        _ => None,
    };
    let summary = summary::summarize(frame);
    if let Some(key) = key {
        assert_eq!(key, (summary.key(direction, endpoint.entry.cookie, cause), summary.tcp_flags));
    }
}

/// Every other tenant's address stays denied: in an isolated world no byte of a frame opens one.
fn other_tenants_stay_denied(direction: Direction, frame: &[u8], port: u16) {
    let world = settings::isolated();
    let others: &[Host] = match direction {
        Direction::Egress => &[OTHER_POD, THEIR_DATABASE, UNCLAIMED, METADATA],
        // A router may send ICMP errors about the pod's packets from any address that is no pod's.
        Direction::Ingress => &[OTHER_POD, UNCLAIMED],
    };
    let mut aimed = frame.to_vec();
    for other in others {
        if aim_any(&mut aimed, direction, *other, port) {
            let judged = world.judged(direction, &aimed);
            assert!(judged.denied.is_some(), "reaches {other:?}: {aimed:02x?}");
        }
    }
}

/// Sets the other end of an IP packet, or the address that an ARP request of the pod asks for. The gateway may answer
/// for any address, and a reply of the pod states its own only.
fn aim_any(frame: &mut [u8], direction: Direction, other: Host, port: u16) -> bool {
    match frame.get(12..14) {
        Some([8, 6]) if frame.len() >= 42 => {
            frame[38..42].copy_from_slice(&other);
            direction == Direction::Egress && frame[20..22] == [0, 1]
        }
        Some([8, 0]) if frame.len() >= 38 => {
            aim(frame, direction, other, port);
            true
        }
        Some([0x86, 0xdd]) if frame.len() >= 58 => {
            aim(frame, direction, other, port);
            true
        }
        _ => false,
    }
}
