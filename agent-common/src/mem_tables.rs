//! The maps as `HashMap`s, for tests and replays: everything that the verdict reads, in memory.
//!
//! Holds exactly what the kernel's maps hold, so a test can write the same value into them and compare both verdicts.
//! Knows no policy: the caller fills it.

extern crate std;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::vec::Vec;

use crate::access::Lookup;
use crate::addr::{V4, V6};
use crate::classify;
use crate::conntrack::{ReplyEntry, ReplyKey};
use crate::counters::Outcome;
use crate::decide::Rules;
use crate::endpoint::Endpoint;
use crate::flow::Direction;
use crate::layout::{EndpointEntry, Grant, GrantKey, PeerEntry, PortSet, PrefixGrant, RowV4, RowV6, Runtime};
use crate::parse::Packet;
use crate::reason::DropReason;
use crate::summary;
use crate::tables::Tables;
use crate::tenant::{TenantId, TenantState};
use crate::verdict::{Denied, Verdict};

/// Every table that the verdict reads.
#[derive(Clone, Debug, Default)]
pub struct MemTables {
    /// Local pods by interface index.
    pub endpoints: HashMap<u32, EndpointEntry>,
    /// Tenants.
    pub tenants: HashMap<TenantId, TenantState>,
    /// Exact IPv4 addresses.
    pub peers_v4: HashMap<V4, PeerEntry>,
    /// Exact IPv6 addresses.
    pub peers_v6: HashMap<V6, PeerEntry>,
    /// Rows of IPv4 prefixes.
    pub rows_v4: HashMap<u16, RowV4>,
    /// Rows of IPv6 prefixes.
    pub rows_v6: HashMap<u16, RowV6>,
    /// IPv4 prefixes of tenants with many: tenant, network, length, grant.
    pub trie_v4: Vec<(TenantId, V4, u8, PrefixGrant)>,
    /// IPv6 prefixes of tenants with many.
    pub trie_v6: Vec<(TenantId, V6, u8, PrefixGrant)>,
    /// Owners of IPv4 ranges.
    pub owners_v4: Vec<(V4, u8, TenantId)>,
    /// Owners of IPv6 ranges.
    pub owners_v6: Vec<(V6, u8, TenantId)>,
    /// Port sets.
    pub port_sets: HashMap<u16, PortSet>,
    /// Permissions between tenants.
    pub grants: HashMap<GrantKey, Grant>,
    /// Generation and clock offset.
    pub runtime: Runtime,
    /// The monotonic clock.
    pub now_ns: Cell<u64>,
    /// The reply table.
    pub replies: RefCell<HashMap<ReplyKey, ReplyEntry>>,
}

/// The outcome for one frame, as the programs would count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Passed, dropped or audited.
    pub outcome: Outcome,
    /// The reason; `None` if the frame is allowed.
    pub denied: Option<Denied>,
}

impl Judged {
    /// Whether the frame passes.
    pub fn passes(&self) -> bool {
        self.outcome != Outcome::Dropped
    }

    /// The reason of a denial.
    pub fn reason(&self) -> Option<DropReason> {
        self.denied.map(|denied| denied.reason)
    }
}

impl MemTables {
    /// Judges a frame on an interface as the programs do, from the lookup of the pod to the reason of a denial.
    pub fn judge<P: Packet + ?Sized>(&self, ifindex: u32, direction: Direction, frame: &P) -> Judged {
        let entry = self.endpoints.get(&ifindex).copied().unwrap_or_default();
        let state = self.tenants.get(&entry.tenant).copied().unwrap_or_default();
        let Some(endpoint) = Endpoint::new(&entry, state) else {
            let denied = Denied { reason: DropReason::NotReady, peer: TenantId::UNKNOWN };
            return Judged { outcome: Outcome::Dropped, denied: Some(denied) };
        };
        let verdict = self.verdict(&endpoint, direction, frame);
        let Some(denied) = verdict.denied() else { return Judged { outcome: Outcome::Allowed, denied: None } };
        let outcome = if state.has(TenantState::AUDIT) { Outcome::Audited } else { Outcome::Dropped };
        let seen = summary::summarize(frame);
        let denied = summary::attribute(self, &endpoint.local, &seen, direction, denied);
        Judged { outcome, denied: Some(denied) }
    }

