//! One namespace that is followed: its pods elsewhere, its Services, their ends.
//!
//! Knows no other namespace. A pod of this node is told by whoever knows its interface, so here it is
//! passed over.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::convert::{PodSeen, ServiceSeen, SliceSeen};
use super::told::Told;
use policy::model::input::{Change, Endpoint, EndpointKey, Service};

/// News of a namespace.
#[derive(Clone, Debug)]
pub enum RoomNews {
    /// Of its pods, on whatever node.
    Pods(Told<PodSeen>),
    /// Of its Services.
    Services(Told<ServiceSeen>),
    /// Of their ends.
    Slices(Told<SliceSeen>),
}

/// What was told of a namespace; `None` until it was told in full.
#[derive(Clone, Debug)]
pub struct Room {
    /// Tells its news from those of an earlier room of the same name.
    pub number: u64,
    /// When it was last needed, if it is needed no more.
    pub unwanted_since: Option<Duration>,
    pods: Option<HashMap<EndpointKey, Endpoint>>,
    services: Option<HashMap<EndpointKey, ServiceSeen>>,
    slices: Option<HashMap<EndpointKey, SliceSeen>>,
    is_api: bool,
}

impl Room {
    /// Nothing told yet.
    pub fn of_namespace(number: u64) -> Self {
        Self { number, unwanted_since: None, pods: None, services: None, slices: None, is_api: false }
    }

    /// The one Service of the API server, which every node must know.
    pub fn of_api_server() -> Self {
        Self { pods: Some(HashMap::new()), is_api: true, ..Self::of_namespace(0) }
    }

    /// Whether all was told.
    pub fn is_complete(&self) -> bool {
        self.pods.is_some() && self.services.is_some() && self.slices.is_some()
    }

    /// Pods on other nodes.
    pub fn pods(&self) -> impl Iterator<Item = &Endpoint> {
        self.pods.iter().flat_map(HashMap::values)
    }

    /// One of them.
    pub fn pod(&self, key: &EndpointKey) -> Option<&Endpoint> {
        self.pods.as_ref()?.get(key)
    }

