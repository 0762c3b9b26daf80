//! The tiers: what each proves, what it needs, what it runs.

use std::process::Command;

use crate::{
    delegate,
    image::{self, Profile},
    workspace,
};

/// One tier of tests, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tier {
    /// Formatting and clippy.
    Lint,
    /// The room rules.
    Tidy,
    /// Tests beside the code.
    Unit,
    /// Frames into loaded programs.
    Program,
    /// Real traffic between network namespaces.
    Netns,
    /// Other kernels.
    Kernels,
    /// A small Kubernetes.
    Cluster,
}

impl Tier {
    /// All of them, cheapest first.
    pub const ALL: [Self; 7] =
        [Self::Lint, Self::Tidy, Self::Unit, Self::Program, Self::Netns, Self::Kernels, Self::Cluster];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Tidy => "tidy",
            Self::Unit => "unit",
            Self::Program => "program",
            Self::Netns => "netns",
            Self::Kernels => "kernels",
            Self::Cluster => "cluster",
        }
    }

    /// What is known when it passes.
    pub fn proves(self) -> &'static str {
        match self {
            Self::Lint => "the code is formatted and clippy has nothing to say",
            Self::Tidy => "rooms keep to their imports; xtask's own tests",
            Self::Unit => "parsing, verdicts, compile and diff, without a kernel",
            Self::Program => "the verifier accepts the programs; frames in, verdicts out",
            Self::Netns => "real traffic, attachment, restart",
            Self::Kernels => "the same frames and traffic on 5.10, 6.1, 6.12 and the newest kernel",
            Self::Cluster => "two tenants on a real two-node Kubernetes",
        }
    }

    /// What the machine must offer.
    pub fn needs(self) -> &'static str {
        match self {
            Self::Lint => "rustfmt and clippy",
            Self::Tidy | Self::Unit => "nothing",
            Self::Program => "root, BTF and bpffs",
            Self::Netns => "root, BTF, bpffs, iproute2 and nftables",
            Self::Kernels => "root, BTF, bpffs, apt and x86-64",
            Self::Cluster => "root, BTF, bpffs, Go and a C compiler",
        }
    }

    /// The files of `tests/tests` that belong to this tier.
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Self::Lint | Self::Tidy | Self::Unit | Self::Kernels => &[],
            Self::Program => &["program"],
            Self::Netns => &["netns", "isolation", "restart", "locks"],
            Self::Cluster => &["cluster"],
        }
    }

    /// Those of its files that exist.
    pub fn targets(self) -> Vec<&'static str> {
        let directory = workspace::root().join("tests/tests");
        self.files().iter().copied().filter(|name| directory.join(format!("{name}.rs")).is_file()).collect()
    }

    /// What to run; nothing for `lint`, which is not a test.
    pub fn commands(self) -> Vec<TestCommand> {
        match self {
            Self::Lint | Self::Kernels => Vec::new(),
            Self::Tidy => vec![TestCommand::plain("build xtask's tests", &["-p", "xtask"])],
            Self::Unit => vec![
                TestCommand::plain("build the unit tests", &["-p", "agent-common", "-p", "bulkhead"]),
                TestCommand::plain(
                    "build the test bench",
                    &["-p", "bulkhead-tests", "-p", "bulkhead-cluster", "--lib", "--bins"],
                ),
            ],
            Self::Program | Self::Netns | Self::Cluster => {
                self.targets().into_iter().map(|target| TestCommand::privileged(self, target)).collect()
            }
        }
    }
}

/// One call of `cargo test`.
pub struct TestCommand {
    /// What its build step is called.
    pub label: String,
    selection: Vec<&'static str>,
    harness: &'static [&'static str],
}

impl TestCommand {
    fn plain(label: &str, selection: &[&'static str]) -> Self {
        Self { label: label.to_owned(), selection: selection.to_vec(), harness: &["--quiet"] }
    }

    /// One test at a time, because they share the machine's network.
    fn privileged(tier: Tier, target: &'static str) -> Self {
        Self {
            label: format!("build the {} tests ({target})", tier.name()),
            selection: vec!["-p", "bulkhead-tests", "--test", target],
            harness: &["--test-threads=1"],
        }
    }

    /// Builds without running.
    pub fn build(&self) -> Command {
        let mut command = workspace::cargo("test");
        command.arg("--no-run").args(&self.selection);
        command
    }

    /// Runs what was built.
    pub fn run(&self) -> Command {
        let mut command = workspace::cargo("test");
        command.arg("--no-fail-fast").args(&self.selection).arg("--").args(self.harness);
        delegate::with_agent(&mut command);
        command.env("BULKHEAD_IMAGE", image::archive(Profile::Quick));
        command
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_file_of_privileged_tests_belongs_to_a_tier() {
        let Ok(entries) = fs::read_dir(workspace::root().join("tests/tests")) else {
            return;
        };
        let known: Vec<&str> = Tier::ALL.iter().flat_map(|tier| tier.files()).copied().collect();
        for file in
            entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "rs"))
        {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            assert!(known.contains(&name.as_str()), "{} would never run: name it in a tier", file.display());
        }
    }
}
