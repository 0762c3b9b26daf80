//! Programs on interfaces: which to attach and detach in a step, and the guards.
//!
//! Programs are attached before a pod is claimed, and claims are written before the guards. Knows no policy.

use std::collections::{BTreeMap, BTreeSet};

use agent_common::layout::EndpointEntry;

use super::execute::execute;
use super::schedule::Now;
use super::state::{ReconcileState, not_intact};
use crate::dataplane::{Dataplane, DataplaneError, Port, Recheck};
use crate::errors::with_causes;
use policy::model::endpoints::is_pods;
use policy::model::guards::{self, Guards};
use policy::model::input_guard;
use policy::model::unprotected;
use policy::plan::Op;

/// Interfaces attached in one step, before their pods are claimed. Each waits for one or two RCU grace periods
/// (some 30 ms), during which those attached before it are denied.
const AT_ONCE: usize = 8;

/// When the input guard is written in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputPhase {
    /// Before claims and permissions are written.
    BeforeWrites,
    /// After that.
    AfterWrites,
}

impl ReconcileState {
    /// Reads again what is attached, because another process may have removed a program.
    pub(super) fn check_attached(&mut self, dataplane: &mut impl Dataplane) {
        match dataplane.attached() {
            Ok(ports) => {
                let doubtful = not_intact(dataplane, &ports);
                let ports: BTreeMap<u32, Port> = ports.into_iter().map(|port| (port.ifindex, port)).collect();
                let was_intact = |ifindex: &u32| !self.doubtful.contains(ifindex);
                let is_gone = |ifindex: &u32| doubtful.contains(ifindex) || !ports.contains_key(ifindex);
                let lost = self.attached.keys().filter(|ifindex| was_intact(ifindex) && is_gone(ifindex));
                self.missing = lost.filter(|ifindex| self.snapshot.ports.contains_key(ifindex)).copied().collect();
                self.repairs.retain(|pod, _| self.snapshot.endpoints.contains_key(pod));
                self.doubtful = doubtful;
                self.attached = ports;
            }
            Err(error) => tracing::warn!(error = with_causes(&error), "attached programs could not be listed"),
        }
    }

    /// Takes in what was before our programs. It counts until a check finds them first.
    pub(super) fn note_displacements(&mut self, dataplane: &mut impl Dataplane) {
        for displacement in dataplane.take_displacements() {
            self.displacements += 1;
            self.displaced.insert((displacement.port.ifindex, displacement.program), displacement);
        }
    }

    /// Denies interfaces that appear before every kind of object was reported. Interfaces that existed before this
    /// agent stay as they are until then, because their pods may have connections.
    pub(super) fn hold_newcomers(&mut self, dataplane: &mut impl Dataplane) {
        let links = self.cluster.links();
        if !self.cluster.settings().hold_unknown || links.is_empty() {
            return;
        }
        let existing = self.existing.get_or_insert_with(|| links.keys().copied().collect());
        let new = links
            .values()
            .filter(|link| is_pods(link, &self.cluster) && !link.lacks_ethernet && !existing.contains(&link.ifindex));
        let ports = new.map(|link| Port { ifindex: link.ifindex, name: link.name.clone() });
        let bare: Vec<Port> = ports.filter(|port| self.attached.get(&port.ifindex) != Some(port)).collect();
        for port in bare {
            // A reused index may still have the entry of its last pod.
            let stale = self.ledger.actual().endpoints.contains_key(&port.ifindex);
            let clear = stale.then(|| Op::Endpoint(port.ifindex, EndpointEntry::default()));
            let failures = execute(dataplane, &mut self.ledger, clear.into_iter().collect(), &BTreeSet::new());
            if failures.is_empty() && dataplane.attach(&port).is_ok() {
                self.attached.insert(port.ifindex, port);
            }
        }
    }

    /// Attaches programs to the interfaces that should have them, a limited number of new ones at once.
    pub(super) fn attach(&mut self, dataplane: &mut impl Dataplane) {
        self.bare.clear();
        self.waiting.clear();
        // The programs for packets from pods come first: each takes as long as the other, and these deny.
        let mut failed = Vec::new();
        let denied = self.attach_from_pod(dataplane, &mut failed);
        for port in denied {
            match dataplane.attach(&port) {
                Ok(()) => {
                    self.doubtful.remove(&port.ifindex);
                    self.note_displacements(dataplane);
                    let was_displaced = self.displaced.keys().any(|(ifindex, _)| *ifindex == port.ifindex);
                    if self.missing.remove(&port.ifindex)
                        && !was_displaced
                        && let Some(pod) = self.snapshot.ports.get(&port.ifindex)
                    {
                        *self.repairs.entry(pod.clone()).or_default() += 1;
                    }
                    self.attached.insert(port.ifindex, port);
                }
                Err(error) => failed.push((port, error)),
            }
        }
        failed.iter().for_each(|(port, error)| self.record_bare(port, error));
    }

