//! Property tests of plans between any two small clusters. A fixed set of probes is judged after every single write.
//!
//! No write may allow what the policy denies both before and after the plan. The order of changes must not matter.

mod judge;
mod world;

use std::collections::BTreeMap;

use agent_common::addr::V4;
use agent_common::layout::{EndpointEntry, PORTS_ANY, PeerEntry};
use agent_common::tenant::{TenantId, TenantName};
use proptest::prelude::*;

use self::judge::{Probe, allows};
use self::world::{World, any_world, one_by_one, settings, whole};
use crate::dataplane::mem_dataplane::MemDataplane;
use crate::reconcile::schedule::ROUND;
use crate::reconcile::{Now, ReconcileState, step};
use policy::model::input::Change;
use policy::model::limits::Limits;
use policy::model::settings::Settings;
use policy::plan::{Actual, Ledger, Op};

/// A loop and a kernel that enforce the policy of `changes`.
fn enforcing(settings: Settings, changes: Vec<Change>) -> (ReconcileState, MemDataplane) {
    let mut kernel = MemDataplane::default();
    let mut state = ReconcileState::start(&mut kernel, settings).expect("an empty kernel");
    step(&mut state, &mut kernel, changes, Now::default());
    (state, kernel)
}

/// Replays the writes since `before`, and compares the state after each with both ends.
fn judge_each_write(before: &Actual, kernel: &MemDataplane) -> Result<(), TestCaseError> {
    let probes = Probe::all();
    let ends: Vec<(bool, bool)> =
        probes.iter().map(|probe| (allows(before, probe), allows(&kernel.actual, probe))).collect();
    let mut now = before.clone();
    for (at, op) in kernel.log.iter().enumerate() {
        now.record(op);
        if matches!(op, Op::TenantName(..) | Op::Generation(_)) {
            continue;
        }
        for (probe, (first, last)) in probes.iter().zip(&ends) {
            let allowed = allows(&now, probe);
            prop_assert!(
                *first || *last || !allowed,
                "{probe:?} is denied before and after but allowed after write {at} of\n{}",
                brief(&kernel.log)
            );
            let settled = is_settled(before, &kernel.actual, probe);
            prop_assert!(
                !(*first && *last && settled) || allowed,
                "{probe:?} is allowed before and after but denied after write {at} of\n{}",
                brief(&kernel.log)
            );
        }
    }
    Ok(())
}

/// The writes, one a line.
fn brief(log: &[Op]) -> String {
    let line = |op: &Op| match op {
        Op::TenantName(id, name) => format!("Name({}, {:?})\n", id.0, name.as_ref().and_then(|name| name.as_str())),
        Op::RowV4(row, _) | Op::RowV6(row, _) => format!("{:?} {row}\n", op.table()),
        op => format!("{op:?}\n"),
    };
    log.iter().map(line).collect()
}

/// Whether no end of a probe changes its tenant. Such a probe must not be denied for a moment.
fn is_settled(before: &Actual, after: &Actual, probe: &Probe) -> bool {
    let ends = |actual: &Actual| {
        let endpoint = |address| actual.endpoints.values().find(|entry| entry.v4 == address).copied();
        let peer = |address| actual.peers_v4.get(&judge::key(address)).copied();
        let (from, to) = (probe.from, probe.to);
        (endpoint(from), endpoint(to), peer(from), peer(to), actual.owners_v4.clone())
    };
    ends(before) == ends(after)
}

/// The meaning of the tables: numbers of tenants, rows, sets, slots and cookies are replaced by what they name.
fn meaning(actual: &Actual) -> BTreeMap<String, String> {
    let name = |id: TenantId| match actual.names.get(&id) {
        Some(name) => name.as_str().unwrap_or("?").to_owned(),
        None => format!("#{}", id.0),
    };
    let mut lines = BTreeMap::new();
    for (ifindex, entry) in &actual.endpoints {
        let bare = EndpointEntry { tenant: TenantId(0), cookie: 0, slot: 0, ..*entry };
        lines.insert(format!("endpoint {ifindex}"), format!("{} {bare:?}", name(entry.tenant)));
    }
    for (key, entry) in &actual.peers_v4 {
        let bare = PeerEntry { tenant: TenantId(0), ..*entry };
        lines.insert(format!("peer {:?}", key.address.octets()), format!("{} {bare:?}", name(entry.tenant)));
    }
    for (id, state) in &actual.tenants {
        let prefixes: Vec<String> = judge::prefixes(actual, *id)
            .iter()
            .map(|(net, grant)| {
                let ports = if grant.ports == PORTS_ANY { None } else { actual.port_sets.get(&grant.ports) };
                format!("{net} {} {ports:?}", grant.flags)
            })
            .collect();
        lines.insert(format!("tenant {}", name(*id)), format!("{} {prefixes:?}", state.flags));
    }
    for (key, grant) in &actual.grants {
        lines.insert(format!("grant {} {}", name(key.from), name(key.to)), grant.until.to_string());
    }
    for (net, owner) in &actual.owners_v4 {
        lines.insert(format!("owner {net}"), name(*owner));
    }
    lines
}

