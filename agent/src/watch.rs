//! Kubernetes objects to changes of the model, for `bulkhead run` without `--config`.
//!
//! ```text
//! API server ─kube_watch─▶ WatchEvent ─▶ ClusterView ─▶ Change ─▶ the reconcile loop
//!                                          │ ▲
//!                                          ▼ └── sandboxes, from the container runtime
//!                       watches of namespaces, while their tenants have pods here
//! ```
//!
//! Watches what this node needs: tenants, namespaces, nodes, and the pods of this node. A namespace's pods and Services
//! are watched only if its tenant has a pod here, is a peer of such a tenant, or is Shared. A watch that breaks and an
//! object that cannot be read change nothing. Refuses to know maps, plans, and what a change does.

pub(crate) mod cluster_view;
pub(crate) mod namespace;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::tenant::NetworkTenant;
use crate::kube_watch::gauge::WatchHealth;
use crate::kube_watch::objects::{LIVE_PODS, namespace_reader, read_tenant};
use crate::kube_watch::objects::{NamespaceLite, NodeLite, PodLite, SERVICE_NAME, ServiceLite, SliceLite};
use crate::kube_watch::stated_ranges;
use crate::kube_watch::stream::{self, WatchTarget};
use crate::kube_watch::update::Update;
use crate::metrics::Recorder;
use crate::runtime::SandboxSet;
use cluster_view::{ClusterView, WatchEvent, WatchSubscription};
use namespace::NamespaceEvent;
use policy::model::input::Change;
use policy::model::settings::{Settings, TenancyKey};

/// How many events may wait for the view.
const EVENTS: usize = 1024;
/// How often the view looks for namespaces that are not needed any more.
const TICK: Duration = Duration::from_secs(5);

/// What the watches need.
pub(crate) struct WatchConfig {
    /// Client of the API server.
    pub client: Client,
    /// Name of this node.
    pub node: String,
    /// Settings of the model.
    pub settings: Settings,
    /// Where metrics go.
    pub recorder: Arc<Recorder>,
    /// Signalled when pods are seen outside the known ranges, so objects may state further ones.
    pub missing_ranges: Arc<Notify>,
    /// How many tenants exist whose current spec cannot be read.
    pub invalid_tenants: Arc<AtomicU64>,
}

/// Follows the cluster until the receiver of `changes` is gone.
pub(crate) async fn follow(
    config: WatchConfig,
    mut sandboxes: watch::Receiver<Option<SandboxSet>>,
    changes: mpsc::Sender<Change>,
) {
    let mut view = ClusterView::new(config.node.clone(), config.settings.clone());
    let (to, mut events) = mpsc::channel(EVENTS);
    let watches = ClusterWatches { client: config.client, health: Arc::new(WatchHealth::new(config.recorder)), to };
    let mut _cluster = watches.cluster(&config.node, &config.settings.keys);
    watches.stated_ranges(&mut _cluster, config.missing_ranges);
    let mut namespaces: HashMap<u64, JoinSet<()>> = HashMap::new();
    let (begun, mut logged) = (Instant::now(), false);
    loop {
        let mut out = Vec::new();
        tokio::select! {
            Some(event) = events.recv() => {
                out.extend(view.apply(event));
                while let Ok(event) = events.try_recv() {
                    out.extend(view.apply(event));
                }
            }
            Ok(()) = sandboxes.changed() => {
                let made = sandboxes.borrow_and_update().clone();
                let events = made.map(|made| [WatchEvent::Groups(made.groups), WatchEvent::Sandboxes(made.sandboxes)]);
                out.extend(events.into_iter().flatten().flat_map(|event| view.apply(event)));
            }
            () = tokio::time::sleep(TICK) => {}
            () = changes.closed() => return,
        }
        config.invalid_tenants.store(view.invalid_tenants() as u64, Ordering::Relaxed);
        let (subscriptions, more) = view.subscriptions(begun.elapsed());
        out.extend(more);
        for subscription in subscriptions {
            match subscription {
                WatchSubscription::Start(name, id) => _ = namespaces.insert(id, watches.namespace(&name, id)),
                WatchSubscription::Stop(id) => _ = namespaces.remove(&id),
            }
        }
        for change in out {
            if changes.send(change).await.is_err() {
                return;
            }
        }
        if view.is_complete() && !std::mem::replace(&mut logged, true) {
            tracing::info!(namespaces = namespaces.len(), "every watch has delivered its objects");
        }
    }
}

