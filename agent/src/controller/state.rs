//! What the controller knows: tenants and namespaces in the model's form, and the counts that only a status needs.
//!
//! No network and no clock. The last good version of a spec that cannot be read stays in force, as on the nodes: one bad
//! edit must not give its subnets to another tenant.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use kube::api::DynamicObject;

use crate::api::{NetworkTenant, NetworkTenantStatus, convert};
use crate::kube_watch::stated_ranges::StatedRanges;
use crate::kube_watch::update::Update;
use policy::model::cluster::Cluster;
use policy::model::input::{Change, EndpointKey, Namespace, Tenant};
use policy::model::settings::Settings;

/// One event from a watch.
#[derive(Clone, Debug)]
pub(crate) enum ControllerEvent {
    /// Tenants, not decoded yet: the status must report what is wrong with a spec.
    Tenant(Update<Box<DynamicObject>>),
    /// Namespaces.
    Namespace(Update<Namespace>),
    /// Names of pods that have not ended.
    Pod(Update<EndpointKey>),
    /// Pods of the agent.
    Agent(Update<AgentPod>),
    /// Nodes.
    Node(Update<NodeState>),
    /// Ranges that ServiceCIDRs and IP pools state.
    Stated(StatedRanges),
}

/// A pod of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentPod {
    /// Name.
    pub name: String,
    /// Its node; empty while it is not scheduled.
    pub node: String,
    /// It is ready, which means that its node enforces, and it is not being deleted.
    pub ready: bool,
}

/// The state of a node that its agent affects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeState {
    /// Name.
    pub name: String,
    /// It has the start-up taint.
    pub tainted: bool,
    /// The DaemonSet runs on it.
    pub eligible: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Ranges of its pods.
    pub pod_cidrs: Vec<IpNet>,
}

/// How soon an event must be acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// Nothing changed.
    Never,
    /// Only counts changed.
    Later,
    /// A person may be waiting for the status.
    Soon,
}

/// One tenant object as the API server has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TenantObject {
    /// Generation of its spec.
    pub generation: Option<i64>,
    /// Why the spec cannot be read, if so.
    pub problem: Option<String>,
    /// Its status; the default if there is none or it cannot be read.
    pub status: NetworkTenantStatus,
}

/// Everything that the controller knows.
#[derive(Clone, Debug)]
pub(crate) struct ControllerState {
    /// Tenants and namespaces, as the agents see them.
    pub cluster: Cluster,
    /// Every tenant object by name, readable or not.
    pub objects: BTreeMap<String, TenantObject>,
    /// Pods of the agent by name.
    pub agents: BTreeMap<String, AgentPod>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeState>,
    stated: StatedRanges,
    pods: HashMap<String, HashSet<Box<str>>>,
    missing: BTreeSet<&'static str>,
}

