//! The ledger: the agent's copy of the kernel's tables, with the mentions of each tenant number and the free rows and
//! port sets.
//!
//! Knows no desired state. Changes only after a write has succeeded, or where a comparison with the kernel found another
//! entry. So a failed write leaves no trace here and appears again in the next difference.

use std::collections::{BTreeMap, HashMap, VecDeque};

use agent_common::addr::V6;
use agent_common::layout::{PORTS_ANY, PORTS_NONE, PeerEntry, PeerKeyV4, PortSet, PrefixGrant, RowV4, RowV6};
use agent_common::tenant::{TenantId, TenantState};

use super::{Actual, Op};
use crate::model::limits::Limits;
use crate::model::tenant_ids::KernelView;

/// The agent's copy of what the kernel holds.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    actual: Actual,
    mentions: HashMap<TenantId, usize>,
    rows: Pool,
    sets: Pool,
    set_of: HashMap<PortSet, u16>,
    owes_generation: bool,
}

/// Numbers of rows or port sets: those in use, and the free ones in the order in which they became free. The number
/// that was free for longest is used first, because a program on another CPU may still read one that was just freed.
#[derive(Clone, Debug, Default)]
struct Pool {
    uses: HashMap<u16, usize>,
    free: VecDeque<u16>,
    last: u16,
}

impl Ledger {
    /// A ledger of what was read back.
    pub fn new(actual: Actual, limits: &Limits) -> Self {
        let mut ledger = Self::default();
        for (id, set) in &actual.port_sets {
            ledger.set_of.entry(*set).or_insert(*id);
        }
        let tenants: Vec<TenantState> = actual.tenants.values().copied().collect();
        let mentioned: Vec<TenantId> = mentioned(&actual).collect();
        let grants = actual.trie_v4.values().chain(actual.trie_v6.values()).copied();
        let named: Vec<PrefixGrant> = grants.collect();
        ledger.actual = actual;
        mentioned.into_iter().for_each(|id| ledger.mention(id));
        named.iter().for_each(|grant| ledger.sets.take(grant.ports));
        tenants.iter().for_each(|state| ledger.take_row(state.row));
        ledger.rows.fill(1..=limits.rows);
        ledger.sets.fill(1..=limits.port_sets.min(PORTS_ANY - 1));
        ledger
    }

    /// The copy itself.
    pub fn actual(&self) -> &Actual {
        &self.actual
    }

    /// What new numbers, cookies and slots of the model depend on.
    pub fn kernel_view<'a>(&'a self, mentions: &'a dyn Fn(TenantId) -> bool) -> KernelView<'a> {
        let Actual { names, tenants, endpoints, generation, .. } = &self.actual;
        KernelView { names, tenants, endpoints, mentions, generation: *generation }
    }

    /// Whether any table except that of names mentions a tenant's number.
    pub fn mentions(&self, id: TenantId) -> bool {
        self.mentions.contains_key(&id)
    }

    /// Whether policy was written since the generation last increased.
    pub fn owes_generation(&self) -> bool {
        self.owes_generation
    }

