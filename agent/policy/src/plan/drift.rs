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
    // The maps are nearly always equal, and comparing them needs no memory.
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

#[cfg(test)]
mod tests {
    use agent_common::addr::V4;
    use agent_common::layout::{
        EndpointEntry, Grant, GrantKey, PeerEntry, PeerKeyV4, PortRange, PortSet, PrefixGrant, RowV4, RowV6, TrieKeyV4,
        TrieKeyV6,
    };
    use agent_common::tenant::{TenantId, TenantName, TenantState};

    use super::*;

    const TENANT: TenantId = TenantId(7);

    /// One entry in each table.
    fn full() -> Actual {
        let peer = PeerEntry { tenant: TENANT, kind: PeerEntry::POD, ..PeerEntry::default() };
        let grant = PrefixGrant { length: 24, ports: 1, ..PrefixGrant::default() };
        let (mut row_v4, mut row_v6) = (RowV4::default(), RowV6::default());
        row_v4.prefixes[0].grant = grant;
        row_v6.prefixes[0].grant = grant;
        let mut ports = PortSet::default();
        ports.ranges[0] = PortRange { protocol: 6, low: 1, high: 2, ..PortRange::default() };
        let mut full = Actual::default();
        for op in [
            Op::Endpoint(3, EndpointEntry { tenant: TENANT, ..EndpointEntry::default() }),
            Op::PeerV4(PeerKeyV4 { network: 0, address: V4::new([10, 0, 0, 1]) }, Some(peer)),
            Op::PeerV6(agent_common::addr::V6::new([1; 16]), Some(peer)),
            Op::Tenant(TENANT, TenantState { flags: TenantState::VALID, ..TenantState::default() }),
            Op::TenantName(TENANT, TenantName::new("acme")),
            Op::RowV4(1, Box::new(row_v4)),
            Op::RowV6(1, Box::new(row_v6)),
            Op::PortSet(1, ports),
            Op::TrieV4(24, TrieKeyV4 { tenant: TENANT, ..TrieKeyV4::default() }, Some(grant)),
            Op::TrieV6(24, TrieKeyV6 { tenant: TENANT, ..TrieKeyV6::default() }, Some(grant)),
            Op::Grant(GrantKey { from: TENANT, to: TenantId(8) }, Some(Grant::default())),
            Op::OwnerV4("10.0.0.0/24".parse().expect("a range"), Some(TENANT)),
            Op::OwnerV6("fd00::/64".parse().expect("a range"), Some(TENANT)),
            Op::Generation(9),
        ] {
            full.record(&op);
        }
        full
    }

    #[test]
    fn the_differences_of_each_table_turn_one_into_the_other() {
        let (full, empty) = (full(), Actual::default());
        for table in Table::ALL {
            assert_eq!(full.differences(&full, table), [], "{table:?}: nothing differs");
            for (own, found) in [(&full, &empty), (&empty, &full)] {
                let ops = own.differences(found, table);
                assert_eq!(ops.len(), 1, "{table:?}: one entry differs");
                assert_eq!(ops[0].table(), table);
                let mut mended = own.clone();
                mended.record(&ops[0]);
                assert_eq!(mended.differences(found, table), [], "{table:?}: mended by its own difference");
                assert_ne!(mended, *own, "{table:?}: the write changed something");
            }
        }
    }
}
