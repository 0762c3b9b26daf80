//! The aggregator against a small model of the kernel.
//!
//! Each packet that the model counts is reported once, or counted as lost or as presumed reported.

use std::collections::HashMap;

use agent_common::aggregate::AggregateEntry;
use agent_common::event::FlowEvent;
use proptest::prelude::*;

use super::*;
use crate::events::fixtures::{SECOND, checked, flow};

const BOUNDS: AggregatorBounds = AggregatorBounds { windows: 1000, seen: 1000 };

fn aggregator() -> Aggregator {
    Aggregator::new(BOUNDS, 0)
}

/// Packets that wait in open windows.
fn waiting(aggregator: &Aggregator) -> u64 {
    aggregator.windows.values().map(|window| window.count).sum()
}

fn entry(count: u64, sent_count: u64) -> AggregateEntry {
    AggregateEntry { event: flow(count), sent_count, ..AggregateEntry::default() }
}

#[test]
fn records_of_impossible_counts_are_added_without_overflow() {
    let mut aggregator = aggregator();
    let mut out = Vec::new();
    let huge = |cpu| checked(FlowEvent { count: u64::MAX, cpu, ..flow(1) });
    (0..3).for_each(|cpu| aggregator.record(&huge(cpu), 0, &mut out));
    aggregator.flush(&mut out);
    assert_eq!(out.iter().map(|report| report.count).collect::<Vec<_>>(), [u64::MAX; 2]);
}

#[test]
fn the_first_packet_is_reported_at_once_and_the_rest_after_five_seconds() {
    let mut aggregator = aggregator();
    let mut out = Vec::new();
    aggregator.record(&checked(flow(1)), 0, &mut out);
    assert_eq!(out.drain(..).map(|report| report.count).collect::<Vec<_>>(), [1]);
    aggregator.record(&checked(flow(20)), SECOND, &mut out);
    aggregator.record(&checked(flow(38)), 2 * SECOND, &mut out);
    aggregator.expire(4 * SECOND, &mut out);
    assert!(out.is_empty(), "the window is still open");
    assert_eq!(waiting(&aggregator), 37);
    aggregator.expire(5 * SECOND, &mut out);
    let report = out.pop().expect("an event");
    assert_eq!((report.count, report.first_ns, report.last_ns), (37, flow(1).last_ns, flow(38).last_ns));
    assert_eq!(aggregator.counts().aggregated, 2);
}

#[test]
fn a_flow_that_pauses_longer_than_its_window_is_reported_at_once_again() {
    let mut aggregator = aggregator();
    let mut out = Vec::new();
    aggregator.record(&checked(flow(1)), 0, &mut out);
    aggregator.expire(5 * SECOND, &mut out);
    aggregator.record(&checked(flow(4)), 6 * SECOND, &mut out);
    assert_eq!(out.iter().map(|report| report.count).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_sweep_reports_packets_without_a_record_and_a_late_record_adds_nothing() {
    let mut aggregator = aggregator();
    let mut out = Vec::new();
    aggregator.record(&checked(flow(1)), 0, &mut out);
    aggregator.sweep([entry(90, 1)], SECOND, &mut out);
    aggregator.record(&checked(flow(50)), SECOND, &mut out);
    aggregator.flush(&mut out);
    assert_eq!(out.iter().map(|report| report.count).collect::<Vec<_>>(), [1, 89]);
}

#[test]
fn an_entry_that_only_one_sweep_finds_is_ignored() {
    let mut aggregator = aggregator();
    let mut out = Vec::new();
    let torn = AggregateEntry { event: FlowEvent { first_ns: 5, ..flow(9000) }, ..AggregateEntry::default() };
    aggregator.sweep([torn, entry(3, 0)], 0, &mut out);
    aggregator.sweep([entry(3, 0)], SECOND, &mut out);
    aggregator.sweep([AggregateEntry { event: FlowEvent { first_ns: 6, ..flow(9000) }, ..torn }], SECOND, &mut out);
    aggregator.flush(&mut out);
    assert_eq!(out.iter().map(|report| report.count).sum::<u64>(), 3);
}

#[test]
fn packets_that_an_earlier_agent_reported_are_not_reported_again_after_a_restart() {
    let mut aggregator = Aggregator::new(BOUNDS, 2000 * SECOND);
    let mut out = Vec::new();
    let old = entry(500, 480);
    aggregator.sweep([old], 2000 * SECOND, &mut out);
    aggregator.sweep([old], 2002 * SECOND, &mut out);
    assert!(out.is_empty(), "entries stay in the table long after their flow ended");
    let mut event = flow(510);
    event.last_ns = 2003 * SECOND;
    aggregator.record(&checked(event), 2003 * SECOND, &mut out);
    aggregator.flush(&mut out);
    assert_eq!(out.iter().map(|report| report.count).sum::<u64>(), 10);
    assert_eq!(aggregator.counts().presumed_reported, 500);
}

#[test]
fn more_flows_than_windows_close_the_oldest_early_and_lose_nothing() {
    let mut aggregator = Aggregator::new(AggregatorBounds { windows: 4, seen: 100 }, 0);
    let mut out = Vec::new();
    for port in 1..=10_u16 {
        let event = |count| FlowEvent { destination_port: port, first_ns: u64::from(port), ..flow(count) };
        aggregator.record(&checked(event(1)), port.into(), &mut out);
        aggregator.record(&checked(event(8)), port.into(), &mut out);
    }
    assert!(aggregator.windows.len() <= 4);
    aggregator.flush(&mut out);
    assert_eq!(out.iter().map(|report| report.count).sum::<u64>(), 80);
}

/// One step of the kernel or of the agent.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Packets of a flow on a CPU; the last one sends a record, which may get lost.
    Packets { flow: u16, cpu: u32, count: u64, record: bool, lost: bool },
    /// Another flow takes its entry; packets without a report are counted as unreported.
    PushOut { flow: u16, cpu: u32 },
    /// The agent reads all records that wait.
    Drain,
    /// The agent sweeps.
    Sweep,
    /// Time passes.
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u16, 0..2_u32, 1..50_u64, any::<bool>(), any::<bool>())
            .prop_map(|(flow, cpu, count, record, lost)| Step::Packets { flow, cpu, count, record, lost }),
        1 => (0..6_u16, 0..2_u32).prop_map(|(flow, cpu)| Step::PushOut { flow, cpu }),
        3 => Just(Step::Drain),
        2 => Just(Step::Sweep),
        1 => Just(Step::Expire),
    ]
}

