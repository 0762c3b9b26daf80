//! Writes tables from memory into the maps of loaded programs.
//!
//! Knows the layout of each map and no test case.

use agent_common::addr::{V4, V6};
use agent_common::layout::{EndpointEntry, PeerKeyV4, TrieKeyV4, TrieKeyV6};
use agent_common::maps;
use agent_common::mem_tables::MemTables;
use agent_common::tenant::TenantId;
use anyhow::{Context, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData};
use aya::{Ebpf, Pod};

/// Entries of `ENDPOINTS`. Interfaces with a higher index are in `ENDPOINTS_FAR`.
const NEAR: u32 = 65_536;

/// Writes every table except connections.
pub(super) fn write(ebpf: &mut Ebpf, tables: &MemTables) -> Result<()> {
    write_endpoints(ebpf, tables)?;
    array(ebpf, maps::TENANTS.name, tables.tenants.iter().map(|(id, state)| (id.0, *state)))?;
    array(ebpf, maps::ROWS_V4.name, tables.rows_v4.iter().map(|(row, prefixes)| (u32::from(*row), *prefixes)))?;
    array(ebpf, maps::ROWS_V6.name, tables.rows_v6.iter().map(|(row, prefixes)| (u32::from(*row), *prefixes)))?;
    array(ebpf, maps::PORT_SETS.name, tables.port_sets.iter().map(|(set, ports)| (u32::from(*set), *ports)))?;
    array(ebpf, maps::RUNTIME.name, [(0, tables.runtime)])?;
    let peers = tables.peers_v4.iter().map(|(address, peer)| (PeerKeyV4 { network: 0, address: *address }, *peer));
    hash(ebpf, maps::PEERS_V4.name, peers)?;
    hash(ebpf, maps::PEERS_V6.name, tables.peers_v6.iter().map(|(address, peer)| (*address, *peer)))?;
    hash(ebpf, maps::GRANTS.name, tables.grants.iter().map(|(key, grant)| (*key, *grant)))?;
    let key = |tenant: TenantId, net: V4, length| Key::new(32 + u32::from(length), TrieKeyV4 { tenant, net });
    trie(
        ebpf,
        maps::TRIE_V4.name,
        tables.trie_v4.iter().map(|(tenant, net, length, grant)| (key(*tenant, *net, *length), *grant)),
    )?;
    let key = |tenant: TenantId, net: V6, length| Key::new(32 + u32::from(length), TrieKeyV6 { tenant, net });
    trie(
        ebpf,
        maps::TRIE_V6.name,
        tables.trie_v6.iter().map(|(tenant, net, length, grant)| (key(*tenant, *net, *length), *grant)),
    )?;
    let owners = tables.owners_v4.iter().map(|(net, length, owner)| (Key::new(u32::from(*length), *net), *owner));
    trie(ebpf, maps::OWNERS_V4.name, owners)?;
    let owners = tables.owners_v6.iter().map(|(net, length, owner)| (Key::new(u32::from(*length), *net), *owner));
    trie(ebpf, maps::OWNERS_V6.name, owners)
}

/// Writes the local pods.
pub(super) fn write_endpoints(ebpf: &mut Ebpf, tables: &MemTables) -> Result<()> {
    let (near, far): (Vec<_>, Vec<_>) = tables.endpoints.iter().partition(|(ifindex, _)| **ifindex < NEAR);
    array(ebpf, maps::ENDPOINTS.name, near.into_iter().map(|(ifindex, entry)| (*ifindex, *entry)))?;
    let far = far.into_iter().map(|(ifindex, entry)| (*ifindex, *entry));
    hash::<u32, EndpointEntry>(ebpf, maps::ENDPOINTS_FAR.name, far)
}

fn array<V: Pod>(ebpf: &mut Ebpf, name: &str, entries: impl IntoIterator<Item = (u32, V)>) -> Result<()> {
    let mut map: Array<&mut MapData, V> = ebpf.map_mut(name).context(name.to_owned())?.try_into()?;
    entries.into_iter().try_for_each(|(index, value)| map.set(index, value, 0)).context(name.to_owned())
}

fn hash<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &str, entries: impl IntoIterator<Item = (K, V)>) -> Result<()> {
    let mut map: HashMap<&mut MapData, K, V> = ebpf.map_mut(name).context(name.to_owned())?.try_into()?;
    entries.into_iter().try_for_each(|(key, value)| map.insert(key, value, 0)).context(name.to_owned())
}

fn trie<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &str, entries: impl IntoIterator<Item = (Key<K>, V)>) -> Result<()> {
    let mut map: LpmTrie<&mut MapData, K, V> = ebpf.map_mut(name).context(name.to_owned())?.try_into()?;
    entries.into_iter().try_for_each(|(key, value)| map.insert(&key, value, 0)).context(name.to_owned())
}
