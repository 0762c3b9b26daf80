//! The controller: writes the status of every NetworkTenant, and removes the start-up taint from enforcing nodes.
//!
//! ```text
//! watches -> ControllerState -> report (pure, the model's own functions) -> differing statuses -> writes
//!                         \--> nodes to untaint, nodes without an agent
//! ```
//!
//! Enforcement does not depend on it: each node decides for itself, from the same objects and the same functions.
//! It refuses to know maps and programs. One replica leads; a status is written only if it differs.

pub(crate) mod conditions;
pub(crate) mod lease;
pub(crate) mod nodes;
pub(crate) mod pages;
pub(crate) mod state;
pub(crate) mod statuses;
pub(crate) mod watches;
pub(crate) mod write;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use kube::{Api, Client};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use self::conditions::{is_current, of_kind};
use self::lease::{LeadershipLost, LeaseHolder};
use self::nodes::Absences;
use self::pages::ControllerPages;
use self::state::{ControllerEvent, ControllerState, Urgency};
use self::statuses::Report;
use self::write::{WriteError, Writer};
use crate::config::controller::ControllerConfig;
use crate::http::{self, BindError};
use crate::kube_watch::update::Update;

/// Name of the Lease.
const LEASE: &str = "bulkhead-controller";
/// How many events may wait for the loop.
const EVENTS: usize = 1024;
/// Delay before a pass after an event. Events come in bursts, and one pass serves a whole burst.
const SOON: Duration = Duration::from_millis(100);
/// Delay before a pass after a mere change of pod counts, which are frequent.
const LATER: Duration = Duration::from_secs(5);
/// Longest time between two passes. A pass finds nodes without an agent and retries failed writes.
const IDLE: Duration = Duration::from_secs(15);
/// How many statuses are written at the same time.
const WRITES: usize = 8;

