//! Desired: what every table should hold, compiled from the cluster.
//!
//! Knows no kernel and no write. Small tables (tenants, grants, owners, local pods) are compiled whole when a change
//! affects them. The entry of an address depends on that address alone, so a million addresses cost nothing until one
//! is looked up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use agent_common::layout::{PeerEntry, ROW_PREFIXES};
use agent_common::tenant::{TenantId, TenantName, TenantState};
use ipnet::IpNet;

use super::cluster::{Cluster, NodeClaim};
use super::dirty::Dirty;
use super::endpoints::{self, Endpoints};
use super::grants::{self, Grants};
use super::name::Name;
use super::node_openings;
use super::ownership::{Owner, Ownership};
use super::pod::is_possible;
use super::prefixes::{self, Prefix};
use super::ranges::{self, RangeKind};
use super::report::{Conflict, Overflows};
use super::services::UnknownEnd;
use super::settings::{Settings, Uplinks};
use super::tenancy::{Admission, Member, Tenancy};
use super::tenant_ids::{self, KernelView, TenantIds};

/// The intended contents of the kernel's tables.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// The owner of each range.
    pub ownership: Arc<Ownership>,
    /// The owners' tables.
    pub owners: Arc<Owners>,
    /// The tenant of each namespace.
    pub tenancy: Arc<Tenancy>,
    /// Numbers by name.
    pub tenant_ids: TenantIds,
    /// Names by number.
    pub names: BTreeMap<TenantId, TenantName>,
    /// The policy of each tenant.
    pub tenants: BTreeMap<TenantId, TenantPolicy>,
    /// Permissions between tenants.
    pub grants: Grants,
    /// The entry of the pod addresses of each namespace.
    pub directory: Arc<HashMap<Name, PeerEntry>>,
    /// Local pods.
    pub endpoints: Endpoints,
    /// Conflicts about ports and prefixes. The others are in the fields above.
    prefix_conflicts: Vec<Conflict>,
    /// Subnets inside learnt ranges in which pods or nodes have addresses.
    subnets_in_use: Vec<Conflict>,
    /// Egress entries that open nothing on the node that they name.
    entries_without_effect: Vec<Conflict>,
    slot_overflows: Overflows,
    /// Whether ranges or numbers have changed since the owners' tables were compiled.
    refresh_owners: bool,
}

/// Owned ranges, sorted. They never overlap.
pub type Owners = Vec<(IpNet, TenantId)>;

/// The policy of one tenant, before rows and port sets have numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantPolicy {
    /// `TenantState` bits.
    pub flags: u32,
    /// Counter slot, or 0.
    pub slot: u16,
    /// IPv4 prefixes, longest first. There are none without a pod on this node.
    pub v4: Vec<Prefix>,
    /// IPv6 prefixes, longest first. There are none without a pod on this node.
    pub v6: Vec<Prefix>,
    /// Ports of nodes, by exact addresses of both families. There are none without a pod on this node.
    pub openings: Vec<Prefix>,
}

/// Compiles everything from nothing.
pub fn compile(cluster: &Cluster, kernel: &KernelView<'_>, now: i64) -> Desired {
    let mut desired = Desired::default();
    desired.refresh(cluster, kernel, now, &mut Dirty::all());
    desired
}

/// The entry that `address` should have.
///
/// The order of belief is the same on every node: metadata services, this node's real interfaces, pods, Services, and
/// other claims of nodes. See `Cluster::node_claim`. An address that several live pods claim, or whose tenant has no number, gets the entry [`NOBODYS`]. Without an
/// entry, a wide range that covers the address would open it.
pub(crate) fn desired_peer(cluster: &Cluster, desired: &Desired, address: IpAddr) -> Option<PeerEntry> {
    if cluster.settings().metadata.contains(&address) {
        return Some(PeerEntry { kind: PeerEntry::METADATA, ..PeerEntry::default() });
    }
    let node = PeerEntry { kind: PeerEntry::NODE, ..PeerEntry::default() };
    let claim = cluster.node_claim(address);
    if claim == NodeClaim::Sure {
        return Some(node);
    }
    if cluster.rivals().contains_key(&address) {
        return Some(NOBODYS);
    }
    if let Some(pod) = cluster.address_index().get(address).filter(|_| is_possible(address)) {
        return Some(desired.directory.get(&pod.namespace).copied().unwrap_or(NOBODYS));
    }
    service_entry(cluster, desired, address).or_else(|| (claim == NodeClaim::UnlessOthers).then_some(node))
}

