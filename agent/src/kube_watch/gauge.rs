//! The state of the watches of each kind, for the metrics. Decides nothing.
//!
//! A bookmark is not visible to the reader of a watch, so the last event is observed at the response body: whatever
//! the API server sends on a watch counts as an event, an object and a bookmark alike.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;

use crate::metrics::Recorder;

/// All watches of a process.
#[derive(Default)]
pub(crate) struct WatchHealth {
    /// Where the metrics go; without it nothing is published.
    recorder: Option<Arc<Recorder>>,
    /// The watches of each resource, and how many of them are complete.
    counts: Mutex<BTreeMap<&'static str, (usize, usize)>>,
}

/// The state of one watch. Dropping it ends the watch for the metrics.
pub(crate) struct WatchGauge {
    health: Arc<WatchHealth>,
    resource: &'static str,
    synced: bool,
}

impl WatchHealth {
    /// Publishes to `recorder`.
    pub(crate) fn new(recorder: Arc<Recorder>) -> Self {
        Self { recorder: Some(recorder), counts: Mutex::default() }
    }

    /// Begins a watch of `resource`.
    pub(crate) fn begin(self: &Arc<Self>, resource: &'static str) -> WatchGauge {
        self.count(resource, |(all, _)| *all += 1);
        WatchGauge { health: Arc::clone(self), resource, synced: false }
    }

    fn count(&self, resource: &'static str, change: impl FnOnce(&mut (usize, usize))) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(resource).or_default();
        change(count);
        if let Some(recorder) = &self.recorder {
            recorder.watch_synced(resource, count.0 == count.1);
        }
    }

    fn received(&self, resource: &'static str) {
        if let Some(recorder) = &self.recorder {
            recorder.watch_event(resource, Timestamp::now().as_millisecond() as f64 / 1000.0);
        }
    }
}

impl WatchGauge {
    /// A client for this watch alone: it records the time whenever a successful response delivers data.
    pub(crate) fn observe(&self, client: &Client) -> Client {
        let (inner, health, resource) = (client.clone(), Arc::clone(&self.health), self.resource);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (inner, health) = (inner.clone(), Arc::clone(&health));
            async move {
                let (head, body) = inner.send(request).await?.into_parts();
                let counts = head.status.is_success();
                let body = body.map_frame(move |frame| {
                    if counts && frame.is_data() {
                        health.received(resource);
                    }
                    frame
                });
                Ok::<_, kube::Error>(Response::from_parts(head, body))
            }
        });
        Client::new(service, client.default_namespace()).with_valid_until(*client.valid_until())
    }

    /// Counts a failure of the watch, or an object that could not be read.
    pub(crate) fn failed(&self) {
        if let Some(recorder) = &self.health.recorder {
            recorder.watch_error(self.resource);
        }
    }

    /// Records whether the watch is established and its set complete.
    pub(crate) fn set_synced(&mut self, synced: bool) {
        if self.synced != synced {
            self.synced = synced;
            self.health.count(self.resource, |(_, complete)| {
                *complete = complete.wrapping_add_signed(if synced { 1 } else { -1 })
            });
        }
    }
}

impl Drop for WatchGauge {
    fn drop(&mut self) {
        self.set_synced(false);
        self.health.count(self.resource, |(all, _)| *all -= 1);
    }
}
