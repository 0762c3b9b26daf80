//! Records in, lines out: one loud tenant, complete counts, and the agent's own state.
//!
//! Needs no kernel and no clock.

use std::sync::Mutex;

use zerocopy::IntoBytes as _;

use super::*;
use crate::events::fixtures::{FixtureNames, SECOND, flow};

#[derive(Default)]
struct Kept(Mutex<Vec<Event>>);

impl Sink for Kept {
    fn offer(&self, line: &Arc<Line>) {
        self.0.lock().expect("a lock").push(line.event.clone());
    }
}

struct Bench {
    kept: Arc<Kept>,
    stats: Arc<EventStats>,
    pipeline: Pipeline,
}

fn at(monotonic_ns: u64) -> Clock {
    Clock { monotonic_ns, offset_ns: 0 }
}

fn bench() -> Bench {
    let (kept, stats) = (Arc::new(Kept::default()), Arc::new(EventStats::default()));
    let enricher = Enricher::new("node".into(), None, Arc::new(FixtureNames));
    let settings = (AggregatorBounds { windows: 100_000, seen: 100_000 }, Rates::default());
    let sinks: Sinks = vec![kept.clone()];
    let pipeline = Pipeline::new(enricher, sinks, Arc::clone(&stats), settings, [(9, 7)], at(0));
    Bench { kept, stats, pipeline }
}

impl Bench {
    fn violations_of(&self, tenant: &str) -> u64 {
        let events = self.kept.0.lock().expect("a lock");
        let of = |event: &&Event| match &event.body {
            Body::Violation(violation) => violation.policy.tenant.as_deref() == Some(tenant),
            _ => false,
        };
        events.iter().filter(of).count() as u64
    }

    fn packets(&self) -> u64 {
        let events = self.kept.0.lock().expect("a lock");
        events
            .iter()
            .map(|event| match &event.body {
                Body::Violation(violation) => violation.count,
                Body::Suppressed(suppressed) => suppressed.packets,
                Body::State(_) => 0,
            })
            .sum()
    }

    fn suppressed(&self) -> Vec<SuppressedEvent> {
        let events = self.kept.0.lock().expect("a lock");
        let of = |event: &Event| match &event.body {
            Body::Suppressed(suppressed) => Some(suppressed.clone()),
            _ => None,
        };
        events.iter().filter_map(of).collect()
    }
}

/// A record of one flow for each `nth`.
fn record(tenant: u32, nth: u64, count: u64) -> FlowEvent {
    FlowEvent {
        tenant: TenantId(tenant),
        first_ns: nth + 1,
        last_ns: nth + 2,
        destination_port: 1 + (nth % 60_000) as u16,
        cookie: tenant + (nth / 60_000) as u32 * 1000,
        slot: tenant as u16,
        ..flow(count)
    }
}

#[test]
fn a_loud_tenant_cannot_hide_a_quiet_one_and_each_suppressed_event_is_counted() {
    let mut bench = bench();
    let mut sent = 0;
    for nth in 0..50_000_u64 {
        let now = at(nth * 400_000);
        bench.pipeline.record(record(1, nth, 2).as_bytes(), now);
        sent += 2;
        if nth % 1000 == 0 {
            bench.pipeline.record(record(2, nth, 3).as_bytes(), now);
            sent += 3;
            bench.pipeline.tick(now);
        }
    }
    bench.pipeline.finish(at(20 * SECOND));
    assert_eq!(bench.violations_of("globex"), 50, "every event of the quiet tenant");
    let loud = bench.violations_of("acme");
    assert!((2000..=2200).contains(&loud), "{loud} events in 20 s at 100/s and a burst");
    assert_eq!(bench.packets(), sent, "reported or counted as suppressed");
    let suppressed = bench.suppressed();
    let by_tenant: u64 = suppressed.iter().flat_map(|event| &event.tenants).map(|tenant| tenant.count).sum();
    assert!((2..=3).contains(&suppressed.len()), "one every ten seconds: {}", suppressed.len());
    assert_eq!(by_tenant, bench.stats.lost(Stage::RateLimit).get());
    assert!(suppressed.iter().all(|event| event.tenants[0].tenant.as_deref() == Some("acme")));
}

#[test]
fn records_are_counted_to_the_last_one() {
    let mut bench = bench();
    for nth in 0..5000_u64 {
        bench.pipeline.record(record(1 + (nth % 3) as u32, nth % 700, 1 + nth / 700).as_bytes(), at(nth * 1_000_000));
    }
    bench.pipeline.record(b"rubbish", at(5 * SECOND));
    bench.pipeline.tick(at(6 * SECOND));
    bench.pipeline.finish(at(20 * SECOND));
    assert_eq!((bench.stats.received.get(), bench.stats.lost(Stage::Decode).get()), (5001, 1));
    let sent_at_once = 5000 - bench.stats.aggregated.get();
    assert!(sent_at_once >= 700, "a flow's first record is no addition: {sent_at_once}");
    assert_eq!(bench.packets(), expected_packets());
}

/// The highest count of each flow of the test above.
fn expected_packets() -> u64 {
    let mut highest = std::collections::HashMap::new();
    for nth in 0..5000_u64 {
        highest.insert((nth % 3, nth % 700), 1 + nth / 700);
    }
    highest.values().sum()
}

#[test]
fn records_that_the_kernel_held_back_are_reported_once_by_tenant() {
    let mut bench = bench();
    bench.pipeline.record(record(1, 1, 1).as_bytes(), at(0));
    bench.pipeline.held_back(9, 7);
    bench.pipeline.held_back(1, 40);
    bench.pipeline.held_back(1, 60);
    bench.pipeline.held_back(1, 5);
    bench.pipeline.tick(at(10 * SECOND));
    bench.pipeline.tick(at(30 * SECOND));
    let suppressed = bench.suppressed();
    assert_eq!(suppressed.len(), 1, "nothing new, no event");
    assert_eq!((suppressed[0].count, suppressed[0].packets), (65, 0), "the last five are from after a reset");
    assert_eq!(suppressed[0].stages, [StageCount { stage: "pod_limit".into(), count: 65 }]);
    assert_eq!(suppressed[0].tenants[0].tenant.as_deref(), Some("acme"));
    assert_eq!(bench.stats.lost(Stage::PodLimit).get(), 65);
}

#[test]
fn lost_enforcement_is_critical() {
    let bench = bench();
    let notice = StateNotice {
        state: AgentStateChange::EnforcementLost,
        mode: None,
        tenant: Some(String::new()),
        unprotected: None,
        revision: Some(3),
        message: "acme-web/shop has no program".into(),
    };
    bench.pipeline.notice(notice, at(SECOND));
    let events = bench.kept.0.lock().expect("a lock");
    let json = serde_json::to_value(&events[0]).expect("JSON");
    assert_eq!((json["type"].as_str(), json["severity"].as_str()), (Some("state"), Some("critical")));
    assert!(json.get("tenant").is_none() && json.get("mode").is_none(), "absent means no key");
}

#[test]
fn the_kernels_losses_never_go_backwards() {
    let bench = bench();
    bench.pipeline.losses([5, 6, 0, 0]);
    bench.pipeline.losses([4, 8, 0, 0]);
    assert_eq!((bench.stats.lost(Stage::RingBuffer).get(), bench.stats.lost(Stage::AggregateTable).get()), (5, 8));
}
