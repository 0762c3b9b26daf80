//! Counts failed operations of the reconcile loop in the metrics.
//!
//! Knows cumulative counts of snapshots. A snapshot that was skipped loses nothing, because the next one includes its
//! failures.

use std::collections::BTreeMap;

use crate::metrics::Recorder;
use crate::metrics::recorder::PolicyStage;
use crate::reconcile::Snapshot;
use policy::plan::Table;

/// What was counted already.
#[derive(Debug, Default)]
pub(super) struct FailureCounter {
    operations: BTreeMap<(Table, &'static str), u64>,
    attach_failures: u64,
    displacements: u64,
    invalid: u64,
}

impl FailureCounter {
    /// Counts what failed since the last call; `invalid` is how many objects cannot be understood now.
    pub(super) fn count(&mut self, snapshot: &Snapshot, invalid: u64, recorder: &Recorder) {
        for (&(table, operation), &total) in &snapshot.failures {
            let counted = self.operations.insert((table, operation), total).unwrap_or(0);
            let new = total.saturating_sub(counted);
            recorder.map_errors(table.as_str(), operation, new);
            match operation {
                "write" | "full" => recorder.policy_errors(PolicyStage::Apply, new),
                "remove" => recorder.policy_errors(PolicyStage::Prune, new),
                _ => {}
            }
        }
        recorder.policy_errors(PolicyStage::Apply, snapshot.attach_failures.saturating_sub(self.attach_failures));
        recorder.policy_errors(PolicyStage::Build, invalid.saturating_sub(self.invalid));
        recorder.displaced(snapshot.displacements.saturating_sub(self.displacements));
        self.displacements = snapshot.displacements;
        (self.attach_failures, self.invalid) = (snapshot.attach_failures, invalid);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use agent_common::counters::Counter;
    use agent_common::guard::Guard;
    use agent_common::reason::DropReason;
    use policy::model::input::{Change, Tenant};
    use policy::model::settings::Settings;
    use policy::model::testing::{link, local, namespace, nothing, remote, tenant};
    use policy::plan::Op;

    use super::*;
    use crate::dataplane::mem_dataplane::MemDataplane;
    use crate::dataplane::{Displacement, Port};
    use crate::health::Observed;
    use crate::metrics::{KernelCounters, MapUsage, Metrics, SlotCounters};
    use crate::reconcile::{Now, ReconcileState, step};

    struct NoCounters;

    impl KernelCounters for NoCounters {
        fn owners(&self) -> Vec<(u16, String)> {
            Vec::new()
        }

        fn slot(&self, _: u16) -> io::Result<SlotCounters> {
            Ok(SlotCounters::default())
        }

        fn input_drops(&self) -> Vec<(&'static str, u64)> {
            Vec::new()
        }
        fn guard_drops(&self, _: Guard, _: DropReason) -> io::Result<Counter> {
            Ok(Counter::default())
        }

        fn maps(&self) -> Vec<MapUsage> {
            Vec::new()
        }

        fn memory(&self) -> Vec<(&'static str, u64)> {
            Vec::new()
        }
    }

    /// A loop over tables in memory, and the metrics that count its failures.
    struct CountedLoop {
        state: ReconcileState,
        kernel: MemDataplane,
        now: Now,
        counter: FailureCounter,
        recorder: Arc<Recorder>,
    }

    impl CountedLoop {
        fn new() -> Self {
            let mut kernel = MemDataplane::default();
            let state = ReconcileState::start(&mut kernel, Settings::default()).expect("empty tables");
            let (counter, recorder) = (FailureCounter::default(), Arc::default());
            let mut counted = Self { state, kernel, now: Now::default(), counter, recorder };
            counted.step(nothing());
            counted
        }

        fn step(&mut self, changes: Vec<Change>) {
            self.now.tick += Duration::from_secs(30);
            step(&mut self.state, &mut self.kernel, changes, self.now);
            self.counter.count(self.state.snapshot(), 0, &self.recorder);
        }

        fn policy_errors(&self, stage: &str) -> Option<u64> {
            policy_errors(&self.recorder, stage)
        }

        fn map_errors(&self, map: &str, operation: &str) -> Option<u64> {
            let name = format!("bulkhead_bpf_map_errors_total{{map=\"{map}\",operation=\"{operation}\"}}");
            sample(&self.recorder, &name)
        }
    }

    /// The policy errors of a stage, as the page shows them.
    pub(in crate::run) fn policy_errors(recorder: &Arc<Recorder>, stage: &str) -> Option<u64> {
        sample(recorder, &format!("bulkhead_policy_errors_total{{stage=\"{stage}\"}}"))
    }

    /// The value of a sample on the page.
    fn sample(recorder: &Arc<Recorder>, name: &str) -> Option<u64> {
        let metrics = Metrics::new(Box::new(NoCounters), Arc::clone(recorder), Arc::default(), 1);
        let page = metrics.scrape(&Observed::default());
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.parse().ok()
    }

    #[test]
    fn a_write_that_fails_is_counted_once_as_an_apply_error() {
        let mut counted = CountedLoop::new();
        counted.kernel.fail_tables = [Table::Tenants].into();
        counted.step(vec![
            Change::Tenants(vec![tenant("acme")]),
            Change::Namespaces(vec![namespace("web", "acme")]),
            Change::Endpoints(vec![local("web/a", &["10.0.0.1"], "veth7")]),
            Change::Links(vec![link(7, "veth7")]),
        ]);
        assert_eq!((counted.map_errors("tenants", "write"), counted.policy_errors("apply")), (Some(1), Some(1)));
        counted.kernel.fail_tables.clear();
        counted.step(vec![]);
        assert_eq!((counted.map_errors("tenants", "write"), counted.policy_errors("apply")), (Some(1), Some(1)));
    }

    #[test]
    fn a_removal_that_fails_is_a_prune_error() {
        let mut counted = CountedLoop::new();
        counted.step(vec![Change::Endpoint(remote("web/a", &["10.0.0.1"]))]);
        counted.kernel.fail_tables = [Table::PeersV4].into();
        counted
            .step(vec![Change::EndpointGone { key: policy::model::testing::key("web/a"), uid: "uid of web/a".into() }]);
        assert!(counted.kernel.log.iter().any(|op| matches!(op, Op::PeerV4(_, None))), "{:?}", counted.kernel.log);
        assert_eq!((counted.map_errors("peers_v4", "remove"), counted.policy_errors("prune")), (Some(1), Some(1)));
    }

    #[test]
    fn an_interface_that_cannot_be_attached_is_an_apply_error() {
        let mut counted = CountedLoop::new();
        counted.kernel.fail_ports = [7].into();
        counted.step(vec![
            Change::Endpoints(vec![local("web/a", &["10.0.0.1"], "veth7")]),
            Change::Links(vec![link(7, "veth7")]),
        ]);
        assert_eq!(counted.policy_errors("apply"), Some(1));
    }

    #[test]
    fn a_program_before_ours_is_counted_each_time() {
        let mut counted = CountedLoop::new();
        for expected in [1, 2] {
            let port = Port { ifindex: 7, name: "veth7".into() };
            counted.kernel.displaced = vec![Displacement { port, program: "to_pod", other: "program 42".into() }];
            counted.step(vec![]);
            counted.step(vec![]);
            assert_eq!(sample(&counted.recorder, "bulkhead_displacements_total"), Some(expected));
        }
    }

    #[test]
    fn an_object_that_cannot_be_understood_is_a_build_error() {
        let mut counted = CountedLoop::new();
        for invalid in [1, 1, 0, 2] {
            counted.counter.count(counted.state.snapshot(), invalid, &counted.recorder);
        }
        assert_eq!(counted.policy_errors("build"), Some(3));
    }

    #[test]
    fn an_entry_that_another_process_changed_is_counted_as_drift_and_repaired() {
        let mut counted = CountedLoop::new();
        let shared = Tenant { shared: true, ..tenant("acme") };
        counted.step(vec![Change::Tenants(vec![shared]), Change::Namespaces(vec![namespace("web", "acme")])]);
        counted.step(vec![Change::Endpoint(remote("web/a", &["10.0.0.1"]))]);
        let before = counted.kernel.actual.peers_v4.clone();
        counted.kernel.actual.peers_v4.clear();
        for _ in Table::ALL {
            counted.step(vec![]);
        }
        assert_eq!(counted.kernel.actual.peers_v4, before);
        assert_eq!(counted.map_errors("peers_v4", "drift"), Some(before.len() as u64));
    }
}
