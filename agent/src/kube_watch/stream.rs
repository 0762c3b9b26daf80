//! One watch, kept running: broken connections, restarts and unreadable objects are handled here.
//!
//! A restarted watch delivers its whole set again. Only a complete set replaces another, so a set that breaks off
//! changes nothing. Knows no kind of object.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Event, InitialListStrategy, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::gauge::{WatchGauge, WatchHealth};
use super::objects::key;
use super::update::{ReadObject, SnapshotBuilder, Update};

/// A watch without an error for this long is established. kube does not report that it resumed a watch.
const ESTABLISHED: Duration = Duration::from_secs(45);

/// One watch to run.
pub(crate) struct WatchTarget<R, E> {
    /// Name of the resource in logs and metrics.
    pub resource: &'static str,
    /// Which objects are selected.
    pub config: Config,
    /// Decodes an object; `None` if it does not concern the reader.
    pub read: R,
    /// Wraps an update for the channel.
    pub event: E,
}

/// Follows the objects of `target` until the receiver of `events` is gone.
pub(crate) async fn follow<K, T, V>(
    client: Client,
    api: impl FnOnce(Client) -> Api<DeserializeGuard<K>>,
    target: WatchTarget<impl Fn(K) -> Result<Option<T>, String>, impl Fn(Update<T>) -> V>,
    health: Arc<WatchHealth>,
    events: mpsc::Sender<V>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let gauge = health.begin(target.resource);
    let api = api(gauge.observe(&client));
    let mut config = target.config.clone().streaming_lists();
    let mut watch = RunningWatch { gauge, target, events, snapshot: SnapshotBuilder::default() };
    loop {
        match watch.run(&api, config.clone()).await {
            WatchEnd::NoStreamingLists => config.initial_list_strategy = InitialListStrategy::ListWatch,
            WatchEnd::ReceiverGone => return,
        }
    }
}

enum WatchEnd {
    ReceiverGone,
    /// The API server is too old for streaming lists, or they are switched off.
    NoStreamingLists,
}

struct RunningWatch<R, E, T, V> {
    gauge: WatchGauge,
    target: WatchTarget<R, E>,
    events: mpsc::Sender<V>,
    snapshot: SnapshotBuilder<T>,
}

impl<R, E, T, V> RunningWatch<R, E, T, V>
where
    E: Fn(Update<T>) -> V,
{
    async fn run<K>(&mut self, api: &Api<DeserializeGuard<K>>, config: Config) -> WatchEnd
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        R: Fn(K) -> Result<Option<T>, String>,
    {
        let streaming = config.initial_list_strategy == InitialListStrategy::StreamingList;
        let mut stream = std::pin::pin!(watcher(api.clone(), config).default_backoff());
        let (mut complete, mut failed) = (false, false);
        loop {
            let event = match tokio::time::timeout(ESTABLISHED, stream.next()).await {
                Ok(Some(event)) => event,
                Ok(None) => return WatchEnd::ReceiverGone,
                Err(_) => {
                    self.gauge.set_synced(complete);
                    failed = false;
                    continue;
                }
            };
            let update = match event {
                Ok(event) => {
                    complete |= matches!(event, Event::InitDone);
                    complete &= !matches!(event, Event::Init);
                    self.take(event)
                }
                Err(error) if streaming && is_unsupported(&error) => return WatchEnd::NoStreamingLists,
                Err(error) => {
                    self.report(&error, failed);
                    failed = true;
                    continue;
                }
            };
            failed = false;
            self.gauge.set_synced(complete);
            if let Some(update) = update
                && self.events.send((self.target.event)(update)).await.is_err()
            {
                return WatchEnd::ReceiverGone;
            }
        }
    }

    fn report(&mut self, error: &watcher::Error, again: bool) {
        self.gauge.failed();
        self.gauge.set_synced(false);
        let resource = self.target.resource;
        if again {
            tracing::debug!(resource, %error, "watch failed again");
        } else {
            tracing::warn!(resource, %error, "watch failed and is being retried; known objects stay in force");
        }
    }

    fn take<K>(&mut self, event: Event<DeserializeGuard<K>>) -> Option<Update<T>>
    where
        K: Resource,
        R: Fn(K) -> Result<Option<T>, String>,
    {
        match event {
            Event::Init => self.snapshot.begin(),
            Event::InitApply(object) => {
                let read = self.read(object);
                self.snapshot.add(read);
            }
            Event::InitDone => return self.snapshot.finish(),
            Event::Apply(object) => return Some(self.read(object).into()),
            Event::Delete(object) => {
                let meta = object.meta();
                return Some(Update::Delete { key: key(meta), uid: meta.uid.clone().unwrap_or_default() });
            }
        }
        None
    }

    fn read<K>(&self, object: DeserializeGuard<K>) -> ReadObject<T>
    where
        K: Resource,
        R: Fn(K) -> Result<Option<T>, String>,
    {
        let (key, uid) = (key(object.meta()), object.meta().uid.clone().unwrap_or_default());
        let object = object.0.map_err(|error| error.to_string()).and_then(&self.target.read);
        if let Err(error) = &object {
            self.gauge.failed();
            let (resource, namespace, name) = (self.target.resource, &key.namespace, &key.name);
            tracing::warn!(
                resource,
                namespace,
                name,
                error,
                "cannot read object; its last good version stays in force"
            );
        }
        ReadObject { key, uid, object }
    }
}

/// A server without streaming lists calls the request invalid.
fn is_unsupported(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 400 | 422),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
