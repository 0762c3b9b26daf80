//! An API server for tests, in this process: each response is a list of JSON lines, to which a test may add later.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// One response of the server.
pub(crate) enum FakeResponse {
    /// Status and lines; the body ends after them.
    Ended(u16, Vec<Value>),
    /// Lines; the body stays open, and the sender adds more.
    Open(Vec<Value>, mpsc::UnboundedReceiver<Value>),
    /// Lines; the body stays open without any more.
    Quiet(Vec<Value>),
    /// No response at all.
    Silent,
}

/// A client of a server that answers each path and query with `respond`.
pub(crate) fn client(respond: impl Fn(&str, &str) -> FakeResponse + Send + 'static) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let response = respond(request.uri().path(), request.uri().query().unwrap_or_default());
        async move {
            let (status, body) = match response {
                FakeResponse::Silent => return std::future::pending().await,
                FakeResponse::Ended(status, lines) => (status, Full::new(text(&lines)).boxed_unsync()),
                FakeResponse::Open(lines, more) => (200, open(lines, more)),
                FakeResponse::Quiet(lines) => (200, quiet(&lines)),
            };
            Ok::<_, Infallible>(Response::builder().status(status).body(body).expect("a response"))
        }
    });
    Client::new(service, "default")
}

fn text(lines: &[Value]) -> Bytes {
    lines.iter().map(|line| format!("{line}\n")).collect::<String>().into()
}

fn open(lines: Vec<Value>, more: mpsc::UnboundedReceiver<Value>) -> UnsyncBoxBody<Bytes, Infallible> {
    let frame = |bytes| Ok::<_, Infallible>(http_body::Frame::data(bytes));
    let first = stream::iter([frame(text(&lines))]);
    let rest = stream::unfold(more, move |mut more| async move {
        let line = more.recv().await?;
        Some((frame(text(&[line])), more))
    });
    StreamBody::new(futures_util::StreamExt::chain(first, rest)).boxed_unsync()
}

fn quiet(lines: &[Value]) -> UnsyncBoxBody<Bytes, Infallible> {
    let first = stream::iter([Ok(http_body::Frame::data(text(lines)))]);
    StreamBody::new(futures_util::StreamExt::chain(first, stream::pending())).boxed_unsync()
}

/// A watch event.
pub(crate) fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

/// A NetworkTenant that selects namespaces by `team`.
pub(crate) fn tenant(name: &str, team: Value) -> Value {
    json!({"apiVersion": "bulkhead.dev/v1alpha1", "kind": "NetworkTenant",
        "metadata": {"name": name, "uid": name, "resourceVersion": "7"},
        "spec": {"namespaceSelector": {"matchLabels": {"team": team}}}})
}

/// The bookmark that ends the initial list of a watch.
pub(crate) fn end_of_list() -> Value {
    bookmark(json!({"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}))
}

/// A bookmark with this metadata.
pub(crate) fn bookmark(metadata: Value) -> Value {
    event("BOOKMARK", json!({"apiVersion": "v1", "kind": "Any", "metadata": metadata}))
}