/// What ends the controller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControllerError {
    /// The cluster's configuration cannot be used.
    #[error("cannot create a Kubernetes client from the kubeconfig or the service account")]
    Client(#[source] kube::Error),
    /// There is no configuration of a cluster.
    #[error("found neither a kubeconfig nor a service account; set KUBECONFIG or run in a pod of the cluster")]
    Config(#[from] kube::config::InferConfigError),
    /// The pages cannot be served.
    #[error(transparent)]
    Http(#[from] BindError),
    /// Leadership is lost.
    #[error(transparent)]
    Lost(#[from] LeadershipLost),
}

/// Runs until `shutdown` is done or leadership is lost.
///
/// # Errors
/// What prevents the start, and the loss of leadership. The process is then restarted, which makes it a follower.
pub(crate) async fn run(config: ControllerConfig, shutdown: impl Future<Output = ()>) -> Result<(), ControllerError> {
    let client = Client::try_from(kube::Config::infer().await?).map_err(ControllerError::Client)?;
    let listener = http::bind(config.listen).await?;
    let pages = Arc::<ControllerPages>::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(http::serve(listener, Arc::clone(&pages) as _, async {
        let _ = stopped.await;
    }));
    let (sender, events) = mpsc::channel(EVENTS);
    let watches = watches::start(&client, &config.namespace, &config.settings.keys, &sender);
    let leases = Api::namespaced(client.clone(), &config.namespace);
    let mut holder = LeaseHolder::new(leases, LEASE, config.identity.clone());
    let (lead, leading) = tokio::sync::watch::channel(false);
    let mut control = Control {
        state: ControllerState::new(config.settings),
        writer: Writer::new(client, &config.identity),
        absences: Absences::default(),
        pages,
    };
    let ended = tokio::select! {
        () = shutdown => Ok(()),
        lost = holder.hold(&lead) => Err(ControllerError::Lost(lost)),
        () = control.run_loop(events, leading) => Ok(()),
    };
    drop(watches);
    holder.release().await;
    let _ = stop.send(());
    let _ = serving.await;
    ended
}

/// The loop and its state.
struct Control {
    state: ControllerState,
    writer: Writer,
    absences: Absences,
    pages: Arc<ControllerPages>,
}

impl Control {
    /// Applies events and makes passes until every sender is gone.
    async fn run_loop(
        &mut self,
        mut events: mpsc::Receiver<ControllerEvent>,
        mut leading: tokio::sync::watch::Receiver<bool>,
    ) {
        let mut due = Instant::now() + IDLE;
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => due = due.min(self.apply(event)),
                    None => return,
                },
                changed = leading.changed() => match changed {
                    Ok(()) => due = Instant::now(),
                    Err(_) => return,
                },
                () = sleep_until(due) => {
                    let leads = *leading.borrow_and_update();
                    due = Instant::now() + self.pass(leads).await;
                }
            }
        }
    }

    fn apply(&mut self, event: ControllerEvent) -> Instant {
        let now = Instant::now();
        match self.state.apply(event) {
            Urgency::Soon => now + SOON,
            Urgency::Later => now + LATER,
            Urgency::Never => now + IDLE,
        }
    }

    /// Evaluates the whole state once. Returns when the next pass is due if no event comes before.
    async fn pass(&mut self, leads: bool) -> Duration {
        self.pages.record_pass();
        self.pages.leader.set(leads.into());
        let complete = self.state.missing().is_empty();
        self.pages.synced.store(complete, Ordering::Relaxed);
        if !complete {
            return IDLE;
        }
        let now = Timestamp::now();
        for node in self.absences.update(&self.state, now) {
            tracing::warn!(node, "node has had no ready agent for more than five minutes");
        }
        let report = statuses::report(&self.state, now);
        self.publish(&report, now);
        if leads {
            self.write_statuses(&report).await;
            self.untaint().await;
        }
        let end = report.next_end.map(|end| Duration::from_secs(u64::try_from(end - now.as_second()).unwrap_or(0)));
        end.unwrap_or(IDLE).clamp(SOON, IDLE)
    }

    async fn write_statuses(&mut self, report: &Report) {
        let state = &self.state;
        let differing = report.statuses.iter().filter_map(|(name, wanted)| {
            let current = &state.objects.get(name)?.status;
            (!is_current(current, wanted)).then_some((name.as_str(), current, wanted))
        });
        let writer = &self.writer;
        let write = |(name, current, wanted)| async move { (name, writer.status(name, current, wanted).await) };
        let written: Vec<_> = stream::iter(differing).map(write).buffer_unordered(WRITES).collect().await;
        for (name, result) in written {
            self.count(result.as_ref().err());
            match result {
                // Apply it before the watch delivers it, so that the next pass starts from the new transition times.
                Ok(object) => _ = self.state.apply(ControllerEvent::Tenant(Update::Upsert(Box::new(object)))),
                Err(error) => {
                    tracing::warn!(%error, tenant = name, "cannot write the status; the next pass tries again")
                }
            }
        }
    }

    async fn untaint(&self) {
        for node in nodes::to_untaint(&self.state) {
            let result = self.writer.untaint(node).await;
            self.count(result.as_ref().err());
            if let Err(error) = result {
                tracing::warn!(%error, node, "cannot remove the start-up taint; the next pass tries again");
            }
        }
    }

    fn count(&self, error: Option<&WriteError>) {
        let result = if error.is_some() { "error" } else { "ok" };
        self.pages.writes.get_or_create(&[("result", result)]).inc();
    }

    fn publish(&self, report: &Report, now: Timestamp) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let is_ready = |status: &&crate::api::NetworkTenantStatus| {
            of_kind(status, "Ready").is_some_and(|condition| condition.status == "True")
        };
        let ready = report.statuses.values().filter(is_ready).count();
        self.pages.tenants.get_or_create(&[("ready", "true")]).set(gauge(ready));
        self.pages.tenants.get_or_create(&[("ready", "false")]).set(gauge(report.statuses.len() - ready));
        self.pages.conflicts.clear();
        for (kind, count) in &report.conflicts {
            self.pages.conflicts.get_or_create(&[("kind", *kind)]).set(gauge(*count));
        }
        let tainted = self.state.nodes.values().filter(|node| node.tainted).count();
        self.pages.tainted.set(gauge(tainted));
        self.pages.unguarded.set(gauge(self.absences.long(now).count()));
    }
}

#[cfg(test)]
mod tests;
