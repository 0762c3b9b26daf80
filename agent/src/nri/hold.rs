//! How long a sandbox is held: until its interface is enforced, or no longer.
//!
//! Looks at published snapshots and changes nothing. The runtime lets us look at one sandbox at a time
//! and everything else that it does with pods waits meanwhile, so what cannot be waited for must not
//! cost every pod of the node the whole limit: each hold in vain halves the next.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::message::PodSandbox;
use crate::metrics::Recorder;
use crate::metrics::recorder::Hold;
use crate::reconcile::Snapshot;
use crate::reconcile::snapshot::EndpointCondition;
use policy::model::input::{EndpointKey, HostPort};
use policy::model::pod::Uid;

/// A sandbox is held for this long at most: some tens of milliseconds are usual.
const LIMIT: Duration = Duration::from_secs(1);
/// And for this long after many that were held in vain.
const LEAST: Duration = Duration::from_millis(50);

/// A sandbox with a network of its own, as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    key: EndpointKey,
    uid: Uid,
    netns: String,
}

impl Sandbox {
    /// `None` for a pod in the node's network: no interface is its own.
    pub fn of(pod: &PodSandbox) -> Option<Self> {
        let netns = Path::new(pod.network()?).file_name()?.to_string_lossy().into_owned();
        let key = EndpointKey { namespace: pod.namespace.clone(), name: pod.name.clone() };
        Some(Self { key, uid: Uid::from(pod.uid.as_str()), netns })
    }

    /// Whether the kernel holds this pod's entry for the interface that leads to this sandbox. Neither
    /// an earlier pod of the name nor an earlier sandbox of the pod counts.
    fn is_enforced(&self, snapshot: &Snapshot) -> bool {
        let Some(view) = snapshot.endpoints.get(&self.key) else { return false };
        let pod = &view.standing.pod;
        let port = pod.local.as_ref().map(|local| &local.attachment.port);
        let is_here = matches!(port, Some(HostPort::Netns(netns)) if *netns == self.netns);
        let is_in_force = match view.condition {
            EndpointCondition::Enforced
            | EndpointCondition::Audited
            | EndpointCondition::Unassigned
            | EndpointCondition::Shared => true,
            EndpointCondition::Pending | EndpointCondition::Error => false,
        };
        pod.uid == self.uid && is_here && is_in_force
    }
}

/// Holds sandboxes.
#[derive(Debug)]
pub struct Gate {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    recorder: Arc<Recorder>,
    /// Holds in vain since the last one that was not.
    in_vain: AtomicU32,
}

impl Gate {
    /// Watches these snapshots.
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>, recorder: Arc<Recorder>) -> Self {
        Self { snapshots, recorder, in_vain: AtomicU32::new(0) }
    }

    /// Done when the agent knows enough to enforce anything: nobody is held before, for there is nothing
    /// to wait for but the agent's own start. False if that will not be.
    pub async fn is_of_use(&self) -> bool {
        self.snapshots.clone().wait_for(|snapshot| snapshot.ready).await.is_ok()
    }

    /// Done when `sandbox` is enforced or has been held for long enough. `patience` is how long the runtime
    /// waits for the answer, if it said: half of it leaves time for the answer.
    pub async fn hold(&self, sandbox: &Sandbox, patience: Option<Duration>) -> Hold {
        let begun = Instant::now();
        let most = patience.map_or(LIMIT, |patience| LIMIT.min(patience / 2));
        let limit = limit(most, self.in_vain.load(Ordering::Relaxed));
        let mut snapshots = self.snapshots.clone();
        let seen = timeout(limit, snapshots.wait_for(|snapshot| sandbox.is_enforced(snapshot))).await;
        let hold = if matches!(seen, Ok(Ok(_))) { Hold::Enforced } else { Hold::TimedOut };
        self.note(sandbox, hold, begun.elapsed());
        hold
    }

    fn note(&self, sandbox: &Sandbox, hold: Hold, held: Duration) {
        self.recorder.held(hold, held);
        let EndpointKey { namespace, name } = &sandbox.key;
        match hold {
            Hold::Enforced => {
                self.in_vain.store(0, Ordering::Relaxed);
                tracing::debug!(namespace, name, ?held, "the sandbox starts with its policy in force");
            }
            Hold::TimedOut => {
                let in_vain = self.in_vain.load(Ordering::Relaxed);
                self.in_vain.store(in_vain.saturating_add(1), Ordering::Relaxed);
                tracing::warn!(
                    namespace,
                    name,
                    ?held,
                    "the sandbox starts before its policy is known: denied until then"
                );
            }
        }
    }
}

/// How long to hold after so many holds in vain, one after the other.
fn limit(most: Duration, in_vain: u32) -> Duration {
    let halved = most.checked_div(1_u32.checked_shl(in_vain).unwrap_or(u32::MAX)).unwrap_or_default();
    halved.max(LEAST).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_in_vain_become_shorter_and_never_longer_than_the_runtime_allows() {
        let limits = [0, 1, 2, 3, 4, 5, 31, 32, u32::MAX].map(|n| limit(Duration::from_secs(1), n).as_millis());
        assert_eq!(limits, [1000, 500, 250, 125, 62, 50, 50, 50, 50]);
        assert_eq!(limit(Duration::from_millis(20), 3), Duration::from_millis(20));
    }
}
