//! Loads the embedded eBPF object and refuses pinned maps of another layout.
//!
//! Knows the names and sizes of maps from [`agent_common::maps`]; does not know their meaning. A map whose layout
//! differs is never used.

use std::path::{Path, PathBuf};

use agent_common::maps::{self, MapSpec, SizeFlag};
use agent_common::reply_table::{self, CONNECTIONS_PER_POD};
use aya::maps::{Map, MapData};
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};

use super::btf;

/// The object that `cargo xtask ebpf` built; empty if it has not run.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bulkhead.o"));

/// Why programs or maps could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The agent was built without its kernel side.
    #[error("this build contains no eBPF programs; run `cargo xtask ebpf`, then build the agent again")]
    Missing,
    /// The kernel or the object refused.
    #[error("cannot load the eBPF object{}", hint(.0))]
    Load(#[source] Box<aya::EbpfError>),
    /// A pinned map has another layout.
    #[error(
        "pinned map {path} has another layout: {field} is {found}, expected {expected}; start the agent with the \
         limits of that map, or remove the map with `bulkhead cleanup`"
    )]
    Layout {
        /// The pin.
        path: PathBuf,
        /// The property that differs.
        field: &'static str,
        /// Its value in the kernel.
        found: u32,
        /// Its value in this agent.
        expected: u32,
    },
    /// A map of the object could not be inspected.
    #[error("cannot inspect map {name}")]
    Inspect {
        /// The map.
        name: &'static str,
        /// The kernel's answer.
        #[source]
        source: aya::maps::MapError,
    },
    /// The object lacks a program or map that this agent needs.
    #[error("the embedded eBPF object has no {0}; build agent and object from the same sources")]
    Absent(&'static str),
}

fn hint(error: &aya::EbpfError) -> &'static str {
    let text = format!("{error:?}");
    if text.contains("PermissionDenied") || text.contains("Operation not permitted") {
        "; the agent needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and a seccomp profile that allows bpf(2)"
    } else {
        ""
    }
}

/// The sizes of maps that a cluster may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLimits {
    /// Exact addresses per family.
    pub peers: u32,
    /// Connections of one pod in the reply table; a power of two.
    pub connections_per_pod: u32,
}

impl Default for MapLimits {
    fn default() -> Self {
        Self { peers: maps::PEERS_V4.max_entries, connections_per_pod: CONNECTIONS_PER_POD }
    }
}

/// One map of the table, at the size this agent wants.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The map.
    pub spec: &'static MapSpec,
    entries: u32,
}

impl Shape {
    /// As the reference of maps shows it.
    pub fn facts(&self) -> serde_json::Value {
        let MapSpec { name, holds, key, value, size_flag, when_full, .. } = *self.spec;
        let flag = size_flag.map_or("", SizeFlag::as_str);
        serde_json::json!({
            "name": name, "holds": holds, "key": key, "value": value, "entries": self.entries, "flag": flag,
            "when_full": when_full,
        })
    }
}

/// Every pinned map of the object at these limits.
pub fn shapes(limits: &MapLimits) -> Vec<Shape> {
    let entries = |spec: &MapSpec| match spec.size_flag {
        Some(SizeFlag::Peers) => limits.peers,
        Some(SizeFlag::Connections) => reply_table::bucket_count(limits.connections_per_pod),
        None => spec.max_entries,
    };
    maps::ALL.iter().filter(|spec| spec.is_pinned()).map(|spec| Shape { spec, entries: entries(spec) }).collect()
}

/// Creates the object's maps and adopts those pinned below `pins`. With `None`, nothing is pinned, which is for
/// tests. Programs are not loaded yet.
///
/// # Errors
/// See [`ObjectError`]. In none of these cases is anything attached or changed.
pub fn open(pins: Option<&Path>, limits: &MapLimits) -> Result<Ebpf, ObjectError> {
    if OBJECT.is_empty() {
        return Err(ObjectError::Missing);
    }
    let coarse = u32::from(has_coarse_clock());
    let mut loader = EbpfLoader::new();
    loader.override_global("COARSE_CLOCK", &coarse, true);
    let check_mtu = u32::from(has_check_mtu());
    loader.override_global("CHECK_MTU", &check_mtu, true);
    let buckets = reply_table::buckets_per_pod(limits.connections_per_pod);
    loader.override_global("BUCKETS_PER_POD", &buckets, true);
    // Without offsets, the cgroup guard is not loaded, and the uplink guard checks no unfinished checksum.
    let btf::Offsets { skb_dev, dev_net, net_inum, skb_summed, skb_csum, skb_network, skb_nfct } = btf::offsets()
        .unwrap_or_else(|error| {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "the cgroup guard is off, and the uplink guard checks no unfinished checksum");
            btf::Offsets::default()
        });
    loader.override_global("SKB_DEV", &skb_dev, true);
    loader.override_global("DEV_NET", &dev_net, true);
    loader.override_global("NET_INUM", &net_inum, true);
    loader.override_global("SKB_SUMMED", &skb_summed.0, true);
    loader.override_global("SUMMED_BIT", &skb_summed.1, true);
    loader.override_global("SKB_CSUM", &skb_csum, true);
    loader.override_global("SKB_NETWORK", &skb_network, true);
    loader.override_global("SKB_NFCT", &skb_nfct, true);
    let shapes = shapes(limits);
    for shape in &shapes {
        let name = shape.spec.name;
        if shape.spec.size_flag.is_some() {
            loader.map_max_entries(name, shape.entries);
        }
        if let Some(pins) = pins {
            loader.map_pin_path(name, pins.join(name));
        }
    }
    let ebpf = loader.load(OBJECT).map_err(|error| ObjectError::Load(Box::new(error)))?;
    for shape in &shapes {
        shape.check(&ebpf, pins)?;
    }
    Ok(ebpf)
}

impl Shape {
    /// aya opens whatever is pinned under the name and compares nothing: a map with larger values
    /// would let the kernel write past our buffers.
    fn check(&self, ebpf: &Ebpf, pins: Option<&Path>) -> Result<(), ObjectError> {
        let MapSpec { name, key, value, .. } = *self.spec;
        let map = ebpf.map(name).ok_or(ObjectError::Absent(name))?;
        let info = data(map).info().map_err(|source| ObjectError::Inspect { name, source })?;
        let pairs = [
            ("its key size", info.key_size(), key),
            ("its value size", info.value_size(), value),
            ("its maximum of entries", info.max_entries(), self.entries),
        ];
        match pairs.into_iter().find(|(_, found, expected)| found != expected) {
            None => Ok(()),
            Some((field, found, expected)) => {
                Err(ObjectError::Layout { path: pins.unwrap_or(Path::new("")).join(name), field, found, expected })
            }
        }
    }

    /// Capacity in entries; in bytes for the ring buffer.
    pub const fn max_entries(&self) -> u32 {
        self.entries
    }
}

/// The map behind aya's enum.
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
