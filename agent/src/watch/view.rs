//! What was told, joined: news in, changes out, and which namespaces to follow. Pure: the time comes in.
//!
//! ```text
//! tenants, namespaces ─────────────▶ Change
//!          └▶ whose pods are needed ─▶ rooms, one a namespace: its pods, Services, slices ─▶ Change
//! local pods ─┬▶ endpoints with an interface ───────────────────────────────────────────▶ Change
//! sandboxes ──┘
//! ```
//!
//! Nothing is said of endpoints until all of them can be: after a restart a missing one would only be
//! late, and its absence would undo what the kernel rightly enforces.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::convert::{NodeSeen, PodSeen, ServiceSeen, SliceSeen};
use super::room::{Room, RoomNews};
use super::told::Told;
use crate::sandboxes::{Groups, Sandbox};
use policy::model::cluster::Cluster;
use policy::model::input::{Attachment, Change, Endpoint, EndpointKey, HostPort, Namespace, Tenant};
use policy::model::settings::Settings;
use policy::model::tenancy::Tenancy;

/// How long a namespace is followed after its tenant left the node: jobs come and go.
pub const LINGER: Duration = Duration::from_secs(30);

/// One piece of news.
#[derive(Clone, Debug)]
pub enum News {
    /// Of tenants.
    Tenants(Told<Tenant>),
    /// Of namespaces.
    Namespaces(Told<Namespace>),
    /// Of nodes.
    Nodes(Told<NodeSeen>),
    /// Of the pods of this node.
    Local(Told<PodSeen>),
    /// Of the Service of the API server.
    ApiService(Told<ServiceSeen>),
    /// Of its ends.
    ApiSlices(Told<SliceSeen>),
    /// Of a namespace that is followed, by the number it was opened with.
    Room(u64, RoomNews),
    /// All sandboxes.
    Sandboxes(Arc<Vec<Sandbox>>),
    /// Control groups of all pods.
    Groups(Arc<Groups>),
}

/// What to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Follow this namespace, and give its news this number.
    Open(String, u64),
    /// Follow it no more.
    Close(u64),
}

/// Everything that was told.
pub struct View {
    node: String,
    /// As much of the model as says who is whose. Its rules are the only ones.
    cluster: Cluster,
    heard: Heard,
    nodes: BTreeMap<String, Vec<IpAddr>>,
    api: Room,
    local: HashMap<EndpointKey, PodSeen>,
    told: HashMap<EndpointKey, Endpoint>,
    sandboxes: HashMap<String, Sandbox>,
    groups: Arc<Groups>,
    /// Groups of pods on the node's network, as they were told.
    on_node: BTreeSet<u64>,
    rooms: BTreeMap<String, Room>,
    numbers: u64,
    wanted: BTreeSet<String>,
    /// Whether `wanted` may be wrong.
    doubt: bool,
    complete: bool,
}

#[derive(Default)]
struct Heard {
    tenants: bool,
    namespaces: bool,
    nodes: bool,
    local: bool,
    sandboxes: bool,
}

impl View {
    /// Of this node, before anything was told.
    pub fn new(node: String, settings: Settings) -> Self {
        Self {
            node,
            cluster: Cluster::new(settings),
            heard: Heard::default(),
            nodes: BTreeMap::new(),
            api: Room::of_api_server(),
            local: HashMap::new(),
            told: HashMap::new(),
            sandboxes: HashMap::new(),
            groups: Arc::default(),
            on_node: BTreeSet::new(),
            rooms: BTreeMap::new(),
            numbers: 0,
            wanted: BTreeSet::new(),
            doubt: true,
            complete: false,
        }
    }

    /// Takes in one piece of news; says what it changes.
    pub fn take(&mut self, news: News) -> Vec<Change> {
        let changes = match news {
            News::Tenants(told) => self.tenants(told),
            News::Namespaces(told) => self.namespaces(told),
            News::Nodes(told) => self.all_nodes(told),
            News::Local(told) => {
                let mut changes = self.locals(told);
                changes.extend(self.node_groups());
                changes
            }
            News::ApiService(told) => {
                let mut changes = self.api.take(RoomNews::Services(told), &self.node, &self.told);
                changes.push(self.nodes());
                self.once_complete(changes)
            }
            News::ApiSlices(told) => {
                let mut changes = self.api.take(RoomNews::Slices(told), &self.node, &self.told);
                changes.push(self.nodes());
                self.once_complete(changes)
            }
            News::Room(number, told) => {
                let room = self.rooms.values_mut().find(|room| room.number == number);
                let changes = room.map(|room| room.take(told, &self.node, &self.told)).unwrap_or_default();
                self.once_complete(changes)
            }
            News::Sandboxes(all) => self.all_sandboxes(&all),
            News::Groups(all) => {
                self.groups = all;
                self.node_groups().into_iter().collect()
            }
        };
        if self.complete { changes } else { self.complete(changes) }
    }

