//! One watch, for ever: its breaks, its restarts and its bad objects end here.
//!
//! A restarted watch tells the whole set again, and only a whole set replaces another: what breaks off
//! in the middle changes nothing. Knows no meaning of any object.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Config, Event, InitialListStrategy};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::convert::{Meaning, key};
use super::health::{Beat, Health};
use super::told::{Gather, Read, Told};
use super::view::News;

/// A watch that did not fail for so long is established: resuming one is not told.
const ESTABLISHED: Duration = Duration::from_secs(45);

/// Follows a kind until nobody listens. `news` says what to call its news.
pub async fn follow<K>(
    api: Api<DeserializeGuard<K>>,
    config: Config,
    health: Arc<Health>,
    resource: &'static str,
    to: mpsc::Sender<News>,
    news: impl Fn(Told<K::Input>) -> News,
) where
    K: Resource<DynamicType = ()> + Meaning + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut beat = health.begin(resource);
    let mut config = config.streaming_lists();
    loop {
        let end = follow_as(&api, config.clone(), &mut beat, resource, &to, &news).await;
        match end {
            End::NoStreamingLists => config.initial_list_strategy = InitialListStrategy::ListWatch,
            End::NobodyListens => return,
        }
    }
}

enum End {
    NobodyListens,
    /// The API server is older than they are, or they were switched off.
    NoStreamingLists,
}

async fn follow_as<K>(
    api: &Api<DeserializeGuard<K>>,
    config: Config,
    beat: &mut Beat,
    resource: &'static str,
    to: &mpsc::Sender<News>,
    news: &impl Fn(Told<K::Input>) -> News,
) -> End
where
    K: Resource<DynamicType = ()> + Meaning + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let streaming = config.initial_list_strategy == InitialListStrategy::StreamingList;
    let mut events = std::pin::pin!(watch(api.clone(), config).default_backoff());
    let (mut gather, mut complete, mut failed) = (Gather::default(), false, false);
    loop {
        let event = match tokio::time::timeout(ESTABLISHED, events.next()).await {
            Ok(Some(event)) => event,
            Ok(None) => return End::NobodyListens,
            Err(_) => {
                beat.synced(complete);
                failed = false;
                continue;
            }
        };
        let told = match event {
            Ok(event) => {
                complete |= matches!(event, Event::InitDone);
                complete &= !matches!(event, Event::Init);
                take(event, &mut gather, beat, resource)
            }
            Err(error) if streaming && is_unsupported(&error) => return End::NoStreamingLists,
            Err(error) => {
                beat.failed();
                beat.synced(false);
                if failed {
                    tracing::debug!(resource, %error, "watch failed again");
                } else {
                    tracing::warn!(resource, %error, "watch failed; what was told stays, trying again");
                }
                failed = true;
                continue;
            }
        };
        failed = false;
        beat.synced(complete);
        if let Some(told) = told
            && to.send(news(told)).await.is_err()
        {
            return End::NobodyListens;
        }
    }
}

fn take<K>(
    event: Event<DeserializeGuard<K>>,
    gather: &mut Gather<K::Input>,
    beat: &Beat,
    resource: &'static str,
) -> Option<Told<K::Input>>
where
    K: Resource<DynamicType = ()> + Meaning,
{
    match event {
        Event::Init => gather.begin(),
        Event::InitApply(object) => gather.add(read(object, beat, resource)),
        Event::InitDone => {
            beat.heard();
            return gather.end();
        }
        Event::Apply(object) => return Told::one(read(object, beat, resource)),
        Event::Delete(object) => {
            beat.heard();
            let meta = object.meta();
            return Some(Told::Gone { key: key(meta), uid: meta.uid.clone().unwrap_or_default() });
        }
    }
    None
}

/// Reads an object; one that cannot be read is reported, and its last good version stays.
fn read<K>(object: DeserializeGuard<K>, beat: &Beat, resource: &'static str) -> Read<K::Input>
where
    K: Resource<DynamicType = ()> + Meaning,
{
    beat.heard();
    let (key, uid) = (key(object.meta()), object.meta().uid.clone().unwrap_or_default());
    let object = object.0.map_err(|error| error.to_string()).and_then(Meaning::meaning);
    if let Err(error) = &object {
        beat.failed();
        let (namespace, name) = (&key.namespace, &key.name);
        tracing::warn!(resource, namespace, name, error, "object cannot be read; its last good version stays");
    }
    Read { key, uid, object }
}

/// A server that knows no streaming lists calls the request invalid.
fn is_unsupported(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 400 | 422),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
