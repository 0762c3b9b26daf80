//! Runs the tiers of tests, cheapest first, and prints one sum over all of them.
//!
//! A tier that cannot run on this machine is skipped with its reason. It fails instead when it was named on the command
//! line. Anything that fails makes the whole run fail.

mod count;
pub(crate) mod long;
mod report;
mod tier;

use std::{
    process::ExitCode,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ::cluster::{Parts, Source};
use anyhow::Result;

use self::report::Report;
pub(crate) use self::tier::Selection;
use self::tier::Tier;
use crate::{
    delegate, docs,
    ebpf::{self, Variant},
    fuzz, host,
    image::{self, Profile},
    kernels, lint, setup,
    tally::{Outcome, Tally},
    workspace,
};

/// Prints each tier, what it proves and what it needs.
pub(crate) fn list() -> ExitCode {
    for tier in Tier::ALL {
        println!("{:<8}  {}; needs {}", tier.name(), tier.proves(), tier.needs());
    }
    println!(
        "{:<8}  the tiers {}; needs neither root nor the BPF toolchain",
        "check",
        Tier::CHECK.map(Tier::name).join(", ")
    );
    ExitCode::SUCCESS
}

/// Runs the selected tiers, or all of them when the selection is empty, and prints the sum.
pub(crate) fn run(selected: &[Selection]) -> Result<ExitCode> {
    let is_selected = |tier: &Tier| selected.iter().any(|selection| selection.holds(*tier));
    let tiers = Tier::ALL.into_iter().filter(|tier| selected.is_empty() || is_selected(tier));
    let mut report = Report::default();
    let mut prerequisites = Prerequisites::Unknown;
    if let Some(warning) = host::cramped(&workspace::cargo_target()) {
        println!("warning: {warning}");
    }
    for tier in tiers {
        println!("\n== {}: {}", tier.name(), tier.proves());
        let started = Instant::now();
        let outcome = match tier {
            Tier::Lint => Outcome::Ran(lints()),
            Tier::Tidy => Outcome::Ran(tidy()),
            Tier::Unit => Outcome::Ran(count::commands(&tier.commands())),
            Tier::Fuzz => named_must_run(fuzz_tier(), !selected.is_empty()),
            Tier::Program | Tier::Netns | Tier::Kernels | Tier::Cluster => {
                named_must_run(privileged(tier, &mut prerequisites), !selected.is_empty())
            }
        };
        if let Outcome::Skipped(reason) = &outcome {
            println!("SKIPPED {}: {reason}", tier.name());
        }
        report.add(tier.name(), outcome, started.elapsed());
    }
    println!("\n{report}");
    Ok(if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the privileged tiers need. It is prepared once, before the first of them.
enum Prerequisites {
    Unknown,
    Ready,
    /// This machine or this user cannot load programs.
    Missing(String),
    /// A build failed that should have succeeded.
    Broken,
}

/// Runs a tier that loads programs.
fn privileged(tier: Tier, prerequisites: &mut Prerequisites) -> Outcome {
    if matches!(prerequisites, Prerequisites::Unknown) {
        *prerequisites = prepare();
    }
    match (&prerequisites, tier) {
        (Prerequisites::Ready, Tier::Cluster) => cluster_tier(),
        (Prerequisites::Ready, Tier::Kernels) => kernels_tier(),
        (Prerequisites::Ready, _) => Outcome::Ran(count::commands(&tier.commands())),
        (Prerequisites::Missing(reason), _) => Outcome::Skipped(reason.clone()),
        (Prerequisites::Unknown | Prerequisites::Broken, _) => Outcome::Ran(Tally::one_failure()),
    }
}

/// Runs every fuzz target, unless they cannot be built here.
fn fuzz_tier() -> Outcome {
    match fuzz::obstacle() {
        Some(reason) => Outcome::Skipped(reason),
        None => Outcome::Ran(fuzz::run(fuzz::SECONDS, seed())),
    }
}

/// A seed from the time.
fn seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Runs the tests on other kernels, unless no guest can be made here.
fn kernels_tier() -> Outcome {
    if let Some(reason) = kernels::obstacle() {
        return Outcome::Skipped(reason);
    }
    kernels::run().unwrap_or_else(|error| failure(&error))
}

/// Builds Kubernetes and the agent's image, then runs the scenarios. Both builds are kept for the next run.
fn cluster_tier() -> Outcome {
    match Source::find() {
        Source::Parts => {}
        Source::Missing(reason) => return Outcome::Skipped(reason),
        Source::Kubeconfig(_) => {
            return Outcome::Skipped(
                "its scenarios enter nodes, and KUBECONFIG names a cluster that is not our own".to_owned(),
            );
        }
    }
    let built = ::cluster::packages()
        .and_then(|()| Parts::ready(&::cluster::cache()))
        .and_then(|_| image::build(Profile::Quick));
    match built {
        Ok(_) => Outcome::Ran(count::commands(&Tier::Cluster.commands())),
        Err(error) => failure(&error),
    }
}

fn failure(error: &anyhow::Error) -> Outcome {
    println!("error: {error:#}");
    Outcome::Ran(Tally::one_failure())
}

/// Turns a skip into a failure when the tier was named: a person who names a tier must not take a skip for a pass.
fn named_must_run(outcome: Outcome, named: bool) -> Outcome {
    match outcome {
        Outcome::Skipped(reason) if named => {
            println!("error: {reason}");
            Outcome::Ran(Tally::one_failure())
        }
        other => other,
    }
}

fn prepare() -> Prerequisites {
    let obstacles = setup::kernel();
    if !obstacles.is_empty() {
        return Prerequisites::Missing(obstacles.join("; "));
    }
    let built = setup::build_tools().and_then(|_| ebpf::build(Variant::Shipped)).and_then(|()| delegate::build_agent());
    match built {
        Ok(()) => Prerequisites::Ready,
        Err(error) => {
            println!("error: {error:#}");
            Prerequisites::Broken
        }
    }
}

/// Runs the checks of `cargo xtask lint`. Each counts as one test.
fn lints() -> Tally {
    let mut tally = Tally::default();
    for check in &lint::CHECKS {
        if let Some(obstacle) = check.obstacle() {
            println!("{} ... ignored: {obstacle}", check.name);
            tally.ignored += 1;
            continue;
        }
        match check.run() {
            Ok(()) => {
                println!("{} ... ok", check.name);
                tally.passed += 1;
            }
            Err(_) => {
                println!("{} ... FAILED", check.name);
                tally.failed += 1;
            }
        }
    }
    tally
}

/// Runs the tests of xtask, one of which reads the whole tree, and compares the generated pages.
fn tidy() -> Tally {
    let mut tally = count::commands(&Tier::Tidy.commands());
    match docs::run(true) {
        Ok(()) => tally.passed += 1,
        Err(error) => {
            println!("error: {error:#}");
            tally.failed += 1;
        }
    }
    tally
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
