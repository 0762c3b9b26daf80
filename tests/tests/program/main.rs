//! Tests of the loaded programs without a network.
//!
//! The verifier accepts the programs. Their verdicts equal the host's verdicts, and they count and report every packet.

mod agreement;
mod guards;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use agent_common::addr::Mac;
use agent_common::aggregate::{AGGREGATE_LEN, AggregateEntry, POD_RECORDS_PER_SECOND};
use agent_common::counters::{Counter, Loss, Outcome, allowed_index, denied_index};
use agent_common::event::FlowEvent;
use agent_common::flow::Direction::{self, Egress, Ingress};
use agent_common::layout::EndpointEntry;
use agent_common::maps;
use agent_common::reason::DropReason;
use agent_common::reply_table::CONNECTIONS_PER_POD;
use agent_common::tenant::TenantState;
use aya::maps::{Array, PerCpuArray, RingBuf};
use bulkhead::dataplane::object::MapLimits;
use testbed::engine::{Engine, LOOPBACK, replay::replay, stage, stay_on_one_cpu};
use testbed::frames::{self, FrameCase, Hook};
use testbed::netns::Netns;

const PASS: Option<i32> = Some(-1);
const DROP: Option<i32> = Some(2);
/// The counter slot of the stage's tenant A.
const SLOT: u16 = 1;

fn engine() -> Engine {
    stay_on_one_cpu().expect("a CPU of our own");
    Engine::new(stage::tables()).expect("the programs load")
}

fn corpus() -> &'static [FrameCase] {
    static CORPUS: LazyLock<Vec<FrameCase>> = LazyLock::new(frames::generate);
    &CORPUS
}

fn direction(case: &FrameCase) -> Direction {
    match case.hook {
        Hook::FromPod => Egress,
        Hook::ToPod => Ingress,
    }
}

/// A frame of the corpus by its name.
fn frame(name: &str) -> Vec<u8> {
    let case = corpus().iter().find(|case| case.name == name);
    case.unwrap_or_else(|| panic!("{name} is not in the corpus")).frame.clone()
}

fn denied(engine: &Engine, direction: Direction, audited: bool, reason: DropReason) -> Counter {
    engine.counter(maps::DENIED.name, denied_index(SLOT, direction, audited, reason)).expect("a counter")
}

fn allowed(engine: &Engine, direction: Direction) -> Counter {
    engine.counter(maps::ALLOWED.name, allowed_index(SLOT, direction)).expect("a counter")
}

