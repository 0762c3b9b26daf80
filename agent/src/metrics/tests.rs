//! The page as Prometheus reads it.
//!
//! A small parser checks the grammar and the names. Needs no kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use agent_common::counters::Counter;
use agent_common::guard::Guard;
use agent_common::reason::DropReason;

use super::recorder::{Phase, PolicyStage};
use super::*;
use crate::events::stats::Stage;
use crate::health::ObservedUnprotected;
use policy::model::input::Subject;
use policy::model::unprotected::UnprotectedReason;

struct Maps;

impl KernelCounters for Maps {
    fn owners(&self) -> Vec<(u16, String)> {
        vec![(1, "acme".into()), (2, "we\"ird\nname\\".into())]
    }

    fn slot(&self, slot: u16) -> io::Result<SlotCounters> {
        let mut counters = SlotCounters::default();
        if slot < 3 {
            counters.allowed[0] = Counter { packets: 10, bytes: 1000 };
            counters.denied[0][0][1] = Counter { packets: 3, bytes: 180 };
            counters.denied[0][1][12] = Counter { packets: 1, bytes: 60 };
            counters.denied[1][0][24] = Counter { packets: 1, bytes: 60 };
            counters.denied[1][1][2] = Counter { packets: 2, bytes: 120 };
        }
        Ok(counters)
    }

    fn input_drops(&self) -> Vec<(&'static str, u64)> {
        vec![("node", 3), ("tunnel", 0)]
    }
    fn guard_drops(&self, guard: Guard, reason: DropReason) -> io::Result<Counter> {
        let packets = u64::from(guard == Guard::Uplink && reason == DropReason::NotReady) * 5;
        Ok(Counter { packets, bytes: packets * 60 })
    }

    fn maps(&self) -> Vec<MapUsage> {
        vec![MapUsage { name: "PEERS_V4".into(), entries: Some(4), max_entries: 1 << 20 }]
    }

    fn memory(&self) -> Vec<(&'static str, u64)> {
        vec![("maps", 4096), ("programs", 8192)]
    }
}

fn page() -> String {
    let (recorder, events) = (Arc::new(Recorder::default()), Arc::new(EventStats::default()));
    recorder.attached(true);
    recorder.exposed(Duration::from_millis(3));
    recorder.propagated(Subject::Tenant, Duration::from_micros(700));
    recorder.policy_errors(PolicyStage::Apply, 1);
    recorder.map_errors("PEERS_V4", "update", 1);
    recorder.watch_synced("pods", true);
    recorder.watch_error("pods");
    recorder.watch_event("pods", 1_795_288_946.25);
    recorder.started(Phase::Load, Duration::from_millis(120));
    events.lost(Stage::RateLimit).add(5);
    events.sink("stdout").last_ns.raise(1_795_288_946_000_000_000);
    let nri = crate::health::NriState::Connected;
    let observed =
        Observed { nri, last_applied: jiff::Timestamp::from_second(1_795_288_946).ok(), ..Observed::default() };
    let metrics = Metrics::new(Box::new(Maps), recorder, events, 200);
    assert_eq!(metrics.settle(), Totals { dropped: 12, audited: 9 });
    metrics.scrape(&observed)
}

/// Families with their type and help, and samples: the part of the OpenMetrics grammar that we use.
struct Parsed {
    families: BTreeMap<String, (String, String)>,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

fn parse(page: &str) -> Parsed {
    let mut parsed = Parsed { families: BTreeMap::new(), samples: Vec::new() };
    let body = page.strip_suffix("# EOF\n").expect("ends with # EOF");
    let mut current = String::new();
    for line in body.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, help] => {
                current = (*name).to_owned();
                let twice = parsed.families.insert(current.clone(), (String::new(), (*help).to_owned()));
                assert!(twice.is_none(), "{name} twice");
            }
            ["#", "TYPE", name, kind] => {
                assert_eq!(*name, current);
                parsed.families.get_mut(&current).expect("HELP first").0 = (*kind).to_owned();
            }
            _ => {
                let (name, labels, value) = sample(line);
                assert!(name.starts_with(&current), "{line} is below {current}");
                parsed.samples.push((name, labels, value));
            }
        }
    }
    parsed
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let end = line.find(['{', ' ']).expect("a name");
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, quoted) = rest.trim_start_matches(',').split_once("=\"").expect("a label");
            let mut value = String::new();
            let mut letters = quoted.char_indices();
            loop {
                match letters.next().expect("a closing quote") {
                    (_, '\\') => value.push(match letters.next().expect("an escape").1 {
                        'n' => '\n',
                        other => other,
                    }),
                    (at, '"') => {
                        rest = &quoted[at + 1..];
                        break;
                    }
                    (_, letter) => value.push(letter),
                }
            }
            assert!(labels.insert(key.to_owned(), value).is_none(), "{key} twice in {line}");
        }
        rest = &rest[1..];
    }
    (name.to_owned(), labels, rest.trim().parse().expect(line))
}

