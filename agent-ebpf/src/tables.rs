//! [`Tables`] over the maps, and the lookups that need no query.
//!
//! Holds no rule; [`crate::global_fns`] adds those. A missing entry reads as the zero value, which denies.

#![allow(unsafe_code)]

use agent_common::addr::{V4, V6};
use agent_common::conntrack::{ReplyEntry, ReplyKey};
use agent_common::counters::Loss;
use agent_common::layout::{
    EndpointEntry, Grant, GrantKey, PeerEntry, PeerKeyV4, PortSet, PrefixGrant, RowV4, RowV6, Runtime, TrieKeyV4,
    TrieKeyV6,
};
use agent_common::reply_table::{self, BUCKET_LEN, CONNECTIONS_PER_POD, HashedKey, Placement};
use agent_common::tables::Tables;
use agent_common::tenant::{TenantId, TenantState};
use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_ktime_get_coarse_ns};
use aya_ebpf::maps::lpm_trie::Key;

use crate::{loss, maps};

/// Whether the kernel has `bpf_ktime_get_coarse_ns` (5.11), which costs a tenth of the exact clock. Set at load.
#[unsafe(no_mangle)]
static COARSE_CLOCK: u32 = 0;

/// Buckets in the block of one pod in the reply table. Set at load.
#[unsafe(no_mangle)]
static BUCKETS_PER_POD: u32 = reply_table::buckets_per_pod(CONNECTIONS_PER_POD);

/// Loads a word that another CPU may write meanwhile.
#[inline(always)]
fn read_once(word: &u64) -> u64 {
    // SAFETY: a reference is valid and aligned. The kernel loads an aligned word at once.
    unsafe { core::ptr::read_volatile(word) }
}

/// The kernel's maps.
pub(crate) struct Maps;

impl Maps {
    /// The local pod behind an interface. The verifier checks the code after this call once for each of the two maps. A
    /// copy of the entry would avoid that, but needs too much of the stack.
    #[inline(always)]
    pub(crate) fn endpoint(ifindex: u32) -> Option<&'static EndpointEntry> {
        match maps::ENDPOINTS.get(ifindex) {
            Some(entry) => Some(entry),
            // SAFETY: values are replaced whole, never edited in place, and freed after a grace period that cannot end
            // while this program runs.
            None => unsafe { maps::ENDPOINTS_FAR.get(ifindex) },
        }
    }

    /// A tenant's state; the zero value if no agent has written one.
    #[inline(always)]
    pub(crate) fn tenant(id: TenantId) -> TenantState {
        match maps::TENANTS.get(id.0) {
            Some(state) if state.has(TenantState::VALID) => *state,
            _ => TenantState::default(),
        }
    }

    /// Monotonic nanoseconds; at the resolution of a timer tick if the kernel offers that clock.
    #[inline(always)]
    pub(crate) fn now() -> u64 {
        // SAFETY: reads a constant that the loader sets before the map is frozen. The volatile read keeps the compiler
        // from assuming the value in the object.
        let coarse = unsafe { core::ptr::read_volatile(&raw const COARSE_CLOCK) };
        if coarse != 0 {
            // SAFETY: no arguments; the loader has checked that the helper exists.
            unsafe { bpf_ktime_get_coarse_ns() }
        } else {
            // SAFETY: no arguments.
            unsafe { bpf_ktime_get_ns() }
        }
    }

    #[inline(always)]
    fn grant(key: &GrantKey) -> Option<Grant> {
        // SAFETY: as for `endpoint`.
        unsafe { maps::GRANTS.get(key) }.copied()
    }

    #[inline(always)]
    fn reply(key: &ReplyKey) -> Option<ReplyEntry> {
        let hashed = HashedKey::new(key);
        let [one, other] = hashed.buckets(key.block, Self::buckets_per_pod());
        Self::entry(one, &hashed).or_else(|| Self::entry(other, &hashed))
    }

    #[inline(always)]
    fn entry(index: u32, key: &HashedKey) -> Option<ReplyEntry> {
        let bucket = maps::REPLIES.get(index)?;
        bucket.entry(key, find_reply(index, key.hash) as usize, read_once)
    }

    /// Writes an entry over that of the same connection, or to the place that costs least.
    #[inline(always)]
    fn insert_reply(key: &ReplyKey, entry: ReplyEntry, now_ns: u64) {
        let hashed = HashedKey::new(key);
        let [one, other] = hashed.buckets(key.block, Self::buckets_per_pod());
        let (bucket, place) = match Self::find(one, other, hashed.hash) {
            (_, BUCKET_LEN) => Self::free_place(one, other, now_ns),
            found => found,
        };
        let Some(bucket) = maps::REPLIES.get_ptr_mut(bucket) else { return };
        // SAFETY: the pointer is to a live value of an array, which is never freed. Other CPUs may write it too; entries
        // prove by their seal that they are whole.
        let bucket = unsafe { &mut *bucket };
        if let Some(stored) = bucket.entries.get_mut(place) {
            stored.write(&hashed, entry);
        }
    }

    /// Writes expiry and flags of an entry that exists.
    #[inline(always)]
    fn refresh_reply(key: &ReplyKey, entry: ReplyEntry) {
        let hashed = HashedKey::new(key);
        let [one, other] = hashed.buckets(key.block, Self::buckets_per_pod());
        let (bucket, place) = Self::find(one, other, hashed.hash);
        let Some(bucket) = maps::REPLIES.get_ptr_mut(bucket) else { return };
        // SAFETY: as for `insert_reply`.
        let bucket = unsafe { &mut *bucket };
        if let Some(stored) = bucket.entries.get_mut(place) {
            stored.refresh(entry);
        }
    }

    /// The bucket and the place of the entry with this hash; [`BUCKET_LEN`] if neither bucket has one.
    #[inline(always)]
    fn find(one: u32, other: u32, hash: u64) -> (u32, usize) {
        match find_reply(one, hash) as usize {
            BUCKET_LEN => (other, find_reply(other, hash) as usize),
            place => (one, place),
        }
    }

    /// The place of a new connection: its bucket, and its index there. If a connection in use loses it, that is counted.
    #[inline(always)]
    fn free_place(one: u32, other: u32, now_ns: u64) -> (u32, usize) {
        let [first, second] = [one, other].map(|bucket| Placement::from_bits(free_place(bucket, now_ns)));
        let (bucket, place) = if second.is_better_than(first) { (other, second) } else { (one, first) };
        if place.evicts() {
            loss::count(Loss::ReplyEvicted, 1);
        }
        (bucket, place.index())
    }

    /// Buckets in the block of one pod.
    #[inline(always)]
    fn buckets_per_pod() -> u32 {
        // SAFETY: as for `COARSE_CLOCK`.
        unsafe { core::ptr::read_volatile(&raw const BUCKETS_PER_POD) }
    }

    #[inline(always)]
    fn runtime() -> Runtime {
        maps::RUNTIME.get(0).copied().unwrap_or_default()
    }
}

