//! Finds cargo-deny, or builds it.
//!
//! A cargo-deny on the search path is used as it is, whatever its version.

use std::path::PathBuf;

use anyhow::Result;

use super::crates;
use crate::workspace::{self, on_path};

const VERSION: &str = "0.20.2";

/// The program, which is built once if this machine has none.
pub(crate) fn ready() -> Result<PathBuf> {
    let own = workspace::tools().join("bin/cargo-deny");
    if own.is_file() {
        return Ok(own);
    }
    if let Some(found) = on_path("cargo-deny") {
        return Ok(found);
    }
    eprintln!("building cargo-deny {VERSION}; this happens once and takes about two minutes");
    crates::install("cargo-deny", VERSION, |command| {
        // It runs for a second: an optimised build would cost more time than it saves.
        command.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "false");
    })?;
    Ok(own)
}
