//! Grants: permissions between two tenants. Both tenants must list each other.
//!
//! Knows no address and no clock: the time is an argument. Each half of a permission may expire by itself, and the
//! permission expires with the first one.

use std::collections::BTreeMap;

use agent_common::layout::{Grant, GrantKey};
use agent_common::tenant::TenantId;

use super::input::{Peer, Tenant};
use super::name::Name;
use super::tenancy::Tenancy;

/// The grants in force, and when the next one expires.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// The grants, by the tenant that opens connections and the tenant that accepts them.
    pub table: BTreeMap<GrantKey, Grant>,
    /// When the next grant in `table` expires, in seconds since 1970.
    pub next_end: Option<i64>,
}

/// When a half expires, in seconds since 1970. The greatest value means never.
type Until = i64;

/// Grants that both tenants list and that have not expired, if one of the two has a pod on this node.
pub fn compile(tenancy: &Tenancy, tenant_ids: &BTreeMap<Name, TenantId>, now: i64) -> Grants {
    let mut grants = Grants::default();
    for (name, member) in &tenancy.members {
        let Some(object) = &member.object else { continue };
        for peer in object.peers.iter().filter(|peer| peer.egress && peer.tenant != **name) {
            let Some((other_name, other)) = tenancy.members.get_key_value(peer.tenant.as_str()) else { continue };
            let Some(other_object) = other.object.as_ref().filter(|_| member.local || other.local) else { continue };
            let (Some(from), Some(to)) = (tenant_ids.get(name), tenant_ids.get(other_name)) else { continue };
            if let Some(until) = agreed(object, other_object, now) {
                grants.add(GrantKey { from: *from, to: *to }, until);
            }
        }
    }
    grants
}

impl Grants {
    fn add(&mut self, key: GrantKey, until: Until) {
        let ends = (until != Until::MAX).then_some(until);
        self.next_end = [self.next_end, ends].into_iter().flatten().min();
        let until = ends.map_or(Grant::FOREVER, |end| u64::try_from(end).unwrap_or(0));
        self.table.insert(key, Grant { until });
    }
}

/// Until when `from` may open connections to `to`, if it may now.
fn agreed(from: &Tenant, to: &Tenant, now: i64) -> Option<Until> {
    let out = half(&from.peers, &to.age.name, |peer| peer.egress)?;
    let back = half(&to.peers, &from.age.name, |peer| peer.ingress)?;
    Some(out.min(back)).filter(|until| *until > now)
}

/// The effect of one tenant's entry for a peer, given the peer's own entries. Whether the entry itself has expired is
/// not considered: see [`has_ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// The peer does not exist.
    NoSuchTenant,
    /// The peer is Shared, so no permission is needed.
    Shared,
    /// The peer does not list the tenant.
    NotListed,
    /// Both list each other, but neither opens connections that the other accepts.
    SameDirection,
    /// The peer's matching entries have expired.
    PeerEnded,
    /// A connection in at least one direction is permitted.
    Agreed,
}

/// Evaluates `peer`, an entry of `tenant`, against `other`, the tenant it names.
pub fn agreement(tenant: &Tenant, peer: &Peer, other: Option<&Tenant>, now: i64) -> Agreement {
    let Some(other) = other else { return Agreement::NoSuchTenant };
    if other.shared {
        return Agreement::Shared;
    }
    let theirs = || other.peers.iter().filter(|theirs| theirs.tenant == tenant.age.name);
    let meets = |theirs: &&Peer| (peer.egress && theirs.ingress) || (peer.ingress && theirs.egress);
    if theirs().next().is_none() {
        Agreement::NotListed
    } else if !theirs().any(|theirs| meets(&theirs)) {
        Agreement::SameDirection
    } else if theirs().filter(meets).all(|theirs| has_ended(theirs, now)) {
        Agreement::PeerEnded
    } else {
        Agreement::Agreed
    }
}

/// Whether an entry for a peer has expired.
pub fn has_ended(peer: &Peer, now: i64) -> bool {
    peer.until.is_some_and(|until| until <= now)
}

