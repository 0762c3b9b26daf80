//! One typed handle for each policy map, and one function that turns an op into a write.
//!
//! Knows keys and values of the maps; does not know why an entry is written. Reading a map back gives the
//! value that the ledger holds after the same writes.

use std::io;

use agent_common::addr::{V4, V6};
use agent_common::layout::{
    EndpointEntry, Grant, GrantKey, PeerEntry, PeerKeyV4, PortSet, PrefixGrant, RowV4, RowV6, Runtime, TrieKeyV4,
    TrieKeyV6,
};
use agent_common::maps;
use agent_common::reply_table::{self, BLOCKS, COMMON_BUCKETS, ReplyBucket};
use agent_common::tenant::{TenantId, TenantName, TenantState};
use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError};
use ipnet::{Ipv4Net, Ipv6Net};

use super::DataplaneError;
use super::error::BoxedCause;
use policy::plan::{Actual, Op, Table};

/// The maps that a plan writes.
pub(super) struct PolicyMaps {
    endpoints: Array<MapData, EndpointEntry>,
    endpoints_far: HashMap<MapData, u32, EndpointEntry>,
    peers_v4: HashMap<MapData, PeerKeyV4, PeerEntry>,
    peers_v6: HashMap<MapData, V6, PeerEntry>,
    tenants: Array<MapData, TenantState>,
    names: HashMap<MapData, TenantId, TenantName>,
    rows_v4: Array<MapData, RowV4>,
    rows_v6: Array<MapData, RowV6>,
    port_sets: Array<MapData, PortSet>,
    trie_v4: LpmTrie<MapData, TrieKeyV4, PrefixGrant>,
    trie_v6: LpmTrie<MapData, TrieKeyV6, PrefixGrant>,
    grants: HashMap<MapData, GrantKey, Grant>,
    owners_v4: LpmTrie<MapData, V4, TenantId>,
    owners_v6: LpmTrie<MapData, V6, TenantId>,
    runtime: Array<MapData, Runtime>,
    replies: Array<MapData, ReplyBucket>,
}

type WriteResult = Result<(), MapError>;