/// The place in a bucket of the entry with this hash. A global function, as in [`crate::global_fns`].
// SAFETY: the name is taken by nothing else in the object.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_reply(bucket: u32, hash: u64) -> u64 {
    maps::REPLIES.get(bucket).map_or(BUCKET_LEN, |bucket| bucket.find(hash, read_once)) as u64
}

/// See [`agent_common::reply_table::ReplyBucket::place`]. A global function too.
// SAFETY: as above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn free_place(bucket: u32, now_ns: u64) -> u64 {
    maps::REPLIES.get(bucket).map_or(u64::MAX, |bucket| bucket.place(now_ns).bits())
}

macro_rules! shared {
    () => {
        #[inline(always)]
        fn reply(&self, key: &ReplyKey) -> Option<ReplyEntry> {
            Maps::reply(key)
        }

        #[inline(always)]
        fn insert_reply(&self, key: &ReplyKey, entry: ReplyEntry, now_ns: u64) {
            Maps::insert_reply(key, entry, now_ns);
        }

        #[inline(always)]
        fn refresh_reply(&self, key: &ReplyKey, entry: ReplyEntry) {
            Maps::refresh_reply(key, entry);
        }

        #[inline(always)]
        fn at_v4(&self, address: V4) -> (Option<PeerEntry>, Option<TenantId>) {
            (Tables::<V4>::peer(self, address), Tables::<V4>::owner(self, address))
        }

        #[inline(always)]
        fn grant(&self, key: &GrantKey) -> Option<Grant> {
            Maps::grant(key)
        }

        #[inline(always)]
        fn port_set(&self, set: u16) -> Option<&PortSet> {
            maps::PORT_SETS.get(u32::from(set))
        }

        #[inline(always)]
        fn runtime(&self) -> Runtime {
            Maps::runtime()
        }

        #[inline(always)]
        fn now_ns(&self) -> u64 {
            Maps::now()
        }
    };
}

impl Tables<V4> for Maps {
    #[inline(always)]
    fn peer(&self, address: V4) -> Option<PeerEntry> {
        // SAFETY: as for `endpoint`.
        unsafe { maps::PEERS_V4.get(PeerKeyV4 { network: 0, address }) }.copied()
    }

    #[inline(always)]
    fn row(&self, row: u16) -> Option<&RowV4> {
        maps::ROWS_V4.get(u32::from(row))
    }

    #[inline(always)]
    fn trie(&self, tenant: TenantId, net: V4) -> PrefixGrant {
        maps::TRIE_V4.get(Key::new(64, TrieKeyV4 { tenant, net })).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn owner(&self, address: V4) -> Option<TenantId> {
        maps::OWNERS_V4.get(Key::new(32, address)).copied()
    }

    shared!();
}

impl Tables<V6> for Maps {
    #[inline(always)]
    fn peer(&self, address: V6) -> Option<PeerEntry> {
        // SAFETY: as for `endpoint`.
        unsafe { maps::PEERS_V6.get(address) }.copied()
    }

    #[inline(always)]
    fn row(&self, row: u16) -> Option<&RowV6> {
        maps::ROWS_V6.get(u32::from(row))
    }

    #[inline(always)]
    fn trie(&self, tenant: TenantId, net: V6) -> PrefixGrant {
        maps::TRIE_V6.get(Key::new(160, TrieKeyV6 { tenant, net })).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn owner(&self, address: V6) -> Option<TenantId> {
        maps::OWNERS_V6.get(Key::new(128, address)).copied()
    }

    shared!();
}
