//! The cluster: all that is known. `apply` is the only way to change it, and returns what the change affects.
//!
//! Knows no policy and no kernel. The same changes in any order give the same cluster: an object replaces that of the
//! same name, and a pod replaces an older pod of the same name. An address that two live pods claim has no owner.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::address_index::AddressIndex;
use super::dirty::Dirty;
use super::input::{Change, Endpoint, EndpointKey, HostNetworkPod, Link, Namespace, NetnsInterfaces, Tenant};
use super::name::Name;
use super::namespaces::Namespaces;
use super::pod::{Pod, PodByName, Uid, Workloads};
use super::ranges::{LearntRanges, PodRangeGap, RangeKind, Ranges};
use super::services::Services;
use super::settings::Settings;

/// What this node knows of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    settings: Arc<Settings>,
    tenants: BTreeMap<Name, Arc<Tenant>>,
    namespaces: Namespaces,
    workloads: Workloads,
    address_index: AddressIndex<Pod>,
    rivals: Arc<BTreeMap<IpAddr, Vec<Arc<Pod>>>>,
    locals: BTreeMap<EndpointKey, Arc<Pod>>,
    links: BTreeMap<u32, Link>,
    services: Services,
    nodes: Arc<BTreeSet<IpAddr>>,
    own: BTreeSet<IpAddr>,
    virtual_addresses: BTreeSet<IpAddr>,
    others: BTreeSet<IpAddr>,
    learnt: LearntRanges,
    ranges: Arc<Ranges>,
    /// How many pod addresses lie outside the ranges of pods, and the last one of them.
    strays: Option<(usize, IpAddr)>,
    host_network_pods: Vec<HostNetworkPod>,
    /// `None` until the first reading.
    netns_interfaces: Option<NetnsInterfaces>,
    synced: Synced,
}

/// Whether a node has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeClaim {
    /// It has, whoever else claims the address.
    Sure,
    /// It has, unless a pod or a Service is known there.
    UnlessOthers,
    /// No node claims the address.
    None,
}

/// Which kinds were reported in full at least once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Synced {
    tenants: bool,
    namespaces: bool,
    endpoints: bool,
    links: bool,
    nodes: bool,
}

impl Cluster {
    /// An empty cluster.
    pub fn new(settings: Settings) -> Self {
        let ranges = Arc::new(Ranges::new(&settings, &LearntRanges::default()));
        Self { settings: Arc::new(settings), ranges, ..Self::default() }
    }

    /// Applies one change. Returns what it affects.
    pub fn apply(&mut self, change: Change) -> Dirty {
        let mut dirty = Dirty::default();
        let gap = self.pod_range_gap();
        match change {
            Change::Tenants(all) => self.all_tenants(all, &mut dirty),
            Change::Tenant(tenant) => self.tenant(tenant, &mut dirty),
            Change::TenantGone(name) => self.tenant_gone(&name, &mut dirty),
            Change::Namespaces(all) => self.all_namespaces(all, &mut dirty),
            Change::Namespace(namespace) => self.namespace(namespace, &mut dirty),
            Change::NamespaceGone(name) => dirty.tenancy |= self.namespaces.forget(&name),
            Change::Endpoints(all) => self.all_endpoints(all, &mut dirty),
            Change::Endpoint(endpoint) => self.endpoint(endpoint, &mut dirty),
            Change::EndpointGone { key, uid } => self.endpoint_gone(&key, &uid, &mut dirty),
            Change::Links(all) => self.all_links(all, &mut dirty),
            Change::Nodes(all) => {
                self.synced.nodes = true;
                let changed = replace(&mut self.own, all);
                self.refresh_nodes(&changed, &mut dirty);
            }
            Change::VirtualAddresses(all) => {
                let changed = replace(&mut self.virtual_addresses, all);
                self.refresh_nodes(&changed, &mut dirty);
            }
            Change::ClusterNodes(all) => {
                let changed = replace(&mut self.others, all);
                self.refresh_nodes(&changed, &mut dirty);
            }
            Change::Ranges(learnt) => self.learn(learnt, &mut dirty),
            Change::NetnsInterfaces(all) => {
                dirty.endpoints = true;
                self.netns_interfaces = Some(all);
            }
            Change::HostNetworkPods(all) => {
                dirty.endpoints = true;
                self.host_network_pods = all;
            }
            Change::InputGuardTouched => dirty.endpoints = true,
            Change::Services(all) => self.services.replace(all, &mut dirty),
            Change::Service(service) => self.services.insert(service, &mut dirty),
            Change::ServiceGone(key) => self.services.remove(&key, &mut dirty),
        }
        if gap.is_some() != self.pod_range_gap().is_some() {
            self.mark_ranges(&mut dirty);
        }
        dirty
    }