    /// Which namespaces to begin and to cease to follow.
    pub fn orders(&mut self, now: Duration) -> (Vec<Order>, Vec<Change>) {
        if !(self.heard.tenants && self.heard.namespaces && self.heard.local) {
            return (Vec::new(), Vec::new());
        }
        if std::mem::take(&mut self.doubt) {
            self.wanted = Tenancy::wanted(&self.cluster).iter().map(ToString::to_string).collect();
        }
        let mut orders = Vec::new();
        for name in &self.wanted {
            match self.rooms.get_mut(name) {
                Some(room) => room.unwanted_since = None,
                None => {
                    self.numbers += 1;
                    self.rooms.insert(name.clone(), Room::of_namespace(self.numbers));
                    orders.push(Order::Open(name.clone(), self.numbers));
                }
            }
        }
        let mut changes = Vec::new();
        let mut closed = Vec::new();
        for (name, room) in self.rooms.iter_mut().filter(|(name, _)| !self.wanted.contains(*name)) {
            let since = *room.unwanted_since.get_or_insert(now);
            if now.saturating_sub(since) >= LINGER {
                orders.push(Order::Close(room.number));
                changes.extend(room.empty(&self.told));
                closed.push(name.clone());
            }
        }
        closed.iter().for_each(|name| _ = self.rooms.remove(name));
        let changes = self.once_complete(changes);
        // With the last open question gone, nothing may be missing any more.
        let changes = if self.complete { changes } else { self.complete(changes) };
        (orders, changes)
    }

    /// Whether endpoints were told in full.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    fn once_complete(&self, changes: Vec<Change>) -> Vec<Change> {
        if self.complete { changes } else { Vec::new() }
    }

    /// Adds everything that was held back, if nothing is missing any more.
    fn complete(&mut self, mut changes: Vec<Change>) -> Vec<Change> {
        let Heard { tenants, namespaces, nodes, local, sandboxes } = self.heard;
        let heard = tenants && namespaces && nodes && local && sandboxes && !self.doubt && self.api.is_complete();
        if heard && self.rooms.values().all(Room::is_complete) {
            self.complete = true;
            changes.push(self.nodes());
            changes.push(Change::Services(
                self.api.services().chain(self.rooms.values().flat_map(Room::services)).collect(),
            ));
            let remote = self.rooms.values().flat_map(Room::pods).filter(|pod| !self.told.contains_key(&pod.key));
            changes.push(Change::Endpoints(self.told.values().chain(remote).cloned().collect()));
        }
        changes
    }

    fn shadow(&mut self, change: Change) {
        let touched = self.cluster.apply(change);
        self.doubt |= touched.tenancy || touched.endpoints || !touched.spaces.is_empty();
    }
}

/// Objects of the cluster.
impl View {
    fn tenants(&mut self, told: Told<Tenant>) -> Vec<Change> {
        let change = match told {
            Told::All { mut objects, kept } => {
                self.heard.tenants = true;
                let known = kept.iter().filter_map(|key| self.cluster.tenants().get(key.name.as_str()));
                objects.extend(known.map(|tenant| Tenant::clone(tenant)));
                Change::Tenants(objects)
            }
            Told::One(tenant) => Change::Tenant(tenant),
            Told::Gone { key, .. } => Change::TenantGone(key.name),
        };
        self.shadow(change.clone());
        vec![change]
    }

    fn namespaces(&mut self, told: Told<Namespace>) -> Vec<Change> {
        let change = match told {
            Told::All { mut objects, kept } => {
                self.heard.namespaces = true;
                let known = kept.iter().filter_map(|key| self.cluster.spaces().get(&key.name)?.object.clone());
                objects.extend(known.collect::<Vec<_>>());
                Change::Namespaces(objects)
            }
            Told::One(namespace) => Change::Namespace(namespace),
            Told::Gone { key, .. } => Change::NamespaceGone(key.name),
        };
        self.shadow(change.clone());
        vec![change]
    }

    fn all_nodes(&mut self, told: Told<NodeSeen>) -> Vec<Change> {
        let before = self.node_addresses();
        match told {
            Told::All { objects, kept } => {
                self.heard.nodes = true;
                self.nodes.retain(|name, _| kept.iter().any(|key| key.name == *name));
                self.nodes.extend(objects.into_iter().map(|node| (node.name, node.addresses)));
            }
            Told::One(node) => _ = self.nodes.insert(node.name, node.addresses),
            Told::Gone { key, .. } => _ = self.nodes.remove(&key.name),
        }
        let changes = if self.node_addresses() == before { Vec::new() } else { vec![self.nodes()] };
        self.once_complete(changes)
    }

    fn nodes(&self) -> Change {
        Change::ClusterNodes(self.node_addresses().into_iter().collect())
    }

