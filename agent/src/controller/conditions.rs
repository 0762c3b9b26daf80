//! Conditions: what is found, in the form Kubernetes' tools wait for.
//!
//! A transition time moves only when the status does, whatever became of reason and message: it answers "since when".

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::world::Written;
use crate::api::NetworkTenantStatus;

/// Longest message; a status is read in a terminal.
const LONGEST: usize = 1024;

/// One condition before it has a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Finding {
    /// It is so, or it is not.
    pub fn new(kind: &'static str, holds: bool, reason: &'static str, message: &str) -> Self {
        Self { kind, status: if holds { "True" } else { "False" }, reason, message: shortened(message) }
    }

    /// Nobody can say.
    pub fn unknown(kind: &'static str, reason: &'static str, message: &str) -> Self {
        Self { status: "Unknown", ..Self::new(kind, false, reason, message) }
    }

    /// Whether it is as one would wish: only `Conflicted` is better false.
    fn is_good(&self) -> bool {
        self.status == if self.kind == "Conflicted" { "False" } else { "True" }
    }
}

/// The findings and their summary, with the times at which each became what it is.
pub fn conditions(findings: [Finding; 3], written: &Written, now: Timestamp) -> Vec<Condition> {
    let summary = match findings.iter().find(|finding| !finding.is_good()) {
        Some(failing) => Finding::new("Ready", false, failing.reason, &failing.message),
        None => Finding::new("Ready", true, "Ready", ""),
    };
    findings.into_iter().chain([summary]).map(|finding| condition(finding, written, now)).collect()
}

fn condition(finding: Finding, written: &Written, now: Timestamp) -> Condition {
    let before = of_kind(&written.status, finding.kind).filter(|before| before.status == finding.status);
    // The API server keeps whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Condition {
        type_: finding.kind.to_owned(),
        status: finding.status.to_owned(),
        reason: finding.reason.to_owned(),
        message: finding.message,
        observed_generation: written.generation,
        last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
    }
}

/// Whether `current` says all of `wanted`; conditions of others are none of our business.
pub fn says_already(current: &NetworkTenantStatus, wanted: &NetworkTenantStatus) -> bool {
    let mut ours = current.clone();
    ours.conditions = wanted.conditions.iter().filter_map(|one| of_kind(current, &one.type_).cloned()).collect();
    ours == *wanted
}

/// What a person should hear of: conditions that are bad, and were not, or for another reason.
pub fn worth_an_event<'a>(
    current: &'a NetworkTenantStatus,
    wanted: &'a NetworkTenantStatus,
) -> impl Iterator<Item = &'a Condition> {
    let is_news = |one: &&Condition| {
        let before = of_kind(current, &one.type_);
        before.is_none_or(|before| (&before.status, &before.message) != (&one.status, &one.message))
    };
    let is_bad = |one: &&Condition| one.status == if one.type_ == "Conflicted" { "True" } else { "False" };
    // The summary would say the same again.
    wanted.conditions.iter().filter(|one| one.type_ != "Ready").filter(is_bad).filter(is_news)
}

/// One condition of a status.
pub fn of_kind<'a>(status: &'a NetworkTenantStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

fn shortened(message: &str) -> String {
    if message.len() <= LONGEST {
        return message.to_owned();
    }
    let end = message.floor_char_boundary(LONGEST);
    format!("{}…", &message[..end])
}
