//! Turns snapshots into what health, metrics and status show, and logs each problem once.
//!
//! Knows the snapshot and no kernel. A problem that time alone may solve is reported after a while only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

use agent_common::guard::Guard;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use super::failures::FailureCounter;
use crate::clock::Clock;
use crate::dataplane::input_guard::TABLE;
use crate::events::history::History;
use crate::health::{
    NriState, Observed, ObservedEndpoints, ObservedGuards, ObservedTenants, ObservedUnprotected, SharedObserved,
};
use crate::metrics::Recorder;
use crate::metrics::recorder::Phase;
use crate::reconcile::Snapshot;
use crate::reconcile::snapshot::{EndpointCondition, EndpointView};
use policy::model::input::EndpointKey;
use policy::model::ranges::PodRangeGap;
use policy::model::unprotected::{UnprotectedCause, UnprotectedPod};

/// How often the health page is renewed without a new snapshot.
const PULSE: Duration = Duration::from_secs(2);
/// A problem that time may solve is reported after this time, because every new pod lacks something at first.
const PATIENCE: Duration = Duration::from_secs(10);

/// What this module shares with the sources of objects.
#[derive(Clone, Default)]
pub(super) struct SharedInputs {
    /// How many objects of a file cannot be understood now.
    pub findings: Arc<AtomicU64>,
    /// How many tenants of the cluster cannot be understood now.
    pub invalid_tenants: Arc<AtomicU64>,
    /// Signalled when pods are seen outside the known ranges.
    pub missing_ranges: Arc<Notify>,
}

impl SharedInputs {
    fn invalid(&self) -> u64 {
        self.findings.load(Relaxed) + self.invalid_tenants.load(Relaxed)
    }
}

/// What is shown beside the snapshot.
pub(super) struct WatcherInputs {
    /// What the sources of objects report, and are asked for.
    pub shared: SharedInputs,
    /// When the reconcile loop was last alive, in seconds since 1970; 0 before its first turn.
    pub last_turn: Arc<AtomicI64>,
    /// State of the connection to the container runtime.
    pub nri: watch::Receiver<NriState>,
}

/// Renews what is shown, and keeps the history of names.
pub(super) struct SnapshotWatcher {
    shared: SharedObserved,
    history: Arc<History<Snapshot>>,
    inputs: WatcherInputs,
    failures: FailureCounter,
    recorder: Arc<Recorder>,
    begun: Instant,
    /// Open problems, when they began, and whether they were logged.
    open: BTreeMap<String, (Instant, bool)>,
    ready_once: bool,
    /// Why the range of pods was unknown at the last look.
    gap: Option<PodRangeGap>,
}

impl SnapshotWatcher {
    /// Writes what is shown to `shared`, and snapshots to `history`.
    pub(super) fn new(
        shared: SharedObserved,
        history: Arc<History<Snapshot>>,
        inputs: WatcherInputs,
        recorder: Arc<Recorder>,
        begun: Instant,
    ) -> Self {
        Self {
            shared,
            history,
            inputs,
            failures: FailureCounter::default(),
            recorder,
            begun,
            open: BTreeMap::new(),
            ready_once: false,
            gap: None,
        }
    }

    /// Runs until the reconcile loop is gone.
    pub(super) async fn follow(mut self, mut latest: watch::Receiver<Arc<Snapshot>>) {
        loop {
            let snapshot = Arc::clone(&latest.borrow_and_update());
            self.show(&snapshot);
            tokio::select! {
                changed = latest.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(PULSE) => {}
            }
        }
    }