/// The entry that a Service's address should have. An address outside the ranges of Services gets none, whatever the
/// Service claims. Addresses of pods, and those that are surely nodes', do not get here.
fn service_entry(cluster: &Cluster, desired: &Desired, address: IpAddr) -> Option<PeerEntry> {
    let (settings, ranges) = (cluster.settings(), cluster.ranges());
    let in_range = ranges.kind(address) == Some(RangeKind::Services) || !ranges.has(RangeKind::Services, address);
    if !is_possible(address) || !in_range {
        return None;
    }
    let has_gap = cluster.pod_range_gap().is_some();
    let unknown = |end: IpAddr| {
        let is_inside = match ranges.kind(end) {
            Some(kind) => kind != RangeKind::Outside,
            // While the range of pods is unknown, a pod that is gone may have had any private address.
            None => has_gap && ranges::private().any(|net| net.contains(&end)),
        };
        match is_inside {
            false => UnknownEnd::Outside,
            true if settings.uplinks == Uplinks::Auto => UnknownEnd::JudgedLater,
            true => UnknownEnd::Nobodys,
        }
    };
    let at = |end: IpAddr| {
        let is_direct = cluster.nodes().contains(&end)
            || cluster.rivals().contains_key(&end)
            || cluster.address_index().get(end).is_some()
            || settings.metadata.contains(&end);
        // A Service behind another is not looked up, because Services may form a circle.
        if is_direct { desired_peer(cluster, desired, end) } else { None }
    };
    let namespace = |name: &str| desired.directory.get(name).copied();
    cluster.services().entry(address, at, unknown, namespace)
}

/// The entry of a pod address that no tenant may send to, or receive from.
pub const NOBODYS: PeerEntry = PeerEntry { tenant: TenantId::UNKNOWN, kind: PeerEntry::POD, flags: 0, _pad: 0 };

impl Desired {
    /// Compiles again what `dirty` marks. Adds the addresses whose entries changed with their namespace to it.
    pub fn refresh(&mut self, cluster: &Cluster, kernel: &KernelView<'_>, now: i64, dirty: &mut Dirty) {
        let expired = self.grants.next_end.is_some_and(|end| end <= now);
        let mut policy = dirty.ranges || dirty.tenancy || dirty.everything || expired;
        policy = policy || !dirty.namespaces.iter().all(|namespace| self.admit(cluster, namespace));
        // A Service without known ends has the entry of its namespace, which may be new.
        for namespace in dirty.namespaces.clone() {
            cluster.services().addresses_of(&namespace).for_each(|address| dirty.address(address));
        }
        if dirty.ranges || dirty.everything {
            keep(&mut self.ownership, Ownership::new(cluster));
            self.refresh_owners = true;
        }
        if policy {
            dirty.tenancy = true;
            self.refresh_policy(cluster, kernel, now, dirty);
        }
        if policy || dirty.endpoints {
            let tenant_ids = &self.tenant_ids.of;
            self.endpoints = endpoints::compile(cluster, &self.tenancy, tenant_ids, kernel, &self.endpoints);
            dirty.endpoints = true;
        }
        let is_inside = |address: &IpAddr| self.ownership.inside_learnt().any(|(_, net)| net.contains(address));
        if dirty.ranges || dirty.everything || dirty.addresses.iter().any(is_inside) {
            self.subnets_in_use = self.ownership.in_use(cluster);
        }
        let is_node = |address: &IpAddr| cluster.nodes().contains(address);
        if policy || dirty.addresses.iter().any(is_node) {
            self.entries_without_effect = node_openings::without_effect(cluster);
        }
        cluster.services().follow(dirty);
    }

