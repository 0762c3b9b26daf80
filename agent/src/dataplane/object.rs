//! The embedded programs: loading them, and refusing maps of another layout.
//!
//! Knows names and sizes of maps, not their meaning.

use std::path::{Path, PathBuf};

use agent_common::addr::{V4, V6};
use agent_common::aggregate::{AGGREGATE_LEN, AggregateEntry, LIMIT_SLOTS, Limit};
use agent_common::conntrack::{ReplyEntry, ReplyKey};
use agent_common::counters::{ALLOWED_LEN, Counter, DENIED_LEN, Loss};
use agent_common::guard::{Guard, PodGroups, Sender};
use agent_common::layout::{
    EndpointEntry, Grant, GrantKey, PeerEntry, PeerKeyV4, PortSet, PrefixGrant, RowV4, RowV6, Runtime, TrieKeyV4,
    TrieKeyV6,
};
use agent_common::tenant::{TenantId, TenantName, TenantState};
use aya::maps::{Map, MapData};
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};

use super::btf;

/// The programs as `cargo xtask ebpf` built them; empty where it has not run.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bulkhead.o"));

/// What stops programs or maps from being loaded.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The agent was built without its kernel side.
    #[error("this build holds no eBPF programs: run `cargo xtask ebpf`, then build the agent again")]
    Missing,
    /// The kernel or the object refused.
    #[error("cannot load the eBPF object{}", hint(.0))]
    Load(#[source] Box<aya::EbpfError>),
    /// A pin holds a map of another shape.
    #[error(
        "pinned map {path} is not ours or of another version: {field} is {found}, expected {expected}; start with the \
         limits it was made with, or remove it with `bulkhead cleanup`"
    )]
    Layout {
        /// Where.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// In the kernel.
        found: u32,
        /// In this agent.
        expected: u32,
    },
    /// A map of the object could not be inspected.
    #[error("cannot inspect map {name}")]
    Inspect {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: aya::maps::MapError,
    },
    /// The object lacks a program or map that this agent needs.
    #[error("the embedded eBPF object has no {0}: agent and object were built from different sources")]
    Absent(&'static str),
}

fn hint(error: &aya::EbpfError) -> &'static str {
    let text = format!("{error:?}");
    if text.contains("PermissionDenied") || text.contains("Operation not permitted") {
        ": it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and a seccomp profile that allows bpf(2)"
    } else {
        ""
    }
}

/// Sizes of the policy maps that a cluster may want to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Exact addresses per family.
    pub peers: u32,
    /// Remembered connections per family.
    pub connections: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { peers: 131_072, connections: 65_536 }
    }
}

/// One map: what it must look like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Name, and name of its pin.
    pub name: &'static str,
    key: usize,
    value: usize,
    entries: u32,
}

const fn shape<K, V>(name: &'static str, entries: u32) -> Shape {
    Shape { name, key: size_of::<K>(), value: size_of::<V>(), entries }
}

impl Shape {
    /// As the reference of maps shows it.
    pub fn facts(&self) -> serde_json::Value {
        serde_json::json!({ "name": self.name, "key": self.key, "value": self.value, "entries": self.entries })
    }
}

/// Bytes of an LPM key: the prefix length and its data.
#[repr(C, packed)]
struct Lpm<K>(u32, K);

/// Every map of the object at these limits.
pub fn shapes(limits: &Limits) -> Vec<Shape> {
    vec![
        shape::<u32, EndpointEntry>("ENDPOINTS", 65_536),
        shape::<u32, EndpointEntry>("ENDPOINTS_FAR", 4_096),
        shape::<u32, TenantState>("TENANTS", 16_384),
        shape::<TenantId, TenantName>("TENANT_NAMES", 16_384),
        shape::<PeerKeyV4, PeerEntry>("PEERS_V4", limits.peers),
        shape::<V6, PeerEntry>("PEERS_V6", limits.peers),
        shape::<u32, RowV4>("ROWS_V4", 2_048),
        shape::<u32, RowV6>("ROWS_V6", 2_048),
        shape::<Lpm<TrieKeyV4>, PrefixGrant>("TRIE_V4", 65_536),
        shape::<Lpm<TrieKeyV6>, PrefixGrant>("TRIE_V6", 65_536),
        shape::<Lpm<V4>, TenantId>("OWNERS_V4", 65_536),
        shape::<Lpm<V6>, TenantId>("OWNERS_V6", 65_536),
        shape::<u32, PortSet>("PORT_SETS", 4_096),
        shape::<GrantKey, Grant>("GRANTS", 16_384),
        shape::<ReplyKey<V4>, ReplyEntry>("REPLIES_V4", limits.connections),
        shape::<ReplyKey<V6>, ReplyEntry>("REPLIES_V6", limits.connections),
        shape::<u32, Runtime>("RUNTIME", 1),
        shape::<u32, Counter>("ALLOWED", ALLOWED_LEN),
        shape::<u32, Counter>("DENIED", DENIED_LEN),
        shape::<u32, u64>("LOSS", Loss::LEN),
        shape::<u32, AggregateEntry>("DENIED_FLOWS", AGGREGATE_LEN),
        shape::<u32, Limit>("LIMITS", LIMIT_SLOTS),
        shape::<u32, u32>("OWN", 4_096),
        shape::<Sender, u32>("SENDERS", 16_384),
        shape::<u64, u32>("CGROUPS", 4_096),
        shape::<u32, PodGroups>("POD_GROUPS", 1),
        shape::<u32, Counter>("GUARD_DROPS", Guard::LEN),
        Shape { name: "EVENTS", key: 0, value: 0, entries: 1 << 20 },
    ]
}