#[derive(Default)]
struct Kernel {
    now: u64,
    table: HashMap<(u16, u32), AggregateEntry>,
    ring: Vec<FlowEvent>,
    counted: u64,
    unreported: u64,
    /// Packets of replaced entries whose last record was lost.
    lost: u64,
    carried: HashMap<(u16, u32), u64>,
}

impl Kernel {
    fn packets(&mut self, key: (u16, u32), count: u64, record: bool, lost: bool) {
        self.now += SECOND;
        let fresh = FlowEvent { count: 0, first_ns: self.now, destination_port: key.0 + 1, cpu: key.1, ..flow(1) };
        let entry = self.table.entry(key).or_insert(AggregateEntry { event: fresh, ..AggregateEntry::default() });
        entry.event.count += count;
        entry.event.last_ns = self.now;
        self.counted += count;
        if record {
            entry.reported();
            if !lost {
                self.ring.push(entry.event);
                self.carried.insert(key, entry.event.count);
            }
        }
    }

    fn push_out(&mut self, key: (u16, u32)) {
        if let Some(entry) = self.table.remove(&key) {
            self.unreported += entry.unreported();
            self.lost += entry.sent_count - self.carried.remove(&key).unwrap_or(0);
        }
    }
}

proptest! {
    #[test]
    fn every_packet_the_kernel_counted_is_reported_or_accounted_for(
        steps in prop::collection::vec(step(), 0..200),
        windows in 1..8_usize,
        // Never less than the kernel's table holds: twelve entries here.
        seen in prop_oneof![12..40_usize, Just(1000)],
        started in prop_oneof![Just(0), 0..60 * SECOND],
    ) {
        let mut kernel = Kernel::default();
        let mut aggregator = Aggregator::new(AggregatorBounds { windows, seen }, started);
        let mut out = Vec::new();
        let pushed_out = steps.iter().any(|step| matches!(step, Step::PushOut { .. }));
        for step in steps {
            let now = kernel.now;
            match step {
                Step::Packets { flow, cpu, count, record, lost } => kernel.packets((flow, cpu), count, record, lost),
                Step::PushOut { flow, cpu } => kernel.push_out((flow, cpu)),
                Step::Drain => kernel.ring.drain(..).for_each(|sent| aggregator.record(&checked(sent), now, &mut out)),
                Step::Sweep => aggregator.sweep(kernel.table.values().copied(), now, &mut out),
                Step::Expire => aggregator.expire(now, &mut out),
            }
            prop_assert!(aggregator.windows.len() <= windows);
        }
        let now = kernel.now;
        kernel.ring.drain(..).for_each(|event| aggregator.record(&checked(event), now, &mut out));
        aggregator.sweep(kernel.table.values().copied(), now, &mut out);
        aggregator.sweep(kernel.table.values().copied(), now, &mut out);
        let reported = out.iter().map(|report| report.count).sum::<u64>() + waiting(&aggregator);
        let accounted = reported + aggregator.counts().presumed_reported + kernel.unreported + kernel.lost;
        prop_assert!(reported <= kernel.counted, "{reported} reported of {}: some twice", kernel.counted);
        prop_assert!(accounted >= kernel.counted, "{accounted} of {}", kernel.counted);
        if seen >= 1000 && started == 0 && !pushed_out {
            prop_assert_eq!(reported, kernel.counted, "lost records cost nothing while their flow is in the table");
        }
    }
}