impl ControllerState {
    /// The state before any event.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            cluster: Cluster::new(settings),
            objects: BTreeMap::new(),
            agents: BTreeMap::new(),
            nodes: BTreeMap::new(),
            stated: StatedRanges::default(),
            pods: HashMap::new(),
            missing: ["tenants", "namespaces", "pods", "agents", "nodes", "ranges"].into(),
        }
    }

    /// Kinds without a complete snapshot yet. Until none is left, an object that is not known may still exist.
    pub(crate) fn missing(&self) -> &BTreeSet<&'static str> {
        &self.missing
    }

    /// How many pods of a namespace have not ended.
    pub(crate) fn pods_of(&self, namespace: &str) -> usize {
        self.pods.get(namespace).map_or(0, HashSet::len)
    }

    /// Applies one event.
    pub(crate) fn apply(&mut self, event: ControllerEvent) -> Urgency {
        match event {
            ControllerEvent::Tenant(update) => self.tenants(update),
            ControllerEvent::Namespace(update) => self.namespaces(update),
            ControllerEvent::Pod(update) => self.pods(update),
            ControllerEvent::Agent(update) => {
                let key = |agent: &AgentPod| agent.name.clone();
                replace(&mut self.agents, update, key, &mut self.missing, "agents")
            }
            ControllerEvent::Node(update) => {
                let changed = replace(&mut self.nodes, update, |node| node.name.clone(), &mut self.missing, "nodes");
                changed.max(self.refresh_ranges())
            }
            ControllerEvent::Stated(stated) => {
                self.stated = stated;
                soon(self.missing.remove("ranges")).max(self.refresh_ranges())
            }
        }
    }

    /// Gives the ranges and addresses of nodes to the model. It does not know the addresses of pods.
    fn refresh_ranges(&mut self) -> Urgency {
        let learnt = self.stated.learnt(self.nodes.values().map(|node| &node.pod_cidrs), std::iter::empty());
        let addresses = self.nodes.values().flat_map(|node| node.addresses.iter().copied()).collect();
        let mut dirty = self.cluster.apply(Change::Ranges(learnt));
        dirty.add(self.cluster.apply(Change::ClusterNodes(addresses)));
        soon(!dirty.is_nothing())
    }

    fn tenants(&mut self, update: Update<Box<DynamicObject>>) -> Urgency {
        match update {
            Update::Snapshot { objects, unreadable } => {
                let mut before = std::mem::take(&mut self.objects);
                let mut good = Vec::with_capacity(objects.len());
                let mut changed = self.missing.remove("tenants");
                for object in objects {
                    let (name, object, tenant) = read(*object);
                    good.extend(tenant.or_else(|| self.last_good(&name)));
                    changed |= before.remove(&name).as_ref() != Some(&object);
                    self.objects.insert(name, object);
                }
                for EndpointKey { name, .. } in unreadable {
                    good.extend(self.last_good(&name));
                    self.objects.extend(before.remove_entry(&name));
                }
                self.cluster.apply(Change::Tenants(good));
                soon(changed || !before.is_empty())
            }
            Update::Upsert(object) => {
                let (name, object, tenant) = read(*object);
                let touched = tenant.map(|tenant| self.cluster.apply(Change::Tenant(tenant)));
                let same = self.objects.insert(name, object.clone()).is_some_and(|before| before == object);
                soon(!same || touched.is_some_and(|touched| !touched.is_nothing()))
            }
            Update::Unreadable(_) => Urgency::Never,
            Update::Delete { key, .. } => {
                self.cluster.apply(Change::TenantGone(key.name.clone()));
                soon(self.objects.remove(&key.name).is_some())
            }
        }
    }

    fn last_good(&self, name: &str) -> Option<Tenant> {
        self.cluster.tenants().get(name).map(|tenant| Tenant::clone(tenant))
    }

    fn namespaces(&mut self, update: Update<Namespace>) -> Urgency {
        let change = match update {
            Update::Snapshot { mut objects, unreadable } => {
                self.missing.remove("namespaces");
                let known =
                    unreadable.iter().filter_map(|key| self.cluster.namespaces().get(&key.name)?.object.clone());
                objects.extend(known.collect::<Vec<_>>());
                Change::Namespaces(objects)
            }
            Update::Upsert(namespace) => Change::Namespace(namespace),
            Update::Unreadable(_) => return Urgency::Never,
            Update::Delete { key, .. } => Change::NamespaceGone(key.name),
        };
        soon(!self.cluster.apply(change).is_nothing())
    }

    fn pods(&mut self, update: Update<EndpointKey>) -> Urgency {
        let changed = match update {
            Update::Snapshot { objects, unreadable } => {
                self.missing.remove("pods");
                self.pods.clear();
                objects.into_iter().chain(unreadable).for_each(|pod| _ = self.add_pod(pod));
                true
            }
            // A pod is counted by its name, which an unreadable pod has too.
            Update::Upsert(pod) | Update::Unreadable(pod) => self.add_pod(pod),
            Update::Delete { key, .. } => {
                let Entry::Occupied(mut pods) = self.pods.entry(key.namespace) else { return Urgency::Never };
                let gone = pods.get_mut().remove(key.name.as_str());
                if pods.get().is_empty() {
                    pods.remove();
                }
                gone
            }
        };
        if changed { Urgency::Later } else { Urgency::Never }
    }

    fn add_pod(&mut self, pod: EndpointKey) -> bool {
        self.pods.entry(pod.namespace).or_default().insert(pod.name.into())
    }
}

fn soon(changed: bool) -> Urgency {
    if changed { Urgency::Soon } else { Urgency::Never }
}

fn replace<T: Clone + PartialEq>(
    known: &mut BTreeMap<String, T>,
    update: Update<T>,
    key: impl Fn(&T) -> String,
    missing: &mut BTreeSet<&'static str>,
    kind: &'static str,
) -> Urgency {
    soon(match update {
        Update::Snapshot { objects, unreadable } => {
            let mut fresh: BTreeMap<String, T> = objects.into_iter().map(|one| (key(&one), one)).collect();
            let kept = unreadable.iter().filter_map(|key| known.get_key_value(&key.name));
            fresh.extend(kept.map(|(name, one)| (name.clone(), one.clone())));
            let changed = missing.remove(kind) || *known != fresh;
            *known = fresh;
            changed
        }
        Update::Upsert(one) => known.insert(key(&one), one.clone()).is_none_or(|before| before != one),
        Update::Unreadable(_) => false,
        Update::Delete { key, .. } => known.remove(&key.name).is_some(),
    })
}

/// Splits an object into its name, its state at the API server, and the tenant if its spec can be read.
fn read(mut object: DynamicObject) -> (String, TenantObject, Option<Tenant>) {
    let name = object.metadata.name.clone().unwrap_or_default();
    // A status that cannot be read is replaced by the next write; it decides nothing.
    let status = object.data.as_object_mut().and_then(|fields| fields.remove("status"));
    let status = status.and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default();
    let generation = object.metadata.generation;
    let (problem, tenant) = match decode(object) {
        Ok(tenant) => (None, Some(tenant)),
        Err(problem) => (Some(problem), None),
    };
    (name, TenantObject { generation, problem, status }, tenant)
}

fn decode(object: DynamicObject) -> Result<Tenant, String> {
    let object: NetworkTenant = object.try_parse().map_err(|error| error.to_string())?;
    convert::tenant(&object).map_err(|error| format!("{}: {}", error.field, error.problem))
}