    /// Attaches the first of both programs, and returns the interfaces that have it now.
    fn attach_from_pod(
        &mut self,
        dataplane: &mut impl Dataplane,
        failed: &mut Vec<(Port, DataplaneError)>,
    ) -> Vec<Port> {
        let mut capacity = AT_ONCE;
        let mut denied = Vec::new();
        // The newest first: a pod that starts now must not wait for pods that have run for days.
        for (ifindex, name) in self.desired.endpoints.ports.iter().rev() {
            let port = Port { ifindex: *ifindex, name: name.clone() };
            let is_known = self.attached.get(ifindex) == Some(&port);
            if is_known && !self.doubtful.contains(ifindex) {
                continue;
            }
            if !is_known && capacity == 0 {
                self.waiting.insert(*ifindex);
                continue;
            }
            match dataplane.attach_from_pod(&port) {
                Ok(()) => {
                    capacity -= usize::from(!is_known);
                    denied.push(port);
                }
                Err(error) => failed.push((port, error)),
            }
        }
        denied
    }

    fn record_bare(&mut self, port: &Port, error: &DataplaneError) {
        // An interface that is gone is no failure: the next list of interfaces will not contain it.
        if !matches!(error, DataplaneError::Gone(_)) {
            self.attach_failures += 1;
            let (interface, ifindex) = (&port.name, port.ifindex);
            tracing::warn!(interface, ifindex, error = with_causes(error), "programs could not be attached");
        }
        self.bare.insert(port.ifindex, with_causes(error));
    }

    /// Makes the guards equal to what is known now. This follows the claims, so a new guard knows the pods that
    /// exist already; the first guard waits for all of them.
    pub(super) fn sync_guards(&mut self, dataplane: &mut impl Dataplane) {
        if self.guards == Guards::default() && !self.waiting.is_empty() {
            return;
        }
        let attached = self.attached.keys().copied().collect();
        let (endpoints, entries) = (&self.desired.endpoints, &self.ledger.actual().endpoints);
        let wanted = guards::compile(&self.cluster, endpoints, entries, &attached);
        if wanted == self.guards && self.recheck_guards == Recheck::Skip && self.unguarded.is_empty() {
            return;
        }
        let failed = dataplane.sync_guards(&wanted, std::mem::replace(&mut self.recheck_guards, Recheck::Skip));
        self.owed.endpoints |= !failed.is_empty();
        self.unguarded = failed.iter().map(|error| with_causes(error)).collect();
        self.guards = wanted;
    }

    /// Makes the input guard equal to what is known now; before other writes, only what it closes.
    pub(super) fn sync_input(&mut self, dataplane: &mut impl Dataplane, phase: InputPhase) {
        let attached = self.attached.keys().copied().collect();
        let wanted = input_guard::compile(&self.cluster, &self.desired, &self.ledger.actual().endpoints, &attached);
        let rules = match phase {
            InputPhase::BeforeWrites => self.input.between(&wanted),
            InputPhase::AfterWrites => wanted,
        };
        if rules == self.input && self.recheck_input == Recheck::Skip && self.input_failure.is_none() {
            return;
        }
        let recheck = std::mem::replace(&mut self.recheck_input, Recheck::Skip);
        let failed = dataplane.sync_input(&rules, recheck).err();
        self.owed.endpoints |= failed.is_some();
        self.input_failure = failed.map(|error| with_causes(&error));
        self.input = rules;
    }

    /// Finds the pods that no program judges, given the interfaces that hold this agent's programs.
    pub(super) fn find_unprotected(&mut self, now: Now) {
        let intact = |ifindex: &u32| !self.doubtful.contains(ifindex) && !self.bare.contains_key(ifindex);
        let attached: BTreeSet<u32> = self.attached.keys().copied().filter(intact).collect();
        self.unprotected.update(unprotected::find(&self.cluster, &self.desired.endpoints, &attached), now.tick);
    }

    /// Detaches programs from interfaces that vanished, and from unclaimed ones if the settings say so. Their
    /// entries are cleared before.
    pub(super) fn detach(&mut self, dataplane: &mut impl Dataplane) {
        let release = self.cluster.settings().release_unclaimed;
        let is_idle = |ifindex: &u32| {
            // Programs of an earlier agent on an interface that they cannot read go, too.
            let link = self.cluster.links().get(ifindex);
            let exists = link.is_some_and(|link| !link.lacks_ethernet);
            let wanted = self.desired.endpoints.ports.contains_key(ifindex);
            !wanted && (!exists || release) && !self.ledger.actual().endpoints.contains_key(ifindex)
        };
        let idle: Vec<u32> = self.attached.keys().copied().filter(is_idle).collect();
        for ifindex in idle {
            let Some(port) = self.attached.get(&ifindex) else { continue };
            match dataplane.detach(port) {
                Ok(()) => _ = self.attached.remove(&ifindex),
                Err(error) => {
                    self.attach_failures += 1;
                    self.owed.endpoints = true;
                    let interface = &port.name;
                    tracing::warn!(interface, ifindex, error = with_causes(&error), "programs could not be detached");
                }
            }
        }
    }
}