#[test]
fn the_page_is_openmetrics_and_every_family_has_type_and_help() {
    let parsed = parse(&page());
    assert_eq!(parsed.families.len(), table::ALL.len());
    for metric in table::ALL {
        let (kind, help) = &parsed.families[metric.name];
        assert!(!kind.is_empty() && help.ends_with('.'), "{}: {help}", metric.name);
        let of = parsed.samples.iter().filter(|(name, ..)| name.strip_suffix("_total").unwrap_or(name) == metric.name);
        if kind == "counter" {
            assert!(of.clone().all(|(name, ..)| name.ends_with("_total")), "{}", metric.name);
        }
        // There is no watch if objects come from a file.
        let may_be_empty = kind == "histogram" || metric.name.starts_with("bulkhead_kube_watch_");
        assert!(may_be_empty || of.count() > 0, "{} has no sample", metric.name);
    }
}

#[test]
fn no_sample_appears_twice_and_labels_are_those_of_the_table() {
    let parsed = parse(&page());
    let mut seen = BTreeSet::new();
    for (name, labels, _) in &parsed.samples {
        assert!(seen.insert((name.clone(), labels.clone())), "{name} {labels:?} twice");
        let metric =
            table::ALL.iter().filter(|metric| name.starts_with(metric.name)).max_by_key(|metric| metric.name.len());
        let expected: BTreeSet<_> = metric.expect(name).labels.iter().copied().collect();
        let found: BTreeSet<_> = labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn no_label_names_a_pod_an_address_a_port_or_a_node() {
    let forbidden = ["pod", "ip", "address", "port", "node", "namespace", "uid", "container", "interface"];
    for metric in table::ALL {
        for label in metric.labels {
            assert!(
                !forbidden.iter().any(|word| label.split('_').any(|part| part == *word)),
                "{}: {label}",
                metric.name
            );
        }
    }
}

#[test]
fn names_have_a_known_prefix_and_a_base_unit() {
    for metric in table::ALL {
        assert!(metric.name.starts_with("bulkhead_") || metric.name.starts_with("process_"), "{}", metric.name);
        assert!(!metric.name.ends_with("_total") && !metric.name.contains("_ms"), "{}", metric.name);
    }
}

#[test]
fn packet_counters_come_from_the_kernel_and_special_characters_are_escaped() {
    let parsed = parse(&page());
    let value = |name: &str, wanted: &[(&str, &str)]| {
        let of = parsed.samples.iter().find(|(found, labels, _)| {
            found == name && wanted.iter().all(|(key, value)| labels.get(*key).is_some_and(|found| found == value))
        });
        of.map(|(.., value)| *value)
    };
    assert_eq!(value("bulkhead_packets_total", &[("verdict", "allowed"), ("direction", "egress")]), Some(30.0));
    assert_eq!(value("bulkhead_drop_packets_total", &[("reason", "cross_tenant")]), Some(9.0));
    assert_eq!(value("bulkhead_drop_bytes_total", &[("reason", "cross_tenant")]), Some(540.0));
    assert_eq!(value("bulkhead_audit_packets_total", &[("direction", "ingress")]), Some(6.0));
    assert_eq!(value("bulkhead_tenant_drop_packets_total", &[("source_tenant", "we\"ird\nname\\")]), Some(3.0));
    assert_eq!(value("bulkhead_tenant_drop_packets_total", &[("source_tenant", "other")]), Some(3.0));
    assert_eq!(value("bulkhead_guard_drop_packets_total", &[("guard", "uplink")]), Some(5.0));
    assert_eq!(value("bulkhead_guard_drop_packets_total", &[("guard", "input"), ("reason", "node")]), Some(3.0));
    assert_eq!(value("bulkhead_agent_ready", &[]), Some(0.0));
    assert_eq!(value("bulkhead_events_lost_total", &[("stage", "rate_limit")]), Some(5.0));
    assert_eq!(value("bulkhead_endpoint_exposure_seconds_count", &[]), Some(1.0));
}

#[test]
fn every_reason_of_unprotected_pods_has_a_value() {
    let pod = |reason: &str| ObservedUnprotected { reason: reason.into(), ..ObservedUnprotected::default() };
    let observed = Observed { unprotected: vec![pod("no_pair"), pod("no_pair")], ..Observed::default() };
    let mut samples = scrape::Samples::default();
    scrape::observed(&observed, &mut samples);
    let page = scrape::text(samples, &Arc::default());
    let value = |reason: &str| {
        let start = format!("bulkhead_unprotected_pods{{reason=\"{reason}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
    };
    for reason in UnprotectedReason::ALL.map(UnprotectedReason::as_str) {
        assert_eq!(value(reason).as_deref(), Some(if reason == "no_pair" { "2" } else { "0" }), "{reason}");
    }
}