    /// Services with their ends.
    pub fn services(&self) -> impl Iterator<Item = Service> + '_ {
        self.services.iter().flat_map(HashMap::keys).filter_map(|key| self.service(key))
    }

    /// Takes in news; pods of `local` are told elsewhere.
    pub fn take(&mut self, news: RoomNews, node: &str, local: &HashMap<EndpointKey, Endpoint>) -> Vec<Change> {
        let was_known = self.knows_services();
        let keys = match news {
            RoomNews::Pods(told) => return self.take_pods(told, node, local),
            RoomNews::Services(told) => absorb(&mut self.services, told, |service| service.key.clone()),
            RoomNews::Slices(told) => {
                let before = self.slices.clone().unwrap_or_default();
                let keys = absorb(&mut self.slices, told, |slice| slice.key.clone());
                let service = |key: &EndpointKey, slice: &SliceSeen| EndpointKey {
                    namespace: key.namespace.clone(),
                    name: slice.service.clone(),
                };
                let now = self.slices.iter().flatten();
                let touched = before.iter().chain(now).filter(|(key, _)| keys.contains(*key));
                touched.map(|(key, slice)| service(key, slice)).collect()
            }
        };
        match (was_known, self.knows_services()) {
            (true, _) => self.tell(keys),
            (false, true) => self.services().map(Change::Service).collect(),
            // A Service whose ends are only late would deny what its pods may.
            (false, false) => Vec::new(),
        }
    }

    fn knows_services(&self) -> bool {
        self.services.is_some() && self.slices.is_some()
    }

    /// Takes back all that was said.
    pub fn empty(&mut self, local: &HashMap<EndpointKey, Endpoint>) -> Vec<Change> {
        let pods = self.pods.take().unwrap_or_default().into_values().filter(|pod| !local.contains_key(&pod.key));
        let services = self.services.take().unwrap_or_default().into_keys();
        let services = services.map(Change::ServiceGone);
        pods.map(|pod| Change::EndpointGone { key: pod.key, uid: pod.uid }).chain(services).collect()
    }

    fn take_pods(&mut self, told: Told<PodSeen>, node: &str, local: &HashMap<EndpointKey, Endpoint>) -> Vec<Change> {
        let is_ours = |pod: &PodSeen| pod.node != node && !pod.endpoint.addresses.is_empty();
        let told = match told {
            Told::All { objects, kept } => {
                let objects = objects.into_iter().filter(is_ours).map(|pod| pod.endpoint).collect();
                Told::All { objects, kept }
            }
            Told::One(pod) if is_ours(&pod) => Told::One(pod.endpoint),
            Told::One(pod) => Told::Gone { key: pod.endpoint.key, uid: pod.endpoint.uid },
            Told::Gone { key, uid } => {
                let is_late = self.pod(&key).is_some_and(|pod| !uid.is_empty() && pod.uid != uid);
                if is_late {
                    return Vec::new();
                }
                Told::Gone { key, uid }
            }
        };
        let old = |room: &Self, key: &EndpointKey| room.pod(key).map(|pod| pod.uid.clone());
        let before: HashMap<EndpointKey, String> = match &told {
            Told::All { .. } => self.pods().map(|pod| (pod.key.clone(), pod.uid.clone())).collect(),
            Told::One(pod) => old(self, &pod.key).map(|uid| (pod.key.clone(), uid)).into_iter().collect(),
            Told::Gone { key, .. } => old(self, key).map(|uid| (key.clone(), uid)).into_iter().collect(),
        };
        let keys = absorb(&mut self.pods, told, |pod| pod.key.clone());
        let change = |key: EndpointKey| match self.pod(&key) {
            Some(pod) => Some(Change::Endpoint(pod.clone())),
            None => before.get(&key).map(|uid| Change::EndpointGone { key, uid: uid.clone() }),
        };
        keys.into_iter().filter(|key| !local.contains_key(key)).filter_map(change).collect()
    }

    fn tell(&self, keys: BTreeSet<EndpointKey>) -> Vec<Change> {
        let change = |key: EndpointKey| self.service(&key).map_or(Change::ServiceGone(key), Change::Service);
        keys.into_iter().filter(|key| self.is_api || !is_api(key)).map(change).collect()
    }

    fn service(&self, key: &EndpointKey) -> Option<Service> {
        let service = self.services.as_ref()?.get(key).filter(|_| self.is_api || !is_api(key))?;
        let slices = self.slices.iter().flat_map(HashMap::values).filter(|slice| slice.service == key.name);
        let ends: BTreeSet<IpAddr> = slices.flat_map(|slice| slice.ends.iter().copied()).collect();
        Some(Service { key: key.clone(), addresses: service.addresses.clone(), ends: ends.into_iter().collect() })
    }
}

fn is_api(key: &EndpointKey) -> bool {
    key.namespace == "default" && key.name == "kubernetes"
}

/// Takes told objects into `known`; says which keys differ now.
fn absorb<T: Clone + PartialEq>(
    known: &mut Option<HashMap<EndpointKey, T>>,
    told: Told<T>,
    key: impl Fn(&T) -> EndpointKey,
) -> BTreeSet<EndpointKey> {
    let mut differs = BTreeSet::new();
    match told {
        Told::All { objects, kept } => {
            let mut before = known.take().unwrap_or_default();
            let mut now = HashMap::with_capacity(objects.len());
            for object in objects {
                let key = key(&object);
                if before.remove(&key).as_ref() != Some(&object) {
                    differs.insert(key.clone());
                }
                now.insert(key, object);
            }
            for key in kept {
                if let Some(object) = before.remove(&key) {
                    now.insert(key, object);
                }
            }
            differs.extend(before.into_keys());
            *known = Some(now);
        }
        Told::One(object) => {
            let Some(known) = known else { return differs };
            let key = key(&object);
            if known.get(&key) != Some(&object) {
                known.insert(key.clone(), object);
                differs.insert(key);
            }
        }
        Told::Gone { key, .. } => {
            if known.as_mut().is_some_and(|known| known.remove(&key).is_some()) {
                differs.insert(key);
            }
        }
    }
    differs
}