    /// Rows that no tenant points at, longest free first.
    pub(crate) fn free_rows(&self) -> impl Iterator<Item = u16> + '_ {
        self.rows.free.iter().copied()
    }

    /// Port sets that no prefix names, longest free first.
    pub(crate) fn free_sets(&self) -> impl Iterator<Item = u16> + '_ {
        self.sets.free.iter().copied()
    }

    /// The number of a set with this content, referred to or not.
    pub(crate) fn set_of(&self, set: &PortSet) -> Option<u16> {
        self.set_of.get(set).copied()
    }

    /// The contents of a row, for each family. Row 0 and rows that were never written are empty.
    pub fn row(&self, row: u16) -> (RowV4, RowV6) {
        let v4 = self.actual.rows_v4.get(&row).map(|row| **row).unwrap_or_default();
        let v6 = self.actual.rows_v6.get(&row).map(|row| **row).unwrap_or_default();
        (v4, v6)
    }

    /// Records that `op` was applied.
    pub fn record(&mut self, op: &Op) {
        self.count(op, Self::mention);
        self.take_sets(op);
        let before = Before::of(op, self);
        self.actual.record(op);
        before.mentioned.into_iter().flatten().for_each(|id| self.unmention(id));
        self.release(op, before);
        match op {
            Op::Generation(_) => self.owes_generation = false,
            Op::TenantName(..) | Op::RowV4(..) | Op::RowV6(..) | Op::PortSet(..) => {}
            _ => self.owes_generation = true,
        }
    }

    /// Records what the kernel was found to hold, instead of what was written. A new generation is owed then:
    /// connections that the difference allowed must be judged again. A found generation may be in the reply table, so
    /// the next one is higher than it.
    pub fn adopt(&mut self, found: &[Op]) {
        for op in found {
            match op {
                Op::Generation(found) => self.actual.generation = self.actual.generation.max(*found),
                _ => self.record(op),
            }
        }
        self.owes_generation |= !found.is_empty();
    }

    fn count(&mut self, op: &Op, each: fn(&mut Self, TenantId)) {
        after(op).into_iter().flatten().for_each(|id| each(self, id));
    }

    fn take_sets(&mut self, op: &Op) {
        match op {
            Op::Tenant(_, state) => self.take_row(state.row),
            Op::TrieV4(_, _, Some(grant)) | Op::TrieV6(_, _, Some(grant)) => self.sets.take(grant.ports),
            Op::RowV4(row, value) if self.rows.uses.contains_key(row) => {
                value.prefixes.iter().for_each(|prefix| self.sets.take(prefix.grant.ports));
            }
            Op::RowV6(row, value) if self.rows.uses.contains_key(row) => {
                value.prefixes.iter().for_each(|prefix| self.sets.take(prefix.grant.ports));
            }
            _ => {}
        }
    }

    fn release(&mut self, op: &Op, before: Before) {
        if let Some(state) = before.tenant {
            self.drop_row(state.row);
        }
        before.sets.into_iter().for_each(|set| self.sets.give(set));
        if let Op::PortSet(id, set) = op {
            if let Some(old) = before.set.filter(|old| self.set_of.get(old) == Some(id)) {
                self.set_of.remove(&old);
            }
            self.set_of.entry(*set).or_insert(*id);
        }
    }

    fn mention(&mut self, id: TenantId) {
        if id.is_known() {
            *self.mentions.entry(id).or_default() += 1;
        }
    }

    fn unmention(&mut self, id: TenantId) {
        if let Some(count) = self.mentions.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.mentions.remove(&id);
            }
        }
    }

    fn take_row(&mut self, row: u16) {
        if row == 0 {
            return;
        }
        if !self.rows.uses.contains_key(&row) {
            sets_of(&self.actual, row).for_each(|set| self.sets.take(set));
        }
        self.rows.take(row);
    }

    fn drop_row(&mut self, row: u16) {
        self.rows.give(row);
        if row != 0 && !self.rows.uses.contains_key(&row) {
            let sets: Vec<u16> = sets_of(&self.actual, row).collect();
            sets.into_iter().for_each(|set| self.sets.give(set));
        }
    }
}

/// What an op overwrites.
#[derive(Default)]
struct Before {
    mentioned: [Option<TenantId>; 2],
    tenant: Option<TenantState>,
    set: Option<PortSet>,
    sets: Vec<u16>,
}

impl Before {
    fn of(op: &Op, ledger: &Ledger) -> Self {
        let Ledger { actual, rows, .. } = ledger;
        let mut before = Self { mentioned: overwritten(op, actual), ..Self::default() };
        match op {
            Op::Tenant(id, _) => before.tenant = actual.tenants.get(id).copied(),
            Op::PortSet(id, _) => before.set = actual.port_sets.get(id).copied(),
            Op::RowV4(row, _) if rows.uses.contains_key(row) => before.sets.extend(sets_of_v4(actual, *row)),
            Op::RowV6(row, _) if rows.uses.contains_key(row) => before.sets.extend(sets_of_v6(actual, *row)),
            Op::TrieV4(bits, key, _) => before.sets.extend(actual.trie_v4.get(&(*key, *bits)).map(|g| g.ports)),
            Op::TrieV6(bits, key, _) => before.sets.extend(actual.trie_v6.get(&(*key, *bits)).map(|g| g.ports)),
            _ => {}
        }
        before
    }
}

impl Pool {
    fn take(&mut self, id: u16) {
        if id == PORTS_NONE || id == PORTS_ANY {
            return;
        }
        let uses = self.uses.entry(id).or_default();
        *uses += 1;
        if *uses == 1
            && let Some(at) = self.free.iter().position(|free| *free == id)
        {
            self.free.remove(at);
        }
    }

    fn give(&mut self, id: u16) {
        let Some(uses) = self.uses.get_mut(&id) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.uses.remove(&id);
            // An agent with a greater limit used the numbers beyond this one. They are not used again.
            self.free.extend((id <= self.last).then_some(id));
        }
    }

    fn fill(&mut self, all: std::ops::RangeInclusive<u16>) {
        self.last = *all.end();
        self.free = all.filter(|id| !self.uses.contains_key(id)).collect();
    }
}

fn sets_of(actual: &Actual, row: u16) -> impl Iterator<Item = u16> + '_ {
    sets_of_v4(actual, row).chain(sets_of_v6(actual, row))
}

fn sets_of_v4(actual: &Actual, row: u16) -> impl Iterator<Item = u16> + '_ {
    actual.rows_v4.get(&row).into_iter().flat_map(|row| row.prefixes.iter().map(|prefix| prefix.grant.ports))
}

