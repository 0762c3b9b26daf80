//! Parts that take long by nature: `cargo xtask test long PART`.
//!
//! No part belongs to a tier or to CI. Each takes less than 100 minutes on two cores, draws from a seed, and can go on
//! where it was stopped.

use std::{
    hint,
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{count, tier::Tier};
use crate::{step, step::seconds, tally::Tally};

/// The verb below `test`.
#[derive(Subcommand)]
pub(crate) enum Long {
    /// Run a part that takes long by nature, with a seed. It can go on where it was stopped.
    #[command(subcommand)]
    Long(Part),
}

/// The parts.
#[derive(Subcommand)]
pub(crate) enum Part {
    /// Run the tier `unit` again and again, the last runs beside busy loops.
    UnitRepeat {
        #[command(flatten)]
        rounds: Rounds,
        /// Busy loops beside the last runs.
        #[arg(long, default_value_t = 4, value_name = "N")]
        busy: usize,
        /// How many of the last runs have busy loops beside them.
        #[arg(long, default_value_t = 10, value_name = "N")]
        busy_runs: u64,
    },
    /// Run the tier `unit` with many more cases for each property.
    Properties {
        #[command(flatten)]
        rounds: Rounds,
        /// Cases for each property and run; a property that fixes its number keeps it.
        #[arg(long, default_value_t = 20_000, value_name = "N")]
        cases: u32,
    },
}

/// How often a part runs, and from where.
#[derive(Args)]
pub(crate) struct Rounds {
    /// How many runs there are in all.
    #[arg(long, default_value_t = 30, value_name = "N")]
    runs: u64,
    /// The first run of this call, to go on where another was stopped.
    #[arg(long, default_value_t = 1, value_name = "N")]
    first: u64,
    /// Seed of the property tests; run N draws from SEED + N. The time decides when it is not given.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs a part to its end and prints each run that failed.
pub(crate) fn run(part: &Part) -> Result<ExitCode> {
    match part {
        Part::UnitRepeat { rounds, busy, busy_runs } => {
            let quiet_until = rounds.runs.saturating_sub(*busy_runs);
            rounds.each(
                "unit-repeat",
                |run, command| {
                    let _load = (run > quiet_until).then(|| Load::start(*busy));
                    count::run(command)
                },
                &[],
            )
        }
        Part::Properties { rounds, cases } => {
            rounds.each("properties", |_, command| count::run(command), &[("PROPTEST_CASES", cases.to_string())])
        }
    }
}

impl Rounds {
    /// Builds the tier `unit` once, then calls `run` for each command of each run.
    fn each(
        &self,
        part: &str,
        run: impl Fn(u64, &mut Command) -> Result<Tally>,
        variables: &[(&str, String)],
    ) -> Result<ExitCode> {
        let seed =
            self.seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()));
        println!("{part}: the tiers that need root are skipped, because this part is about the tier unit");
        let tests = Tier::Unit.commands();
        for test in &tests {
            step::run(&test.label, &mut test.build())?;
        }
        let mut failed = Vec::new();
        for round in self.first..=self.runs {
            println!("\n== {part} run {round} of {}; to go on from here: --seed {seed} --first {round}", self.runs);
            let started = Instant::now();
            let mut sum = Tally::default();
            for test in &tests {
                let mut command = test.run();
                command.env("PROPTEST_RNG_SEED", seed.wrapping_add(round).to_string());
                command.envs(variables.iter().map(|(name, value)| (name, value)));
                sum += run(round, &mut command)?;
            }
            println!("run {round}: {} passed, {} failed, {}", sum.passed, sum.failed, seconds(started.elapsed()));
            if sum.failed > 0 {
                failed.push(round);
            }
        }
        if failed.is_empty() {
            println!("\n{part}: all runs from {} to {} passed (seed {seed})", self.first, self.runs);
            return Ok(ExitCode::SUCCESS);
        }
        println!("\n{part}: the runs {failed:?} failed (seed {seed})");
        Ok(ExitCode::FAILURE)
    }
}

/// Threads that keep processors busy until this value is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spin = |stop: Arc<AtomicBool>| {
            while !stop.load(Ordering::Relaxed) {
                hint::spin_loop();
            }
        };
        let threads = (0..count).map(|_| Arc::clone(&stop)).map(|stop| thread::spawn(move || spin(stop))).collect();
        Self { stop, threads }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        part: Part,
    }

    #[test]
    fn a_part_has_defaults_and_can_go_on() {
        let line = Line::try_parse_from(["long", "unit-repeat", "--seed", "7", "--first", "13"]).expect("a part");
        let Part::UnitRepeat { rounds, busy, busy_runs } = line.part else { panic!("another part") };
        assert_eq!((rounds.runs, rounds.first, rounds.seed), (30, 13, Some(7)));
        assert_eq!((busy, busy_runs), (4, 10));
    }

    #[test]
    fn busy_loops_end_with_their_value() {
        drop(Load::start(2));
    }
}
