//! Debian packages: installs those that are missing, or says how.
//!
//! The package lists are fetched only when something is to be installed.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{host::Host, step, workspace::output_of};

/// Installs the packages that are not there yet.
///
/// On a machine where it may not, the error holds the command that does it.
pub fn install(host: &Host, label: &str, packages: &[String]) -> Result<()> {
    let missing: Vec<&String> = packages.iter().filter(|package| !host.apt || !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
    if !host.apt {
        bail!(
            "missing here: what Debian calls {names}; install it with this system's package manager, then run this again"
        );
    }
    if !host.root {
        bail!("missing: {names}; as root:\n  apt-get update && apt-get install -y --no-install-recommends {names}");
    }
    eprintln!("{label}: {names}");
    step::run("fetch package lists", apt().arg("update"))?;
    step::run(label, apt().args(["install", "-y", "--no-install-recommends"]).args(missing))
}

/// Asks no questions, and waits for another package manager to finish.
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