    /// All conflicts.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let sources = [
            &self.ownership.conflicts,
            &self.tenancy.conflicts,
            &self.tenant_ids.conflicts,
            &self.prefix_conflicts,
            &self.subnets_in_use,
            &self.entries_without_effect,
        ];
        let mut all: Vec<Conflict> = sources.into_iter().flatten().cloned().collect();
        all.sort();
        all.dedup();
        all
    }

    /// All overflows.
    pub fn overflows(&self) -> Overflows {
        let mut all = Overflows::default();
        let sources =
            [&self.ownership.overflows, &self.tenant_ids.overflows, &self.slot_overflows, &self.endpoints.overflows];
        sources.into_iter().for_each(|overflows| all.extend(overflows));
        all
    }

    /// Adds a namespace with a first pod without compiling anything. Returns whether that is enough.
    fn admit(&mut self, cluster: &Cluster, namespace: &Name) -> bool {
        let Some(namespace) = cluster.namespaces().get(namespace) else { return true };
        let name = match self.tenancy.admit(namespace, cluster) {
            Admission::Refused => return false,
            Admission::Known => return true,
            Admission::New(name) => name,
        };
        let id = self.tenant_ids.of.get(&name).copied();
        let entry = id.and_then(|id| Some(peer_entry(id, self.tenancy.members.get(&name)?)));
        Arc::make_mut(&mut self.directory).insert(namespace.name.clone(), entry.unwrap_or(NOBODYS));
        true
    }

    fn refresh_policy(&mut self, cluster: &Cluster, kernel: &KernelView<'_>, now: i64, dirty: &mut Dirty) {
        let settings = cluster.settings();
        keep(&mut self.tenancy, Tenancy::new(cluster));
        let tenant_ids = tenant_ids::assign(&self.tenancy, kernel, settings);
        if self.tenant_ids != tenant_ids {
            self.tenant_ids = tenant_ids;
            self.refresh_owners = true;
        }
        self.names = names(&self.tenant_ids);
        self.grants = grants::compile(&self.tenancy, &self.tenant_ids.of, now);
        if std::mem::take(&mut self.refresh_owners) {
            self.refresh_owners(dirty);
        }
        self.refresh_tenants(kernel, settings);
        self.refresh_directory(cluster, dirty);
    }

    fn refresh_owners(&mut self, dirty: &mut Dirty) {
        let tenant_ids: HashMap<&Name, TenantId> = self.tenant_ids.of.iter().map(|(name, id)| (name, *id)).collect();
        let number = |owner: &Owner| match owner {
            Owner::Cluster => TenantId::CLUSTER,
            // Nodes and pods of unknown ranges may send to pods, and no range of a tenant opens them.
            Owner::Nodes | Owner::Unknown => TenantId::NODES,
            // A tenant without a number has no pods that could use its ranges, and no other tenant may use them.
            Owner::Tenant(name) => tenant_ids.get(name).copied().unwrap_or(TenantId::CLUSTER),
        };
        let owners: Owners = self.ownership.owners().map(|(net, owner)| (net, number(owner))).collect();
        dirty.ranges |= keep(&mut self.owners, owners);
    }

    fn refresh_tenants(&mut self, kernel: &KernelView<'_>, settings: &Settings) {
        self.prefix_conflicts.clear();
        self.slot_overflows = Overflows::default();
        let members = || self.tenancy.members.iter().filter_map(|(name, m)| Some((self.tenant_ids.of.get(name)?, m)));
        let local = members().map(|(id, member)| (*id, member.local)).collect();
        let slots = tenant_ids::counter_slots(&local, kernel, settings, &mut self.slot_overflows);
        let granted: BTreeSet<TenantId> = self.grants.table.keys().flat_map(|key| [key.from, key.to]).collect();
        let mut tenants = BTreeMap::new();
        for (id, member) in members() {
            let mut policy = TenantPolicy { flags: flags(member, settings), ..TenantPolicy::default() };
            policy.slot = slots.get(id).copied().unwrap_or_default();
            policy.set(TenantState::HAS_GRANTS, granted.contains(id));
            if member.local && (member.object.is_some() || member.is_shared()) {
                let compiled = prefixes::compile(member, &self.ownership, &settings.metadata);
                self.prefix_conflicts.extend(compiled.conflicts);
                policy.take(compiled.v4, compiled.v6);
                policy.open_nodes(
                    member.object.as_deref().map(|object| node_openings::compile(object).openings).unwrap_or_default(),
                );
            }
            tenants.insert(*id, policy);
        }
        self.tenants = tenants;
    }

    fn refresh_directory(&mut self, cluster: &Cluster, dirty: &mut Dirty) {
        let entry =
            |(name, id): (&Name, &TenantId)| Some((name.clone(), peer_entry(*id, self.tenancy.members.get(name)?)));
        let entries: HashMap<Name, PeerEntry> = self.tenant_ids.of.iter().filter_map(entry).collect();
        let entry = |name| entries.get(name).copied().unwrap_or(NOBODYS);
        let directory: HashMap<Name, PeerEntry> =
            self.tenancy.of.iter().map(|(namespace, name)| (namespace.clone(), entry(name))).collect();
        for (namespace, entry) in &directory {
            if self.directory.get(namespace) != Some(entry) {
                let pods = cluster.namespaces().get(namespace).into_iter().flat_map(|namespace| &namespace.pods);
                pods.flat_map(|pod| pod.0.addresses()).for_each(|address| dirty.address(address));
                cluster.services().addresses_of(namespace).for_each(|address| dirty.address(address));
            }
        }
        keep(&mut self.directory, directory);
    }
}

