//! Turns the kernel's counters by slot into counters by tenant that never decrease.
//!
//! A slot belongs to a tenant and may be reassigned later, but the kernel counts by slot. So growth is added to the
//! owner of the slot at the previous reading. Pure, except for the trait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use agent_common::counters::{Counter, Outcome, TENANT_SLOTS};
use agent_common::flow::Direction;
use agent_common::guard::Guard;
use agent_common::reason::DropReason;

/// Reads the kernel's maps.
pub(crate) trait KernelCounters: Send {
    /// The owner of each slot in use. Slot 0 counts for all without a slot, and is not listed.
    fn owners(&self) -> Vec<(u16, String)>;
    /// All counters of a slot, summed over CPUs, since the maps were made.
    fn slot(&self, slot: u16) -> io::Result<SlotCounters>;
    /// Packets that a guard dropped for a reason, summed over CPUs, since the maps were made.
    fn guard_drops(&self, guard: Guard, reason: DropReason) -> io::Result<Counter>;
    /// Packets that the input guard dropped, by reason.
    fn input_drops(&self) -> Vec<(&'static str, u64)>;
    /// How full the maps are.
    fn maps(&self) -> Vec<MapUsage>;
    /// Bytes of kernel memory by kind: `maps`, `programs`.
    fn memory(&self) -> Vec<(&'static str, u64)>;
}

/// The counters of one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotCounters {
    /// By direction.
    pub allowed: [Counter; 2],
    /// By direction, then dropped and audited, then reason number.
    pub denied: [[[Counter; DropReason::ROW as usize]; 2]; 2],
}

impl Default for SlotCounters {
    fn default() -> Self {
        Self { allowed: [Counter::default(); 2], denied: [[[Counter::default(); DropReason::ROW as usize]; 2]; 2] }
    }
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapUsage {
    /// Its name.
    pub name: String,
    /// Entries in use, if they are counted.
    pub entries: Option<u64>,
    /// Entries it can hold.
    pub max_entries: u64,
}

/// What a packet counter counts, apart from the tenant.
pub(crate) type CounterKey = (Outcome, Direction, Option<DropReason>);

/// The label for tenants without a series of their own, and for packets of no tenant.
pub(crate) const OTHER: &str = "other";

/// Sums over all slots, and denied packets by tenant.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    max_tenants: usize,
    slots: HashMap<u16, SlotReading>,
    totals: BTreeMap<CounterKey, Counter>,
    tenants: BTreeMap<String, BTreeMap<CounterKey, u64>>,
    other: BTreeMap<CounterKey, u64>,
    read_all: bool,
}

#[derive(Debug, Default)]
struct SlotReading {
    owner: Option<String>,
    last: SlotCounters,
}

impl Accounts {
    /// Gives at most this many tenants a series of their own.
    pub(crate) fn new(max_tenants: usize) -> Self {
        Self { max_tenants, ..Self::default() }
    }

    /// The slots to read, with their present owners. The first call returns all slots, so that counts from before this
    /// agent are included. Later calls return the slots in use, those in use at the previous reading, and slot 0.
    pub(crate) fn slots_to_read(&mut self, owners: Vec<(u16, String)>) -> Vec<(u16, Option<String>)> {
        let mut owners: BTreeMap<u16, String> = owners.into_iter().filter(|(slot, _)| *slot != 0).collect();
        let mut slots: BTreeSet<u16> = owners.keys().copied().chain([0]).collect();
        slots.extend(self.slots.iter().filter(|(_, slot)| slot.owner.is_some()).map(|(number, _)| *number));
        if !std::mem::replace(&mut self.read_all, true) {
            slots.extend(0..TENANT_SLOTS as u16);
        }
        slots.into_iter().map(|slot| (slot, owners.remove(&slot))).collect()
    }

