//! What we know. `apply` is the only way to alter it, and says what the news touched.
//!
//! The same news in any order give the same cluster: an object replaces its predecessor by name, a
//! pod by name and creation, and two claims of one address belong to nobody while both live.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::book::Book;
use super::input::{Change, Endpoint, EndpointKey, Link, Namespace, Tenant};
use super::pod::{Named, Pod, Uid, Workloads};
use super::settings::Settings;
use super::spaces::Spaces;
use super::word::Word;

/// The cluster as far as this node must know it.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    settings: Arc<Settings>,
    tenants: BTreeMap<Word, Arc<Tenant>>,
    spaces: Spaces,
    workloads: Workloads,
    book: Book,
    rivals: Arc<BTreeMap<IpAddr, Vec<Arc<Pod>>>>,
    locals: BTreeMap<EndpointKey, Arc<Pod>>,
    links: BTreeMap<u32, Link>,
    nodes: Arc<BTreeSet<IpAddr>>,
    told: Told,
}

/// Which kinds were told in full at least once. Until all were, silence is not absence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    tenants: bool,
    namespaces: bool,
    endpoints: bool,
    links: bool,
    nodes: bool,
}

/// Addresses above which `Touched` stops counting.
const TOO_MANY: usize = 65_536;

/// What a change may have altered in the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// All of it: the start, or a doubt.
    pub everything: bool,
    /// Objects: ranges, grants, modes, owners.
    pub tenants: bool,
    /// Who belongs to whom, or who has pods here.
    pub tenancy: bool,
    /// Local pods or interfaces.
    pub endpoints: bool,
    /// These addresses.
    pub addresses: BTreeSet<IpAddr>,
}

impl Touched {
    /// Everything.
    pub fn all() -> Self {
        Self { everything: true, tenants: true, tenancy: true, endpoints: true, addresses: BTreeSet::new() }
    }

    /// Nothing at all.
    pub fn is_nothing(&self) -> bool {
        !self.everything && !self.tenants && !self.tenancy && !self.endpoints && self.addresses.is_empty()
    }

    /// Adds what another change touched.
    pub fn add(&mut self, other: Self) {
        self.everything |= other.everything;
        self.tenants |= other.tenants;
        self.tenancy |= other.tenancy;
        self.endpoints |= other.endpoints;
        other.addresses.into_iter().for_each(|address| self.address(address));
    }

    /// Adds an address. Past a bound the list would cost more than looking at everything.
    pub fn address(&mut self, address: IpAddr) {
        if self.everything {
            return;
        }
        self.addresses.insert(address);
        if self.addresses.len() > TOO_MANY {
            *self = Self::all();
        }
    }
}

impl Cluster {
    /// An empty cluster.
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), ..Self::default() }
    }

    /// Takes in one piece of news.
    pub fn apply(&mut self, change: Change) -> Touched {
        let mut touched = Touched::default();
        match change {
            Change::Tenants(all) => self.all_tenants(all, &mut touched),
            Change::Tenant(tenant) => self.tenant(tenant, &mut touched),
            Change::TenantGone(name) => self.tenant_gone(&name, &mut touched),
            Change::Namespaces(all) => self.all_namespaces(all, &mut touched),
            Change::Namespace(namespace) => self.namespace(namespace, &mut touched),
            Change::NamespaceGone(name) => touched.tenancy |= self.spaces.untell(&name),
            Change::Endpoints(all) => self.all_endpoints(all, &mut touched),
            Change::Endpoint(endpoint) => self.endpoint(endpoint, &mut touched),
            Change::EndpointGone { key, uid } => self.endpoint_gone(&key, &uid, &mut touched),
            Change::Links(all) => self.all_links(all, &mut touched),
            Change::Nodes(all) => self.all_nodes(all, &mut touched),
        }
        touched
    }

    /// Whether every kind was told in full once: before, a missing object may only be late, and
    /// acting on its absence after a restart would undo what the kernel rightly enforces.
    pub fn is_complete(&self) -> bool {
        self.told == Told { tenants: true, namespaces: true, endpoints: true, links: true, nodes: true }
    }

    /// The operator's settings.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// The objects, by name.
    pub fn tenants(&self) -> &BTreeMap<Word, Arc<Tenant>> {
        &self.tenants
    }

    /// The namespaces.
    pub fn spaces(&self) -> &Spaces {
        &self.spaces
    }

    /// Addresses with exactly one owner.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Addresses that several live pods claim, and those pods.
    pub fn rivals(&self) -> &Arc<BTreeMap<IpAddr, Vec<Arc<Pod>>>> {
        &self.rivals
    }

    /// Pods of this node.
    pub fn locals(&self) -> &BTreeMap<EndpointKey, Arc<Pod>> {
        &self.locals
    }

    /// Interfaces of this node.
    pub fn links(&self) -> &BTreeMap<u32, Link> {
        &self.links
    }

    /// Addresses of all nodes.
    pub fn nodes(&self) -> &Arc<BTreeSet<IpAddr>> {
        &self.nodes
    }
}

