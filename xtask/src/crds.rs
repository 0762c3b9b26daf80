//! Writes `deploy/crd.yaml` from the types of the agent, or compares it with them.
//!
//! Takes what `bulkhead crd` prints and changes nothing in it.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{delegate, workspace};

/// Writes the file from the types; with `check`, only compares.
pub(crate) fn run(check: bool) -> Result<()> {
    let file = workspace::root().join("deploy/crd.yaml");
    let wanted = delegate::agent_output("crd")?;
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