    /// Whether every kind was reported in full at least once. Before that, a missing object may only be late. To act on
    /// its absence after a restart would undo what the kernel rightly enforces.
    pub fn is_complete(&self) -> bool {
        self.synced == Synced { tenants: true, namespaces: true, endpoints: true, links: true, nodes: true }
    }

    /// The operator's settings.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// `NetworkTenant` objects by name.
    pub fn tenants(&self) -> &BTreeMap<Name, Arc<Tenant>> {
        &self.tenants
    }

    /// The namespaces.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Addresses with exactly one owner.
    pub fn address_index(&self) -> &AddressIndex<Pod> {
        &self.address_index
    }

    /// Addresses that several live pods claim, and those pods.
    pub fn rivals(&self) -> &Arc<BTreeMap<IpAddr, Vec<Arc<Pod>>>> {
        &self.rivals
    }

    /// Pods of this node.
    pub(crate) fn locals(&self) -> &BTreeMap<EndpointKey, Arc<Pod>> {
        &self.locals
    }

    /// Interfaces of this node.
    pub fn links(&self) -> &BTreeMap<u32, Link> {
        &self.links
    }

    /// What is inside the named network namespaces; `None` until the first reading.
    pub fn netns_interfaces(&self) -> Option<&NetnsInterfaces> {
        self.netns_interfaces.as_ref()
    }

    /// Services.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Whether a node has an address, in the order in which claims are believed: an address on a real interface of this
    /// node; a known pod's; that of a Service; what else a node claims. A Node object may name any address, and a Service's
    /// owner may have one put on a dummy interface. Where the two claim the same, a Node object outside the ranges of pods
    /// is believed before a pod.
    pub(crate) fn node_claim(&self, address: IpAddr) -> NodeClaim {
        let by_object = self.others.contains(&address);
        match self.ranges.kind(address) {
            _ if self.own.contains(&address) => NodeClaim::Sure,
            _ if !by_object && !self.virtual_addresses.contains(&address) => NodeClaim::None,
            Some(RangeKind::Pods | RangeKind::Services) => NodeClaim::UnlessOthers,
            _ if by_object => NodeClaim::Sure,
            _ => NodeClaim::UnlessOthers,
        }
    }

    /// Whether this node delivers packets to the address to itself, as far as its interfaces say.
    pub fn is_delivered_here(&self, address: IpAddr) -> bool {
        self.own.contains(&address) || self.virtual_addresses.contains(&address)
    }

    /// Addresses of all nodes, also those that are somebody else's by [`Self::node_claim`].
    pub fn nodes(&self) -> &Arc<BTreeSet<IpAddr>> {
        &self.nodes
    }

    /// Ranges of pods, Services and nodes.
    pub fn ranges(&self) -> &Arc<Ranges> {
        &self.ranges
    }

    /// Why the range of pods is not known; `None` if it is.
    pub fn pod_range_gap(&self) -> Option<PodRangeGap> {
        Ranges::gap(&self.settings, &self.learnt, self.strays)
    }

    /// Host-network pods of this node.
    pub fn host_network_pods(&self) -> &[HostNetworkPod] {
        &self.host_network_pods
    }
}

/// Tenants and namespaces.
impl Cluster {
    fn all_tenants(&mut self, all: Vec<Tenant>, dirty: &mut Dirty) {
        self.synced.tenants = true;
        let kept: HashSet<String> = all.iter().map(|tenant| tenant.age.name.clone()).collect();
        let gone: Vec<Name> = self.tenants.keys().filter(|name| !kept.contains(&***name)).cloned().collect();
        gone.iter().for_each(|name| self.tenant_gone(name, dirty));
        all.into_iter().for_each(|tenant| self.tenant(tenant, dirty));
    }

