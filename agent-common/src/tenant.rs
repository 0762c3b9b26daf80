//! The numbers of tenants, and the state of a tenant as the programs read it.
//!
//! All reserved numbers are defined here. The programs use numbers, never names. A number is valid on one node, and stays the
//! same while a map entry refers to it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A tenant's number on this node. 0 is "unknown" and is never granted anything.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct TenantId(pub u32);

impl TenantId {
    /// No tenant: the number in a missing or zero entry.
    pub const UNKNOWN: Self = Self(0);
    /// Highest number a tenant may have. The numbers above it are reserved.
    pub const LAST: Self = Self(u32::MAX - 3);
    /// Owner of the cluster's node ranges. An address there is a node, whether the agent knows that node or not.
    pub const NODES: Self = Self(u32::MAX - 2);
    /// Owner of a range while it passes from one tenant to another. No tenant has this number, so every tenant
    /// takes the range for another's.
    pub const IN_PASSING: Self = Self(u32::MAX - 1);
    /// Owner of the cluster's pod and Service ranges. An address there that is no known pod belongs to no tenant,
    /// whatever wide `egress` range covers it, and no packet may come from it.
    pub const CLUSTER: Self = Self(u32::MAX);

    /// Under a tenant's number with this bit, the tries hold the ports of nodes that the tenant may reach.
    const OPENINGS: u32 = 1 << 30;

    /// The number under which the tries hold what the tenant may reach on nodes.
    #[inline(always)]
    pub const fn of_openings(self) -> Self {
        Self(self.0 | Self::OPENINGS)
    }

    /// The tenant of a number in a trie.
    pub const fn of_trie(self) -> Self {
        if self.is_reserved() { self } else { Self(self.0 & !Self::OPENINGS) }
    }

    /// Whether this number names an owner at all.
    pub const fn is_known(self) -> bool {
        self.0 != 0
    }

    /// Whether this is one of the numbers that name an owner which is no tenant.
    pub const fn is_reserved(self) -> bool {
        self.0 > Self::LAST.0
    }

    /// Whether this is a tenant's number.
    pub const fn is_tenant(self) -> bool {
        self.is_known() && !self.is_reserved()
    }
}

/// The state of a tenant: one 8-byte word, so that user space replaces it in one store.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TenantState {
    /// [`TenantState::VALID`] and so on.
    pub flags: u32,
    /// Row of its prefixes in the row maps. A row is written while no tenant points at it.
    pub row: u16,
    /// Slot of its counters; slot 0 counts for all tenants without one.
    pub slot: u16,
}

impl TenantState {
    /// The entry was written by an agent. Without this bit every packet is `not_ready`.
    pub const VALID: u32 = 1;
    /// `class: Shared`: may open connections to every tenant, and every tenant to it.
    pub const SHARED: u32 = 1 << 1;
    /// `mode: Audit`: packets that enforce mode would drop are reported, and pass.
    pub const AUDIT: u32 = 1 << 2;
    /// An implicit tenant, made for a namespace that no NetworkTenant claims.
    pub const UNASSIGNED: u32 = 1 << 3;
    /// `tenancy.unassigned: Allow`: every destination is allowed, except metadata services and the data subnets of
    /// tenants.
    pub const OPEN: u32 = 1 << 4;
    /// At least one grant names this tenant. Without this bit the grant map is not queried.
    pub const HAS_GRANTS: u32 = 1 << 5;
    /// The tenant has more IPv4 prefixes than a row holds: all of them are in the trie.
    pub const TRIE_V4: u32 = 1 << 6;
    /// The tenant has more IPv6 prefixes than a row holds: all of them are in the trie.
    pub const TRIE_V6: u32 = 1 << 7;
    /// The tenant may open connections to node addresses.
    pub const NODES_ALLOWED: u32 = 1 << 8;
    /// The tenant may open connections to some ports of some nodes. Without this bit the tries are not queried for them.
    pub const NODE_OPENINGS: u32 = 1 << 9;

    /// Whether any of `bits` is set.
    pub const fn has(self, bits: u32) -> bool {
        self.flags & bits != 0
    }
}

/// The tenant of the local pod, with its state.
#[derive(Clone, Copy, Debug)]
pub struct LocalTenant {
    /// Its number.
    pub tenant: TenantId,
    /// Its state.
    pub state: TenantState,
}

/// The name of a tenant, zero-padded UTF-8. The agent stores it in the kernel beside the number. A restarted agent then
/// gives the tenant the same number, and `bulkhead explain` finds it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TenantName(pub [u8; 128]);

impl TenantName {
    /// The name, if it fits and is not empty.
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; 128];
        let target = bytes.get_mut(..name.len())?;
        target.copy_from_slice(name.as_bytes());
        (!name.is_empty() && !name.contains('\0')).then_some(Self(bytes))
    }

    /// The name again, if these bytes are one.
    pub fn as_str(&self) -> Option<&str> {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        core::str::from_utf8(self.0.get(..end)?).ok().filter(|name| !name.is_empty())
    }
}
