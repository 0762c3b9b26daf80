//! How a table that was read back differs from the ledger.
//!
//! Knows no cause and no repair. The result describes the kernel: recorded in the ledger, it makes the next plan
//! repair every difference.

use std::collections::{BTreeMap, BTreeSet};

use super::{Actual, Op, Table};

impl Actual {
    /// The writes that would turn `table` of `self` into that of `found`.
    pub fn differences(&self, found: &Self, table: Table) -> Vec<Op> {
        match table {
            Table::Endpoints => each(&self.endpoints, &found.endpoints, |key, value| Op::Endpoint(key, or_zero(value))),
            Table::PeersV4 => each(&self.peers_v4, &found.peers_v4, Op::PeerV4),
            Table::PeersV6 => each(&self.peers_v6, &found.peers_v6, Op::PeerV6),
            Table::Tenants => each(&self.tenants, &found.tenants, |key, value| Op::Tenant(key, or_zero(value))),
            Table::TenantNames => each(&self.names, &found.names, Op::TenantName),
            Table::RowsV4 => each(&self.rows_v4, &found.rows_v4, |key, value| Op::RowV4(key, or_zero(value))),
            Table::RowsV6 => each(&self.rows_v6, &found.rows_v6, |key, value| Op::RowV6(key, or_zero(value))),
            Table::PortSets => each(&self.port_sets, &found.port_sets, |key, value| Op::PortSet(key, or_zero(value))),
            Table::TrieV4 => each(&self.trie_v4, &found.trie_v4, |(key, bits), value| Op::TrieV4(bits, key, value)),
            Table::TrieV6 => each(&self.trie_v6, &found.trie_v6, |(key, bits), value| Op::TrieV6(bits, key, value)),
            Table::Grants => each(&self.grants, &found.grants, Op::Grant),
            Table::OwnersV4 => each(&self.owners_v4, &found.owners_v4, Op::OwnerV4),
            Table::OwnersV6 => each(&self.owners_v6, &found.owners_v6, Op::OwnerV6),
            Table::Runtime if self.generation == found.generation => Vec::new(),
            Table::Runtime => vec![Op::Generation(found.generation)],
        }
    }
}

fn each<K: Clone + Ord, V: Clone + PartialEq>(
    own: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
    op: impl Fn(K, Option<V>) -> Op,
) -> Vec<Op> {
    // Equal maps are the rule, and comparing them needs no memory.
    if own == found {
        return Vec::new();
    }
    let keys: BTreeSet<&K> = own.keys().chain(found.keys()).collect();
    let differ = keys.into_iter().filter(|key| own.get(key) != found.get(key));
    differ.map(|key| op(key.clone(), found.get(key).cloned())).collect()
}

fn or_zero<V: Default>(value: Option<V>) -> V {
    value.unwrap_or_default()
}
