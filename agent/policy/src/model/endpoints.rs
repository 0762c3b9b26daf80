//! Endpoints: the local pod behind each interface, with its addresses.
//!
//! Knows no destination and no permission. Observation decides: a pod gets an interface only if the node has it and no
//! other pod names it. Until then the interface has programs but no entry, so it is denied.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use agent_common::addr::{V4, V6};
use agent_common::layout::EndpointEntry;
use agent_common::tenant::TenantId;

use super::cluster::{Cluster, NodeClaim};
use super::input::{EndpointKey, HostPort, Link};
use super::limits::Limit;
use super::name::Name;
use super::pod::{LocalPod, Pod, Uid, is_possible, v4_addr, v6_addr};
use super::report::{Overflows, Trouble};
use super::tenancy::{Tenancy, TenantOrigin};
use super::tenant_ids::KernelView;

/// The compiled pods of this node.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// The entries that the kernel should hold, by interface index.
    pub entries: BTreeMap<u32, EndpointEntry>,
    /// The UID of the pod that each entry is for.
    pub claims: BTreeMap<u32, Uid>,
    /// Interfaces that should have programs, claimed or not, with their names.
    pub ports: BTreeMap<u32, String>,
    /// The status of every local pod.
    pub statuses: BTreeMap<EndpointKey, EndpointStatus>,
    /// Event slots and interface indexes beyond the limits.
    pub overflows: Overflows,
}

/// The status of one local pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its tenant.
    pub tenant: Name,
    /// Its interface, once found.
    pub ifindex: Option<u32>,
    /// What keeps it from its full policy.
    pub troubles: Vec<Trouble>,
}

impl EndpointStatus {
    /// Whether it gets its entry.
    pub fn is_claimed(&self) -> bool {
        self.ifindex.is_some() && !self.troubles.iter().any(Trouble::denies)
    }
}

/// Compiles the local pods. `before` is the previous result, with the pod that each earlier entry was for.
pub fn compile(
    cluster: &Cluster,
    tenancy: &Tenancy,
    tenant_ids: &BTreeMap<Name, TenantId>,
    kernel: &KernelView<'_>,
    before: &Endpoints,
) -> Endpoints {
    let mut endpoints = Endpoints::default();
    let interfaces = Interfaces::new(cluster);
    for (key, pod) in cluster.locals() {
        let (status, entry) = evaluate(pod, cluster, tenancy, tenant_ids, &interfaces);
        let readable = interfaces.of(pod).filter(|link| !link.lacks_ethernet);
        readable.for_each(|link| _ = endpoints.ports.insert(link.ifindex, link.name.clone()));
        if let Some(ifindex) = status.ifindex.filter(|_| status.is_claimed()) {
            endpoints.entries.insert(ifindex, entry);
            endpoints.claims.insert(ifindex, pod.uid.clone());
        }
        endpoints.statuses.insert(key.clone(), status);
    }
    endpoints.hold_unknown(cluster);
    endpoints.number(kernel, before, cluster.settings().limits.event_slots);
    endpoints
}

/// Whether an interface is a pod's: its other end is in a named network namespace that is not in `foreign_netns`.
pub fn is_pods(link: &Link, cluster: &Cluster) -> bool {
    link.netns.as_ref().is_some_and(|netns| !cluster.settings().foreign_netns.contains(netns))
}

/// Interfaces by name and by network namespace, and the endpoints that name each.
pub(super) struct Interfaces<'a> {
    names: HashMap<&'a str, Vec<&'a Link>>,
    netns: HashMap<&'a str, Vec<&'a Link>>,
    claimants: HashMap<u32, Vec<&'a EndpointKey>>,
}

