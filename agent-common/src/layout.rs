//! Map keys and values that are neither tenants nor connections.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{Mac, V4, V6};
use crate::tenant::TenantId;

/// Bytes of `EndpointEntry`.
const ENDPOINT_LEN: usize = 80;
const _: () = assert!(size_of::<EndpointEntry>() == ENDPOINT_LEN);
const _: () = assert!(size_of::<PrefixV4>() == 16 && size_of::<PrefixV6>() == 40);
const _: () = assert!(size_of::<PeerEntry>() == 8 && size_of::<PeerKeyV4>() == 8);

/// One local pod, by the index of its host-side interface.
///
/// The map is an array, and an array's value is copied word by word while programs read it. An
/// entry therefore changes owner in two steps, zero first: the first word is either zero, which
/// denies, or complete.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EndpointEntry {
    /// Whose pod this is; 0 denies everything as `not_ready`.
    pub tenant: TenantId,
    /// Names this claim of the interface: entries that belong to an earlier owner of the index or
    /// of the address do not match. Never 0 in a claimed entry.
    pub cookie: u32,
    /// The pod's IPv4 address, or zero for none.
    pub v4: V4,
    /// The pod's hardware address, or zero if it could not be learnt; then it is not checked.
    pub mac: Mac,
    /// Slot of its event limit.
    pub slot: u16,
    /// The hardware address behind which the gateway stands: the interface's own, or its bridge's.
    pub gateway_mac: Mac,
    /// Zero.
    pub _pad: u16,
    /// The gateway's IPv4 address, or zero.
    pub gateway_v4: V4,
    /// The pod's IPv6 address, or zero for none.
    pub v6: V6,
    /// The pod's link-local address, or zero. May only be used in neighbour discovery.
    pub link_local: V6,
    /// The gateway's IPv6 address, often link-local, or zero.
    pub gateway_v6: V6,
}

/// Key of the exact IPv4 addresses. Eight bytes hash faster than four.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PeerKeyV4 {
    /// Which address space; 0 today.
    pub network: u32,
    /// The address.
    pub address: V4,
}

/// What stands at an exact address. A missing entry is no pod we know.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PeerEntry {
    /// Whose; 0 is reachable by nobody.
    pub tenant: TenantId,
    /// `PeerEntry::POD` and so on; 0 is reachable by nobody.
    pub kind: u8,
    /// `PeerEntry::SHARED` and so on.
    pub flags: u8,
    /// Zero.
    pub _pad: u16,
}

impl PeerEntry {
    /// A pod.
    pub const POD: u8 = 1;
    /// A Service address whose endpoints are all pods of `tenant`.
    pub const SERVICE: u8 = 2;
    /// An address of a node.
    pub const NODE: u8 = 3;
    /// A cloud metadata address.
    pub const METADATA: u8 = 4;
    /// A Service address with endpoints of several tenants or outside the cluster: allowed to the
    /// tenants that have an entry for it in their prefixes.
    pub const SERVICE_LISTED: u8 = 5;

    /// The tenant is `class: Shared`.
    pub const SHARED: u8 = 1;
    /// The tenant is an implicit one.
    pub const UNASSIGNED: u8 = 1 << 1;

    /// Whether pods stand here, or behind it.
    pub const fn is_pods(self) -> bool {
        matches!(self.kind, Self::POD | Self::SERVICE)
    }
}

/// Key of the grants: `from` may open connections to `to`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct GrantKey {
    /// Who opens.
    pub from: TenantId,
    /// Who is access.
    pub to: TenantId,
}

/// A permission between two tenants, agreed by both.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Grant {
    /// Seconds since 1970 at which it ends by itself, agent or no agent; `Grant::FOREVER` never;
    /// 0, the zero value, has ended.
    pub until: u64,
}

impl Grant {
    /// Does not end by itself.
    pub const FOREVER: u64 = u64::MAX;
}

/// Ports of one protocol, both ends included, in host order.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PortRange {
    /// IANA protocol number; 0 matches nothing.
    pub protocol: u8,
    /// Zero.
    pub _pad: u8,
    /// First.
    pub low: u16,
    /// Last.
    pub high: u16,
}

/// Ranges a port set can hold.
pub const PORT_RANGES: usize = 16;

/// What a prefix allows. Sets are immutable while a prefix names them.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PortSet {
    /// Ranges; the first with protocol 0 ends the list.
    pub ranges: [PortRange; PORT_RANGES],
}

/// Port set number that grants nothing: the zero value of a prefix.
pub const PORTS_NONE: u16 = 0;
/// Port set number that allows every protocol and port.
pub const PORTS_ANY: u16 = u16::MAX;

/// What a prefix of a tenant grants.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PrefixGrant {
    /// Number of its port set.
    pub ports: u16,
    /// `PrefixGrant::CONTESTED` and so on.
    pub flags: u8,
    /// Bits of the prefix.
    pub length: u8,
}

impl PrefixGrant {
    /// Part of this range is somebody else's: query the owner map before allowing.
    pub const CONTESTED: u8 = 1;

    /// Whether this is an entry at all.
    pub const fn is_some(self) -> bool {
        self.ports != PORTS_NONE
    }
}

/// One IPv4 prefix in a row.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PrefixV4 {
    /// Network address.
    pub net: V4,
    /// Network mask.
    pub mask: V4,
    /// What it grants.
    pub grant: PrefixGrant,
    /// Zero.
    pub _pad: u32,
}

/// One IPv6 prefix in a row.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PrefixV6 {
    /// Network address.
    pub net: V6,
    /// Network mask.
    pub mask: V6,
    /// What it grants.
    pub grant: PrefixGrant,
    /// Zero.
    pub _pad: u32,
}

/// Prefixes a row holds; a tenant with more uses the trie.
pub const ROW_PREFIXES: usize = 16;

/// A tenant's IPv4 prefixes, longest first; the first without a port set ends the row.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RowV4 {
    /// The prefixes.
    pub prefixes: [PrefixV4; ROW_PREFIXES],
}

/// A tenant's IPv6 prefixes, longest first; the first without a port set ends the row.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RowV6 {
    /// The prefixes.
    pub prefixes: [PrefixV6; ROW_PREFIXES],
}

/// Data of the IPv4 prefix trie's keys: tenant first, so that one trie serves all tenants whose
/// rows are too short. A key's prefix length is 32 plus the prefix's.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct TrieKeyV4 {
    /// Whose.
    pub tenant: TenantId,
    /// Network address.
    pub net: V4,
}

/// Data of the IPv6 prefix trie's keys.
#[repr(C, packed(4))]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct TrieKeyV6 {
    /// Whose.
    pub tenant: TenantId,
    /// Network address.
    pub net: V6,
}

/// What every program must know at once: one entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Runtime {
    /// Raised with every change of policy; a remembered connection of another generation is judged
    /// again before it counts.
    pub generation: u64,
    /// Nanoseconds to add to the monotonic clock to get the time of day.
    pub clock_offset_ns: u64,
}
