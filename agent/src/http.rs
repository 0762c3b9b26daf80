//! Metrics and health over HTTP, for Prometheus and the kubelet: `/metrics`, `/healthz`, `/readyz`.
//!
//! Reads only values that other modules publish. No request changes anything. The default address is on loopback,
//! because the counters name tenants.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use tokio::net::TcpListener;

use crate::health::{self, SharedObserved};
use crate::metrics::Metrics;

/// Default address.
pub(crate) const LISTEN: &str = "127.0.0.1:9481";

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What the three pages show, for the agent and the controller alike.
pub(crate) trait Pages: Send + Sync + 'static {
    /// The metrics as OpenMetrics text, or why they cannot be written. It may block.
    fn metrics(&self) -> Result<String, std::fmt::Error>;
    /// Why the process should be restarted; empty if it is alive.
    fn not_live(&self) -> Vec<String>;
    /// Why the process is not ready; empty if it is.
    fn not_ready(&self) -> Vec<String>;
}

/// The pages of the agent.
pub(crate) struct AgentPages {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The state.
    pub observed: SharedObserved,
}

impl Pages for AgentPages {
    fn metrics(&self) -> Result<String, std::fmt::Error> {
        Ok(self.metrics.scrape(&self.observed.load()))
    }

    fn not_live(&self) -> Vec<String> {
        health::not_live(&self.observed.load(), Timestamp::now())
    }

    fn not_ready(&self) -> Vec<String> {
        health::not_ready(&self.observed.load())
    }
}

/// Why no socket can listen on the address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for metrics and health on {address}")]
pub(crate) struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Listens on `address`.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, source })
}

/// Serves the pages until `shutdown` completes.
pub(crate) async fn serve(
    listener: TcpListener,
    pages: Arc<dyn Pages>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(pages);
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

async fn metrics(State(pages): State<Arc<dyn Pages>>) -> Response {
    // Reading the kernel's maps takes thousands of short system calls.
    match tokio::task::spawn_blocking(move || pages.metrics()).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "the counters could not be read\n").into_response(),
    }
}

async fn healthz(State(pages): State<Arc<dyn Pages>>) -> Response {
    page(&pages.not_live())
}

async fn readyz(State(pages): State<Arc<dyn Pages>>) -> Response {
    page(&pages.not_ready())
}

fn page(reasons: &[String]) -> Response {
    let header = [(header::CONTENT_TYPE, PLAIN)];
    if reasons.is_empty() {
        return (header, "ok\n".to_owned()).into_response();
    }
    let list: String = reasons.iter().map(|reason| format!("{}\n", reason.escape_debug())).collect();
    (StatusCode::SERVICE_UNAVAILABLE, header, list).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Observed;
    use crate::metrics::{KernelCounters, MapUsage, Recorder, SlotCounters};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    struct NoMaps;

    impl KernelCounters for NoMaps {
        fn owners(&self) -> Vec<(u16, String)> {
            Vec::new()
        }
        fn slot(&self, _: u16) -> io::Result<SlotCounters> {
            Err(io::ErrorKind::NotFound.into())
        }
        fn input_drops(&self) -> Vec<(&'static str, u64)> {
            Vec::new()
        }
        fn guard_drops(
            &self,
            _: agent_common::guard::Guard,
            _: agent_common::reason::DropReason,
        ) -> io::Result<agent_common::counters::Counter> {
            Err(io::ErrorKind::NotFound.into())
        }
        fn maps(&self) -> Vec<MapUsage> {
            Vec::new()
        }
        fn memory(&self) -> Vec<(&'static str, u64)> {
            Vec::new()
        }
    }

    async fn page_of(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    #[tokio::test]
    async fn all_three_pages_are_served_and_readyz_states_what_is_missing() {
        let metrics = Metrics::new(Box::new(NoMaps), Arc::default(), Arc::default(), 10);
        let observed = SharedObserved::default();
        let pages = AgentPages { metrics: Arc::new(metrics), observed: Arc::clone(&observed) };
        let listener = bind("127.0.0.1:0".parse().expect("an address")).await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, Arc::new(pages), async {
            let _ = stopped.await;
        }));

        assert!(page_of(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let ready = page_of(address, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("not all objects have been read"), "{ready}");
        observed.store(Arc::new(Observed { loaded: true, synced: true, ..Observed::default() }));
        assert!(page_of(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let page = page_of(address, "/metrics").await;
        assert!(page.contains("application/openmetrics-text") && page.ends_with("# EOF\n"), "{page}");
        assert!(page.contains("map=\"counters\",operation=\"read\""), "a counter that cannot be read is counted");

        stop.send(()).expect("the server still runs");
        server.await.expect("no panic").expect("a clean end");
    }

    #[test]
    fn recorder_and_metrics_can_be_shared() {
        fn shared<T: Send + Sync>() {}
        shared::<Recorder>();
        shared::<Metrics>();
    }
}
