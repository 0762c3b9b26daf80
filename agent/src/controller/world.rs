//! What the controller knows: the model's own picture of tenants and namespaces, and what only a status needs.
//!
//! No network and no clock. A spec that cannot be understood leaves its predecessor standing, as on the nodes: one bad
//! edit must not hand its subnets to somebody else.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use k8s_openapi::api::core::v1;
use kube::api::DynamicObject;

use crate::api::{NetworkTenant, NetworkTenantStatus, convert};
use policy::model::cluster::Cluster;
use policy::model::input::{Change, Namespace, Tenant};
use policy::model::settings::{Settings, TenancyKey};

/// News of one kind of object. A resync replaces all of them, so what vanished meanwhile vanishes here.
#[derive(Clone, Debug)]
pub enum Told<T> {
    /// All there are.
    All(Vec<T>),
    /// One that is new or different.
    One(T),
    /// One that is gone.
    Gone(T),
}

/// One piece of news.
#[derive(Clone, Debug)]
pub enum News {
    /// A tenant, not decoded yet: one bad object must not spoil the watch.
    Tenant(Told<DynamicObject>),
    /// A namespace.
    Namespace(Told<v1::Namespace>),
    /// A pod that has not ended.
    Pod(Told<PodName>),
    /// A pod of the agent.
    Agent(Told<AgentPod>),
    /// A node.
    Node(Told<NodeState>),
}

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A pod of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPod {
    /// Name.
    pub name: String,
    /// Its node, empty before it has one.
    pub node: String,
    /// It is ready, which means that its node enforces, and nobody asked it to end.
    pub ready: bool,
}

/// A node as far as agents matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// Name.
    pub name: String,
    /// It has the start-up taint.
    pub tainted: bool,
    /// The DaemonSet runs there.
    pub eligible: bool,
}

/// How soon news deserve a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nothing changed.
    Never,
    /// Only counts changed.
    Later,
    /// Somebody may be waiting for it.
    Soon,
}

/// One object as it stands at the API server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// Generation of its spec.
    pub generation: Option<i64>,
    /// Why the spec is not understood, if so.
    pub problem: Option<String>,
    /// Its status, if it has one that we can read.
    pub status: NetworkTenantStatus,
}

/// Everything that is known.
#[derive(Clone, Debug)]
pub struct World {
    /// Tenants and namespaces, as the agents see them.
    pub cluster: Cluster,
    /// Every object, understood or not, by name.
    pub written: BTreeMap<String, Written>,
    /// Ready agents by node.
    pub agents: BTreeMap<String, AgentPod>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeState>,
    pods: HashMap<String, HashSet<Box<str>>>,
    missing: BTreeSet<&'static str>,
}

