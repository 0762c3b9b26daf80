//! Tenants' numbers and counter slots: those that the kernel already has, and free ones for new tenants.
//!
//! Knows no rule of the policy. A number is free only when no table mentions it. Otherwise the new tenant would get the
//! old tenant's addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agent_common::layout::EndpointEntry;
use agent_common::tenant::{TenantId, TenantName, TenantState};

use super::limits::Limit;
use super::name::Name;
use super::report::{Conflict, ConflictKind, Overflows};
use super::settings::Settings;
use super::tenancy::Tenancy;

/// What the kernel holds, as far as new numbers, cookies and slots depend on it.
#[derive(Clone, Copy)]
pub struct KernelView<'a> {
    /// Names by tenant number.
    pub names: &'a BTreeMap<TenantId, TenantName>,
    /// Tenants, for their counter slots.
    pub tenants: &'a BTreeMap<TenantId, TenantState>,
    /// Endpoints, for their cookies and event slots.
    pub endpoints: &'a BTreeMap<u32, EndpointEntry>,
    /// Whether any table mentions a number.
    pub mentions: &'a dyn Fn(TenantId) -> bool,
    /// Generation of the policy. Cookies are hashed with it, so two claims get different ones.
    pub generation: u64,
}

/// Numbers by name, and the tenants that got none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantIds {
    /// Numbers by name.
    pub of: BTreeMap<Name, TenantId>,
    /// Names that the kernel cannot store.
    pub conflicts: Vec<Conflict>,
    /// Tenants beyond the limit.
    pub overflows: Overflows,
}

/// Gives every tenant its number.
pub fn assign(tenancy: &Tenancy, kernel: &KernelView<'_>, settings: &Settings) -> TenantIds {
    let mut tenant_ids = TenantIds::default();
    let mut newcomers = keep_known(tenancy, kernel, &mut tenant_ids);
    newcomers.sort_by_key(|name| {
        let age = tenancy.members.get(*name).and_then(|member| member.age());
        (age.is_none(), age, *name)
    });
    let limit = settings.limits.tenants;
    let mut free = free_ids(kernel, limit);
    for name in newcomers {
        match free.next() {
            Some(number) => _ = tenant_ids.of.insert(name.clone(), number),
            None => tenant_ids.overflows.note(Limit::Tenants, limit as usize, name),
        }
    }
    tenant_ids
}

/// Counter slots by tenant number. A tenant without pods keeps its slot until another tenant needs one. So its counters
/// continue if its last pod leaves the node and another one comes.
pub(crate) fn counter_slots(
    local: &BTreeMap<TenantId, bool>,
    kernel: &KernelView<'_>,
    settings: &Settings,
    overflows: &mut Overflows,
) -> BTreeMap<TenantId, u16> {
    let limit = settings.limits.counter_slots;
    let mut slots = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for id in local.keys() {
        let slot = kernel.tenants.get(id).map_or(0, |state| state.slot);
        if (1..=limit).contains(&slot) && taken.insert(slot) {
            slots.insert(*id, slot);
        }
    }
    taken.extend(kernel.tenants.values().map(|state| state.slot));
    let mut free = (1..=limit).filter(|slot| !taken.contains(slot)).collect::<Vec<_>>().into_iter();
    for (id, _) in local.iter().filter(|(_, local)| **local) {
        if slots.contains_key(id) {
            continue;
        }
        match free.next().or_else(|| reclaim(&mut slots, local)) {
            Some(slot) => _ = slots.insert(*id, slot),
            None => overflows.note(Limit::CounterSlots, usize::from(limit), format_args!("tenant number {}", id.0)),
        }
    }
    slots
}

/// Takes the slot of a tenant without pods here.
fn reclaim(slots: &mut BTreeMap<TenantId, u16>, local: &BTreeMap<TenantId, bool>) -> Option<u16> {
    let idle = slots.keys().find(|id| local.get(id) == Some(&false)).copied()?;
    slots.remove(&idle)
}

fn keep_known<'a>(tenancy: &'a Tenancy, kernel: &KernelView<'_>, tenant_ids: &mut TenantIds) -> Vec<&'a Name> {
    let mut known: HashMap<&str, TenantId> = HashMap::with_capacity(kernel.names.len());
    for (id, name) in kernel.names.iter().rev() {
        known.extend(name.as_str().map(|name| (name, *id)));
    }
    let mut newcomers = Vec::new();
    for name in tenancy.members.keys() {
        match known.get(&**name) {
            Some(id) => _ = tenant_ids.of.insert(name.clone(), *id),
            None if TenantName::new(name).is_none() => tenant_ids.conflicts.push(too_long(name)),
            None => newcomers.push(name),
        }
    }
    newcomers
}

fn free_ids<'a>(kernel: &'a KernelView<'_>, limit: u32) -> impl Iterator<Item = TenantId> + 'a {
    // The numbers above `LAST` are reserved for owners that are no tenant.
    let limit = limit.min(TenantId::LAST.0);
    (1..=limit).map(TenantId).filter(|id| !kernel.names.contains_key(id) && !(kernel.mentions)(*id))
}

