//! Every map of the kernel programs, as one table: name, kernel type, sizes, writer, and what a full map means.
//!
//! The programs, the loader, the model's limits and `docs/reference/maps.md` all read this table. It knows no map
//! handle. A map's name is the name of its constant here, and the name of its pin.

use crate::addr::{V4, V6};
use crate::aggregate::{AGGREGATE_LEN, AggregateEntry, BUDGETS, EventBudget};
use crate::counters::{ALLOWED_LEN, Counter, DENIED_LEN, Loss};
use crate::guard::Guard;
use crate::guard::cgroup::CgroupConfig;
use crate::guard::interface::Sender;
use crate::layout::{
    EndpointEntry, Grant, GrantKey, PeerEntry, PeerKeyV4, PortSet, PrefixGrant, RowV4, RowV6, Runtime, TrieKeyV4,
    TrieKeyV6,
};
use crate::reply_table::{self, CONNECTIONS_PER_POD, ReplyBucket};
use crate::summary::PacketSummary;
use crate::tenant::{TenantId, TenantName, TenantState};

/// `BPF_F_NO_PREALLOC`: the kernel allocates an entry when it is written.
pub const NO_PREALLOC: u32 = 1;

/// The kernel's type of a map (`BPF_MAP_TYPE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_ARRAY`.
    Array,
    /// `BPF_MAP_TYPE_HASH`.
    Hash,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    LpmTrie,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray,
    /// `BPF_MAP_TYPE_RINGBUF`; its size is in bytes.
    RingBuf,
}

impl MapKind {
    /// Bytes of a key whose data has `data` bytes: the key of a trie begins with its prefix length.
    const fn key(self, data: usize) -> u32 {
        match self {
            Self::LpmTrie => 4 + data as u32,
            _ => data as u32,
        }
    }
}

/// Who writes a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapWriter {
    /// The agent writes, the programs read.
    Agent,
    /// The programs write, the agent reads.
    Programs,
    /// The programs write and read. The map is not pinned, because no other process reads it.
    Scratch,
}

/// The flag of `bulkhead run` that sets the size of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeFlag {
    /// `--max-peers`.
    Peers,
    /// `--connections-per-pod`.
    Connections,
}

impl SizeFlag {
    /// The flag as it is typed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Peers => "--max-peers",
            Self::Connections => "--connections-per-pod",
        }
    }
}

/// One map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Name, at most 15 characters: the kernel keeps no more.
    pub name: &'static str,
    /// What it holds, in one sentence.
    pub holds: &'static str,
    /// Its type in the kernel.
    pub kind: MapKind,
    /// Bytes of a key; 0 for a ring buffer.
    pub key: u32,
    /// Bytes of a value; 0 for a ring buffer.
    pub value: u32,
    /// Entries it can hold by default; bytes, for a ring buffer.
    pub max_entries: u32,
    /// Flags at creation: 0 or [`NO_PREALLOC`].
    pub flags: u32,
    /// Who writes it.
    pub writer: MapWriter,
    /// The flag that sets its size, if there is one.
    pub size_flag: Option<SizeFlag>,
    /// What happens when it is full, in one sentence.
    pub when_full: &'static str,
}

impl MapSpec {
    /// Whether it outlives the agent under its pin.
    pub const fn is_pinned(&self) -> bool {
        !matches!(self.writer, MapWriter::Scratch)
    }

    /// Whether a map of this kind, with key data and values of these sizes, is this map.
    pub const fn is_a(&self, kind: MapKind, key: usize, value: usize) -> bool {
        self.kind as u32 == kind as u32 && self.key == kind.key(key) && self.value == value as u32
    }

    /// Whether this is its name.
    pub const fn is_named(&self, name: &str) -> bool {
        let (ours, other) = (self.name.as_bytes(), name.as_bytes());
        let mut i = 0;
        while i < ours.len() && i < other.len() && ours[i] == other[i] {
            i += 1;
        }
        i == ours.len() && i == other.len()
    }
}

