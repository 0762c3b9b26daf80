//! Tenants' prefixes: their rows or trie entries, their port sets, and the tenant's 8 bytes that refer to them.
//!
//! Knows no name and no other table. A row or port set is written only while nothing refers to it; one store then
//! switches the tenant's entry to it. A prefix that does not fit grants nothing and is reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agent_common::addr::{V4, V6};
use agent_common::layout::{
    PORTS_ANY, PortSet, PrefixGrant, PrefixV4, PrefixV6, ROW_PREFIXES, RowV4, RowV6, TrieKeyV4, TrieKeyV6,
};
use agent_common::tenant::{TenantId, TenantState};
use ipnet::IpNet;

use super::phases::Phases;
use super::{Ledger, Op};
use crate::model::desired::TenantPolicy;
use crate::model::limits::{Limit, Limits};
use crate::model::ports::Ports;
use crate::model::prefixes::Prefix;
use crate::model::report::Overflows;

/// Flags that permit something by themselves.
const PERMISSIONS: u32 = TenantState::SHARED
    | TenantState::AUDIT
    | TenantState::OPEN
    | TenantState::NODES_ALLOWED
    | TenantState::NODE_OPENINGS;

/// Adds the writes that bring every tenant from `ledger` to `wanted`.
pub(super) fn diff(
    wanted: &BTreeMap<TenantId, TenantPolicy>,
    ledger: &Ledger,
    limits: &Limits,
    phases: &mut Phases,
) -> Overflows {
    let mut staging = Staging::new(ledger, limits);
    for (id, policy) in wanted {
        let state = staging.stage(*id, policy);
        turn(*id, ledger.actual().tenants.get(id).copied().unwrap_or_default(), state, phases);
    }
    for id in ledger.actual().tenants.keys().filter(|id| !wanted.contains_key(id)) {
        phases.turn.push(Op::Tenant(*id, TenantState::default()));
    }
    staging.finish(phases)
}

/// Writes a tenant's entry, each time in one store. The first store adds no permitting flag. If the tenant gains such a
/// flag, a second store adds it after all revocations.
fn turn(id: TenantId, old: TenantState, new: TenantState, phases: &mut Phases) {
    let kept = TenantState { flags: new.flags & !PERMISSIONS | new.flags & old.flags & PERMISSIONS, ..new };
    phases.demotes |= old.flags & !new.flags & PERMISSIONS != 0;
    if kept != old {
        phases.turn.push(Op::Tenant(id, kept));
    }
    if new != kept {
        phases.raise.push(Op::Tenant(id, new));
    }
}

/// The rows, port sets and trie entries of a plan.
struct Staging<'a> {
    ledger: &'a Ledger,
    limits: &'a Limits,
    free_rows: Box<dyn Iterator<Item = u16> + 'a>,
    free_sets: Box<dyn Iterator<Item = u16> + 'a>,
    sets: HashMap<PortSet, u16>,
    reused: BTreeSet<u16>,
    ops: Vec<Op>,
    trie_v4: BTreeMap<(TrieKeyV4, u8), PrefixGrant>,
    trie_v6: BTreeMap<(TrieKeyV6, u8), PrefixGrant>,
    overflows: Overflows,
}

impl<'a> Staging<'a> {
    fn new(ledger: &'a Ledger, limits: &'a Limits) -> Self {
        Self {
            ledger,
            limits,
            free_rows: Box::new(ledger.free_rows()),
            free_sets: Box::new(ledger.free_sets()),
            sets: HashMap::new(),
            reused: BTreeSet::new(),
            ops: Vec::new(),
            trie_v4: BTreeMap::new(),
            trie_v6: BTreeMap::new(),
            overflows: Overflows::default(),
        }
    }

    fn stage(&mut self, id: TenantId, policy: &TenantPolicy) -> TenantState {
        let v4 = self.grants(&policy.v4);
        let v6 = self.grants(&policy.v6);
        let mut state = TenantState { flags: policy.flags, row: 0, slot: policy.slot };
        let (mut row_v4, mut row_v6) = (RowV4::default(), RowV6::default());
        if state.has(TenantState::TRIE_V4) {
            state.flags &= !if self.plant_v4(id, &v4) { 0 } else { TenantState::TRIE_V4 };
        } else {
            fill_v4(&mut row_v4, &v4);
        }
        if state.has(TenantState::TRIE_V6) {
            state.flags &= !if self.plant_v6(id, &v6) { 0 } else { TenantState::TRIE_V6 };
        } else {
            fill_v6(&mut row_v6, &v6);
        }
        state.row = self.row(id, row_v4, row_v6);
        self.open_nodes(id.of_openings(), &policy.openings, &mut state);
        state
    }

