//! The stages of the event path in order: records in, lines out.
//!
//! Reads no clock, because time is an argument. Never waits for a sink. No change of the agent's state is held back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use agent_common::aggregate::AggregateEntry;
use agent_common::counters::Loss;
use agent_common::event::FlowEvent;
use agent_common::reason::DropReason;
use agent_common::tenant::TenantId;

use super::Sinks;
use super::aggregate::{Aggregator, AggregatorBounds, FlowReport};
use super::enrich::Enricher;
use super::labels::Label;
use super::limit::{Limiter, Rates};
use super::schema::{
    AgentStateChange, Body, EnforcementMode, Event, EventSeverity, ReasonCount, StageCount, StateEvent,
    SuppressedEvent, SuppressionWindow, TenantCount, UnprotectedRef,
};
use super::sink::{Line, Sink};
use super::stats::{EventStats, Stage};
use crate::clock::Clock;
use policy::model::unprotected::UnprotectedCause;

/// Time between two `suppressed` events, while events are held back.
const SUPPRESSED_NS: u64 = 10_000_000_000;
/// Reasons, and tenants, that a `suppressed` event lists at most.
const TOP: usize = 20;

/// A change of the agent's own state, to be reported as a `state` event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateNotice {
    /// What changed.
    pub state: AgentStateChange,
    /// Mode now in force, if the mode changed.
    pub mode: Option<EnforcementMode>,
    /// Tenant whose mode or pod it is, if the change concerns one tenant.
    pub tenant: Option<String>,
    /// The pod that is or was unprotected.
    pub unprotected: Option<UnprotectedRef>,
    /// Policy generation in the kernel.
    pub revision: Option<u64>,
    /// One sentence for people.
    pub message: String,
}

impl StateNotice {
    fn severity(&self) -> EventSeverity {
        let authors = |found: &UnprotectedRef| found.reason.0.cause() == UnprotectedCause::Author;
        match self.state {
            AgentStateChange::PodUnprotected if self.unprotected.as_ref().is_some_and(authors) => EventSeverity::High,
            AgentStateChange::EnforcementLost | AgentStateChange::PodUnprotected => EventSeverity::Critical,
            AgentStateChange::ModeChanged => EventSeverity::Medium,
            AgentStateChange::AgentStarted
            | AgentStateChange::AgentStopping
            | AgentStateChange::EnforcementRestored
            | AgentStateChange::PodProtected => EventSeverity::Info,
        }
    }
}

/// Records in, lines out.
pub(crate) struct Pipeline {
    aggregator: Aggregator,
    limiter: Limiter,
    enricher: Enricher,
    sinks: Sinks,
    stats: Arc<EventStats>,
    reports: Vec<FlowReport>,
    /// Event slots of pods that have sent records: the tenant, and how many records were held back.
    slots: HashMap<u16, LimitSlot>,
    kernel_held: BTreeMap<TenantId, u64>,
    window_ns: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct LimitSlot {
    tenant: TenantId,
    held_back: u64,
}

impl Pipeline {
    /// `held_before`: what the budget of each event slot had held back before this agent started.
    pub(crate) fn new(
        enricher: Enricher,
        sinks: Sinks,
        stats: Arc<EventStats>,
        (bounds, rates): (AggregatorBounds, Rates),
        held_before: impl IntoIterator<Item = (u16, u64)>,
        now: Clock,
    ) -> Self {
        let slots = held_before.into_iter().filter(|(_, held_back)| *held_back > 0);
        let mut pipeline = Self {
            aggregator: Aggregator::new(bounds, now.monotonic_ns),
            limiter: Limiter::new(rates, now.monotonic_ns),
            enricher,
            sinks,
            stats,
            reports: Vec::new(),
            slots: slots.map(|(slot, held_back)| (slot, LimitSlot { tenant: TenantId::UNKNOWN, held_back })).collect(),
            kernel_held: BTreeMap::new(),
            window_ns: now.monotonic_ns,
        };
        pipeline.enricher.set_clock_offset(now.offset_ns);
        pipeline
    }

    /// Takes one record from the ring buffer.
    pub(crate) fn record(&mut self, bytes: &[u8], now: Clock) {
        self.stats.received.add(1);
        let Some(record) = FlowEvent::decode(bytes) else {
            self.stats.lost(Stage::Decode).add(1);
            return;
        };
        self.slots.entry(record.event.slot).or_default().tenant = record.event.tenant;
        self.aggregator.record(&record, now.monotonic_ns, &mut self.reports);
        self.emit_reports(now);
    }

    /// Takes the entries of the aggregation tables.
    pub(crate) fn sweep(&mut self, entries: Vec<AggregateEntry>, now: Clock) {
        self.aggregator.sweep(entries, now.monotonic_ns, &mut self.reports);
        self.emit_reports(now);
    }

    /// Takes the kernel's counts of its losses.
    pub(crate) fn losses(&self, losses: [u64; Loss::LEN as usize]) {
        let lost = |loss: Loss| losses.get(loss as usize).copied().unwrap_or(0);
        self.stats.lost(Stage::RingBuffer).raise(lost(Loss::RingFull));
        self.stats.lost(Stage::AggregateTable).raise(lost(Loss::Unreported));
        self.stats.reply_evictions.raise(lost(Loss::ReplyEvicted));
        self.stats.pull_failures.raise(lost(Loss::Pull));
    }

