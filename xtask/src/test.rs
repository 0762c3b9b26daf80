//! The tiers of tests, cheapest first, and one count over all of them.
//!
//! A tier that cannot run here is skipped loudly with its reason; a tier that has no tests yet is named and never
//! counted. Anything that fails makes the whole run fail.

mod tally;
mod tier;

use std::{
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use ::cluster::{Parts, Source};
use anyhow::{Context, Result};

use self::tally::Report;
pub use self::tally::{Outcome, Tally};
pub use self::tier::Tier;
use crate::{
    ebpf::{self, Variant},
    host,
    image::{self, Profile},
    kernels, lint, setup, step, workspace,
};

/// Names the tiers, what each proves and what it needs.
pub fn list() -> ExitCode {
    for tier in Tier::ALL {
        println!("{:<8}  {}; needs {}", tier.name(), tier.proves(), tier.needs());
    }
    ExitCode::SUCCESS
}

/// Runs the tiers that are asked for, or all, and sums them up.
pub fn run(asked: &[Tier]) -> Result<ExitCode> {
    let tiers = Tier::ALL.into_iter().filter(|tier| asked.is_empty() || asked.contains(tier));
    let mut report = Report::default();
    let mut ground = Ground::Unknown;
    if let Some(warning) = host::cramped(&workspace::cargo_target()) {
        println!("warning: {warning}");
    }
    for tier in tiers {
        println!("\n== {}: {}", tier.name(), tier.proves());
        let started = Instant::now();
        let outcome = match tier {
            Tier::Lint => lints(),
            Tier::Tidy | Tier::Unit => commands(&tier.commands()),
            Tier::Program | Tier::Netns | Tier::Kernels | Tier::Cluster => {
                kernel_tier(tier, &mut ground).unwrap_or_else(|skip| named_must_run(skip, !asked.is_empty()))
            }
        };
        if let Outcome::Skipped(reason) | Outcome::Absent(reason) = &outcome {
            println!("SKIPPED {}: {reason}", tier.name());
        }
        report.add(tier.name(), outcome, started.elapsed());
    }
    println!("\n{report}");
    Ok(if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the privileged tiers stand on: prepared once, before the first of them.
enum Ground {
    Unknown,
    Ready,
    /// This machine or this user cannot; not our fault.
    Missing(String),
    /// It should have worked.
    Broken,
}

/// Runs a tier that loads programs; `Err` holds the outcome of one that did not run.
fn kernel_tier(tier: Tier, ground: &mut Ground) -> Result<Outcome, Outcome> {
    if tier != Tier::Kernels && tier.targets().is_empty() {
        return Err(Outcome::Absent("it has no tests yet".to_owned()));
    }
    if matches!(ground, Ground::Unknown) {
        *ground = prepare();
    }
    match (tier, &ground) {
        (Tier::Cluster, Ground::Ready) => return cluster_tier(),
        (Tier::Kernels, Ground::Ready) => return kernels_tier(),
        _ => {}
    }
    match ground {
        Ground::Ready => Ok(commands(&tier.commands())),
        Ground::Missing(reason) => Err(Outcome::Skipped(reason.clone())),
        Ground::Unknown | Ground::Broken => Ok(Outcome::Ran(Tally::one_failure())),
    }
}

/// Other kernels, where guests can be made.
fn kernels_tier() -> Result<Outcome, Outcome> {
    if let Some(reason) = kernels::obstacle() {
        return Err(Outcome::Skipped(reason));
    }
    match kernels::run() {
        Ok(skipped @ Outcome::Skipped(_)) => Err(skipped),
        Ok(outcome) => Ok(outcome),
        Err(error) => {
            println!("error: {error:#}");
            Ok(Outcome::Ran(Tally::one_failure()))
        }
    }
}

/// Where Kubernetes can be had: its parts and the agent's image are built before the scenarios are, and kept.
fn cluster_tier() -> Result<Outcome, Outcome> {
    if let source @ (Source::Kubeconfig(_) | Source::Missing(_)) = Source::find() {
        return Err(Outcome::Skipped(match source {
            Source::Missing(reason) => reason,
            _ => "its scenarios enter nodes, and KUBECONFIG names a cluster that is not our own".to_owned(),
        }));
    }
    let built = ::cluster::packages()
        .and_then(|()| Parts::ready(&::cluster::cache()))
        .and_then(|_| image::build(Profile::Quick));
    Ok(match built {
        Ok(_) => commands(&Tier::Cluster.commands()),
        Err(error) => {
            println!("error: {error:#}");
            Outcome::Ran(Tally::one_failure())
        }
    })
}

/// Somebody who names a tier wants it to run, and must not take a skip for a pass.
fn named_must_run(outcome: Outcome, named: bool) -> Outcome {
    match outcome {
        Outcome::Absent(reason) | Outcome::Skipped(reason) if named => {
            println!("error: {reason}");
            Outcome::Ran(Tally::one_failure())
        }
        other => other,
    }
}

fn prepare() -> Ground {
    let obstacles = setup::kernel();
    if !obstacles.is_empty() {
        return Ground::Missing(obstacles.join("; "));
    }
    let built = setup::build_tools().and_then(|_| ebpf::build(Variant::Plain)).and_then(|()| build_agent());
    match built {
        Ok(()) => Ground::Ready,
        Err(error) => {
            println!("error: {error:#}");
            Ground::Broken
        }
    }
}

/// The privileged tiers start the agent as a program.
fn build_agent() -> Result<()> {
    let mut cargo = crate::workspace::cargo("build");
    cargo.args(["-p", "bulkhead", "-p", "bulkhead-tests", "--bin", "bulkhead"]);
    step::run("build the agent", &mut cargo)
}

/// Each check counts as one test.
fn lints() -> Outcome {
    let mut tally = Tally::default();
    for check in &lint::CHECKS {
        if let Some(obstacle) = check.obstacle() {
            println!("{} ... SKIPPED: {obstacle}", check.name);
            tally.ignored += 1;
            continue;
        }
        match check.run() {
            Ok(()) => tally.passed += 1,
            Err(_) => tally.failed += 1,
        }
        println!("{} ... {}", check.name, if tally.failed == 0 { "ok" } else { "FAILED" });
    }
    Outcome::Ran(tally)
}

/// Builds first, behind a progress line, then runs with the output passed on.
fn commands(commands: &[tier::TestCommand]) -> Outcome {
    let mut sum = Tally::default();
    for test in commands {
        let tally = match step::run(&test.label, &mut test.build()).and_then(|()| count(&mut test.run())) {
            Ok(tally) => tally,
            Err(error) => {
                println!("error: {error:#}");
                Tally::one_failure()
            }
        };
        sum += tally;
    }
    Outcome::Ran(sum)
}

/// Passes the output of `cargo test` on and adds up its result lines.
fn count(command: &mut Command) -> Result<Tally> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("a piped output can be taken once")?;
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read what cargo test prints")?;
        println!("{line}");
        tally += Tally::of_line(&line).unwrap_or_default();
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        println!("error: cargo test ended with {status} without a failed test");
        tally.failed = 1;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_tier_that_cannot_run_has_failed() {
        let skipped = || Outcome::Skipped("not root".to_owned());
        assert!(matches!(named_must_run(skipped(), true), Outcome::Ran(Tally { passed: 0, failed: 1, .. })));
        assert!(matches!(named_must_run(skipped(), false), Outcome::Skipped(_)));
    }
}
