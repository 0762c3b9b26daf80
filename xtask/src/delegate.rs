//! Verbs that a binary of the `tests` crate carries out, and builds of the agent for them.
//!
//! Standard output belongs to the binary, so nothing is printed to it here. The exit code is the binary's.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
};

use anyhow::{Context, Result, bail};

use crate::{
    ebpf::{self, Variant},
    setup, step, workspace,
};

/// Shows the demo, or ends one that was kept.
pub(crate) fn demo(keep: bool, action: Option<&str>) -> Result<ExitCode> {
    let mut arguments: Vec<OsString> = Vec::new();
    arguments.extend(keep.then(|| "--keep".into()));
    arguments.extend(action.map(Into::into));
    run("demo", &arguments)
}

/// Replays a file of frames.
pub(crate) fn frames(file: &Path) -> Result<ExitCode> {
    run("frames", &[file.into()])
}

/// Measures.
pub(crate) fn bench(json: Option<&Path>, quick: bool, api: bool) -> Result<ExitCode> {
    let mut arguments: Vec<OsString> = Vec::new();
    if let Some(file) = json {
        arguments.extend(["--json".into(), file.into()]);
    }
    arguments.extend(quick.then(|| "--quick".into()));
    arguments.extend(api.then(|| "--api".into()));
    run("bench", &arguments)
}

fn run(binary: &str, arguments: &[OsString]) -> Result<ExitCode> {
    setup::all()?;
    ebpf::build(Variant::Shipped)?;
    build(binary)?;
    let mut cargo = workspace::cargo("run");
    cargo.args(["--quiet", "-p", "bulkhead-tests", "--bin", binary, "--"]).args(arguments);
    let status = with_agent(&mut cargo).status().context("cannot start cargo")?;
    Ok(exit_code(status))
}

/// Builds the agent as the tests do.
///
/// A test is among the targets, because cargo counts the features of dev-dependencies only then. Without it, the
/// Kubernetes client would be built twice.
pub(crate) fn build_agent() -> Result<()> {
    let mut cargo = workspace::cargo("build");
    cargo.args(workspace::PACKAGES).args(["--bin", "bulkhead", "--test", "verdict"]);
    step::run("build the agent", &mut cargo)
}

/// What the agent prints for a command that needs nothing of the machine.
pub(crate) fn agent_output(command: &str) -> Result<Vec<u8>> {
    build_agent()?;
    let output = Command::new(workspace::agent_binary()).arg(command).output().context("cannot start the agent")?;
    if !output.status.success() || output.stdout.is_empty() {
        bail!("`bulkhead {command}` printed nothing: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// The path of a binary of the tests.
pub(crate) fn binary(name: &str) -> PathBuf {
    workspace::cargo_target().join("debug").join(name)
}

/// Builds the agent and a binary of the tests in one call, so that both share their dependencies.
fn build(binary: &str) -> Result<()> {
    let mut cargo = workspace::cargo("build");
    cargo.args(["-p", "bulkhead", "-p", "bulkhead-tests", "--bin", "bulkhead", "--bin", binary]);
    step::run("build the agent", &mut cargo)
}

/// Sets the path of the agent's binary in the environment of a command.
pub(crate) fn with_agent(command: &mut Command) -> &mut Command {
    command.env(OsStr::new("BULKHEAD_BIN"), workspace::agent_binary())
}

/// Passes the exit code of a child on. A child that was killed counts as failed.
fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn exit_codes_pass_and_a_killed_child_failed() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), ExitCode::from(3));
        assert_eq!(exit_code(ExitStatus::from_raw(0)), ExitCode::SUCCESS);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), ExitCode::FAILURE);
    }
}