    fn tenant(&mut self, tenant: Tenant, dirty: &mut Dirty) {
        let old = self.tenants.get_key_value(tenant.age.name.as_str());
        if old.is_some_and(|(_, old)| **old == tenant) {
            return;
        }
        let selects_alike = old.is_some_and(|(_, old)| old.namespaces == tenant.namespaces && old.age == tenant.age);
        let name = old.map_or_else(|| Name::from(tenant.age.name.as_str()), |(name, _)| name.clone());
        dirty.tenancy = true;
        dirty.ranges |= old.map_or(!tenant.subnets.is_empty(), |(_, old)| {
            old.subnets != tenant.subnets || (old.age != tenant.age && !old.subnets.is_empty())
        });
        if !selects_alike {
            self.namespaces.reclaim(&name, Some(&tenant));
        }
        self.tenants.insert(name, Arc::new(tenant));
    }

    fn tenant_gone(&mut self, name: &str, dirty: &mut Dirty) {
        let Some((name, old)) = self.tenants.remove_entry(name) else { return };
        self.namespaces.reclaim(&name, None);
        dirty.tenancy = true;
        dirty.ranges |= !old.subnets.is_empty();
    }

    fn all_namespaces(&mut self, all: Vec<Namespace>, dirty: &mut Dirty) {
        self.synced.namespaces = true;
        let mut gone = self.namespaces.with_object();
        all.iter().for_each(|namespace| _ = gone.remove(namespace.name.as_str()));
        gone.iter().for_each(|name| dirty.tenancy |= self.namespaces.forget(name));
        all.into_iter().for_each(|namespace| self.namespace(namespace, dirty));
    }

    fn namespace(&mut self, namespace: Namespace, dirty: &mut Dirty) {
        dirty.tenancy |= self.namespaces.update(namespace, self.tenants.iter());
    }
}

/// Pods.
impl Cluster {
    fn all_endpoints(&mut self, all: Vec<Endpoint>, dirty: &mut Dirty) {
        self.synced.endpoints = true;
        let mut kept: HashSet<(&str, &str)> = HashSet::with_capacity(all.len());
        kept.extend(all.iter().map(|endpoint| (endpoint.key.namespace.as_str(), endpoint.key.name.as_str())));
        let missing = |pod: &&PodByName| !kept.contains(&(&*pod.0.namespace, &*pod.0.name));
        let gone: Vec<PodByName> =
            self.namespaces.iter().flat_map(|namespace| namespace.pods.iter().filter(missing)).cloned().collect();
        gone.into_iter().for_each(|pod| self.remove_pod(&pod.0, dirty));
        all.into_iter().for_each(|endpoint| self.endpoint(endpoint, dirty));
    }

    fn endpoint(&mut self, endpoint: Endpoint, dirty: &mut Dirty) {
        let workload = endpoint.workload.clone().map(|workload| self.workloads.intern(workload));
        let namespace = self.namespaces.entry(&endpoint.key.namespace).name.clone();
        let pod = Pod::new(endpoint, namespace, workload);
        match self.current(&pod.namespace, &pod.name) {
            Some(old) if *old == pod || is_stale(&pod, &old) => return,
            Some(old) => self.remove_pod(&old, dirty),
            None => {}
        }
        self.insert_pod(Arc::new(pod), dirty);
    }

    fn endpoint_gone(&mut self, key: &EndpointKey, uid: &str, dirty: &mut Dirty) {
        let Some(old) = self.current(&key.namespace, &key.name) else { return };
        if uid.is_empty() || old.uid == Uid::from(uid) {
            self.remove_pod(&old, dirty);
        }
    }

    fn current(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.namespaces.get(namespace)?.pods.get(name).map(|named| Arc::clone(&named.0))
    }

