//! The controller: tells people what became of their objects, and frees nodes whose agent enforces.
//!
//! ```text
//! watches -> World -> report (pure, the model's own functions) -> difference to what is written -> writes
//!               \--> nodes to untaint, nodes without an agent
//! ```
//!
//! Nothing here is needed for enforcement: nodes decide by themselves, from the same objects and the same functions.
//! It refuses to know maps and programs. One replica leads; a write happens only where something differs.

pub mod conditions;
pub mod lease;
pub mod nodes;
pub mod pages;
pub mod statuses;
pub mod watch;
pub mod world;
pub mod write;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use kube::{Api, Client};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use self::conditions::{of_kind, says_already};
use self::lease::{Holder, Lost};
use self::nodes::Absences;
use self::pages::Pages;
use self::statuses::Report;
use self::world::{News, Told, Urgency, World};
use self::write::{WriteError, Writer};
use crate::config::controller::ControllerConfig;
use crate::http::BindError;

/// Name of the Lease.
const LEASE: &str = "bulkhead-controller";
/// News that wait for the loop.
const NEWS: usize = 1024;
/// News come in bursts: a look waits for the end of one.
const SOON: Duration = Duration::from_millis(100);
/// Counts of pods change all the time; nobody waits for them.
const LATER: Duration = Duration::from_secs(5);
/// The longest time without a look: absences are counted in minutes, and a failed write is tried again.
const IDLE: Duration = Duration::from_secs(15);
/// Writes at a time.
const WRITES: usize = 8;

/// What ends the controller.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Neither a kubeconfig nor a service account, or they are of no use.
    #[error("cannot find a Kubernetes cluster to talk to")]
    Client(#[source] kube::Error),
    /// Neither a kubeconfig nor a service account was found.
    #[error("cannot find a Kubernetes cluster to talk to")]
    Config(#[from] kube::config::InferConfigError),
    /// The pages.
    #[error(transparent)]
    Http(#[from] BindError),
    /// Leadership.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// Runs until `shutdown` is done or leadership is lost.
///
/// # Errors
/// What prevents the start, and the loss of leadership: the next start is the cleanest way to become a follower.
pub async fn run(config: ControllerConfig, shutdown: impl Future<Output = ()>) -> Result<(), ControllerError> {
    let client = Client::try_from(kube::Config::infer().await?).map_err(ControllerError::Client)?;
    let listener = pages::bind(config.listen).await?;
    let pages = Arc::<Pages>::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(pages::serve(listener, Arc::clone(&pages), async {
        let _ = stopped.await;
    }));
    let (sender, news) = mpsc::channel(NEWS);
    let watches = watch::start(&client, &config.namespace, &sender);
    let leases = Api::namespaced(client.clone(), &config.namespace);
    let mut holder = Holder::new(leases, LEASE, config.identity.clone());
    let (lead, leading) = tokio::sync::watch::channel(false);
    let mut control = Control {
        world: World::new(config.settings),
        writer: Writer::new(client, &config.identity),
        absences: Absences::default(),
        pages,
    };
    let ended = tokio::select! {
        () = shutdown => Ok(()),
        lost = holder.hold(&lead) => Err(ControllerError::Lost(lost)),
        () = control.turn_for_ever(news, leading) => Ok(()),
    };
    drop(watches);
    holder.release().await;
    let _ = stop.send(());
    let _ = serving.await;
    ended
}

/// The loop and what it holds.
struct Control {
    world: World,
    writer: Writer,
    absences: Absences,
    pages: Arc<Pages>,
}

impl Control {
    /// Takes in news and acts on them; ends only when nobody can send any more.
    async fn turn_for_ever(&mut self, mut news: mpsc::Receiver<News>, mut leading: tokio::sync::watch::Receiver<bool>) {
        let mut due = Instant::now() + IDLE;
        loop {
            tokio::select! {
                told = news.recv() => match told {
                    Some(told) => due = due.min(self.take(told)),
                    None => return,
                },
                changed = leading.changed() => match changed {
                    Ok(()) => due = Instant::now(),
                    Err(_) => return,
                },
                () = sleep_until(due) => {
                    let leads = *leading.borrow_and_update();
                    due = Instant::now() + self.look(leads).await;
                }
            }
        }
    }

    fn take(&mut self, told: News) -> Instant {
        let now = Instant::now();
        match self.world.apply(told) {
            Urgency::Soon => now + SOON,
            Urgency::Later => now + LATER,
            Urgency::Never => now + IDLE,
        }
    }

    /// One look at everything; returns when the next is due if nothing happens before.
    async fn look(&mut self, leads: bool) -> Duration {
        self.pages.turned();
        self.pages.leader.set(leads.into());
        let complete = self.world.missing().is_empty();
        self.pages.synced.store(complete, Ordering::Relaxed);
        if !complete {
            return IDLE;
        }
        let now = Timestamp::now();
        for node in self.absences.look(&self.world, now) {
            tracing::warn!(node, "no ready agent for more than five minutes");
        }
        let report = statuses::report(&self.world, now);
        self.show(&report, now);
        if leads {
            self.write_statuses(&report).await;
            self.untaint().await;
        }
        let end = report.next_end.map(|end| Duration::from_secs(u64::try_from(end - now.as_second()).unwrap_or(0)));
        end.unwrap_or(IDLE).clamp(SOON, IDLE)
    }

    async fn write_statuses(&mut self, report: &Report) {
        let world = &self.world;
        let differing = report.statuses.iter().filter_map(|(name, wanted)| {
            let current = &world.written.get(name)?.status;
            (!says_already(current, wanted)).then_some((name.as_str(), current, wanted))
        });
        let writer = &self.writer;
        let write = |(name, current, wanted)| async move { (name, writer.status(name, current, wanted).await) };
        let written: Vec<_> = stream::iter(differing).map(write).buffer_unordered(WRITES).collect().await;
        for (name, result) in written {
            self.count(result.as_ref().err());
            match result {
                // Before the watch tells it too: the next look must not take the old transition times for true.
                Ok(object) => _ = self.world.apply(News::Tenant(Told::One(object))),
                Err(error) => tracing::warn!(%error, tenant = name, "cannot write a status; it is tried again"),
            }
        }
    }

    async fn untaint(&self) {
        for node in nodes::to_untaint(&self.world) {
            let result = self.writer.untaint(node).await;
            self.count(result.as_ref().err());
            if let Err(error) = result {
                tracing::warn!(%error, node, "cannot remove the start-up taint; it is tried again");
            }
        }
    }

    fn count(&self, error: Option<&WriteError>) {
        let result = if error.is_some() { "error" } else { "ok" };
        self.pages.writes.get_or_create(&[("result", result)]).inc();
    }

    fn show(&self, report: &Report, now: Timestamp) {
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
        let tainted = self.world.nodes.values().filter(|node| node.tainted).count();
        self.pages.tainted.set(gauge(tainted));
        self.pages.unguarded.set(gauge(self.absences.long(now).count()));
    }
}

#[cfg(test)]
mod tests;
