//! Parts that take long by nature: `cargo xtask test long PART`.
//!
//! No part belongs to a tier or to CI. Each takes less than 100 minutes on two cores, draws from a seed, and can go on
//! where it was stopped.

use std::{
    hint,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::{
    count, seed,
    tier::{TestCommand, Tier},
};
use crate::{fuzz, step, step::seconds, tally::Tally};

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
    /// Run the fuzz targets for an hour in all, on top of what earlier runs on this machine have found.
    Fuzz {
        #[command(flatten)]
        rounds: Rounds,
        /// Seconds of each run, for all targets together.
        #[arg(long, default_value_t = 120, value_name = "N")]
        seconds: u64,
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
    /// Seed of the part; run N draws from SEED + N. The time decides when it is not given.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs a part to its end and prints each run that failed.
pub(crate) fn run(part: &Part) -> Result<ExitCode> {
    match part {
        Part::UnitRepeat { rounds, busy, busy_runs } => {
            let quiet_until = rounds.runs.saturating_sub(*busy_runs);
            let tests = UnitTests::build("unit-repeat")?;
            rounds.each("unit-repeat", |run, seed| {
                let _load = (run > quiet_until).then(|| Load::start(*busy));
                tests.run(seed, &[])
            })
        }
        Part::Properties { rounds, cases } => {
            let tests = UnitTests::build("properties")?;
            rounds.each("properties", |_, seed| tests.run(seed, &[("PROPTEST_CASES", cases.to_string())]))
        }
        Part::Fuzz { rounds, seconds } => {
            if let Some(reason) = fuzz::obstacle() {
                bail!("the fuzz targets cannot be built here: {reason}");
            }
            rounds.each("fuzz", |_, seed| Ok(fuzz::run(*seconds, seed)))
        }
    }
}

impl Rounds {
    /// Calls `run` for each run, with its number and seed.
    fn each(&self, part: &str, mut run: impl FnMut(u64, u64) -> Result<Tally>) -> Result<ExitCode> {
        let seed = self.seed.unwrap_or_else(seed);
        let mut failed = Vec::new();
        for round in self.first..=self.runs {
            println!("\n== {part} run {round} of {}; to go on from here: --seed {seed} --first {round}", self.runs);
            let started = Instant::now();
            let sum = run(round, seed.wrapping_add(round))?;
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

/// The tests of the tier `unit`, built once.
struct UnitTests(Vec<TestCommand>);

impl UnitTests {
    fn build(part: &str) -> Result<Self> {
        println!("{part}: the tiers that need root are skipped, because this part is about the tier unit");
        let tests = Tier::Unit.commands();
        for test in &tests {
            step::run(&test.label, &mut test.build())?;
        }
        Ok(Self(tests))
    }

    fn run(&self, seed: u64, variables: &[(&str, String)]) -> Result<Tally> {
        let mut sum = Tally::default();
        for test in &self.0 {
            let mut command = test.run();
            command.env("PROPTEST_RNG_SEED", seed.to_string());
            command.envs(variables.iter().map(|(name, value)| (name, value)));
            sum += count::run(&mut command)?;
        }
        Ok(sum)
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
