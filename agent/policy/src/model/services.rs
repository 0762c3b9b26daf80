//! Services: the entry of a Service's address, compiled from the entries of the addresses behind it.
//!
//! Knows no pod and no tenant's policy. A node translates a Service's address only after the pod's packet was judged.
//! So the address is judged as if it were each of its ends. It permits only what all its ends permit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use agent_common::layout::PeerEntry;
use agent_common::tenant::TenantId;

use super::address_index::AddressIndex;
use super::dirty::Dirty;
use super::input::{EndpointKey, Service};

/// A Service without ends, with pods of several tenants, or with an unknown pod: no tenant may open connections to it.
const NOBODYS: PeerEntry = PeerEntry { tenant: TenantId::UNKNOWN, kind: PeerEntry::SERVICE, flags: 0, _pad: 0 };
/// A Service with an end that is no pod: only tenants that list exactly its address may open connections to it.
const LISTED: PeerEntry = PeerEntry { tenant: TenantId::UNKNOWN, kind: PeerEntry::SERVICE_LISTED, flags: 0, _pad: 0 };

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
    /// and `is_inside` whether an address is in the cluster's ranges.
    pub fn entry(
        &self,
        address: IpAddr,
        end: impl Fn(IpAddr) -> Option<PeerEntry>,
        is_inside: impl Fn(IpAddr) -> bool,
    ) -> Option<PeerEntry> {
        let services = self.by_address.get(address)?.iter().filter_map(|key| self.known.get(key));
        let ends: BTreeSet<IpAddr> = services.flat_map(|service| service.ends.iter().copied()).collect();
        let mut entries = Vec::with_capacity(ends.len());
        for address in ends {
            match end(address) {
                Some(entry) => entries.push(entry),
                None if is_inside(address) => return Some(NOBODYS),
                None => return Some(LISTED),
            }
        }
        Some(common(&entries))
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

/// The entry that permits only what all ends permit. If all ends are nodes, it is that of a node.
fn common(ends: &[PeerEntry]) -> PeerEntry {
    let Some(first) = ends.first() else { return NOBODYS };
    let all = |is: &dyn Fn(&PeerEntry) -> bool| ends.iter().all(is);
    if all(&|end| end.kind == PeerEntry::NODE) {
        return *first;
    }
    if !all(&|end| end.kind == PeerEntry::POD && end.tenant.is_known()) {
        let pods = all(&|end| end.kind == PeerEntry::POD);
        return if pods { NOBODYS } else { LISTED };
    }
    let alike = all(&|end| end.tenant == first.tenant) || all(&|end| end.flags & PeerEntry::SHARED != 0);
    if alike { PeerEntry { kind: PeerEntry::SERVICE, ..*first } } else { NOBODYS }
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
        services.entry(ip("10.96.0.9"), end, |end| end.to_string().starts_with("10.244.")).expect("it is a Service")
    }

    #[test]
    fn a_service_is_its_tenant_s_if_all_its_pods_are() {
        assert_eq!(entry(&["10.244.0.1", "10.244.0.2"]), PeerEntry { kind: PeerEntry::SERVICE, ..ACME });
        assert_eq!(entry(&["10.244.0.4", "10.244.0.5"]), PeerEntry { kind: PeerEntry::SERVICE, ..DNS });
        assert_eq!(entry(&["192.168.0.1", "192.168.0.2"]), NODE);
    }

    #[test]
    fn a_service_whose_ends_differ_is_nobody_s() {
        for ends in
            [&[][..], &["10.244.0.1", "10.244.0.3"], &["10.244.0.1", "10.244.0.4"], &["10.244.0.1", "10.244.9.9"]]
        {
            assert_eq!(entry(ends), NOBODYS, "{ends:?}");
        }
        for ends in [&["10.40.0.10"][..], &["10.244.0.1", "10.40.0.10"], &["10.244.0.1", "192.168.0.1"]] {
            assert_eq!(entry(ends), LISTED, "{ends:?}");
        }
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
        assert_eq!(services.entry(ip("10.96.0.9"), |_| None, |_| true), None);
        assert!(services.by_end.is_empty() && services.by_address.is_empty());
    }
}
