//! Computes the status of each `NetworkTenant`: conditions and counts, from the functions by which nodes decide.
//!
//! Pure: time is an argument, used for expiries and transition times only. Makes no request.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::conditions::{ConditionFinding, conditions};
use super::state::{ControllerState, TenantObject};
use crate::api::NetworkTenantStatus;
use policy::model::grants::{Agreement, agreement, has_ended};
use policy::model::input::{Peer, Tenant};
use policy::model::ownership::Ownership;
use policy::model::prefixes;
use policy::model::report::{Conflict, ConflictKind};
use policy::model::tenancy::Tenancy;

/// How many namespaces are listed by name. The count is always exact.
const LISTED: usize = 256;
/// How many conflicts one message names.
const NAMED_CONFLICTS: usize = 3;

/// Every status as it should be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Statuses by tenant.
    pub statuses: BTreeMap<String, NetworkTenantStatus>,
    /// How many conflicts there are, by kind.
    pub conflicts: BTreeMap<&'static str, usize>,
    /// Messages about tenancy keys on namespaces that have no effect. They are no fault of a tenant object.
    pub marks: Vec<String>,
    /// Unix time at which the next permission ends, and with it this report becomes out of date.
    pub next_end: Option<i64>,
}

/// A tenant's namespaces and their pods.
#[derive(Clone, Debug, Default)]
struct Holding {
    namespaces: Vec<String>,
    pods: usize,
}

/// Computes every status.
pub(crate) fn report(state: &ControllerState, now: Timestamp) -> Report {
    let mut conflicts = conflicts(state);
    let mut holdings = holdings(state);
    let mut report = Report::default();
    for conflict in conflicts.values().flatten() {
        *report.conflicts.entry(conflict.kind.as_str()).or_default() += 1;
        report.marks.extend((!is_loss(conflict.kind)).then(|| conflict.message.clone()));
    }
    for (name, object) in &state.objects {
        let holding = holdings.remove(name).unwrap_or_default();
        let conflicts = conflicts.remove(name).unwrap_or_default();
        let tenant = state.cluster.tenants().get(name.as_str()).map(|tenant| &**tenant);
        let findings = match (&object.problem, tenant) {
            (None, Some(tenant)) => evaluated(state, tenant, &holding, &conflicts, now.as_second()),
            (problem, _) => invalid(problem.as_deref().unwrap_or_default()),
        };
        report.statuses.insert(name.clone(), status(object, holding, findings, now));
        report.next_end =
            [report.next_end, tenant.and_then(|tenant| next_end(tenant, now.as_second()))].into_iter().flatten().min();
    }
    report
}

fn status(
    object: &TenantObject,
    holding: Holding,
    findings: [ConditionFinding; 3],
    now: Timestamp,
) -> NetworkTenantStatus {
    let count = |count: usize| Some(i32::try_from(count).unwrap_or(i32::MAX));
    NetworkTenantStatus {
        observed_generation: object.generation,
        namespace_count: count(holding.namespaces.len()),
        pod_count: count(holding.pods),
        namespaces: holding.namespaces.into_iter().take(LISTED).collect(),
        conditions: conditions(findings, object, now),
    }
}

fn evaluated(
    state: &ControllerState,
    tenant: &Tenant,
    holding: &Holding,
    conflicts: &[Conflict],
    now: i64,
) -> [ConditionFinding; 3] {
    let accepted = if holding.namespaces.is_empty() {
        ConditionFinding::new("Accepted", true, "EmptySelection", "no namespace belongs to this tenant yet")
    } else {
        ConditionFinding::new("Accepted", true, "Accepted", "")
    };
    [accepted, references(state, tenant, now), disputes(conflicts)]
}

fn invalid(problem: &str) -> [ConditionFinding; 3] {
    let message = format!("{problem}; nodes keep the last valid version of this object");
    let unknown = |kind| ConditionFinding::unknown(kind, "Invalid", "the spec is invalid, so this is not evaluated");
    [ConditionFinding::new("Accepted", false, "Invalid", &message), unknown("ResolvedRefs"), unknown("Conflicted")]
}

fn disputes(conflicts: &[Conflict]) -> ConditionFinding {
    let mut losses: Vec<&Conflict> = conflicts.iter().filter(|conflict| is_loss(conflict.kind)).collect();
    losses.sort_by_key(|conflict| (rank(conflict.kind), &conflict.message));
    let Some(first) = losses.first() else {
        return ConditionFinding::new("Conflicted", false, "NoConflict", "");
    };
    let named: Vec<&str> = losses.iter().take(NAMED_CONFLICTS).map(|conflict| conflict.message.as_str()).collect();
    let more = losses.len().saturating_sub(NAMED_CONFLICTS);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    ConditionFinding::new("Conflicted", true, reason(first.kind), &format!("{}{more}", named.join("; ")))
}

