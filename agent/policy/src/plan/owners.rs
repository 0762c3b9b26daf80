//! Owners: entries of owned ranges are added before the tenants change, and removed after that.
//!
//! Knows no prefix and no permission. A range that passes from one tenant to another belongs to `TenantId::IN_PASSING`
//! in between. So no tenant's wide range opens it at the wrong moment, and no pod accepts packets from it.

use agent_common::tenant::TenantId;
use ipnet::IpNet;

use super::phases::Phases;
use super::{Actual, Ledger, Op};
use crate::model::desired::Owners;

/// Adds the writes that bring the owners from `ledger` to `wanted`.
pub(super) fn diff(wanted: &Owners, ledger: &Ledger, phases: &mut Phases) {
    let actual = ledger.actual();
    let v4 = actual.owners_v4.iter().map(|(net, owner)| (IpNet::V4(*net), *owner));
    let mut held = v4.chain(actual.owners_v6.iter().map(|(net, owner)| (IpNet::V6(*net), *owner))).peekable();
    let mut gone = Vec::new();
    // Both sides are sorted and may have thousands of entries, so one pass compares them.
    for (net, new) in wanted {
        gone.extend(std::iter::from_fn(|| held.next_if(|(other, _)| other < net)));
        if held.next_if(|(other, _)| other == net).is_none_or(|(_, old)| old != *new) {
            pass(*net, covering(*net, |net| value(actual, net)), *new, phases);
        }
    }
    gone.extend(held);
    let heir = |net: &IpNet| wanted.binary_search_by_key(net, |(net, _)| *net).ok().map(|at| wanted[at].1);
    gone.into_iter().for_each(|(net, old)| leave(net, old, covering(net, heir), phases));
}

/// `net` passes to `new` from `old`, which owned it by its own entry or by a wider one.
fn pass(net: IpNet, old: Option<TenantId>, new: TenantId, phases: &mut Phases) {
    match old {
        Some(old) if old == new => phases.fence.push(op(net, Some(new))),
        Some(TenantId::IN_PASSING) => phases.unfence.push(op(net, Some(new))),
        Some(_) => {
            phases.fence.push(op(net, Some(TenantId::IN_PASSING)));
            phases.unfence.push(op(net, Some(new)));
        }
        None => phases.fence.push(op(net, Some(new))),
    }
}

/// `net` loses its entry. `heir` is the owner of the wider entry that holds it then.
fn leave(net: IpNet, old: TenantId, heir: Option<TenantId>, phases: &mut Phases) {
    if heir.is_some_and(|heir| heir != old) && old != TenantId::IN_PASSING {
        phases.fence.push(op(net, Some(TenantId::IN_PASSING)));
    }
    phases.unfence.push(op(net, None));
}

/// The owner by the longest entry that contains all of `net`.
fn covering(net: IpNet, owner: impl Fn(&IpNet) -> Option<TenantId>) -> Option<TenantId> {
    let wider = std::iter::successors(Some(net), IpNet::supernet);
    wider.into_iter().find_map(|net| owner(&net))
}

fn value(actual: &Actual, net: &IpNet) -> Option<TenantId> {
    match net {
        IpNet::V4(net) => actual.owners_v4.get(net).copied(),
        IpNet::V6(net) => actual.owners_v6.get(net).copied(),
    }
}

fn op(net: IpNet, owner: Option<TenantId>) -> Op {
    match net {
        IpNet::V4(net) => Op::OwnerV4(net, owner),
        IpNet::V6(net) => Op::OwnerV6(net, owner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::Limits;

    const IN_PASSING: u32 = TenantId::IN_PASSING.0;

    /// Fence and unfence writes from one set of owners to another, as `net owner`.
    fn writes(held: &[(&str, u32)], wanted: &[(&str, u32)]) -> (Vec<String>, Vec<String>) {
        let parse = |(net, id): &(&str, u32)| (net.parse::<IpNet>().expect("a range"), TenantId(*id));
        let mut ledger = Ledger::new(Actual::default(), &Limits::default());
        held.iter().map(parse).for_each(|(net, owner)| ledger.record(&op(net, Some(owner))));
        let mut wanted: Owners = wanted.iter().map(parse).collect();
        wanted.sort_unstable();
        let mut phases = Phases::default();
        diff(&wanted, &ledger, &mut phases);
        let text = |op: &Op| match op {
            Op::OwnerV4(net, owner) => format!("{net} {}", owner.map_or("-".to_owned(), |owner| owner.0.to_string())),
            Op::OwnerV6(net, owner) => format!("{net} {}", owner.map_or("-".to_owned(), |owner| owner.0.to_string())),
            op => panic!("{op:?}"),
        };
        (phases.fence.iter().map(text).collect(), phases.unfence.iter().map(text).collect())
    }

    fn pair(fence: &[&str], unfence: &[&str]) -> (Vec<String>, Vec<String>) {
        let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        (owned(fence), owned(unfence))
    }

    #[test]
    fn a_new_range_is_written_early_and_an_old_one_is_removed_late() {
        assert_eq!(writes(&[], &[("10.0.0.0/24", 1)]), pair(&["10.0.0.0/24 1"], &[]));
        assert_eq!(writes(&[("10.0.0.0/24", 1), ("fd00::/64", 2)], &[]), pair(&[], &["10.0.0.0/24 -", "fd00::/64 -"]));
        assert_eq!(writes(&[("10.0.0.0/24", 1)], &[("10.0.0.0/24", 1)]), pair(&[], &[]));
    }

    #[test]
    fn a_range_that_passes_to_another_tenant_has_no_owner_in_between() {
        let passing = format!("10.0.0.0/24 {IN_PASSING}");
        assert_eq!(writes(&[("10.0.0.0/24", 1)], &[("10.0.0.0/24", 2)]), pair(&[&passing], &["10.0.0.0/24 2"]));
        assert_eq!(writes(&[("10.0.0.0/24", IN_PASSING)], &[("10.0.0.0/24", 2)]), pair(&[], &["10.0.0.0/24 2"]));
    }

    #[test]
    fn parts_and_wholes_pass_like_the_range_itself() {
        let part = format!("10.0.0.0/25 {IN_PASSING}");
        assert_eq!(
            writes(&[("10.0.0.0/24", 1)], &[("10.0.0.0/25", 2)]),
            pair(&[&part], &["10.0.0.0/25 2", "10.0.0.0/24 -"])
        );
        assert_eq!(
            writes(&[("10.0.0.0/25", 1)], &[("10.0.0.0/24", 2)]),
            pair(&["10.0.0.0/24 2", &part], &["10.0.0.0/25 -"])
        );
        assert_eq!(writes(&[("10.0.0.0/24", 1)], &[("10.0.0.0/25", 1)]), pair(&["10.0.0.0/25 1"], &["10.0.0.0/24 -"]));
    }
}