impl PolicyMaps {
    /// Takes each map by name from `take`.
    ///
    /// # Errors
    /// Those of `take`; or a map has another type.
    pub(super) fn new(mut take: impl FnMut(&'static str) -> Result<Map, MapError>) -> Result<Self, MapError> {
        Ok(Self {
            endpoints: take(maps::ENDPOINTS.name)?.try_into()?,
            endpoints_far: take(maps::ENDPOINTS_FAR.name)?.try_into()?,
            peers_v4: take(maps::PEERS_V4.name)?.try_into()?,
            peers_v6: take(maps::PEERS_V6.name)?.try_into()?,
            tenants: take(maps::TENANTS.name)?.try_into()?,
            names: take(maps::TENANT_NAMES.name)?.try_into()?,
            rows_v4: take(maps::ROWS_V4.name)?.try_into()?,
            rows_v6: take(maps::ROWS_V6.name)?.try_into()?,
            port_sets: take(maps::PORT_SETS.name)?.try_into()?,
            trie_v4: take(maps::TRIE_V4.name)?.try_into()?,
            trie_v6: take(maps::TRIE_V6.name)?.try_into()?,
            grants: take(maps::GRANTS.name)?.try_into()?,
            owners_v4: take(maps::OWNERS_V4.name)?.try_into()?,
            owners_v6: take(maps::OWNERS_V6.name)?.try_into()?,
            runtime: take(maps::RUNTIME.name)?.try_into()?,
            replies: take(maps::REPLIES.name)?.try_into()?,
        })
    }

    /// Makes one write.
    ///
    /// # Errors
    /// [`DataplaneError::Full`] if the map is full, [`DataplaneError::Write`] otherwise.
    pub(super) fn write(&mut self, op: &Op) -> Result<(), DataplaneError> {
        let written = match op {
            Op::Endpoint(ifindex, entry) => self.endpoint(*ifindex, *entry),
            Op::PeerV4(key, entry) => put(&mut self.peers_v4, *key, *entry),
            Op::PeerV6(key, entry) => put(&mut self.peers_v6, *key, *entry),
            Op::Tenant(id, state) => self.tenants.set(id.0, *state, 0),
            Op::TenantName(id, name) => put(&mut self.names, *id, *name),
            Op::RowV4(row, value) => self.rows_v4.set(u32::from(*row), **value, 0),
            Op::RowV6(row, value) => self.rows_v6.set(u32::from(*row), **value, 0),
            Op::PortSet(set, value) => self.port_sets.set(u32::from(*set), *value, 0),
            Op::TrieV4(bits, key, grant) => put_prefix(&mut self.trie_v4, 32 + u32::from(*bits), *key, *grant),
            Op::TrieV6(bits, key, grant) => put_prefix(&mut self.trie_v6, 32 + u32::from(*bits), *key, *grant),
            Op::Grant(key, grant) => put(&mut self.grants, *key, *grant),
            Op::OwnerV4(net, owner) => {
                put_prefix(&mut self.owners_v4, u32::from(net.prefix_len()), V4::new(net.network().octets()), *owner)
            }
            Op::OwnerV6(net, owner) => {
                put_prefix(&mut self.owners_v6, u32::from(net.prefix_len()), V6::new(net.network().octets()), *owner)
            }
            Op::Generation(generation) => self.generation(*generation),
        };
        written.map_err(|error| classify(op.table(), error))
    }

    /// Writes the entry of an interface. Indices beyond the array are in a hash. A new claim gets an empty block of the reply
    /// table: entries of the pod that had it before would take the places of its own.
    fn endpoint(&mut self, ifindex: u32, entry: EndpointEntry) -> WriteResult {
        if entry.cookie != 0 && entry.cookie != self.cookie(ifindex)? {
            self.clear_block(reply_table::block(entry.slot, false))?;
        }
        if ifindex < self.endpoints.len() {
            return self.endpoints.set(ifindex, entry, 0);
        }
        put(&mut self.endpoints_far, ifindex, (entry != EndpointEntry::default()).then_some(entry))
    }

    /// The claim that the kernel holds of an interface; 0 for none.
    fn cookie(&self, ifindex: u32) -> Result<u32, MapError> {
        let entry = match ifindex < self.endpoints.len() {
            true => self.endpoints.get(&ifindex, 0),
            false => self.endpoints_far.get(&ifindex, 0),
        };
        match entry {
            Ok(entry) => Ok(entry.cookie),
            Err(MapError::KeyNotFound) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Empties the block of one pod. The common block is other pods' too.
    fn clear_block(&mut self, block: u16) -> WriteResult {
        if block == 0 {
            return Ok(());
        }
        let per_pod = (self.replies.len() - COMMON_BUCKETS) / u32::from(BLOCKS - 1);
        let (first, length) = reply_table::buckets_of(block, per_pod);
        for bucket in first..first + length {
            // Most are empty, and reading one costs no more than writing it.
            if self.replies.get(&bucket, 0)? != ReplyBucket::default() {
                self.replies.set(bucket, ReplyBucket::default(), 0)?;
            }
        }
        Ok(())
    }

    fn generation(&mut self, generation: u64) -> WriteResult {
        let runtime = Runtime { generation, ..self.runtime.get(&0, 0)? };
        self.runtime.set(0, runtime, 0)
    }

    /// Writes the difference between the monotonic clock and the time of day, which grants with an end need.
    ///
    /// # Errors
    /// [`DataplaneError::Write`].
    pub(super) fn set_clock_offset(&mut self, offset_ns: u64) -> Result<(), DataplaneError> {
        let write = |runtime: &mut Array<MapData, Runtime>| {
            let now = runtime.get(&0, 0)?;
            if now.clock_offset_ns == offset_ns {
                return Ok(());
            }
            runtime.set(0, Runtime { clock_offset_ns: offset_ns, ..now }, 0)
        };
        write(&mut self.runtime).map_err(|error| classify(Table::Runtime, error))
    }

    /// Reads every table back.
    ///
    /// # Errors
    /// [`DataplaneError::Load`] with the table.
    pub(super) fn read(&self) -> Result<Actual, DataplaneError> {
        let mut actual = Actual::default();
        Table::ALL.iter().try_for_each(|table| self.read_table(*table, &mut actual))?;
        Ok(actual)
    }

    /// Reads one table back, into `actual`.
    ///
    /// # Errors
    /// [`DataplaneError::Load`] with the table.
    pub(super) fn read_table(&self, table: Table, actual: &mut Actual) -> Result<(), DataplaneError> {
        self.fill_table(table, actual).map_err(|error| DataplaneError::Load { table, source: Box::new(error) })
    }

    fn fill_table(&self, table: Table, actual: &mut Actual) -> Result<(), MapError> {
        match table {
            Table::Endpoints => {
                let near = elements(&self.endpoints)?;
                let far = self.endpoints_far.iter().collect::<Result<Vec<_>, _>>()?;
                actual.endpoints = near.into_iter().chain(far).collect();
            }
            Table::PeersV4 => fill(&mut actual.peers_v4, &self.peers_v4)?,
            Table::PeersV6 => fill(&mut actual.peers_v6, &self.peers_v6)?,
            Table::Tenants => {
                let found = elements(&self.tenants)?.into_iter();
                actual.tenants = found.map(|(id, state)| (TenantId(id), state)).collect();
            }
            Table::TenantNames => fill(&mut actual.names, &self.names)?,
            Table::RowsV4 => {
                let found = elements(&self.rows_v4)?.into_iter();
                actual.rows_v4 = found.map(|(row, value)| (row as u16, Box::new(value))).collect();
            }
            Table::RowsV6 => {
                let found = elements(&self.rows_v6)?.into_iter();
                actual.rows_v6 = found.map(|(row, value)| (row as u16, Box::new(value))).collect();
            }
            Table::PortSets => {
                let found = elements(&self.port_sets)?.into_iter();
                actual.port_sets = found.map(|(set, value)| (set as u16, value)).collect();
            }
            Table::TrieV4 => {
                let found = prefixes(&self.trie_v4)?.into_iter();
                actual.trie_v4 = found.map(|(length, key, grant)| ((key, without_tenant(length)), grant)).collect();
            }
            Table::TrieV6 => {
                let found = prefixes(&self.trie_v6)?.into_iter();
                actual.trie_v6 = found.map(|(length, key, grant)| ((key, without_tenant(length)), grant)).collect();
            }
            Table::Grants => fill(&mut actual.grants, &self.grants)?,
            Table::OwnersV4 => {
                let found = prefixes(&self.owners_v4)?.into_iter();
                let net = |length, net: V4| Ipv4Net::new(net.octets().into(), length as u8).ok();
                actual.owners_v4 = found.filter_map(|(length, at, owner)| Some((net(length, at)?, owner))).collect();
            }
            Table::OwnersV6 => {
                let found = prefixes(&self.owners_v6)?.into_iter();
                let net = |length, net: V6| Ipv6Net::new(net.octets().into(), length as u8).ok();
                actual.owners_v6 = found.filter_map(|(length, at, owner)| Some((net(length, at)?, owner))).collect();
            }
            Table::Runtime => actual.generation = self.runtime.get(&0, 0)?.generation,
        }
        Ok(())
    }
}

/// Bits of a prefix in a trie, whose keys begin with 32 bits of tenant.
fn without_tenant(length: u32) -> u8 {
    length.saturating_sub(32) as u8
}

/// The elements of an array that are not zero.
fn elements<V: Pod + Default + PartialEq>(map: &Array<MapData, V>) -> Result<Vec<(u32, V)>, MapError> {
    let mut found = Vec::new();
    for (index, value) in map.iter().enumerate() {
        let value = value?;
        if value != V::default() {
            found.push((index as u32, value));
        }
    }
    Ok(found)
}

fn fill<K: Pod + Ord, V: Pod>(
    into: &mut std::collections::BTreeMap<K, V>,
    map: &HashMap<MapData, K, V>,
) -> Result<(), MapError> {
    for entry in map.iter() {
        let (key, value) = entry?;
        into.insert(key, value);
    }
    Ok(())
}

fn prefixes<K: Pod, V: Pod>(map: &LpmTrie<MapData, K, V>) -> Result<Vec<(u32, K, V)>, MapError> {
    map.iter().map(|entry| entry.map(|(key, value)| (key.prefix_len(), key.data(), value))).collect()
}

/// Writes or removes one entry; removing an absent entry succeeds.
pub(super) fn put<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, key: K, value: Option<V>) -> WriteResult {
    match value {
        Some(value) => map.insert(key, value, 0),
        None => gone(map.remove(&key)),
    }
}

fn put_prefix<K: Pod, V: Pod>(map: &mut LpmTrie<MapData, K, V>, length: u32, data: K, value: Option<V>) -> WriteResult {
    let key = Key::new(length, data);
    match value {
        Some(value) => map.insert(&key, value, 0),
        None => gone(map.remove(&key)),
    }
}

/// Accepts the removal of an absent entry.
fn gone(removed: WriteResult) -> WriteResult {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// Distinguishes a full table from other errors: a hash returns `E2BIG`, a trie `ENOSPC`, an array `E2BIG` beyond
/// its end.
fn classify(table: Table, error: MapError) -> DataplaneError {
    let full = match &error {
        MapError::SyscallError(error) => {
            matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC))
        }
        MapError::OutOfBounds { .. } => true,
        _ => false,
    };
    if full { DataplaneError::Full(table) } else { DataplaneError::Write { table, source: boxed(error) } }
}

/// Turns any error into a cause.
pub(super) fn boxed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BoxedCause {
    error.into()
}

/// A cause that is only a message.
pub(super) fn message(text: impl Into<String>) -> BoxedCause {
    Box::new(io::Error::other(text.into()))
}