fn sets_of_v6(actual: &Actual, row: u16) -> impl Iterator<Item = u16> + '_ {
    actual.rows_v6.get(&row).into_iter().flat_map(|row| row.prefixes.iter().map(|prefix| prefix.grant.ports))
}

/// Numbers mentioned by the value an op writes.
fn after(op: &Op) -> [Option<TenantId>; 2] {
    match op {
        Op::Endpoint(_, entry) => [Some(entry.tenant), None],
        Op::PeerV4(_, entry) | Op::PeerV6(_, entry) => [entry.map(|entry| entry.tenant), None],
        Op::Tenant(id, state) => [(*state != TenantState::default()).then_some(*id), None],
        Op::Grant(key, Some(_)) => [Some(key.from), Some(key.to)],
        Op::OwnerV4(_, owner) | Op::OwnerV6(_, owner) => [*owner, None],
        Op::TrieV4(_, key, Some(_)) => [Some(key.tenant.of_trie()), None],
        Op::TrieV6(_, key, Some(_)) => [Some(key.tenant.of_trie()), None],
        _ => [None, None],
    }
}

/// Numbers mentioned by the value an op overwrites.
fn overwritten(op: &Op, actual: &Actual) -> [Option<TenantId>; 2] {
    match op {
        Op::Endpoint(ifindex, _) => [actual.endpoints.get(ifindex).map(|entry| entry.tenant), None],
        Op::PeerV4(key, _) => [peer(&actual.peers_v4, key), None],
        Op::PeerV6(key, _) => [peer_v6(&actual.peers_v6, key), None],
        Op::Tenant(id, _) => [actual.tenants.get(id).map(|_| *id), None],
        Op::Grant(key, _) if actual.grants.contains_key(key) => [Some(key.from), Some(key.to)],
        Op::OwnerV4(net, _) => [actual.owners_v4.get(net).copied(), None],
        Op::OwnerV6(net, _) => [actual.owners_v6.get(net).copied(), None],
        Op::TrieV4(bits, key, _) => [actual.trie_v4.get(&(*key, *bits)).map(|_| key.tenant.of_trie()), None],
        Op::TrieV6(bits, key, _) => [actual.trie_v6.get(&(*key, *bits)).map(|_| key.tenant.of_trie()), None],
        _ => [None, None],
    }
}

fn peer(peers: &BTreeMap<PeerKeyV4, PeerEntry>, key: &PeerKeyV4) -> Option<TenantId> {
    peers.get(key).map(|entry| entry.tenant)
}

fn peer_v6(peers: &BTreeMap<V6, PeerEntry>, key: &V6) -> Option<TenantId> {
    peers.get(key).map(|entry| entry.tenant)
}

fn mentioned(actual: &Actual) -> impl Iterator<Item = TenantId> + '_ {
    let endpoints = actual.endpoints.values().map(|entry| entry.tenant);
    let peers = actual.peers_v4.values().chain(actual.peers_v6.values()).map(|entry| entry.tenant);
    let grants = actual.grants.keys().flat_map(|key| [key.from, key.to]);
    let owners = actual.owners_v4.values().chain(actual.owners_v6.values()).copied();
    let tries = actual.trie_v4.keys().map(|(key, _)| key.tenant).chain(actual.trie_v6.keys().map(|(k, _)| k.tenant));
    let tries = tries.map(TenantId::of_trie);
    endpoints.chain(peers).chain(actual.tenants.keys().copied()).chain(grants).chain(owners).chain(tries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::phases::Phases;

    #[test]
    fn the_generation_after_a_comparison_is_higher_than_the_one_found() {
        for (found, next) in [(9, 11), (10, 11), (11, 12), (15, 16)] {
            let mut ledger = Ledger::default();
            ledger.record(&Op::Generation(10));
            assert!(!ledger.owes_generation(), "the control");
            ledger.adopt(&[Op::Generation(found)]);
            let plan = Phases::default().into_plan(&ledger);
            assert_eq!(plan.ops, [Op::Generation(next)], "found {found}");
        }
    }

    #[test]
    fn a_row_that_another_process_changed_gives_its_port_sets_back() {
        let row = |set: u16| {
            let mut row = RowV4::default();
            row.prefixes[0].grant = PrefixGrant { length: 24, ports: set, ..PrefixGrant::default() };
            Box::new(row)
        };
        let mut ledger = Ledger::default();
        ledger.record(&Op::RowV4(1, row(1)));
        ledger.record(&Op::Tenant(TenantId(1), TenantState { row: 1, ..TenantState::default() }));
        assert_eq!(ledger.sets.uses.keys().collect::<Vec<_>>(), [&1], "the control");
        ledger.adopt(&[Op::RowV4(1, row(2))]);
        assert_eq!(ledger.sets.uses.keys().collect::<Vec<_>>(), [&2]);
        ledger.adopt(&[Op::RowV4(1, Box::default())]);
        assert_eq!(ledger.sets.uses.keys().count(), 0);
    }
}
