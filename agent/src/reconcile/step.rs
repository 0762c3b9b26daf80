//! One step of the loop: takes in changes, writes the difference to the kernel, remembers what failed.
//!
//! Knows no clock and no channel; time is an argument. Nothing is written before every kind of object was reported.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_common::addr::V6;
use agent_common::layout::PeerKeyV4;

use super::execute::{FailedWrite, execute};
use super::interfaces::InputPhase;
use super::publish;
use super::schedule::{CONFIRM, Now, ROUND};
use super::state::ReconcileState;
use crate::dataplane::{Dataplane, DataplaneError, Recheck};
use crate::errors::with_causes;
use policy::model::address_index::SHARDS;
use policy::model::dirty::Dirty;
use policy::model::input::Change;
use policy::model::pod::{v4_addr, v6_addr};
use policy::plan::{Op, Plan, diff};

/// Plans in one step at most. The first does the work; the next use numbers and rows that the first freed.
const PLANS: usize = 3;

/// What a step did, and when the next is due without changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StepOutcome {
    /// Writes that were made.
    pub applied: usize,
    /// Writes that failed, or wait for one that failed.
    pub pending: usize,
    /// Whether the kernel now holds everything that was reported.
    pub in_force: bool,
    /// Time of the next step without changes.
    pub wake: Duration,
    /// Whether there is a new snapshot.
    pub published: bool,
}

/// Takes in `changes`, writes what the kernel should hold, and returns when to step again.
pub(crate) fn step(
    state: &mut ReconcileState,
    dataplane: &mut impl Dataplane,
    changes: Vec<Change>,
    now: Now,
) -> StepOutcome {
    let mut dirty = Dirty::default();
    if changes.contains(&Change::InputGuardTouched) {
        state.recheck_input = Recheck::Kernel;
    }
    changes.into_iter().for_each(|change| dirty.add(state.cluster.apply(change)));
    if !state.cluster.is_complete() {
        state.hold_newcomers(dataplane);
        // `dirty` is not lost: everything is owed at the start.
        return StepOutcome { applied: 0, pending: 0, in_force: false, wake: now.tick + ROUND, published: false };
    }
    let retried = state.add_due(dataplane, &mut dirty, now);
    let more_count = state.unprotected.advance(now.tick);
    let is_idle = dirty.is_nothing() && !state.is_expired(now);
    if is_idle && !more_count {
        return state.outcome(0, false, now);
    }
    let applied = if is_idle { 0 } else { state.reconcile(dataplane, dirty, retried, now) };
    let published = publish::publish(state).map(|snapshot| state.snapshot = Arc::new(snapshot)).is_some();
    state.outcome(applied, published, now)
}

impl ReconcileState {
    fn outcome(&self, applied: usize, published: bool, now: Now) -> StepOutcome {
        let in_force = self.pending == 0 && self.waiting.is_empty();
        StepOutcome { applied, pending: self.pending, in_force, wake: self.wake(now), published }
    }

    /// Adds what is due without changes. Returns whether that includes everything that failed before.
    fn add_due(&mut self, dataplane: &mut impl Dataplane, dirty: &mut Dirty, now: Now) -> bool {
        let retry = self.backoff.due().is_none() || self.backoff.is_due(now.tick);
        if retry {
            dirty.add(std::mem::take(&mut self.owed));
            self.compare_doubtful(dataplane, dirty);
        }
        dirty.endpoints |= !self.waiting.is_empty();
        if self.round_at <= now.tick {
            self.round_at = now.tick + ROUND;
            self.displaced.clear();
            self.check_attached(dataplane);
            (self.recheck_guards, self.recheck_input) = (Recheck::Kernel, Recheck::Kernel);
            dirty.add(Dirty { ranges: true, tenancy: true, endpoints: true, ..Dirty::default() });
            self.compare_next(dataplane, dirty);
        }
        if !dirty.everything {
            self.sweep(dirty, now);
        }
        retry
    }

    /// Adds the next shard of all addresses: those that are known, and those that only the kernel has.
    fn sweep(&mut self, dirty: &mut Dirty, now: Now) {
        let (address_index, actual) = (self.cluster.address_index(), self.ledger.actual());
        let shards: Vec<usize> = self.sweep.stride(address_index.len().max(actual.peers_v4.len()), now.tick).collect();
        shards.iter().flat_map(|shard| address_index.shard(*shard)).for_each(|address| dirty.address(address));
        let keys = |len: usize| len * shards.len() / SHARDS + usize::from(!shards.is_empty());
        let v4: Vec<PeerKeyV4> =
            actual.peers_v4.range(self.swept_v4..).take(keys(actual.peers_v4.len())).map(|(key, _)| *key).collect();
        let v6: Vec<V6> =
            actual.peers_v6.range(self.swept_v6..).take(keys(actual.peers_v6.len())).map(|(key, _)| *key).collect();
        let addresses = v4.iter().map(|key| IpAddr::from(v4_addr(key.address)));
        let addresses = addresses.chain(v6.iter().map(|address| v6_addr(*address).into()));
        addresses.filter(|address| address_index.get(*address).is_none()).for_each(|address| dirty.address(address));
        if !shards.is_empty() {
            // After the last address, start over.
            let end_v4 = actual.peers_v4.last_key_value().map(|(key, _)| *key);
            let end_v6 = actual.peers_v6.last_key_value().map(|(key, _)| *key);
            self.swept_v4 = v4.last().copied().filter(|last| Some(*last) != end_v4).unwrap_or_default();
            self.swept_v6 = v6.last().copied().filter(|last| Some(*last) != end_v6).unwrap_or_default();
        }
    }

    fn is_expired(&self, now: Now) -> bool {
        self.desired.grants.next_end.is_some_and(|end| end <= now.unix)
    }