    fn insert_pod(&mut self, pod: Arc<Pod>, dirty: &mut Dirty) {
        let namespace = self.namespaces.entry(&pod.namespace);
        if namespace.pods.is_empty() || (pod.local.is_some() && namespace.locals == 0) {
            dirty.namespaces.insert(namespace.name.clone());
        }
        namespace.pods.insert(PodByName(Arc::clone(&pod)));
        if pod.local.is_some() {
            namespace.locals += 1;
            self.locals.insert(pod.key(), Arc::clone(&pod));
            dirty.endpoints = true;
        }
        pod.addresses().for_each(|address| self.claim(address, &pod, dirty));
    }

    fn remove_pod(&mut self, pod: &Arc<Pod>, dirty: &mut Dirty) {
        pod.addresses().for_each(|address| self.unclaim(address, pod, dirty));
        let namespace = self.namespaces.entry(&pod.namespace);
        namespace.pods.remove(&*pod.name);
        if pod.local.is_some() {
            namespace.locals -= 1;
            self.locals.remove(&pod.key());
            dirty.endpoints = true;
        }
        self.namespaces.drop_if_empty(&pod.namespace);
    }

    fn claim(&mut self, address: IpAddr, pod: &Arc<Pod>, dirty: &mut Dirty) {
        dirty.address(address);
        self.count_stray(address);
        if let Some(rivals) = self.rivals.contains_key(&address).then(|| self.rivals_of(address)) {
            rivals.push(Arc::clone(pod));
        } else if let Some(other) = self.address_index.get(address).cloned() {
            self.address_index.remove(address);
            self.rivals_of(address).extend([other, Arc::clone(pod)]);
        } else {
            return self.address_index.insert(address, Arc::clone(pod));
        }
        // The pod that lost the address must lose it on its interface too.
        dirty.endpoints = true;
    }

    fn unclaim(&mut self, address: IpAddr, pod: &Arc<Pod>, dirty: &mut Dirty) {
        dirty.address(address);
        self.uncount_stray(address);
        if !self.rivals.contains_key(&address) {
            return self.address_index.remove(address);
        }
        dirty.endpoints = true;
        let rivals = self.rivals_of(address);
        rivals.retain(|rival| !Arc::ptr_eq(rival, pod));
        if let [last] = rivals.as_slice() {
            let last = Arc::clone(last);
            Arc::make_mut(&mut self.rivals).remove(&address);
            self.address_index.insert(address, last);
        }
    }

    fn rivals_of(&mut self, address: IpAddr) -> &mut Vec<Arc<Pod>> {
        Arc::make_mut(&mut self.rivals).entry(address).or_default()
    }
}

/// Whether `late` is a late update of a predecessor of `known`.
fn is_stale(late: &Pod, known: &Pod) -> bool {
    late.uid != known.uid && late.created < known.created
}

/// The node itself.
impl Cluster {
    fn all_links(&mut self, all: Vec<Link>, dirty: &mut Dirty) {
        let links = all.into_iter().map(|link| (link.ifindex, link)).collect();
        dirty.endpoints |= self.links != links || !self.synced.links;
        self.links = links;
        self.synced.links = true;
    }

    /// Marks addresses that one of the three sets has gained or lost.
    fn refresh_nodes(&mut self, changed: &[IpAddr], dirty: &mut Dirty) {
        changed.iter().for_each(|address| dirty.address(*address));
        dirty.endpoints |= !changed.is_empty();
        let sets = [&self.own, &self.virtual_addresses, &self.others];
        self.nodes = Arc::new(sets.into_iter().flatten().copied().collect());
    }
}

/// Ranges.
impl Cluster {
    fn learn(&mut self, learnt: LearntRanges, dirty: &mut Dirty) {
        let ranges = Ranges::new(&self.settings, &learnt);
        self.learnt = learnt;
        if *self.ranges == ranges {
            return;
        }
        self.ranges = Arc::new(ranges);
        self.strays = None;
        let rivals = self.rivals.iter().flat_map(|(address, pods)| pods.iter().map(|_| *address));
        let all: Vec<IpAddr> = self.address_index.addresses().chain(rivals).collect();
        all.into_iter().for_each(|address| self.count_stray(address));
        self.mark_ranges(dirty);
    }