    /// Addresses of nodes, and of the API server where it runs on none of them. Never a pod's.
    fn node_addresses(&self) -> BTreeSet<IpAddr> {
        let pods = &self.cluster.settings().pod_cidrs;
        let api = self
            .api
            .services()
            .flat_map(|service| service.ends)
            .filter(|end| !pods.iter().any(|net| net.contains(end)));
        self.nodes.values().flatten().copied().chain(api).collect()
    }
}

/// Pods of this node.
impl View {
    fn locals(&mut self, told: Told<PodSeen>) -> Vec<Change> {
        let keys: Vec<EndpointKey> = match told {
            Told::All { objects, kept } => {
                self.heard.local = true;
                let mut keys: Vec<EndpointKey> = self.local.keys().cloned().collect();
                self.local.retain(|key, _| kept.contains(key));
                for pod in objects {
                    keys.push(pod.endpoint.key.clone());
                    self.local.insert(pod.endpoint.key.clone(), pod);
                }
                keys
            }
            Told::One(pod) => {
                let key = pod.endpoint.key.clone();
                self.local.insert(key.clone(), pod);
                vec![key]
            }
            Told::Gone { key, uid } => {
                if self.local.get(&key).is_some_and(|pod| uid.is_empty() || pod.endpoint.uid == uid) {
                    self.local.remove(&key);
                }
                vec![key]
            }
        };
        self.refresh(keys)
    }

    /// Control groups of pods on the node's network, where they are others than were told.
    fn node_groups(&mut self) -> Option<Change> {
        let pods = self.local.values().filter(|pod| pod.on_node);
        let now: BTreeSet<u64> = pods.filter_map(|pod| self.groups.get(&pod.endpoint.uid).copied()).collect();
        (now != self.on_node).then(|| {
            self.on_node.clone_from(&now);
            Change::NodeGroups(now.into_iter().collect())
        })
    }

    fn all_sandboxes(&mut self, all: &[Sandbox]) -> Vec<Change> {
        self.heard.sandboxes = true;
        // Of several the last one counts, and they come oldest first.
        self.sandboxes = all.iter().map(|sandbox| (sandbox.uid.clone(), sandbox.clone())).collect();
        self.refresh(self.local.keys().cloned().collect())
    }

    /// Joins these pods anew.
    fn refresh(&mut self, keys: Vec<EndpointKey>) -> Vec<Change> {
        let mut changes = Vec::new();
        for key in keys {
            let own = self.local.get(&key).filter(|pod| !pod.on_node);
            let now = own.map(|pod| join(&pod.endpoint, self.sandboxes.get(&pod.endpoint.uid)));
            let change = match (self.told.get(&key), now) {
                (Some(told), Some(now)) if *told == now => continue,
                (None, None) => continue,
                (_, Some(now)) => {
                    self.told.insert(key, now.clone());
                    Change::Endpoint(now)
                }
                (Some(told), None) => {
                    let gone = Change::EndpointGone { key: key.clone(), uid: told.uid.clone() };
                    self.told.remove(&key);
                    gone
                }
            };
            self.shadow(change.clone());
            // Somebody of that name may live elsewhere by now.
            let elsewhere = match &change {
                Change::EndpointGone { key, .. } => self.rooms.get(&key.namespace).and_then(|room| room.pod(key)),
                _ => None,
            };
            let elsewhere = elsewhere.cloned().map(Change::Endpoint);
            changes.push(change);
            changes.extend(elsewhere);
        }
        self.once_complete(changes)
    }
}

/// A pod of this node, and the network its runtime made for it.
fn join(pod: &Endpoint, sandbox: Option<&Sandbox>) -> Endpoint {
    let port = HostPort::Netns(sandbox.map(|sandbox| sandbox.netns.clone()).unwrap_or_default());
    let group = sandbox.and_then(|sandbox| sandbox.group.clone());
    let mut endpoint = Endpoint { local: Some(Attachment { port, group, ..Attachment::default() }), ..pod.clone() };
    let Some(sandbox) = sandbox.filter(|sandbox| !sandbox.addresses.is_empty()) else { return endpoint };
    let ours: BTreeSet<&IpAddr> = sandbox.addresses.iter().collect();
    if endpoint.addresses.iter().any(|address| !ours.contains(address)) {
        // Two witnesses who disagree: nobody is believed, and the pod stays denied.
        let (namespace, name) = (&pod.key.namespace, &pod.key.name);
        let (runtime, api) = (&sandbox.addresses, &pod.addresses);
        tracing::warn!(namespace, name, ?runtime, ?api, "the runtime and the API server disagree about addresses");
        endpoint.addresses.clear();
    } else {
        endpoint.addresses.clone_from(&sandbox.addresses);
    }
    endpoint
}

#[cfg(test)]
mod tests;