    fn wake(&self, now: Now) -> Duration {
        if !self.waiting.is_empty() {
            return now.tick;
        }
        let expiry = self
            .desired
            .grants
            .next_end
            .map(|end| now.tick + Duration::from_secs(u64::try_from(end.saturating_sub(now.unix)).unwrap_or(0)));
        let unprotected = self.unprotected.next_due();
        let due = [Some(self.round_at), Some(self.sweep.due()), self.backoff.due(), expiry, unprotected];
        due.into_iter().flatten().min().unwrap_or(self.round_at)
    }

    fn reconcile(&mut self, dataplane: &mut impl Dataplane, mut dirty: Dirty, retried: bool, now: Now) -> usize {
        let ledger = &self.ledger;
        let mentions = |id| ledger.mentions(id);
        self.desired.refresh(&self.cluster, &ledger.kernel_view(&mentions), now.unix, &mut dirty);
        if dirty.endpoints {
            self.attach(dataplane);
            self.broken.clear();
            // Before a pod may send, and before a permission ends elsewhere.
            self.sync_input(dataplane, InputPhase::BeforeWrites);
        }
        let (applied, mut failures) = self.apply(dataplane, &mut dirty, now);
        failures.retain(|failure| !matches!(failure.op, Op::Endpoint(ifindex, _) if self.waiting.contains(&ifindex)));
        if dirty.endpoints {
            self.sync_guards(dataplane);
            self.detach(dataplane);
            self.sync_input(dataplane, InputPhase::AfterWrites);
            self.note_displacements(dataplane);
            self.find_unprotected(now);
        }
        if !self.displaced.is_empty() {
            self.round_at = self.round_at.min(now.tick + CONFIRM);
        }
        if applied > 0 {
            self.applied_at = Some(now.unix);
        }
        self.ready |= !self.sweep.is_hurried() && self.waiting.is_empty();
        self.settle(failures, retried, now);
        applied
    }

    fn apply(&mut self, dataplane: &mut impl Dataplane, dirty: &mut Dirty, now: Now) -> (usize, Vec<FailedWrite>) {
        let mut applied = 0;
        let mut failures = Vec::new();
        let bare: BTreeSet<u32> = self.bare.keys().chain(&self.waiting).copied().collect();
        for _ in 0..PLANS {
            let plan = diff(&self.cluster, &self.desired, &self.ledger, dirty);
            let again = self.record_plan(&plan, dirty, now);
            let ops = plan.ops.len();
            failures = execute(dataplane, &mut self.ledger, plan.ops, &bare);
            applied += ops - failures.len();
            if !again || !failures.is_empty() {
                break;
            }
            *dirty = Dirty { tenancy: true, endpoints: dirty.endpoints, ..Dirty::default() };
        }
        (applied, failures)
    }

    /// Records what a plan left out. Returns whether another plan may do more after this one is applied.
    fn record_plan(&mut self, plan: &Plan, dirty: &Dirty, now: Now) -> bool {
        let frees_addresses = plan.ops.iter().any(|op| matches!(op, Op::PeerV4(_, None) | Op::PeerV6(_, None)));
        if plan.deferred || (frees_addresses && !self.refused.is_empty()) {
            self.sweep.hurry(now.tick);
        }
        dirty.addresses.iter().for_each(|address| _ = self.refused.remove(address));
        self.refused.extend(plan.refused.iter().copied());
        let policy = dirty.tenancy || dirty.everything;
        if policy {
            self.overflows = plan.overflows.clone();
        }
        let lost = self.ledger.actual().names.keys().any(|id| !self.desired.names.contains_key(id));
        policy && (lost || !plan.overflows.as_slice().is_empty())
    }

    /// Records failed writes as owed, to be tried again after a pause. A write that only waited for an interface
    /// without programs is tried again with that interface.
    fn settle(&mut self, failures: Vec<FailedWrite>, retried: bool, now: Now) {
        for failure in &failures {
            owe(&mut self.owed, &failure.op);
            let Some(error) = &failure.error else { continue };
            let table = failure.op.table();
            *self.failures.entry((table, operation(&failure.op, error))).or_default() += 1;
            if matches!(error, DataplaneError::Full(_)) && self.has_free_entry(table) {
                self.doubts.insert(table);
            }
            if let Op::Endpoint(ifindex, _) = failure.op {
                self.broken.insert(ifindex, with_causes(error));
            }
            tracing::warn!(
                table = table.as_str(),
                error = with_causes(error),
                "an entry was not written and will be tried again"
            );
        }
        self.owed.endpoints |= !self.bare.is_empty();
        let unwritten = failures.iter().filter(|failure| failure.error.is_some()).count();
        self.unwritten = if retried { unwritten } else { self.unwritten + unwritten };
        if retried {
            self.pending = failures.len().max(self.bare.len());
            self.backoff.ended(!self.owed.is_nothing(), now.tick);
        } else if !failures.is_empty() {
            self.pending += failures.len();
            self.backoff.failed(now.tick);
        }
    }
}

/// The label of a failed write in metrics.
fn operation(op: &Op, error: &DataplaneError) -> &'static str {
    match error {
        DataplaneError::Write { .. } if op.is_removal() => "remove",
        _ => error.label(),
    }
}

/// Records in `owed` what must be compared again because `op` was not written.
fn owe(owed: &mut Dirty, op: &Op) {
    match op {
        Op::PeerV4(key, _) => owed.address(v4_addr(key.address).into()),
        Op::PeerV6(address, _) => owed.address(v6_addr(*address).into()),
        Op::Endpoint(..) => owed.endpoints = true,
        Op::OwnerV4(..) | Op::OwnerV6(..) => owed.ranges = true,
        _ => owed.tenancy = true,
    }
}
