//! The order of the writes in a plan, defined once. Knows no policy and no kernel.
//!
//! The invariant: a packet that the policy denies both before and after a plan is denied after each of its writes.
//!
//! 1. `name`: numbers get their names before anything uses them.
//! 2. `clear`, `ungrant`: interfaces that get another cookie are denied, and permissions end.
//! 3. `fence`: owned ranges and known addresses are added. Those that get another owner belong to no tenant until
//!    step 7. This precedes `turn`, because a new wide range must not open them.
//! 4. `stage`: port sets and rows that nothing refers to yet, and new or changed trie entries.
//! 5. `turn`: each tenant's 8 bytes, with new prefixes, but only with flags that it had before and keeps.
//!    `unstage`: trie entries that a tenant lost. It may have needed them until its `turn`.
//! 6. Generation: connections that were judged under the old policy are judged again. This follows the revocations.
//!    Otherwise a packet in between would be recorded as judged under the new policy.
//! 7. `settle`, `unfence`: entries get their new owner, or are removed.
//! 8. `raise`, `grant`, `claim`: flags, permissions and interfaces that are new.
//! 9. Generation again, if step 7 or 8 wrote anything.
//! 10. `unname`: numbers that nothing mentions lose their names.

use super::{Ledger, Op, Plan};

/// The writes of one plan by the step they belong to.
#[derive(Clone, Debug, Default)]
pub(super) struct Phases {
    pub name: Vec<Op>,
    pub clear: Vec<Op>,
    pub ungrant: Vec<Op>,
    pub fence: Vec<Op>,
    pub stage: Vec<Op>,
    pub turn: Vec<Op>,
    pub settle: Vec<Op>,
    pub unstage: Vec<Op>,
    pub unfence: Vec<Op>,
    pub raise: Vec<Op>,
    pub grant: Vec<Op>,
    pub claim: Vec<Op>,
    pub unname: Vec<Op>,
    /// Whether a tenant loses a permitting flag. Before its `turn`, an address that becomes known would be open to it.
    pub demotes: bool,
}

impl Phases {
    /// Whether only addresses change.
    pub(super) fn is_quiet(&self) -> bool {
        let others = [
            &self.name,
            &self.clear,
            &self.ungrant,
            &self.fence,
            &self.stage,
            &self.turn,
            &self.unstage,
            &self.unfence,
            &self.raise,
            &self.grant,
            &self.claim,
        ];
        others.into_iter().all(Vec::is_empty)
    }

    /// The writes in order, with the generations.
    pub(super) fn into_plan(self, ledger: &Ledger) -> Plan {
        let first = [self.clear, self.ungrant, self.fence, self.stage, self.turn, self.unstage];
        let second = [self.settle, self.unfence, self.raise, self.grant, self.claim];
        let first: Vec<Op> = first.into_iter().flatten().collect();
        let second: Vec<Op> = second.into_iter().flatten().collect();
        let mut generation = ledger.actual().generation;
        let mut ops = self.name;
        let owed = ledger.owes_generation() || first.iter().any(is_policy);
        ops.extend(first);
        if owed {
            generation += 1;
            ops.push(Op::Generation(generation));
        }
        if !second.is_empty() {
            ops.extend(second);
            ops.push(Op::Generation(generation + 1));
        }
        ops.extend(self.unname);
        Plan { ops, ..Plan::default() }
    }
}

/// Whether a write can change a verdict.
fn is_policy(op: &Op) -> bool {
    !matches!(op, Op::RowV4(..) | Op::RowV6(..) | Op::PortSet(..) | Op::TenantName(..))
}
