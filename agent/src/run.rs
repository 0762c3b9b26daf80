//! Builds every module of the agent, connects them, and waits for the end.
//!
//! Decides nothing but where objects come from. Nothing is detached at the end, so enforcement goes on.

mod counters;
mod failures;
mod input_watch;
mod names;
mod observed;
mod state_events;
mod timed_dataplane;

pub(crate) use names::addresses;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
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
use crate::reconcile::{self, LoopObserver, Now, ReconcileState, Snapshot, TimedChange};
use crate::socket::{self, Shown};
use crate::{links, nri, runtime, source, watch as cluster};
use policy::model::input::{Change, Subject};
use policy::model::settings::CgroupGuardMode;

/// Capacity of the channels of changes to the loop.
const CHANGES: usize = 1024;
/// How long records wait for names after the start.
const NAMES_WITHIN: Duration = Duration::from_secs(10);
/// How often counters are read without a scrape, so the last packets of a slot are counted for its owner.
const SETTLE: Duration = Duration::from_secs(5);

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// Programs, maps or pins could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The tables of an earlier agent could not be read.
    #[error("cannot read Bulkhead's tables in the kernel")]
    Load(#[from] DataplaneError),
    /// The event maps could not be read.
    #[error("cannot read events")]
    Ring(#[from] RingError),
    /// The object lacks a map.
    #[error("the eBPF object lacks a map")]
    Map(#[from] MapError),
    /// The address of the pages could not be bound.
    #[error(transparent)]
    Http(#[from] http::BindError),
    /// The local socket could not be bound.
    #[error(transparent)]
    Socket(#[from] socket::SocketError),
    /// The interfaces could not be read.
    #[error(transparent)]
    Links(#[from] links::LinksError),
    /// The client of the API server could not be built.
    #[error("cannot build a client for the API server")]
    Cluster(#[from] Box<kube::Error>),
    /// The configuration of the cluster could not be read.
    #[error("cannot read the cluster's configuration")]
    Kubeconfig(#[from] Box<kube::config::InferConfigError>),
    /// A thread or a stream could not be started.
    #[error("cannot {operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

fn system(operation: &'static str) -> impl Fn(std::io::Error) -> RunError {
    move |source| RunError::System { operation, source }
}

/// Runs the agent until `shutdown` is done. Nothing is detached at the end.
///
/// # Errors
/// Only what prevents the start.
pub(crate) async fn run(mut config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let start = Start { began: Timestamp::now(), instant: Instant::now(), clock: Clock::now() };
    let recorder = Arc::new(Recorder::default());
    let mut kernel = open_kernel(&mut config, &recorder, &start)?;
    let EventPath { ring, pipeline, hub, stats, history } = event_path(&config, &mut kernel, start.clock)?;

    let state = ReconcileState::start(&mut kernel, config.settings.clone())?;
    let (snapshot_sender, snapshots) = watch::channel(Arc::clone(state.snapshot()));
    let counters = counters::CounterMaps::new(&mut kernel, snapshots.clone(), &config.sizes)?;
    let (recorded, counted) = (Arc::clone(&recorder), Arc::clone(&stats));
    let metrics = Arc::new(Metrics::new(Box::new(counters), recorded, counted, config.metrics_max_tenants));
    let shown = Observed { loaded: true, ..Observed::default() };
    let observed = crate::health::SharedObserved::from(Arc::new(arc_swap::ArcSwap::from_pointee(shown)));

    let pages = http::bind(config.listen).await?;
    let bound = socket::bind(&config.socket).await?;
    let status = status(&config, start.began, &observed, &metrics, &stats);
    let page_data = AgentPages { metrics: Arc::clone(&metrics), observed: Arc::clone(&observed) };
    tokio::spawn(http::serve(pages, Arc::new(page_data), std::future::pending()));
    tokio::spawn(socket::serve(bound, Shown { hub, status }, std::future::pending()));
    let (change_sender, change_receiver) = mpsc::channel(CHANGES);
    let first_seen = links::FirstSeen::default();
    tokio::spawn(links::follow(config.netns_dir.clone(), first_seen.clone(), change_sender.clone()));
    if config.settings.input_guard {
        input_watch::start(change_sender.clone()).map_err(system("start the thread that watches the input guard"))?;
    }
    let shared = observed::SharedInputs::default();
    follow(&config, change_sender, &shared, &recorder).await?;
    let (nri_sender, nri_state) = watch::channel(NriState::default());
    if let Some(socket) = &config.nri {
        let gate = nri::Gate::new(snapshots.clone(), Arc::clone(&recorder));
        tokio::spawn(nri::follow(socket.clone(), gate, nri_sender));
    }
    tokio::spawn(settle(Arc::clone(&metrics)));
    let last_turn = Arc::<AtomicI64>::default();
    let names_known = names_known(Arc::clone(&observed));
    let inputs = observed::WatcherInputs { shared, last_turn: Arc::clone(&last_turn), nri: nri_state };
    let watcher = observed::SnapshotWatcher::new(observed, history, inputs, Arc::clone(&recorder), start.instant);
    let (notice_sender, notices) = mpsc::channel(64);
    let state_events = tokio::spawn(state_events::follow(snapshots.clone(), notice_sender.clone()));
    tokio::spawn(watcher.follow(snapshots));
    let dataplane = timed_dataplane::TimedDataplane::new(kernel, Arc::clone(&recorder), first_seen);
    let loop_thread =
        spawn_loop(state, dataplane, LoopRecorder { recorder, last_turn }, change_receiver, snapshot_sender)?;
    let events = tokio::spawn(async move {
        names_known.await;
        events::run(ring, pipeline, notices).await;
    });
    let _ = notice_sender.send(state_notice(&config, AgentStateChange::AgentStarted, "agent started")).await;

    shutdown.await;
    tracing::info!("stopping; attached programs go on enforcing (`bulkhead cleanup` removes them)");
    state_events.abort();
    let _ = state_events.await;
    let _ = notice_sender.send(state_notice(&config, AgentStateChange::AgentStopping, "agent stopping")).await;
    drop(notice_sender);
    let _ = events.await;
    drop(loop_thread);
    Ok(())
}

/// When the agent started.
struct Start {
    began: Timestamp,
    instant: Instant,
    /// Read before anything is attached: older records are those of an earlier agent.
    clock: Clock,
}

/// Loads programs and maps, and turns the cgroup guard off if this kernel cannot run it.
fn open_kernel(config: &mut Config, recorder: &Recorder, start: &Start) -> Result<Kernel, RunError> {
    #[cfg_attr(not(feature = "ebpf-log"), expect(unused_mut, reason = "only forwarding the log changes it"))]
    let mut kernel = Kernel::open(&config.pins, &config.sizes)?;
    #[cfg(feature = "ebpf-log")]
    if let Err(error) = kernel.forward_log() {
        tracing::warn!(%error, "the programs of this build log nothing");
    }
    if config.settings.cgroup_guard == CgroupGuardMode::Auto
        && let Some(error) = kernel.no_groups()
    {
        tracing::warn!(%error, "the cgroup guard is off, because this kernel cannot run it");
        config.settings.cgroup_guard = CgroupGuardMode::Unsupported(error.to_string());
    }
    recorder.started(Phase::Load, start.instant.elapsed());
    tracing::info!(pins = %config.pins.display(), attach = ?kernel.method(), "programs and maps are in the kernel");
    Ok(kernel)
}

/// Everything between the ring buffer and the sinks.
struct EventPath {
    ring: Ring,
    pipeline: Pipeline,
    hub: Arc<Hub>,
    stats: Arc<EventStats>,
    history: Arc<History<Snapshot>>,
}

fn event_path(config: &Config, kernel: &mut Kernel, clock: Clock) -> Result<EventPath, RunError> {
    let stats = Arc::<EventStats>::default();
    let hub = Arc::new(Hub::new(&stats));
    let stdout = WriterSink::start("stdout", std::io::stdout(), &stats).map_err(system("start the stdout sink"))?;
    let history = Arc::new(History::<Snapshot>::default());
    let enricher = Enricher::new(config.node.clone(), config.cluster.clone(), Arc::clone(&history) as _);
    let mut ring = ring(kernel)?;
    let sinks: Vec<Arc<dyn Sink>> = vec![Arc::new(stdout), Arc::clone(&hub) as _];
    let bounds = AggregatorBounds { windows: 16_384, seen: 4 * 1024 * aya::util::nr_cpus().unwrap_or(1) };
    let limits = (bounds, Rates::default());
    let pipeline = Pipeline::new(enricher, sinks, Arc::clone(&stats), limits, ring.all_held_back()?, clock);
    Ok(EventPath { ring, pipeline, hub, stats, history })
}

/// Waits for the first names, but no longer than [`NAMES_WITHIN`]. Records of the time without an agent wait in the
/// ring buffer meanwhile; without the wait their events would lack names.
async fn names_known(observed: crate::health::SharedObserved) {
    for _ in 0..NAMES_WITHIN.as_millis() / 20 {
        if observed.load().synced {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts the source of objects that the configuration names.
async fn follow(
    config: &Config,
    changes: mpsc::Sender<Change>,
    shared: &observed::SharedInputs,
    recorder: &Arc<Recorder>,
) -> Result<(), RunError> {
    let paths = match &config.source {
        ConfigSource::Files(path) => {
            tokio::spawn(source::follow(path.clone(), changes, Arc::clone(&shared.findings)));
            return Ok(());
        }
        ConfigSource::Kubernetes { cni_cache, cgroups } => runtime::SandboxPaths {
            cache: cni_cache.clone(),
            namespaces: config.netns_dir.clone(),
            groups: runtime::cgroups::hierarchy(cgroups),
        },
    };
    let inferred = kube::Config::infer().await.map_err(Box::new)?;
    let watches = cluster::WatchConfig {
        client: kube::Client::try_from(inferred).map_err(Box::new)?,
        node: config.node.clone(),
        settings: config.settings.clone(),
        recorder: Arc::clone(recorder),
        missing_ranges: Arc::clone(&shared.missing_ranges),
        invalid_tenants: Arc::clone(&shared.invalid_tenants),
    };
    let (sandbox_sender, sandbox_receiver) = watch::channel(None);
    tokio::spawn(runtime::follow(paths, sandbox_sender));
    tokio::spawn(cluster::follow(watches, sandbox_receiver, changes));
    Ok(())
}

/// A change of the agent itself, with the mode of tenants that name none.
fn state_notice(config: &Config, state: AgentStateChange, what: &str) -> StateNotice {
    StateNotice {
        state,
        mode: Some(if config.settings.audit { EnforcementMode::Audit } else { EnforcementMode::Enforce }),
        tenant: None,
        unprotected: None,
        revision: None,
        message: format!("{what} on {}", config.node),
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

/// Adds to each change when it was observed, because a busy loop takes it in later.
async fn stamp(mut changes: mpsc::Receiver<Change>, to_loop: mpsc::Sender<TimedChange>, clock: impl Fn() -> Now) {
    while let Some(change) = changes.recv().await {
        if to_loop.send(TimedChange { change, seen: clock().tick }).await.is_err() {
            return;
        }
    }
}

/// Records what the loop reports.
struct LoopRecorder {
    recorder: Arc<Recorder>,
    /// When the loop was last alive, in seconds since 1970.
    last_turn: Arc<AtomicI64>,
}

impl LoopObserver for LoopRecorder {
    fn alive(&mut self) {
        self.last_turn.store(Timestamp::now().as_second(), Relaxed);
    }

    fn propagated(&mut self, subject: Subject, took: Duration) {
        self.recorder.propagated(subject, took);
    }
}

/// Starts the loop on a thread of its own, because it blocks in system calls.
fn spawn_loop(
    state: ReconcileState,
    dataplane: timed_dataplane::TimedDataplane,
    observer: LoopRecorder,
    changes: mpsc::Receiver<Change>,
    snapshots: watch::Sender<Arc<Snapshot>>,
) -> Result<std::thread::JoinHandle<()>, RunError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(system("build a runtime"))?;
    let start = Instant::now();
    let clock = move || Now { unix: Timestamp::now().as_second(), tick: start.elapsed() };
    let (to_loop, timed) = mpsc::channel(CHANGES);
    tokio::spawn(stamp(changes, to_loop, clock));
    let run = move || drop(runtime.block_on(reconcile::run(state, dataplane, timed, snapshots, clock, observer)));
    std::thread::Builder::new().name("reconcile".into()).spawn(run).map_err(system("start the reconcile thread"))
}
