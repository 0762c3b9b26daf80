//! Measures the CPU time of a verdict, relative to an empty program.
//!
//! All cases run in each round, so that a disturbance affects all of them. A figure is the CPU time of the calling
//! thread over a million runs. The results are its ratios to the empty program and to a minimal one of the same round. A
//! repeated frame keeps the caches warm, so absolute figures are low. The cases with random destinations show the
//! difference.

mod cases;
mod minimal;
pub mod report;
pub(crate) mod sys;

use std::time::Duration;

use anyhow::Result;

pub use cases::{Bench, BenchCase};
pub use sys::Sizes;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds, in each of which every case runs once.
    pub rounds: usize,
    /// Frames of a case in one round.
    pub repeat: u32,
}

impl Effort {
    /// The effort for figures in documents.
    pub const FULL: Self = Self { rounds: 11, repeat: 1_000_000 };
    /// Less effort, for a first look.
    pub const QUICK: Self = Self { rounds: 5, repeat: 200_000 };
}

/// The figures of one case.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Nanoseconds a frame, one for each round.
    pub nanoseconds: Vec<f64>,
    /// The ratio to the case's baseline in the same round, one for each round.
    pub ratios: Vec<f64>,
    /// The ratio to the minimal shape in the same round, one for each round; none for a case with another baseline.
    pub to_minimal: Vec<f64>,
}

/// How the CPU is protected against speculation, as far as it changes what calls and returns cost: name and state as the
/// kernel reports them.
pub fn mitigations() -> Vec<(&'static str, String)> {
    const NAMES: [&str; 3] = ["spectre_v2", "retbleed", "spec_rstack_overflow"];
    let state = |name| std::fs::read_to_string(format!("/sys/devices/system/cpu/vulnerabilities/{name}"));
    let line = |name| (name, state(name).map_or_else(|_| "not reported".to_owned(), |text| text.trim().to_owned()));
    NAMES.map(line).into()
}

/// The median.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Runs every case of a bench in every round.
pub fn measure(bench: &Bench, effort: Effort) -> Result<Vec<Figures>> {
    let cases = bench.cases();
    let mut figures = vec![Figures::default(); cases.len()];
    for round in 0..=effort.rounds {
        // The first round only warms up.
        let repeat = if round == 0 { effort.repeat / 10 } else { effort.repeat };
        for (index, case) in cases.iter().enumerate() {
            let spent = case.run(repeat)?;
            if round == 0 {
                continue;
            }
            let nanoseconds = per_frame(spent, repeat);
            figures[index].nanoseconds.push(nanoseconds);
            let baseline = figures[case.baseline].nanoseconds[round - 1];
            figures[index].ratios.push(nanoseconds / baseline);
            if case.baseline == 0 && index >= cases::MINIMAL {
                let minimal = figures[cases::MINIMAL].nanoseconds[round - 1];
                figures[index].to_minimal.push(nanoseconds / minimal);
            }
        }
    }
    Ok(figures)
}

fn per_frame(spent: Duration, repeat: u32) -> f64 {
    spent.as_secs_f64() * 1e9 / f64::from(repeat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert!(median(&[]).is_nan());
    }
}
