//! Builds every module of the agent, connects them, and waits for the end.
//!
//! Decides nothing but where objects come from. Nothing is detached at the end, so enforcement goes on.

mod counters;
mod names;
mod observed;
mod timed_dataplane;

pub use names::addresses;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use agent_common::maps;
use aya::maps::MapError;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::config::{Config, ConfigSource};
use crate::dataplane::DataplaneError;
use crate::dataplane::kernel::{Kernel, OpenError};
use crate::events;
use crate::events::aggregate::AggregatorBounds;
use crate::events::enrich::Enricher;
use crate::events::history::History;
use crate::events::limit::Rates;
use crate::events::pipeline::{Pipeline, StateNotice};
use crate::events::ring::{Ring, RingError};
use crate::events::schema::{AgentStateChange, EnforcementMode};
use crate::events::sink::Sink;
use crate::events::sink::hub::Hub;
use crate::events::sink::writer::WriterSink;
use crate::events::stats::EventStats;
use crate::health::{NriState, Observed};
use crate::http::{self, AgentPages};
use crate::metrics::recorder::Phase;
use crate::metrics::{Metrics, Recorder};
use crate::reconcile::{self, Now, ReconcileState, Snapshot, TimedChange};
use crate::socket::{self, Shown};
use crate::{links, nri, runtime, source, watch as cluster};
use policy::model::input::Change;
use policy::model::settings::CgroupGuardMode;

/// Changes that wait for the loop.
const CHANGES: usize = 1024;
/// How long records wait for names at the start.
const NAMES_WITHIN: Duration = Duration::from_secs(10);
/// How often counters are read without a scrape, so that a slot's last packets are its owner's.
const SETTLE: Duration = Duration::from_secs(5);

