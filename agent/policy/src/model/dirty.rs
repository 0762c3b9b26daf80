//! What a change may have altered, so that only those parts are compiled and written again.
//!
//! Knows no values, only where they are. Marking too much costs time; marking too little would leave a stale policy in
//! force.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::name::Name;

/// Addresses above which [`Dirty`] marks everything.
const TOO_MANY: usize = 65_536;

/// The parts of the tables that may differ from what they should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Everything: at the start, or when the tables are in doubt.
    pub everything: bool,
    /// Owned ranges.
    pub ranges: bool,
    /// Tenants and namespaces: membership and permissions.
    pub tenancy: bool,
    /// Namespaces that got their first pod, or their first pod on this node. A namespace that loses its last pod is not
    /// marked: its tenant's entries do no harm until the next sweep, and short jobs would recompile all tenants.
    pub namespaces: BTreeSet<Name>,
    /// Local pods and interfaces.
    pub endpoints: bool,
    /// Single addresses.
    pub addresses: BTreeSet<IpAddr>,
}

impl Dirty {
    /// Marks everything.
    pub fn all() -> Self {
        Self { everything: true, ranges: true, tenancy: true, endpoints: true, ..Self::default() }
    }

    /// Whether nothing is marked.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the marks of another change.
    pub fn add(&mut self, other: Self) {
        self.everything |= other.everything;
        self.ranges |= other.ranges;
        self.tenancy |= other.tenancy;
        self.namespaces.extend(other.namespaces);
        self.endpoints |= other.endpoints;
        other.addresses.into_iter().for_each(|address| self.address(address));
    }

    /// Marks an address. Above a bound, everything is marked: a longer list would cost more than that.
    pub fn address(&mut self, address: IpAddr) {
        if self.everything {
            return;
        }
        self.addresses.insert(address);
        if self.addresses.len() > TOO_MANY {
            *self = Self::all();
        }
    }
}
