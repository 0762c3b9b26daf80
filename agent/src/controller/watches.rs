//! The controller's watches, each reduced at once to the fields that a status needs.
//!
//! Tenants stay undecoded, because their status reports what is wrong with them. Pods are reduced to their names: one
//! controller sees every pod of the cluster and needs only their number.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::nodes::TAINT;
use super::state::{AgentPod, ControllerEvent, NodeState};
use crate::api::NetworkTenant;
use crate::kube_watch::gauge::WatchHealth;
use crate::kube_watch::objects::{LIVE_PODS, NamespaceLite, key, namespace_reader};
use crate::kube_watch::stated_ranges;
use crate::kube_watch::stream::{self, WatchTarget};
use crate::kube_watch::update::Update;
use policy::model::input::EndpointKey;
use policy::model::settings::TenancyKey;

/// Label selector of the agent's pods. Only administrators write to their namespace.
pub(crate) const AGENTS: &str = "app.kubernetes.io/name=bulkhead,app.kubernetes.io/component=agent";

/// Undecoded tenants, to be written.
pub(crate) fn tenants(client: Client) -> Api<DynamicObject> {
    Api::all_with(client, &ApiResource::erase::<NetworkTenant>(&()))
}

/// Starts all watches. Dropping the set ends them.
pub(crate) fn start(
    client: &Client,
    namespace: &str,
    keys: &[TenancyKey],
    to: &mpsc::Sender<ControllerEvent>,
) -> JoinSet<()> {
    let mut watches =
        ControllerWatches { set: JoinSet::new(), client: client.clone(), health: Arc::default(), to: to.clone() };
    let all = Config::default;
    let erased = |client| Api::all_with(client, &ApiResource::erase::<NetworkTenant>(&()));
    let undecoded = |object: DynamicObject| Ok(Some(Box::new(object)));
    watches.add(erased, "networktenants", all(), undecoded, ControllerEvent::Tenant);
    let read = namespace_reader(keys);
    watches.add(Api::<DeserializeGuard<NamespaceLite>>::all, "namespaces", all(), read, ControllerEvent::Namespace);
    watches.add(Api::all, "pods", all().fields(LIVE_PODS), pod_name, ControllerEvent::Pod);
    let namespace = namespace.to_owned();
    let agents = move |client| Api::namespaced(client, &namespace);
    watches.add(agents, "pods", all().labels(AGENTS), agent_pod, ControllerEvent::Agent);
    watches.add(Api::all, "nodes", all(), node_state, ControllerEvent::Node);
    // The controller knows no pod address, so it never asks for the ranges out of turn.
    watches.set.spawn(stated_ranges::follow(client.clone(), Arc::default(), ControllerEvent::Stated, to.clone()));
    watches.set
}

struct ControllerWatches {
    set: JoinSet<()>,
    client: Client,
    health: Arc<WatchHealth>,
    to: mpsc::Sender<ControllerEvent>,
}

impl ControllerWatches {
    fn add<K, T>(
        &mut self,
        api: impl FnOnce(Client) -> Api<DeserializeGuard<K>> + Send + 'static,
        resource: &'static str,
        config: Config,
        read: impl Fn(K) -> Result<Option<T>, String> + Send + Sync + 'static,
        event: impl Fn(Update<T>) -> ControllerEvent + Send + Sync + 'static,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Send + Sync,
        T: Send + 'static,
    {
        let target = WatchTarget { resource, config, read, event };
        self.set.spawn(stream::follow(self.client.clone(), api, target, Arc::clone(&self.health), self.to.clone()));
    }
}

fn pod_name(pod: PartialObjectMeta<Pod>) -> Result<Option<EndpointKey>, String> {
    Ok(Some(key(&pod.metadata)))
}

fn agent_pod(pod: Pod) -> Result<Option<AgentPod>, String> {
    let ending = pod.metadata.deletion_timestamp.is_some();
    let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
    let name = pod.metadata.name.unwrap_or_default();
    Ok(Some(AgentPod { name, node, ready: ready && !ending }))
}

fn node_state(node: Node) -> Result<Option<NodeState>, String> {
    let eligible = node.labels().get("kubernetes.io/os").is_none_or(|os| os == "linux");
    let spec = node.spec.unwrap_or_default();
    let tainted = spec.taints.unwrap_or_default().iter().any(|taint| taint.key == TAINT);
    let pod_cidrs = spec.pod_cidrs.unwrap_or_default().iter().filter_map(|range| range.parse().ok()).collect();
    let reported = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let addresses = reported.iter().filter_map(|one| one.address.parse().ok()).collect();
    Ok(Some(NodeState { name: node.metadata.name.unwrap_or_default(), tainted, eligible, addresses, pod_cidrs }))
}
