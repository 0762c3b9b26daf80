//! The controller's own metrics and health: `/metrics`, `/healthz`, `/readyz`. Every metric is named here, once.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::http::{self, BindError};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// A loop that has not turned for so many seconds is stuck.
const STUCK: i64 = 120;

type Labels = [(&'static str, &'static str); 1];

/// What the loop tells of itself.
#[derive(Debug)]
pub struct Pages {
    /// 1 while this replica leads.
    pub leader: Gauge,
    /// Tenants by whether they are Ready.
    pub tenants: Family<Labels, Gauge>,
    /// Disputes by kind.
    pub conflicts: Family<Labels, Gauge>,
    /// Nodes that still wait for their agent.
    pub tainted: Gauge,
    /// Nodes without a ready agent for more than five minutes.
    pub unguarded: Gauge,
    /// Writes by result.
    pub writes: Family<Labels, Counter>,
    /// Everything was read completely once.
    pub synced: AtomicBool,
    turned: AtomicI64,
    registry: Registry,
}

impl Default for Pages {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("bulkhead_controller");
        let pages = Self {
            leader: Gauge::default(),
            tenants: Family::default(),
            conflicts: Family::default(),
            tainted: Gauge::default(),
            unguarded: Gauge::default(),
            writes: Family::default(),
            synced: AtomicBool::default(),
            turned: AtomicI64::new(Timestamp::now().as_second()),
            registry: Registry::default(),
        };
        registry.register("leader", "1 while this replica leads", pages.leader.clone());
        registry.register("tenants", "NetworkTenants by whether they are Ready", pages.tenants.clone());
        registry.register("conflicts", "Disputes between objects, by kind", pages.conflicts.clone());
        registry.register("nodes_tainted", "Nodes that wait for their first ready agent", pages.tainted.clone());
        let help = "Nodes without a ready agent for more than five minutes";
        registry.register("nodes_without_ready_agent", help, pages.unguarded.clone());
        registry.register("writes", "Statuses and taints written, by result", pages.writes.clone());
        Self { registry, ..pages }
    }
}

impl Pages {
    /// Notes that the loop turned.
    pub fn turned(&self) {
        self.turned.store(Timestamp::now().as_second(), Ordering::Relaxed);
    }

    fn is_stuck(&self) -> bool {
        Timestamp::now().as_second() - self.turned.load(Ordering::Relaxed) > STUCK
    }
}

/// Listens.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    http::bind(address).await
}

/// Answers until `shutdown` is done.
pub async fn serve(
    listener: TcpListener,
    pages: Arc<Pages>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(pages);
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

async fn metrics(State(pages): State<Arc<Pages>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &pages.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn healthz(State(pages): State<Arc<Pages>>) -> Response {
    page(!pages.is_stuck(), "the loop has not turned for two minutes\n")
}

async fn readyz(State(pages): State<Arc<Pages>>) -> Response {
    page(pages.synced.load(Ordering::Relaxed), "objects have not been read completely yet\n")
}

fn page(fine: bool, reason: &'static str) -> Response {
    if fine { "ok\n".into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, reason).into_response() }
}
