//! Compares the ledger with the kernel's tables, and takes over what another process changed there.
//!
//! Reads one table in each regular round, so the cost of a round is bounded by the largest table. Repairs nothing
//! itself: the next plan does.

use super::state::ReconcileState;
use crate::dataplane::Dataplane;
use crate::errors::with_causes;
use policy::model::dirty::Dirty;
use policy::plan::Table;

impl ReconcileState {
    /// Compares the next table in turn.
    pub(super) fn compare_next(&mut self, dataplane: &mut impl Dataplane, dirty: &mut Dirty) {
        let table = Table::ALL[self.next_compared % Table::ALL.len()];
        self.next_compared = (self.next_compared + 1) % Table::ALL.len();
        self.doubts.remove(&table);
        self.compare(dataplane, table, dirty);
    }

    /// Compares every table that a failed write has cast doubt on.
    pub(super) fn compare_doubtful(&mut self, dataplane: &mut impl Dataplane, dirty: &mut Dirty) {
        for table in std::mem::take(&mut self.doubts) {
            self.compare(dataplane, table, dirty);
        }
    }

    fn compare(&mut self, dataplane: &mut impl Dataplane, table: Table, dirty: &mut Dirty) {
        let found = match dataplane.load_table(table) {
            Ok(found) => found,
            Err(error) => {
                *self.failures.entry((table, error.label())).or_default() += 1;
                return tracing::warn!(table = table.as_str(), error = with_causes(&error), "a table was not compared");
            }
        };
        let differences = self.ledger.actual().differences(&found, table);
        if differences.is_empty() {
            return;
        }
        let entries = differences.len();
        tracing::warn!(
            table = table.as_str(),
            entries,
            "another process changed a table of Bulkhead; its entries are written again"
        );
        *self.failures.entry((table, DRIFT)).or_default() += entries as u64;
        self.ledger.adopt(&differences);
        dirty.add(Dirty::all());
    }
}

/// The label of entries that another process changed.
const DRIFT: &str = "drift";
