//! Applies a plan in its order.
//!
//! A write that fails is left out together with those that depend on it; all others are made. Knows which writes
//! depend on which; does not know why they are planned. The ledger changes only after a write succeeded.

use std::collections::BTreeSet;

use agent_common::layout::{EndpointEntry, PrefixGrant};
use agent_common::tenant::TenantId;

use crate::dataplane::{Dataplane, DataplaneError};
use policy::plan::{Ledger, Op, Table};

/// A write that was not made.
#[derive(Debug)]
pub(crate) struct FailedWrite {
    /// The write.
    pub op: Op,
    /// Why it failed; `None` if it was not tried because an earlier write failed.
    pub error: Option<DataplaneError>,
}

/// Applies `ops` in order and records in `ledger` what was written. Interfaces in `bare` have no program, so no
/// entry is written for them.
pub(crate) fn execute(
    dataplane: &mut impl Dataplane,
    ledger: &mut Ledger,
    ops: Vec<Op>,
    bare: &BTreeSet<u32>,
) -> Vec<FailedWrite> {
    let mut missing = Missing { bare: bare.clone(), ..Missing::default() };
    let mut failures = Vec::new();
    let mut run = Vec::new();
    for op in ops {
        if missing.blocks(&op) {
            missing.record(&op);
            failures.push(FailedWrite { op, error: None });
            continue;
        }
        if run.last().is_some_and(|last: &Op| !is_batch(last, &op)) {
            flush(dataplane, ledger, &mut run, &mut missing, &mut failures);
            // One of the writes just made may be one that this op depends on.
            if missing.blocks(&op) {
                missing.record(&op);
                failures.push(FailedWrite { op, error: None });
                continue;
            }
        }
        run.push(op);
    }
    flush(dataplane, ledger, &mut run, &mut missing, &mut failures);
    failures
}

/// Only addresses are numerous enough to batch, and no plan writes the same one twice in a row.
fn is_batch(last: &Op, next: &Op) -> bool {
    last.table() == next.table() && matches!(next.table(), Table::PeersV4 | Table::PeersV6)
}

fn flush(
    dataplane: &mut impl Dataplane,
    ledger: &mut Ledger,
    run: &mut Vec<Op>,
    missing: &mut Missing,
    failures: &mut Vec<FailedWrite>,
) {
    let mut failed = dataplane.apply_all(run).into_iter().peekable();
    for (at, op) in run.drain(..).enumerate() {
        match failed.next_if(|(failed, _)| *failed == at) {
            None => ledger.record(&op),
            Some((_, error)) => {
                missing.record(&op);
                failures.push(FailedWrite { op, error: Some(error) });
            }
        }
    }
}

/// What could not be written, so that later writes must not refer to it.
#[derive(Default)]
struct Missing {
    bare: BTreeSet<u32>,
    names: BTreeSet<TenantId>,
    rows: BTreeSet<u16>,
    sets: BTreeSet<u16>,
    owners: bool,
}

impl Missing {
    fn record(&mut self, op: &Op) {
        match op {
            Op::Endpoint(ifindex, _) => _ = self.bare.insert(*ifindex),
            Op::TenantName(id, _) => _ = self.names.insert(*id),
            Op::RowV4(row, _) | Op::RowV6(row, _) => _ = self.rows.insert(*row),
            Op::PortSet(set, _) => _ = self.sets.insert(*set),
            Op::OwnerV4(..) | Op::OwnerV6(..) => self.owners = true,
            _ => {}
        }
    }

    fn blocks(&self, op: &Op) -> bool {
        match op {
            Op::Endpoint(ifindex, entry) => {
                *entry != EndpointEntry::default()
                    && (self.bare.contains(ifindex) || self.names.contains(&entry.tenant))
            }
            Op::PeerV4(_, Some(entry)) | Op::PeerV6(_, Some(entry)) => self.names.contains(&entry.tenant),
            Op::Tenant(id, state) => self.rows.contains(&state.row) || self.names.contains(id),
            Op::RowV4(_, row) => row.prefixes.iter().any(|prefix| self.blocks_grant(&prefix.grant)),
            Op::RowV6(_, row) => row.prefixes.iter().any(|prefix| self.blocks_grant(&prefix.grant)),
            Op::TrieV4(_, _, Some(grant)) | Op::TrieV6(_, _, Some(grant)) => self.blocks_grant(grant),
            Op::OwnerV4(_, Some(owner)) | Op::OwnerV6(_, Some(owner)) => self.names.contains(owner),
            Op::Grant(key, Some(_)) => self.names.contains(&key.from) || self.names.contains(&key.to),
            _ => false,
        }
    }

    /// A wide range must not be opened before the owners of all ranges inside it are written.
    fn blocks_grant(&self, grant: &PrefixGrant) -> bool {
        self.sets.contains(&grant.ports) || (self.owners && grant.flags & PrefixGrant::CONTESTED != 0)
    }
}
