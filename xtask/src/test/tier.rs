//! The tiers of tests: what each proves, what it needs, which commands it runs.
//!
//! Runs nothing itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::{ValueEnum, builder::PossibleValue};

use crate::{
    delegate,
    image::{self, Profile},
    workspace,
};

/// One tier of tests, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Format, clippy, documentation, dependencies.
    Lint,
    /// Rules on the tree, generated pages.
    Tidy,
    /// Tests beside the code.
    Unit,
    /// Frames into loaded programs.
    Program,
    /// Real traffic between network namespaces.
    Netns,
    /// Fuzz targets.
    Fuzz,
    /// Other kernels.
    Kernels,
    /// A small Kubernetes.
    Cluster,
}

/// What a person may name on the command line: one tier, or an alias for several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// The tiers of [`Tier::CHECK`].
    Check,
    /// This tier.
    One(Tier),
}

impl Selection {
    const ALL: [Self; 9] = [
        Self::Check,
        Self::One(Tier::Lint),
        Self::One(Tier::Tidy),
        Self::One(Tier::Unit),
        Self::One(Tier::Program),
        Self::One(Tier::Netns),
        Self::One(Tier::Fuzz),
        Self::One(Tier::Kernels),
        Self::One(Tier::Cluster),
    ];

    /// True if this tier is meant.
    pub(crate) fn holds(self, tier: Tier) -> bool {
        match self {
            Self::Check => Tier::CHECK.contains(&tier),
            Self::One(one) => one == tier,
        }
    }
}

impl ValueEnum for Selection {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Check => PossibleValue::new("check").help("The first three: no root, no BPF toolchain, some minutes"),
            Self::One(tier) => PossibleValue::new(tier.name()).help(tier.proves()),
        })
    }
}

impl Tier {
    /// All of them, cheapest first.
    pub(crate) const ALL: [Self; 8] =
        [Self::Lint, Self::Tidy, Self::Unit, Self::Program, Self::Netns, Self::Fuzz, Self::Kernels, Self::Cluster];

    /// Those that run without root and without the BPF toolchain.
    pub(crate) const CHECK: [Self; 3] = [Self::Lint, Self::Tidy, Self::Unit];

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Tidy => "tidy",
            Self::Unit => "unit",
            Self::Program => "program",
            Self::Netns => "netns",
            Self::Fuzz => "fuzz",
            Self::Kernels => "kernels",
            Self::Cluster => "cluster",
        }
    }

    /// What a pass proves.
    pub(crate) fn proves(self) -> &'static str {
        match self {
            Self::Lint => "format, clippy, documentation and the licences of dependencies are clean",
            Self::Tidy => "modules keep to their imports, words and sentences to theirs; generated pages are current",
            Self::Unit => "parser, verdicts, policy and plan are right, without a kernel",
            Self::Program => "the verifier accepts the programs, and each frame gets its verdict",
            Self::Netns => "real traffic is enforced, also across restarts",
            Self::Fuzz => "no input of a minute breaks a property of frames, packets, records and objects",
            Self::Kernels => "kernels 5.10, 6.1, 6.12 and the newest give the same verdicts",
            Self::Cluster => "tenants are kept apart on a real two-node Kubernetes",
        }
    }

    /// What the machine must offer.
    pub(crate) fn needs(self) -> &'static str {
        match self {
            Self::Lint => "rustfmt, clippy and cargo-deny (which it installs)",
            Self::Tidy | Self::Unit => "nothing else",
            Self::Program => "root, BTF and bpffs",
            Self::Netns => "root, BTF, bpffs, iproute2 and nftables",
            Self::Fuzz => "a C++ compiler (which it installs)",
            Self::Kernels => "root, BTF, bpffs, apt and x86-64",
            Self::Cluster => "root, BTF, bpffs, Go and a C compiler",
        }
    }

    /// The files of `tests/tests` that belong to this tier.
    pub(crate) fn files(self) -> &'static [&'static str] {
        match self {
            Self::Lint | Self::Tidy | Self::Unit | Self::Fuzz | Self::Kernels => &[],
            Self::Program => &["program"],
            Self::Netns => &["netns", "isolation", "restart", "guards", "input_guard", "chain"],
            Self::Cluster => &["cluster"],
        }
    }

    /// The commands of this tier. `lint`, `fuzz` and `kernels` run none of cargo's tests.
    pub(crate) fn commands(self) -> Vec<TestCommand> {
        match self {
            Self::Lint | Self::Fuzz | Self::Kernels => Vec::new(),
            Self::Tidy => vec![TestCommand::plain("build xtask's tests", vec!["-p".to_owned(), "xtask".to_owned()])],
            Self::Unit => vec![TestCommand::plain("build the unit tests", unit())],
            Self::Program | Self::Netns | Self::Cluster => {
                self.files().iter().map(|target| TestCommand::privileged(self, target)).collect()
            }
        }
    }
}