impl TenantPolicy {
    fn set(&mut self, bit: u32, on: bool) {
        if on {
            self.flags |= bit;
        }
    }

    fn open_nodes(&mut self, openings: Vec<Prefix>) {
        self.set(TenantState::NODE_OPENINGS, !openings.is_empty());
        self.openings = openings;
    }

    fn take(&mut self, v4: Vec<Prefix>, v6: Vec<Prefix>) {
        self.set(TenantState::TRIE_V4, v4.len() > ROW_PREFIXES);
        self.set(TenantState::TRIE_V6, v6.len() > ROW_PREFIXES);
        (self.v4, self.v6) = (v4, v6);
    }
}

/// Replaces the old value if the new one differs. An unchanged pointer shows readers that nothing changed. Returns
/// whether the value differed.
fn keep<T: PartialEq>(old: &mut Arc<T>, new: T) -> bool {
    let differs = **old != new;
    if differs {
        *old = Arc::new(new);
    }
    differs
}

fn names(tenant_ids: &TenantIds) -> BTreeMap<TenantId, TenantName> {
    tenant_ids.of.iter().filter_map(|(name, id)| Some((*id, TenantName::new(name)?))).collect()
}

fn flags(member: &Member, settings: &Settings) -> u32 {
    let bits = [
        (TenantState::SHARED, member.is_shared()),
        (TenantState::AUDIT, member.is_audited(settings)),
        (TenantState::UNASSIGNED, member.is_unassigned()),
        (TenantState::OPEN, member.is_open(settings)),
        (TenantState::NODES_ALLOWED, settings.allow_nodes),
    ];
    bits.into_iter().filter(|(_, on)| *on).fold(TenantState::VALID, |flags, (bit, _)| flags | bit)
}

