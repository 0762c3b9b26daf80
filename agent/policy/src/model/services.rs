//! Services: the entry of a Service's address, compiled from the entries of the addresses behind it.
//!
//! Knows no pod and no tenant's policy. A node translates a Service's address only after the pod's packet was judged.
//! So the address is judged as if it were each of its known ends. It permits only what all of them permit. An unknown end
//! inside the cluster does not count, because endpoints follow pods with a delay. Where a packet really goes is judged
//! again behind the translation, and an unknown pod's address is denied there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use agent_common::layout::PeerEntry;
use agent_common::tenant::TenantId;

use super::address_index::AddressIndex;
use super::dirty::Dirty;
use super::input::{EndpointKey, Service};

/// A Service with pods of several tenants, or without known ends in an unknown namespace: no tenant may open connections
/// to it.
const NOBODYS: PeerEntry = PeerEntry { tenant: TenantId::UNKNOWN, kind: PeerEntry::SERVICE, flags: 0, _pad: 0 };
/// A Service with an end that is no pod: only tenants that list exactly its address may open connections to it.
const LISTED: PeerEntry = PeerEntry { tenant: TenantId::UNKNOWN, kind: PeerEntry::SERVICE_LISTED, flags: 0, _pad: 0 };

/// What an end is that no table knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownEnd {
    /// An address of the cluster's. What goes there is judged again where it leaves the node.
    JudgedLater,
    /// An address of the cluster's, where nothing judges again.
    Nobodys,
    /// An address outside the cluster.
    Outside,
}

/// All Services that this node knows.
#[derive(Clone, Debug, Default)]
pub struct Services {
    known: BTreeMap<EndpointKey, Service>,
    by_address: AddressIndex<BTreeSet<EndpointKey>>,
    by_end: HashMap<IpAddr, BTreeSet<EndpointKey>>,
}

impl Services {
    /// The Service of this namespace and name.
    pub fn get(&self, key: &EndpointKey) -> Option<&Service> {
        self.known.get(key)
    }

    /// Which Services have which address.
    pub fn address_index(&self) -> &AddressIndex<BTreeSet<EndpointKey>> {
        &self.by_address
    }

    /// The entry that an address should have; `None` if no Service has the address. `end` returns the entry of an end,
    /// `unknown` what an end without an entry is, and `namespace` the entry of a namespace's pods.
    pub fn entry(
        &self,
        address: IpAddr,
        end: impl Fn(IpAddr) -> Option<PeerEntry>,
        unknown: impl Fn(IpAddr) -> UnknownEnd,
        namespace: impl Fn(&str) -> Option<PeerEntry>,
    ) -> Option<PeerEntry> {
        let keys = self.by_address.get(address)?;
        let services = keys.iter().filter_map(|key| self.known.get(key));
        let ends: BTreeSet<IpAddr> = services.flat_map(|service| service.ends.iter().copied()).collect();
        let mut entries = Vec::with_capacity(ends.len());
        for address in ends {
            match (end(address), unknown(address)) {
                (Some(entry), _) => entries.push(entry),
                (None, UnknownEnd::JudgedLater) => {}
                (None, UnknownEnd::Nobodys) => return Some(NOBODYS),
                (None, UnknownEnd::Outside) => return Some(LISTED),
            }
        }
        if entries.is_empty() {
            // Whatever appears behind it is judged by itself, and until then the node refuses connections.
            entries.extend(keys.iter().map(|key| namespace(&key.namespace).unwrap_or(NOBODYS)));
        }
        Some(common(&entries))
    }

    /// The addresses of a namespace's Services.
    pub(super) fn addresses_of(&self, namespace: &str) -> impl Iterator<Item = IpAddr> {
        let first = EndpointKey { namespace: namespace.to_owned(), name: String::new() };
        let all = self.known.range(first..).take_while(move |(key, _)| key.namespace == *namespace);
        all.flat_map(|(_, service)| service.addresses.iter().copied())
    }

    /// Marks the addresses of Services whose ends are marked.
    pub(super) fn follow(&self, dirty: &mut Dirty) {
        let of = |end: &IpAddr| self.by_end.get(end).into_iter().flatten();
        let keys: BTreeSet<&EndpointKey> = dirty.addresses.iter().flat_map(of).collect();
        let addresses = keys.into_iter().filter_map(|key| self.known.get(key)).flat_map(|one| one.addresses.clone());
        addresses.collect::<Vec<_>>().into_iter().for_each(|address| dirty.address(address));
    }