impl World {
    /// Nothing is known yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            cluster: Cluster::new(settings),
            written: BTreeMap::new(),
            agents: BTreeMap::new(),
            nodes: BTreeMap::new(),
            pods: HashMap::new(),
            missing: ["tenants", "namespaces", "pods", "agents", "nodes"].into(),
        }
    }

    /// Kinds that were never told in full. Until none is left, silence is not absence.
    pub fn missing(&self) -> &BTreeSet<&'static str> {
        &self.missing
    }

    /// How many pods of a namespace have not ended.
    pub fn pods_of(&self, namespace: &str) -> usize {
        self.pods.get(namespace).map_or(0, HashSet::len)
    }

    /// Takes in one piece of news.
    pub fn apply(&mut self, news: News) -> Urgency {
        match news {
            News::Tenant(told) => self.tenants(told),
            News::Namespace(told) => self.namespaces(told),
            News::Pod(told) => self.pods(told),
            News::Agent(told) => {
                let key = |agent: &AgentPod| agent.name.clone();
                replace(&mut self.agents, told, key, &mut self.missing, "agents")
            }
            News::Node(told) => replace(&mut self.nodes, told, |node| node.name.clone(), &mut self.missing, "nodes"),
        }
    }

    fn tenants(&mut self, told: Told<DynamicObject>) -> Urgency {
        match told {
            Told::All(all) => {
                let before = std::mem::take(&mut self.written);
                let mut good = Vec::with_capacity(all.len());
                for object in all {
                    let (name, written, tenant) = read(object);
                    good.extend(
                        tenant.or_else(|| self.cluster.tenants().get(name.as_str()).map(|old| (**old).clone())),
                    );
                    self.written.insert(name, written);
                }
                self.cluster.apply(Change::Tenants(good));
                let first = self.missing.remove("tenants");
                soon(first || self.written != before)
            }
            Told::One(object) => {
                let (name, written, tenant) = read(object);
                let touched = tenant.map(|tenant| self.cluster.apply(Change::Tenant(tenant)));
                let same = self.written.insert(name, written.clone()).is_some_and(|before| before == written);
                soon(!same || touched.is_some_and(|touched| !touched.is_nothing()))
            }
            Told::Gone(object) => {
                let name = object.metadata.name.unwrap_or_default();
                self.cluster.apply(Change::TenantGone(name.clone()));
                soon(self.written.remove(&name).is_some())
            }
        }
    }

    fn namespaces(&mut self, told: Told<v1::Namespace>) -> Urgency {
        let change = match told {
            Told::All(all) => {
                let all = all.iter().filter_map(|object| self.namespace(object)).collect();
                self.missing.remove("namespaces");
                Change::Namespaces(all)
            }
            Told::One(object) => match self.namespace(&object) {
                Some(namespace) => Change::Namespace(namespace),
                None => return Urgency::Never,
            },
            Told::Gone(object) => Change::NamespaceGone(object.metadata.name.unwrap_or_default()),
        };
        soon(!self.cluster.apply(change).is_nothing())
    }

    fn namespace(&self, object: &v1::Namespace) -> Option<Namespace> {
        let keys = &self.cluster.settings().keys;
        let keep = |wanted: &str| {
            keys.iter().any(|key| matches!(key, TenancyKey::NamespaceAnnotation { key, .. } if key == wanted))
        };
        convert::namespace(object, keep).inspect_err(|error| tracing::warn!(%error, "a namespace is skipped")).ok()
    }

    fn pods(&mut self, told: Told<PodName>) -> Urgency {
        let changed = match told {
            Told::All(all) => {
                self.missing.remove("pods");
                self.pods.clear();
                all.into_iter().for_each(|pod| _ = self.pod(pod));
                true
            }
            Told::One(pod) => self.pod(pod),
            Told::Gone(pod) => {
                let Entry::Occupied(mut of) = self.pods.entry(pod.namespace) else { return Urgency::Never };
                let gone = of.get_mut().remove(pod.name.as_str());
                if of.get().is_empty() {
                    of.remove();
                }
                gone
            }
        };
        if changed { Urgency::Later } else { Urgency::Never }
    }

    fn pod(&mut self, pod: PodName) -> bool {
        self.pods.entry(pod.namespace).or_default().insert(pod.name.into())
    }
}

fn soon(changed: bool) -> Urgency {
    if changed { Urgency::Soon } else { Urgency::Never }
}

fn replace<T: Clone + PartialEq>(
    known: &mut BTreeMap<String, T>,
    told: Told<T>,
    key: impl Fn(&T) -> String,
    missing: &mut BTreeSet<&'static str>,
    kind: &'static str,
) -> Urgency {
    soon(match told {
        Told::All(all) => {
            let fresh: BTreeMap<String, T> = all.into_iter().map(|one| (key(&one), one)).collect();
            let changed = missing.remove(kind) || *known != fresh;
            *known = fresh;
            changed
        }
        Told::One(one) => known.insert(key(&one), one.clone()).is_none_or(|before| before != one),
        Told::Gone(one) => known.remove(&key(&one)).is_some(),
    })
}

/// An object in three: its name, how it stands, and what it means if it means anything.
fn read(mut object: DynamicObject) -> (String, Written, Option<Tenant>) {
    let name = object.metadata.name.clone().unwrap_or_default();
    // A status that we cannot read is written anew; it decides nothing.
    let status = object.data.as_object_mut().and_then(|fields| fields.remove("status"));
    let status = status.and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default();
    let generation = object.metadata.generation;
    let (problem, tenant) = match understand(object) {
        Ok(tenant) => (None, Some(tenant)),
        Err(problem) => (Some(problem), None),
    };
    (name, Written { generation, problem, status }, tenant)
}

fn understand(object: DynamicObject) -> Result<Tenant, String> {
    let object: NetworkTenant = object.try_parse().map_err(|error| error.to_string())?;
    convert::tenant(&object).map_err(|error| format!("{}: {}", error.field, error.problem))
}
