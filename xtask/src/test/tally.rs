//! Adding up what the tiers say.

use std::{fmt, ops::AddAssign, time::Duration};

use crate::step::seconds;

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests that were not run.
    pub ignored: u32,
}

impl Tally {
    /// For what failed before it could count.
    pub fn one_failure() -> Self {
        Self { failed: 1, ..Self::default() }
    }

    /// Reads `test result: ok. 12 passed; 0 failed; 1 ignored; …`, wherever it stands in the line.
    pub fn of_line(line: &str) -> Option<Self> {
        let (_, result) = line.split_once("test result: ")?;
        let (_, counts) = result.split_once(". ")?;
        let mut tally = Self::default();
        for count in counts.split("; ") {
            let (number, word) = count.split_once(' ')?;
            match word {
                "passed" => tally.passed = number.parse().ok()?,
                "failed" => tally.failed = number.parse().ok()?,
                "ignored" => tally.ignored = number.parse().ok()?,
                _ => break,
            }
        }
        Some(tally)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// How a tier ended.
#[derive(Debug)]
pub enum Outcome {
    /// It ran.
    Ran(Tally),
    /// It could not run here, for this reason.
    Skipped(String),
    /// There is nothing to run yet.
    Absent(String),
}

/// All tiers of one run, printed as a table.
#[derive(Default)]
pub struct Report {
    rows: Vec<(&'static str, Outcome, Duration)>,
}

impl Report {
    /// Adds one tier.
    pub fn add(&mut self, tier: &'static str, outcome: Outcome, took: Duration) {
        self.rows.push((tier, outcome, took));
    }

    /// True if anything failed.
    pub fn failed(&self) -> bool {
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
        writeln!(f, "{:<8} {:>7} {:>7} {:>8}  {:<12}", "tier", "passed", "failed", "not run", "time")?;
        for (tier, outcome, took) in &self.rows {
            match outcome {
                Outcome::Ran(Tally { passed, failed, ignored }) => {
                    writeln!(f, "{tier:<8} {passed:>7} {failed:>7} {ignored:>8}  {}", seconds(*took))?;
                }
                Outcome::Skipped(reason) => writeln!(f, "{tier:<8} SKIPPED: {reason}")?,
                Outcome::Absent(reason) => writeln!(f, "{tier:<8} not there: {reason}")?,
            }
        }
        let Tally { passed, failed, .. } = self.sum();
        write!(f, "\n{passed} passed, {failed} failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_read_whatever_stands_before_it() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.1s";
        let expected = Tally { passed: 12, failed: 3, ignored: 1 };
        assert_eq!(Tally::of_line(line), Some(expected));
        assert_eq!(Tally::of_line(&format!("last test's output{line}")), Some(expected));
        assert_eq!(Tally::of_line("test parse::short_frames ... ok"), None);
    }

    #[test]
    fn the_last_line_sums_the_tiers_that_ran() {
        let mut report = Report::default();
        report.add("unit", Outcome::Ran(Tally { passed: 5, failed: 0, ignored: 0 }), Duration::ZERO);
        report.add("program", Outcome::Ran(Tally { passed: 2, failed: 1, ignored: 0 }), Duration::ZERO);
        report.add("netns", Outcome::Skipped("not root".to_owned()), Duration::ZERO);
        let text = report.to_string();
        assert!(text.ends_with("\n7 passed, 1 failed"), "{text}");
        assert!(text.contains("netns    SKIPPED: not root"), "{text}");
        assert!(report.failed());
    }

    #[test]
    fn a_skipped_tier_is_neither_passed_nor_failed() {
        let mut report = Report::default();
        report.add("netns", Outcome::Skipped("not root".to_owned()), Duration::ZERO);
        assert!(report.to_string().ends_with("\n0 passed, 0 failed"));
        assert!(!report.failed());
    }
}
