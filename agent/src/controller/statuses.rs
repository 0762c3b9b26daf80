//! What each `NetworkTenant` should be told: its conditions and counts, from the same functions by which nodes decide.
//!
//! Pure: the time comes in as an argument, and only expiries and transitions look at it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::conditions::{Finding, conditions};
use super::world::{World, Written};
use crate::api::NetworkTenantStatus;
use policy::model::input::{Peer, Tenant};
use policy::model::prefixes;
use policy::model::report::{Conflict, ConflictKind};
use policy::model::tenancy::Tenancy;
use policy::model::territory::Territory;

/// Most namespaces listed by name; the count is exact.
const LISTED: usize = 256;
/// Most conflicts told in one message.
const TOLD: usize = 3;

/// What should stand in every status.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Statuses by tenant.
    pub statuses: BTreeMap<String, NetworkTenantStatus>,
    /// How many objects go without something, by kind.
    pub conflicts: BTreeMap<&'static str, usize>,
    /// Marks on namespaces that mean less than their author thinks; no object is to blame.
    pub marks: Vec<String>,
    /// Seconds since 1970 at which a permission ends, and with it what stands here.
    pub next_end: Option<i64>,
}

/// A tenant's namespaces and their pods.
#[derive(Clone, Debug, Default)]
struct Holding {
    namespaces: Vec<String>,
    pods: usize,
}

/// Computes every status.
pub fn report(world: &World, now: Timestamp) -> Report {
    let mut conflicts = conflicts(world);
    let mut holdings = holdings(world);
    let mut report = Report::default();
    for conflict in conflicts.values().flatten() {
        *report.conflicts.entry(conflict.kind.as_str()).or_default() += 1;
        report.marks.extend((!is_loss(conflict.kind)).then(|| conflict.message.clone()));
    }
    for (name, written) in &world.written {
        let holding = holdings.remove(name).unwrap_or_default();
        let conflicts = conflicts.remove(name).unwrap_or_default();
        let tenant = world.cluster.tenants().get(name.as_str()).map(|tenant| &**tenant);
        let findings = match (&written.problem, tenant) {
            (None, Some(tenant)) => understood(world, tenant, &holding, &conflicts, now.as_second()),
            (problem, _) => refused(problem.as_deref().unwrap_or_default()),
        };
        report.statuses.insert(name.clone(), status(written, holding, findings, now));
        report.next_end =
            [report.next_end, tenant.and_then(|tenant| next_end(tenant, now.as_second()))].into_iter().flatten().min();
    }
    report
}

fn status(written: &Written, holding: Holding, findings: [Finding; 3], now: Timestamp) -> NetworkTenantStatus {
    let count = |count: usize| Some(i32::try_from(count).unwrap_or(i32::MAX));
    NetworkTenantStatus {
        observed_generation: written.generation,
        namespace_count: count(holding.namespaces.len()),
        pod_count: count(holding.pods),
        namespaces: holding.namespaces.into_iter().take(LISTED).collect(),
        conditions: conditions(findings, written, now),
    }
}

fn understood(world: &World, tenant: &Tenant, holding: &Holding, conflicts: &[Conflict], now: i64) -> [Finding; 3] {
    let accepted = if holding.namespaces.is_empty() {
        Finding::new("Accepted", true, "EmptySelection", "no namespace belongs to the tenant yet")
    } else {
        Finding::new("Accepted", true, "Accepted", "")
    };
    [accepted, references(world, tenant, now), disputes(conflicts)]
}

fn refused(problem: &str) -> [Finding; 3] {
    let message = format!("{problem}; nodes keep what they last understood of this object");
    let unknown = |kind| Finding::unknown(kind, "Invalid", "the spec is not understood");
    [Finding::new("Accepted", false, "Invalid", &message), unknown("ResolvedRefs"), unknown("Conflicted")]
}