impl<'a> Interfaces<'a> {
    /// The interfaces of this cluster.
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        let mut interfaces = Self { names: HashMap::new(), netns: HashMap::new(), claimants: HashMap::new() };
        for link in cluster.links().values() {
            interfaces.names.entry(&link.name).or_default().push(link);
            let netns = link.netns.iter().filter(|netns| !cluster.settings().foreign_netns.contains(*netns));
            netns.for_each(|netns| interfaces.netns.entry(netns).or_default().push(link));
        }
        for (key, pod) in cluster.locals() {
            let taken: Vec<u32> = interfaces.of(pod).map(|link| link.ifindex).collect();
            taken.into_iter().for_each(|ifindex| interfaces.claimants.entry(ifindex).or_default().push(key));
        }
        interfaces
    }

    /// The interfaces that a pod names, lowest index first. The first is its interface. Further ones of its network
    /// namespace stay denied.
    pub(super) fn of(&self, pod: &Pod) -> impl Iterator<Item = &'a Link> + use<'a> {
        let found = pod.local.as_ref().and_then(|local| match &local.attachment.port {
            HostPort::Interface(name) => self.names.get(name.as_str()),
            HostPort::Netns(netns) => self.netns.get(netns.as_str()),
        });
        found.cloned().into_iter().flatten()
    }

    fn other_claimant(&self, ifindex: u32, pod: &Pod) -> Option<&'a EndpointKey> {
        let is_other = |key: &&&EndpointKey| key.name != *pod.name || key.namespace != *pod.namespace;
        self.claimants.get(&ifindex)?.iter().find(is_other).copied()
    }
}

fn evaluate(
    pod: &Arc<Pod>,
    cluster: &Cluster,
    tenancy: &Tenancy,
    tenant_ids: &BTreeMap<Name, TenantId>,
    interfaces: &Interfaces<'_>,
) -> (EndpointStatus, EndpointEntry) {
    let tenant = tenancy.of.get(&*pod.namespace).cloned().unwrap_or_else(|| Name::from(""));
    let mut status = EndpointStatus { pod: Arc::clone(pod), tenant, ifindex: None, troubles: Vec::new() };
    let mut entry = EndpointEntry::default();
    match tenant_ids.get(&status.tenant) {
        Some(id) => entry.tenant = *id,
        None => status.troubles.push(Trouble::NoNumber(status.tenant.clone())),
    }
    if tenancy.members.get(&status.tenant).is_some_and(|member| member.origin == TenantOrigin::Unknown) {
        status.troubles.push(Trouble::NamespaceUnknown);
    }
    add_addresses(pod, cluster, &mut entry, &mut status.troubles);
    let Some(local) = &pod.local else { return (status, entry) };
    // Another interface of its network namespace may be readable.
    match interfaces.of(pod).min_by_key(|link| link.lacks_ethernet) {
        Some(link) => bind_interface(pod, local, link, interfaces, &mut status, &mut entry),
        None => status.troubles.push(Trouble::NoInterface(wanted(&local.attachment.port))),
    }
    (status, entry)
}

fn add_addresses(pod: &Pod, cluster: &Cluster, entry: &mut EndpointEntry, troubles: &mut Vec<Trouble>) {
    for address in pod.addresses() {
        if is_refused(address, cluster) {
            troubles.push(Trouble::AddressRefused(address));
        } else if let Some(rivals) = cluster.rivals().get(&address) {
            troubles.push(contested(address, pod, rivals));
        } else {
            set_address(entry, address);
        }
    }
    if entry.v4 == V4::default() && entry.v6 == V6::default() {
        troubles.push(Trouble::NoAddress);
    }
}

/// Whether the address is a node's, a metadata service's, or impossible for a pod.
fn is_refused(address: IpAddr, cluster: &Cluster) -> bool {
    !is_possible(address)
        || cluster.node_claim(address) == NodeClaim::Sure
        || cluster.settings().metadata.contains(&address)
}

fn contested(address: IpAddr, pod: &Pod, rivals: &[Arc<Pod>]) -> Trouble {
    let other = rivals.iter().find(|rival| rival.key() != pod.key()).map(|rival| rival.key()).unwrap_or_default();
    Trouble::AddressContested { address, other }
}

