//! Elects one leader among the replicas, by a Lease.
//!
//! As in Kubernetes' own components, a Lease that has not changed for its whole duration has expired. The duration is
//! measured with the replica's own clock, so clock skew between machines does not matter. A leader that cannot renew
//! stops before another replica may begin. Every write is conditional on the version that was read.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How long a Lease holds without renewal.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long stops leading.
const DEADLINE: Duration = Duration::from_secs(8);
/// Time between two checks of the Lease.
const PERIOD: Duration = Duration::from_secs(2);
/// Time limit of one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(4);

/// This replica has lost leadership and must be restarted.
#[derive(Debug, thiserror::Error)]
#[error("the Lease bulkhead-controller was not renewed in time, so another replica may lead; the process ends")]
pub(crate) struct LeadershipLost;

/// What to do with a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseStep {
    /// This replica holds it: renew it.
    Renew,
    /// It is free or has expired: take it.
    Take,
    /// Another replica holds it.
    Wait,
}

/// What replica `me` does with a Lease that has not changed for `unchanged`.
pub(crate) fn step(lease: &LeaseSpec, me: &str, unchanged: Duration) -> LeaseStep {
    match lease.holder_identity.as_deref().unwrap_or_default() {
        "" => LeaseStep::Take,
        holder if holder == me => LeaseStep::Renew,
        _ => {
            let seconds = lease.lease_duration_seconds.unwrap_or_default();
            let holds = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            if unchanged > holds { LeaseStep::Take } else { LeaseStep::Wait }
        }
    }
}

/// The Lease after `step`.
pub(crate) fn written(before: &LeaseSpec, me: &str, step: LeaseStep, now: Timestamp) -> LeaseSpec {
    let taken = step == LeaseStep::Take;
    let transitions = before.lease_transitions.unwrap_or_default() + i32::from(taken);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(DURATION.as_secs() as i32),
        acquire_time: if taken { Some(MicroTime(now)) } else { before.acquire_time.clone() },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(transitions),
        ..before.clone()
    }
}

/// Takes and renews the Lease for one replica.
pub(crate) struct LeaseHolder {
    api: Api<Lease>,
    name: &'static str,
    me: String,
    /// The last version seen, and since when.
    seen: Option<(String, Instant)>,
}

impl LeaseHolder {
    /// A holder of the Lease `name` for the replica `me`.
    pub(crate) fn new(api: Api<Lease>, name: &'static str, me: String) -> Self {
        Self { api, name, me, seen: None }
    }

    /// Takes and renews the Lease, and reports whether this replica leads. Returns only when leadership is lost.
    pub(crate) async fn hold(&mut self, leading: &watch::Sender<bool>) -> LeadershipLost {
        let mut renewed: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            match timeout(REQUEST_LIMIT, self.check()).await {
                // Count from before the request: the server may have written at its beginning.
                Ok(Ok(true)) => renewed = Some(begun),
                Ok(Ok(false)) if renewed.is_some() => return LeadershipLost,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "cannot read or renew the Lease"),
                Err(_) => {
                    tracing::warn!(lease = self.name, "the API server did not answer a request for the Lease in time")
                }
            }
            if renewed.is_some_and(|renewed| renewed.elapsed() > DEADLINE) {
                return LeadershipLost;
            }
            if leading.send_if_modified(|known| std::mem::replace(known, renewed.is_some()) != renewed.is_some()) {
                tracing::info!(lease = self.name, identity = self.me, "this replica leads");
            }
            sleep(PERIOD).await;
        }
    }

    /// Releases the Lease, so that the next leader need not wait. A failure only costs time.
    pub(crate) async fn release(&self) {
        let release = async {
            let mut lease = self.api.get(self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.me) {
                spec.holder_identity = Some(String::new());
                self.api.replace(self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        let _ = timeout(REQUEST_LIMIT, release).await;
    }

    /// Reads the Lease, and takes or renews it if possible. Returns whether this replica holds it.
    async fn check(&mut self) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.api.get_opt(self.name).await? else {
            return self.create().await;
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => self.seen.insert((version, Instant::now())).1,
        };
        let before = lease.spec.take().unwrap_or_default();
        let step = step(&before, &self.me, since.elapsed());
        if step == LeaseStep::Wait {
            return Ok(false);
        }
        lease.spec = Some(written(&before, &self.me, step, Timestamp::now()));
        mine(self.api.replace(self.name, &PostParams::default(), &lease).await)
    }

    async fn create(&self) -> Result<bool, kube::Error> {
        let metadata = ObjectMeta { name: Some(self.name.to_owned()), ..ObjectMeta::default() };
        let spec = written(&LeaseSpec::default(), &self.me, LeaseStep::Take, Timestamp::now());
        mine(self.api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await)
    }
}

/// Whether the write succeeded. A conflict means that another replica was faster, which is no error.
fn mine(written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> LeaseSpec {
        written(&LeaseSpec::default(), holder, LeaseStep::Take, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_lease_of_another_replica_is_taken_only_after_its_whole_duration_without_change() {
        assert_eq!(step(&held_by("other"), "me", DURATION), LeaseStep::Wait);
        assert_eq!(step(&held_by("other"), "me", DURATION + Duration::from_millis(1)), LeaseStep::Take);
    }

    #[test]
    fn a_released_lease_is_taken_at_once_and_an_own_one_is_renewed() {
        assert_eq!(step(&held_by(""), "me", Duration::ZERO), LeaseStep::Take);
        assert_eq!(step(&LeaseSpec::default(), "me", Duration::ZERO), LeaseStep::Take);
        assert_eq!(step(&held_by("me"), "me", Duration::ZERO), LeaseStep::Renew);
    }

    #[test]
    fn renewal_keeps_acquire_time_and_transitions() {
        let taken = held_by("me");
        let renewed = written(&taken, "me", LeaseStep::Renew, Timestamp::from_second(7).expect("a time"));
        assert_eq!((renewed.acquire_time, renewed.lease_transitions), (taken.acquire_time, Some(1)));
        assert_ne!(renewed.renew_time, taken.renew_time);
    }

    #[test]
    fn a_leader_stops_before_another_replica_may_begin() {
        // After a check of the deadline, a pause and a slow request may pass before the next one.
        assert!(DEADLINE + PERIOD + REQUEST_LIMIT < DURATION);
    }
}
