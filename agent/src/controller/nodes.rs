//! Decides which nodes lose their start-up taint, and which have been without an agent for too long.
//!
//! The taint keeps pods away from a node that does not enforce yet. It is removed once and never restored: while an
//! agent is being replaced, its programs stay in the kernel and enforce. Makes no request.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Taint;

use super::state::ControllerState;

/// Key of the start-up taint.
pub(crate) const TAINT: &str = "bulkhead.dev/agent-not-ready";
/// A node without a ready agent for this long is reported.
const LONG: SignedDuration = SignedDuration::from_mins(5);

/// Nodes with the taint whose agent enforces.
pub(crate) fn to_untaint(state: &ControllerState) -> Vec<&str> {
    let guarded = guarded(state);
    let ready = state.nodes.values().filter(|node| node.tainted && guarded.contains(node.name.as_str()));
    ready.map(|node| node.name.as_str()).collect()
}

/// The taints of a node without the start-up taint; `None` if the node does not have it.
pub(crate) fn without_ours(taints: &[Taint]) -> Option<Vec<Taint>> {
    let rest: Vec<Taint> = taints.iter().filter(|taint| taint.key != TAINT).cloned().collect();
    (rest.len() < taints.len()).then_some(rest)
}

/// The nodes without a ready agent, and since when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Absences {
    since: BTreeMap<String, Timestamp>,
    reported: BTreeSet<String>,
}

impl Absences {
    /// Updates the absences. Returns the nodes that reached the limit since the last call.
    pub(crate) fn update(&mut self, state: &ControllerState, now: Timestamp) -> Vec<String> {
        let guarded = guarded(state);
        let without = || state.nodes.values().filter(|node| node.eligible && !guarded.contains(node.name.as_str()));
        let names: BTreeSet<&str> = without().map(|node| node.name.as_str()).collect();
        self.since.retain(|name, _| names.contains(name.as_str()));
        self.reported.retain(|name| names.contains(name.as_str()));
        for name in names {
            self.since.entry(name.to_owned()).or_insert(now);
        }
        let long: Vec<String> = self.long(now).map(str::to_owned).collect();
        long.into_iter().filter(|name| self.reported.insert(name.clone())).collect()
    }

    /// The nodes that have been without a ready agent for too long.
    pub(crate) fn long(&self, now: Timestamp) -> impl Iterator<Item = &str> {
        let long = move |(_, since): &(&String, &Timestamp)| now.duration_since(**since) >= LONG;
        self.since.iter().filter(long).map(|(name, _)| name.as_str())
    }
}

/// Names of the nodes with a ready agent.
fn guarded(state: &ControllerState) -> BTreeSet<&str> {
    state.agents.values().filter(|agent| agent.ready).map(|agent| agent.node.as_str()).collect()
}