    /// Marks what depends on the ranges: owners, and what a Service's address and its ends are.
    fn mark_ranges(&self, dirty: &mut Dirty) {
        dirty.ranges = true;
        self.services.address_index().addresses().for_each(|address| dirty.address(address));
    }

    fn is_stray(&self, address: IpAddr) -> bool {
        self.ranges.kind(address) != Some(RangeKind::Pods)
    }

    fn count_stray(&mut self, address: IpAddr) {
        if self.is_stray(address) {
            self.strays = Some((self.strays.map_or(0, |(count, _)| count) + 1, address));
        }
    }

    fn uncount_stray(&mut self, address: IpAddr) {
        if self.is_stray(address) {
            self.strays = self.strays.filter(|(count, _)| *count > 1).map(|(count, example)| (count - 1, example));
        }
    }
}

/// Replaces a set of addresses. Returns those that it has gained or lost.
fn replace(set: &mut BTreeSet<IpAddr>, all: Vec<IpAddr>) -> Vec<IpAddr> {
    let now = all.into_iter().map(|address| address.to_canonical()).collect();
    let before = std::mem::replace(set, now);
    before.symmetric_difference(set).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{apply_all, ip, key, link, local, namespace, nothing, remote, tenant};

    fn synced() -> Cluster {
        crate::model::testing::cluster(Settings::default(), vec![])
    }

    fn owner(cluster: &Cluster, address: &str) -> Option<String> {
        cluster.address_index().get(ip(address)).map(|pod| format!("{}/{}", pod.namespace, pod.name))
    }

    fn gone(path: &str, uid: &str) -> Change {
        Change::EndpointGone { key: key(path), uid: uid.to_owned() }
    }

    #[test]
    fn a_cluster_is_complete_once_every_kind_was_reported() {
        let mut cluster = Cluster::new(Settings::default());
        for change in nothing() {
            assert!(!cluster.is_complete());
            cluster.apply(change);
        }
        assert!(cluster.is_complete());
    }

    #[test]
    fn the_same_changes_twice_affect_nothing_the_second_time() {
        let mut cluster = synced();
        let changes = || {
            vec![
                Change::Tenant(tenant("acme")),
                Change::Namespace(namespace("web", "acme")),
                Change::Endpoint(local("web/a", &["10.0.0.1"], "veth1")),
                Change::Links(vec![link(7, "veth1")]),
                Change::Nodes(vec![ip("192.0.2.1")]),
            ]
        };
        assert!(!apply_all(&mut cluster, changes()).is_nothing());
        assert!(apply_all(&mut cluster, changes()).is_nothing());
    }

    #[test]
    fn a_remote_pod_in_a_known_namespace_affects_its_addresses_only() {
        let mut cluster = synced();
        cluster.apply(Change::Endpoint(remote("web/a", &["10.0.0.1"])));
        let dirty = cluster.apply(Change::Endpoint(remote("web/b", &["10.0.0.2", "fd00::2"])));
        let addresses = [ip("10.0.0.2"), ip("fd00::2")].into();
        assert_eq!(dirty, Dirty { addresses, ..Dirty::default() });
    }

    #[test]
    fn a_late_delete_of_a_predecessor_changes_nothing() {
        let mut cluster = synced();
        let mut second = remote("web/db-0", &["10.0.0.1"]);
        second.uid = "second".into();
        cluster.apply(Change::Endpoint(remote("web/db-0", &["10.0.0.1"])));
        cluster.apply(Change::Endpoint(second));
        assert!(cluster.apply(gone("web/db-0", "uid of web/db-0")).is_nothing());
        assert_eq!(owner(&cluster, "10.0.0.1").as_deref(), Some("web/db-0"));
        cluster.apply(gone("web/db-0", "second"));
        assert_eq!(owner(&cluster, "10.0.0.1"), None);
    }

    #[test]
    fn a_late_update_of_a_predecessor_changes_nothing() {
        let mut cluster = synced();
        let aged = |uid: &str, created, address| {
            let pod = remote("web/db-0", &[address]);
            Change::Endpoint(Endpoint { uid: uid.into(), created, ..pod })
        };
        cluster.apply(aged("second", 20, "10.0.0.2"));
        assert!(cluster.apply(aged("first", 10, "10.0.0.1")).is_nothing());
        assert!(!cluster.apply(aged("third", 30, "10.0.0.3")).is_nothing());
        assert_eq!(cluster.address_index().len(), 1);
        assert!(owner(&cluster, "10.0.0.3").is_some());
    }

    #[test]
    fn an_address_that_two_live_pods_claim_has_no_owner_until_one_is_gone() {
        let mut cluster = synced();
        cluster.apply(Change::Endpoint(remote("a/x", &["10.0.0.1"])));
        cluster.apply(Change::Endpoint(remote("b/y", &["10.0.0.1"])));
        cluster.apply(Change::Endpoint(remote("c/z", &["10.0.0.1"])));
        assert_eq!((owner(&cluster, "10.0.0.1"), cluster.rivals().len()), (None, 1));
        cluster.apply(gone("a/x", ""));
        assert_eq!(owner(&cluster, "10.0.0.1"), None);
        cluster.apply(gone("c/z", ""));
        assert_eq!((owner(&cluster, "10.0.0.1").as_deref(), cluster.rivals().len()), (Some("b/y"), 0));
    }

    #[test]
    fn a_reused_address_passes_to_the_new_pod_and_the_old_one_s_delete_is_too_late() {
        let mut cluster = synced();
        cluster.apply(Change::Endpoint(remote("a/x", &["10.0.0.1"])));
        cluster.apply(gone("a/x", "uid of a/x"));
        cluster.apply(Change::Endpoint(remote("b/y", &["10.0.0.1"])));
        assert!(cluster.apply(gone("a/x", "uid of a/x")).is_nothing());
        assert_eq!(owner(&cluster, "10.0.0.1").as_deref(), Some("b/y"));
    }

    #[test]
    fn a_resync_removes_what_vanished_and_affects_only_differences() {
        let mut cluster = synced();
        let pods = |names: &[&str]| {
            let pod = |(n, name): (usize, &&str)| remote(name, &[&format!("10.0.0.{}", n + 1)]);
            Change::Endpoints(names.iter().enumerate().map(pod).collect())
        };
        cluster.apply(pods(&["a/x", "a/y", "a/z"]));
        let dirty = cluster.apply(pods(&["a/x", "a/y"]));
        assert_eq!(dirty.addresses, [ip("10.0.0.3")].into());
        let dirty = cluster.apply(Change::Namespaces(vec![]));
        assert!(dirty.is_nothing(), "pods keep their namespace without its object");
        cluster.apply(Change::Endpoints(vec![]));
        assert_eq!((cluster.address_index().len(), cluster.namespaces().iter().count()), (0, 0));
    }

    #[test]
    fn claims_of_a_namespace_follow_every_edit() {
        let mut cluster = synced();
        let claims = |cluster: &Cluster| -> Vec<String> {
            let namespace = cluster.namespaces().get("web").expect("a namespace");
            namespace.claims.iter().map(|(_, name)| name.to_string()).collect()
        };
        let named = |name: &str, created| Tenant {
            age: crate::model::input::Age { created, name: name.into() },
            namespaces: tenant("acme").namespaces,
            ..tenant("acme")
        };
        apply_all(
            &mut cluster,
            vec![
                Change::Tenant(named("young", 9)),
                Change::Namespace(namespace("web", "acme")),
                Change::Tenant(named("old", 3)),
                Change::Tenant(named("also-old", 3)),
            ],
        );
        assert_eq!(claims(&cluster), ["also-old", "old", "young"]);
        cluster.apply(Change::TenantGone("also-old".into()));
        cluster.apply(Change::Tenant(Tenant { namespaces: tenant("other").namespaces, ..named("old", 3) }));
        assert_eq!(claims(&cluster), ["young"]);
        cluster.apply(Change::Namespace(namespace("web", "other")));
        assert_eq!(claims(&cluster), ["old"]);
        cluster.apply(Change::Tenants(vec![]));
        assert!(claims(&cluster).is_empty());
    }
}
