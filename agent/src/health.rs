//! Decides whether the agent is live and ready, as pure functions of what the modules report.
//!
//! Does not know how a value is observed, and reads no clock: time is an argument. Live means that the reconcile loop
//! makes steps; a restart helps an agent that is not live. Ready means that the policy of every pod of this node is in
//! force. An agent that is not ready states the reasons.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A reconcile loop without a step for this long is stuck.
const STUCK: SignedDuration = SignedDuration::from_secs(60);
/// Most problems that are listed. The others are counted.
const LISTED: usize = 20;

/// What the modules report about themselves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Observed {
    /// Whether programs and maps are loaded into the kernel.
    pub loaded: bool,
    /// Whether every source was read completely once.
    pub synced: bool,
    /// Whether tenants that state no mode are in audit mode.
    pub audit: bool,
    /// Policy revision in the kernel.
    pub revision: u64,
    /// Failed writes that wait for their next attempt.
    pub pending: u64,
    /// When entries were last written to the kernel.
    pub last_applied: Option<Timestamp>,
    /// When the reconcile loop last made a step.
    pub last_turn: Option<Timestamp>,
    /// Tenants by state.
    pub tenants: ObservedTenants,
    /// Local pods by state.
    pub endpoints: ObservedEndpoints,
    /// Local pods that no program judges.
    pub unprotected: Vec<ObservedUnprotected>,
    /// The guards on what leaves the node.
    pub guards: ObservedGuards,
    /// Hooks at which another program was found before one of ours at the last check or since then.
    pub displaced: u64,
    /// Why the range of pods is not known. Until it is, wide egress ranges open no private address.
    pub pod_range_gap: Option<String>,
    /// Whether the container runtime holds new sandboxes.
    pub nri: NriState,
    /// Problems, each as a sentence that names its object.
    pub problems: Vec<String>,
}

/// State of the NRI connection, through which new sandboxes are held until they are enforced. Readiness does not depend
/// on it: a sandbox that is not held is denied until its pod is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NriState {
    /// NRI is not configured.
    #[default]
    Off,
    /// The runtime does not offer NRI at this time.
    Waiting,
    /// The runtime holds each new sandbox until the agent answers.
    Connected,
}

/// Tenants by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ObservedTenants {
    /// In force as written.
    pub accepted: u64,
    /// A part of it belongs to an older tenant.
    pub conflicted: u64,
    /// Invalid; the last good version is in force.
    pub invalid: u64,
}

/// The guards on what leaves the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ObservedGuards {
    /// Interfaces by the guard they should hold.
    pub interfaces: BTreeMap<String, Vec<String>>,
    /// Parts that could not be attached or written. The traffic they concern is dropped, or leaves without a guard.
    pub broken: u64,
}

/// Local pods by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ObservedEndpoints {
    /// What the policy denies is dropped.
    pub enforced: u64,
    /// What the policy denies is reported and passes.
    pub audited: u64,
    /// The pod belongs to no tenant.
    pub unassigned: u64,
    /// The pod belongs to a Shared tenant.
    pub shared: u64,
    /// The pod starts: it is denied, or has no interface yet.
    pub pending: u64,
    /// The pod is denied, wholly or for one of its addresses, because objects claim what they cannot have.
    pub denied: u64,
    /// Its programs or its entry are not in the kernel, because they could not be written or would not fit.
    pub error: u64,
}

/// A local pod with traffic that no program judges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ObservedUnprotected {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// The reason, by its label in the metrics.
    pub reason: String,
    /// What was seen.
    pub detail: String,
    /// What to do about it.
    pub remedy: String,
    /// Whether the agent or the node's software causes it. What a pod's author can cause does not make the node unready.
    pub makes_unready: bool,
}

impl ObservedUnprotected {
    /// One sentence for people.
    pub(crate) fn sentence(&self) -> String {
        let Self { namespace, name, reason, detail, remedy, .. } = self;
        format!("pod {namespace}/{name} is unprotected ({reason}): {detail}; {remedy}")
    }
}

/// The latest observation, shared between its writer and its readers.
pub(crate) type SharedObserved = Arc<ArcSwap<Observed>>;