/// The latest expiry among one tenant's entries for the other.
fn half(peers: &[Peer], other: &str, direction: fn(&Peer) -> bool) -> Option<Until> {
    let matching = peers.iter().filter(|peer| peer.tenant == other && direction(peer));
    matching.map(|peer| peer.until.unwrap_or(Until::MAX)).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::Change;
    use crate::model::settings::Settings;
    use crate::model::testing::{cluster, local, namespace, peer, tenant};

    /// Grants between `a` and `b` with these halves, at time 100, with a pod of `a` on this node.
    fn between(a: Vec<Peer>, b: Vec<Peer>) -> (Vec<(u32, u32, u64)>, Option<i64>) {
        let halves = vec![Tenant { peers: a, ..tenant("a") }, Tenant { peers: b, ..tenant("b") }];
        let changes = vec![
            Change::Tenants(halves),
            Change::Namespace(namespace("web", "a")),
            Change::Endpoint(local("web/pod", &["10.0.0.1"], "veth")),
        ];
        let tenancy = Tenancy::new(&cluster(Settings::default(), changes));
        let tenant_ids = [(Name::from("a"), TenantId(1)), (Name::from("b"), TenantId(2))].into();
        let grants = compile(&tenancy, &tenant_ids, 100);
        (grants.table.iter().map(|(key, grant)| (key.from.0, key.to.0, grant.until)).collect(), grants.next_end)
    }

    #[test]
    fn a_permission_needs_both_halves_in_matching_directions() {
        let to = |name, egress, ingress| vec![peer(name, egress, ingress, None)];
        assert_eq!(between(to("b", true, false), to("a", false, true)).0, [(1, 2, Grant::FOREVER)]);
        assert_eq!(between(to("b", true, true), to("a", true, true)).0.len(), 2);
        assert!(between(to("b", true, false), vec![]).0.is_empty(), "one side alone");
        assert!(between(to("b", true, false), to("a", true, false)).0.is_empty(), "both have egress only");
        assert!(between(to("b", true, false), to("c", false, true)).0.is_empty(), "the peer lists another tenant");
        assert!(between(to("a", true, true), vec![]).0.is_empty(), "a tenant that lists itself");
    }

    #[test]
    fn an_entry_is_agreed_exactly_if_it_leads_to_a_permission() {
        let halves: Vec<Vec<Peer>> = [(true, false), (false, true), (true, true)]
            .into_iter()
            .flat_map(|(egress, ingress)| {
                [None, Some(50), Some(200)].map(move |until| move |name| peer(name, egress, ingress, until))
            })
            .map(|entry| vec![entry("a"), entry("b")])
            .collect();
        for ours in &halves {
            for theirs in halves.iter().map(Some).chain([None]) {
                let (ours, theirs) = (&ours[1], theirs.map(|entries| entries[0].clone()));
                let a = Tenant { peers: vec![ours.clone()], ..tenant("a") };
                let b = Tenant { peers: theirs.clone().into_iter().collect(), ..tenant("b") };
                let is_agreed = !has_ended(ours, 100) && agreement(&a, ours, Some(&b), 100) == Agreement::Agreed;
                let (permissions, _) = between(a.peers.clone(), b.peers.clone());
                assert_eq!(is_agreed, !permissions.is_empty(), "{ours:?} {theirs:?}");
            }
        }
    }

    #[test]
    fn the_shorter_half_ends_it_and_the_end_is_exclusive() {
        let until = |a, b| between(vec![peer("b", true, false, a)], vec![peer("a", false, true, b)]);
        assert_eq!(until(Some(300), Some(200)), (vec![(1, 2, 200)], Some(200)));
        assert_eq!(until(None, Some(200)), (vec![(1, 2, 200)], Some(200)));
        assert_eq!(until(Some(101), None).1, Some(101));
        assert_eq!(until(Some(100), None), (vec![], None));
        assert_eq!(until(Some(-5), None), (vec![], None));
    }

    #[test]
    fn of_several_entries_for_one_tenant_the_longest_counts() {
        let out = vec![peer("b", true, false, Some(150)), peer("b", true, false, Some(400))];
        assert_eq!(between(out, vec![peer("a", true, true, Some(250))]).0, [(1, 2, 250)]);
    }
}