macro_rules! size_flag {
    () => {
        None
    };
    ($flag:ident) => {
        Some(SizeFlag::$flag)
    };
}

macro_rules! maps {
    ($(
        $holds:literal
        $name:ident: $kind:ident<$key:ty, $value:ty>[$entries:expr, $flags:expr] by $writer:ident $(, $flag:ident)?;
        $full:literal
    )+) => {
        $(
            #[doc = $holds]
            pub const $name: MapSpec = MapSpec {
                name: stringify!($name),
                holds: $holds,
                kind: MapKind::$kind,
                key: MapKind::$kind.key(size_of::<$key>()),
                value: size_of::<$value>() as u32,
                max_entries: $entries,
                flags: $flags,
                writer: MapWriter::$writer,
                size_flag: size_flag!($($flag)?),
                when_full: $full,
            };
        )+

        /// Every map.
        pub const ALL: &[MapSpec] = &[$($name),+];
    };
}

maps! {
    "Local pods by interface index. A missing or zero entry denies."
    ENDPOINTS: Array<u32, EndpointEntry>[65_536, 0] by Agent;
    "Never full: a pod with a higher index is in `ENDPOINTS_FAR`."

    "Local pods whose interface index is beyond `ENDPOINTS`."
    ENDPOINTS_FAR: Hash<u32, EndpointEntry>[4_096, 0] by Agent;
    "The pod stays denied."

    "Tenants by number. A zero entry denies."
    TENANTS: Array<u32, TenantState>[16_384, 0] by Agent;
    "The tenant gets no number, and its pods stay denied."

    "Names of tenants, for agents that start later and for `explain`."
    TENANT_NAMES: Hash<TenantId, TenantName>[16_384, NO_PREALLOC] by Agent;
    "The tenant gets no number, and its pods stay denied."

    "Exact IPv4 addresses of pods, Services, nodes and metadata services."
    PEERS_V4: Hash<PeerKeyV4, PeerEntry>[131_072, 0] by Agent, Peers;
    "Connections to the address are denied."

    "Exact IPv6 addresses of pods, Services, nodes and metadata services."
    PEERS_V6: Hash<V6, PeerEntry>[131_072, 0] by Agent, Peers;
    "Connections to the address are denied."

    "IPv4 prefixes of tenants with at most 16. A row is written while no tenant points at it."
    ROWS_V4: Array<u32, RowV4>[2_048, 0] by Agent;
    "The tenant's prefixes are not granted."

    "IPv6 prefixes of tenants with at most 16. A row is written while no tenant points at it."
    ROWS_V6: Array<u32, RowV6>[2_048, 0] by Agent;
    "The tenant's prefixes are not granted."

    "IPv4 prefixes of tenants with more than 16."
    TRIE_V4: LpmTrie<TrieKeyV4, PrefixGrant>[65_536, NO_PREALLOC] by Agent;
    "The prefix is not granted."

    "IPv6 prefixes of tenants with more than 16."
    TRIE_V6: LpmTrie<TrieKeyV6, PrefixGrant>[65_536, NO_PREALLOC] by Agent;
    "The prefix is not granted."

    "The owner of each IPv4 data subnet and cluster range."
    OWNERS_V4: LpmTrie<V4, TenantId>[65_536, NO_PREALLOC] by Agent;
    "No tenant is granted a range that overlaps the subnet."

    "The owner of each IPv6 data subnet and cluster range."
    OWNERS_V6: LpmTrie<V6, TenantId>[65_536, NO_PREALLOC] by Agent;
    "No tenant is granted a range that overlaps the subnet."

    "Ports that prefixes allow. A set is written before a prefix names it, and freed after."
    PORT_SETS: Array<u32, PortSet>[4_096, 0] by Agent;
    "The prefix is not granted."

    "Permissions between two tenants."
    GRANTS: Hash<GrantKey, Grant>[16_384, NO_PREALLOC] by Agent;
    "The permission is not granted."

    "Connections whose replies the remote identity alone does not allow. Each pod has a block of buckets."
    REPLIES: Array<u32, ReplyBucket>[reply_table::bucket_count(CONNECTIONS_PER_POD), 0] by Programs, Connections;
    "The least used connection of the pod in two buckets loses its entry; its replies are denied until its opener sends again."

    "The generation of the policy, and the offset of the clock."
    RUNTIME: Array<u32, Runtime>[1, 0] by Agent;
    "Never full: it has one entry."

    "Allowed packets, by tenant slot and direction."
    ALLOWED: PerCpuArray<u32, Counter>[ALLOWED_LEN, 0] by Programs;
    "A tenant without a slot is counted in slot 0."

    "Denied packets, by tenant slot, direction, mode and drop reason."
    DENIED: PerCpuArray<u32, Counter>[DENIED_LEN, 0] by Programs;
    "A tenant without a slot is counted in slot 0."

    "Losses: records and connections that the programs could not keep."
    LOSS: PerCpuArray<u32, u64>[Loss::LEN, 0] by Programs;
    "Never full: each kind of loss has its entry."

    "Denied flows with their counts. The agent reads all of them regularly."
    DENIED_FLOWS: PerCpuArray<u32, AggregateEntry>[AGGREGATE_LEN, 0] by Programs;
    "A flow of the same tenant replaces the one before, whose unreported packets are counted as a loss."

    "Budgets of records, by the event slot of a pod, and by the slot of a tenant after those."
    EVENT_BUDGETS: PerCpuArray<u32, EventBudget>[BUDGETS, 0] by Programs;
    "A pod without a slot shares slot 0."

    "The summary of the denied packet at hand."
    SUMMARY: PerCpuArray<u32, PacketSummary>[1, 0] by Scratch;
    "Never full: it has one entry."

    "The node's own interfaces by index. Packets that arrived by them may leave the node."
    NODE_IFACES: Hash<u32, u32>[4_096, NO_PREALLOC] by Agent;
    "Packets that arrived by the other interfaces do not leave the node."

    "Addresses of claimed pods, with the interface of each, for the bridge guard."
    SENDERS: Hash<Sender, u32>[16_384, NO_PREALLOC] by Agent;
    "Packets from the remaining pods are dropped at the bridge."

    "Cgroups of claimed pods by id, for the cgroup guard."
    POD_CGROUPS: Hash<u64, u32>[4_096, NO_PREALLOC] by Agent;
    "Packets from sockets of the remaining pods are dropped."

    "The cgroup that holds the cgroups of all pods, and the node's network namespace."
    CGROUP_CONFIG: Array<u32, CgroupConfig>[1, 0] by Agent;
    "Never full: it has one entry."

    "Packets that a guard dropped, by guard and drop reason."
    GUARD_DROPS: PerCpuArray<u32, Counter>[Guard::LEN, 0] by Programs;
    "Never full: each guard and reason has its entry."

    "Records on their way to the agent."
    EVENTS: RingBuf<(), ()>[1 << 20, 0] by Programs;
    "The record is lost and counted; its packets stay in the counters."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_the_kernel() {
        for (index, map) in ALL.iter().enumerate() {
            assert!(map.name.len() <= 15, "{}", map.name);
            assert!(ALL[..index].iter().all(|other| other.name != map.name), "{}", map.name);
            assert!(map.is_named(map.name) && !map.is_named("PEERS") && !map.is_named("PEERS_V44"));
        }
    }

    #[test]
    fn sentences_are_whole_and_sizes_are_not_zero() {
        for map in ALL {
            assert!(map.holds.ends_with('.') && map.when_full.ends_with('.'), "{}", map.name);
            assert!(map.max_entries > 0 && (map.kind == MapKind::RingBuf) == (map.value == 0), "{}", map.name);
        }
    }

    #[test]
    fn every_trie_is_allocated_on_demand() {
        for map in ALL.iter().filter(|map| map.kind == MapKind::LpmTrie) {
            assert_eq!(map.flags, NO_PREALLOC, "{}: the kernel makes no other trie", map.name);
        }
    }
}
