//! The table at the end of a run: one row for each tier, then the sum.
//!
//! A skipped tier has a row with its reason and adds nothing to the sum.

use std::{fmt, time::Duration};

use crate::{
    step::seconds,
    tally::{Outcome, Tally},
};

/// All tiers of one run. Prints as a table.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<(&'static str, Outcome, Duration)>,
}

impl Report {
    /// Adds one tier.
    pub(super) fn add(&mut self, tier: &'static str, outcome: Outcome, took: Duration) {
        self.rows.push((tier, outcome, took));
    }

    /// True if anything failed.
    pub(super) fn failed(&self) -> bool {
        self.sum().failed > 0
    }

    fn sum(&self) -> Tally {
        let mut sum = Tally::default();
        for (_, outcome, _) in &self.rows {
            if let Outcome::Ran(tally) = outcome {
                sum += *tally;
            }
        }
        sum
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<8} {:>7} {:>7} {:>8}  {:<12}", "tier", "passed", "failed", "ignored", "time")?;
        for (tier, outcome, took) in &self.rows {
            match outcome {
                Outcome::Ran(Tally { passed, failed, ignored }) => {
                    writeln!(f, "{tier:<8} {passed:>7} {failed:>7} {ignored:>8}  {}", seconds(*took))?;
                }
                Outcome::Skipped(reason) => writeln!(f, "{tier:<8} SKIPPED: {reason}")?,
            }
        }
        let Tally { passed, failed, ignored } = self.sum();
        write!(f, "\n{passed} passed, {failed} failed, {ignored} ignored")?;
        match self.rows.iter().filter(|(_, outcome, _)| matches!(outcome, Outcome::Skipped(_))).count() {
            0 => Ok(()),
            skipped => write!(f, ", {skipped} of {} tiers skipped", self.rows.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_sums_the_tiers_that_ran() {
        let mut report = Report::default();
        report.add("unit", Outcome::Ran(Tally { passed: 5, failed: 0, ignored: 3 }), Duration::ZERO);
        report.add("program", Outcome::Ran(Tally { passed: 2, failed: 1, ignored: 0 }), Duration::ZERO);
        report.add("netns", Outcome::Skipped("not root".to_owned()), Duration::ZERO);
        let text = report.to_string();
        assert!(text.ends_with("\n7 passed, 1 failed, 3 ignored, 1 of 3 tiers skipped"), "{text}");
        assert!(text.contains("netns    SKIPPED: not root"), "{text}");
        assert!(report.failed());
    }

    #[test]
    fn a_skipped_tier_is_neither_passed_nor_failed() {
        let mut report = Report::default();
        report.add("netns", Outcome::Skipped("not root".to_owned()), Duration::ZERO);
        assert!(report.to_string().ends_with("\n0 passed, 0 failed, 0 ignored, 1 of 1 tiers skipped"));
        assert!(!report.failed());
    }
}
