//! One leader among the replicas, by a Lease.
//!
//! The rule is the one of Kubernetes' own components: a Lease that has not changed for its whole duration, by our own
//! clock, is nobody's. Clocks of other machines are never compared. Whoever cannot renew in time stops leading before
//! anybody else may begin, and every write is conditional on the version that was read.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// For how long a Lease that nobody renews holds.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long has stopped leading.
const DEADLINE: Duration = Duration::from_secs(8);
/// Between two looks.
const PERIOD: Duration = Duration::from_secs(2);
/// For one request.
const PATIENCE: Duration = Duration::from_secs(4);

/// Another replica may lead now; this one begins anew.
#[derive(Debug, thiserror::Error)]
#[error("the Lease could not be renewed in time: another replica may lead")]
pub struct Lost;

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is ours: say so again.
    Renew,
    /// It is nobody's: take it.
    Take,
    /// It is somebody else's.
    Wait,
}

/// What to do about a Lease that has not changed for `unchanged`.
pub fn step(lease: &LeaseSpec, me: &str, unchanged: Duration) -> Step {
    match lease.holder_identity.as_deref().unwrap_or_default() {
        "" => Step::Take,
        holder if holder == me => Step::Renew,
        _ => {
            let seconds = lease.lease_duration_seconds.unwrap_or_default();
            let holds = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            if unchanged > holds { Step::Take } else { Step::Wait }
        }
    }
}

/// What a Lease says once `step` is done.
pub fn written(before: &LeaseSpec, me: &str, step: Step, now: Timestamp) -> LeaseSpec {
    let taken = step == Step::Take;
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

/// This replica's hand on the Lease.
pub struct Holder {
    api: Api<Lease>,
    name: &'static str,
    me: String,
    /// The version we last saw, and since when.
    seen: Option<(String, Instant)>,
}

impl Holder {
    /// Of the Lease `name`, as `me`.
    pub fn new(api: Api<Lease>, name: &'static str, me: String) -> Self {
        Self { api, name, me, seen: None }
    }

    /// Takes and renews the Lease for ever; tells whether we lead. Ends only when leadership is lost.
    pub async fn hold(&mut self, leading: &watch::Sender<bool>) -> Lost {
        let mut renewed: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            match timeout(PATIENCE, self.look()).await {
                // From before the request: the server may have written at once.
                Ok(Ok(true)) => renewed = Some(begun),
                Ok(Ok(false)) if renewed.is_some() => return Lost,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "cannot ask for the Lease"),
                Err(_) => tracing::warn!(lease = self.name, "the API server takes too long over the Lease"),
            }
            if renewed.is_some_and(|renewed| renewed.elapsed() > DEADLINE) {
                return Lost;
            }
            if leading.send_if_modified(|known| std::mem::replace(known, renewed.is_some()) != renewed.is_some()) {
                tracing::info!(lease = self.name, identity = self.me, "this replica leads");
            }
            sleep(PERIOD).await;
        }
    }

    /// Lets go, so that the next one need not wait. A failure costs only time.
    pub async fn release(&self) {
        let release = async {
            let mut lease = self.api.get(self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.me) {
                spec.holder_identity = Some(String::new());
                self.api.replace(self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        let _ = timeout(PATIENCE, release).await;
    }

    /// Looks once, and writes if that is ours to do; whether the Lease is ours now.
    async fn look(&mut self) -> Result<bool, kube::Error> {
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
        if step == Step::Wait {
            return Ok(false);
        }
        lease.spec = Some(written(&before, &self.me, step, Timestamp::now()));
        mine(self.api.replace(self.name, &PostParams::default(), &lease).await)
    }

    async fn create(&self) -> Result<bool, kube::Error> {
        let metadata = ObjectMeta { name: Some(self.name.to_owned()), ..ObjectMeta::default() };
        let spec = written(&LeaseSpec::default(), &self.me, Step::Take, Timestamp::now());
        mine(self.api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await)
    }
}

/// Somebody who was faster is an answer and no failure.
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
        written(&LeaseSpec::default(), holder, Step::Take, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_lease_of_somebody_else_is_left_alone_until_it_has_stood_still_for_its_whole_duration() {
        assert_eq!(step(&held_by("other"), "me", DURATION), Step::Wait);
        assert_eq!(step(&held_by("other"), "me", DURATION + Duration::from_millis(1)), Step::Take);
    }

    #[test]
    fn a_lease_that_was_let_go_is_taken_at_once_and_ones_own_is_renewed() {
        assert_eq!(step(&held_by(""), "me", Duration::ZERO), Step::Take);
        assert_eq!(step(&LeaseSpec::default(), "me", Duration::ZERO), Step::Take);
        assert_eq!(step(&held_by("me"), "me", Duration::ZERO), Step::Renew);
    }

    #[test]
    fn renewing_keeps_what_taking_wrote() {
        let taken = held_by("me");
        let renewed = written(&taken, "me", Step::Renew, Timestamp::from_second(7).expect("a time"));
        assert_eq!((renewed.acquire_time, renewed.lease_transitions), (taken.acquire_time, Some(1)));
        assert_ne!(renewed.renew_time, taken.renew_time);
    }

    #[test]
    fn a_leader_stops_before_anybody_else_may_begin() {
        // A look that passes the deadline's check may be followed by a pause and a slow request before the next check.
        assert!(DEADLINE + PERIOD + PATIENCE < DURATION);
    }
}
