//! Wiring: builds every room, connects them, waits for the end. No logic of its own.

mod counters;
mod names;
mod observed;

pub use names::addresses;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::MapError;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::dataplane::kernel::{Kernel, OpenError};
use crate::dataplane::{Dataplane, DataplaneError};
use crate::events::enrich::Enricher;
use crate::events::history::History;
use crate::events::intake::Bounds;
use crate::events::limit::Rates;
use crate::events::pipeline::{Notice, Pipeline};
use crate::events::ring::{Ring, RingError};
use crate::events::schema::{Mode, StateChange};
use crate::events::sink::Sink;
use crate::events::sink::hub::Hub;
use crate::events::sink::writer::WriterSink;
use crate::events::stats::EventStats;
use crate::events::{self, Clock};
use crate::health::Observed;
use crate::http::{self, Pages};
use crate::metrics::recorder::Phase;
use crate::metrics::{Metrics, Recorder};
use crate::reconcile::{self, Now, Snapshot, State};
use crate::socket::{self, Shown};
use crate::{links, source};

/// Changes that wait for the loop.
const CHANGES: usize = 1024;
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
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
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
    recorder.started(Phase::Load, begun.elapsed());
    tracing::info!(pins = %config.pins.display(), attach = ?kernel.method(), "programs and maps are in the kernel");

    let stats = Arc::<EventStats>::default();
    let hub = Arc::new(Hub::new(&stats));
    let stdout = WriterSink::start("stdout", std::io::stdout(), &stats).map_err(system("start the stdout sink"))?;
    let history = Arc::new(History::<Snapshot>::default());
    let enricher = Enricher::new(config.node.clone(), config.cluster.clone(), Arc::clone(&history) as _);
    let mut ring = ring(&mut kernel)?;
    let sinks: Vec<Arc<dyn Sink>> = vec![Arc::new(stdout), Arc::clone(&hub) as _];
    let bounds = Bounds { windows: 16_384, seen: 4 * 1024 * aya::util::nr_cpus().unwrap_or(1) };
    let pipeline =
        Pipeline::new(enricher, sinks, Arc::clone(&stats), (bounds, Rates::default()), ring.all_held_back()?, clock);

    let state = State::start(&mut kernel, config.settings.clone())?;
    let (snapshots, latest) = watch::channel(Arc::clone(state.snapshot()));
    let counters = counters::Counters::new(&mut kernel, latest.clone(), &config.sizes)?;
    let metrics = Arc::new(Metrics::new(
        Box::new(counters),
        Arc::clone(&recorder),
        Arc::clone(&stats),
        config.metrics_max_tenants,
    ));
    let (changes, news) = mpsc::channel(CHANGES);
    let findings = Arc::<source::Counters>::default();
    let observed = crate::health::Shared::from(Arc::new(arc_swap::ArcSwap::from_pointee(Observed {
        loaded: true,
        ..Observed::default()
    })));
    let (notices, told) = mpsc::channel(64);

    let pages = http::bind(config.listen).await?;
    let bound = socket::bind(&config.socket).await?;
    let status = status(&config, started, &observed, &metrics, &stats);
    tokio::spawn(http::serve(
        pages,
        Pages { metrics: Arc::clone(&metrics), observed: Arc::clone(&observed) },
        std::future::pending(),
    ));
    tokio::spawn(socket::serve(bound, Shown { hub, status }, std::future::pending()));
    tokio::spawn(links::follow(config.netns_dir.clone(), changes.clone()));
    tokio::spawn(source::follow(config.source.clone(), changes, Arc::clone(&findings)));
    tokio::spawn(settle(Arc::clone(&metrics)));
    let watcher = observed::Watcher::new(observed, history, findings, Arc::clone(&recorder), begun);
    tokio::spawn(watcher.follow(latest));
    let loop_thread = spawn_loop(state, kernel, news, snapshots)?;
    let events = tokio::spawn(events::run(ring, pipeline, told));
    let _ = notices.send(hello(&config)).await;

    shutdown.await;
    tracing::info!("stopping; what is attached goes on enforcing (`bulkhead cleanup` removes it)");
    drop(notices);
    let _ = events.await;
    drop(loop_thread);
    Ok(())
}

fn hello(config: &Config) -> Notice {
    Notice {
        state: StateChange::AgentStarted,
        mode: Some(if config.settings.audit { Mode::Audit } else { Mode::Enforce }),
        tenant: None,
        revision: None,
        message: format!("agent started on {}", config.node),
    }
}

fn ring(kernel: &mut Kernel) -> Result<Ring, RunError> {
    Ok(Ring::new(
        kernel.take("EVENTS")?.try_into()?,
        kernel.take("FOLD")?.try_into()?,
        kernel.take("LIMITS")?.try_into()?,
        kernel.take("LOSS")?.try_into()?,
    )?)
}

fn status(
    config: &Config,
    started: Timestamp,
    observed: &crate::health::Shared,
    metrics: &Arc<Metrics>,
    stats: &Arc<EventStats>,
) -> Arc<dyn Fn() -> socket::protocol::Status + Send + Sync> {
    let (node, cluster) = (config.node.clone(), config.cluster.clone());
    let (observed, metrics, stats) = (Arc::clone(observed), Arc::clone(metrics), Arc::clone(stats));
    Arc::new(move || {
        let totals = metrics.settle();
        let now = Observed::clone(&observed.load());
        let mut status = socket::protocol::Status::of(node.clone(), cluster.clone(), started, now);
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

/// The loop blocks in system calls, so it has a thread of its own.
fn spawn_loop(
    state: State,
    kernel: Kernel,
    news: mpsc::Receiver<crate::model::input::Change>,
    snapshots: watch::Sender<Arc<Snapshot>>,
) -> Result<std::thread::JoinHandle<()>, RunError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(system("build a runtime"))?;
    let start = Instant::now();
    let clock = move || Now { unix: Timestamp::now().as_second(), tick: start.elapsed() };
    let run = move || {
        let timed = Timed { kernel };
        drop(runtime.block_on(reconcile::run(state, timed, news, snapshots, clock)));
    };
    std::thread::Builder::new().name("reconcile".into()).spawn(run).map_err(system("start the reconcile thread"))
}

/// The kernel, told the time of day whenever something is written: grants end by it.
struct Timed {
    kernel: Kernel,
}

impl Dataplane for Timed {
    fn load(&mut self) -> Result<crate::plan::Actual, DataplaneError> {
        self.kernel.load()
    }

    fn apply(&mut self, op: &crate::plan::Op) -> Result<(), DataplaneError> {
        if matches!(op, crate::plan::Op::Generation(_)) {
            self.kernel.set_clock_offset(Clock::now().offset_ns)?;
        }
        self.kernel.apply(op)
    }

    fn attach(&mut self, port: &crate::dataplane::Port) -> Result<(), DataplaneError> {
        self.kernel.attach(port)
    }

    fn detach(&mut self, port: &crate::dataplane::Port) -> Result<(), DataplaneError> {
        self.kernel.detach(port)
    }

    fn is_intact(&mut self, port: &crate::dataplane::Port) -> bool {
        self.kernel.is_intact(port)
    }

    fn attached(&mut self) -> Result<Vec<crate::dataplane::Port>, DataplaneError> {
        self.kernel.attached()
    }
}
