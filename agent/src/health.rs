//! Live and ready as pure functions of what is observed.
//!
//! Refuses to know how anything is found out, and reads no clock: "now" is part of what is observed.
//! Live means "the loop turns"; a dead one is worth a restart. Ready means "every promise about this
//! node's pods holds now"; it says why not.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A reconcile loop without a step for this long is stuck.
const STUCK: SignedDuration = SignedDuration::from_secs(60);
/// Reasons listed by name; the rest are a number.
const LISTED: usize = 20;

/// What the rooms report of themselves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Observed {
    /// Programs and maps are in the kernel.
    pub loaded: bool,
    /// Every source was read completely once.
    pub synced: bool,
    /// The mode in force for tenants that name none is audit.
    pub audit: bool,
    /// Policy revision in the kernel.
    pub revision: u64,
    /// Writes that wait to be tried again.
    pub pending: u64,
    /// When the kernel was last brought up to date.
    pub last_applied: Option<Timestamp>,
    /// When the loop last turned.
    pub last_turn: Option<Timestamp>,
    /// Tenants by state.
    pub tenants: ObservedTenants,
    /// Local pods by state.
    pub endpoints: ObservedEndpoints,
    /// The guards on what leaves the node.
    pub guards: ObservedGuards,
    /// Whether new sandboxes are held by the container runtime.
    pub nri: NriState,
    /// What is wrong, each a sentence that names its object.
    pub problems: Vec<String>,
}

/// The hook that holds new sandboxes until they are enforced. Ready or not does not depend on it: what is
/// not held is denied until it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NriState {
    /// Nobody asked for it.
    #[default]
    Off,
    /// The runtime does not offer it, or not now.
    Waiting,
    /// The runtime asks us.
    Connected,
}

/// Tenants by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObservedTenants {
    /// In force as written.
    pub accepted: u64,
    /// Part of it belongs to an older one.
    pub conflicted: u64,
    /// Not understood; the last good state is in force.
    pub invalid: u64,
}

/// The guards on what leaves the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObservedGuards {
    /// Interfaces by the guard they should hold.
    pub interfaces: BTreeMap<String, Vec<String>>,
    /// Parts that could not be put in place; whom they concern is guarded out or not guarded.
    pub broken: u64,
}

/// Local pods by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObservedEndpoints {
    /// Judged, and dropped if denied.
    pub enforced: u64,
    /// Judged, and let pass.
    pub audited: u64,
    /// Of no tenant.
    pub unassigned: u64,
    /// Of a Shared tenant.
    pub shared: u64,
    /// Should be enforced and is not, or not yet.
    pub error: u64,
}

/// The latest observation, shared between its writer and its readers.
pub type SharedObserved = Arc<ArcSwap<Observed>>;

impl ObservedTenants {
    /// In the words of the metrics.
    pub fn by_state(self) -> [(&'static str, u64); 3] {
        [("accepted", self.accepted), ("conflicted", self.conflicted), ("invalid", self.invalid)]
    }

    /// All of them.
    pub fn total(self) -> u64 {
        self.by_state().into_iter().map(|(_, count)| count).sum()
    }
}

impl ObservedEndpoints {
    /// In the words of the metrics.
    pub fn by_state(self) -> [(&'static str, u64); 5] {
        [
            ("enforced", self.enforced),
            ("audited", self.audited),
            ("unassigned", self.unassigned),
            ("shared", self.shared),
            ("error", self.error),
        ]
    }

    /// All of them.
    pub fn total(self) -> u64 {
        self.by_state().into_iter().map(|(_, count)| count).sum()
    }
}

/// Why the agent is not alive; empty if it is. One that has not begun to turn is still starting.
pub fn not_live(observed: &Observed, now: Timestamp) -> Vec<String> {
    let silent = observed.last_turn.map(|turn| now.duration_since(turn)).filter(|silent| *silent > STUCK);
    silent
        .map(|silent| format!("the reconcile loop has made no step for {} s; restart the agent", silent.as_secs()))
        .into_iter()
        .collect()
}

/// Why the agent is not ready; empty if it is.
pub fn not_ready(observed: &Observed) -> Vec<String> {
    let mut reasons = Vec::new();
    if !observed.loaded {
        reasons.push("programs and maps are not loaded into the kernel yet".into());
    }
    if !observed.synced {
        reasons.push("not all objects have been read yet; see kube_watch metrics or the agent's log".into());
    }
    if observed.endpoints.error > 0 {
        reasons.push(format!("local pods without an enforced policy, denied meanwhile: {}", observed.endpoints.error));
    }
    if observed.pending > 0 {
        reasons.push(format!("writes to the kernel that failed and are retried: {}", observed.pending));
    }
    if observed.guards.broken > 0 {
        reasons.push(format!("parts of the guards that could not be attached or written: {}", observed.guards.broken));
    }
    if !reasons.is_empty() {
        reasons.extend(observed.problems.iter().take(LISTED).cloned());
        let more = observed.problems.len().saturating_sub(LISTED);
        reasons.extend((more > 0).then(|| format!("and {more} more problems")));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Observed {
        Observed { loaded: true, synced: true, ..Observed::default() }
    }

    #[test]
    fn the_zero_value_is_not_ready() {
        assert_eq!(not_ready(&Observed::default()).len(), 2);
        assert_eq!(not_ready(&well()), Vec::<String>::new());
    }

    #[test]
    fn each_broken_promise_alone_makes_it_not_ready_and_is_named() {
        let pod = Observed { endpoints: ObservedEndpoints { error: 1, ..ObservedEndpoints::default() }, ..well() };
        let reasons = not_ready(&Observed { problems: vec!["acme-web/shop: no interface".into()], ..pod });
        assert_eq!(reasons.len(), 2);
        assert!(reasons[1].contains("acme-web/shop"));
        assert_eq!(not_ready(&Observed { pending: 3, ..well() }).len(), 1);
        let guards = ObservedGuards { broken: 1, ..ObservedGuards::default() };
        assert_eq!(not_ready(&Observed { guards, ..well() }).len(), 1);
    }

    #[test]
    fn an_invalid_tenant_spoils_itself_and_not_the_node() {
        let tenants = ObservedTenants { invalid: 1, ..ObservedTenants::default() };
        let observed = Observed { tenants, problems: vec!["NetworkTenant acme: no selector".into()], ..well() };
        assert!(not_ready(&observed).is_empty());
    }

    #[test]
    fn a_hundred_problems_are_a_page_and_not_a_book() {
        let problems = (0..100).map(|n| format!("problem {n}")).collect();
        assert_eq!(not_ready(&Observed { pending: 1, problems, ..well() }).len(), 1 + LISTED + 1);
    }

    #[test]
    fn a_loop_that_stands_still_is_not_alive() {
        let now = Timestamp::from_second(1000).expect("a time");
        let turned = |ago: i64| Observed { last_turn: Timestamp::from_second(1000 - ago).ok(), ..well() };
        assert!(not_live(&turned(10), now).is_empty());
        assert_eq!(not_live(&turned(61), now).len(), 1);
        assert!(not_live(&Observed::default(), now).is_empty(), "starting is not stuck");
    }
}