/// Loads the object's maps, adopting those pinned below `pins`; with `None`, maps of its own that
/// end with it, for tests. Programs are not loaded yet.
///
/// # Errors
/// See `ObjectError`; nothing is attached or changed in any of these cases.
pub fn open(pins: Option<&Path>, limits: &Limits) -> Result<Ebpf, ObjectError> {
    if OBJECT.is_empty() {
        return Err(ObjectError::Missing);
    }
    let coarse = u32::from(has_coarse_clock());
    let mut loader = EbpfLoader::new();
    loader.override_global("COARSE_CLOCK", &coarse, true);
    let check_mtu = u32::from(has_check_mtu());
    loader.override_global("CHECK_MTU", &check_mtu, true);
    // Without them, the guard on control groups is not loaded, and the one on uplinks looks at no checksum.
    let btf::Offsets { skb_dev, dev_net, net_inum, skb_summed, skb_csum, skb_network } =
        btf::offsets().unwrap_or_default();
    loader.override_global("SKB_DEV", &skb_dev, true);
    loader.override_global("DEV_NET", &dev_net, true);
    loader.override_global("NET_INUM", &net_inum, true);
    loader.override_global("SKB_SUMMED", &skb_summed.0, true);
    loader.override_global("SUMMED_BIT", &skb_summed.1, true);
    loader.override_global("SKB_CSUM", &skb_csum, true);
    loader.override_global("SKB_NETWORK", &skb_network, true);
    let shapes = shapes(limits);
    for shape in &shapes {
        if shape.resizable() {
            loader.map_max_entries(shape.name, shape.entries);
        }
        if let Some(pins) = pins {
            loader.map_pin_path(shape.name, pins.join(shape.name));
        }
    }
    let ebpf = loader.load(OBJECT).map_err(|error| ObjectError::Load(Box::new(error)))?;
    for shape in &shapes {
        shape.check(&ebpf, pins)?;
    }
    Ok(ebpf)
}

impl Shape {
    fn resizable(&self) -> bool {
        self.name.starts_with("PEERS_") || self.name.starts_with("REPLIES_")
    }

    /// aya opens whatever is pinned under the name and compares nothing: a map with larger values
    /// would let the kernel write past our buffers.
    fn check(&self, ebpf: &Ebpf, pins: Option<&Path>) -> Result<(), ObjectError> {
        let map = ebpf.map(self.name).ok_or(ObjectError::Absent(self.name))?;
        let info = data(map).info().map_err(|source| ObjectError::Inspect { name: self.name, source })?;
        let pairs = [
            ("its key size", info.key_size(), self.key as u32),
            ("its value size", info.value_size(), self.value as u32),
            ("its maximum of entries", info.max_entries(), self.entries),
        ];
        match pairs.into_iter().find(|(_, found, expected)| found != expected) {
            None => Ok(()),
            Some((field, found, expected)) => {
                Err(ObjectError::Layout { path: pins.unwrap_or(Path::new("")).join(self.name), field, found, expected })
            }
        }
    }

    /// Entries the map can hold; bytes, for the ring buffer.
    pub const fn max_entries(&self) -> u32 {
        self.entries
    }
}

/// The map behind aya's type, whichever it is.
pub fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => data,
        other => unreachable!("the object has no map such as {other:?}"),
    }
}

/// `bpf_ktime_get_coarse_ns` exists since 5.11.
fn has_coarse_clock() -> bool {
    is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_ktime_get_coarse_ns).unwrap_or(false)
}

/// `bpf_check_mtu` exists since 5.12.
fn has_check_mtu() -> bool {
    is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_check_mtu).unwrap_or(false)
}
