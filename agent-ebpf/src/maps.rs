//! The maps of [`agent_common::maps`], as the programs use them.
//!
//! Names and sizes come from that table. A map whose name, kernel type, key or value differs from it does not compile.
//! The agent may resize some of them at load.

use agent_common::addr::{V4, V6};
use agent_common::aggregate::{AggregateEntry, EventBudget};
use agent_common::counters::Counter;
use agent_common::guard::cgroup::CgroupConfig;
use agent_common::guard::interface::Sender;
use agent_common::layout::{
    EndpointEntry, Grant, GrantKey, PeerEntry, PeerKeyV4, PortSet, PrefixGrant, RowV4, RowV6, Runtime, TrieKeyV4,
    TrieKeyV6,
};
use agent_common::maps::{self as table, MapKind, MapSpec};
use agent_common::reply_table::ReplyBucket;
use agent_common::summary::PacketSummary;
use agent_common::tenant::{TenantId, TenantName, TenantState};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf};

/// The shape that a type of map gives its key and its value.
trait Shape {
    const KIND: MapKind;
    const KEY: usize;
    const VALUE: usize;
}

macro_rules! shapes {
    ($($map:ident<$($parameter:ident),*> is $kind:ident<$key:ty, $value:ty>;)+) => {
        $(
            impl<$($parameter),*> Shape for $map<$($parameter),*> {
                const KIND: MapKind = MapKind::$kind;
                const KEY: usize = size_of::<$key>();
                const VALUE: usize = size_of::<$value>();
            }
        )+
    };
}

shapes! {
    Array<V> is Array<u32, V>;
    HashMap<K, V> is Hash<K, V>;
    LpmTrie<K, V> is LpmTrie<K, V>;
    PerCpuArray<V> is PerCpuArray<u32, V>;
    RingBuf<> is RingBuf<(), ()>;
}

const fn is_described<M: Shape>(spec: &MapSpec, name: &str) -> bool {
    spec.is_named(name) && spec.is_a(M::KIND, M::KEY, M::VALUE)
}

macro_rules! maps {
    ($($name:ident: $type:ty = $new:path;)+) => {
        $(
            #[map]
            pub(crate) static $name: $type = $new(table::$name.max_entries, table::$name.flags);
            const _: () = assert!(is_described::<$type>(&table::$name, stringify!($name)));
        )+

        const _: () = assert!(table::ALL.len() == [$(stringify!($name)),+].len(), "a map of the table is missing here");
    };
}

maps! {
    ENDPOINTS: Array<EndpointEntry> = Array::with_max_entries;
    ENDPOINTS_FAR: HashMap<u32, EndpointEntry> = HashMap::with_max_entries;
    TENANTS: Array<TenantState> = Array::with_max_entries;
    TENANT_NAMES: HashMap<TenantId, TenantName> = HashMap::with_max_entries;
    PEERS_V4: HashMap<PeerKeyV4, PeerEntry> = HashMap::with_max_entries;
    PEERS_V6: HashMap<V6, PeerEntry> = HashMap::with_max_entries;
    ROWS_V4: Array<RowV4> = Array::with_max_entries;
    ROWS_V6: Array<RowV6> = Array::with_max_entries;
    TRIE_V4: LpmTrie<TrieKeyV4, PrefixGrant> = LpmTrie::with_max_entries;
    TRIE_V6: LpmTrie<TrieKeyV6, PrefixGrant> = LpmTrie::with_max_entries;
    OWNERS_V4: LpmTrie<V4, TenantId> = LpmTrie::with_max_entries;
    OWNERS_V6: LpmTrie<V6, TenantId> = LpmTrie::with_max_entries;
    PORT_SETS: Array<PortSet> = Array::with_max_entries;
    GRANTS: HashMap<GrantKey, Grant> = HashMap::with_max_entries;
    REPLIES: Array<ReplyBucket> = Array::with_max_entries;
    RUNTIME: Array<Runtime> = Array::with_max_entries;
    ALLOWED: PerCpuArray<Counter> = PerCpuArray::with_max_entries;
    DENIED: PerCpuArray<Counter> = PerCpuArray::with_max_entries;
    LOSS: PerCpuArray<u64> = PerCpuArray::with_max_entries;
    DENIED_FLOWS: PerCpuArray<AggregateEntry> = PerCpuArray::with_max_entries;
    EVENT_BUDGETS: PerCpuArray<EventBudget> = PerCpuArray::with_max_entries;
    SUMMARY: PerCpuArray<PacketSummary> = PerCpuArray::with_max_entries;
    NODE_IFACES: HashMap<u32, u32> = HashMap::with_max_entries;
    SENDERS: HashMap<Sender, u32> = HashMap::with_max_entries;
    POD_CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries;
    CGROUP_CONFIG: Array<CgroupConfig> = Array::with_max_entries;
    GUARD_DROPS: PerCpuArray<Counter> = PerCpuArray::with_max_entries;
    EVENTS: RingBuf = RingBuf::with_byte_size;
}
