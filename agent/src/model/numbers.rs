//! Tenants' numbers: the ones the kernel already has, and the lowest free for newcomers.
//!
//! A number is free only when no table mentions it: a number handed on too early would hand the
//! old tenant's addresses to the new one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agent_common::layout::EndpointEntry;
use agent_common::tenant::{TenantId, TenantName, TenantState};

use super::report::{Conflict, ConflictKind, Overflows};
use super::settings::{Limit, Settings};
use super::tenancy::Tenancy;
use super::word::Word;

/// What the kernel holds, as far as choices must agree with it.
#[derive(Clone, Copy)]
pub struct Held<'a> {
    /// Names of numbers.
    pub names: &'a BTreeMap<TenantId, TenantName>,
    /// Tenants, for their counter slots.
    pub tenants: &'a BTreeMap<TenantId, TenantState>,
    /// Endpoints, for their cookies and event slots.
    pub endpoints: &'a BTreeMap<u32, EndpointEntry>,
    /// Whether any table mentions a number.
    pub mentions: &'a dyn Fn(TenantId) -> bool,
    /// Generation of the policy: a seed that differs between claims.
    pub generation: u64,
}

/// Numbers by name, and what could not get one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Numbers.
    pub of: BTreeMap<Word, TenantId>,
    /// Names that the kernel cannot store.
    pub conflicts: Vec<Conflict>,
    /// Tenants too many.
    pub overflows: Overflows,
}

/// Gives every tenant its number.
pub fn assign(tenancy: &Tenancy, held: &Held<'_>, settings: &Settings) -> Numbers {
    let mut numbers = Numbers::default();
    let mut newcomers = keep_held(tenancy, held, &mut numbers);
    newcomers.sort_by_key(|name| {
        let age = tenancy.members.get(*name).and_then(|member| member.age());
        (age.is_none(), age, *name)
    });
    let limit = settings.limits.tenants;
    let mut free = free_numbers(held, limit);
    for name in newcomers {
        match free.next() {
            Some(number) => _ = numbers.of.insert(name.clone(), number),
            None => numbers.overflows.note(Limit::Tenants, limit as usize, name),
        }
    }
    numbers
}

/// Counter slots by tenant number: slots once given stay, pods or not, until somebody else needs
/// one, so that a tenant whose last pod moves away and back goes on counting where it was.
pub fn counter_slots(
    local: &BTreeMap<TenantId, bool>,
    held: &Held<'_>,
    settings: &Settings,
    overflows: &mut Overflows,
) -> BTreeMap<TenantId, u16> {
    let limit = settings.limits.counter_slots;
    let mut slots = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for id in local.keys() {
        let slot = held.tenants.get(id).map_or(0, |state| state.slot);
        if (1..=limit).contains(&slot) && taken.insert(slot) {
            slots.insert(*id, slot);
        }
    }
    taken.extend(held.tenants.values().map(|state| state.slot));
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

fn keep_held<'a>(tenancy: &'a Tenancy, held: &Held<'_>, numbers: &mut Numbers) -> Vec<&'a Word> {
    let mut known: HashMap<&str, TenantId> = HashMap::with_capacity(held.names.len());
    for (id, name) in held.names.iter().rev() {
        known.extend(name.as_str().map(|name| (name, *id)));
    }
    let mut newcomers = Vec::new();
    for name in tenancy.members.keys() {
        match known.get(&**name) {
            Some(id) => _ = numbers.of.insert(name.clone(), *id),
            None if TenantName::new(name).is_none() => numbers.conflicts.push(too_long(name)),
            None => newcomers.push(name),
        }
    }
    newcomers
}

fn free_numbers<'a>(held: &'a Held<'_>, limit: u32) -> impl Iterator<Item = TenantId> + 'a {
    let limit = limit.min(TenantId::CLUSTER.0 - 1);
    (1..=limit).map(TenantId).filter(|id| !held.names.contains_key(id) && !(held.mentions)(*id))
}

fn too_long(name: &Word) -> Conflict {
    let message = format!(
        "the name of tenant {name} has {} bytes and at most 128 are possible: its pods stay denied; shorten it",
        name.len()
    );
    Conflict { tenant: name.clone(), kind: ConflictKind::NameTooLong, message }
}