/// Starts watches. Dropping a set ends its watches.
struct ClusterWatches {
    client: Client,
    health: Arc<WatchHealth>,
    to: mpsc::Sender<WatchEvent>,
}

impl ClusterWatches {
    fn cluster(&self, node: &str, keys: &[TenancyKey]) -> JoinSet<()> {
        let mut set = JoinSet::new();
        let all = Config::default;
        let local = all().fields(&format!("spec.nodeName={node},{LIVE_PODS}"));
        let api = all().fields("metadata.name=kubernetes");
        let api_slices = all().labels(&format!("{SERVICE_NAME}=kubernetes"));
        let tenants = target("networktenants", all(), read_tenant, WatchEvent::Tenants);
        self.start::<NetworkTenant, _>(&mut set, Api::all, tenants);
        let namespaces = target("namespaces", all(), namespace_reader(keys), WatchEvent::Namespaces);
        self.start(&mut set, Api::<DeserializeGuard<NamespaceLite>>::all, namespaces);
        self.start(&mut set, Api::all, target("nodes", all(), NodeLite::read, WatchEvent::Nodes));
        self.start(&mut set, Api::all, target("pods", local, PodLite::read, WatchEvent::Local));
        let service = target("services", api, ServiceLite::read, WatchEvent::ApiService);
        self.start(&mut set, within("default"), service);
        let slices = target("endpointslices", api_slices, SliceLite::read, WatchEvent::ApiSlices);
        self.start(&mut set, within("default"), slices);
        set
    }

    fn stated_ranges(&self, set: &mut JoinSet<()>, urgent: Arc<Notify>) {
        set.spawn(stated_ranges::follow(self.client.clone(), urgent, WatchEvent::Stated, self.to.clone()));
    }

    fn namespace(&self, name: &str, id: u64) -> JoinSet<()> {
        let mut set = JoinSet::new();
        let (all, live) = (Config::default, Config::default().fields(LIVE_PODS));
        let pods = move |update| WatchEvent::Namespace(id, NamespaceEvent::Pods(update));
        let services = move |update| WatchEvent::Namespace(id, NamespaceEvent::Services(update));
        let slices = move |update| WatchEvent::Namespace(id, NamespaceEvent::Slices(update));
        self.start(&mut set, within(name), target("pods", live, PodLite::read, pods));
        self.start(&mut set, within(name), target("services", all(), ServiceLite::read, services));
        self.start(&mut set, within(name), target("endpointslices", all(), SliceLite::read, slices));
        set
    }

    fn start<K, T>(
        &self,
        set: &mut JoinSet<()>,
        api: impl FnOnce(Client) -> Api<DeserializeGuard<K>> + Send + 'static,
        target: WatchTarget<
            impl Fn(K) -> Result<Option<T>, String> + Send + Sync + 'static,
            impl Fn(Update<T>) -> WatchEvent + Send + Sync + 'static,
        >,
    ) where
        K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + Debug + Send + Sync + 'static,
        T: Send + 'static,
    {
        set.spawn(stream::follow(self.client.clone(), api, target, Arc::clone(&self.health), self.to.clone()));
    }
}

fn target<R, E>(resource: &'static str, config: Config, read: R, event: E) -> WatchTarget<R, E> {
    WatchTarget { resource, config, read, event }
}

fn within<K>(namespace: &str) -> impl FnOnce(Client) -> Api<DeserializeGuard<K>> + Send + 'static
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let namespace = namespace.to_owned();
    move |client| Api::namespaced(client, &namespace)
}

#[cfg(test)]
mod tests;
