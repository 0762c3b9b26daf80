//! The names of the kernel's tables, for errors, limits and metrics.
//!
//! Knows no layout and no contents. Each table has one name everywhere.

/// A kernel table the plan writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Local pods by interface index.
    Endpoints,
    /// Exact IPv4 addresses.
    PeersV4,
    /// Exact IPv6 addresses.
    PeersV6,
    /// Tenants by number.
    Tenants,
    /// Names of tenant numbers.
    TenantNames,
    /// Short lists of IPv4 prefixes.
    RowsV4,
    /// Short lists of IPv6 prefixes.
    RowsV6,
    /// Sets of port ranges.
    PortSets,
    /// IPv4 prefixes of tenants with long lists.
    TrieV4,
    /// IPv6 prefixes of tenants with long lists.
    TrieV6,
    /// Permissions between tenants.
    Grants,
    /// Owners of IPv4 ranges.
    OwnersV4,
    /// Owners of IPv6 ranges.
    OwnersV6,
    /// Values that every program reads, such as the generation.
    Runtime,
}

impl Table {
    /// All tables, the most interesting first.
    pub const ALL: [Self; 14] = [
        Self::Endpoints,
        Self::PeersV4,
        Self::PeersV6,
        Self::Tenants,
        Self::TenantNames,
        Self::RowsV4,
        Self::RowsV6,
        Self::PortSets,
        Self::TrieV4,
        Self::TrieV6,
        Self::Grants,
        Self::OwnersV4,
        Self::OwnersV6,
        Self::Runtime,
    ];

    /// The name used in metrics and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::PeersV4 => "peers_v4",
            Self::PeersV6 => "peers_v6",
            Self::Tenants => "tenants",
            Self::TenantNames => "tenant_names",
            Self::RowsV4 => "rows_v4",
            Self::RowsV6 => "rows_v6",
            Self::PortSets => "port_sets",
            Self::TrieV4 => "trie_v4",
            Self::TrieV6 => "trie_v6",
            Self::Grants => "grants",
            Self::OwnersV4 => "owners_v4",
            Self::OwnersV6 => "owners_v6",
            Self::Runtime => "runtime",
        }
    }
}
