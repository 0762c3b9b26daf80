//! The joined view of all watches: events in, changes out, and which namespaces to follow. Pure: time is an argument.
//!
//! ```text
//! tenants, namespaces ─────────────▶ Change
//!          └▶ tenants with pods here ─▶ one NamespaceWatch each: pods, Services, slices ─▶ Change
//! local pods ─┬▶ endpoints with an interface ──────────────────────────────────────────▶ Change
//! sandboxes ──┘
//! ```
//!
//! Endpoints are held back until every set is complete. After a restart a missing endpoint is only late, and reporting
//! it as absent would undo what the kernel rightly enforces.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::namespace::{NamespaceEvent, NamespaceWatch};
use crate::kube_watch::objects::{ObservedNode, ObservedPod, ObservedService, ObservedSlice};
use crate::kube_watch::stated_ranges::StatedRanges;
use crate::kube_watch::update::Update;
use crate::runtime::cgroups::PodCgroupIds;
use crate::runtime::cni::Sandbox;
use policy::model::cluster::Cluster;
use policy::model::input::{Attachment, Change, Endpoint, EndpointKey, HostNetworkPod, HostPort, Namespace, Tenant};
use policy::model::ranges::{LearntRanges, RangeKind};
use policy::model::settings::Settings;
use policy::model::tenancy::Tenancy;

/// How long a namespace is followed after its tenant has left the node. Jobs come and go.
pub(crate) const LINGER: Duration = Duration::from_secs(30);

/// One event from a watch or from the container runtime.
#[derive(Clone, Debug)]
pub(crate) enum WatchEvent {
    /// Tenants.
    Tenants(Update<Tenant>),
    /// Namespaces.
    Namespaces(Update<Namespace>),
    /// Nodes.
    Nodes(Update<ObservedNode>),
    /// Pods of this node.
    Local(Update<ObservedPod>),
    /// The Service of the API server.
    ApiService(Update<ObservedService>),
    /// Backends of the API server's Service.
    ApiSlices(Update<ObservedSlice>),
    /// A followed namespace, by the id of its watch.
    Namespace(u64, NamespaceEvent),
    /// Ranges that ServiceCIDRs and IP pools state.
    Stated(StatedRanges),
    /// All sandboxes of this node.
    Sandboxes(Arc<Vec<Sandbox>>),
    /// Control groups of all pods.
    Groups(Arc<PodCgroupIds>),
}

/// Which namespaces to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WatchSubscription {
    /// Follow this namespace, and give its events this id.
    Start(String, u64),
    /// End the watch with this id.
    Stop(u64),
}

/// Everything that the watches have delivered.
pub(crate) struct ClusterView {
    node: String,
    /// The part of the model that decides which namespace belongs to which tenant.
    cluster: Cluster,
    synced: SyncState,
    nodes: BTreeMap<String, ObservedNode>,
    stated: StatedRanges,
    /// The ranges as last reported.
    learnt: LearntRanges,
    api: NamespaceWatch,
    local: HashMap<EndpointKey, ObservedPod>,
    /// Endpoints of this node as reported.
    reported: HashMap<EndpointKey, Endpoint>,
    sandboxes: HashMap<String, Sandbox>,
    groups: Arc<PodCgroupIds>,
    /// Pods on the node's network as reported.
    on_node: Vec<HostNetworkPod>,
    watched: BTreeMap<String, NamespaceWatch>,
    /// The last id given to a namespace watch.
    last_id: u64,
    wanted: BTreeSet<String>,
    /// Whether `wanted` may be out of date.
    stale: bool,
    /// Tenants whose current spec cannot be read.
    invalid_tenants: BTreeSet<String>,
    complete: bool,
}

/// Which sets have had their first snapshot.
#[derive(Default)]
struct SyncState {
    tenants: bool,
    namespaces: bool,
    nodes: bool,
    stated: bool,
    local: bool,
    sandboxes: bool,
}

impl ClusterView {
    /// The view of `node` before any event.
    pub(crate) fn new(node: String, settings: Settings) -> Self {
        Self {
            node,
            cluster: Cluster::new(settings),
            synced: SyncState::default(),
            nodes: BTreeMap::new(),
            stated: StatedRanges::default(),
            learnt: LearntRanges::default(),
            api: NamespaceWatch::of_api_server(),
            local: HashMap::new(),
            reported: HashMap::new(),
            sandboxes: HashMap::new(),
            groups: Arc::default(),
            on_node: Vec::new(),
            watched: BTreeMap::new(),
            last_id: 0,
            wanted: BTreeSet::new(),
            stale: true,
            invalid_tenants: BTreeSet::new(),
            complete: false,
        }
    }