/// What ends the agent before it began, one message each.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Programs, maps, pins.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What an earlier agent left could not be read.
    #[error("cannot read what is in the kernel")]
    Load(#[from] DataplaneError),
    /// The event maps.
    #[error("cannot read events")]
    Ring(#[from] RingError),
    /// A map is missing.
    #[error("cannot take a map of the object")]
    Map(#[from] MapError),
    /// The pages.
    #[error(transparent)]
    Http(#[from] http::BindError),
    /// The socket.
    #[error(transparent)]
    Socket(#[from] socket::SocketError),
    /// The interfaces.
    #[error(transparent)]
    Links(#[from] links::LinksError),
    /// The cluster.
    #[error("cannot tell which cluster to ask")]
    Cluster(#[from] Box<kube::Error>),
    /// Its configuration.
    #[error("cannot read the cluster's configuration")]
    Kubeconfig(#[from] Box<kube::config::InferConfigError>),
    /// A thread or a stream.
    #[error("cannot {operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

fn system(operation: &'static str) -> impl Fn(std::io::Error) -> RunError {
    move |source| RunError::System { operation, source }
}

/// Runs the agent until `shutdown` is done. Enforcement goes on after that: nothing is detached.
///
/// # Errors
/// Only what prevents the start.
pub async fn run(mut config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let started = Timestamp::now();
    let begun = Instant::now();
    // Before anything is attached: records that are older than this clock are an earlier agent's.
    let clock = Clock::now();
    let recorder = Arc::new(Recorder::default());
    let mut kernel = Kernel::open(&config.pins, &config.sizes)?;
    #[cfg(feature = "ebpf-log")]
    if let Err(error) = kernel.forward_log() {
        tracing::warn!(%error, "the programs of this build log nothing");
    }
    if config.settings.cgroup_guard == CgroupGuardMode::Auto
        && let Some(error) = kernel.no_groups()
    {
        tracing::warn!(%error, "no guard on the pods' control groups");
        config.settings.cgroup_guard = CgroupGuardMode::Unsupported(error.to_string());
    }
    recorder.started(Phase::Load, begun.elapsed());
    tracing::info!(pins = %config.pins.display(), attach = ?kernel.method(), "programs and maps are in the kernel");

    let stats = Arc::<EventStats>::default();
    let hub = Arc::new(Hub::new(&stats));
    let stdout = WriterSink::start("stdout", std::io::stdout(), &stats).map_err(system("start the stdout sink"))?;
    let history = Arc::new(History::<Snapshot>::default());
    let enricher = Enricher::new(config.node.clone(), config.cluster.clone(), Arc::clone(&history) as _);
    let mut ring = ring(&mut kernel)?;
    let sinks: Vec<Arc<dyn Sink>> = vec![Arc::new(stdout), Arc::clone(&hub) as _];
    let bounds = AggregatorBounds { windows: 16_384, seen: 4 * 1024 * aya::util::nr_cpus().unwrap_or(1) };
    let pipeline =
        Pipeline::new(enricher, sinks, Arc::clone(&stats), (bounds, Rates::default()), ring.all_held_back()?, clock);

    let state = ReconcileState::start(&mut kernel, config.settings.clone())?;
    let (snapshots, latest) = watch::channel(Arc::clone(state.snapshot()));
    let counters = counters::CounterMaps::new(&mut kernel, latest.clone(), &config.sizes)?;
    let metrics = Arc::new(Metrics::new(
        Box::new(counters),
        Arc::clone(&recorder),
        Arc::clone(&stats),
        config.metrics_max_tenants,
    ));
    let (changes, news) = mpsc::channel(CHANGES);
    let findings = Arc::<AtomicU64>::default();
    let invalid_tenants = Arc::<AtomicU64>::default();
    let observed = crate::health::SharedObserved::from(Arc::new(arc_swap::ArcSwap::from_pointee(Observed {
        loaded: true,
        ..Observed::default()
    })));
    let (notices, told) = mpsc::channel(64);

    let pages = http::bind(config.listen).await?;
    let bound = socket::bind(&config.socket).await?;
    let status = status(&config, started, &observed, &metrics, &stats);
    tokio::spawn(http::serve(
        pages,
        Arc::new(AgentPages { metrics: Arc::clone(&metrics), observed: Arc::clone(&observed) }),
        std::future::pending(),
    ));
    tokio::spawn(socket::serve(bound, Shown { hub, status }, std::future::pending()));
    let first_seen = links::FirstSeen::default();
    tokio::spawn(links::follow(config.netns_dir.clone(), first_seen.clone(), changes.clone()));
    follow(&config, changes, &findings, &recorder, Arc::clone(&invalid_tenants)).await?;
    let (nri, held) = watch::channel(NriState::default());
    if let Some(socket) = &config.nri {
        tokio::spawn(nri::follow(socket.clone(), nri::Gate::new(latest.clone(), Arc::clone(&recorder)), nri));
    }
    tokio::spawn(settle(Arc::clone(&metrics)));
    let named = names_known(Arc::clone(&observed));
    let watcher = observed::SnapshotWatcher::new(
        observed,
        history,
        (findings, invalid_tenants),
        Arc::clone(&recorder),
        held,
        begun,
    );
    tokio::spawn(watcher.follow(latest));
    let loop_thread = spawn_loop(
        state,
        timed_dataplane::TimedDataplane::new(kernel, Arc::clone(&recorder), first_seen),
        recorder,
        news,
        snapshots,
    )?;
    let events = tokio::spawn(async move {
        named.await;
        events::run(ring, pipeline, told).await;
    });
    let _ = notices.send(hello(&config)).await;

    shutdown.await;
    tracing::info!("stopping; what is attached goes on enforcing (`bulkhead cleanup` removes it)");
    drop(notices);
    let _ = events.await;
    drop(loop_thread);
    Ok(())
}

/// Done once the first names are there, or after as long as they may take: records that waited in the
/// ring buffer while no agent ran can wait a little longer, and lose nothing but their names if not.
async fn names_known(observed: crate::health::SharedObserved) {
    for _ in 0..NAMES_WITHIN.as_millis() / 20 {
        if observed.load().synced {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Where objects come from: the one place that chooses.
async fn follow(
    config: &Config,
    changes: mpsc::Sender<Change>,
    findings: &Arc<AtomicU64>,
    recorder: &Arc<Recorder>,
    invalid_tenants: Arc<AtomicU64>,
) -> Result<(), RunError> {
    let paths = match &config.source {
        ConfigSource::Files(path) => {
            tokio::spawn(source::follow(path.clone(), changes, Arc::clone(findings)));
            return Ok(());
        }
        ConfigSource::Kubernetes { cni_cache, cgroups } => runtime::SandboxPaths {
            cache: cni_cache.clone(),
            namespaces: config.netns_dir.clone(),
            groups: runtime::cgroups::hierarchy(cgroups),
        },
    };
    if config.settings.pod_cidrs.is_empty() {
        tracing::warn!("without --pod-cidr, addresses of pods that this node does not know count as outside");
    }
    let inferred = kube::Config::infer().await.map_err(Box::new)?;
    let watches = cluster::WatchConfig {
        client: kube::Client::try_from(inferred).map_err(Box::new)?,
        node: config.node.clone(),
        settings: config.settings.clone(),
        recorder: Arc::clone(recorder),
        invalid_tenants,
    };
    let (to, told) = watch::channel(None);
    tokio::spawn(runtime::follow(paths, to));
    tokio::spawn(cluster::follow(watches, told, changes));
    Ok(())
}

fn hello(config: &Config) -> StateNotice {
    StateNotice {
        state: AgentStateChange::AgentStarted,
        mode: Some(if config.settings.audit { EnforcementMode::Audit } else { EnforcementMode::Enforce }),
        tenant: None,
        revision: None,
        message: format!("agent started on {}", config.node),
    }
}

fn ring(kernel: &mut Kernel) -> Result<Ring, RunError> {
    Ok(Ring::new(
        kernel.take(maps::EVENTS.name)?.try_into()?,
        kernel.take(maps::DENIED_FLOWS.name)?.try_into()?,
        kernel.take(maps::EVENT_BUDGETS.name)?.try_into()?,
        kernel.take(maps::LOSS.name)?.try_into()?,
    )?)
}

fn status(
    config: &Config,
    started: Timestamp,
    observed: &crate::health::SharedObserved,
    metrics: &Arc<Metrics>,
    stats: &Arc<EventStats>,
) -> Arc<dyn Fn() -> socket::protocol::AgentStatus + Send + Sync> {
    let (node, cluster) = (config.node.clone(), config.cluster.clone());
    let (observed, metrics, stats) = (Arc::clone(observed), Arc::clone(metrics), Arc::clone(stats));
    Arc::new(move || {
        let totals = metrics.settle();
        let now = Observed::clone(&observed.load());
        let mut status = socket::protocol::AgentStatus::of(node.clone(), cluster.clone(), started, now);
        (status.dropped, status.audited) = (totals.dropped, totals.audited);
        status.events_lost = stats.lost_total();
        status
    })
}

async fn settle(metrics: Arc<Metrics>) {
    loop {
        tokio::time::sleep(SETTLE).await;
        let metrics = Arc::clone(&metrics);
        let _ = tokio::task::spawn_blocking(move || metrics.settle()).await;
    }
}

/// Notes when each change was seen: the loop may be busy, and takes them in later.
async fn stamp(mut changes: mpsc::Receiver<Change>, news: mpsc::Sender<TimedChange>, clock: impl Fn() -> Now) {
    while let Some(change) = changes.recv().await {
        if news.send(TimedChange { change, seen: clock().tick }).await.is_err() {
            return;
        }
    }
}

/// The loop blocks in system calls, so it has a thread of its own.
fn spawn_loop(
    state: ReconcileState,
    kernel: timed_dataplane::TimedDataplane,
    recorder: Arc<Recorder>,
    changes: mpsc::Receiver<Change>,
    snapshots: watch::Sender<Arc<Snapshot>>,
) -> Result<std::thread::JoinHandle<()>, RunError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(system("build a runtime"))?;
    let start = Instant::now();
    let clock = move || Now { unix: Timestamp::now().as_second(), tick: start.elapsed() };
    let (stamped, news) = mpsc::channel(CHANGES);
    tokio::spawn(stamp(changes, stamped, clock));
    let told = move |subject, took| recorder.propagated(subject, took);
    let run = move || drop(runtime.block_on(reconcile::run(state, kernel, news, snapshots, clock, told)));
    std::thread::Builder::new().name("reconcile".into()).spawn(run).map_err(system("start the reconcile thread"))
}