impl ObservedTenants {
    /// The numbers by their label in the metrics.
    pub(crate) fn by_state(self) -> [(&'static str, u64); 3] {
        [("accepted", self.accepted), ("conflicted", self.conflicted), ("invalid", self.invalid)]
    }

    /// The sum over all states.
    pub(crate) fn total(self) -> u64 {
        self.by_state().into_iter().map(|(_, count)| count).sum()
    }
}

impl ObservedEndpoints {
    /// The numbers by their label in the metrics.
    pub(crate) fn by_state(self) -> [(&'static str, u64); 7] {
        [
            ("enforced", self.enforced),
            ("audited", self.audited),
            ("unassigned", self.unassigned),
            ("shared", self.shared),
            ("pending", self.pending),
            ("denied", self.denied),
            ("error", self.error),
        ]
    }

    /// The sum over all states.
    pub(crate) fn total(self) -> u64 {
        self.by_state().into_iter().map(|(_, count)| count).sum()
    }
}

/// Why the agent is not live; empty if it is. An agent whose loop has made no step yet is still starting.
pub(crate) fn not_live(observed: &Observed, now: Timestamp) -> Vec<String> {
    let silent = observed.last_turn.map(|turn| now.duration_since(turn)).filter(|silent| *silent > STUCK);
    silent
        .map(|silent| format!("the reconcile loop has made no step for {} s; restart the agent", silent.as_secs()))
        .into_iter()
        .collect()
}

/// Why the agent is not ready; empty if it is.
pub(crate) fn not_ready(observed: &Observed) -> Vec<String> {
    let mut reasons = Vec::new();
    if !observed.loaded {
        reasons.push("programs and maps are not loaded into the kernel yet".into());
    }
    if !observed.synced {
        reasons.push("not all objects have been read yet; see kube_watch metrics or the agent's log".into());
    }
    if observed.endpoints.error > 0 {
        reasons.push(format!("local pods without an enforced policy: {}", observed.endpoints.error));
    }
    let unprotected: Vec<_> = observed.unprotected.iter().filter(|pod| pod.makes_unready).collect();
    if !unprotected.is_empty() {
        reasons.push(format!("local pods that no program judges: {}", unprotected.len()));
        reasons.extend(unprotected.iter().take(LISTED).map(|pod| pod.sentence()));
    }
    if observed.pending > 0 {
        reasons.push(format!("writes to the kernel that failed and are retried: {}", observed.pending));
    }
    if observed.synced && observed.pod_range_gap.is_some() {
        reasons.push("the range of pods is unknown, so wide egress ranges open no private address".into());
    }
    if observed.displaced > 0 {
        reasons.push(format!("hooks where another program was found before Bulkhead's: {}", observed.displaced));
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
    fn each_problem_alone_makes_the_agent_unready_and_is_named() {
        let pod = Observed { endpoints: ObservedEndpoints { error: 1, ..ObservedEndpoints::default() }, ..well() };
        let reasons = not_ready(&Observed { problems: vec!["acme-web/shop: no interface".into()], ..pod });
        assert_eq!(reasons.len(), 2);
        assert!(reasons[1].contains("acme-web/shop"));
        assert_eq!(not_ready(&Observed { pending: 3, ..well() }).len(), 1);
        assert_eq!(not_ready(&Observed { displaced: 1, ..well() }).len(), 1);
        let guards = ObservedGuards { broken: 1, ..ObservedGuards::default() };
        assert_eq!(not_ready(&Observed { guards, ..well() }).len(), 1);
        let pod_range_gap = Some("the range of pods is unknown".to_owned());
        assert_eq!(not_ready(&Observed { pod_range_gap, ..well() }).len(), 1);
    }

    #[test]
    fn an_unprotected_pod_makes_the_agent_unready_unless_its_author_can_cause_it() {
        let pod = |reason: &str, makes_unready| ObservedUnprotected {
            namespace: "acme-web".into(),
            name: "shop".into(),
            reason: reason.into(),
            makes_unready,
            ..ObservedUnprotected::default()
        };
        let authors = Observed { unprotected: vec![pod("host_network", false)], ..well() };
        assert_eq!(not_ready(&authors), Vec::<String>::new());
        let nodes = vec![pod("host_network", false), pod("not_attached", true)];
        let reasons = not_ready(&Observed { unprotected: nodes, ..well() });
        assert!(reasons.len() == 2 && reasons[0].ends_with(": 1"), "{reasons:?}");
        assert!(reasons[1].contains("acme-web/shop") && reasons[1].contains("not_attached"), "{reasons:?}");
    }

    #[test]
    fn a_pod_that_its_objects_deny_does_not_make_the_node_unready() {
        let endpoints = ObservedEndpoints { pending: 1, denied: 1, ..ObservedEndpoints::default() };
        let problems = vec!["acme-web/shop: address 192.0.2.1 was refused".to_owned()];
        assert!(not_ready(&Observed { endpoints, problems, ..well() }).is_empty());
    }

    #[test]
    fn an_invalid_tenant_does_not_make_the_node_unready() {
        let tenants = ObservedTenants { invalid: 1, ..ObservedTenants::default() };
        let observed = Observed { tenants, problems: vec!["NetworkTenant acme: no selector".into()], ..well() };
        assert!(not_ready(&observed).is_empty());
    }

    #[test]
    fn only_twenty_of_a_hundred_problems_are_listed() {
        let problems = (0..100).map(|n| format!("problem {n}")).collect();
        assert_eq!(not_ready(&Observed { pending: 1, problems, ..well() }).len(), 1 + LISTED + 1);
    }

    #[test]
    fn an_agent_whose_loop_makes_no_step_is_not_live() {
        let now = Timestamp::from_second(1000).expect("a time");
        let turned = |ago: i64| Observed { last_turn: Timestamp::from_second(1000 - ago).ok(), ..well() };
        assert!(not_live(&turned(10), now).is_empty());
        assert_eq!(not_live(&turned(61), now).len(), 1);
        assert!(not_live(&Observed::default(), now).is_empty(), "a starting agent is live");
    }
}
