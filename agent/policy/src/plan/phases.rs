//! The order of a plan, written down once.
//!
//! A packet that the policy denies both before and after a plan is denied after each of its writes:
//!
//! 1. `name` — numbers get their names before anything uses them.
//! 2. `clear`, `ungrant` — interfaces that change hands stop; permissions end.
//! 3. `fence` — new exclusivity: owned ranges, known addresses. Entries that change hands become
//!    nobody's for the time being. Before `turn`, for a wide range must not open what is fenced.
//! 4. `stage` — port sets, rows, tries that nobody points at yet.
//! 5. `turn` — each tenant's 8 bytes: new prefixes, and only such flags as it had before and keeps.
//!    `unstage` — prefixes in tries that a tenant lost: it may have needed them until it turned.
//! 6. generation: what was remembered under the old policy is judged again. After the revocations
//!    and not before them, or a packet in between would be remembered as judged by the new policy.
//! 7. `settle`, `unfence` — entries get their new hands or go.
//! 8. `raise`, `grant`, `claim` — flags, permissions and interfaces that are new.
//! 9. generation again, if 7 or 8 did anything.
//! 10. `unname` — numbers that nothing mentions lose their names.

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
    /// A tenant loses a flag that permits. Until it has turned, an address that becomes known would
    /// be open to it.
    pub demotes: bool,
}

impl Phases {
    /// Whether nothing but addresses is being changed.
    pub fn is_quiet(&self) -> bool {
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

    /// In order, with the generations.
    pub fn into_plan(self, ledger: &Ledger) -> Plan {
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
