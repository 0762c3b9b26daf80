//! Decides how long a sandbox is held: until its interface is enforced, or until the limit is reached.
//!
//! Reads published snapshots and changes nothing. The runtime asks about one sandbox at a time and delays all other
//! work on pods meanwhile. A node where nothing can be enforced must therefore not delay every pod by the whole limit:
//! each hold that times out halves the limit of the next.

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

/// The longest hold. Some tens of milliseconds are usual.
const LIMIT: Duration = Duration::from_secs(1);
/// The limit after many holds that timed out.
const LEAST: Duration = Duration::from_millis(50);

/// A sandbox with its own network, as the runtime describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldSandbox {
    key: EndpointKey,
    uid: Uid,
    netns: String,
}

impl HeldSandbox {
    /// `None`: the pod uses the node's network and has no interface of its own.
    pub(crate) fn of(pod: &PodSandbox) -> Option<Self> {
        let netns = Path::new(pod.network()?).file_name()?.to_string_lossy().into_owned();
        let key = EndpointKey { namespace: pod.namespace.clone(), name: pod.name.clone() };
        Some(Self { key, uid: Uid::from(pod.uid.as_str()), netns })
    }

    /// Whether the kernel enforces this pod's policy on the interface of this sandbox. An earlier pod of the same name
    /// does not count, nor does an earlier sandbox of the same pod.
    fn is_enforced(&self, snapshot: &Snapshot) -> bool {
        let Some(view) = snapshot.endpoints.get(&self.key) else { return false };
        let pod = &view.status.pod;
        let port = pod.local.as_ref().map(|local| &local.attachment.port);
        let is_here = matches!(port, Some(HostPort::Netns(netns)) if *netns == self.netns);
        let is_in_force = match view.condition {
            EndpointCondition::Enforced
            | EndpointCondition::Audited
            | EndpointCondition::Unassigned
            | EndpointCondition::Shared => true,
            EndpointCondition::Pending | EndpointCondition::Denied | EndpointCondition::Error => false,
        };
        pod.uid == self.uid && is_here && is_in_force
    }
}

/// Holds sandboxes until snapshots show that they are enforced.
#[derive(Debug)]
pub(crate) struct Gate {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    recorder: Arc<Recorder>,
    /// Holds that timed out since the last hold that did not.
    timed_out: AtomicU32,
}

impl Gate {
    /// A gate that watches these snapshots.
    pub(crate) fn new(snapshots: watch::Receiver<Arc<Snapshot>>, recorder: Arc<Recorder>) -> Self {
        Self { snapshots, recorder, timed_out: AtomicU32::new(0) }
    }

    /// Waits until the agent knows enough to enforce policy. No pod is held before, because only the agent's own start
    /// would be waited for. False: the agent ends first.
    pub(crate) async fn is_of_use(&self) -> bool {
        self.snapshots.clone().wait_for(|snapshot| snapshot.ready).await.is_ok()
    }

    /// Waits until `sandbox` is enforced or the limit is reached. `patience` is how long the runtime waits for the
    /// answer, if it states that. The limit is at most half of it, which leaves time for the answer.
    pub(crate) async fn hold(&self, sandbox: &HeldSandbox, patience: Option<Duration>) -> Hold {
        let begun = Instant::now();
        let longest = patience.map_or(LIMIT, |patience| LIMIT.min(patience / 2));
        let limit = limit(longest, self.timed_out.load(Ordering::Relaxed));
        let mut snapshots = self.snapshots.clone();
        let seen = timeout(limit, snapshots.wait_for(|snapshot| sandbox.is_enforced(snapshot))).await;
        let hold = if matches!(seen, Ok(Ok(_))) { Hold::Enforced } else { Hold::TimedOut };
        self.record(sandbox, hold, begun.elapsed());
        hold
    }

    fn record(&self, sandbox: &HeldSandbox, hold: Hold, held: Duration) {
        self.recorder.held(hold, held);
        let EndpointKey { namespace, name } = &sandbox.key;
        match hold {
            Hold::Enforced => {
                self.timed_out.store(0, Ordering::Relaxed);
                tracing::debug!(namespace, name, ?held, "the pod starts with its policy in force");
            }
            Hold::TimedOut => {
                let timed_out = self.timed_out.load(Ordering::Relaxed);
                self.timed_out.store(timed_out.saturating_add(1), Ordering::Relaxed);
                tracing::warn!(
                    namespace,
                    name,
                    ?held,
                    "the pod starts before its policy is in force: its packets are denied until then"
                );
            }
        }
    }
}

/// The limit of a hold after so many consecutive holds that timed out.
fn limit(longest: Duration, timed_out: u32) -> Duration {
    let halved = longest.checked_div(1_u32.checked_shl(timed_out).unwrap_or(u32::MAX)).unwrap_or_default();
    halved.max(LEAST).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_that_time_out_shorten_the_next_and_none_is_longer_than_the_runtime_allows() {
        let limits = [0, 1, 2, 3, 4, 5, 31, 32, u32::MAX].map(|n| limit(Duration::from_secs(1), n).as_millis());
        assert_eq!(limits, [1000, 500, 250, 125, 62, 50, 50, 50, 50]);
        assert_eq!(limit(Duration::from_millis(20), 3), Duration::from_millis(20));
    }
}
