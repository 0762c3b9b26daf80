//! Keeps `deploy/crd.yaml` equal to what the types say.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::{step, workspace};

/// Writes the file from the types; with `check`, only compares.
pub fn run(check: bool) -> Result<()> {
    let file = workspace::root().join("deploy/crd.yaml");
    let wanted = generate()?;
    let current = fs::read(&file).unwrap_or_default();
    if current == wanted {
        eprintln!("{} is up to date", file.display());
        return Ok(());
    }
    if check {
        bail!("{} differs from the types: run `cargo xtask crds`", file.display());
    }
    fs::write(&file, wanted).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("{} written", file.display());
    Ok(())
}

/// What `bulkhead crd` prints.
fn generate() -> Result<Vec<u8>> {
    let mut cargo = workspace::cargo("build");
    step::run("build the agent", cargo.args(workspace::AGENT))?;
    let output = Command::new(workspace::agent_binary()).arg("crd").output().context("cannot start the agent")?;
    if !output.status.success() || output.stdout.is_empty() {
        bail!("`bulkhead crd` printed no CRD: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}
