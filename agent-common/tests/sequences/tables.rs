//! The few table entries that one pod and one remote end need, small enough to be copied for each step.
//!
//! Holds no rule.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

use agent_common::access::Lookup;
use agent_common::addr::V4;
use agent_common::conntrack::{ReplyEntry, ReplyKey};
use agent_common::decide::Rules;
use agent_common::layout::{Grant, GrantKey, PORTS_ANY, PeerEntry, PortSet, PrefixGrant, PrefixV4, RowV4, Runtime};
use agent_common::tables::Tables;
use agent_common::tenant::{TenantId, TenantState};

use crate::policy::{EXPIRY, Permit, Subnet};
use crate::world::{MINE, OTHER_POD, SECOND, START, THEIRS, WORLD};

/// The tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SmallTables {
    pub out: Permit,
    pub back: Permit,
    pub owner: Subnet,
    pub cookie: u32,
    pub generation: u64,
    pub now_ns: u64,
    pub replies: RefCell<Vec<(ReplyKey, ReplyEntry)>>,
}

/// Between the monotonic clock and the time of day, in nanoseconds.
const OFFSET: u64 = 7 * SECOND;

static WITH_RANGE: LazyLock<RowV4> = LazyLock::new(|| {
    let mut row = RowV4::default();
    let grant = PrefixGrant { ports: PORTS_ANY, flags: 0, length: 32 };
    row.prefixes[0] = PrefixV4 { net: V4::new(WORLD), mask: V4::mask(32), grant, _pad: 0 };
    row
});
static WITHOUT_RANGE: LazyLock<RowV4> = LazyLock::new(RowV4::default);

impl SmallTables {
    /// No grant, no owner, no connection.
    pub(crate) fn new() -> Self {
        Self {
            out: Permit::None,
            back: Permit::None,
            owner: Subnet::Nobody,
            cookie: 1,
            generation: 1,
            now_ns: START,
            replies: RefCell::new(Vec::new()),
        }
    }

    /// The state of the pod's tenant.
    pub(crate) fn local(&self) -> TenantState {
        TenantState { flags: TenantState::VALID | TenantState::HAS_GRANTS, row: 1, slot: 1 }
    }
}

impl Hash for SmallTables {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.out, self.back, self.owner, self.cookie, self.generation, self.now_ns).hash(state);
        for (key, entry) in self.replies.borrow().iter() {
            (key, entry.expires_ns, entry.generation, entry.flags).hash(state);
        }
    }
}

impl Tables<V4> for SmallTables {
    fn peer(&self, address: V4) -> Option<PeerEntry> {
        let pod = PeerEntry { tenant: THEIRS, kind: PeerEntry::POD, ..PeerEntry::default() };
        (address == V4::new(OTHER_POD)).then_some(pod)
    }

    fn row(&self, row: u16) -> Option<&RowV4> {
        let own = if self.owner == Subnet::Mine { &*WITH_RANGE } else { &*WITHOUT_RANGE };
        (row == 1).then_some(own)
    }

    fn trie(&self, _tenant: TenantId, _address: V4) -> PrefixGrant {
        PrefixGrant::default()
    }

    fn owner(&self, address: V4) -> Option<TenantId> {
        match self.owner {
            _ if address != V4::new(WORLD) => None,
            Subnet::Nobody => None,
            Subnet::Mine => Some(MINE),
            Subnet::Theirs => Some(THEIRS),
        }
    }

    fn at_v4(&self, address: V4) -> (Option<PeerEntry>, Option<TenantId>) {
        (self.peer(address), self.owner(address))
    }

    fn grant(&self, key: &GrantKey) -> Option<Grant> {
        let permit = match (key.from, key.to) {
            (MINE, THEIRS) => self.out,
            (THEIRS, MINE) => self.back,
            _ => Permit::None,
        };
        match permit {
            Permit::None => None,
            Permit::Expires => Some(Grant { until: EXPIRY + OFFSET / SECOND }),
            Permit::Forever => Some(Grant { until: Grant::FOREVER }),
        }
    }

    fn port_set(&self, _set: u16) -> Option<&PortSet> {
        None
    }

    fn reply(&self, key: &ReplyKey) -> Option<ReplyEntry> {
        self.replies.borrow().iter().find(|(known, _)| known == key).map(|(_, entry)| *entry)
    }

    fn insert_reply(&self, key: &ReplyKey, entry: ReplyEntry, _: u64) {
        let mut replies = self.replies.borrow_mut();
        replies.retain(|(known, _)| known != key);
        replies.push((*key, entry));
        replies.sort_by_key(|(key, _)| (key.cookie, key.side));
    }

    fn refresh_reply(&self, key: &ReplyKey, entry: ReplyEntry) {
        Tables::insert_reply(self, key, entry, 0);
    }

    fn runtime(&self) -> Runtime {
        Runtime { generation: self.generation, clock_offset_ns: OFFSET }
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

impl Lookup<V4> for SmallTables {}
impl Rules<V4> for SmallTables {}
