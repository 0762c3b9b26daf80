//! Every map: who writes it, who reads it, how large it is and what happens when it is full.
//!
//! The agent pins all of them under their names in a directory named after the ABI version, so that
//! they outlive it, and may resize the policy maps at load. Sizes here are the defaults.

use agent_common::addr::{V4, V6};
use agent_common::aggregate::{AGGREGATE_LEN, AggregateEntry, LIMIT_SLOTS, Limit};
use agent_common::conntrack::{ReplyEntry, ReplyKey};
use agent_common::counters::{ALLOWED_LEN, Counter, DENIED_LEN, Loss};
use agent_common::guard::{Guard, PodGroups, Sender};
use agent_common::layout::{
    EndpointEntry, Grant, GrantKey, PeerEntry, PeerKeyV4, PortSet, PrefixGrant, RowV4, RowV6, Runtime, TrieKeyV4,
    TrieKeyV6,
};
use agent_common::summary::PacketSummary;
use agent_common::tenant::{TenantId, TenantName, TenantState};
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};

/// Local pods by interface index. The agent writes; a missing or zero entry denies.
#[map]
pub static ENDPOINTS: Array<EndpointEntry> = Array::with_max_entries(65_536, 0);

/// Local pods whose interface index is beyond the array. Full: such a pod stays denied.
#[map]
pub static ENDPOINTS_FAR: HashMap<u32, EndpointEntry> = HashMap::with_max_entries(4_096, 0);

/// Tenants by number. The agent writes; a zero entry denies.
#[map]
pub static TENANTS: Array<TenantState> = Array::with_max_entries(16_384, 0);

/// Names of tenants. Only agents read it; it is here so that it is pinned with the rest.
#[map]
pub static TENANT_NAMES: HashMap<TenantId, TenantName> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Exact IPv4 addresses: pods, Services, nodes, metadata. Full: what does not fit is unreachable.
#[map]
pub static PEERS_V4: HashMap<PeerKeyV4, PeerEntry> = HashMap::with_max_entries(131_072, 0);

/// Exact IPv6 addresses, as above.
#[map]
pub static PEERS_V6: HashMap<V6, PeerEntry> = HashMap::with_max_entries(131_072, 0);

/// IPv4 prefixes of tenants with few. A row is written while no tenant points at it.
#[map]
pub static ROWS_V4: Array<RowV4> = Array::with_max_entries(2_048, 0);

/// IPv6 prefixes of tenants with few.
#[map]
pub static ROWS_V6: Array<RowV6> = Array::with_max_entries(2_048, 0);

/// IPv4 prefixes of tenants with many. Full: the prefix is not granted.
#[map]
pub static TRIE_V4: LpmTrie<TrieKeyV4, PrefixGrant> = LpmTrie::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// IPv6 prefixes of tenants with many.
#[map]
pub static TRIE_V6: LpmTrie<TrieKeyV6, PrefixGrant> = LpmTrie::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Whose subnet an IPv4 address lies in. Full: the agent grants nobody the ranges that overlap it.
#[map]
pub static OWNERS_V4: LpmTrie<V4, TenantId> = LpmTrie::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Whose subnet an IPv6 address lies in.
#[map]
pub static OWNERS_V6: LpmTrie<V6, TenantId> = LpmTrie::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// What prefixes allow. A set is written before and freed after any prefix names it.
#[map]
pub static PORT_SETS: Array<PortSet> = Array::with_max_entries(4_096, 0);

/// Permissions between tenants. Full: the permission is not granted.
#[map]
pub static GRANTS: HashMap<GrantKey, Grant> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// IPv4 connections whose replies identity cannot justify. The programs write. Full: the least
/// recently used makes room, and its replies are denied until the opener sends again.
#[map]
pub static REPLIES_V4: LruHashMap<ReplyKey<V4>, ReplyEntry> = LruHashMap::with_max_entries(65_536, 0);

/// IPv6 connections, as above.
#[map]
pub static REPLIES_V6: LruHashMap<ReplyKey<V6>, ReplyEntry> = LruHashMap::with_max_entries(65_536, 0);

/// Generation and clock offset.
#[map]
pub static RUNTIME: Array<Runtime> = Array::with_max_entries(1, 0);

/// Allowed packets, by `counters::allowed_index`.
#[map]
pub static ALLOWED: PerCpuArray<Counter> = PerCpuArray::with_max_entries(ALLOWED_LEN, 0);

/// Denied packets, by `counters::denied_index`.
#[map]
pub static DENIED: PerCpuArray<Counter> = PerCpuArray::with_max_entries(DENIED_LEN, 0);

/// What could not be told, by `counters::Loss`.
#[map]
pub static LOSS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::LEN, 0);

/// Denied flows and their counts; the agent sweeps it.
#[map]
pub static DENIED_FLOWS: PerCpuArray<AggregateEntry> = PerCpuArray::with_max_entries(AGGREGATE_LEN, 0);

/// Budgets of records, by endpoint slot.
#[map]
pub static LIMITS: PerCpuArray<Limit> = PerCpuArray::with_max_entries(LIMIT_SLOTS, 0);

/// What is being told of the packet at hand. The programs' own; nobody else reads it.
#[map]
pub static SUMMARY: PerCpuArray<PacketSummary> = PerCpuArray::with_max_entries(1, 0);

/// Records on their way to the agent. Full: the record is lost and counted; its packets are in the
/// counters and in the aggregate table.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// The node's own interfaces, by index: what comes in by them may leave. The agent writes. Full: what
/// comes in by the rest does not leave.
#[map]
pub static OWN: HashMap<u32, u32> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);

/// Addresses of claimed pods, and the interface of each. The agent writes. Full: what the rest sends
/// does not rise from their bridge.
#[map]
pub static SENDERS: HashMap<Sender, u32> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Control groups of claimed pods, by id. The agent writes. Full: sockets of the rest do not speak.
#[map]
pub static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);

/// Where pods' control groups are, and which network is the node's own. The agent writes.
#[map]
pub static POD_GROUPS: Array<PodGroups> = Array::with_max_entries(1, 0);

/// Packets that a guard dropped, by `Guard::index`.
#[map]
pub static GUARD_DROPS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(Guard::LEN, 0);
