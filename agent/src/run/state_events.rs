//! State events from snapshots: enforcement that was lost or restored, unprotected pods, and tenants that changed their
//! mode.
//!
//! Compares each [`Snapshot`] with what was reported before. Knows no kernel and no sink. Each `enforcement_lost` is
//! followed by one `enforcement_restored`, once the pod, the guards or the writes are in order again, or the pod is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agent_common::tenant::TenantState;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::events::StateNotice;
use crate::events::labels::Label;
use crate::events::schema::{AgentStateChange, EnforcementMode, UnprotectedRef};
use crate::reconcile::Snapshot;
use crate::reconcile::snapshot::{EndpointCondition, EndpointView};
use policy::model::input::EndpointKey;
use policy::model::pod::Uid;
use policy::model::unprotected::{UnprotectedPod, UnprotectedReason};

/// How long a failure lasts before it is reported: a pod that ends loses its interface before its object.
const GRACE: Duration = Duration::from_secs(2);

/// Sends a notice for each difference until the snapshots or the notices end.
pub(super) async fn follow(mut snapshots: watch::Receiver<Arc<Snapshot>>, notices: mpsc::Sender<StateNotice>) {
    let mut tracker = StateTracker::default();
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        for notice in tracker.update(&snapshot, Instant::now()) {
            if notices.send(notice).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(GRACE) => {}
        }
    }
}

/// What can lose enforcement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Enforced {
    /// The programs or the entry of a local pod.
    Pod(EndpointKey),
    /// The guards on what leaves the node.
    Guards,
    /// The precedence of a program on an interface.
    Precedence(String, &'static str),
    /// Writes of a newer policy.
    Writes,
}

/// A failure that lasts.
#[derive(Clone, Copy, Debug)]
struct Failure {
    since: Instant,
    reported: bool,
}

/// What was reported so far.
#[derive(Debug, Default)]
struct StateTracker {
    modes: BTreeMap<String, EnforcementMode>,
    /// Pods that were enforced at least once.
    pods: BTreeSet<EndpointKey>,
    guards: bool,
    repairs: BTreeMap<EndpointKey, u64>,
    failures: BTreeMap<Enforced, Failure>,
    /// Pods that were reported as unprotected.
    unprotected: BTreeMap<UnprotectedKey, UnprotectedPod>,
}

/// One pod and one reason.
type UnprotectedKey = (EndpointKey, Uid, UnprotectedReason);

impl StateTracker {
    /// The differences to the snapshot before. Reports nothing until the kernel holds the first policy.
    fn update(&mut self, snapshot: &Snapshot, now: Instant) -> Vec<StateNotice> {
        if !snapshot.ready {
            return Vec::new();
        }
        self.pods.retain(|pod| snapshot.endpoints.contains_key(pod));
        self.pods.extend(in_force(snapshot).cloned());
        self.guards |= snapshot.unguarded.is_empty();
        let mut notices = self.modes(snapshot);
        notices.extend(self.repairs(snapshot));
        notices.extend(self.failures(snapshot, now));
        notices.extend(self.unprotected(snapshot));
        notices
    }

    fn modes(&mut self, snapshot: &Snapshot) -> Vec<StateNotice> {
        let held = snapshot.tenants.values().filter(|tenant| tenant.state.has(TenantState::VALID));
        let mode = |state: TenantState| match state.has(TenantState::AUDIT) {
            true => EnforcementMode::Audit,
            false => EnforcementMode::Enforce,
        };
        let modes = held.map(|tenant| (tenant.name.to_string(), mode(tenant.state))).collect();
        let before = std::mem::replace(&mut self.modes, modes);
        let changed = self.modes.iter().filter(|(name, mode)| before.get(*name).is_some_and(|before| before != *mode));
        let notice = |(name, mode): (&String, &EnforcementMode)| StateNotice {
            mode: Some(*mode),
            tenant: Some(name.clone()),
            ..notice(
                AgentStateChange::ModeChanged,
                snapshot,
                format!("tenant {name} changed its mode to {}", mode.as_str()),
            )
        };
        changed.map(notice).collect()
    }

    /// Programs that were missing and are attached again, unless their loss was reported as a failure: its end is
    /// reported with the failures.
    fn repairs(&mut self, snapshot: &Snapshot) -> Vec<StateNotice> {
        let before = std::mem::replace(&mut self.repairs, BTreeMap::clone(&snapshot.repairs));
        let is_reported =
            |pod: &EndpointKey| self.failures.get(&Enforced::Pod(pod.clone())).is_some_and(|failure| failure.reported);
        let is_new = |pod: &EndpointKey, count: &u64| before.get(pod) < Some(count) && !is_reported(pod);
        let repaired = self.repairs.iter().filter(|(pod, count)| is_new(pod, count));
        let pair = |pod: &EndpointKey| {
            let subject = Enforced::Pod(pod.clone());
            let lost = format!("{subject}: its programs were removed from its interface");
            let restored = format!("{subject}: its programs are attached again");
            [
                subject.notice(AgentStateChange::EnforcementLost, snapshot, lost),
                subject.notice(AgentStateChange::EnforcementRestored, snapshot, restored),
            ]
        };
        repaired.flat_map(|(pod, _)| pair(pod)).collect()
    }

