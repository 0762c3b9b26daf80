//! Permissions between two tenants: both must agree, and either half may end by itself.

use std::collections::BTreeMap;

use agent_common::layout::{Grant, GrantKey};
use agent_common::tenant::TenantId;

use super::input::{Peer, Tenant};
use super::tenancy::Tenancy;
use super::word::Word;

/// The permissions in force, and when the next one ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// By who opens and who is reached.
    pub table: BTreeMap<GrantKey, Grant>,
    /// Seconds since 1970 at which `table` changes next without anyone's action.
    pub next_end: Option<i64>,
}

/// One half, reduced to when it ends; never is the greatest.
type Until = i64;

/// What both sides list and `now` has not ended, where at least one side has a pod on this node.
pub fn compile(tenancy: &Tenancy, numbers: &BTreeMap<Word, TenantId>, now: i64) -> Grants {
    let mut grants = Grants::default();
    for (name, member) in &tenancy.members {
        let Some(object) = &member.object else { continue };
        for peer in object.peers.iter().filter(|peer| peer.egress && peer.tenant != **name) {
            let Some((other_name, other)) = tenancy.members.get_key_value(peer.tenant.as_str()) else { continue };
            let Some(other_object) = other.object.as_ref().filter(|_| member.local || other.local) else { continue };
            let (Some(from), Some(to)) = (numbers.get(name), numbers.get(other_name)) else { continue };
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

/// The longest of one side's entries for the other.
fn half(peers: &[Peer], other: &str, direction: fn(&Peer) -> bool) -> Option<Until> {
    let matching = peers.iter().filter(|peer| peer.tenant == other && direction(peer));
    matching.map(|peer| peer.until.unwrap_or(Until::MAX)).max()
}