fn records(engine: &mut Engine) -> Vec<FlowEvent> {
    let mut ring: RingBuf<_> =
        engine.ebpf().map_mut(maps::EVENTS.name).expect("the ring").try_into().expect("a ring buffer");
    let mut records = Vec::new();
    while let Some(item) = ring.next() {
        records.push(FlowEvent::decode(&item).expect("a record of ours").event);
    }
    records
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn every_frame_of_the_corpus_gets_its_verdict() {
    let text = std::fs::read_to_string(frames::corpus_path()).expect("the corpus is committed");
    let mut wrong = Vec::new();
    let (passed, failed) = replay(&mut engine(), &text, |line| {
        if !line.ok {
            wrong.push(format!("{line:?}"));
        }
    })
    .expect("a replay");
    assert!(failed == 0 && passed > 300, "{passed} passed, {failed} failed:\n{}", wrong.join("\n"));
}

fn repair_checksum(frame: &mut [u8]) {
    let Some(end) = frame.get(14).map(|byte| 14 + usize::from(byte & 0x0f) * 4) else { return };
    if frame[12..14] != [8, 0] || end < 34 || end > frame.len() {
        return;
    }
    frame[24..26].fill(0);
    let sum: u32 = frame[14..end].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn counters_are_exact_in_packets_and_bytes() {
    let engine = engine();
    let mut packets: BTreeMap<(Direction, Option<DropReason>), Counter> = BTreeMap::new();
    for case in corpus().iter().filter(|case| case.group.is_none()) {
        let way = direction(case);
        let host = engine.host(way, &case.frame);
        if engine.run(way, &case.frame, 3).expect("a run").is_some() {
            let sum = packets.entry((way, host.reason())).or_default();
            sum.packets += 3;
            sum.bytes += 3 * case.frame.len() as u64;
        }
    }
    for way in Direction::ALL {
        assert_eq!(allowed(&engine, way), packets[&(way, None)], "{way:?} allowed");
        for reason in DropReason::ALL {
            let expected = packets.get(&(way, Some(*reason))).copied().unwrap_or_default();
            assert_eq!(denied(&engine, way, false, *reason), expected, "{way:?} {reason:?}");
            assert_eq!(denied(&engine, way, true, *reason), Counter::default(), "{way:?} {reason:?} audited");
        }
    }
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn in_audit_mode_packets_pass_and_are_counted_separately() {
    let mut tables = stage::tables();
    tables.tenants.get_mut(&stage::A).expect("tenant A").flags |= TenantState::AUDIT;
    let mut engine = engine();
    engine.refill(tables).expect("tables can be written");
    let cross = frame("cross4-udp");
    assert_eq!(engine.run(Egress, &cross, 5).expect("a run"), PASS);
    assert_eq!(denied(&engine, Egress, true, DropReason::CrossTenant).packets, 5);
    assert_eq!(denied(&engine, Egress, false, DropReason::CrossTenant).packets, 0);
    assert_eq!(allowed(&engine, Egress).packets, 0);
    let reported = records(&mut engine);
    assert_eq!(reported.iter().map(|event| event.outcome).collect::<Vec<_>>(), [Outcome::Audited as u8]);
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn a_flow_is_reported_at_once_and_then_once_a_second_with_its_count() {
    let mut engine = engine();
    let cross = frame("cross4-tcp-syn");
    assert_eq!(engine.run(Egress, &cross, 1).expect("a run"), DROP);
    let first = records(&mut engine);
    assert_eq!(first.len(), 1, "the first packet at once");
    let event = first[0];
    assert_eq!((event.count, event.ifindex, event.cookie), (1, LOOPBACK, stage::pod_a().cookie));
    assert_eq!((event.tenant, event.peer_tenant), (stage::A, stage::B));
    assert_eq!((event.source_port, event.destination_port, event.protocol, event.tcp_flags), (40001, 9000, 6, 2));
    assert_eq!(event.source[10..], [0xff, 0xff, 10, 10, 1, 5]);
    assert_eq!(event.destination[10..], [0xff, 0xff, 10, 20, 1, 7]);
    assert_eq!(event.length as usize, cross.len());
    let runs = 20_000;
    assert_eq!(engine.run(Egress, &cross, runs).expect("a run"), DROP);
    assert!(records(&mut engine).len() <= 1, "the rest is aggregated");
    std::thread::sleep(std::time::Duration::from_millis(1_050));
    assert_eq!(engine.run(Egress, &cross, 1).expect("a run"), DROP);
    let last = records(&mut engine);
    assert_eq!(last.len(), 1, "a second later");
    assert_eq!(last[0].count, u64::from(runs) + 2, "with all of them");
    assert_eq!(last[0].first_ns, event.first_ns);
    assert_eq!(denied(&engine, Egress, false, DropReason::CrossTenant).packets, u64::from(runs) + 2);
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn a_pod_with_many_flows_is_limited_and_still_counted() {
    let mut engine = engine();
    let flows = 2_000_u16;
    for port in 0..flows {
        let mut cross = frame("cross4-udp");
        cross[36..38].copy_from_slice(&(10_000 + port).to_be_bytes());
        assert_eq!(engine.run(Egress, &cross, 1).expect("a run"), DROP);
    }
    let reported = records(&mut engine).len() as u32;
    assert!((1..=3 * POD_RECORDS_PER_SECOND).contains(&reported), "{reported} records");
    assert_eq!(denied(&engine, Egress, false, DropReason::CrossTenant).packets, u64::from(flows));
    let unreported = engine.lost(Loss::Unreported).expect("a counter");
    assert!(unreported > 0, "flows that lost their entry unreported are counted");
    // Another pod still has its own budget.
    let mut tables = stage::tables();
    tables.endpoints.insert(LOOPBACK, EndpointEntry { slot: 2, cookie: 0x0b05, ..stage::pod_a() });
    engine.refill(tables).expect("tables can be written");
    assert_eq!(engine.run(Egress, &frame("cross4-udp"), 1).expect("a run"), DROP);
    assert_eq!(records(&mut engine).len(), 1);
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn no_tenant_hides_another_tenant_s_denied_flows() {
    let mut engine = engine();
    let victim = stage::pod_a();
    let attacker = EndpointEntry { tenant: stage::B, slot: 2, cookie: 0x0b05, ..victim };
    let mut outside = frame("cross4-udp");
    outside[30..34].copy_from_slice(&[198, 51, 100, 7]);
    repair_checksum(&mut outside);
    let send = |engine: &Engine, ports: std::ops::Range<u16>| {
        let mut outside = outside.clone();
        for port in ports {
            outside[36..38].copy_from_slice(&port.to_be_bytes());
            assert_eq!(engine.run(Egress, &outside, 1).expect("a run"), DROP);
        }
    };
    claim(&mut engine, attacker);
    send(&engine, 0..20_000);
    assert!(engine.lost(Loss::Unreported).expect("a counter") > 10_000, "the control: the flood evicts its own flows");
    records(&mut engine);
    claim(&mut engine, victim);
    send(&engine, 7..8);
    let reported: Vec<u32> = records(&mut engine).iter().map(|event| event.cookie).collect();
    assert_eq!(reported, [victim.cookie], "the first packet is reported at once");
    send(&engine, 7..8);
    claim(&mut engine, attacker);
    send(&engine, 20_000..40_000);
    let flows: PerCpuArray<_, AggregateEntry> =
        engine.map(maps::DENIED_FLOWS.name).expect("the map").try_into().expect("its type");
    let found = (0..AGGREGATE_LEN).flat_map(|bucket| flows.get(&bucket, 0).expect("a bucket").to_vec());
    let kept: Vec<u64> = found.filter(|flow| flow.key.cookie == victim.cookie).map(|flow| flow.event.count).collect();
    assert_eq!(kept, [2], "the sweep finds the flow with both packets");
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn records_lost_to_a_full_ring_are_counted() {
    let mut engine = engine();
    let slot = |pods: u32| (pods / 4) as u16 % 512;
    let (mut pods, mut packets) = (0_u32, 0);
    // Each pod has a budget, and so has each tenant. Enough of both fill a ring that is not read.
    while engine.lost(Loss::RingFull).expect("a counter") == 0 && pods < 2_000 {
        let mut tables = stage::tables();
        let entry = EndpointEntry { slot: pods as u16 % 4_096, cookie: 0x1000 + pods, ..stage::pod_a() };
        tables.endpoints.insert(LOOPBACK, entry);
        tables.tenants.get_mut(&stage::A).expect("tenant A").slot = slot(pods);
        tables.peers_v4.clear();
        engine.refill(tables).expect("tables can be written");
        for port in 0..100_u16 {
            let mut cross = frame("cross4-udp");
            cross[36..38].copy_from_slice(&(10_000 + port).to_be_bytes());
            assert_eq!(engine.run(Egress, &cross, 1).expect("a run"), DROP);
            packets += 1;
        }
        pods += 1;
    }
    assert!(engine.lost(Loss::RingFull).expect("a counter") > 0, "{packets} records fit");
    let capacity = (1 << 20) / (size_of::<FlowEvent>() + 8);
    let reported = records(&mut engine).len();
    assert!(reported <= capacity && reported > capacity / 2, "{reported} records of {capacity}");
    let count = |slot| denied_index(slot, Egress, false, DropReason::CrossTenant);
    let slots = 0..=slot(pods);
    let counted = slots.map(|slot| engine.counter(maps::DENIED.name, count(slot)).expect("a counter").packets);
    assert_eq!(counted.sum::<u64>(), packets, "every packet was counted");
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn nothing_passes_with_incomplete_entries() {
    let mut engine = engine();
    let peer = frame("peer4-udp");
    assert_eq!(engine.run(Egress, &peer, 1).expect("a run"), PASS);
    let not_ready = |engine: &Engine, way| {
        let index = denied_index(0, way, false, DropReason::NotReady);
        engine.counter(maps::DENIED.name, index).expect("a counter").packets
    };
    let mut tables = stage::tables();
    tables.tenants.get_mut(&stage::A).expect("tenant A").flags &= !TenantState::VALID;
    engine.refill(tables).expect("tables can be written");
    for way in Direction::ALL {
        assert_eq!(engine.run(way, &peer, 1).expect("a run"), DROP);
    }
    let mut tables = stage::tables();
    tables.endpoints.insert(LOOPBACK, EndpointEntry { mac: Mac::default(), ..EndpointEntry::default() });
    engine.refill(tables).expect("tables can be written");
    for way in Direction::ALL {
        assert_eq!(engine.run(way, &peer, 1).expect("a run"), DROP);
        assert_eq!(not_ready(&engine, way), 2, "{way:?}");
    }
    // An unknown interface.
    let engine = engine_on_stage_without_pod();
    assert_eq!(engine.run(Egress, &peer, 1).expect("a run"), DROP);
    assert_eq!(not_ready(&engine, Egress), 1);
}

fn engine_on_stage_without_pod() -> Engine {
    let mut tables = stage::tables();
    tables.endpoints.clear();
    Engine::new(tables).expect("the programs load")
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn what_does_not_fit_into_a_map_stays_denied() {
    let mut tables = stage::tables();
    let pods = tables.peers_v4.len() as u32;
    // The map has no capacity for one more peer: the write fails, and the peer stays unreachable.
    let limits = MapLimits { peers: pods, connections_per_pod: 64 };
    let mut engine = Engine::with_limits(tables.clone(), &limits).expect("they just fit");
    stage::peer(&mut tables, [10, 99, 0, 1].into(), stage::pod_of(stage::A));
    let error = engine.refill(tables).expect_err("one too many");
    assert!(format!("{error:#}").contains(maps::PEERS_V4.name), "{error:#}");
    let mut to_it = frame("peer4-udp");
    to_it[30..34].copy_from_slice(&[10, 99, 0, 1]);
    repair_checksum(&mut to_it);
    assert_eq!(engine.run(Egress, &to_it, 1).expect("a run"), DROP);
    assert_eq!(engine.run(Egress, &frame("peer4-udp"), 1).expect("a run"), PASS);
}

/// Gives the interface to another pod, in the kernel only.
fn claim(engine: &mut Engine, entry: EndpointEntry) {
    let map = engine.ebpf().map_mut(maps::ENDPOINTS.name).expect("the map");
    let mut endpoints = Array::<_, EndpointEntry>::try_from(map).expect("its type");
    endpoints.set(LOOPBACK, EndpointEntry::default(), 0).expect("a write");
    endpoints.set(LOOPBACK, entry, 0).expect("a write");
}

/// Sends a connection's opening to the pod, from this port of a client outside.
fn open(engine: &Engine, port: u16) {
    let mut opening = frame("in-external4-udp-unasked");
    opening[34..36].copy_from_slice(&port.to_be_bytes());
    assert_eq!(engine.run(Ingress, &opening, 1).expect("a run"), PASS);
}

/// Sends the pod's reply on a connection of [`open`].
fn reply(engine: &Engine, port: u16) -> Option<i32> {
    let opening = frame("in-external4-udp-unasked");
    let mut reply = frame("peer4-udp");
    reply[30..34].copy_from_slice(&opening[26..30]);
    reply[34..36].copy_from_slice(&opening[36..38]);
    reply[36..38].copy_from_slice(&port.to_be_bytes());
    repair_checksum(&mut reply);
    engine.run(Egress, &reply, 1).expect("a run")
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn no_pod_takes_another_pod_s_place_in_the_reply_table() {
    let mut engine = engine();
    let victim = engine.tables().endpoints[&LOOPBACK];
    let attacker = EndpointEntry { slot: victim.slot + 1, cookie: victim.cookie + 1, ..victim };
    open(&engine, 20_000);
    assert_eq!(reply(&engine, 20_000), PASS, "the control: the connection is in the table");
    open(&engine, 20_001);
    // Another pod takes the interface, so that the same frames are its own. It is sent every port there is.
    claim(&mut engine, attacker);
    (1..u16::MAX).for_each(|port| open(&engine, port));
    assert_eq!(reply(&engine, u16::MAX - 1), PASS, "the latest connection of the other pod is in the table");
    let kept = (1..u16::MAX).filter(|port| reply(&engine, *port) == PASS).count();
    assert_eq!(kept, CONNECTIONS_PER_POD as usize, "the other pod has its share and no more");
    let lost = || engine.lost(Loss::ReplyEvicted).expect("a counter");
    assert_eq!(lost(), 0, "no evicted connection was in use");
    (1..u16::MAX).for_each(|port| {
        open(&engine, port);
        reply(&engine, port);
    });
    let most = u64::from(u16::MAX - 1) - u64::from(CONNECTIONS_PER_POD);
    let expected = most..=most + u64::from(CONNECTIONS_PER_POD);
    assert!(expected.contains(&lost()), "{} of at least {most} evicted connections in use are counted", lost());
    claim(&mut engine, victim);
    for port in [20_000, 20_001] {
        assert_eq!(reply(&engine, port), PASS, "the first pod's connection {port} is still in the table");
    }
    assert_eq!(reply(&engine, 30_000), DROP, "a connection that never existed is not");
    // A flood of datagrams from outside to the pod itself evicts no connection on which both sides have sent.
    (1..u16::MAX).filter(|port| *port != 20_000).for_each(|port| open(&engine, port));
    assert_eq!(reply(&engine, 20_000), PASS, "the connection on which the pod has replied");
}

/// A TCP segment on a connection that a client outside opened from this port: to the pod, or the pod's.
fn segment(engine: &Engine, way: Direction, port: u16, flags: u8) -> Option<i32> {
    let addresses = frame("in-external4-udp-unasked");
    let mut segment = frame(if way == Ingress { "in-peer4-tcp-syn" } else { "cross4-tcp-syn" });
    let (client, pod) = (addresses[26..30].to_vec(), addresses[30..34].to_vec());
    let (source, destination) = if way == Ingress { (client, pod) } else { (pod, client) };
    let (source_port, destination_port) = if way == Ingress { (port, 80_u16) } else { (80, port) };
    segment[26..30].copy_from_slice(&source);
    segment[30..34].copy_from_slice(&destination);
    segment[34..36].copy_from_slice(&source_port.to_be_bytes());
    segment[36..38].copy_from_slice(&destination_port.to_be_bytes());
    segment[47] = flags;
    repair_checksum(&mut segment);
    engine.run(way, &segment, 1).expect("a run")
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn a_flood_of_syns_evicts_no_connection_that_both_sides_use() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let engine = engine();
    for port in [20_000, 20_001] {
        assert_eq!(segment(&engine, Ingress, port, SYN), PASS);
        assert_eq!(segment(&engine, Egress, port, SYN | ACK), PASS, "the control: a reply");
    }
    assert_eq!(segment(&engine, Ingress, 20_000, ACK), PASS, "only the first client goes on");
    // The pod's kernel answers each SYN by itself.
    for port in (1..u16::MAX).filter(|port| ![20_000, 20_001].contains(port)) {
        assert_eq!(segment(&engine, Ingress, port, SYN), PASS);
        assert_eq!(segment(&engine, Egress, port, SYN | ACK), PASS);
    }
    assert_eq!(segment(&engine, Egress, 20_000, ACK), PASS, "the connection in use is in the table");
    assert_eq!(segment(&engine, Egress, 20_001, ACK), DROP, "the control: one that was only answered is evicted");
    assert_eq!(engine.lost(Loss::ReplyEvicted).expect("a counter"), 0, "no connection in use was evicted");
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn interfaces_beyond_the_array_are_found() {
    // A chosen interface index needs its own network namespace.
    let far = 70_001;
    let netns = Netns::create("bh-far").expect("a namespace of our own");
    netns.ip(&format!("link add far index {far} type veth peer name near\n")).expect("an interface");
    let verdicts = netns.run(|| {
        let mut tables = stage::tables();
        tables.endpoints.insert(far, EndpointEntry { cookie: 0x7001, ..stage::pod_a() });
        let engine = Engine::new(tables).expect("the programs load");
        ["peer4-udp", "cross4-udp"].map(|name| engine.run_on(Egress, &frame(name), far).expect("a run"))
    });
    assert_eq!(verdicts, [PASS, DROP]);
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn a_long_frame_is_judged_like_a_short_one() {
    let engine = engine();
    let mut long = frame("peer4-udp-1500-bytes");
    assert_eq!(engine.run(Egress, &long, 1).expect("a run"), PASS);
    long[30..34].copy_from_slice(&[10, 20, 1, 7]);
    repair_checksum(&mut long);
    assert_eq!(engine.run(Egress, &long, 1).expect("a run"), DROP);
    assert_eq!(denied(&engine, Egress, false, DropReason::CrossTenant).bytes, long.len() as u64);
}