    /// Applies one event. Returns what it changes.
    pub(crate) fn apply(&mut self, event: WatchEvent) -> Vec<Change> {
        let changes = match event {
            WatchEvent::Tenants(update) => self.tenants(update),
            WatchEvent::Namespaces(update) => self.namespaces(update),
            WatchEvent::Nodes(update) => self.all_nodes(update),
            WatchEvent::Local(update) => {
                let mut changes = self.local_pods(update);
                changes.extend(self.host_network_pods());
                changes
            }
            WatchEvent::ApiService(update) => {
                let mut changes = self.api.apply(NamespaceEvent::Services(update), &self.node, &self.reported);
                changes.push(self.nodes());
                self.once_complete(changes)
            }
            WatchEvent::ApiSlices(update) => {
                let mut changes = self.api.apply(NamespaceEvent::Slices(update), &self.node, &self.reported);
                changes.push(self.nodes());
                self.once_complete(changes)
            }
            WatchEvent::Namespace(id, event) => {
                let watch = self.watched.values_mut().find(|watch| watch.id == id);
                let changes = watch.map(|watch| watch.apply(event, &self.node, &self.reported)).unwrap_or_default();
                self.once_complete(changes)
            }
            WatchEvent::Stated(stated) => {
                self.synced.stated = true;
                self.stated = stated;
                self.refresh_ranges()
            }
            WatchEvent::Sandboxes(all) => self.all_sandboxes(&all),
            WatchEvent::Groups(all) => {
                self.groups = all;
                self.host_network_pods().into_iter().collect()
            }
        };
        if self.complete { changes } else { self.complete(changes) }
    }

    /// Starts and stops watches of namespaces. Returns them, and what a stopped watch changes.
    pub(crate) fn subscriptions(&mut self, now: Duration) -> (Vec<WatchSubscription>, Vec<Change>) {
        if !(self.synced.tenants && self.synced.namespaces && self.synced.local) {
            return (Vec::new(), Vec::new());
        }
        if std::mem::take(&mut self.stale) {
            self.wanted = Tenancy::wanted(&self.cluster).iter().map(ToString::to_string).collect();
        }
        let mut subscriptions = Vec::new();
        for name in &self.wanted {
            match self.watched.get_mut(name) {
                Some(watch) => watch.unwanted_since = None,
                None => {
                    self.last_id += 1;
                    self.watched.insert(name.clone(), NamespaceWatch::new(self.last_id));
                    subscriptions.push(WatchSubscription::Start(name.clone(), self.last_id));
                }
            }
        }
        let mut changes = Vec::new();
        let mut stopped = Vec::new();
        for (name, watch) in self.watched.iter_mut().filter(|(name, _)| !self.wanted.contains(*name)) {
            let since = *watch.unwanted_since.get_or_insert(now);
            if now.saturating_sub(since) >= LINGER {
                subscriptions.push(WatchSubscription::Stop(watch.id));
                changes.extend(watch.clear(&self.reported));
                stopped.push(name.clone());
            }
        }
        stopped.iter().for_each(|name| _ = self.watched.remove(name));
        let changes = self.once_complete(changes);
        // The last incomplete watch may have been stopped: then the view is complete.
        let changes = if self.complete { changes } else { self.complete(changes) };
        (subscriptions, changes)
    }

    /// Whether all endpoints were reported.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// How many tenants exist whose current spec cannot be read.
    pub(crate) fn invalid_tenants(&self) -> usize {
        self.invalid_tenants.len()
    }

    fn once_complete(&self, changes: Vec<Change>) -> Vec<Change> {
        if self.complete { changes } else { Vec::new() }
    }

    /// Adds everything that was held back, if every set is complete.
    fn complete(&mut self, mut changes: Vec<Change>) -> Vec<Change> {
        let SyncState { tenants, namespaces, nodes, stated, local, sandboxes } = self.synced;
        let synced =
            tenants && namespaces && nodes && stated && local && sandboxes && !self.stale && self.api.is_complete();
        if synced && self.watched.values().all(NamespaceWatch::is_complete) {
            self.complete = true;
            changes.push(Change::Ranges(self.learnt.clone()));
            changes.push(self.nodes());
            changes.push(Change::Services(
                self.api.services().chain(self.watched.values().flat_map(NamespaceWatch::services)).collect(),
            ));
            let remote = self.watched.values().flat_map(NamespaceWatch::pods);
            let remote = remote.filter(|pod| !self.reported.contains_key(&pod.key));
            changes.push(Change::Endpoints(self.reported.values().chain(remote).cloned().collect()));
        }
        changes
    }