    /// Ports of nodes are always in the tries: few tenants have any, and few packets ask for them.
    fn open_nodes(&mut self, id: TenantId, openings: &[Prefix], state: &mut TenantState) {
        if openings.is_empty() {
            return;
        }
        let grants = self.grants(openings);
        if !(self.plant_v4(id, &grants) && self.plant_v6(id, &grants)) {
            state.flags &= !TenantState::NODE_OPENINGS;
        }
    }

    /// Prefixes with numbers for their port sets. A prefix without a number is left out. A wider one around it then
    /// applies, which never allows more.
    fn grants(&mut self, prefixes: &[Prefix]) -> Vec<(IpNet, PrefixGrant)> {
        let grant = |prefix: &Prefix| {
            let flags = if prefix.contested { PrefixGrant::CONTESTED } else { 0 };
            let ports = self.set(prefix)?;
            Some((prefix.net, PrefixGrant { ports, flags, length: prefix.net.prefix_len() }))
        };
        prefixes.iter().filter_map(grant).collect()
    }

    fn set(&mut self, prefix: &Prefix) -> Option<u16> {
        if prefix.ports == Ports::Any {
            return Some(PORTS_ANY);
        }
        let set = prefix.ports.to_set()?;
        if let Some(id) = self.sets.get(&set) {
            return Some(*id);
        }
        let id = match self.ledger.set_of(&set).filter(|id| !self.reused.contains(id)) {
            Some(id) => id,
            None => self.new_set(&set, &prefix.net)?,
        };
        self.reused.insert(id);
        self.sets.insert(set, id);
        Some(id)
    }

    /// Writes a free set and returns its number. No other prefix of this plan finds the set by its old contents.
    fn new_set(&mut self, set: &PortSet, net: &IpNet) -> Option<u16> {
        let reused = &self.reused;
        let Some(id) = self.free_sets.find(|id| !reused.contains(id)) else {
            self.overflows.note(Limit::PortSets, usize::from(self.limits.port_sets), net);
            return None;
        };
        self.ops.push(Op::PortSet(id, *set));
        Some(id)
    }

    fn row(&mut self, id: TenantId, v4: RowV4, v6: RowV6) -> u16 {
        let current = self.ledger.actual().tenants.get(&id).map_or(0, |state| state.row);
        if self.ledger.row(current) == (v4, v6) {
            return current;
        }
        if (&v4, &v6) == (&RowV4::default(), &RowV6::default()) {
            return 0;
        }
        let Some(row) = self.free_rows.next() else {
            self.overflows.note(Limit::Rows, usize::from(self.limits.rows), format_args!("tenant number {}", id.0));
            return 0;
        };
        // Both families are written, because the port sets that a free row names may have new contents.
        self.ops.push(Op::RowV4(row, Box::new(v4)));
        self.ops.push(Op::RowV6(row, Box::new(v6)));
        row
    }

    fn plant_v4(&mut self, id: TenantId, grants: &[(IpNet, PrefixGrant)]) -> bool {
        let (used, limit) = (self.ledger.actual().trie_v4.len(), self.limits.trie_v4);
        let entries: Vec<_> = grants.iter().filter_map(|(net, grant)| Some((trie_key_v4(id, net)?, *grant))).collect();
        let new = |key: &(TrieKeyV4, u8)| !self.ledger.actual().trie_v4.contains_key(key);
        let planted = self.trie_v4.keys().filter(|key| new(key)).count();
        let added = entries.iter().filter(|(key, _)| new(key)).count();
        if added > 0 && used + planted + added > limit {
            self.overflows.note(Limit::TrieV4, limit, format_args!("tenant number {}", id.of_trie().0));
            return false;
        }
        self.trie_v4.extend(entries);
        true
    }

