//! Which pod has which address: the cluster's index, and the address book of its readers.
//!
//! Cut into slices that are copied when written while a reader still holds the old ones, so a
//! snapshot of a million addresses costs one pointer, and a change one slice of a thousand.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use agent_common::addr::{V4, V6};

use super::pod::{Pod, v4_addr, v6_addr};

/// Slices of each family: few enough that copying the list of them is nothing beside one slice.
pub const SLICES: usize = 1024;

/// Addresses and their pods.
#[derive(Clone, Debug, Default)]
pub struct Book {
    v4: Arc<Slices<V4>>,
    v6: Arc<Slices<V6>>,
}

#[derive(Clone, Debug)]
struct Slices<A> {
    slices: Vec<Arc<BTreeMap<A, Arc<Pod>>>>,
    len: usize,
}

impl<A> Default for Slices<A> {
    fn default() -> Self {
        let empty = Arc::new(BTreeMap::new());
        Self { slices: vec![empty; SLICES], len: 0 }
    }
}

trait Sliced: Copy + Ord {
    fn slice(self) -> usize;
}

impl Sliced for V4 {
    fn slice(self) -> usize {
        (self.0.wrapping_mul(0x9e37_79b9) >> 22) as usize
    }
}

impl Sliced for V6 {
    fn slice(self) -> usize {
        ((self.hi.rotate_left(17) ^ self.lo).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize
    }
}

impl<A: Sliced> Slices<A> {
    fn get(&self, address: A) -> Option<&Arc<Pod>> {
        self.slices.get(address.slice())?.get(&address)
    }

    fn insert(&mut self, address: A, pod: Arc<Pod>) {
        let Some(slice) = self.slices.get_mut(address.slice()) else { return };
        self.len += usize::from(Arc::make_mut(slice).insert(address, pod).is_none());
    }

    fn remove(&mut self, address: A) {
        let Some(slice) = self.slices.get_mut(address.slice()) else { return };
        self.len -= usize::from(Arc::make_mut(slice).remove(&address).is_some());
    }
}

impl Book {
    /// Whose address this is.
    pub fn get(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        match address {
            IpAddr::V4(v4) => self.v4.get(V4::new(v4.octets())),
            IpAddr::V6(v6) => self.v6.get(V6::new(v6.octets())),
        }
    }

    /// Whether nothing changed between two copies of one book.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.v4, &other.v4) && Arc::ptr_eq(&self.v6, &other.v6)
    }

    /// How many addresses are known.
    pub fn len(&self) -> usize {
        self.v4.len + self.v6.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The addresses in one slice, of both families.
    pub fn slice(&self, at: usize) -> impl Iterator<Item = IpAddr> + '_ {
        let v4 = self.v4.slices.get(at).into_iter().flat_map(|slice| slice.keys().map(|a| v4_addr(*a).into()));
        let v6 = self.v6.slices.get(at).into_iter().flat_map(|slice| slice.keys().map(|a| v6_addr(*a).into()));
        v4.chain(v6)
    }

    /// All addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        (0..SLICES).flat_map(|at| self.slice(at))
    }

    pub(super) fn insert(&mut self, address: IpAddr, pod: Arc<Pod>) {
        match address {
            IpAddr::V4(v4) => Arc::make_mut(&mut self.v4).insert(V4::new(v4.octets()), pod),
            IpAddr::V6(v6) => Arc::make_mut(&mut self.v6).insert(V6::new(v6.octets()), pod),
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
    use crate::model::word::Word;

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + n).into()
    }

    fn pod() -> Arc<Pod> {
        Arc::new(Pod::new(Endpoint::default(), Word::from("ns"), None))
    }

    #[test]
    fn a_reader_s_copy_does_not_change() {
        let mut book = Book::default();
        book.insert(address(1), pod());
        let seen = book.clone();
        book.insert(address(2), pod());
        book.remove(address(1));
        assert!(seen.get(address(1)).is_some() && seen.get(address(2)).is_none());
        assert!(book.get(address(1)).is_none() && book.get(address(2)).is_some());
        assert_eq!((seen.len(), book.len()), (1, 1));
    }

    #[test]
    fn neighbours_spread_over_the_slices() {
        let mut book = Book::default();
        (0..100_000).for_each(|n| book.insert(address(n), pod()));
        (0..10_000_u128).for_each(|n| {
            book.insert(std::net::Ipv6Addr::from(0xfd00 << 112 | n << 64 | 5).into(), pod());
        });
        assert_eq!((book.len(), book.addresses().count()), (110_000, 110_000));
        let largest = (0..SLICES).map(|at| book.slice(at).count()).max();
        assert!(largest < Some(300), "{largest:?}");
    }
}
