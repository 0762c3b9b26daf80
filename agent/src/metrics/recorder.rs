//! Metrics of what only the agent knows: attempts, durations, failures.
//!
//! The rest of the agent reports here as things happen. Reads no clock and no map.

use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::table::{self, Metric};
use policy::model::input::Subject;

/// Label names and values.
pub(crate) type LabelValues = Vec<(&'static str, String)>;

type CounterFamily = Family<LabelValues, Counter>;

/// A float gauge.
type SecondsGauge = Gauge<f64, std::sync::atomic::AtomicU64>;

/// The metrics that the agent updates itself. An update is cheap and never waits.
#[derive(Debug)]
pub(crate) struct Recorder {
    attach: CounterFamily,
    displacements: Counter,
    denied: Histogram,
    exposure: Histogram,
    nri_hold: Family<LabelValues, Histogram>,
    propagation: Family<LabelValues, Histogram>,
    policy_errors: CounterFamily,
    map_errors: CounterFamily,
    bootstrap: Family<LabelValues, SecondsGauge>,
    watch_synced: Family<LabelValues, Gauge>,
    watch_errors: CounterFamily,
    watch_last: Family<LabelValues, SecondsGauge>,
}

/// How the hold of a sandbox ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Its interface is enforced.
    Enforced,
    /// The time limit passed before that.
    TimedOut,
}

/// The stage at which a policy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PolicyStage {
    /// An object could not be understood.
    Build,
    /// An entry could not be written.
    Apply,
    /// An entry could not be removed.
    Prune,
}

/// A phase of the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::missing_docs_in_private_items, reason = "the names are the documentation")]
pub(crate) enum Phase {
    Load,
    Sync,
}

impl Default for Recorder {
    fn default() -> Self {
        let recorder = Self {
            attach: Family::default(),
            displacements: Counter::default(),
            denied: exposure_histogram(),
            exposure: exposure_histogram(),
            nri_hold: Family::new_with_constructor(hold_histogram),
            propagation: Family::new_with_constructor(propagation_histogram),
            policy_errors: Family::default(),
            map_errors: Family::default(),
            bootstrap: Family::default(),
            watch_synced: Family::default(),
            watch_errors: Family::default(),
            watch_last: Family::default(),
        };
        // These counters exist from the start, so that an alert sees their first increase.
        for result in ["success", "error"] {
            recorder.attach.get_or_create(&labels(&table::ENDPOINT_ATTACH, &[result])).inc_by(0);
        }
        for stage in [PolicyStage::Build, PolicyStage::Apply, PolicyStage::Prune] {
            recorder.policy_errors.get_or_create(&labels(&table::POLICY_ERRORS, &[stage.as_str()])).inc_by(0);
        }
        recorder
    }
}

/// Buckets from a millisecond to half a minute, finest around the goal of 20 ms.
fn exposure_histogram() -> Histogram {
    Histogram::new([0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0])
}

