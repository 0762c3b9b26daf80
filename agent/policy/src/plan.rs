//! The plan: the difference between desired and actual, as an ordered list of kernel writes.
//!
//! Knows no clock, no kernel and no names of objects, only numbers and layouts. One `Op` is exactly one write, so a
//! plan can be replayed and checked after each write.

use std::net::IpAddr;

use agent_common::addr::V6;
use agent_common::layout::{
    EndpointEntry, Grant, GrantKey, PeerEntry, PeerKeyV4, PortSet, PrefixGrant, RowV4, RowV6, TrieKeyV4, TrieKeyV6,
};
use agent_common::tenant::{TenantId, TenantName, TenantState};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::model::report::Overflows;

mod actual;
mod diff;
mod drift;
mod ledger;
mod lookup;
mod owners;
mod peers;
mod phases;
mod prefixes;
mod table;

pub use actual::Actual;
pub use diff::diff;
pub use ledger::Ledger;
pub use lookup::ActualTables;
pub use peers::MOST_NEW;
pub use table::Table;

/// One write to one kernel table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Claims an interface by its index; a zero entry clears it.
    Endpoint(u32, EndpointEntry),
    /// An exact IPv4 address, or its removal.
    PeerV4(PeerKeyV4, Option<PeerEntry>),
    /// An exact IPv6 address, or its removal.
    PeerV6(V6, Option<PeerEntry>),
    /// The state of a tenant; zero clears it. The 8 bytes change in one store.
    Tenant(TenantId, TenantState),
    /// The name of a tenant number, or its removal.
    TenantName(TenantId, Option<TenantName>),
    /// An IPv4 row. It is written only while no tenant points at it.
    RowV4(u16, Box<RowV4>),
    /// An IPv6 row. It is written only while no tenant points at it.
    RowV6(u16, Box<RowV6>),
    /// A port set. It is written only while no prefix names it.
    PortSet(u16, PortSet),
    /// An IPv4 prefix in the trie, or its removal. The first field is the length of the prefix. The length of the
    /// kernel's key is 32 more.
    TrieV4(u8, TrieKeyV4, Option<PrefixGrant>),
    /// An IPv6 prefix in the trie, or its removal.
    TrieV6(u8, TrieKeyV6, Option<PrefixGrant>),
    /// A permission between tenants, or its removal.
    Grant(GrantKey, Option<Grant>),
    /// The owner of an IPv4 range, or its removal.
    OwnerV4(Ipv4Net, Option<TenantId>),
    /// The owner of an IPv6 range, or its removal.
    OwnerV6(Ipv6Net, Option<TenantId>),
    /// The generation of the policy.
    Generation(u64),
}

impl Op {
    /// Which table it writes.
    pub const fn table(&self) -> Table {
        match self {
            Self::Endpoint(..) => Table::Endpoints,
            Self::PeerV4(..) => Table::PeersV4,
            Self::PeerV6(..) => Table::PeersV6,
            Self::Tenant(..) => Table::Tenants,
            Self::TenantName(..) => Table::TenantNames,
            Self::RowV4(..) => Table::RowsV4,
            Self::RowV6(..) => Table::RowsV6,
            Self::PortSet(..) => Table::PortSets,
            Self::TrieV4(..) => Table::TrieV4,
            Self::TrieV6(..) => Table::TrieV6,
            Self::Grant(..) => Table::Grants,
            Self::OwnerV4(..) => Table::OwnersV4,
            Self::OwnerV6(..) => Table::OwnersV6,
            Self::Generation(..) => Table::Runtime,
        }
    }

    /// Whether it removes an entry, or clears one of an array.
    pub fn is_removal(&self) -> bool {
        match self {
            Self::Endpoint(_, entry) => *entry == EndpointEntry::default(),
            Self::Tenant(_, state) => *state == TenantState::default(),
            Self::PeerV4(_, None) | Self::PeerV6(_, None) | Self::TenantName(_, None) | Self::Grant(_, None) => true,
            Self::TrieV4(_, _, None) | Self::TrieV6(_, _, None) => true,
            Self::OwnerV4(_, None) | Self::OwnerV6(_, None) => true,
            _ => false,
        }
    }
}

/// Writes in the order in which they must be applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The writes.
    pub ops: Vec<Op>,
    /// Entries that did not fit and stay denied, except addresses.
    pub overflows: Overflows,
    /// New addresses that did not fit.
    pub refused: Vec<IpAddr>,
    /// Whether new addresses were left to later plans.
    pub deferred: bool,
}