    fn failures(&mut self, snapshot: &Snapshot, now: Instant) -> Vec<StateNotice> {
        let failing = self.failing(snapshot);
        let mut notices = Vec::new();
        self.failures.retain(|subject, failure| {
            let lasts = failing.contains_key(subject);
            if !lasts && failure.reported {
                let message = subject.restored(snapshot);
                notices.push(subject.notice(AgentStateChange::EnforcementRestored, snapshot, message));
            }
            lasts
        });
        for (subject, why) in failing {
            let failure = self.failures.entry(subject.clone()).or_insert(Failure { since: now, reported: false });
            if !failure.reported && now.duration_since(failure.since) >= GRACE {
                failure.reported = true;
                notices.push(subject.notice(AgentStateChange::EnforcementLost, snapshot, format!("{subject}: {why}")));
            }
        }
        notices
    }

    /// Pods that no program judges, each reason once when it begins to count and once when it ends. Lost programs of a
    /// pod that was enforced are not among them, because they are reported with the failures.
    fn unprotected(&mut self, snapshot: &Snapshot) -> Vec<StateNotice> {
        let is_lost =
            |found: &&UnprotectedPod| found.reason == UnprotectedReason::NotAttached && self.pods.contains(&found.pod);
        let all = snapshot.unprotected.iter().filter(|found| !is_lost(found));
        let now = all.map(|found| ((found.pod.clone(), found.uid.clone(), found.reason), found.clone())).collect();
        let before = std::mem::replace(&mut self.unprotected, now);
        let ended = before.iter().filter(|(key, _)| !self.unprotected.contains_key(*key));
        let begun = self.unprotected.iter().filter(|(key, _)| !before.contains_key(*key));
        let ended = ended.map(|(_, found)| unprotected_notice(AgentStateChange::PodProtected, snapshot, found));
        let begun = begun.map(|(_, found)| unprotected_notice(AgentStateChange::PodUnprotected, snapshot, found));
        ended.chain(begun).collect()
    }

    /// Everything that fails now, with its cause.
    fn failing(&self, snapshot: &Snapshot) -> BTreeMap<Enforced, String> {
        let fails = |key: &EndpointKey, view: &EndpointView| {
            let open = self.failures.contains_key(&Enforced::Pod(key.clone()));
            self.pods.contains(key) && !is_in_force(view) && (view.error.is_some() || open)
        };
        let pods = snapshot.endpoints.iter().filter(|(key, view)| fails(key, view));
        let pods = pods.map(|(key, view)| (Enforced::Pod(key.clone()), view.error.clone().unwrap_or_default()));
        let guards = snapshot.unguarded.first().filter(|_| self.guards).cloned();
        let writes = (snapshot.unwritten > 0).then(|| format!("{} writes to the kernel fail", snapshot.unwritten));
        let first = snapshot
            .displaced
            .iter()
            .map(|found| (Enforced::Precedence(found.port.name.clone(), found.program), found.cause()));
        let pods = pods.chain(first);
        pods.chain(guards.map(|why| (Enforced::Guards, why))).chain(writes.map(|why| (Enforced::Writes, why))).collect()
    }
}

impl Enforced {
    fn notice(&self, state: AgentStateChange, snapshot: &Snapshot, message: String) -> StateNotice {
        let tenant = match self {
            Self::Pod(key) => snapshot.endpoints.get(key).map(|view| view.status.tenant.to_string()),
            Self::Precedence(..) | Self::Guards | Self::Writes => None,
        };
        StateNotice { tenant, ..notice(state, snapshot, message) }
    }

    fn restored(&self, snapshot: &Snapshot) -> String {
        match self {
            Self::Pod(key) if !snapshot.endpoints.contains_key(key) => format!("{self} is gone"),
            Self::Pod(_) => format!("{self} is enforced again"),
            Self::Precedence(..) => format!("{self} is first again"),
            Self::Guards => format!("{self} are in place again"),
            Self::Writes => format!("{self} are complete again"),
        }
    }
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => write!(f, "pod {}/{}", key.namespace, key.name),
            Self::Precedence(interface, program) => write!(f, "{program} on interface {interface}"),
            Self::Guards => f.write_str("guards"),
            Self::Writes => f.write_str("policy writes"),
        }
    }
}

fn unprotected_notice(state: AgentStateChange, snapshot: &Snapshot, found: &UnprotectedPod) -> StateNotice {
    let (namespace, name, reason) = (&found.pod.namespace, &found.pod.name, found.reason);
    let message = match state {
        AgentStateChange::PodUnprotected => {
            format!("pod {namespace}/{name} is unprotected: {}; {}", found.detail, reason.remedy())
        }
        _ => format!("pod {namespace}/{name} is protected again, or gone: {} has ended", reason.as_str()),
    };
    let pod_uid = Some(found.uid.to_string()).filter(|uid| !uid.is_empty());
    let (namespace, pod, reason) = (namespace.clone(), name.clone(), Label(reason));
    StateNotice {
        tenant: Some(found.tenant.to_string()),
        unprotected: Some(UnprotectedRef { namespace, pod, pod_uid, reason }),
        ..notice(state, snapshot, message)
    }
}

fn notice(state: AgentStateChange, snapshot: &Snapshot, message: String) -> StateNotice {
    StateNotice { state, mode: None, tenant: None, unprotected: None, revision: Some(snapshot.generation), message }
}

fn in_force(snapshot: &Snapshot) -> impl Iterator<Item = &EndpointKey> {
    snapshot.endpoints.iter().filter(|(_, view)| is_in_force(view)).map(|(key, _)| key)
}

/// Whether the kernel decides on the pod's packets by its tenant's policy.
fn is_in_force(view: &EndpointView) -> bool {
    use EndpointCondition::{Audited, Denied, Enforced, Error, Pending, Shared, Unassigned};
    match view.condition {
        Enforced | Audited | Unassigned | Shared => true,
        Pending | Denied | Error => false,
    }
}

#[cfg(test)]
mod tests;