    fn show(&mut self, snapshot: &Arc<Snapshot>) {
        self.history.push(Arc::clone(snapshot), Clock::now().monotonic_ns);
        if self.gap != snapshot.pod_range_gap {
            self.gap.clone_from(&snapshot.pod_range_gap);
            if matches!(self.gap, Some(PodRangeGap::Strays { .. })) {
                self.inputs.shared.missing_ranges.notify_one();
            }
        }
        let pending = pending(snapshot);
        let mut problems = problems(snapshot);
        self.update_open(problems.iter().chain(&pending));
        let lasting = |problem: &String| self.open.get(problem).is_some_and(|(since, _)| since.elapsed() >= PATIENCE);
        problems.extend(pending.iter().filter(|problem| lasting(problem)).cloned());
        for problem in &problems {
            if let Some((_, said)) = self.open.get_mut(problem)
                && !std::mem::replace(said, true)
            {
                tracing::warn!("{problem}");
            }
        }
        if snapshot.ready && !self.ready_once {
            self.ready_once = true;
            self.recorder.started(Phase::Sync, self.begun.elapsed());
            tracing::info!(
                pods = snapshot.endpoints.len(),
                tenants = snapshot.tenants.len(),
                generation = snapshot.generation,
                "the kernel enforces the objects' policy"
            );
        }
        let nri = *self.inputs.nri.borrow();
        let invalid = self.inputs.shared.invalid();
        self.failures.count(snapshot, invalid, &self.recorder);
        let last_turn = Some(self.inputs.last_turn.load(Relaxed)).filter(|seconds| *seconds > 0);
        let last_turn = last_turn.and_then(|seconds| Timestamp::from_second(seconds).ok());
        self.shared.store(Arc::new(Observed { last_turn, ..observed(snapshot, nri, invalid, problems) }));
    }
}

impl SnapshotWatcher {
    /// Replaces the open problems by `problems`, and keeps when each began.
    fn update_open<'a>(&mut self, problems: impl Iterator<Item = &'a String>) {
        let now = Instant::now();
        let mut before = std::mem::take(&mut self.open);
        let open = problems.map(|problem| (problem.clone(), before.remove(problem).unwrap_or((now, false))));
        self.open = open.collect();
    }
}

fn observed(snapshot: &Snapshot, nri: NriState, invalid: u64, problems: Vec<String>) -> Observed {
    Observed {
        loaded: true,
        synced: snapshot.ready,
        audit: snapshot.settings.audit,
        revision: snapshot.generation,
        pending: snapshot.pending as u64,
        last_applied: snapshot.applied_at.and_then(|seconds| Timestamp::from_second(seconds).ok()),
        last_turn: None,
        tenants: tenants(snapshot, invalid),
        endpoints: endpoints(snapshot),
        unprotected: snapshot.unprotected.iter().map(unprotected).collect(),
        guards: guards(snapshot),
        displaced: snapshot.displaced.len() as u64,
        pod_range_gap: snapshot.pod_range_gap.as_ref().map(ToString::to_string),
        nri,
        problems,
    }
}

fn tenants(snapshot: &Snapshot, invalid: u64) -> ObservedTenants {
    let conflicted: BTreeSet<_> = snapshot.conflicts.iter().map(|conflict| &conflict.tenant).collect();
    let conflicted = conflicted.len() as u64;
    ObservedTenants { accepted: (snapshot.tenants.len() as u64).saturating_sub(conflicted), conflicted, invalid }
}

fn endpoints(snapshot: &Snapshot) -> ObservedEndpoints {
    let mut counts = ObservedEndpoints::default();
    for view in snapshot.endpoints.values() {
        match view.condition {
            EndpointCondition::Enforced => counts.enforced += 1,
            EndpointCondition::Audited => counts.audited += 1,
            EndpointCondition::Unassigned => counts.unassigned += 1,
            EndpointCondition::Shared => counts.shared += 1,
            EndpointCondition::Pending => counts.pending += 1,
            EndpointCondition::Denied => counts.denied += 1,
            EndpointCondition::Error => counts.error += 1,
        }
    }
    counts
}

fn unprotected(found: &UnprotectedPod) -> ObservedUnprotected {
    ObservedUnprotected {
        namespace: found.pod.namespace.clone(),
        name: found.pod.name.clone(),
        reason: found.reason.as_str().to_owned(),
        detail: found.detail.clone(),
        remedy: found.reason.remedy().to_owned(),
        makes_unready: found.reason.cause() == UnprotectedCause::Node,
    }
}

