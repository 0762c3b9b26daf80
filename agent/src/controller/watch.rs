//! Watches, each reduced to [`News`] at once. A watch that breaks begins anew and replaces what it told before.
//!
//! Tenants are taken undecoded, pods only by name: one controller sees every pod of the cluster, and needs their number.

use std::fmt::Debug;

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Event};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::nodes::TAINT;
use super::world::{AgentPod, News, NodeState, PodName, Told};
use crate::api::NetworkTenant;

/// Pods of the agent, in the namespace that only administrators write to.
pub const AGENTS: &str = "app.kubernetes.io/name=bulkhead,app.kubernetes.io/component=agent";
/// Pods that have not ended.
const LIVING: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// How tenants are asked for.
pub fn tenants(client: Client) -> Api<DynamicObject> {
    Api::all_with(client, &ApiResource::erase::<NetworkTenant>(&()))
}

/// Starts all watches; they end with the set.
pub fn start(client: &Client, namespace: &str, news: &mpsc::Sender<News>) -> JoinSet<()> {
    let mut watches = JoinSet::new();
    let all = Config::default;
    let client = || client.clone();
    watches.spawn(follow(tenants(client()), all(), news.clone(), Some, News::Tenant));
    watches.spawn(follow(Api::<Namespace>::all(client()), all(), news.clone(), Some, News::Namespace));
    let pods = Api::<PartialObjectMeta<Pod>>::all(client());
    watches.spawn(follow(pods, all().fields(LIVING), news.clone(), pod_name, News::Pod));
    let agents = Api::<Pod>::namespaced(client(), namespace);
    watches.spawn(follow(agents, all().labels(AGENTS), news.clone(), agent_pod, News::Agent));
    watches.spawn(follow(Api::<Node>::all(client()), all(), news.clone(), node_state, News::Node));
    watches
}

async fn follow<K, T: 'static>(
    api: Api<K>,
    config: Config,
    news: mpsc::Sender<News>,
    read: fn(K) -> Option<T>,
    tell: fn(Told<T>) -> News,
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let stream = watcher::watcher(api, config).default_backoff();
    pin_mut!(stream);
    let mut all = Vec::new();
    while let Some(event) = stream.next().await {
        let told = match event {
            Ok(Event::Init) => {
                all.clear();
                None
            }
            Ok(Event::InitApply(object)) => {
                all.extend(read(object));
                None
            }
            Ok(Event::InitDone) => Some(Told::All(std::mem::take(&mut all))),
            Ok(Event::Apply(object)) => read(object).map(Told::One),
            Ok(Event::Delete(object)) => read(object).map(Told::Gone),
            Err(error) => {
                tracing::warn!(%error, "a watch broke; it begins anew");
                None
            }
        };
        if let Some(told) = told
            && news.send(tell(told)).await.is_err()
        {
            return;
        }
    }
}

fn pod_name(pod: PartialObjectMeta<Pod>) -> Option<PodName> {
    Some(PodName { namespace: pod.metadata.namespace?, name: pod.metadata.name? })
}

fn agent_pod(pod: Pod) -> Option<AgentPod> {
    let ending = pod.metadata.deletion_timestamp.is_some();
    let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
    Some(AgentPod { name: pod.metadata.name?, node, ready: ready && !ending })
}

fn node_state(node: Node) -> Option<NodeState> {
    let eligible = node.labels().get("kubernetes.io/os").is_none_or(|os| os == "linux");
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let tainted = taints.iter().any(|taint| taint.key == TAINT);
    Some(NodeState { name: node.metadata.name?, tainted, eligible })
}
