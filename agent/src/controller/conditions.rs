//! Conditions of a NetworkTenant, in the form that `kubectl wait` understands.
//!
//! A transition time changes only with the condition's status, not with its reason or message. It answers "since when".
//! Knows no rule of the policy.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::state::TenantObject;
use crate::api::NetworkTenantStatus;

/// Longest message in bytes. A status is read in a terminal.
const LONGEST: usize = 1024;

/// One condition without a transition time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConditionFinding {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl ConditionFinding {
    /// The condition holds or does not hold.
    pub(crate) fn new(kind: &'static str, holds: bool, reason: &'static str, message: &str) -> Self {
        Self { kind, status: if holds { "True" } else { "False" }, reason, message: shortened(message) }
    }

    /// The condition cannot be evaluated.
    pub(crate) fn unknown(kind: &'static str, reason: &'static str, message: &str) -> Self {
        Self { status: "Unknown", ..Self::new(kind, false, reason, message) }
    }

    /// Whether the condition is as wanted. Only `Conflicted` should be false.
    fn is_good(&self) -> bool {
        self.status == if self.kind == "Conflicted" { "False" } else { "True" }
    }
}

/// The findings and the summary `Ready`, each with its transition time.
pub(crate) fn conditions(findings: [ConditionFinding; 3], object: &TenantObject, now: Timestamp) -> Vec<Condition> {
    let summary = match findings.iter().find(|finding| !finding.is_good()) {
        Some(failing) => ConditionFinding::new("Ready", false, failing.reason, &failing.message),
        None => ConditionFinding::new("Ready", true, "Ready", ""),
    };
    findings.into_iter().chain([summary]).map(|finding| condition(finding, object, now)).collect()
}

fn condition(finding: ConditionFinding, object: &TenantObject, now: Timestamp) -> Condition {
    let before = of_kind(&object.status, finding.kind).filter(|before| before.status == finding.status);
    // The API server stores whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Condition {
        type_: finding.kind.to_owned(),
        status: finding.status.to_owned(),
        reason: finding.reason.to_owned(),
        message: finding.message,
        observed_generation: object.generation,
        last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
    }
}

/// Whether `current` already contains `wanted`. Conditions of other controllers are ignored.
pub(crate) fn is_current(current: &NetworkTenantStatus, wanted: &NetworkTenantStatus) -> bool {
    let mut reduced = current.clone();
    reduced.conditions = wanted.conditions.iter().filter_map(|one| of_kind(current, &one.type_).cloned()).collect();
    reduced == *wanted
}

/// Conditions that deserve a Kubernetes Event: they are bad, and their status or message is new.
pub(crate) fn event_conditions<'a>(
    current: &'a NetworkTenantStatus,
    wanted: &'a NetworkTenantStatus,
) -> impl Iterator<Item = &'a Condition> {
    let is_new = |one: &&Condition| {
        let before = of_kind(current, &one.type_);
        before.is_none_or(|before| (&before.status, &before.message) != (&one.status, &one.message))
    };
    let is_bad = |one: &&Condition| one.status == if one.type_ == "Conflicted" { "True" } else { "False" };
    // `Ready` repeats the reason of another condition.
    wanted.conditions.iter().filter(|one| one.type_ != "Ready").filter(is_bad).filter(is_new)
}

/// The condition of a status with this type.
pub(crate) fn of_kind<'a>(status: &'a NetworkTenantStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

fn shortened(message: &str) -> String {
    if message.len() <= LONGEST {
        return message.to_owned();
    }
    let end = message.floor_char_boundary(LONGEST);
    format!("{}…", &message[..end])
}