fn peer_entry(tenant: TenantId, member: &Member) -> PeerEntry {
    let shared = if member.is_shared() { PeerEntry::SHARED } else { 0 };
    let unassigned = if member.is_unassigned() { PeerEntry::UNASSIGNED } else { 0 };
    PeerEntry { tenant, kind: PeerEntry::POD, flags: shared | unassigned, _pad: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::Change;
    use crate::model::testing::{cluster, compiled, ip, local, namespace, range, remote, tenant};

    fn sample() -> Cluster {
        let acme = crate::model::input::Tenant { subnets: vec![range("10.40.0.0/24", &[])], ..tenant("acme") };
        let dns = crate::model::input::Tenant { shared: true, ..tenant("dns") };
        let changes = vec![
            Change::Tenants(vec![acme, dns]),
            Change::Namespaces(vec![namespace("web", "acme"), namespace("dns", "dns"), namespace("loose", "")]),
            Change::Endpoints(vec![
                local("web/a", &["10.0.0.1"], "veth7"),
                remote("dns/d", &["10.0.0.2", "fd00::2"]),
                remote("loose/l", &["10.0.0.3"]),
                remote("web/x", &["10.0.0.9"]),
                remote("dns/y", &["10.0.0.9"]),
            ]),
            Change::Nodes(vec![ip("192.0.2.1")]),
        ];
        cluster(Settings::default(), changes)
    }

    #[test]
    fn each_address_has_the_entry_of_its_owner() {
        let cluster = sample();
        let desired = compiled(&cluster, 0);
        let at = |address: &str| desired_peer(&cluster, &desired, ip(address));
        let id = |name: &str| desired.tenant_ids.of[name];
        let entry = |tenant, kind, flags| Some(PeerEntry { tenant, kind, flags, _pad: 0 });
        assert_eq!(at("10.0.0.1"), entry(id("acme"), PeerEntry::POD, 0));
        assert_eq!(at("fd00::2"), entry(id("dns"), PeerEntry::POD, PeerEntry::SHARED));
        assert_eq!(at("10.0.0.3"), entry(id("ns/loose"), PeerEntry::POD, PeerEntry::UNASSIGNED));
        assert_eq!(at("10.0.0.9"), Some(NOBODYS));
        assert_eq!(at("192.0.2.1"), entry(TenantId::UNKNOWN, PeerEntry::NODE, 0));
        assert_eq!(at("169.254.169.254"), entry(TenantId::UNKNOWN, PeerEntry::METADATA, 0));
        assert_eq!(at("10.0.0.4"), None);
    }

    #[test]
    fn claims_to_an_address_are_believed_in_one_order() {
        let net = |text: &str| vec![text.parse().expect("a range")];
        let settings =
            Settings { pod_cidrs: net("10.0.0.0/24"), service_cidrs: net("10.96.0.0/16"), ..Settings::default() };
        let service = |name: &str, address: &str, end: &str| crate::model::input::Service {
            key: crate::model::testing::key(name),
            addresses: vec![ip(address)],
            ends: vec![ip(end)],
        };
        let claimed = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "172.31.0.9", "10.96.0.10", "10.96.0.11", "169.254.20.10"];
        let changes = |change: fn(Vec<IpAddr>) -> Change| {
            let pods = [("web/a", claimed[0]), ("web/b", claimed[1]), ("web/far", claimed[3])];
            vec![
                Change::Tenants(vec![tenant("acme")]),
                Change::Namespaces(vec![namespace("web", "acme")]),
                Change::Endpoints(pods.map(|(name, address)| remote(name, &[address])).into()),
                Change::Services(vec![service("web/s", claimed[4], claimed[0])]),
                change(claimed.map(ip).into()),
            ]
        };
        let kinds = |change: fn(Vec<IpAddr>) -> Change| {
            let cluster = cluster(settings.clone(), changes(change));
            let desired = compiled(&cluster, 0);
            claimed.map(|address| desired_peer(&cluster, &desired, ip(address)).map_or(0, |entry| entry.kind))
        };
        use PeerEntry as E;
        let all = [E::NODE; 7];
        assert_eq!(kinds(Change::Nodes), all, "real interfaces of this node");
        let virtual_addresses = [E::POD, E::POD, E::NODE, E::POD, E::SERVICE, E::NODE, E::NODE];
        assert_eq!(kinds(Change::VirtualAddresses), virtual_addresses, "dummy interfaces, as IPVS uses them");
        let objects = [E::POD, E::POD, E::NODE, E::NODE, E::SERVICE, E::NODE, E::NODE];
        assert_eq!(kinds(Change::ClusterNodes), objects, "Node objects, and a pod outside the ranges of pods");
    }

    #[test]
    fn a_virtual_address_that_becomes_a_real_one_is_marked() {
        let mut cluster = sample();
        let address = || vec![ip("10.0.0.9")];
        assert!(!cluster.apply(Change::VirtualAddresses(address())).addresses.is_empty());
        assert!(cluster.apply(Change::VirtualAddresses(address())).is_nothing());
        assert!(!cluster.apply(Change::Nodes(address())).addresses.is_empty());
        assert!(!cluster.apply(Change::VirtualAddresses(vec![])).addresses.is_empty());
    }

    #[test]
    fn only_tenants_with_local_pods_have_prefixes_and_a_slot() {
        let desired = compiled(&sample(), 0);
        let policy = |name: &str| &desired.tenants[&desired.tenant_ids.of[name]];
        assert_eq!((policy("acme").v4.len(), policy("acme").slot), (1, 1));
        assert_eq!((policy("dns").v4.len(), policy("dns").slot), (0, 0));
        assert!(policy("dns").flags & TenantState::SHARED != 0);
        assert_eq!(desired.owners.len(), 1, "but every tenant's subnets are owned");
    }

    #[test]
    fn a_namespace_that_moves_affects_its_pods_addresses_and_no_others() {
        let mut cluster = sample();
        let mut desired = compiled(&cluster, 0);
        let mut dirty = cluster.apply(Change::Namespace(namespace("dns", "acme")));
        let ledger = crate::plan::Ledger::new(crate::plan::Actual::default(), &cluster.settings().limits);
        let mentions = |id| ledger.mentions(id);
        desired.refresh(&cluster, &ledger.kernel_view(&mentions), 0, &mut dirty);
        assert_eq!(dirty.addresses, [ip("10.0.0.2"), ip("fd00::2"), ip("10.0.0.9")].into());
    }

    #[test]
    fn audit_mode_of_the_agent_applies_to_every_tenant() {
        let audited = |audit| {
            let settings = Settings { audit, ..Settings::default() };
            let cluster = cluster(settings, vec![Change::Tenant(tenant("acme"))]);
            compiled(&cluster, 0).tenants[&TenantId(1)].flags & TenantState::AUDIT != 0
        };
        assert_eq!((audited(false), audited(true)), (false, true));
    }

    #[test]
    fn seventeen_prefixes_need_the_trie_and_sixteen_do_not() {
        let flags = |n: u8| {
            let subnets = (0..n).map(|i| range(&format!("10.40.{}.0/24", i * 2), &[])).collect();
            let changes = vec![
                Change::Tenant(crate::model::input::Tenant { subnets, ..tenant("acme") }),
                Change::Namespace(namespace("web", "acme")),
                Change::Endpoint(local("web/a", &["10.0.0.1"], "veth7")),
            ];
            compiled(&cluster(Settings::default(), changes), 0).tenants[&TenantId(1)].flags
        };
        assert_eq!(flags(16) & TenantState::TRIE_V4, 0);
        assert_eq!(flags(17) & (TenantState::TRIE_V4 | TenantState::TRIE_V6), TenantState::TRIE_V4);
    }
}