/// A quarter of the configured cases, because each case judges several hundred probes after each write.
fn config() -> ProptestConfig {
    let configured = ProptestConfig::default();
    ProptestConfig { cases: configured.cases / 4, ..configured }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_write_allows_what_is_denied_before_and_after(from in any_world(), to in any_world(), fenced: bool) {
        let (mut state, mut kernel) = enforcing(settings(fenced), whole(&from));
        let before = kernel.actual.clone();
        kernel.log.clear();
        step(&mut state, &mut kernel, whole(&to), Now::default());
        judge_each_write(&before, &kernel)?;
    }

    #[test]
    fn no_write_after_a_restart_allows_what_is_denied_before_and_after(from in any_world(), to in any_world(), fenced: bool) {
        let (_, mut kernel) = enforcing(settings(fenced), whole(&from));
        let before = kernel.actual.clone();
        kernel.log.clear();
        let mut state = ReconcileState::start(&mut kernel, settings(fenced)).expect("a kernel");
        step(&mut state, &mut kernel, whole(&to), Now::default());
        judge_each_write(&before, &kernel)?;
    }

    #[test]
    fn a_restart_with_the_same_objects_writes_nothing(world in any_world(), fenced: bool) {
        let (_, mut kernel) = enforcing(settings(fenced), whole(&world));
        kernel.log.clear();
        let mut state = ReconcileState::start(&mut kernel, settings(fenced)).expect("a kernel");
        step(&mut state, &mut kernel, whole(&world), Now::default());
        prop_assert!(kernel.log.is_empty(), "{:?}", kernel.log);
    }

    #[test]
    fn the_order_of_changes_does_not_matter(
        world in any_world(),
        detour in any_world(),
        order in Just(()).prop_perturb(|(), mut rng| (0..64).map(|_| rng.next_u32()).collect::<Vec<_>>()),
    ) {
        let (_, direct) = enforcing(settings(true), whole(&world));
        let mut changes = one_by_one(&world);
        let reversed: Vec<Change> = changes.iter().rev().cloned().collect();
        for (at, random) in order.iter().enumerate().take(changes.len()) {
            let other = at + *random as usize % (changes.len() - at);
            changes.swap(at, other);
        }
        let half = changes.len() / 2;
        for (at, order) in [one_by_one(&world), reversed, changes].into_iter().enumerate() {
            let (mut state, mut kernel) = enforcing(settings(true), policy::model::testing::nothing());
            for (n, change) in order.into_iter().enumerate() {
                step(&mut state, &mut kernel, vec![change], Now::default());
                if n == half && at == 2 {
                    step(&mut state, &mut kernel, whole(&detour), Now::default());
                    step(&mut state, &mut kernel, whole(&world), Now::default());
                }
            }
            step(&mut state, &mut kernel, vec![], Now { tick: ROUND, ..Now::default() });
            prop_assert_eq!(meaning(&kernel.actual), meaning(&direct.actual));
        }
    }

    #[test]
    fn writes_that_fail_once_are_made_later(from in any_world(), to in any_world(), fail in prop::collection::btree_set(0..80_usize, 0..6)) {
        let (mut state, mut kernel) = enforcing(settings(true), whole(&from));
        let (_, direct) = enforcing(settings(true), whole(&to));
        let before = kernel.actual.clone();
        kernel.log.clear();
        kernel.fail_writes = fail;
        let mut now = Now::default();
        let mut outcome = step(&mut state, &mut kernel, whole(&to), now);
        for _ in 0..20 {
            now.tick = outcome.wake;
            outcome = step(&mut state, &mut kernel, vec![], now);
        }
        prop_assert_eq!(outcome.pending, 0);
        prop_assert_eq!(meaning(&kernel.actual), meaning(&direct.actual));
        prop_assert_eq!(state.actual(), &kernel.actual, "the ledger equals the kernel");
        let _ = before;
    }
}

