//! One followed namespace: its pods on other nodes, its Services, and their backends.
//!
//! Knows no other namespace. Pods of this node are skipped here: [`ClusterView`](super::cluster_view::ClusterView)
//! reports them with their interface.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use crate::kube_watch::objects::{ObservedPod, ObservedService, ObservedSlice};
use crate::kube_watch::update::Update;
use policy::model::input::{Change, Endpoint, EndpointKey, Service};

/// An update of one namespace.
#[derive(Clone, Debug)]
pub(crate) enum NamespaceEvent {
    /// Pods, on any node.
    Pods(Update<ObservedPod>),
    /// Services.
    Services(Update<ObservedService>),
    /// Backends of Services.
    Slices(Update<ObservedSlice>),
}

/// What is known of a namespace. Each set is `None` until its first snapshot.
#[derive(Clone, Debug)]
pub(crate) struct NamespaceWatch {
    /// Distinguishes its events from those of an earlier watch of the same namespace.
    pub id: u64,
    /// Since when it is not needed any more, if so.
    pub unwanted_since: Option<Duration>,
    pods: Option<HashMap<EndpointKey, Endpoint>>,
    services: Option<HashMap<EndpointKey, ObservedService>>,
    slices: Option<HashMap<EndpointKey, ObservedSlice>>,
    is_api: bool,
}

impl NamespaceWatch {
    /// A watch that has received nothing yet.
    pub(crate) fn new(id: u64) -> Self {
        Self { id, unwanted_since: None, pods: None, services: None, slices: None, is_api: false }
    }

    /// The API server's Service alone, which every node must know.
    pub(crate) fn of_api_server() -> Self {
        Self { pods: Some(HashMap::new()), is_api: true, ..Self::new(0) }
    }

    /// Whether every set has had its first snapshot.
    pub(crate) fn is_complete(&self) -> bool {
        self.pods.is_some() && self.services.is_some() && self.slices.is_some()
    }

