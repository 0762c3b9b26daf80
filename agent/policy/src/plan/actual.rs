//! What the kernel's tables hold, as plain values.
//!
//! Read from the kernel at the start. After that, each write that succeeded is recorded here, and each difference that a
//! comparison with the kernel found. A zero element of an array means the same as no entry, so it is not listed.

use std::collections::BTreeMap;

use agent_common::addr::V6;
use agent_common::layout::{
    EndpointEntry, Grant, GrantKey, PeerEntry, PeerKeyV4, PortSet, PrefixGrant, RowV4, RowV6, TrieKeyV4, TrieKeyV6,
};
use agent_common::tenant::{TenantId, TenantName, TenantState};
use ipnet::{Ipv4Net, Ipv6Net};

use super::{Op, Table};

/// A copy of the kernel's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// Claimed interfaces.
    pub endpoints: BTreeMap<u32, EndpointEntry>,
    /// Exact IPv4 addresses. Ordered maps: at a million entries they take two thirds of the memory of a hash map.
    pub peers_v4: BTreeMap<PeerKeyV4, PeerEntry>,
    /// Exact IPv6 addresses.
    pub peers_v6: BTreeMap<V6, PeerEntry>,
    /// Tenants.
    pub tenants: BTreeMap<TenantId, TenantState>,
    /// Names of tenant numbers.
    pub names: BTreeMap<TenantId, TenantName>,
    /// IPv4 rows. Row 0 is never written and always empty.
    pub rows_v4: BTreeMap<u16, Box<RowV4>>,
    /// IPv6 rows.
    pub rows_v6: BTreeMap<u16, Box<RowV6>>,
    /// Port sets.
    pub port_sets: BTreeMap<u16, PortSet>,
    /// IPv4 trie by key and bits of the prefix, the tenant's 32 not counted.
    pub trie_v4: BTreeMap<(TrieKeyV4, u8), PrefixGrant>,
    /// IPv6 trie by key and bits of the prefix, the tenant's 32 not counted.
    pub trie_v6: BTreeMap<(TrieKeyV6, u8), PrefixGrant>,
    /// Grants.
    pub grants: BTreeMap<GrantKey, Grant>,
    /// Owners of IPv4 ranges.
    pub owners_v4: BTreeMap<Ipv4Net, TenantId>,
    /// Owners of IPv6 ranges.
    pub owners_v6: BTreeMap<Ipv6Net, TenantId>,
    /// Generation of the policy.
    pub generation: u64,
}

impl Actual {
    /// Records that `op` was written.
    pub fn record(&mut self, op: &Op) {
        match op {
            Op::Endpoint(ifindex, entry) => put(&mut self.endpoints, *ifindex, non_zero(*entry)),
            Op::PeerV4(key, entry) => put(&mut self.peers_v4, *key, *entry),
            Op::PeerV6(key, entry) => put(&mut self.peers_v6, *key, *entry),
            Op::Tenant(id, state) => put(&mut self.tenants, *id, non_zero(*state)),
            Op::TenantName(id, name) => put(&mut self.names, *id, *name),
            Op::RowV4(row, value) => put(&mut self.rows_v4, *row, non_zero(value.clone())),
            Op::RowV6(row, value) => put(&mut self.rows_v6, *row, non_zero(value.clone())),
            Op::PortSet(set, value) => put(&mut self.port_sets, *set, non_zero(*value)),
            Op::TrieV4(bits, key, grant) => put(&mut self.trie_v4, (*key, *bits), *grant),
            Op::TrieV6(bits, key, grant) => put(&mut self.trie_v6, (*key, *bits), *grant),
            Op::Grant(key, grant) => put(&mut self.grants, *key, *grant),
            Op::OwnerV4(net, owner) => put(&mut self.owners_v4, *net, *owner),
            Op::OwnerV6(net, owner) => put(&mut self.owners_v6, *net, *owner),
            Op::Generation(generation) => self.generation = *generation,
        }
    }
}

impl Actual {
    /// How many entries `table` holds.
    pub fn len(&self, table: Table) -> usize {
        match table {
            Table::Endpoints => self.endpoints.len(),
            Table::PeersV4 => self.peers_v4.len(),
            Table::PeersV6 => self.peers_v6.len(),
            Table::Tenants => self.tenants.len(),
            Table::TenantNames => self.names.len(),
            Table::RowsV4 => self.rows_v4.len(),
            Table::RowsV6 => self.rows_v6.len(),
            Table::PortSets => self.port_sets.len(),
            Table::TrieV4 => self.trie_v4.len(),
            Table::TrieV6 => self.trie_v6.len(),
            Table::Grants => self.grants.len(),
            Table::OwnersV4 => self.owners_v4.len(),
            Table::OwnersV6 => self.owners_v6.len(),
            Table::Runtime => 0,
        }
    }

    /// Whether `op` would add an entry to its table. An array element never does.
    pub fn would_grow(&self, op: &Op) -> bool {
        match op {
            Op::PeerV4(key, Some(_)) => !self.peers_v4.contains_key(key),
            Op::PeerV6(key, Some(_)) => !self.peers_v6.contains_key(key),
            Op::TenantName(id, Some(_)) => !self.names.contains_key(id),
            Op::TrieV4(bits, key, Some(_)) => !self.trie_v4.contains_key(&(*key, *bits)),
            Op::TrieV6(bits, key, Some(_)) => !self.trie_v6.contains_key(&(*key, *bits)),
            Op::Grant(key, Some(_)) => !self.grants.contains_key(key),
            Op::OwnerV4(net, Some(_)) => !self.owners_v4.contains_key(net),
            Op::OwnerV6(net, Some(_)) => !self.owners_v6.contains_key(net),
            _ => false,
        }
    }

    /// Whether no table holds anything.
    pub fn is_empty(&self) -> bool {
        Table::ALL.iter().all(|table| self.len(*table) == 0)
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

fn non_zero<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}