/// Reports the first peer entry that permits nothing because the other tenant does not agree.
fn references(state: &ControllerState, tenant: &Tenant, now: i64) -> ConditionFinding {
    let failing = tenant.peers.iter().find_map(|peer| unresolved(state, tenant, peer, now));
    let (resolved, reason, message) = match failing {
        Some((reason, message)) => (false, reason, message),
        None => (true, "ResolvedRefs", String::new()),
    };
    ConditionFinding::new("ResolvedRefs", resolved, reason, &message)
}

fn unresolved(state: &ControllerState, tenant: &Tenant, peer: &Peer, now: i64) -> Option<(&'static str, String)> {
    let (us, them) = (&tenant.age.name, &peer.tenant);
    if has_ended(peer, now) {
        // It ended as agreed, so there is nothing to report.
        return None;
    }
    let Some(object) = state.objects.get(them) else {
        return Some(("PeerNotFound", format!("NetworkTenant {them} does not exist")));
    };
    if object.problem.is_some() {
        return Some(("PeerInvalid", format!("the spec of NetworkTenant {them} is invalid")));
    }
    let other = state.cluster.tenants().get(them.as_str())?;
    let message = match agreement(tenant, peer, Some(&**other), now) {
        Agreement::NotListed => format!("NetworkTenant {them} does not list {us} as a peer"),
        Agreement::SameDirection => format!(
            "{us} and {them} name the same direction, so neither may connect; one needs Egress, the other Ingress"
        ),
        Agreement::PeerEnded => format!("the peer entry for {us} in NetworkTenant {them} has expired"),
        Agreement::NoSuchTenant | Agreement::Shared | Agreement::Agreed => return None,
    };
    Some(("PeerNotMutual", message))
}

fn next_end(tenant: &Tenant, now: i64) -> Option<i64> {
    tenant.peers.iter().filter_map(|peer| peer.until).filter(|until| *until > now).min()
}

fn conflicts(state: &ControllerState) -> BTreeMap<String, Vec<Conflict>> {
    let (cluster, ownership) = (&state.cluster, Ownership::new(&state.cluster));
    let mut all = ownership.conflicts.clone();
    all.extend(ownership.in_use(cluster));
    let tenancy = Tenancy::new(cluster);
    let objects = tenancy.members.values().filter(|member| member.object.is_some());
    let compiled = objects.map(|member| prefixes::compile(member, &ownership, &cluster.settings().metadata));
    all.extend(compiled.flat_map(|prefixes| prefixes.conflicts));
    all.extend(tenancy.conflicts);
    all.sort();
    all.dedup();
    let mut by_tenant: BTreeMap<String, Vec<Conflict>> = BTreeMap::new();
    for conflict in all {
        by_tenant.entry(conflict.tenant.to_string()).or_default().push(conflict);
    }
    by_tenant
}

fn holdings(state: &ControllerState) -> BTreeMap<String, Holding> {
    let mut holdings: BTreeMap<String, Holding> = BTreeMap::new();
    for namespace in state.cluster.namespaces().iter() {
        let Some((_, owner)) = namespace.claims.first() else { continue };
        let holding = holdings.entry(owner.to_string()).or_default();
        holding.namespaces.push(namespace.name.to_string());
        holding.pods += state.pods_of(&namespace.name);
    }
    holdings.values_mut().for_each(|holding| holding.namespaces.sort_unstable());
    holdings
}

/// Whether the tenant object loses something by the conflict. A tenancy key on a namespace does not count: otherwise a
/// namespace's owner could make another tenant look broken.
fn is_loss(kind: ConflictKind) -> bool {
    !matches!(kind, ConflictKind::KeyNotSelected | ConflictKind::KeyMismatch)
}

fn rank(kind: ConflictKind) -> u8 {
    match kind {
        ConflictKind::NamespaceClaimed => 0,
        ConflictKind::SubnetOverlap => 1,
        ConflictKind::ClusterRange => 2,
        _ => 3,
    }
}

fn reason(kind: ConflictKind) -> &'static str {
    match kind {
        ConflictKind::SubnetOverlap => "SubnetOverlap",
        ConflictKind::ClusterRange => "ClusterRange",
        ConflictKind::SubnetInUse => "SubnetInUse",
        ConflictKind::PodRangeUnknown => "PodRangeUnknown",
        ConflictKind::NamespaceClaimed => "NamespaceClaimed",
        ConflictKind::KeyNotSelected => "KeyNotSelected",
        ConflictKind::KeyMismatch => "KeyMismatch",
        ConflictKind::TooManyPorts => "TooManyPorts",
        ConflictKind::NodeWithoutPorts => "NodeWithoutPorts",
        ConflictKind::NameTooLong => "NameTooLong",
    }
}
