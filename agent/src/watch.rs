//! Kubernetes objects to changes of the model: `bulkhead run` without `--config`.
//!
//! ```text
//! API server ─stream─▶ Told ─▶ view ─▶ Change ─▶ the loop
//!                                │ ▲
//!                                ▼ └── sandboxes, from the runtime
//!                       streams of namespaces, while their tenants have pods here
//! ```
//!
//! Asks for what this node needs: tenants, namespaces and nodes of the cluster, pods of this node; of
//! namespaces only those whose tenants live here or are agreed with or Shared. A watch that breaks, and
//! an object that cannot be read, change nothing. Refuses to know maps, plans, and what a change does.

pub mod convert;
mod health;
pub mod room;
mod stream;
pub mod told;
pub mod view;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::metrics::Recorder;
use crate::sandboxes::Sandboxes;
use convert::{NamespaceLite, NodeLite, PodLite, SERVICE_NAME, ServiceLite, SliceLite};
use health::Health;
use policy::model::input::Change;
use policy::model::settings::{Settings, TenancyKey};
use room::RoomNews;
use told::Told;
use view::{News, Order, View};

use crate::api::tenant::NetworkTenant;
use policy::model::input::Namespace;

/// News that wait for the view.
const NEWS: usize = 1024;
/// How often namespaces are looked at that nobody needs any more.
const TICK: Duration = Duration::from_secs(5);
/// Pods that are over have no network.
const LIVE: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// Who asks, and for what.
pub struct Asker {
    /// The API server.
    pub client: Client,
    /// This node.
    pub node: String,
    /// Settings of the model.
    pub settings: Settings,
    /// Where metrics go.
    pub recorder: Arc<Recorder>,
}

/// Follows the cluster until nobody listens to the changes.
pub async fn follow(asker: Asker, mut sandboxes: watch::Receiver<Sandboxes>, changes: mpsc::Sender<Change>) {
    let mut view = View::new(asker.node.clone(), asker.settings.clone());
    let (to, mut news) = mpsc::channel(NEWS);
    let streams = Streams { client: asker.client, health: Arc::new(Health::new(asker.recorder)), to };
    let _cluster = streams.cluster(&asker.node, &asker.settings.keys);
    let mut rooms: HashMap<u64, JoinSet<()>> = HashMap::new();
    let (begun, mut said) = (Instant::now(), false);
    loop {
        let mut out = Vec::new();
        tokio::select! {
            Some(one) = news.recv() => {
                out.extend(view.take(one));
                while let Ok(one) = news.try_recv() {
                    out.extend(view.take(one));
                }
            }
            Ok(()) = sandboxes.changed() => {
                let made = sandboxes.borrow_and_update().clone();
                let news = made.map(|made| [News::Groups(made.groups), News::Sandboxes(made.sandboxes)]);
                out.extend(news.into_iter().flatten().flat_map(|one| view.take(one)));
            }
            () = tokio::time::sleep(TICK) => {}
            () = changes.closed() => return,
        }
        let (orders, more) = view.orders(begun.elapsed());
        out.extend(more);
        for order in orders {
            match order {
                Order::Open(namespace, number) => _ = rooms.insert(number, streams.room(&namespace, number)),
                Order::Close(number) => _ = rooms.remove(&number),
            }
        }
        for change in out {
            if changes.send(change).await.is_err() {
                return;
            }
        }
        if view.is_complete() && !std::mem::replace(&mut said, true) {
            tracing::info!(namespaces = rooms.len(), "the cluster was told in full");
        }
    }
}

/// Starts watches. A set of them ends when it is dropped.
struct Streams {
    client: Client,
    health: Arc<Health>,
    to: mpsc::Sender<News>,
}

impl Streams {
    fn cluster(&self, node: &str, keys: &[TenancyKey]) -> JoinSet<()> {
        let mut set = JoinSet::new();
        let all = Config::default;
        let keep: Vec<String> = keys.iter().filter_map(annotation).collect();
        let namespaces = move |told| News::Namespaces(trimmed(told, &keep));
        let local = all().fields(&format!("spec.nodeName={node},{LIVE}"));
        let api_slices = all().labels(&format!("{SERVICE_NAME}=kubernetes"));
        let api = all().fields("metadata.name=kubernetes");
        self.start::<NetworkTenant>(&mut set, Api::all(self.client.clone()), all(), "networktenants", News::Tenants);
        self.start::<NamespaceLite>(&mut set, Api::all(self.client.clone()), all(), "namespaces", namespaces);
        self.start::<NodeLite>(&mut set, Api::all(self.client.clone()), all(), "nodes", News::Nodes);
        self.start::<PodLite>(&mut set, Api::all(self.client.clone()), local, "pods", News::Local);
        self.start::<ServiceLite>(&mut set, self.inside("default"), api, "services", News::ApiService);
        self.start::<SliceLite>(&mut set, self.inside("default"), api_slices, "endpointslices", News::ApiSlices);
        set
    }

    fn room(&self, namespace: &str, number: u64) -> JoinSet<()> {
        let mut set = JoinSet::new();
        let (all, live) = (Config::default, Config::default().fields(LIVE));
        let pods = move |told| News::Room(number, RoomNews::Pods(told));
        let services = move |told| News::Room(number, RoomNews::Services(told));
        let slices = move |told| News::Room(number, RoomNews::Slices(told));
        self.start::<PodLite>(&mut set, self.inside(namespace), live, "pods", pods);
        self.start::<ServiceLite>(&mut set, self.inside(namespace), all(), "services", services);
        self.start::<SliceLite>(&mut set, self.inside(namespace), all(), "endpointslices", slices);
        set
    }

    fn inside<K>(&self, namespace: &str) -> Api<kube::core::DeserializeGuard<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn start<K>(
        &self,
        set: &mut JoinSet<()>,
        api: Api<kube::core::DeserializeGuard<K>>,
        config: Config,
        resource: &'static str,
        news: impl Fn(Told<K::Input>) -> News + Send + Sync + 'static,
    ) where
        K: Resource<DynamicType = ()> + convert::Meaning + Clone + serde::de::DeserializeOwned,
        K: std::fmt::Debug + Send + Sync + 'static,
        K::Input: Send,
    {
        set.spawn(stream::follow(api, config, Arc::clone(&self.health), resource, self.to.clone(), news));
    }
}

/// The annotation that a tenancy key reads.
fn annotation(key: &TenancyKey) -> Option<String> {
    match key {
        TenancyKey::NamespaceAnnotation { key, .. } => Some(key.clone()),
        _ => None,
    }
}

/// Namespaces with no more annotations than somebody reads.
fn trimmed(told: Told<Namespace>, keep: &[String]) -> Told<Namespace> {
    let trim = |mut namespace: Namespace| {
        namespace.annotations.retain(|key, _| keep.contains(key));
        namespace
    };
    match told {
        Told::All { objects, kept } => Told::All { objects: objects.into_iter().map(trim).collect(), kept },
        Told::One(namespace) => Told::One(trim(namespace)),
        gone @ Told::Gone { .. } => gone,
    }
}