    /// Takes the counters of a slot. Growth since the previous reading belongs to the owner at that time. At the first
    /// reading it belongs to the present owner.
    pub(crate) fn read(&mut self, number: u16, owner: Option<&str>, now: &SlotCounters) {
        let first = !self.slots.contains_key(&number);
        let mut slot = self.slots.remove(&number).unwrap_or_default();
        if first {
            slot.owner = owner.map(Into::into);
        }
        for (cell, before, after) in cells(&slot.last, now) {
            let grown = grown(before, after);
            if grown.packets > 0 || grown.bytes > 0 {
                self.add(slot.owner.as_deref(), cell, grown);
            }
        }
        slot.owner = owner.map(Into::into);
        slot.last = now.clone();
        self.slots.insert(number, slot);
    }

    /// Sums over all slots.
    pub(crate) fn totals(&self) -> &BTreeMap<CounterKey, Counter> {
        &self.totals
    }

    /// Denied packets by tenant; `other` last.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = (&str, &BTreeMap<CounterKey, u64>)> {
        let named = self.tenants.iter().filter(|(name, _)| *name != OTHER);
        named.map(|(name, cells)| (name.as_str(), cells)).chain([(OTHER, &self.other)])
    }

    /// Packets dropped, all together.
    pub(crate) fn dropped(&self) -> u64 {
        self.sum(Outcome::Dropped)
    }

    /// Packets audited, all together.
    pub(crate) fn audited(&self) -> u64 {
        self.sum(Outcome::Audited)
    }

    fn sum(&self, outcome: Outcome) -> u64 {
        self.totals.iter().filter(|((found, ..), _)| *found == outcome).map(|(_, counter)| counter.packets).sum()
    }

    fn add(&mut self, owner: Option<&str>, cell: CounterKey, grown: Counter) {
        let total = self.totals.entry(cell).or_default();
        total.packets += grown.packets;
        total.bytes += grown.bytes;
        if cell.0 != Outcome::Allowed {
            *self.series(owner).entry(cell).or_default() += grown.packets;
        }
    }

    /// The series of a tenant. If all are taken, the series of a tenant without a slot is added to `other` and freed.
    /// If every tenant has a slot, the new one counts as `other`.
    fn series(&mut self, owner: Option<&str>) -> &mut BTreeMap<CounterKey, u64> {
        // A tenant whose name is `other` shares the series.
        let Some(owner) = owner.filter(|owner| *owner != OTHER) else { return &mut self.other };
        if !self.tenants.contains_key(owner) && self.tenants.len() >= self.max_tenants {
            let here: BTreeSet<&str> = self.slots.values().filter_map(|slot| slot.owner.as_deref()).collect();
            let Some(gone) = self.tenants.keys().find(|name| !here.contains(name.as_str())).cloned() else {
                return &mut self.other;
            };
            for (cell, count) in self.tenants.remove(&gone).unwrap_or_default() {
                *self.other.entry(cell).or_default() += count;
            }
        }
        self.tenants.entry(owner.into()).or_default()
    }
}

/// The growth between two readings. A counter that is lower than before was reset.
fn grown(before: Counter, after: Counter) -> Counter {
    if after.packets < before.packets || after.bytes < before.bytes {
        return after;
    }
    Counter { packets: after.packets - before.packets, bytes: after.bytes - before.bytes }
}