#[test]
fn the_judge_recognises_each_rule() {
    let world = World::example();
    let (_, kernel) = enforcing(settings(true), whole(&world));
    let sees = |from: [u8; 4], to: [u8; 4], port| {
        allows(&kernel.actual, &Probe { from: V4::new(from), to: V4::new(to), port })
    };
    assert!(sees([10, 0, 0, 1], [10, 0, 0, 2], 80), "the same tenant");
    assert!(!sees([10, 0, 0, 1], [10, 0, 0, 3], 80), "another tenant");
    assert!(sees([10, 0, 0, 1], [10, 40, 0, 5], 80), "its own subnet");
    assert!(!sees([10, 0, 0, 1], [10, 40, 0, 5], 22), "at another port");
    assert!(!sees([10, 0, 0, 3], [10, 40, 0, 5], 80), "another's subnet under a wide range");
    assert!(sees([10, 0, 0, 3], [10, 40, 1, 5], 80), "a range that nobody owns, under a wide range");
    assert!(!sees([10, 0, 0, 9], [10, 0, 0, 9], 80), "an unknown sender");
}

#[test]
fn rows_and_sets_are_written_only_while_no_entry_refers_to_them() {
    let (mut state, mut kernel) = enforcing(settings(true), whole(&World::example()));
    kernel.log.clear();
    let mut world = World::example();
    world.tenants[0].subnets = vec![3];
    let mut now = kernel.actual.clone();
    step(&mut state, &mut kernel, whole(&world), Now::default());
    assert!(kernel.log.iter().any(|op| matches!(op, Op::RowV4(..))));
    for op in &kernel.log {
        let rows: Vec<u16> = now.tenants.values().map(|state| state.row).collect();
        match op {
            Op::RowV4(row, _) | Op::RowV6(row, _) => assert!(!rows.contains(row)),
            Op::PortSet(set, _) => {
                let named = |row: &u16| {
                    now.rows_v4.get(row).is_some_and(|row| row.prefixes.iter().any(|p| p.grant.ports == *set))
                };
                assert!(!rows.iter().any(named));
            }
            _ => {}
        }
        now.record(op);
    }
}

#[test]
fn a_row_that_was_freed_is_the_last_to_be_used_again() {
    let limits = Limits { rows: 4, ..Limits::default() };
    let (mut state, mut kernel) = enforcing(Settings { limits, ..settings(true) }, whole(&World::example()));
    let mut used = Vec::new();
    for n in 0..8 {
        kernel.log.clear();
        let mut world = World::example();
        world.tenants[0].subnets = vec![n % 2];
        step(&mut state, &mut kernel, whole(&world), Now::default());
        used.extend(kernel.log.iter().filter_map(|op| if let Op::RowV4(row, _) = op { Some(*row) } else { None }));
    }
    assert!(used.windows(2).all(|pair| pair[0] != pair[1]), "{used:?}");
    assert!(used.len() >= 7 && used[1..].contains(&used[0]), "{used:?}");
}

#[test]
fn the_generation_increases_after_the_revocations_and_after_the_grants() {
    let (mut state, mut kernel) = enforcing(settings(true), whole(&World::example()));
    kernel.log.clear();
    let mut world = World::example();
    world.namespaces[0] = 1;
    step(&mut state, &mut kernel, whole(&world), Now::default());
    let raised: Vec<usize> = (0..kernel.log.len()).filter(|at| matches!(kernel.log[*at], Op::Generation(_))).collect();
    assert_eq!(raised.len(), 2, "{:?}", kernel.log);
    let turns = |op: &Op| matches!(op, Op::Tenant(..));
    let claims = |op: &Op| matches!(op, Op::Endpoint(_, entry) if *entry != EndpointEntry::default());
    assert!(kernel.log[..raised[0]].iter().any(turns) && !kernel.log[..raised[0]].iter().any(claims));
    assert!(kernel.log[raised[0]..raised[1]].iter().any(claims));
}

#[test]
fn a_generation_that_could_not_be_written_is_owed() {
    let limits = Limits::default();
    let mut ledger = Ledger::new(Actual::default(), &limits);
    assert!(!ledger.owes_generation());
    ledger.record(&Op::PeerV4(judge::key(V4::new([10, 0, 0, 1])), Some(PeerEntry::default())));
    assert!(ledger.owes_generation());
    ledger.record(&Op::Generation(1));
    ledger.record(&Op::TenantName(TenantId(1), TenantName::new("acme")));
    assert!(!ledger.owes_generation(), "a name changes no verdict");
}
