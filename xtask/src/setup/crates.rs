//! Installs programs from crates.io into `target/tools`, at a pinned version.
//!
//! Nothing of the user's own cargo is touched.

use std::{env, fs, process::Command};

use anyhow::{Context, Result};

use crate::{step, workspace};

/// Calls `cargo install`; `adapt` adds features, profile and environment.
pub(super) fn install(name: &str, version: &str, adapt: impl FnOnce(&mut Command)) -> Result<()> {
    let scratch = workspace::tools().join("build");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["install", name, "--version", version, "--locked"]);
    command.arg("--root").arg(workspace::tools()).arg("--target-dir").arg(&scratch);
    for inherited in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC", "RUSTC_BOOTSTRAP"] {
        command.env_remove(inherited);
    }
    adapt(&mut command);
    // Elsewhere, because cargo reads configuration from the directory it runs in.
    step::run(&format!("build {name}"), command.current_dir(env::temp_dir()))?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}
