//! Formatting and clippy, for both sides.
//!
//! The kernel side is linted for this machine: that needs no BPF toolchain and finds the same things.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{step, workspace};

/// One thing that must be clean.
pub struct Check {
    /// What it is.
    pub name: &'static str,
    /// The cargo subcommand, and everything after it.
    arguments: &'static [&'static str],
}

/// Everything `cargo xtask lint` looks at.
pub const CHECKS: [Check; 4] = [
    Check { name: "format", arguments: &["fmt", "--all", "--check"] },
    Check { name: "clippy", arguments: &["clippy", "--all-targets", "--", "-D", "warnings"] },
    Check { name: "clippy for the kernel side", arguments: &["clippy", "-p", "agent-ebpf", "--", "-D", "warnings"] },
    Check {
        name: "clippy for the kernel side with log lines",
        arguments: &["clippy", "-p", "agent-ebpf", "--features", "log", "--", "-D", "warnings"],
    },
];

impl Check {
    /// Why it cannot run here, with the remedy.
    pub fn obstacle(&self) -> Option<String> {
        let tool = self.arguments[0];
        let mut version = Command::new("cargo");
        version.args([tool, "--version"]);
        let component = if tool == "fmt" { "rustfmt" } else { tool };
        workspace::output_of(&mut version)
            .is_none()
            .then(|| format!("no cargo {tool}: rustup component add {component}"))
    }

    /// Runs it; the error says where its output is.
    pub fn run(&self) -> Result<()> {
        step::run(self.name, &mut self.command())
    }

    fn command(&self) -> Command {
        let (tool, rest) = self.arguments.split_first().unwrap_or((&"fmt", &[]));
        let mut command = match *tool {
            // The formatter knows nothing of lock files.
            "fmt" => Command::new("cargo"),
            _ => workspace::cargo(tool),
        };
        if *tool == "fmt" {
            command.arg(tool).current_dir(workspace::root());
        }
        if rest.contains(&"agent-ebpf") {
            // A crate without std has nothing to unwind with.
            command.env("CARGO_PROFILE_DEV_PANIC", "abort");
        }
        command.args(rest);
        command
    }
}

/// The verb: all checks, whatever the first ones say.
pub fn run() -> Result<ExitCode> {
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
