//! Which nodes may lose their start-up taint, and which have been without an agent for too long.
//!
//! The taint keeps pods away from a node that does not enforce yet. It is taken away once and never put back: an agent
//! that is being replaced has left its programs in the kernel, and draining a node because of it would be worse.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Taint;

use super::world::World;

/// Key of the start-up taint.
pub const TAINT: &str = "bulkhead.dev/agent-not-ready";
/// An agent that has been away for longer is worth a look.
const LONG: SignedDuration = SignedDuration::from_mins(5);

/// Nodes that have the taint though their agent enforces.
pub fn to_untaint(world: &World) -> Vec<&str> {
    let guarded = guarded(world);
    let ready = world.nodes.values().filter(|node| node.tainted && guarded.contains(node.name.as_str()));
    ready.map(|node| node.name.as_str()).collect()
}

/// The taints of a node without ours; none if ours is not among them.
pub fn without_ours(taints: &[Taint]) -> Option<Vec<Taint>> {
    let rest: Vec<Taint> = taints.iter().filter(|taint| taint.key != TAINT).cloned().collect();
    (rest.len() < taints.len()).then_some(rest)
}

/// Since when nodes have no ready agent.
#[derive(Clone, Debug, Default)]
pub struct Absences {
    since: BTreeMap<String, Timestamp>,
    told: BTreeSet<String>,
}

impl Absences {
    /// Takes a look; returns the nodes that have just been without for too long.
    pub fn look(&mut self, world: &World, now: Timestamp) -> Vec<String> {
        let guarded = guarded(world);
        let without = || world.nodes.values().filter(|node| node.eligible && !guarded.contains(node.name.as_str()));
        let names: BTreeSet<&str> = without().map(|node| node.name.as_str()).collect();
        self.since.retain(|name, _| names.contains(name.as_str()));
        self.told.retain(|name| names.contains(name.as_str()));
        for name in names {
            self.since.entry(name.to_owned()).or_insert(now);
        }
        let long: Vec<String> = self.long(now).map(str::to_owned).collect();
        long.into_iter().filter(|name| self.told.insert(name.clone())).collect()
    }

    /// The nodes that have been without for too long.
    pub fn long(&self, now: Timestamp) -> impl Iterator<Item = &str> {
        let long = move |(_, since): &(&String, &Timestamp)| now.duration_since(**since) >= LONG;
        self.since.iter().filter(long).map(|(name, _)| name.as_str())
    }
}

/// Nodes with an agent that is ready.
fn guarded(world: &World) -> BTreeSet<&str> {
    world.agents.values().filter(|agent| agent.ready).map(|agent| agent.node.as_str()).collect()
}