    pub(super) fn replace(&mut self, all: Vec<Service>, dirty: &mut Dirty) {
        let kept: BTreeSet<&EndpointKey> = all.iter().map(|service| &service.key).collect();
        let gone: Vec<EndpointKey> = self.known.keys().filter(|key| !kept.contains(key)).cloned().collect();
        gone.iter().for_each(|key| self.remove(key, dirty));
        all.into_iter().for_each(|service| self.insert(service, dirty));
    }

    pub(super) fn insert(&mut self, service: Service, dirty: &mut Dirty) {
        if self.known.get(&service.key) == Some(&service) {
            return;
        }
        self.remove(&service.key, dirty);
        for address in &service.addresses {
            dirty.address(*address);
            let mut keys = self.by_address.get(*address).map_or_else(BTreeSet::new, |keys| BTreeSet::clone(keys));
            keys.insert(service.key.clone());
            self.by_address.insert(*address, Arc::new(keys));
        }
        for end in &service.ends {
            self.by_end.entry(*end).or_default().insert(service.key.clone());
        }
        self.known.insert(service.key.clone(), service);
    }

    pub(super) fn remove(&mut self, key: &EndpointKey, dirty: &mut Dirty) {
        let Some(old) = self.known.remove(key) else { return };
        for address in &old.addresses {
            dirty.address(*address);
            let others = self.by_address.get(*address).into_iter().flat_map(|keys| keys.iter());
            let others: BTreeSet<EndpointKey> = others.filter(|other| *other != key).cloned().collect();
            match others.is_empty() {
                true => self.by_address.remove(*address),
                false => self.by_address.insert(*address, Arc::new(others)),
            }
        }
        for end in &old.ends {
            if let Some(keys) = self.by_end.get_mut(end) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_end.remove(end);
                }
            }
        }
    }
}