fn set_address(entry: &mut EndpointEntry, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => entry.v4 = V4::new(v4.octets()),
        IpAddr::V6(v6) => entry.v6 = V6::new(v6.octets()),
    }
}

fn bind_interface(
    pod: &Pod,
    local: &LocalPod,
    link: &Link,
    interfaces: &Interfaces<'_>,
    status: &mut EndpointStatus,
    entry: &mut EndpointEntry,
) {
    status.ifindex = Some(link.ifindex);
    if let Some(other) = interfaces.other_claimant(link.ifindex, pod) {
        let trouble = Trouble::InterfaceContested { interface: link.name.clone(), other: other.clone() };
        status.troubles.push(trouble);
    }
    if link.lacks_ethernet {
        status.troubles.push(Trouble::NoEthernet(link.name.clone()));
    }
    entry.mac = local.attachment.mac.or(link.peer_mac).unwrap_or_default();
    entry.gateway_mac = link.gateway_mac;
    entry.flags = if link.controller == 0 { 0 } else { EndpointEntry::BRIDGED };
    entry.link_local = link_local(local, link);
    for gateway in &local.attachment.gateways {
        match gateway {
            IpAddr::V4(v4) => entry.gateway_v4 = V4::new(v4.octets()),
            IpAddr::V6(v6) => entry.gateway_v6 = V6::new(v6.octets()),
        }
    }
}

fn link_local(local: &LocalPod, link: &Link) -> V6 {
    let observed = match link.peer_link_local {
        Some(IpAddr::V6(v6)) => V6::new(v6.octets()),
        _ => V6::default(),
    };
    let address = if local.link_local == V6::default() { observed } else { local.link_local };
    if address.is_link_local() { address } else { V6::default() }
}

fn wanted(port: &HostPort) -> String {
    match port {
        HostPort::Interface(name) => format!("waiting for interface {name}"),
        HostPort::Netns(netns) if netns.is_empty() => "waiting for the runtime to report the pod's sandbox".to_owned(),
        HostPort::Netns(netns) => format!("waiting for an interface of network namespace {netns}"),
    }
}

/// Unclaimed interfaces, cookies and event slots.
impl Endpoints {
    /// Adds the interfaces of pods that were not reported yet. Their entry is zero, which denies every packet.
    fn hold_unknown(&mut self, cluster: &Cluster) {
        if cluster.settings().hold_unknown {
            let unknown = cluster.links().values().filter(|link| is_pods(link, cluster) && !link.lacks_ethernet);
            unknown.for_each(|link| _ = self.ports.insert(link.ifindex, link.name.clone()));
        }
    }

    fn number(&mut self, kernel: &KernelView<'_>, before: &Self, slots: u16) {
        let mut cookies: BTreeSet<u32> = kernel.endpoints.values().map(|entry| entry.cookie).collect();
        let mut taken: BTreeSet<u16> = BTreeSet::new();
        for (ifindex, entry) in &mut self.entries {
            let Some(known) = kernel.endpoints.get(ifindex) else { continue };
            let was = before.claims.get(ifindex);
            if was.is_none_or(|uid| self.claims.get(ifindex) == Some(uid)) && is_same_claim(known, entry) {
                entry.cookie = known.cookie;
            }
            if (1..=slots).contains(&known.slot) && taken.insert(known.slot) {
                entry.slot = known.slot;
            }
        }
        taken.extend(kernel.endpoints.values().map(|entry| entry.slot));
        let mut free = (1..=slots).filter(|slot| !taken.contains(slot));
        for (ifindex, entry) in &mut self.entries {
            if entry.cookie == 0 {
                entry.cookie = new_cookie(*ifindex, entry, self.claims.get(ifindex), kernel.generation, &cookies);
                cookies.insert(entry.cookie);
            }
            if entry.slot == 0 {
                entry.slot = free.next().unwrap_or_default();
            }
            if entry.slot == 0 {
                self.overflows.note(Limit::EventSlots, usize::from(slots), format_args!("interface index {ifindex}"));
            }
        }
    }
}

