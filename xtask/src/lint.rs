//! Format, clippy, documentation and dependencies, for both sides.
//!
//! The kernel side is checked for this machine's own target: that needs no BPF toolchain and finds the same faults.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{setup, step, workspace};

/// One thing that must be clean.
pub(crate) struct Check {
    /// Its name in the output.
    pub name: &'static str,
    tool: Tool,
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

/// Everything that `cargo xtask lint` checks.
pub(crate) const CHECKS: [Check; 7] = [
    Check { name: "format", tool: Tool::Format, arguments: &["--all", "--check"] },
    Check { name: "licences, bans, sources", tool: Tool::Deny, arguments: &["check", "licenses", "bans", "sources"] },
    Check { name: "clippy", tool: Tool::Clippy, arguments: &["--all-targets", "--", "-D", "warnings"] },
    Check {
        name: "clippy for the kernel side",
        tool: Tool::Clippy,
        arguments: &["-p", "agent-ebpf", "--", "-D", "warnings"],
    },
    Check {
        name: "clippy for the kernel side with log lines",
        tool: Tool::Clippy,
        arguments: &["-p", "agent-ebpf", "--features", "log", "--", "-D", "warnings"],
    },
    Check { name: "documentation", tool: Tool::Doc, arguments: &["--no-deps", "--document-private-items"] },
    Check {
        name: "documentation of the kernel side",
        tool: Tool::Doc,
        arguments: &["--no-deps", "--document-private-items", "-p", "agent-ebpf"],
    },
];

impl Check {
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
        let mut command = match self.tool {
            // The formatter takes no `--locked`.
            Tool::Format => {
                let mut command = Command::new("cargo");
                command.arg("fmt").current_dir(workspace::root());
                command
            }
            Tool::Clippy => workspace::cargo("clippy"),
            Tool::Doc => {
                let mut command = workspace::cargo("doc");
                // The pages show private items too, so links to them resolve.
                command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
                command
            }
            Tool::Deny => {
                let mut command = Command::new(setup::deny::ready()?);
                command.arg("--manifest-path").arg(workspace::root().join("Cargo.toml")).arg("--locked");
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
