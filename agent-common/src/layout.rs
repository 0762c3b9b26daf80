//! Keys and values of the policy maps: endpoints, peers, grants, prefixes, port sets.
//!
//! Holds layouts and no rule. The all-zero value of each type grants nothing.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{Mac, V4, V6};
use crate::tenant::TenantId;

/// Bytes of [`EndpointEntry`].
const ENDPOINT_LEN: usize = 80;
const _: () = assert!(size_of::<EndpointEntry>() == ENDPOINT_LEN);
const _: () = assert!(size_of::<PrefixV4>() == 16 && size_of::<PrefixV6>() == 40);
const _: () = assert!(size_of::<PeerEntry>() == 8 && size_of::<PeerKeyV4>() == 8);

/// One local pod, by the index of its host-side interface.
///
/// The map is an array, and the kernel copies an array's value word by word while programs read it. So an entry changes
/// its owner in two steps: first the agent writes zero, then the new value. The first word is either zero, which denies,
/// or complete.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EndpointEntry {
    /// The pod's tenant; 0 denies every packet as `not_ready`.
    pub tenant: TenantId,
    /// The cookie of this claim of the interface. Entries of an earlier pod with the same index or address have another
    /// one. Never 0 in a claimed entry.
    pub cookie: u32,
    /// The pod's IPv4 address, or zero for none.
    pub v4: V4,
    /// The pod's hardware address, or zero if it is unknown; then it is not checked.
    pub mac: Mac,
    /// The pod's event slot.
    pub slot: u16,
    /// The gateway's hardware address: that of the interface itself, or of its bridge.
    pub gateway_mac: Mac,
    /// [`EndpointEntry::BRIDGED`], or zero.
    pub flags: u16,
    /// The gateway's IPv4 address, or zero.
    pub gateway_v4: V4,
    /// The pod's IPv6 address, or zero for none.
    pub v6: V6,
    /// The pod's link-local address, or zero. The pod may use it only in neighbour discovery.
    pub link_local: V6,
    /// The gateway's IPv6 address, often link-local, or zero.
    pub gateway_v6: V6,
}

impl EndpointEntry {
    /// The interface is a port of a bridge or of another device. Packets that leave that device do not show the port.
    pub const BRIDGED: u16 = 1;
}

/// Key of an exact IPv4 address. Eight bytes hash faster than four.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PeerKeyV4 {
    /// The address space; always 0 so far.
    pub network: u32,
    /// The address.
    pub address: V4,
}

/// The peer at an exact address. Without an entry, the address is no known pod.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PeerEntry {
    /// Its tenant; with 0, no tenant may open connections to it.
    pub tenant: TenantId,
    /// [`PeerEntry::POD`] and so on; with 0, no tenant may open connections to it.
    pub kind: u8,
    /// [`PeerEntry::SHARED`] and so on.
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
    /// A Service address with endpoints outside the cluster. It is allowed to tenants that list exactly this address.
    pub const SERVICE_LISTED: u8 = 5;

    /// The tenant is `class: Shared`.
    pub const SHARED: u8 = 1;
    /// The tenant is an implicit one.
    pub const UNASSIGNED: u8 = 1 << 1;

    /// Whether this is a pod, or a Service whose endpoints are pods of one tenant.
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
    /// The tenant that opens connections.
    pub from: TenantId,
    /// The tenant to which they are opened.
    pub to: TenantId,
}

/// A permission between two tenants, declared by both.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Grant {
    /// When the grant expires, in seconds since 1970, even if no agent runs. [`Grant::FOREVER`] never expires; 0 has
    /// expired.
    pub until: u64,
}

impl Grant {
    /// The grant never expires.
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

/// Greatest number of ranges in a port set.
pub const PORT_RANGES: usize = 16;

/// The ports that a prefix allows. A set does not change while a prefix names it.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PortSet {
    /// The ranges; the first one with protocol 0 ends the list.
    pub ranges: [PortRange; PORT_RANGES],
}

/// Number of the port set that grants nothing: the zero value of a prefix.
pub const PORTS_NONE: u16 = 0;
/// Number of the port set that allows every protocol and port.
pub const PORTS_ANY: u16 = u16::MAX;

/// What a prefix of a tenant grants.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PrefixGrant {
    /// Number of its port set.
    pub ports: u16,
    /// [`PrefixGrant::CONTESTED`] and so on.
    pub flags: u8,
    /// Length of the prefix in bits.
    pub length: u8,
}

impl PrefixGrant {
    /// Another tenant owns a part of this range: the owner map must be queried first.
    pub const CONTESTED: u8 = 1;

    /// Whether there is a prefix: the zero value is none.
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
    /// The ports it allows.
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
    /// The ports it allows.
    pub grant: PrefixGrant,
    /// Zero.
    pub _pad: u32,
}

/// Greatest number of prefixes in a row; a tenant with more uses the trie.
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

/// Data of a key in the IPv4 prefix trie. The tenant comes first, so one trie serves all tenants whose rows are too short.
/// The prefix length of a key is 32 plus that of the prefix.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct TrieKeyV4 {
    /// The tenant.
    pub tenant: TenantId,
    /// Network address.
    pub net: V4,
}

/// Data of a key in the IPv6 prefix trie.
#[repr(C, packed(4))]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct TrieKeyV6 {
    /// The tenant.
    pub tenant: TenantId,
    /// Network address.
    pub net: V6,
}

/// The one entry of the map `RUNTIME`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Runtime {
    /// The generation: it increases with each change of policy. An entry of the reply table with another generation is
    /// judged again before it counts.
    pub generation: u64,
    /// Nanoseconds between the monotonic clock and the time of day; 0 if the time of day is unknown.
    pub clock_offset_ns: u64,
}
