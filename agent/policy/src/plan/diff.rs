//! Compares desired with the ledger and makes an ordered plan.
//!
//! Knows no rule of the policy. Compares only what is marked as dirty, and puts each write into its phase.

use std::collections::BTreeMap;

use agent_common::layout::{EndpointEntry, Grant, GrantKey};

use super::phases::Phases;
use super::{Ledger, Op, Plan, owners, peers, prefixes};
use crate::model::cluster::Cluster;
use crate::model::desired::Desired;
use crate::model::dirty::Dirty;
use crate::model::limits::{Limit, Limits};
use crate::model::report::Overflows;

/// The writes that bring what `dirty` marks from `ledger` to `desired`.
///
/// A number that lost its last mention in an earlier plan loses its name in this one. So a caller makes another plan
/// after each applied one, until no such number is left.
pub fn diff(cluster: &Cluster, desired: &Desired, ledger: &Ledger, dirty: &Dirty) -> Plan {
    let mut phases = Phases::default();
    let mut overflows = Overflows::default();
    let limits = &cluster.settings().limits;
    let policy = dirty.everything || dirty.ranges || dirty.tenancy;
    if policy {
        names(desired, ledger, &mut phases);
        overflows.extend(&prefixes::diff(&desired.tenants, ledger, limits, &mut phases));
        overflows.extend(&grants(&desired.grants.table, ledger, limits, &mut phases));
    }
    if dirty.everything || dirty.ranges {
        owners::diff(&desired.owners, ledger, &mut phases);
    }
    if policy || dirty.endpoints {
        endpoints(&desired.endpoints.entries, ledger, &mut phases);
    }
    let rest = peers::diff(cluster, desired, ledger, dirty, &mut phases);
    Plan { overflows, refused: rest.refused, deferred: rest.deferred, ..phases.into_plan(ledger) }
}

fn names(desired: &Desired, ledger: &Ledger, phases: &mut Phases) {
    let actual = &ledger.actual().names;
    let new = desired.names.iter().filter(|(id, name)| actual.get(id) != Some(name));
    phases.name.extend(new.map(|(id, name)| Op::TenantName(*id, Some(*name))));
    let gone = actual.keys().filter(|id| !desired.names.contains_key(id) && !ledger.mentions(**id));
    phases.unname.extend(gone.map(|id| Op::TenantName(*id, None)));
}

fn grants(wanted: &BTreeMap<GrantKey, Grant>, ledger: &Ledger, limits: &Limits, phases: &mut Phases) -> Overflows {
    let actual = &ledger.actual().grants;
    let mut overflows = Overflows::default();
    let gone = actual.keys().filter(|key| !wanted.contains_key(key));
    phases.ungrant.extend(gone.map(|key| Op::Grant(*key, None)));
    // Grants are removed before new ones are added, so their entries are free by then.
    let mut used = actual.len() - phases.ungrant.len();
    for (key, grant) in wanted {
        match actual.get(key) {
            Some(old) if old == grant => {}
            Some(old) if old.until > grant.until => phases.ungrant.push(Op::Grant(*key, Some(*grant))),
            Some(_) => phases.grant.push(Op::Grant(*key, Some(*grant))),
            None if used < limits.grants => {
                used += 1;
                phases.grant.push(Op::Grant(*key, Some(*grant)));
            }
            None => {
                let example = format_args!("tenant number {} to {}", key.from.0, key.to.0);
                overflows.note(Limit::Grants, limits.grants, example);
            }
        }
    }
    overflows
}

/// An entry that gets another cookie is cleared first: the kernel copies an array element word by word while programs
/// read it.
fn endpoints(wanted: &BTreeMap<u32, EndpointEntry>, ledger: &Ledger, phases: &mut Phases) {
    let actual = &ledger.actual().endpoints;
    let clear = |ifindex: &u32| Op::Endpoint(*ifindex, EndpointEntry::default());
    phases.clear.extend(actual.keys().filter(|ifindex| !wanted.contains_key(ifindex)).map(clear));
    for (ifindex, entry) in wanted {
        match actual.get(ifindex) {
            Some(old) if old == entry => continue,
            Some(old) if old.cookie != entry.cookie => phases.clear.push(clear(ifindex)),
            _ => {}
        }
        phases.claim.push(Op::Endpoint(*ifindex, *entry));
    }
}