    /// Event slots whose budgets are worth reading: those of pods that have sent records.
    pub(crate) fn slots(&self) -> Vec<u16> {
        self.slots.keys().copied().collect()
    }

    /// Takes what the budget of one event slot has held back so far.
    pub(crate) fn held_back(&mut self, slot: u16, count: u64) {
        let slot = self.slots.entry(slot).or_default();
        // A lower count means that the budget was reset.
        let more = if count >= slot.held_back { count - slot.held_back } else { count };
        slot.held_back = count;
        if more > 0 {
            self.stats.lost(Stage::PodLimit).add(more);
            *self.kernel_held.entry(slot.tenant).or_default() += more;
        }
    }

    /// Ends windows that are due, and reports what was held back.
    pub(crate) fn tick(&mut self, now: Clock) {
        self.enricher.set_clock_offset(now.offset_ns);
        self.aggregator.expire(now.monotonic_ns, &mut self.reports);
        self.emit_reports(now);
        if now.monotonic_ns.saturating_sub(self.window_ns) >= SUPPRESSED_NS {
            self.emit_suppressed(now);
        }
    }

    /// Reports a change of the agent's own state. No rate limit applies to it.
    pub(crate) fn notice(&self, notice: StateNotice, now: Clock) {
        let body = Body::State(StateEvent {
            severity: notice.severity(),
            cluster: self.enricher.cluster().map(Into::into),
            node: self.enricher.node().into(),
            state: notice.state,
            mode: notice.mode,
            tenant: notice.tenant.filter(|tenant| !tenant.is_empty()),
            unprotected: notice.unprotected,
            version: env!("CARGO_PKG_VERSION").into(),
            revision: notice.revision,
            message: notice.message,
        });
        self.emit(self.enricher.event(self.enricher.time(now.monotonic_ns), body));
    }

    /// Reports everything that waits, at the end.
    pub(crate) fn finish(&mut self, now: Clock) {
        self.aggregator.flush(&mut self.reports);
        self.emit_reports(now);
        self.emit_suppressed(now);
    }

    /// The sinks, for closing them.
    pub(crate) fn sinks(&self) -> Vec<Arc<dyn Sink>> {
        self.sinks.clone()
    }

    fn emit_reports(&mut self, now: Clock) {
        for report in std::mem::take(&mut self.reports) {
            if self.limiter.admit(&report, now.monotonic_ns) {
                self.emit(self.enricher.violation(&report));
            } else {
                self.stats.lost(Stage::RateLimit).add(1);
            }
        }
        let counts = self.aggregator.counts();
        self.stats.aggregated.raise(counts.aggregated);
        self.stats.presumed_reported.raise(counts.presumed_reported);
    }

    fn emit(&self, event: Event) {
        match Line::new(event) {
            Ok(line) => {
                let line = Arc::new(line);
                self.sinks.iter().for_each(|sink| sink.offer(&line));
            }
            Err(error) => {
                self.stats.lost(Stage::Sink).add(1);
                tracing::warn!(%error, "an event could not be encoded as JSON and is lost");
            }
        }
    }

    fn emit_suppressed(&mut self, now: Clock) {
        let start_ns = std::mem::replace(&mut self.window_ns, now.monotonic_ns);
        let (held, kernel_held) = (self.limiter.take_held(), std::mem::take(&mut self.kernel_held));
        let by_rate: u64 = held.values().map(|held| held.events).sum();
        let by_pod: u64 = kernel_held.values().sum();
        if by_rate + by_pod == 0 {
            return;
        }
        let packets = held.values().fold(0_u64, |sum, held| sum.saturating_add(held.packets));
        let mut reasons = BTreeMap::<DropReason, u64>::new();
        let mut tenants = BTreeMap::<TenantId, (u64, u64)>::new();
        for (tenant, held) in &held {
            held.reasons.iter().for_each(|(reason, count)| *reasons.entry(*reason).or_default() += count);
            *tenants.entry(*tenant).or_default() = (held.events, held.packets);
        }
        for (tenant, count) in kernel_held {
            tenants.entry(tenant).or_default().0 += count;
        }
        let stages =
            [(Stage::PodLimit, by_pod), (Stage::RateLimit, by_rate)].into_iter().filter(|(_, count)| *count > 0);
        let time = self.enricher.time(now.monotonic_ns);
        let body = Body::Suppressed(SuppressedEvent {
            severity: EventSeverity::Low,
            cluster: self.enricher.cluster().map(Into::into),
            node: self.enricher.node().into(),
            count: by_rate + by_pod,
            packets,
            window: SuppressionWindow { start: self.enricher.time(start_ns), end: time },
            stages: stages.map(|(stage, count)| StageCount { stage: stage.as_str().into(), count }).collect(),
            reasons: top(reasons).map(|(reason, count)| ReasonCount { reason: Label(reason), count }).collect(),
            tenants: top(tenants)
                .map(|(id, (count, packets))| TenantCount { tenant: self.enricher.tenant_name(id), count, packets })
                .collect(),
            message: format!(
                "rate limits held back {} events with {packets} packets; the packet counters are complete",
                by_rate + by_pod
            ),
        });
        self.emit(self.enricher.event(time, body));
    }
}

/// The largest first.
fn top<K: Ord, V: Ord + Copy>(counts: BTreeMap<K, V>) -> impl Iterator<Item = (K, V)> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter().take(TOP)
}

#[cfg(test)]
mod tests;