    fn plant_v6(&mut self, id: TenantId, grants: &[(IpNet, PrefixGrant)]) -> bool {
        let (used, limit) = (self.ledger.actual().trie_v6.len(), self.limits.trie_v6);
        let entries: Vec<_> = grants.iter().filter_map(|(net, grant)| Some((trie_key_v6(id, net)?, *grant))).collect();
        let new = |key: &(TrieKeyV6, u8)| !self.ledger.actual().trie_v6.contains_key(key);
        let planted = self.trie_v6.keys().filter(|key| new(key)).count();
        let added = entries.iter().filter(|(key, _)| new(key)).count();
        if added > 0 && used + planted + added > limit {
            self.overflows.note(Limit::TrieV6, limit, format_args!("tenant number {}", id.of_trie().0));
            return false;
        }
        self.trie_v6.extend(entries);
        true
    }

    /// Adds the staged writes. New and changed trie entries are written before `turn`, and others are removed after it.
    /// Each entry holds everything that its addresses are allowed, so a mix of old and new entries never allows more.
    fn finish(mut self, phases: &mut Phases) -> Overflows {
        let actual = self.ledger.actual();
        let (set_v4, gone_v4) = changes(&actual.trie_v4, &self.trie_v4);
        let (set_v6, gone_v6) = changes(&actual.trie_v6, &self.trie_v6);
        self.ops.extend(set_v4.into_iter().map(|((key, bits), grant)| Op::TrieV4(bits, key, Some(grant))));
        self.ops.extend(set_v6.into_iter().map(|((key, bits), grant)| Op::TrieV6(bits, key, Some(grant))));
        phases.stage.append(&mut self.ops);
        phases.unstage.extend(gone_v4.into_iter().map(|(key, bits)| Op::TrieV4(bits, key, None)));
        phases.unstage.extend(gone_v6.into_iter().map(|(key, bits)| Op::TrieV6(bits, key, None)));
        self.overflows
    }
}

/// Entries to write and keys to remove.
type Changes<K, V> = (Vec<(K, V)>, Vec<K>);

fn changes<K: Ord + Copy, V: PartialEq + Copy>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Changes<K, V> {
    let set = new.iter().filter(|(key, value)| old.get(key) != Some(value)).map(|(k, v)| (*k, *v)).collect();
    let gone = old.keys().filter(|key| !new.contains_key(key)).copied().collect();
    (set, gone)
}

fn trie_key_v4(tenant: TenantId, net: &IpNet) -> Option<(TrieKeyV4, u8)> {
    let IpNet::V4(net) = net else { return None };
    Some((TrieKeyV4 { tenant, net: V4::new(net.network().octets()) }, net.prefix_len()))
}

fn trie_key_v6(tenant: TenantId, net: &IpNet) -> Option<(TrieKeyV6, u8)> {
    let IpNet::V6(net) = net else { return None };
    Some((TrieKeyV6 { tenant, net: V6::new(net.network().octets()) }, net.prefix_len()))
}

fn fill_v4(row: &mut RowV4, grants: &[(IpNet, PrefixGrant)]) {
    debug_assert!(grants.len() <= ROW_PREFIXES, "longer lists have the trie's flag");
    let nets = grants.iter().filter_map(|(net, grant)| match net {
        IpNet::V4(net) => Some((net, grant)),
        IpNet::V6(_) => None,
    });
    for (place, (net, grant)) in row.prefixes.iter_mut().zip(nets) {
        let mask = V4::mask(net.prefix_len());
        *place = PrefixV4 { net: V4::new(net.network().octets()), mask, grant: *grant, _pad: 0 };
    }
}

fn fill_v6(row: &mut RowV6, grants: &[(IpNet, PrefixGrant)]) {
    debug_assert!(grants.len() <= ROW_PREFIXES, "longer lists have the trie's flag");
    let nets = grants.iter().filter_map(|(net, grant)| match net {
        IpNet::V6(net) => Some((net, grant)),
        IpNet::V4(_) => None,
    });
    for (place, (net, grant)) in row.prefixes.iter_mut().zip(nets) {
        let mask = V6::mask(net.prefix_len());
        *place = PrefixV6 { net: V6::new(net.network().octets()), mask, grant: *grant, _pad: 0 };
    }
}
