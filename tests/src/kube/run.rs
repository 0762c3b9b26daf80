//! The `main` of the cluster tier: one cluster for many scenarios, removed also after a failure.
//!
//! `cargo test` offers no hook before the first and after the last test, a panic included. The scenarios are therefore
//! a list, and this module prints what `cargo test` would print.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow};
use cluster::{Cni, Source};

use super::Site;
use super::expect::Policy;
use crate::tier;

/// A property that should hold on a cluster where Bulkhead is installed.
pub struct Scenario {
    /// A sentence about behaviour.
    pub name: &'static str,
    /// The network plugins that it runs with.
    pub on: &'static [Cni],
    /// The scenario itself. The policy in force before it is restored afterwards.
    pub run: fn(&mut Site) -> Result<()>,
    /// Whether other scenarios depend on it, so that no filter excludes it.
    pub always: bool,
}

/// With either network plugin.
pub const BOTH: &[Cni] = &[Cni::Ptp, Cni::Bridge];
/// With routed pods only, for scenarios where the network plugin makes no difference.
pub const PTP: &[Cni] = &[Cni::Ptp];

impl Scenario {
    /// A scenario that a filter may exclude.
    pub const fn new(name: &'static str, on: &'static [Cni], run: fn(&mut Site) -> Result<()>) -> Self {
        Self { name, on, run, always: false }
    }

    /// A scenario that others depend on, or that must run last.
    pub const fn always(name: &'static str, on: &'static [Cni], run: fn(&mut Site) -> Result<()>) -> Self {
        Self { name, on, run, always: true }
    }

    fn title(&self, cni: Cni) -> String {
        format!("{cni}::{}", self.name)
    }
}

/// The results.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: Vec<String>,
    left_out: usize,
}

/// Runs the scenarios that the command line names, or all: first with routed pods, then with a bridge.
pub fn main(scenarios: &[Scenario]) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        scenarios.iter().flat_map(|s| s.on.iter().map(|cni| s.title(*cni))).for_each(|title| println!("{title}: test"));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let Some(image) = tier::agent_image() else {
        return skipped("it needs the agent's image: run `cargo xtask test cluster`, or set BULKHEAD_IMAGE");
    };
    match Source::find() {
        Source::Parts => {}
        Source::Missing(reason) => return skipped(&reason),
        Source::Kubeconfig(_) => {
            return skipped(
                "it cannot enter the nodes of the cluster in KUBECONFIG: run it as root on a machine with Go",
            );
        }
    }
    let mut count = Count::default();
    for cni in [Cni::Ptp, Cni::Bridge] {
        let named = |s: &Scenario| filters.is_empty() || filters.iter().any(|f| s.title(cni).contains(f.as_str()));
        let here: Vec<&Scenario> = scenarios.iter().filter(|scenario| scenario.on.contains(&cni)).collect();
        let wanted: Vec<&&Scenario> = here.iter().filter(|scenario| scenario.always || named(scenario)).collect();
        count.left_out += here.len() - wanted.len();
        if here.iter().any(|scenario| named(scenario)) {
            on_cluster(cni, &image, &wanted, &mut count);
        } else {
            count.left_out += wanted.len();
        }
    }
    finish(&count)
}

fn skipped(reason: &str) -> ExitCode {
    println!("SKIPPED cluster: {reason}");
    println!("test result: ok. 0 passed; 0 failed; 1 ignored");
    ExitCode::SUCCESS
}

fn on_cluster(cni: Cni, image: &Path, scenarios: &[&&Scenario], count: &mut Count) {
    let start = Instant::now();
    let mut site = match guarded(|| Site::build(cni, image)) {
        Ok(site) => site,
        Err(error) => {
            println!("no cluster ({cni}): {error:#}");
            count.failed.extend(scenarios.iter().map(|scenario| scenario.title(cni)));
            return;
        }
    };
    println!(
        "cluster {} ({cni}) and its {} pods are up: {:.1} s",
        site.cluster.id(),
        site.world.pods.len(),
        start.elapsed().as_secs_f32()
    );
    for (done, scenario) in scenarios.iter().enumerate() {
        let (title, start) = (scenario.title(cni), Instant::now());
        let outcome = guarded(|| (scenario.run)(&mut site));
        let failed = outcome.is_err();
        match outcome {
            Ok(()) => {
                println!("test {title} ... ok ({:.1} s)", start.elapsed().as_secs_f32());
                count.passed += 1;
            }
            Err(error) => {
                println!(
                    "test {title} ... FAILED ({:.1} s)\n{error:#}\n{}",
                    start.elapsed().as_secs_f32(),
                    site.describe()
                );
                count.failed.push(title);
                if scenario.always {
                    println!("the scenarios after it did not run, because they depend on it");
                    count.failed.extend(scenarios[done + 1..].iter().map(|scenario| scenario.title(cni)));
                    return;
                }
            }
        }
        if let Err(error) = restore(&mut site, scenario, failed) {
            println!("warning: the policy could not be restored after {}: {error:#}", scenario.name);
        }
    }
}

/// Restores the policy, so that every scenario starts with the same one.
fn restore(site: &mut Site, scenario: &Scenario, failed: bool) -> Result<()> {
    let usual = Policy::new();
    let same = site.policy.objects.to_yaml() == usual.objects.to_yaml();
    if scenario.always || same && !failed && site.policy.unassigned == usual.unassigned {
        return Ok(());
    }
    if site.policy.unassigned != usual.unassigned {
        site.set_unassigned(usual.unassigned)?;
    }
    site.policy = usual;
    site.apply_policy()?;
    site.settle()
}

/// Turns a panic into an error, because the cluster must be removed in any case.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow!("it panicked: {}", text.unwrap_or("without a message")))
    })
}

fn finish(count: &Count) -> ExitCode {
    let Count { passed, failed, left_out } = count;
    if !failed.is_empty() {
        println!("\nfailures:\n    {}", failed.join("\n    "));
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; 0 ignored; 0 measured; {left_out} filtered out",
        failed.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