fn cells<'a>(
    before: &'a SlotCounters,
    after: &'a SlotCounters,
) -> impl Iterator<Item = (CounterKey, Counter, Counter)> + 'a {
    Direction::ALL.into_iter().flat_map(move |direction| {
        let way = direction as usize;
        let allowed = ((Outcome::Allowed, direction, None), before.allowed[way], after.allowed[way]);
        let denied = [(0, Outcome::Dropped), (1, Outcome::Audited)].into_iter().flat_map(move |(row, outcome)| {
            DropReason::ALL.iter().map(move |reason| {
                let column = usize::from(reason.number());
                let cell = (outcome, direction, Some(*reason));
                (cell, before.denied[way][row][column], after.denied[way][row][column])
            })
        });
        [allowed].into_iter().chain(denied)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CELL: CounterKey = (Outcome::Dropped, Direction::Egress, Some(DropReason::CrossTenant));

    fn showing(packets: u64) -> SlotCounters {
        let mut counters = SlotCounters::default();
        counters.denied[0][0][1] = Counter { packets, bytes: packets * 60 };
        counters
    }

    fn of(accounts: &Accounts, tenant: &str) -> u64 {
        accounts
            .tenants()
            .find(|(name, _)| *name == tenant)
            .and_then(|(_, cells)| cells.get(&CELL))
            .copied()
            .unwrap_or(0)
    }

    #[test]
    fn a_reassigned_slot_keeps_the_counts_of_its_tenants_apart() {
        let mut accounts = Accounts::new(10);
        accounts.read(1, Some("acme"), &showing(5));
        accounts.read(1, Some("globex"), &showing(7));
        accounts.read(1, Some("globex"), &showing(8));
        assert_eq!((of(&accounts, "acme"), of(&accounts, "globex"), accounts.dropped()), (7, 1, 8));
    }

    #[test]
    fn a_slot_that_is_reset_decreases_no_counter() {
        let mut accounts = Accounts::new(10);
        accounts.read(1, Some("acme"), &showing(5));
        accounts.read(1, Some("acme"), &showing(2));
        assert_eq!((of(&accounts, "acme"), accounts.dropped()), (7, 7));
    }

    #[test]
    fn a_restarted_agent_includes_what_the_kernel_counted_before() {
        let mut accounts = Accounts::new(10);
        let slots = accounts.slots_to_read(vec![(3, "acme".into())]);
        assert_eq!(slots.len(), TENANT_SLOTS as usize, "the first reading is of all slots");
        for (slot, owner) in slots {
            accounts.read(slot, owner.as_deref(), &showing(2));
        }
        assert_eq!(accounts.dropped(), 2 * u64::from(TENANT_SLOTS));
        assert_eq!(of(&accounts, "acme"), 2);
        assert_eq!(accounts.slots_to_read(vec![(4, "globex".into())]).len(), 3, "slot 0, the new and the left one");
    }

    #[test]
    fn tenants_beyond_the_limit_are_other_until_a_tenant_leaves() {
        let mut accounts = Accounts::new(2);
        accounts.read(1, Some("acme"), &showing(1));
        accounts.read(2, Some("globex"), &showing(2));
        accounts.read(3, Some("initech"), &showing(3));
        assert_eq!((of(&accounts, "initech"), of(&accounts, OTHER)), (0, 3));
        accounts.read(1, None, &showing(1));
        accounts.read(3, Some("initech"), &showing(7));
        assert_eq!((of(&accounts, "initech"), of(&accounts, OTHER), of(&accounts, "acme")), (4, 4, 0));
    }

    proptest! {
        #[test]
        fn no_counter_decreases_and_the_tenants_add_up_to_the_total(
            steps in prop::collection::vec((0..4_u16, prop::option::of(0..6_u8), 0..9_u64, any::<bool>()), 1..200),
        ) {
            let mut accounts = Accounts::new(2);
            let mut raw = [0_u64; 4];
            let mut counted = 0;
            let mut other_before = 0;
            for (slot, owner, more, zero) in steps {
                let raw = &mut raw[usize::from(slot)];
                // A slot is zeroed only right after it was read.
                if zero {
                    accounts.read(slot, owner.map(|o| o.to_string()).as_deref(), &showing(*raw));
                    *raw = 0;
                    accounts.read(slot, owner.map(|o| o.to_string()).as_deref(), &showing(*raw));
                }
                *raw += more;
                counted += more;
                accounts.read(slot, owner.map(|o| o.to_string()).as_deref(), &showing(*raw));
                prop_assert_eq!(accounts.dropped(), counted);
                let parts: u64 = accounts.tenants().flat_map(|(_, cells)| cells.values()).sum();
                prop_assert_eq!(parts, counted);
                prop_assert!(of(&accounts, OTHER) >= other_before);
                other_before = of(&accounts, OTHER);
                prop_assert!(accounts.tenants().count() <= 3);
            }
        }
    }
}
