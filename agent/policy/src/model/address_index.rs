//! What has which address: one index for pods, one for Services.
//!
//! The index is cut into shards. A writer copies a shard only while a reader still holds the old one. So a snapshot of
//! a million addresses costs one pointer, and a change copies one shard of a thousand.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use agent_common::addr::{V4, V6};

use super::pod::{v4_addr, v6_addr};

/// Shards of each family: few enough that copying their list is cheap beside copying one shard.
pub const SHARDS: usize = 1024;

/// Addresses and what has them. Copies share their contents.
#[derive(Debug)]
pub struct AddressIndex<T> {
    v4: Arc<Shards<V4, T>>,
    v6: Arc<Shards<V6, T>>,
}

impl<T> Clone for AddressIndex<T> {
    fn clone(&self) -> Self {
        Self { v4: Arc::clone(&self.v4), v6: Arc::clone(&self.v6) }
    }
}

impl<T> Default for AddressIndex<T> {
    fn default() -> Self {
        Self { v4: Arc::default(), v6: Arc::default() }
    }
}

#[derive(Debug)]
struct Shards<A, T> {
    shards: Vec<Arc<BTreeMap<A, Arc<T>>>>,
    len: usize,
}

impl<A, T> Clone for Shards<A, T> {
    fn clone(&self) -> Self {
        Self { shards: self.shards.clone(), len: self.len }
    }
}

impl<A, T> Default for Shards<A, T> {
    fn default() -> Self {
        let empty = Arc::new(BTreeMap::new());
        Self { shards: vec![empty; SHARDS], len: 0 }
    }
}

trait Sharded: Copy + Ord {
    fn shard(self) -> usize;
}

impl Sharded for V4 {
    fn shard(self) -> usize {
        (self.0.wrapping_mul(0x9e37_79b9) >> 22) as usize
    }
}

impl Sharded for V6 {
    fn shard(self) -> usize {
        ((self.hi.rotate_left(17) ^ self.lo).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize
    }
}

impl<A: Sharded, T> Shards<A, T> {
    fn get(&self, address: A) -> Option<&Arc<T>> {
        self.shards.get(address.shard())?.get(&address)
    }

    fn insert(&mut self, address: A, value: Arc<T>) {
        let Some(shard) = self.shards.get_mut(address.shard()) else { return };
        self.len += usize::from(Arc::make_mut(shard).insert(address, value).is_none());
    }

    fn remove(&mut self, address: A) {
        let Some(shard) = self.shards.get_mut(address.shard()) else { return };
        self.len -= usize::from(Arc::make_mut(shard).remove(&address).is_some());
    }
}

impl<T> AddressIndex<T> {
    /// What has this address.
    pub fn get(&self, address: IpAddr) -> Option<&Arc<T>> {
        match address {
            IpAddr::V4(v4) => self.v4.get(V4::new(v4.octets())),
            IpAddr::V6(v6) => self.v6.get(V6::new(v6.octets())),
        }
    }

    /// Whether two copies of one index share their contents, so that nothing changed between them.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.v4, &other.v4) && Arc::ptr_eq(&self.v6, &other.v6)
    }

    /// How many addresses are known.
    pub fn len(&self) -> usize {
        self.v4.len + self.v6.len
    }

    /// Whether no address is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The addresses in one shard, of both families.
    pub fn shard(&self, at: usize) -> impl Iterator<Item = IpAddr> + '_ {
        let v4 = self.v4.shards.get(at).into_iter().flat_map(|shard| shard.keys().map(|a| v4_addr(*a).into()));
        let v6 = self.v6.shards.get(at).into_iter().flat_map(|shard| shard.keys().map(|a| v6_addr(*a).into()));
        v4.chain(v6)
    }

    /// All addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        (0..SHARDS).flat_map(|at| self.shard(at))
    }

    pub(super) fn insert(&mut self, address: IpAddr, value: Arc<T>) {
        match address {
            IpAddr::V4(v4) => Arc::make_mut(&mut self.v4).insert(V4::new(v4.octets()), value),
            IpAddr::V6(v6) => Arc::make_mut(&mut self.v6).insert(V6::new(v6.octets()), value),
        }
    }

    pub(super) fn remove(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => Arc::make_mut(&mut self.v4).remove(V4::new(v4.octets())),
            IpAddr::V6(v6) => Arc::make_mut(&mut self.v6).remove(V6::new(v6.octets())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::Endpoint;
    use crate::model::name::Name;
    use crate::model::pod::Pod;

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + n).into()
    }

    fn pod() -> Arc<Pod> {
        Arc::new(Pod::new(Endpoint::default(), Name::from("ns"), None))
    }

    #[test]
    fn a_copy_that_a_reader_holds_does_not_change() {
        let mut address_index = AddressIndex::default();
        address_index.insert(address(1), pod());
        let seen = address_index.clone();
        address_index.insert(address(2), pod());
        address_index.remove(address(1));
        assert!(seen.get(address(1)).is_some() && seen.get(address(2)).is_none());
        assert!(address_index.get(address(1)).is_none() && address_index.get(address(2)).is_some());
        assert_eq!((seen.len(), address_index.len()), (1, 1));
    }

    #[test]
    fn adjacent_addresses_spread_over_the_shards() {
        let mut address_index = AddressIndex::default();
        (0..100_000).for_each(|n| address_index.insert(address(n), pod()));
        (0..10_000_u128).for_each(|n| {
            address_index.insert(std::net::Ipv6Addr::from(0xfd00 << 112 | n << 64 | 5).into(), pod());
        });
        assert_eq!((address_index.len(), address_index.addresses().count()), (110_000, 110_000));
        let largest = (0..SHARDS).map(|at| address_index.shard(at).count()).max();
        assert!(largest < Some(300), "{largest:?}");
    }
}
