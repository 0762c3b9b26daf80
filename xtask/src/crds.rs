//! Keeps `deploy/crd.yaml` equal to what the types say.

use std::fs;

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
    step::run("build the agent", workspace::cargo("build").args(["-p", "bulkhead", "--bin", "bulkhead"]))?;
    let mut cargo = workspace::cargo("run");
    let output = cargo.args(["--quiet", "-p", "bulkhead", "--bin", "bulkhead", "--", "crd"]).output();
    let output = output.context("cannot start cargo")?;
    if !output.status.success() || output.stdout.is_empty() {
        bail!("`bulkhead crd` printed no CRD: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}