/// Whether an entry in the kernel is of this claim. The claim may have an address that was not known before.
fn is_same_claim(known: &EndpointEntry, wanted: &EndpointEntry) -> bool {
    known.cookie != 0
        && known.tenant == wanted.tenant
        && grew(known.v4, wanted.v4)
        && grew(known.v6, wanted.v6)
        && grew(known.mac, wanted.mac)
}

fn grew<A: Default + PartialEq>(known: A, wanted: A) -> bool {
    known == wanted || known == A::default()
}

/// A cookie that no entry has and that no earlier claim is likely to have had: a connection of one pod must not match
/// the pod's successor. It is a hash, because a counter would start over with the agent.
fn new_cookie(ifindex: u32, entry: &EndpointEntry, uid: Option<&Uid>, generation: u64, taken: &BTreeSet<u32>) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add =
        |bytes: &[u8]| bytes.iter().for_each(|b| hash = (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    add(&ifindex.to_le_bytes());
    add(&generation.to_le_bytes());
    add(&entry.tenant.0.to_le_bytes());
    add(&v4_addr(entry.v4).octets());
    add(&v6_addr(entry.v6).octets());
    add(&entry.mac.octets());
    uid.iter().for_each(|uid| add(uid.to_string().as_bytes()));
    let first = (hash ^ (hash >> 32)) as u32;
    (0..=u32::MAX)
        .map(|step| first.wrapping_add(step))
        .find(|cookie| *cookie != 0 && !taken.contains(cookie))
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::{Change, Endpoint};
    use crate::model::limits::Limits;
    use crate::model::settings::Settings;
    use crate::model::testing::{
        cluster, compiled, compiled_with, ip, key, link, local, node_of_acme, nothing, remote,
    };
    use crate::plan::Actual;

    fn troubles(endpoints: &Endpoints, path: &str) -> Vec<&'static str> {
        endpoints.statuses[&key(path)].troubles.iter().map(Trouble::label).collect()
    }

    #[test]
    fn a_pod_with_its_interface_and_addresses_is_claimed() {
        let desired =
            compiled(&node_of_acme(Settings::default(), vec![local("web/a", &["10.0.0.1", "fd00::1"], "veth7")]), 0);
        let entry = desired.endpoints.entries[&7];
        assert_eq!((entry.v4, entry.tenant), (V4::new([10, 0, 0, 1]), desired.tenant_ids.of["acme"]));
        assert!(entry.cookie != 0 && entry.slot == 1 && entry.v6 != V6::default());
        assert!(troubles(&desired.endpoints, "web/a").is_empty());
        assert_eq!(desired.endpoints.ports, [(7, "veth7".to_owned())].into());
    }

    #[test]
    fn a_pod_waits_for_its_interface_while_others_may_reach_it() {
        let cluster = node_of_acme(Settings::default(), vec![local("web/a", &["10.0.0.1"], "veth9")]);
        let desired = compiled(&cluster, 0);
        assert!(desired.endpoints.entries.is_empty());
        assert_eq!(troubles(&desired.endpoints, "web/a"), ["no_interface"]);
        assert!(crate::model::desired::desired_peer(&cluster, &desired, ip("10.0.0.1")).is_some());
    }

    #[test]
    fn an_interface_that_two_pods_name_is_held_and_unclaimed() {
        let pods = vec![local("web/a", &["10.0.0.1"], "veth7"), local("web/b", &["10.0.0.2"], "veth7")];
        let desired = compiled(&node_of_acme(Settings::default(), pods), 0);
        assert!(desired.endpoints.entries.is_empty());
        assert_eq!(desired.endpoints.ports.len(), 1);
        assert_eq!(troubles(&desired.endpoints, "web/a"), ["interface_contested"]);
        assert_eq!(troubles(&desired.endpoints, "web/b"), ["interface_contested"]);
    }

    #[test]
    fn an_interface_without_an_ethernet_header_gets_no_program_and_no_claim() {
        for (lacks_ethernet, expected) in [(false, vec![]), (true, vec!["no_ethernet"])] {
            let settings = Settings { hold_unknown: true, ..Settings::default() };
            let mut cluster = node_of_acme(settings, vec![local("web/a", &["10.0.0.1"], "tun0")]);
            let tun = Link { lacks_ethernet, netns: Some("cni-1".into()), ..link(9, "tun0") };
            cluster.apply(Change::Links(vec![tun]));
            let endpoints = compiled(&cluster, 0).endpoints;
            assert_eq!(troubles(&endpoints, "web/a"), expected);
            assert_eq!(endpoints.ports.contains_key(&9), !lacks_ethernet);
            assert_eq!(endpoints.entries.contains_key(&9), !lacks_ethernet);
        }
    }

    #[test]
    fn a_disputed_address_is_lost_and_the_other_family_s_stays() {
        let pods = vec![local("web/a", &["10.0.0.1", "fd00::1"], "veth7"), remote("web/b", &["10.0.0.1"])];
        let desired = compiled(&node_of_acme(Settings::default(), pods), 0);
        let entry = desired.endpoints.entries[&7];
        assert!(entry.v4 == V4::default() && entry.v6 != V6::default());
        assert_eq!(troubles(&desired.endpoints, "web/a"), ["address_contested"]);
    }

    #[test]
    fn node_metadata_and_impossible_addresses_are_refused() {
        for address in ["192.0.2.1", "169.254.169.254", "127.0.0.1", "224.0.0.1"] {
            let desired = compiled(&node_of_acme(Settings::default(), vec![local("web/a", &[address], "veth7")]), 0);
            assert!(desired.endpoints.entries.is_empty(), "{address}");
            assert_eq!(troubles(&desired.endpoints, "web/a"), ["address_refused", "no_address"]);
        }
        let desired = compiled(&node_of_acme(Settings::default(), vec![local("web/a", &["192.0.2.2"], "veth7")]), 0);
        assert_eq!(desired.endpoints.entries.len(), 1, "the paired control");
    }

    #[test]
    fn an_unknown_namespace_isolates_its_pods_and_is_reported() {
        let desired = compiled(&node_of_acme(Settings::default(), vec![local("new/a", &["10.0.0.1"], "veth7")]), 0);
        assert_eq!(troubles(&desired.endpoints, "new/a"), ["namespace_unknown"]);
        assert_eq!(desired.endpoints.entries[&7].tenant, desired.tenant_ids.of["ns/new"]);
    }

    #[test]
    fn observed_hardware_and_link_local_addresses_serve_if_none_were_reported() {
        let mut seen = link(7, "veth7");
        seen.peer_mac = Some(agent_common::addr::Mac::new([2, 0, 0, 0, 0, 7]));
        seen.peer_link_local = Some(ip("fe80::7"));
        seen.netns = Some("cni-7".into());
        let mut pod = local("web/a", &["10.0.0.1"], "");
        pod.local.as_mut().expect("local").port = HostPort::Netns("cni-7".into());
        pod.local.as_mut().expect("local").gateways = vec![ip("10.0.0.254"), ip("fe80::1")];
        let mut cluster = node_of_acme(Settings::default(), vec![pod]);
        cluster.apply(Change::Links(vec![seen]));
        let entry = compiled(&cluster, 0).endpoints.entries[&7];
        assert_eq!(entry.mac.octets(), [2, 0, 0, 0, 0, 7]);
        assert_eq!((v6_addr(entry.link_local), v6_addr(entry.gateway_v6)), (ip6("fe80::7"), ip6("fe80::1")));
        assert_eq!(entry.gateway_v4, V4::new([10, 0, 0, 254]));
    }

    fn ip6(text: &str) -> std::net::Ipv6Addr {
        text.parse().expect("an address")
    }

    /// The cookie that a claim gets if the kernel holds `entry` at its index.
    fn cookie_over(entry: EndpointEntry, pod: Endpoint) -> u32 {
        let desired = compiled_with(&node_of_acme(Settings::default(), vec![pod]), held(entry), 0);
        desired.endpoints.entries[&7].cookie
    }

    fn held(entry: EndpointEntry) -> Actual {
        let name = agent_common::tenant::TenantName::new("acme").expect("short");
        Actual { endpoints: [(7, entry)].into(), names: [(TenantId(3), name)].into(), ..Actual::default() }
    }

    #[test]
    fn a_restart_keeps_a_claim_s_cookie_and_a_successor_gets_another() {
        let pod = || local("web/a", &["10.0.0.1"], "veth7");
        let entry = EndpointEntry { tenant: TenantId(3), cookie: 99, v4: V4::new([10, 0, 0, 1]), slot: 4, ..zero() };
        assert_eq!(cookie_over(entry, pod()), 99);
        assert_eq!(cookie_over(entry, local("web/a", &["10.0.0.1", "fd00::1"], "veth7")), 99, "one more address");
        for other in [
            EndpointEntry { tenant: TenantId(4), ..entry },
            EndpointEntry { v4: V4::new([10, 0, 0, 2]), ..entry },
            EndpointEntry { mac: agent_common::addr::Mac::new([2; 6]), ..entry },
        ] {
            let cookie = cookie_over(other, pod());
            assert!(cookie != 99 && cookie != 0, "{other:?}");
        }
    }

    fn zero() -> EndpointEntry {
        EndpointEntry::default()
    }

    #[test]
    fn a_successor_with_the_same_address_gets_another_cookie() {
        let cluster = node_of_acme(Settings::default(), vec![local("web/a", &["10.0.0.1"], "veth7")]);
        let first = compiled(&cluster, 0);
        let mut next = local("web/a", &["10.0.0.1"], "veth7");
        next.uid = "another".into();
        let cluster = node_of_acme(Settings::default(), vec![next]);
        let names = first.names.clone();
        let actual = Actual { endpoints: first.endpoints.entries.clone(), names, ..Actual::default() };
        let ledger = crate::plan::Ledger::new(actual, &Limits::default());
        let mentions = |id| ledger.mentions(id);
        let tenant_ids = &first.tenant_ids.of;
        let again = |cluster: &Cluster| {
            compile(cluster, &first.tenancy, tenant_ids, &ledger.kernel_view(&mentions), &first.endpoints).entries[&7]
                .cookie
        };
        assert_ne!(again(&cluster), first.endpoints.entries[&7].cookie);
        let same = node_of_acme(Settings::default(), vec![local("web/a", &["10.0.0.1"], "veth7")]);
        assert_eq!(again(&same), first.endpoints.entries[&7].cookie, "the paired control");
    }

    #[test]
    fn exhausted_slots_are_reported() {
        let limits = Limits { event_slots: 1, ..Limits::default() };
        let pods = || vec![local("web/a", &["10.0.0.1"], "veth7"), local("web/b", &["10.0.0.2"], "veth8")];
        let desired = compiled(&node_of_acme(Settings { limits, ..Settings::default() }, pods()), 0);
        let slots: Vec<u16> = desired.endpoints.entries.values().map(|entry| entry.slot).collect();
        assert_eq!((slots, desired.endpoints.overflows.as_slice().len()), (vec![1, 0], 1));
    }

    #[test]
    fn nothing_known_means_nothing_claimed() {
        assert!(compiled(&cluster(Settings::default(), nothing()), 0).endpoints.entries.is_empty());
    }
}