/// Objects and namespaces.
impl Cluster {
    fn all_tenants(&mut self, all: Vec<Tenant>, touched: &mut Touched) {
        self.told.tenants = true;
        let kept: HashSet<String> = all.iter().map(|tenant| tenant.age.name.clone()).collect();
        let gone: Vec<Word> = self.tenants.keys().filter(|name| !kept.contains(&***name)).cloned().collect();
        gone.iter().for_each(|name| self.tenant_gone(name, touched));
        all.into_iter().for_each(|tenant| self.tenant(tenant, touched));
    }

    fn tenant(&mut self, tenant: Tenant, touched: &mut Touched) {
        let old = self.tenants.get(tenant.age.name.as_str()).cloned();
        if old.as_deref() == Some(&tenant) {
            return;
        }
        if old.as_ref().is_none_or(|old| old.namespaces != tenant.namespaces || old.age != tenant.age) {
            self.spaces.reclaim(old.as_deref(), Some(&tenant));
        }
        self.tenants.insert(Word::from(tenant.age.name.as_str()), Arc::new(tenant));
        touched.tenants = true;
    }

    fn tenant_gone(&mut self, name: &str, touched: &mut Touched) {
        let Some(old) = self.tenants.remove(name) else { return };
        self.spaces.reclaim(Some(&old), None);
        touched.tenants = true;
    }

    fn all_namespaces(&mut self, all: Vec<Namespace>, touched: &mut Touched) {
        self.told.namespaces = true;
        let mut gone = self.spaces.told();
        all.iter().for_each(|namespace| _ = gone.remove(namespace.name.as_str()));
        gone.keys().for_each(|name| touched.tenancy |= self.spaces.untell(name));
        all.into_iter().for_each(|namespace| self.namespace(namespace, touched));
    }

    fn namespace(&mut self, namespace: Namespace, touched: &mut Touched) {
        touched.tenancy |= self.spaces.tell(namespace, self.tenants.values().map(|tenant| &**tenant));
    }
}

/// Pods.
impl Cluster {
    fn all_endpoints(&mut self, all: Vec<Endpoint>, touched: &mut Touched) {
        self.told.endpoints = true;
        let mut kept: HashSet<(&str, &str)> = HashSet::with_capacity(all.len());
        kept.extend(all.iter().map(|endpoint| (endpoint.key.namespace.as_str(), endpoint.key.name.as_str())));
        let missing = |pod: &&Named| !kept.contains(&(&*pod.0.namespace, &*pod.0.name));
        let gone: Vec<Named> =
            self.spaces.iter().flat_map(|space| space.pods.iter().filter(missing)).cloned().collect();
        gone.into_iter().for_each(|pod| self.remove_pod(&pod.0, touched));
        all.into_iter().for_each(|endpoint| self.endpoint(endpoint, touched));
    }

    fn endpoint(&mut self, endpoint: Endpoint, touched: &mut Touched) {
        let workload = endpoint.workload.clone().map(|workload| self.workloads.intern(workload));
        let namespace = self.spaces.entry(&endpoint.key.namespace).name.clone();
        let pod = Pod::new(endpoint, namespace, workload);
        match self.current(&pod.namespace, &pod.name) {
            Some(old) if *old == pod || is_stale(&pod, &old) => return,
            Some(old) => self.remove_pod(&old, touched),
            None => {}
        }
        self.insert_pod(Arc::new(pod), touched);
    }