/// The entry that permits only what all ends permit. If all ends are nodes, it is that of a node. Every tenant reaches a
/// Shared end, so beside one tenant's ends it permits what they permit.
fn common(ends: &[PeerEntry]) -> PeerEntry {
    let Some(first) = ends.first() else { return NOBODYS };
    let all = |is: &dyn Fn(&PeerEntry) -> bool| ends.iter().all(is);
    if all(&|end| end.kind == PeerEntry::NODE) {
        return *first;
    }
    if !all(&|end| end.kind == PeerEntry::POD && end.tenant.is_known()) {
        let pods = all(&|end| matches!(end.kind, PeerEntry::POD | PeerEntry::SERVICE));
        return if pods { NOBODYS } else { LISTED };
    }
    let mut isolated = ends.iter().filter(|end| end.flags & PeerEntry::SHARED == 0);
    let owner = isolated.next().unwrap_or(first);
    if isolated.all(|end| end.tenant == owner.tenant) {
        PeerEntry { kind: PeerEntry::SERVICE, ..*owner }
    } else {
        NOBODYS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACME: PeerEntry = PeerEntry { tenant: TenantId(3), kind: PeerEntry::POD, flags: 0, _pad: 0 };
    const GLOBEX: PeerEntry = PeerEntry { tenant: TenantId(4), ..ACME };
    const DNS: PeerEntry = PeerEntry { tenant: TenantId(5), flags: PeerEntry::SHARED, ..ACME };
    const INGRESS: PeerEntry = PeerEntry { tenant: TenantId(6), flags: PeerEntry::SHARED, ..ACME };
    const NODE: PeerEntry = PeerEntry { tenant: TenantId::UNKNOWN, kind: PeerEntry::NODE, ..ACME };

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn service(name: &str, address: &str, ends: &[&str]) -> Service {
        let key = EndpointKey { namespace: "ns".into(), name: name.into() };
        Service { key, addresses: vec![ip(address)], ends: ends.iter().map(|end| ip(end)).collect() }
    }

    fn entry(ends: &[&str]) -> PeerEntry {
        let mut services = Services::default();
        services.insert(service("web", "10.96.0.9", ends), &mut Dirty::default());
        let end = |address: IpAddr| match address.to_string().as_str() {
            "10.244.0.1" | "10.244.0.2" => Some(ACME),
            "10.244.0.3" => Some(GLOBEX),
            "10.244.0.4" => Some(DNS),
            "10.244.0.5" => Some(INGRESS),
            "192.168.0.1" | "192.168.0.2" => Some(NODE),
            _ => None,
        };
        let namespace = |name: &str| (name == "ns").then_some(ACME);
        services.entry(ip("10.96.0.9"), end, unknown, namespace).expect("it is a Service")
    }

    fn unknown(end: IpAddr) -> UnknownEnd {
        match end.to_string() {
            text if text.starts_with("10.244.9.") => UnknownEnd::Nobodys,
            text if text.starts_with("10.244.") => UnknownEnd::JudgedLater,
            _ => UnknownEnd::Outside,
        }
    }

    #[test]
    fn a_service_is_its_tenant_s_if_all_its_pods_are_or_every_tenant_reaches_them() {
        assert_eq!(entry(&["10.244.0.1", "10.244.0.2"]), PeerEntry { kind: PeerEntry::SERVICE, ..ACME });
        assert_eq!(entry(&["10.244.0.4", "10.244.0.5"]), PeerEntry { kind: PeerEntry::SERVICE, ..DNS });
        assert_eq!(entry(&["10.244.0.1", "10.244.0.4"]), PeerEntry { kind: PeerEntry::SERVICE, ..ACME });
        assert_eq!(entry(&["10.244.0.4", "10.244.0.1"]), PeerEntry { kind: PeerEntry::SERVICE, ..ACME });
        assert_eq!(entry(&["192.168.0.1", "192.168.0.2"]), NODE);
    }

    #[test]
    fn a_service_whose_ends_differ_is_nobody_s() {
        for ends in [
            &["10.244.0.1", "10.244.0.3"][..],
            &["10.244.0.4", "10.244.0.3", "10.244.0.1"],
            &["10.244.0.1", "10.244.9.9"],
        ] {
            assert_eq!(entry(ends), NOBODYS, "{ends:?}");
        }
        for ends in [&["10.40.0.10"][..], &["10.244.0.1", "10.40.0.10"], &["10.244.0.1", "192.168.0.1"]] {
            assert_eq!(entry(ends), LISTED, "{ends:?}");
        }
    }

    #[test]
    fn an_unknown_end_inside_the_cluster_does_not_deny_the_others() {
        assert_eq!(entry(&["10.244.0.4", "10.244.1.250"]), PeerEntry { kind: PeerEntry::SERVICE, ..DNS });
        assert_eq!(entry(&["10.244.0.3", "10.244.1.250"]), PeerEntry { kind: PeerEntry::SERVICE, ..GLOBEX });
    }

    #[test]
    fn a_service_without_known_ends_is_its_namespace_s() {
        assert_eq!(entry(&[]), PeerEntry { kind: PeerEntry::SERVICE, ..ACME });
        assert_eq!(entry(&["10.244.1.250"]), PeerEntry { kind: PeerEntry::SERVICE, ..ACME });
        let mut services = Services::default();
        services.insert(service("web", "10.96.0.9", &[]), &mut Dirty::default());
        let unknown = services.entry(ip("10.96.0.9"), |_| None, unknown, |_| None);
        assert_eq!(unknown, Some(NOBODYS), "of a namespace in no known tenant");
        assert_eq!(services.addresses_of("ns").collect::<Vec<_>>(), [ip("10.96.0.9")]);
        assert_eq!(services.addresses_of("n").count() + services.addresses_of("ns2").count(), 0);
    }

    #[test]
    fn a_marked_end_marks_the_service() {
        let mut services = Services::default();
        services.insert(service("web", "10.96.0.9", &["10.244.0.1"]), &mut Dirty::default());
        let mut dirty = Dirty::default();
        dirty.address(ip("10.244.0.1"));
        services.follow(&mut dirty);
        assert!(dirty.addresses.contains(&ip("10.96.0.9")));
        services.remove(&service("web", "10.96.0.9", &[]).key, &mut dirty);
        assert_eq!(services.entry(ip("10.96.0.9"), |_| None, unknown, |_| None), None);
        assert!(services.by_end.is_empty() && services.by_address.is_empty());
    }
}
