//! Turns readings into OpenMetrics text.
//!
//! Reads nothing itself, except the counters of the guards, through a trait. Decides no name: those are in `table`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agent_common::counters::{Counter, Outcome};
use agent_common::flow::Direction;
use agent_common::guard::Guard;
use agent_common::reason::DropReason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;

use super::BuildInfo;
use super::accounts::{Accounts, KernelCounters, MapUsage};
use super::process::Process;
use super::recorder::{LabelValues, Recorder, labels};
use super::table::{self, Metric};
use crate::events::stats::{EventStats, Stage};
use crate::health::{self, NriState, Observed};
use policy::model::unprotected::UnprotectedReason;

/// One reading.
#[derive(Clone, Copy, Debug, PartialEq)]
enum SampleValue {
    Count(u64),
    Seconds(f64),
    Integer(i64),
    Float(f64),
}

/// Readings by metric.
#[derive(Debug, Default)]
pub(crate) struct Samples(HashMap<&'static str, Vec<(LabelValues, SampleValue)>>);

impl Samples {
    fn add(&mut self, metric: &'static Metric, values: &[&str], value: SampleValue) {
        self.0.entry(metric.name).or_default().push((labels(metric, values), value));
    }

    fn count(&mut self, metric: &'static Metric, values: &[&str], value: u64) {
        self.add(metric, values, SampleValue::Count(value));
    }

    fn gauge(&mut self, metric: &'static Metric, values: &[&str], value: u64) {
        self.add(metric, values, SampleValue::Integer(i64::try_from(value).unwrap_or(i64::MAX)));
    }
}

/// Adds the packet counters.
pub(crate) fn packets(accounts: &Accounts, samples: &mut Samples) {
    let totals = accounts.totals();
    for outcome in Outcome::ALL {
        for direction in Direction::ALL {
            let of = totals.iter().filter(|((o, d, _), _)| (*o, *d) == (outcome, direction));
            let sum = of.fold(Counter::default(), |sum, (_, more)| Counter {
                packets: sum.packets + more.packets,
                bytes: sum.bytes + more.bytes,
            });
            let values = [outcome.as_str(), direction.as_str()];
            samples.count(&table::PACKETS, &values, sum.packets);
            samples.count(&table::PACKET_BYTES, &values, sum.bytes);
        }
    }
    for ((outcome, direction, reason), counter) in totals {
        let Some(reason) = reason else { continue };
        let values = [reason.as_str(), direction.as_str()];
        match outcome {
            Outcome::Allowed => {}
            Outcome::Dropped => {
                samples.count(&table::DROP_PACKETS, &values, counter.packets);
                samples.count(&table::DROP_BYTES, &values, counter.bytes);
            }
            Outcome::Audited => samples.count(&table::AUDIT_PACKETS, &values, counter.packets),
        }
    }
    for (tenant, cells) in accounts.tenants() {
        for ((outcome, direction, reason), packets) in cells {
            let Some(reason) = reason else { continue };
            let metric = match (outcome, direction) {
                (Outcome::Dropped, Direction::Egress) => &table::TENANT_DROP_PACKETS,
                (Outcome::Dropped, Direction::Ingress) => &table::TENANT_INGRESS_DROP_PACKETS,
                (Outcome::Audited, Direction::Egress) => &table::TENANT_AUDIT_PACKETS,
                _ => continue,
            };
            samples.count(metric, &[tenant, reason.as_str()], *packets);
        }
    }
}

/// Adds what the guards dropped. Reasons that never occurred are left out, except `not_ready`.
pub(crate) fn guards(counters: &dyn KernelCounters, samples: &mut Samples) {
    for guard in Guard::ALL {
        for reason in DropReason::ALL {
            let Ok(counter) = counters.guard_drops(guard, *reason) else { continue };
            if counter.packets > 0 || *reason == DropReason::NotReady {
                samples.count(&table::GUARD_DROP_PACKETS, &[guard.as_str(), reason.as_str()], counter.packets);
            }
        }
    }
    for (reason, packets) in counters.input_drops() {
        samples.count(&table::GUARD_DROP_PACKETS, &["input", reason], packets);
    }
}

/// Adds the usage of the maps.
pub(crate) fn maps(maps: &[MapUsage], memory: Vec<(&'static str, u64)>, samples: &mut Samples) {
    for map in maps {
        if let Some(entries) = map.entries {
            samples.gauge(&table::MAP_ENTRIES, &[&map.name], entries);
        }
        samples.gauge(&table::MAP_MAX_ENTRIES, &[&map.name], map.max_entries);
    }
    for (kind, bytes) in memory {
        samples.gauge(&table::MEMORY, &[kind], bytes);
    }
}

/// Adds the agent's state.
pub(crate) fn observed(observed: &Observed, samples: &mut Samples) {
    for (state, count) in observed.tenants.by_state() {
        samples.gauge(&table::TENANTS, &[state], count);
    }
    for (state, count) in observed.endpoints.by_state() {
        samples.gauge(&table::ENDPOINTS, &[state], count);
    }
    for reason in UnprotectedReason::ALL.map(UnprotectedReason::as_str) {
        let count = observed.unprotected.iter().filter(|pod| pod.reason == reason).count();
        samples.gauge(&table::UNPROTECTED, &[reason], count as u64);
    }
    if observed.nri != NriState::Off {
        samples.gauge(&table::NRI_CONNECTED, &[], u64::from(observed.nri == NriState::Connected));
    }
    samples.gauge(&table::POLICY_REVISION, &[], observed.revision);
    samples.gauge(&table::POLICY_PENDING, &[], u64::from(observed.pending > 0));
    if let Some(at) = observed.last_applied {
        samples.add(&table::POLICY_LAST_APPLIED, &[], SampleValue::Float(at.as_duration().as_secs_f64()));
    }
    for (mode, in_force) in [("enforce", !observed.audit), ("audit", observed.audit)] {
        samples.gauge(&table::ENFORCEMENT_MODE, &[mode], u64::from(in_force));
    }
    for guard in Guard::ALL {
        let interfaces = observed.guards.interfaces.get(guard.as_str()).map_or(0, Vec::len);
        samples.gauge(&table::GUARD_INTERFACES, &[guard.as_str()], interfaces as u64);
    }
    samples.gauge(&table::GUARD_BROKEN, &[], observed.guards.broken);
    samples.gauge(&table::POD_RANGE_KNOWN, &[], u64::from(observed.synced && observed.pod_range_gap.is_none()));
    samples.gauge(&table::AGENT_READY, &[], u64::from(health::not_ready(observed).is_empty()));
}

/// Adds the counts of the event path.
pub(crate) fn events(stats: &Arc<EventStats>, samples: &mut Samples) {
    samples.count(&table::EVENTS_RECEIVED, &[], stats.received.get());
    samples.count(&table::EVENTS_SUPPRESSED, &[], stats.aggregated.get());
    samples.count(&table::EVENTS_PRESUMED_PACKETS, &[], stats.presumed_reported.get());
    for stage in Stage::ALL {
        samples.count(&table::EVENTS_LOST, &[stage.as_str()], stats.lost(stage).get());
    }
    samples.count(&table::REPLY_EVICTIONS, &[], stats.reply_evictions.get());
    samples.count(&table::PROGRAM_ERRORS, &["packet_pull"], stats.pull_failures.get());
    for (sink, own) in stats.sinks() {
        samples.count(&table::EVENTS_EXPORTED, &[sink, "success"], own.taken.get());
        samples.count(&table::EVENTS_EXPORTED, &[sink, "error"], own.refused.get());
        samples.gauge(&table::EVENTS_QUEUE, &[sink], own.queued.load(Ordering::Relaxed));
        if own.last_ns.get() > 0 {
            samples.add(&table::EVENTS_LAST, &[sink], SampleValue::Float(own.last_ns.get() as f64 / 1e9));
        }
    }
}

/// Adds the versions.
pub(crate) fn build(build: &BuildInfo, samples: &mut Samples) {
    let values = [&build.version, &build.revision, &build.rustc, &build.kernel, &build.arch].map(String::as_str);
    samples.gauge(&table::BUILD_INFO, &values, 1);
}

/// Adds the process metrics.
pub(crate) fn process(process: &Process, samples: &mut Samples) {
    if let Some(seconds) = process.cpu_seconds {
        samples.add(&table::PROCESS_CPU, &[], SampleValue::Seconds(seconds));
    }
    let gauges = [
        (&table::PROCESS_FDS, process.open_fds),
        (&table::PROCESS_MAX_FDS, process.max_fds),
        (&table::PROCESS_VIRTUAL, process.virtual_bytes),
        (&table::PROCESS_RESIDENT, process.resident_bytes),
    ];
    for (metric, value) in gauges {
        value.into_iter().for_each(|value| samples.gauge(metric, &[], value));
    }
    if let Some(start) = process.start_seconds {
        samples.add(&table::PROCESS_START, &[], SampleValue::Float(start));
    }
}

/// The whole page as text.
pub(crate) fn text(samples: Samples, recorder: &Arc<Recorder>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(PageCollector { samples, recorder: Arc::clone(recorder) }));
    let mut text = String::with_capacity(32 * 1024);
    // Writing to a string does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct PageCollector {
    samples: Samples,
    recorder: Arc<Recorder>,
}

impl Collector for PageCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        for metric in table::ALL {
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
            for (labels, value) in self.samples.0.get(metric.name).into_iter().flatten() {
                let mut sample = family.encode_family(labels)?;
                match value {
                    SampleValue::Count(count) => {
                        prometheus_client::encoding::EncodeMetric::encode(&ConstCounter::new(*count), sample)?;
                    }
                    SampleValue::Seconds(seconds) => {
                        prometheus_client::encoding::EncodeMetric::encode(&ConstCounter::new(*seconds), sample)?;
                    }
                    SampleValue::Integer(integer) => sample.encode_gauge(integer)?,
                    SampleValue::Float(float) => sample.encode_gauge(float)?,
                }
            }
            self.recorder.encode(metric, family)?;
        }
        Ok(())
    }
}