    fn endpoint_gone(&mut self, key: &EndpointKey, uid: &str, touched: &mut Touched) {
        let Some(old) = self.current(&key.namespace, &key.name) else { return };
        if uid.is_empty() || old.uid == Uid::from(uid) {
            self.remove_pod(&old, touched);
        }
    }

    fn current(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.spaces.get(namespace)?.pods.get(name).map(|named| Arc::clone(&named.0))
    }

    fn insert_pod(&mut self, pod: Arc<Pod>, touched: &mut Touched) {
        let space = self.spaces.entry(&pod.namespace);
        touched.tenancy |= space.pods.is_empty() || (pod.local.is_some() && space.locals == 0);
        space.pods.insert(Named(Arc::clone(&pod)));
        if pod.local.is_some() {
            space.locals += 1;
            self.locals.insert(pod.key(), Arc::clone(&pod));
            touched.endpoints = true;
        }
        pod.addresses().for_each(|address| self.claim(address, &pod, touched));
    }

    fn remove_pod(&mut self, pod: &Arc<Pod>, touched: &mut Touched) {
        pod.addresses().for_each(|address| self.unclaim(address, pod, touched));
        let space = self.spaces.entry(&pod.namespace);
        space.pods.remove(&*pod.name);
        if pod.local.is_some() {
            space.locals -= 1;
            self.locals.remove(&pod.key());
            touched.endpoints = true;
        }
        let space = self.spaces.entry(&pod.namespace);
        touched.tenancy |= space.pods.is_empty() || (pod.local.is_some() && space.locals == 0);
        self.spaces.drop_if_empty(&pod.namespace);
    }

    fn claim(&mut self, address: IpAddr, pod: &Arc<Pod>, touched: &mut Touched) {
        touched.address(address);
        if let Some(rivals) = self.rivals.contains_key(&address).then(|| self.rivals_of(address)) {
            rivals.push(Arc::clone(pod));
        } else if let Some(other) = self.book.get(address).cloned() {
            self.book.remove(address);
            self.rivals_of(address).extend([other, Arc::clone(pod)]);
        } else {
            return self.book.insert(address, Arc::clone(pod));
        }
        // Whoever lost the address must lose it on its interface too.
        touched.endpoints = true;
    }

    fn unclaim(&mut self, address: IpAddr, pod: &Arc<Pod>, touched: &mut Touched) {
        touched.address(address);
        if !self.rivals.contains_key(&address) {
            return self.book.remove(address);
        }
        touched.endpoints = true;
        let rivals = self.rivals_of(address);
        rivals.retain(|rival| !Arc::ptr_eq(rival, pod));
        if let [last] = rivals.as_slice() {
            let last = Arc::clone(last);
            Arc::make_mut(&mut self.rivals).remove(&address);
            self.book.insert(address, last);
        }
    }

    fn rivals_of(&mut self, address: IpAddr) -> &mut Vec<Arc<Pod>> {
        Arc::make_mut(&mut self.rivals).entry(address).or_default()
    }
}

/// A late word about the predecessor of a pod we know.
fn is_stale(told: &Pod, known: &Pod) -> bool {
    told.uid != known.uid && told.created < known.created
}

/// The node itself.
impl Cluster {
    fn all_links(&mut self, all: Vec<Link>, touched: &mut Touched) {
        let links = all.into_iter().map(|link| (link.ifindex, link)).collect();
        touched.endpoints |= self.links != links || !self.told.links;
        self.links = links;
        self.told.links = true;
    }

    fn all_nodes(&mut self, all: Vec<IpAddr>, touched: &mut Touched) {
        self.told.nodes = true;
        let nodes: BTreeSet<IpAddr> = all.into_iter().map(|address| address.to_canonical()).collect();
        self.nodes.symmetric_difference(&nodes).for_each(|address| touched.address(*address));
        touched.endpoints |= *self.nodes != nodes;
        self.nodes = Arc::new(nodes);
    }
}
