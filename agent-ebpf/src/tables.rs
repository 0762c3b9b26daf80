//! `Tables` over the maps.

#![allow(unsafe_code)]

use agent_common::access::{Access, Range, RemoteIdentity, Tables};
use agent_common::addr::{V4, V6};
use agent_common::conntrack::{Opener, ReplyEntry, ReplyKey, ReplyState};
use agent_common::counters::Loss;
use agent_common::layout::{
    EndpointEntry, Grant, GrantKey, PeerEntry, PeerKeyV4, PortSet, PrefixGrant, RowV4, RowV6, Runtime, TrieKeyV4,
    TrieKeyV6,
};
use agent_common::query::Query;
use agent_common::tenant::{TenantId, TenantState};
use agent_common::verdict::Verdict;
use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_ktime_get_coarse_ns};
use aya_ebpf::maps::lpm_trie::Key;

use crate::{global_fns, maps, report};

/// Whether the kernel has `bpf_ktime_get_coarse_ns` (5.11), which costs a tenth. Set at load.
#[unsafe(no_mangle)]
static COARSE_CLOCK: u32 = 0;

/// The kernel's maps.
pub struct Maps;

impl Maps {
    /// The local pod behind an interface. The verifier follows what comes after once for each of the
    /// two maps; a copy would cost a stack that is short.
    #[inline(always)]
    pub fn endpoint(ifindex: u32) -> Option<&'static EndpointEntry> {
        match maps::ENDPOINTS.get(ifindex) {
            Some(entry) => Some(entry),
            // SAFETY: values are replaced whole, never edited in bucket, and freed after a grace
            // period that cannot end while this program runs.
            None => unsafe { maps::ENDPOINTS_FAR.get(ifindex) },
        }
    }

    /// A tenant's state; the zero value if no agent has written one.
    #[inline(always)]
    pub fn tenant(id: TenantId) -> TenantState {
        match maps::TENANTS.get(id.0) {
            Some(state) if state.has(TenantState::VALID) => *state,
            _ => TenantState::default(),
        }
    }

    /// Monotonic nanoseconds, at the resolution of a timer tick where the kernel can.
    #[inline(always)]
    pub fn now() -> u64 {
        // SAFETY: reads a constant that the loader sets before the map is frozen; the volatile read
        // keeps the compiler from assuming the value in the object.
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
    fn runtime() -> Runtime {
        maps::RUNTIME.get(0).copied().unwrap_or_default()
    }
}

macro_rules! shared {
    () => {
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

    #[inline(always)]
    fn reply(&self, key: &ReplyKey<V4>) -> Option<ReplyEntry> {
        // SAFETY: an entry may be replaced while it is copied; its words are then of two moments of
        // the same connection, of which neither permits what the other would not.
        unsafe { maps::REPLIES_V4.get(key) }.copied()
    }

    #[inline(always)]
    fn insert_reply(&self, key: &ReplyKey<V4>, entry: ReplyEntry) {
        if maps::REPLIES_V4.insert(key, entry, 0).is_err() {
            report::lose(Loss::Remember, 1);
        }
    }

    #[inline(always)]
    fn range(&self, query: &Query<V4>) -> Range {
        global_fns::call_range_v4(query)
    }

    #[inline(always)]
    fn access(&self, query: &Query<V4>, identity: RemoteIdentity) -> Access {
        global_fns::call_access_v4(query, identity)
    }

    #[inline(always)]
    fn egress(&self, query: &Query<V4>, identity: RemoteIdentity) -> Verdict {
        global_fns::call_egress_v4(query, identity)
    }

    #[inline(always)]
    fn ingress(&self, query: &Query<V4>, identity: RemoteIdentity) -> Verdict {
        global_fns::call_ingress_v4(query, identity)
    }

    #[inline(always)]
    fn lookup_reply(&self, query: &Query<V4>, opener: Opener, reply: bool, generation: u64) -> ReplyState {
        global_fns::call_lookup_reply_v4(query, opener, reply, generation)
    }

    #[inline(always)]
    fn record(&self, query: &Query<V4>, opener: Opener, reply: bool, generation: u64) {
        global_fns::call_record_v4(query, opener, reply, generation);
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

    #[inline(always)]
    fn reply(&self, key: &ReplyKey<V6>) -> Option<ReplyEntry> {
        // SAFETY: as for IPv4.
        unsafe { maps::REPLIES_V6.get(key) }.copied()
    }

    #[inline(always)]
    fn insert_reply(&self, key: &ReplyKey<V6>, entry: ReplyEntry) {
        if maps::REPLIES_V6.insert(key, entry, 0).is_err() {
            report::lose(Loss::Remember, 1);
        }
    }

    #[inline(always)]
    fn range(&self, query: &Query<V6>) -> Range {
        global_fns::call_range_v6(query)
    }

    #[inline(always)]
    fn access(&self, query: &Query<V6>, identity: RemoteIdentity) -> Access {
        global_fns::call_access_v6(query, identity)
    }

    #[inline(always)]
    fn egress(&self, query: &Query<V6>, identity: RemoteIdentity) -> Verdict {
        global_fns::call_egress_v6(query, identity)
    }

    #[inline(always)]
    fn ingress(&self, query: &Query<V6>, identity: RemoteIdentity) -> Verdict {
        global_fns::call_ingress_v6(query, identity)
    }

    #[inline(always)]
    fn lookup_reply(&self, query: &Query<V6>, opener: Opener, reply: bool, generation: u64) -> ReplyState {
        global_fns::call_lookup_reply_v6(query, opener, reply, generation)
    }

    #[inline(always)]
    fn record(&self, query: &Query<V6>, opener: Opener, reply: bool, generation: u64) {
        global_fns::call_record_v6(query, opener, reply, generation);
    }

    shared!();
}
