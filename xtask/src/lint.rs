//! Format, clippy, documentation and dependencies, for both sides.
//!
//! The kernel side is checked for this machine's own target: that needs no BPF toolchain and finds the same faults.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::Result;

use crate::{setup, step, workspace};

/// One thing that must be clean.
pub(crate) struct Check {
    /// Its name in the output.
    pub name: &'static str,
    tool: Tool,
    tree: Tree,
    /// What follows the cargo subcommand.
    arguments: &'static [&'static str],
}

/// The cargo subcommand that a check runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tool {
    Format,
    Clippy,
    Doc,
    Deny,
}

/// The workspace that a check reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    Product,
    Fuzz,
}

/// Everything that `cargo xtask lint` checks.
pub(crate) const CHECKS: [Check; 11] = [
    Check::new("format", Tool::Format, &["--all", "--check"]),
    Check::new("format of the fuzz targets", Tool::Format, &["--check"]).of(Tree::Fuzz),
    Check::new("licences, bans, sources", Tool::Deny, &["check", "licenses", "bans", "sources"]),
    Check::new("licences, bans, sources of the fuzz targets", Tool::Deny, &["check", "licenses", "bans", "sources"])
        .of(Tree::Fuzz),
    Check::new("clippy", Tool::Clippy, &["--all-targets", "--", "-D", "warnings"]),
    Check::new(
        "clippy for what fuzz targets reach",
        Tool::Clippy,
        &["-p", "bulkhead", "--features", "fuzzing", "--", "-D", "warnings"],
    ),
    Check::new("clippy for the fuzz targets", Tool::Clippy, &["--lib", "--", "-D", "warnings"]).of(Tree::Fuzz),
    Check::new("clippy for the kernel side", Tool::Clippy, &["-p", "agent-ebpf", "--", "-D", "warnings"]),
    Check::new(
        "clippy for the kernel side with log lines",
        Tool::Clippy,
        &["-p", "agent-ebpf", "--features", "log", "--", "-D", "warnings"],
    ),
    Check::new("documentation", Tool::Doc, &["--no-deps", "--document-private-items"]),
    Check::new(
        "documentation of the kernel side",
        Tool::Doc,
        &["--no-deps", "--document-private-items", "-p", "agent-ebpf"],
    ),
];

impl Check {
    const fn new(name: &'static str, tool: Tool, arguments: &'static [&'static str]) -> Self {
        Self { name, tool, tree: Tree::Product, arguments }
    }

    const fn of(self, tree: Tree) -> Self {
        Self { tree, ..self }
    }

    /// Why the check cannot run on this machine, with the remedy.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let missing = |subcommand: &str| {
            let mut version = Command::new("cargo");
            workspace::output_of(version.args([subcommand, "--version"])).is_none()
        };
        match self.tool {
            Tool::Format => missing("fmt").then(|| "no cargo fmt: rustup component add rustfmt".to_owned()),
            Tool::Clippy => missing("clippy").then(|| "no cargo clippy: rustup component add clippy".to_owned()),
            Tool::Doc => None,
            Tool::Deny => setup::deny::ready().err().map(|error| format!("no cargo-deny: {error:#}")),
        }
    }

    /// Runs the check. The error names the file with its output.
    pub(crate) fn run(&self) -> Result<()> {
        step::run(self.name, &mut self.command()?)
    }

    fn command(&self) -> Result<Command> {
        let manifest = self.tree.manifest();
        let mut command = match self.tool {
            // The formatter takes no `--locked`.
            Tool::Format => {
                let mut command = Command::new("cargo");
                command.arg("fmt").arg("--manifest-path").arg(manifest);
                command
            }
            Tool::Clippy => {
                let mut command = workspace::cargo_on(&manifest, "clippy");
                // Both workspaces share what is built of their dependencies.
                command.arg("--target-dir").arg(workspace::cargo_target());
                command
            }
            Tool::Doc => {
                let mut command = workspace::cargo_on(&manifest, "doc");
                // The pages show private items too, so links to them resolve.
                command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
                command
            }
            Tool::Deny => {
                let mut command = Command::new(setup::deny::ready()?);
                command.arg("--manifest-path").arg(manifest).arg("--locked");
                command.arg("--config").arg(workspace::root().join("deny.toml"));
                command
            }
        };
        if self.arguments.contains(&"agent-ebpf") {
            // A crate without std has nothing to unwind with.
            command.env("CARGO_PROFILE_DEV_PANIC", "abort");
        }
        command.args(self.arguments);
        Ok(command)
    }
}

impl Tree {
    fn manifest(self) -> PathBuf {
        match self {
            Self::Product => workspace::manifest(),
            Self::Fuzz => workspace::fuzz_manifest(),
        }
    }
}

/// The verb: runs all checks, also after one has failed.
pub(crate) fn run() -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for check in &CHECKS {
        if let Some(obstacle) = check.obstacle() {
            eprintln!("SKIPPED {}: {obstacle}", check.name);
        } else if let Err(error) = check.run() {
            eprintln!("error: {error:#}");
            code = ExitCode::FAILURE;
        } else {
            eprintln!("{}: clean", check.name);
        }
    }
    Ok(code)
}