fn guards(snapshot: &Snapshot) -> ObservedGuards {
    let mut attached: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (guard, name) in snapshot.guards.interfaces.values() {
        attached.entry(guard.as_str().to_owned()).or_default().push(name.clone());
    }
    let groups = snapshot.guards.pods.as_ref().and_then(|guard| guard.parent.as_ref());
    if let Some(parent) = groups {
        attached.entry(Guard::Cgroup.as_str().to_owned()).or_default().push(parent.clone());
    }
    if snapshot.has_input_guard {
        attached.entry("input".to_owned()).or_default().push(format!("table inet {TABLE}"));
    }
    ObservedGuards { interfaces: attached, broken: snapshot.unguarded.len() as u64 }
}

/// The problems of local pods that time may solve.
fn pending(snapshot: &Snapshot) -> Vec<String> {
    let of_pod = |(key, view): (&EndpointKey, &EndpointView)| {
        let troubles = view.status.troubles.iter().filter(|trouble| trouble.is_pending());
        troubles.map(|trouble| format!("{}/{}: {trouble}", key.namespace, key.name)).collect::<Vec<_>>()
    };
    snapshot.endpoints.iter().flat_map(of_pod).collect()
}

fn problems(snapshot: &Snapshot) -> Vec<String> {
    let of_pods = snapshot.endpoints.iter().flat_map(|(key, view)| {
        let name = format!("{}/{}", key.namespace, key.name);
        let troubles = view.status.troubles.iter().filter(|trouble| !trouble.is_pending()).map(ToString::to_string);
        troubles.chain(view.error.clone()).map(move |trouble| format!("{name}: {trouble}")).collect::<Vec<_>>()
    });
    let conflicts =
        snapshot.conflicts.iter().map(|conflict| format!("tenant {}: {}", conflict.tenant, conflict.message));
    let overflows = snapshot.overflows.iter().map(ToString::to_string);
    let guards = snapshot.unguarded.iter().map(|why| format!("guard: {why}"));
    let displaced = snapshot.displaced.iter().map(ToString::to_string);
    let gaps = snapshot.guards.gaps.iter().cloned().chain(snapshot.pod_range_gap.as_ref().map(ToString::to_string));
    of_pods.chain(conflicts).chain(overflows).chain(guards).chain(displaced).chain(gaps).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::failures::tests::policy_errors;

    fn watcher(inputs: &SharedInputs, shown: &SharedObserved, counted: &Arc<Recorder>) -> SnapshotWatcher {
        let inputs = WatcherInputs {
            shared: inputs.clone(),
            last_turn: Arc::default(),
            nri: watch::channel(NriState::default()).1,
        };
        SnapshotWatcher::new(Arc::clone(shown), Arc::default(), inputs, Arc::clone(counted), Instant::now())
    }

    #[test]
    fn invalid_objects_are_shown_and_counted_as_build_errors() {
        let shared_inputs = SharedInputs::default();
        let (shown, counted) = (SharedObserved::default(), Arc::<Recorder>::default());
        let mut watcher = watcher(&shared_inputs, &shown, &counted);
        let mut after = |findings, tenants| {
            shared_inputs.findings.store(findings, Relaxed);
            shared_inputs.invalid_tenants.store(tenants, Relaxed);
            watcher.show(&Arc::default());
            (shown.load().tenants.invalid, policy_errors(&counted, "build"))
        };
        assert_eq!(after(0, 0), (0, Some(0)), "the control");
        assert_eq!(after(1, 2), (3, Some(3)), "of files and of the cluster");
        assert_eq!(after(1, 0), (1, Some(3)), "an object that is mended is no new error");
    }

    #[tokio::test(start_paused = true)]
    async fn each_new_pod_outside_the_ranges_asks_for_ranges_once() {
        let shared_inputs = SharedInputs::default();
        let mut watcher = watcher(&shared_inputs, &SharedObserved::default(), &Arc::default());
        let asked = || {
            let wait = tokio::time::timeout(Duration::from_secs(1), shared_inputs.missing_ranges.notified());
            futures_util::FutureExt::map(wait, |asked| asked.is_ok())
        };
        for (count, expected) in [(0, false), (1, true), (1, false), (2, true)] {
            let example = "10.9.0.1".parse().expect("an address");
            let gap = (count > 0).then_some(PodRangeGap::Strays { count, example });
            watcher.show(&Arc::new(Snapshot { pod_range_gap: gap, ..Snapshot::default() }));
            assert_eq!(asked().await, expected, "{count}");
        }
    }
}