    /// Applies a change to this view's part of the model.
    fn update_tenancy(&mut self, change: Change) {
        let touched = self.cluster.apply(change);
        self.stale |= touched.tenancy || touched.endpoints || !touched.namespaces.is_empty();
    }
}

/// Cluster-scoped objects.
impl ClusterView {
    fn tenants(&mut self, update: Update<Tenant>) -> Vec<Change> {
        let change = match update {
            Update::Snapshot { mut objects, unreadable } => {
                self.synced.tenants = true;
                let known = unreadable.iter().filter_map(|key| self.cluster.tenants().get(key.name.as_str()));
                objects.extend(known.map(|tenant| Tenant::clone(tenant)));
                self.invalid_tenants = unreadable.into_iter().map(|key| key.name).collect();
                Change::Tenants(objects)
            }
            Update::Upsert(tenant) => {
                self.invalid_tenants.remove(&tenant.age.name);
                Change::Tenant(tenant)
            }
            Update::Unreadable(key) => {
                self.invalid_tenants.insert(key.name);
                return Vec::new();
            }
            Update::Delete { key, .. } => {
                self.invalid_tenants.remove(&key.name);
                Change::TenantGone(key.name)
            }
        };
        self.update_tenancy(change.clone());
        vec![change]
    }

    fn namespaces(&mut self, update: Update<Namespace>) -> Vec<Change> {
        let change = match update {
            Update::Snapshot { mut objects, unreadable } => {
                self.synced.namespaces = true;
                let known =
                    unreadable.iter().filter_map(|key| self.cluster.namespaces().get(&key.name)?.object.clone());
                objects.extend(known.collect::<Vec<_>>());
                Change::Namespaces(objects)
            }
            Update::Upsert(namespace) => Change::Namespace(namespace),
            Update::Unreadable(_) => return Vec::new(),
            Update::Delete { key, .. } => Change::NamespaceGone(key.name),
        };
        self.update_tenancy(change.clone());
        vec![change]
    }

    fn all_nodes(&mut self, update: Update<ObservedNode>) -> Vec<Change> {
        let before = self.node_addresses();
        match update {
            Update::Snapshot { objects, unreadable } => {
                self.synced.nodes = true;
                self.nodes.retain(|name, _| unreadable.iter().any(|key| key.name == *name));
                self.nodes.extend(objects.into_iter().map(|node| (node.name.clone(), node)));
            }
            Update::Upsert(node) => _ = self.nodes.insert(node.name.clone(), node),
            Update::Unreadable(_) => {}
            Update::Delete { key, .. } => _ = self.nodes.remove(&key.name),
        }
        let mut changes = self.refresh_ranges();
        changes.extend((self.node_addresses() != before).then(|| self.nodes()));
        self.once_complete(changes)
    }

    /// Reports the learnt ranges, if they have changed.
    fn refresh_ranges(&mut self) -> Vec<Change> {
        let of_nodes = self.nodes.values().map(|node| &node.pod_cidrs);
        let of_results = self.sandboxes.values().flat_map(|sandbox| &sandbox.networks);
        let learnt = self.stated.learnt(of_nodes, of_results);
        if self.learnt == learnt {
            return Vec::new();
        }
        self.learnt.clone_from(&learnt);
        self.cluster.apply(Change::Ranges(learnt.clone()));
        self.once_complete(vec![Change::Ranges(learnt)])
    }

    fn nodes(&self) -> Change {
        Change::ClusterNodes(self.node_addresses().into_iter().collect())
    }

    /// Addresses of the nodes, and of API servers outside the cluster. Pod addresses are left out.
    fn node_addresses(&self) -> BTreeSet<IpAddr> {
        let ranges = self.cluster.ranges();
        let ends = self.api.services().flat_map(|service| service.ends);
        let api = ends.filter(|address| ranges.kind(*address) != Some(RangeKind::Pods));
        self.nodes.values().flat_map(|node| node.addresses.iter().copied()).chain(api).collect()
    }
}

