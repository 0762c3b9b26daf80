//! Applies a plan: what fails is left out together with what builds on it, and everything else is
//! applied all the same.

use std::collections::BTreeSet;

use agent_common::layout::{EndpointEntry, PrefixGrant};
use agent_common::tenant::TenantId;

use crate::dataplane::{Dataplane, DataplaneError};
use policy::plan::{Ledger, Op, Table};

/// A write that was not made.
#[derive(Debug)]
pub struct Failure {
    /// The write.
    pub op: Op,
    /// Why; none where it was not tried because an earlier one failed.
    pub error: Option<DataplaneError>,
}

/// Applies `ops` in order and notes in `ledger` what was written. Interfaces in `bare` hold no
/// program, so no entry may claim that they are enforced.
pub fn execute(
    dataplane: &mut impl Dataplane,
    ledger: &mut Ledger,
    ops: Vec<Op>,
    bare: &BTreeSet<u32>,
) -> Vec<Failure> {
    let mut missing = Missing { bare: bare.clone(), ..Missing::default() };
    let mut failures = Vec::new();
    let mut run = Vec::new();
    for op in ops {
        if missing.blocks(&op) {
            missing.note(&op);
            failures.push(Failure { op, error: None });
            continue;
        }
        if run.last().is_some_and(|last: &Op| !is_batch(last, &op)) {
            flush(dataplane, ledger, &mut run, &mut missing, &mut failures);
            // What was just tried may be what this one needs.
            if missing.blocks(&op) {
                missing.note(&op);
                failures.push(Failure { op, error: None });
                continue;
            }
        }
        run.push(op);
    }
    flush(dataplane, ledger, &mut run, &mut missing, &mut failures);
    failures
}

/// Only addresses come in numbers worth batching, and no plan writes one twice in a row.
fn is_batch(last: &Op, next: &Op) -> bool {
    last.table() == next.table() && matches!(next.table(), Table::PeersV4 | Table::PeersV6)
}

fn flush(
    dataplane: &mut impl Dataplane,
    ledger: &mut Ledger,
    run: &mut Vec<Op>,
    missing: &mut Missing,
    failures: &mut Vec<Failure>,
) {
    let mut failed = dataplane.apply_all(run).into_iter().peekable();
    for (at, op) in run.drain(..).enumerate() {
        match failed.next_if(|(failed, _)| *failed == at) {
            None => ledger.record(&op),
            Some((_, error)) => {
                missing.note(&op);
                failures.push(Failure { op, error: Some(error) });
            }
        }
    }
}

/// What later writes must not build on.
#[derive(Default)]
struct Missing {
    bare: BTreeSet<u32>,
    names: BTreeSet<TenantId>,
    rows: BTreeSet<u16>,
    sets: BTreeSet<u16>,
    owners: bool,
}

impl Missing {
    fn note(&mut self, op: &Op) {
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

    /// A wide range must not open before all that is carved out of it is fenced.
    fn blocks_grant(&self, grant: &PrefixGrant) -> bool {
        self.sets.contains(&grant.ports) || (self.owners && grant.flags & PrefixGrant::CONTESTED != 0)
    }
}