fn disputes(conflicts: &[Conflict]) -> Finding {
    let mut losses: Vec<&Conflict> = conflicts.iter().filter(|conflict| is_loss(conflict.kind)).collect();
    losses.sort_by_key(|conflict| (rank(conflict.kind), &conflict.message));
    let Some(first) = losses.first() else {
        return Finding::new("Conflicted", false, "NoConflict", "");
    };
    let told: Vec<&str> = losses.iter().take(TOLD).map(|conflict| conflict.message.as_str()).collect();
    let more = losses.len().saturating_sub(TOLD);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Finding::new("Conflicted", true, reason(first.kind), &format!("{}{more}", told.join("; ")))
}

/// The first half of a permission that permits nothing because of the other side.
fn references(world: &World, tenant: &Tenant, now: i64) -> Finding {
    let failing = tenant.peers.iter().find_map(|peer| unresolved(world, tenant, peer, now));
    let (resolved, reason, message) = match failing {
        Some((reason, message)) => (false, reason, message),
        None => (true, "ResolvedRefs", String::new()),
    };
    Finding::new("ResolvedRefs", resolved, reason, &message)
}

fn unresolved(world: &World, tenant: &Tenant, peer: &Peer, now: i64) -> Option<(&'static str, String)> {
    let (us, them) = (&tenant.age.name, &peer.tenant);
    if has_ended(peer, now) {
        // It ended as agreed: nothing is wrong, and nobody has to act.
        return None;
    }
    let Some(written) = world.written.get(them) else {
        return Some(("PeerNotFound", format!("there is no NetworkTenant {them}")));
    };
    if written.problem.is_some() {
        return Some(("PeerInvalid", format!("NetworkTenant {them} is not understood")));
    }
    let other = world.cluster.tenants().get(them.as_str())?;
    if other.shared {
        return None;
    }
    let theirs = || other.peers.iter().filter(|theirs| theirs.tenant == *us);
    let meet = |theirs: &Peer| (peer.egress && theirs.ingress) || (peer.ingress && theirs.egress);
    let message = match theirs().next() {
        None => format!("NetworkTenant {them} does not list {us} as a peer"),
        Some(_) if !theirs().any(meet) => format!("{us} and {them} name the same direction: neither may connect"),
        Some(_) if theirs().filter(|theirs| meet(theirs)).all(|theirs| has_ended(theirs, now)) => {
            format!("the half of NetworkTenant {them} has ended")
        }
        Some(_) => return None,
    };
    Some(("PeerNotMutual", message))
}

fn has_ended(peer: &Peer, now: i64) -> bool {
    peer.until.is_some_and(|until| until <= now)
}

fn next_end(tenant: &Tenant, now: i64) -> Option<i64> {
    tenant.peers.iter().filter_map(|peer| peer.until).filter(|until| *until > now).min()
}

fn conflicts(world: &World) -> BTreeMap<String, Vec<Conflict>> {
    let (cluster, territory) = (&world.cluster, Territory::new(&world.cluster));
    let mut all = territory.conflicts.clone();
    let tenancy = Tenancy::new(cluster);
    let objects = tenancy.members.values().filter(|member| member.object.is_some());
    let compiled = objects.map(|member| prefixes::compile(member, &territory, cluster.settings()));
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

fn holdings(world: &World) -> BTreeMap<String, Holding> {
    let mut holdings: BTreeMap<String, Holding> = BTreeMap::new();
    for space in world.cluster.spaces().iter() {
        let Some((_, owner)) = space.claims.first() else { continue };
        let holding = holdings.entry(owner.to_string()).or_default();
        holding.namespaces.push(space.name.to_string());
        holding.pods += world.pods_of(&space.name);
    }
    holdings.values_mut().for_each(|holding| holding.namespaces.sort_unstable());
    holdings
}

/// Whether the object goes without something. What a mark on a namespace does is no fault of an object: otherwise
/// whoever may mark a namespace could make somebody else's tenant look broken.
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
        ConflictKind::NamespaceClaimed => "NamespaceClaimed",
        ConflictKind::KeyNotSelected => "KeyNotSelected",
        ConflictKind::KeyMismatch => "KeyMismatch",
        ConflictKind::TooManyPorts => "TooManyPorts",
        ConflictKind::NameTooLong => "NameTooLong",
    }
}