/// Pods of this node.
impl ClusterView {
    fn local_pods(&mut self, update: Update<ObservedPod>) -> Vec<Change> {
        let keys: Vec<EndpointKey> = match update {
            Update::Snapshot { objects, unreadable } => {
                self.synced.local = true;
                let mut keys: Vec<EndpointKey> = self.local.keys().cloned().collect();
                self.local.retain(|key, _| unreadable.contains(key));
                for pod in objects {
                    keys.push(pod.endpoint.key.clone());
                    self.local.insert(pod.endpoint.key.clone(), pod);
                }
                keys
            }
            Update::Upsert(pod) => {
                let key = pod.endpoint.key.clone();
                self.local.insert(key.clone(), pod);
                vec![key]
            }
            Update::Unreadable(_) => Vec::new(),
            Update::Delete { key, uid } => {
                if self.local.get(&key).is_some_and(|pod| uid.is_empty() || pod.endpoint.uid == uid) {
                    self.local.remove(&key);
                }
                vec![key]
            }
        };
        self.refresh(keys)
    }

    /// Reports the pods on the node's network with their control groups, if they have changed.
    fn host_network_pods(&mut self) -> Option<Change> {
        let pods = self.local.values().filter(|pod| pod.on_node);
        let pod = |pod: &ObservedPod| HostNetworkPod {
            key: pod.endpoint.key.clone(),
            uid: pod.endpoint.uid.clone(),
            cgroup: self.groups.get(&pod.endpoint.uid).copied(),
        };
        let mut now: Vec<HostNetworkPod> = pods.map(pod).collect();
        now.sort();
        (now != self.on_node).then(|| {
            self.on_node.clone_from(&now);
            Change::HostNetworkPods(now)
        })
    }

    fn all_sandboxes(&mut self, all: &[Sandbox]) -> Vec<Change> {
        self.synced.sandboxes = true;
        // The list is sorted by age: of several sandboxes of a pod the newest counts.
        self.sandboxes = all.iter().map(|sandbox| (sandbox.uid.clone(), sandbox.clone())).collect();
        let mut changes = self.refresh_ranges();
        changes.extend(self.refresh(self.local.keys().cloned().collect()));
        changes
    }

    /// Joins these pods with their sandboxes again.
    fn refresh(&mut self, keys: Vec<EndpointKey>) -> Vec<Change> {
        let mut changes = Vec::new();
        for key in keys {
            let own = self.local.get(&key).filter(|pod| !pod.on_node);
            let now = own.map(|pod| join(pod, self.sandboxes.get(&pod.endpoint.uid)));
            let change = match (self.reported.get(&key), now) {
                (Some(reported), Some(now)) if *reported == now => continue,
                (None, None) => continue,
                (_, Some(now)) => {
                    self.reported.insert(key, now.clone());
                    Change::Endpoint(now)
                }
                (Some(reported), None) => {
                    let gone = Change::EndpointGone { key: key.clone(), uid: reported.uid.clone() };
                    self.reported.remove(&key);
                    gone
                }
            };
            self.update_tenancy(change.clone());
            // A pod of that name may already run on another node.
            let elsewhere = match &change {
                Change::EndpointGone { key, .. } => self.watched.get(&key.namespace).and_then(|watch| watch.pod(key)),
                _ => None,
            };
            let elsewhere = elsewhere.cloned().map(Change::Endpoint);
            changes.push(change);
            changes.extend(elsewhere);
        }
        self.once_complete(changes)
    }
}

/// An endpoint from a pod of this node and the sandbox that the container runtime made for it.
fn join(pod: &ObservedPod, sandbox: Option<&Sandbox>) -> Endpoint {
    let may_lack_sandbox = sandbox.is_none() && (pod.is_ending || pod.is_static || pod.lacks_sandbox);
    let pod = &pod.endpoint;
    let port = HostPort::Netns(sandbox.map(|sandbox| sandbox.netns.clone()).unwrap_or_default());
    let cgroup = sandbox.and_then(|sandbox| sandbox.group.clone());
    let attachment = Attachment { port, cgroup, may_lack_sandbox, ..Attachment::default() };
    let mut endpoint = Endpoint { local: Some(attachment), ..pod.clone() };
    let Some(sandbox) = sandbox.filter(|sandbox| !sandbox.addresses.is_empty()) else { return endpoint };
    let ours: BTreeSet<&IpAddr> = sandbox.addresses.iter().collect();
    if endpoint.addresses.iter().any(|address| !ours.contains(address)) {
        // Neither source can be trusted, so the pod has no address and stays denied.
        let (namespace, name) = (&pod.key.namespace, &pod.key.name);
        let (runtime, api) = (&sandbox.addresses, &pod.addresses);
        tracing::warn!(
            namespace,
            name,
            ?runtime,
            ?api,
            "pod is denied: the container runtime and the API server report different addresses"
        );
        endpoint.addresses.clear();
    } else {
        endpoint.addresses.clone_from(&sandbox.addresses);
    }
    endpoint
}

#[cfg(test)]
mod tests;