fn too_long(name: &Name) -> Conflict {
    let message = format!(
        "the name of tenant {name} has {} bytes, but at most 128 are allowed: its pods stay denied; shorten the name",
        name.len()
    );
    Conflict { tenant: name.clone(), kind: ConflictKind::NameTooLong, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::{Age, Change, Tenant};
    use crate::model::limits::Limits;
    use crate::model::testing::{cluster, compiled_with, conflicts, tenant};
    use crate::plan::Actual;

    fn held(names: &[(u32, &str)], endpoints_of: &[u32]) -> Actual {
        let name = |(id, name): &(u32, &str)| (TenantId(*id), TenantName::new(name).expect("short"));
        let entry = |id: &u32| (*id, EndpointEntry { tenant: TenantId(*id), cookie: 1, ..EndpointEntry::default() });
        Actual {
            names: names.iter().map(name).collect(),
            endpoints: endpoints_of.iter().map(entry).collect(),
            ..Actual::default()
        }
    }

    type Pairs<T> = Vec<(String, T)>;

    fn tenant_ids(limit: u32, actual: Actual, tenants: Vec<Tenant>) -> (Pairs<u32>, Pairs<&'static str>) {
        let limits = Limits { tenants: limit, ..Limits::default() };
        let cluster = cluster(Settings { limits, ..Settings::default() }, vec![Change::Tenants(tenants)]);
        let desired = compiled_with(&cluster, actual, 0);
        (desired.tenant_ids.of.iter().map(|(name, id)| (name.to_string(), id.0)).collect(), conflicts(&desired))
    }

    fn of(names: &[&str]) -> Vec<Tenant> {
        names.iter().map(|name| tenant(name)).collect()
    }

    fn pairs(pairs: &[(&str, u32)]) -> Vec<(String, u32)> {
        pairs.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect()
    }

    #[test]
    fn held_numbers_stay_and_newcomers_get_the_lowest_free_ones_by_age() {
        assert_eq!(tenant_ids(9, Actual::default(), of(&["b", "a"])).0, pairs(&[("a", 1), ("b", 2)]));
        let mut old = tenant("z");
        old.age = Age { created: -1, name: "z".into() };
        let tenants = [of(&["a", "b"]), vec![old]].concat();
        assert_eq!(tenant_ids(9, held(&[(1, "b")], &[]), tenants).0, pairs(&[("a", 3), ("b", 1), ("z", 2)]));
    }

    #[test]
    fn a_number_that_any_table_mentions_is_not_reused() {
        assert_eq!(tenant_ids(9, held(&[], &[1, 2]), of(&["a"])).0, pairs(&[("a", 3)]));
        assert_eq!(tenant_ids(9, held(&[(1, "gone")], &[]), of(&["a"])).0, pairs(&[("a", 2)]));
        assert_eq!(tenant_ids(9, held(&[], &[]), of(&["a"])).0, pairs(&[("a", 1)]), "the paired control");
    }

    #[test]
    fn the_youngest_get_no_number_beyond_the_limit() {
        let (got, _) = tenant_ids(2, held(&[(2, "c")], &[]), of(&["a", "b", "c"]));
        assert_eq!(got, pairs(&[("a", 1), ("c", 2)]));
    }

    #[test]
    fn a_name_that_cannot_be_stored_gets_no_number() {
        let (got, conflicts) = tenant_ids(9, Actual::default(), of(&["a", &"x".repeat(129), &"y".repeat(128)]));
        assert_eq!((got.len(), conflicts), (2, vec![("x".repeat(129), "name_too_long")]));
    }

    #[test]
    fn counter_slots_stay_with_their_tenants_until_another_one_needs_them() {
        let slots = |held_slots: &[(u32, u16)], local: &[(u32, bool)], limit| {
            let state = |(id, slot): &(u32, u16)| (TenantId(*id), TenantState { flags: 1, row: 0, slot: *slot });
            let tenants = held_slots.iter().map(state).collect();
            let (names, endpoints) = (BTreeMap::new(), BTreeMap::new());
            let kernel = KernelView {
                names: &names,
                tenants: &tenants,
                endpoints: &endpoints,
                mentions: &|_| false,
                generation: 0,
            };
            let settings =
                Settings { limits: Limits { counter_slots: limit, ..Limits::default() }, ..Settings::default() };
            let mut overflows = Overflows::default();
            let local = local.iter().map(|(id, local)| (TenantId(*id), *local)).collect();
            let slots = counter_slots(&local, &kernel, &settings, &mut overflows);
            (slots.into_iter().map(|(id, slot)| (id.0, slot)).collect::<Vec<_>>(), overflows.as_slice().len())
        };
        assert_eq!(slots(&[], &[(1, true), (2, false), (3, true)], 9), (vec![(1, 1), (3, 2)], 0));
        assert_eq!(slots(&[(1, 2)], &[(1, false), (3, true)], 9), (vec![(1, 2), (3, 1)], 0));
        assert_eq!(slots(&[(1, 1)], &[(1, false), (3, true)], 1), (vec![(3, 1)], 0), "the idle tenant loses its slot");
        assert_eq!(slots(&[(1, 1)], &[(1, true), (3, true)], 1), (vec![(1, 1)], 1));
    }
}