    /// The verdict, without Audit mode and without the owner of the other address.
    pub fn verdict<P: Packet + ?Sized>(&self, endpoint: &Endpoint<'_>, direction: Direction, frame: &P) -> Verdict {
        match direction {
            Direction::Egress => classify::from_pod(frame, endpoint, self),
            Direction::Ingress => classify::to_pod(frame, endpoint, self),
        }
    }

    /// Empties the reply table.
    pub fn forget(&self) {
        self.replies.borrow_mut().clear();
    }
}

macro_rules! family {
    ($address:ty, $row:ty, $peers:ident, $rows:ident, $trie:ident, $owners:ident, $holds:expr) => {
        impl Tables<$address> for MemTables {
            fn peer(&self, address: $address) -> Option<PeerEntry> {
                self.$peers.get(&address).copied()
            }

            fn row(&self, row: u16) -> Option<&$row> {
                self.$rows.get(&row)
            }

            fn trie(&self, tenant: TenantId, address: $address) -> PrefixGrant {
                let own = self.$trie.iter().filter(|(owner, ..)| *owner == tenant);
                let held = own.filter(|(_, net, length, _)| $holds(*net, *length, address));
                held.max_by_key(|(_, _, length, _)| *length).map(|(.., grant)| *grant).unwrap_or_default()
            }

            fn owner(&self, address: $address) -> Option<TenantId> {
                let held = self.$owners.iter().filter(|(net, length, _)| $holds(*net, *length, address));
                held.max_by_key(|(_, length, _)| *length).map(|(.., owner)| *owner)
            }

            fn at_v4(&self, address: V4) -> (Option<PeerEntry>, Option<TenantId>) {
                (Tables::<V4>::peer(self, address), Tables::<V4>::owner(self, address))
            }

            fn grant(&self, key: &GrantKey) -> Option<Grant> {
                self.grants.get(key).copied()
            }

            fn port_set(&self, set: u16) -> Option<&PortSet> {
                self.port_sets.get(&set)
            }

            fn reply(&self, key: &ReplyKey) -> Option<ReplyEntry> {
                self.replies.borrow().get(key).copied()
            }

            fn insert_reply(&self, key: &ReplyKey, entry: ReplyEntry, _: u64) {
                self.replies.borrow_mut().insert(*key, entry);
            }

            fn refresh_reply(&self, key: &ReplyKey, entry: ReplyEntry) {
                self.replies.borrow_mut().entry(*key).and_modify(|kept| *kept = entry);
            }

            fn runtime(&self) -> Runtime {
                self.runtime
            }

            fn now_ns(&self) -> u64 {
                self.now_ns.get()
            }
        }

        impl Lookup<$address> for MemTables {}
        impl Rules<$address> for MemTables {}
    };
}

/// Whether the first `length` bits are equal. It compares bit by bit, unlike the code under test.
fn shares(a: &[u8], b: &[u8], length: u8) -> bool {
    let bit = |bytes: &[u8], i: usize| bytes[i / 8] >> (7 - i % 8) & 1;
    (0..usize::from(length)).all(|i| bit(a, i) == bit(b, i))
}

family!(V4, RowV4, peers_v4, rows_v4, trie_v4, owners_v4, |net: V4, length, address: V4| shares(
    &net.octets(),
    &address.octets(),
    length
));
family!(V6, RowV6, peers_v6, rows_v6, trie_v6, owners_v6, |net: V6, length, address: V6| shares(
    &net.octets(),
    &address.octets(),
    length
));
