//! Sizes of the kernel's tables, as limits that the model keeps to.
//!
//! Knows no table's layout. What exceeds a limit is denied and reported.

use agent_common::aggregate::EVENT_SLOTS;
use agent_common::counters::TENANT_SLOTS;
use agent_common::maps;

/// A limit, by the name an operator raises it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Tenants, which is also the highest tenant number.
    Tenants,
    /// IPv4 addresses of pods, nodes, Services.
    PeersV4,
    /// IPv6 addresses of pods, nodes, Services.
    PeersV6,
    /// Rows of prefixes, which is also the highest row number.
    Rows,
    /// Distinct port sets, which is also the highest number.
    PortSets,
    /// Grants.
    Grants,
    /// Owned IPv4 ranges.
    OwnersV4,
    /// Owned IPv6 ranges.
    OwnersV6,
    /// IPv4 prefixes of tenants with long lists.
    TrieV4,
    /// IPv6 prefixes of tenants with long lists.
    TrieV6,
    /// Tenants with counters of their own.
    CounterSlots,
    /// Endpoints with an event limit of their own.
    EventSlots,
}

impl Limit {
    /// Name in the settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenants => "tenants",
            Self::PeersV4 => "peers_v4",
            Self::PeersV6 => "peers_v6",
            Self::Rows => "rows",
            Self::PortSets => "port_sets",
            Self::Grants => "grants",
            Self::OwnersV4 => "owners_v4",
            Self::OwnersV6 => "owners_v6",
            Self::TrieV4 => "trie_v4",
            Self::TrieV6 => "trie_v6",
            Self::CounterSlots => "counter_slots",
            Self::EventSlots => "event_slots",
        }
    }
}

/// Sizes of the kernel's tables. What does not fit is denied and reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// See [`Limit::Tenants`].
    pub tenants: u32,
    /// See [`Limit::PeersV4`].
    pub peers_v4: usize,
    /// See [`Limit::PeersV6`].
    pub peers_v6: usize,
    /// See [`Limit::Rows`].
    pub rows: u16,
    /// See [`Limit::PortSets`].
    pub port_sets: u16,
    /// See [`Limit::Grants`].
    pub grants: usize,
    /// See [`Limit::OwnersV4`].
    pub owners_v4: usize,
    /// See [`Limit::OwnersV6`].
    pub owners_v6: usize,
    /// See [`Limit::TrieV4`].
    pub trie_v4: usize,
    /// See [`Limit::TrieV6`].
    pub trie_v6: usize,
    /// See [`Limit::CounterSlots`].
    pub counter_slots: u16,
    /// See [`Limit::EventSlots`].
    pub event_slots: u16,
}

impl Limits {
    /// The value of one limit.
    pub fn get(&self, limit: Limit) -> usize {
        match limit {
            Limit::Tenants => self.tenants as usize,
            Limit::PeersV4 => self.peers_v4,
            Limit::PeersV6 => self.peers_v6,
            Limit::Rows => usize::from(self.rows),
            Limit::PortSets => usize::from(self.port_sets),
            Limit::Grants => self.grants,
            Limit::OwnersV4 => self.owners_v4,
            Limit::OwnersV6 => self.owners_v6,
            Limit::TrieV4 => self.trie_v4,
            Limit::TrieV6 => self.trie_v6,
            Limit::CounterSlots => usize::from(self.counter_slots),
            Limit::EventSlots => usize::from(self.event_slots),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tenants: maps::TENANTS.max_entries - 1,
            peers_v4: maps::PEERS_V4.max_entries as usize,
            peers_v6: maps::PEERS_V6.max_entries as usize,
            rows: maps::ROWS_V4.max_entries as u16 - 1,
            port_sets: maps::PORT_SETS.max_entries as u16 - 1,
            grants: maps::GRANTS.max_entries as usize,
            owners_v4: maps::OWNERS_V4.max_entries as usize,
            owners_v6: maps::OWNERS_V6.max_entries as usize,
            trie_v4: maps::TRIE_V4.max_entries as usize,
            trie_v6: maps::TRIE_V6.max_entries as usize,
            counter_slots: TENANT_SLOTS as u16 - 1,
            event_slots: EVENT_SLOTS as u16 - 1,
        }
    }
}

const _: () = assert!(maps::ROWS_V4.max_entries == maps::ROWS_V6.max_entries, "one limit serves both families");