/// All tests beside the code, and the integration tests that need no privileges: those of `agent-common`.
fn unit() -> Vec<String> {
    let mut selection = packages();
    selection.extend(["--lib", "--bins"].map(str::to_owned));
    let mut names = integration_tests(&workspace::root().join("agent-common/tests"));
    names.sort();
    selection.extend(names.into_iter().flat_map(|name| ["--test".to_owned(), name]));
    selection
}

/// The names of the integration tests in a directory, by cargo's rule: each file, and each directory with a `main.rs`.
fn integration_tests(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_test = |path: &PathBuf| match path.is_dir() {
        true => path.join("main.rs").exists(),
        false => path.extension().is_some_and(|extension| extension == "rs"),
    };
    entries.filter(is_test).filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect()
}

fn packages() -> Vec<String> {
    workspace::PACKAGES.map(str::to_owned).into()
}

/// One call of `cargo test`.
pub(crate) struct TestCommand {
    /// The name of its build step.
    pub label: String,
    selection: Vec<String>,
    harness: &'static [&'static str],
}

impl TestCommand {
    fn plain(label: &str, selection: Vec<String>) -> Self {
        Self { label: label.to_owned(), selection, harness: &["--quiet"] }
    }

    /// Runs one test at a time, because these tests share the machine's network.
    fn privileged(tier: Tier, target: &str) -> Self {
        let mut selection = packages();
        selection.extend(["--test", target].map(str::to_owned));
        let harness: &[&str] = match tier {
            // Its own `main` knows no other flags, and reads further words as names of scenarios.
            Tier::Cluster => &["--test-threads=1"],
            _ => &["--test-threads=1", "--include-ignored", "--skip", "child_process"],
        };
        Self { label: format!("build the {} tests ({target})", tier.name()), selection, harness }
    }

    /// Builds without running.
    pub(crate) fn build(&self) -> Command {
        let mut command = workspace::cargo("test");
        command.arg("--no-run").args(&self.selection);
        command
    }

    /// Runs what was built.
    pub(crate) fn run(&self) -> Command {
        let mut command = workspace::cargo("test");
        command.arg("--no-fail-fast").args(&self.selection).arg("--").args(self.harness);
        delegate::with_agent(&mut command);
        command.env("BULKHEAD_IMAGE", image::archive(Profile::Quick));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_privileged_tests_belongs_to_a_tier() {
        let tests = integration_tests(&workspace::root().join("tests/tests"));
        let known: Vec<&str> = Tier::ALL.iter().flat_map(|tier| tier.files()).copied().collect();
        assert!(!tests.is_empty());
        for name in tests {
            assert!(known.contains(&name.as_str()), "tests/tests/{name} never runs: add it to `Tier::files`");
        }
    }

    #[test]
    fn the_unit_tier_runs_integration_tests_in_a_file_and_in_a_directory() {
        let unit = unit();
        for name in ["properties", "verdict"] {
            assert!(unit.iter().any(|argument| argument == name), "{name} never runs: {unit:?}");
        }
        assert!(!unit.iter().any(|argument| argument == "world"), "a directory without main.rs is no test");
    }
}
