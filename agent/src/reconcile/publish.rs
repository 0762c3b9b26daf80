//! Makes the snapshot of a state.
//!
//! Shares unchanged parts with the last snapshot, so a reader sees a change only where there is one. Changes
//! nothing in the state.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_common::tenant::TenantId;

use super::snapshot::{EndpointView, Snapshot, TableFill, TenantView};
use super::state::ReconcileState;
use policy::model::endpoints::EndpointStatus;
use policy::model::input::EndpointKey;
use policy::model::input_guard::InputRules;
use policy::model::limits::Limit;
use policy::model::report::{Conflict, Overflow};
use policy::plan::Table;

/// A snapshot of `state`, unless it equals the last one.
pub(super) fn publish(state: &ReconcileState) -> Option<Snapshot> {
    let last = state.snapshot();
    let desired = &state.desired;
    let endpoints = keep(&last.endpoints, endpoints(state));
    let snapshot = Snapshot {
        revision: last.revision + 1,
        ready: state.ready,
        applied_at: state.applied_at,
        generation: state.actual().generation,
        pending: state.pending,
        unwritten: state.unwritten,
        failures: state.failures.clone(),
        attach_failures: state.attach_failures,
        displaced: keep(&last.displaced, state.displaced.values().cloned().collect()),
        displacements: state.displacements,
        pod_range_gap: state.cluster.pod_range_gap(),
        settings: Arc::clone(state.cluster.settings()),
        address_index: state.cluster.address_index().clone(),
        services: state.cluster.services().address_index().clone(),
        nodes: Arc::clone(state.cluster.nodes()),
        tenancy: Arc::clone(&desired.tenancy),
        tenants: tenants(state, last),
        ports: keep(&last.ports, ports(&endpoints)),
        repairs: keep(&last.repairs, repairs(state, &endpoints)),
        endpoints,
        conflicts: conflicts(state, last),
        overflows: keep(&last.overflows, overflows(state)),
        tables: fills(state),
        guards: keep(&last.guards, state.guards.clone()),
        unprotected: keep(&last.unprotected, state.unprotected.lasting().cloned().collect()),
        unguarded: keep(&last.unguarded, state.unguarded.iter().chain(&state.input_failure).cloned().collect()),
        has_input_guard: state.input != InputRules::default() && state.input_failure.is_none(),
    };
    differs(last, &snapshot).then_some(snapshot)
}

/// The old value if the new one is equal, so both snapshots share it.
fn keep<T: PartialEq>(old: &Arc<T>, new: T) -> Arc<T> {
    if **old == new { Arc::clone(old) } else { Arc::new(new) }
}

fn differs(old: &Snapshot, new: &Snapshot) -> bool {
    old.ready != new.ready
        || old.has_input_guard != new.has_input_guard
        || !Arc::ptr_eq(&old.displaced, &new.displaced)
        || old.displacements != new.displacements
        || old.pod_range_gap != new.pod_range_gap
        || old.generation != new.generation
        || old.pending != new.pending
        || old.unwritten != new.unwritten
        || old.failures != new.failures
        || old.attach_failures != new.attach_failures
        || old.tables != new.tables
        || !old.address_index.is_same(&new.address_index)
        || !old.services.is_same(&new.services)
        || !Arc::ptr_eq(&old.nodes, &new.nodes)
        || !Arc::ptr_eq(&old.tenants, &new.tenants)
        || !Arc::ptr_eq(&old.endpoints, &new.endpoints)
        || !Arc::ptr_eq(&old.repairs, &new.repairs)
        || !Arc::ptr_eq(&old.conflicts, &new.conflicts)
        || !Arc::ptr_eq(&old.overflows, &new.overflows)
        || !Arc::ptr_eq(&old.guards, &new.guards)
        || !Arc::ptr_eq(&old.unguarded, &new.unguarded)
        || !Arc::ptr_eq(&old.unprotected, &new.unprotected)
}

fn tenants(state: &ReconcileState, last: &Snapshot) -> Arc<BTreeMap<TenantId, TenantView>> {
    let tenancy = &state.desired.tenancy;
    if Arc::ptr_eq(tenancy, &last.tenancy) && state.actual().generation == last.generation {
        return Arc::clone(&last.tenants);
    }
    let held = &state.actual().tenants;
    let views = state.desired.tenant_ids.of.iter().filter_map(|(name, id)| {
        let member = tenancy.members.get(name)?.clone();
        Some((*id, TenantView { name: name.clone(), member, state: held.get(id).copied().unwrap_or_default() }))
    });
    Arc::new(views.collect())
}

fn conflicts(state: &ReconcileState, last: &Snapshot) -> Arc<Vec<Conflict>> {
    let is_same = Arc::ptr_eq(&state.desired.tenancy, &last.tenancy);
    if is_same { Arc::clone(&last.conflicts) } else { keep(&last.conflicts, state.desired.conflicts()) }
}

fn endpoints(state: &ReconcileState) -> BTreeMap<EndpointKey, EndpointView> {
    let view = |(key, status): (&EndpointKey, &EndpointStatus)| (key.clone(), endpoint(state, status));
    state.desired.endpoints.statuses.iter().map(view).collect()
}

fn endpoint(state: &ReconcileState, status: &EndpointStatus) -> EndpointView {
    let settings = state.cluster.settings();
    let member = state.desired.tenancy.members.get(&status.tenant);
    let Some(ifindex) = status.ifindex else {
        return EndpointView::new(status.clone(), member, settings, false, None);
    };
    let wanted = state.desired.endpoints.entries.get(&ifindex);
    let installed = wanted.is_some() && state.actual().endpoints.get(&ifindex) == wanted;
    let error = state.bare.get(&ifindex).or_else(|| state.broken.get(&ifindex)).cloned();
    EndpointView::new(status.clone(), member, settings, installed, error)
}

fn ports(endpoints: &BTreeMap<EndpointKey, EndpointView>) -> BTreeMap<u32, EndpointKey> {
    let claimed = endpoints.iter().filter(|(_, view)| view.status.is_claimed());
    claimed.filter_map(|(key, view)| Some((view.status.ifindex?, key.clone()))).collect()
}

/// How often programs were attached again, of the pods that still exist.
fn repairs(state: &ReconcileState, endpoints: &BTreeMap<EndpointKey, EndpointView>) -> BTreeMap<EndpointKey, u64> {
    let here = state.repairs.iter().filter(|(key, _)| endpoints.contains_key(key));
    here.map(|(key, count)| (key.clone(), *count)).collect()
}

fn overflows(state: &ReconcileState) -> Vec<Overflow> {
    let mut all = state.desired.overflows();
    all.extend(&state.overflows);
    let limits = &state.cluster.settings().limits;
    for address in &state.refused {
        let limit = if address.is_ipv4() { Limit::PeersV4 } else { Limit::PeersV6 };
        all.note(limit, limits.get(limit), address);
    }
    all.as_slice().to_vec()
}

fn fills(state: &ReconcileState) -> Vec<TableFill> {
    let fill = |table| TableFill { table, used: state.actual().len(table), limit: state.capacity(table) };
    Table::ALL.into_iter().filter(|table| *table != Table::Runtime).map(fill).collect()
}
