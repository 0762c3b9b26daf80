//! Counts of tests, and how a tier ended.
//!
//! Knows neither tiers nor cargo. Every module that runs tests fills in these values, so none of them has to import
//! another.

use std::ops::AddAssign;

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests that did not run.
    pub ignored: u32,
}

impl Tally {
    /// The count of a step that failed before any test ran.
    pub(crate) fn one_failure() -> Self {
        Self { failed: 1, ..Self::default() }
    }

    /// Reads `test result: ok. 12 passed; 0 failed; 1 ignored; …` anywhere in the line.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
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
pub(crate) enum Outcome {
    /// It ran.
    Ran(Tally),
    /// It could not run on this machine, for this reason.
    Skipped(String),
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
}