/// Buckets from a millisecond to the longest hold.
fn hold_histogram() -> Histogram {
    Histogram::new([0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
}

/// Buckets from a tenth of a millisecond to ten seconds.
fn propagation_histogram() -> Histogram {
    Histogram::new([0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0])
}

impl Recorder {
    /// Counts an attempt to attach to a pod interface.
    pub(crate) fn attached(&self, success: bool) {
        let result = if success { "success" } else { "error" };
        self.attach.get_or_create(&labels(&table::ENDPOINT_ATTACH, &[result])).inc();
    }

    /// Counts programs of others that were found before ours.
    pub(crate) fn displaced(&self, count: u64) {
        self.displacements.inc_by(count);
    }

    /// Records the time from the first sight of a pod interface until every packet from it is denied.
    pub(crate) fn denied(&self, time: Duration) {
        self.denied.observe(time.as_secs_f64());
    }

    /// Records the time from the first sight of a pod interface until its policy is enforced.
    pub(crate) fn exposed(&self, time: Duration) {
        self.exposure.observe(time.as_secs_f64());
    }

    /// Records how long a sandbox was held.
    pub(crate) fn held(&self, hold: Hold, time: Duration) {
        self.nri_hold.get_or_create(&labels(&table::NRI_HOLD, &[hold.as_str()])).observe(time.as_secs_f64());
    }

    /// Records the time from a change until the maps hold it.
    pub(crate) fn propagated(&self, source: Subject, time: Duration) {
        let labels = labels(&table::POLICY_PROPAGATION, &[source.as_str()]);
        self.propagation.get_or_create(&labels).observe(time.as_secs_f64());
    }

    /// Counts failures to build or apply a policy.
    pub(crate) fn policy_errors(&self, stage: PolicyStage, count: u64) {
        self.policy_errors.get_or_create(&labels(&table::POLICY_ERRORS, &[stage.as_str()])).inc_by(count);
    }

    /// Counts failed operations on a map.
    pub(crate) fn map_errors(&self, map: &str, operation: &str, count: u64) {
        self.map_errors.get_or_create(&labels(&table::MAP_ERRORS, &[map, operation])).inc_by(count);
    }

    /// Records the time from the start of the agent to the end of a phase.
    pub(crate) fn started(&self, phase: Phase, time: Duration) {
        self.bootstrap.get_or_create(&labels(&table::BOOTSTRAP, &[phase.as_str()])).set(time.as_secs_f64());
    }

    /// Records whether every watch of a resource is established and complete.
    pub(crate) fn watch_synced(&self, resource: &str, synced: bool) {
        self.watch_synced.get_or_create(&labels(&table::WATCH_SYNCED, &[resource])).set(i64::from(synced));
        self.watch_errors.get_or_create(&labels(&table::WATCH_ERRORS, &[resource])).inc_by(0);
    }

    /// Counts a failure of a watch, or an object that could not be read.
    pub(crate) fn watch_error(&self, resource: &str) {
        self.watch_errors.get_or_create(&labels(&table::WATCH_ERRORS, &[resource])).inc();
    }

    /// Records the Unix time at which a watch received an object or a bookmark.
    pub(crate) fn watch_event(&self, resource: &str, at: f64) {
        self.watch_last.get_or_create(&labels(&table::WATCH_LAST_EVENT, &[resource])).set(at);
    }

    /// Writes the samples of a metric that is kept here; false if it is not.
    pub(super) fn encode(&self, metric: &Metric, encoder: MetricEncoder) -> Result<bool, std::fmt::Error> {
        let kept: [(&Metric, &dyn EncodeMetric); 12] = [
            (&table::ENDPOINT_ATTACH, &self.attach),
            (&table::DISPLACEMENTS, &self.displacements),
            (&table::ENDPOINT_DENIED, &self.denied),
            (&table::ENDPOINT_EXPOSURE, &self.exposure),
            (&table::NRI_HOLD, &self.nri_hold),
            (&table::POLICY_PROPAGATION, &self.propagation),
            (&table::POLICY_ERRORS, &self.policy_errors),
            (&table::MAP_ERRORS, &self.map_errors),
            (&table::BOOTSTRAP, &self.bootstrap),
            (&table::WATCH_SYNCED, &self.watch_synced),
            (&table::WATCH_ERRORS, &self.watch_errors),
            (&table::WATCH_LAST_EVENT, &self.watch_last),
        ];
        match kept.into_iter().find(|(kept, _)| kept.name == metric.name) {
            Some((_, values)) => values.encode(encoder).map(|()| true),
            None => Ok(false),
        }
    }
}

impl Hold {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::TimedOut => "timed_out",
        }
    }
}

impl PolicyStage {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Apply => "apply",
            Self::Prune => "prune",
        }
    }
}

impl Phase {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Sync => "sync",
        }
    }
}

/// The labels of a metric with these values.
pub(super) fn labels(metric: &Metric, values: &[&str]) -> LabelValues {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    metric.labels.iter().copied().zip(values.iter().map(|value| (*value).to_owned())).collect()
}