    /// Pods on other nodes.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Endpoint> {
        self.pods.iter().flat_map(HashMap::values)
    }

    /// One pod on another node.
    pub(crate) fn pod(&self, key: &EndpointKey) -> Option<&Endpoint> {
        self.pods.as_ref()?.get(key)
    }

    /// Services with their backends.
    pub(crate) fn services(&self) -> impl Iterator<Item = Service> + '_ {
        self.services.iter().flat_map(HashMap::keys).filter_map(|key| self.service(key))
    }

    /// Applies an event on `node`. Changes of the pods in `local` are reported elsewhere.
    pub(crate) fn apply(
        &mut self,
        event: NamespaceEvent,
        node: &str,
        local: &HashMap<EndpointKey, Endpoint>,
    ) -> Vec<Change> {
        let was_known = self.knows_services();
        let keys = match event {
            NamespaceEvent::Pods(update) => return self.apply_pods(update, node, local),
            NamespaceEvent::Services(update) => absorb(&mut self.services, update, |service| service.key.clone()),
            NamespaceEvent::Slices(update) => {
                let before = self.slices.clone().unwrap_or_default();
                let keys = absorb(&mut self.slices, update, |slice| slice.key.clone());
                let service = |key: &EndpointKey, slice: &ObservedSlice| EndpointKey {
                    namespace: key.namespace.clone(),
                    name: slice.service.clone(),
                };
                let now = self.slices.iter().flatten();
                let touched = before.iter().chain(now).filter(|(key, _)| keys.contains(*key));
                touched.map(|(key, slice)| service(key, slice)).collect()
            }
        };
        match (was_known, self.knows_services()) {
            (true, _) => self.changes(keys),
            (false, true) => self.services().map(Change::Service).collect(),
            // A Service without its backends would be denied to pods that may use it.
            (false, false) => Vec::new(),
        }
    }

    fn knows_services(&self) -> bool {
        self.services.is_some() && self.slices.is_some()
    }

    /// Forgets everything. Returns the changes that undo what was reported.
    pub(crate) fn clear(&mut self, local: &HashMap<EndpointKey, Endpoint>) -> Vec<Change> {
        let pods = self.pods.take().unwrap_or_default().into_values().filter(|pod| !local.contains_key(&pod.key));
        let services = self.services.take().unwrap_or_default().into_keys();
        let services = services.map(Change::ServiceGone);
        pods.map(|pod| Change::EndpointGone { key: pod.key, uid: pod.uid }).chain(services).collect()
    }

    fn apply_pods(
        &mut self,
        update: Update<ObservedPod>,
        node: &str,
        local: &HashMap<EndpointKey, Endpoint>,
    ) -> Vec<Change> {
        let is_remote = |pod: &ObservedPod| pod.node != node && !pod.endpoint.addresses.is_empty();
        let update = match update {
            Update::Snapshot { objects, unreadable } => {
                let objects = objects.into_iter().filter(is_remote).map(|pod| pod.endpoint).collect();
                Update::Snapshot { objects, unreadable }
            }
            Update::Upsert(pod) if is_remote(&pod) => Update::Upsert(pod.endpoint),
            Update::Upsert(pod) => Update::Delete { key: pod.endpoint.key, uid: pod.endpoint.uid },
            Update::Unreadable(key) => Update::Unreadable(key),
            Update::Delete { key, uid } => {
                let is_late = self.pod(&key).is_some_and(|pod| !uid.is_empty() && pod.uid != uid);
                if is_late {
                    return Vec::new();
                }
                Update::Delete { key, uid }
            }
        };
        let old = |key: &EndpointKey| self.pod(key).map(|pod| (pod.key.clone(), pod.uid.clone()));
        let before: HashMap<EndpointKey, String> = match &update {
            Update::Snapshot { .. } => self.pods().map(|pod| (pod.key.clone(), pod.uid.clone())).collect(),
            Update::Upsert(pod) => old(&pod.key).into_iter().collect(),
            Update::Delete { key, .. } => old(key).into_iter().collect(),
            Update::Unreadable(_) => return Vec::new(),
        };
        let keys = absorb(&mut self.pods, update, |pod| pod.key.clone());
        let change = |key: EndpointKey| match self.pod(&key) {
            Some(pod) => Some(Change::Endpoint(pod.clone())),
            None => before.get(&key).map(|uid| Change::EndpointGone { key, uid: uid.clone() }),
        };
        keys.into_iter().filter(|key| !local.contains_key(key)).filter_map(change).collect()
    }

    fn changes(&self, keys: BTreeSet<EndpointKey>) -> Vec<Change> {
        let change = |key: EndpointKey| self.service(&key).map_or(Change::ServiceGone(key), Change::Service);
        keys.into_iter().filter(|key| self.is_api || !is_api(key)).map(change).collect()
    }

    fn service(&self, key: &EndpointKey) -> Option<Service> {
        let service = self.services.as_ref()?.get(key).filter(|_| self.is_api || !is_api(key))?;
        let slices = self.slices.iter().flat_map(HashMap::values).filter(|slice| slice.service == key.name);
        let backends: BTreeSet<IpAddr> = slices.flat_map(|slice| slice.backends.iter().copied()).collect();
        Some(Service { key: key.clone(), addresses: service.addresses.clone(), ends: backends.into_iter().collect() })
    }
}

fn is_api(key: &EndpointKey) -> bool {
    key.namespace == "default" && key.name == "kubernetes"
}

/// Applies an update to `known`. Returns the keys of the objects that differ now.
fn absorb<T: Clone + PartialEq>(
    known: &mut Option<HashMap<EndpointKey, T>>,
    update: Update<T>,
    key: impl Fn(&T) -> EndpointKey,
) -> BTreeSet<EndpointKey> {
    let mut differs = BTreeSet::new();
    match update {
        Update::Snapshot { objects, unreadable } => {
            let mut before = known.take().unwrap_or_default();
            let mut now = HashMap::with_capacity(objects.len());
            for object in objects {
                let key = key(&object);
                if before.remove(&key).as_ref() != Some(&object) {
                    differs.insert(key.clone());
                }
                now.insert(key, object);
            }
            for key in unreadable {
                if let Some(object) = before.remove(&key) {
                    now.insert(key, object);
                }
            }
            differs.extend(before.into_keys());
            *known = Some(now);
        }
        Update::Upsert(object) => {
            let Some(known) = known else { return differs };
            let key = key(&object);
            if known.get(&key) != Some(&object) {
                known.insert(key.clone(), object);
                differs.insert(key);
            }
        }
        Update::Unreadable(_) => {}
        Update::Delete { key, .. } => {
            if known.as_mut().is_some_and(|known| known.remove(&key).is_some()) {
                differs.insert(key);
            }
        }
    }
    differs
}
