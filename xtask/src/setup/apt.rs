//! Installs missing Debian packages, or prints the command that does.
//!
//! Package lists are fetched only when a package is missing.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{host::Host, step, workspace::output_of};

/// Installs the packages that are missing.
///
/// If this user may not, the error holds the command.
pub(super) fn install(host: &Host, label: &str, packages: &[String]) -> Result<()> {
    let missing: Vec<&String> = packages.iter().filter(|package| !host.apt || !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
    if !host.apt {
        bail!(
            "this machine lacks what Debian calls {names}: install it with the system's package manager, then run this again"
        );
    }
    if !host.root {
        bail!(
            "these packages are missing: {names}; install them as root:\n  apt-get update && apt-get install -y --no-install-recommends {names}"
        );
    }
    eprintln!("{label}: {names}");
    step::run("fetch package lists", apt().arg("update"))?;
    step::run(label, apt().args(["install", "-y", "--no-install-recommends"]).args(missing))
}

/// A call of apt-get that asks no questions and waits for another package manager.
fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status}", package]);
    output_of(&mut query).is_some_and(|status| status == "installed")
}
