//! The same programs and the same traffic on other kernels, each in a virtual machine made for it.
//!
//! No acceleration, no disk, no network, no root inside or out: an initial file system with the binaries that the
//! other tiers have built, a kernel of Debian's, and what it says on its serial line. Slow machines make slow guests,
//! so what runs there is short and its limits are generous.

mod fetch;
mod guest;

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    delegate, setup, step,
    tally::{Outcome, Tally},
    workspace,
};

/// A line of kernels, by the beginning of its version; the newest of each is taken.
pub struct Series {
    /// As people say it.
    pub name: &'static str,
    /// Suites that may hold it.
    pub suite: &'static str,
    /// What the package's name goes on with after `linux-image-`.
    pub version: &'static str,
}

/// The oldest we promise, those that nodes run today, the newest there is.
pub const SERIES: [Series; 4] = [
    Series { name: "5.10", suite: "bullseye-security", version: r"5\.10\." },
    Series { name: "6.1", suite: "bookworm-security", version: r"6\.1\." },
    Series { name: "6.12", suite: "bookworm-security", version: r"6\.12\." },
    Series { name: "newest", suite: "trixie-backports", version: r"[0-9.]+\+" },
];

const PACKAGES: [&str; 3] = ["qemu-system-x86", "busybox-static", "xz-utils"];

/// What keeps guests from being made here.
pub fn obstacle() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some(format!("guests are made for x86_64 only, and this is {}", std::env::consts::ARCH));
    }
    let apt = workspace::on_path("apt-get").is_some();
    (!apt).then(|| "kernels come as Debian packages, and there is no apt here".to_owned())
}

/// Fetches kernels, boots each, and counts what passed there.
pub fn run() -> Result<Outcome> {
    setup::packages("install what guests need", &PACKAGES)?;
    let binaries = binaries()?;
    let mut sum = Tally::default();
    let mut missing = Vec::new();
    for series in &SERIES {
        let kernel = match fetch::kernel(series) {
            Ok(kernel) => kernel,
            Err(error) => {
                println!("SKIPPED kernel {}: {error:#}", series.name);
                missing.push(series.name);
                continue;
            }
        };
        println!("kernel {} ({})", series.name, kernel.version);
        let once_more = |error| {
            // Without acceleration a kernel that patches its own text on one CPU can trip over it on the other (int3).
            println!("kernel {}: {error:#}; a guest that crashed is booted once more", kernel.version);
            guest::run(&kernel, &binaries)
        };
        let tally = guest::run(&kernel, &binaries).or_else(once_more).unwrap_or_else(|error| {
            println!("error: kernel {}: {error:#}", kernel.version);
            Tally::one_failure()
        });
        sum += tally;
    }
    Ok(if missing.len() == SERIES.len() {
        Outcome::Skipped("no kernel can be had here".to_owned())
    } else {
        Outcome::Ran(sum)
    })
}

/// Programs that go into the guest.
pub struct Binaries {
    frames: PathBuf,
    isolation: PathBuf,
    guards: PathBuf,
    agent: PathBuf,
    ip: PathBuf,
}

fn binaries() -> Result<Binaries> {
    let mut cargo = workspace::cargo("build");
    cargo.args(workspace::PACKAGES).args(["--bin", "frames", "--test", "isolation"]);
    step::run("build the replay", &mut cargo)?;
    let ip = workspace::on_path("ip").context("there is no ip (iproute2)")?;
    Ok(Binaries {
        frames: delegate::binary("frames"),
        isolation: test_binary("isolation")?,
        guards: test_binary("guards")?,
        agent: workspace::agent_binary(),
        ip,
    })
}

/// Where cargo puts a file of tests, which only cargo knows.
fn test_binary(target: &str) -> Result<PathBuf> {
    let mut cargo = workspace::cargo("test");
    cargo.args(["--no-run", "--quiet", "--message-format=json"]).args(workspace::PACKAGES).args(["--test", target]);
    let output = cargo.output().context("cannot start cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let executable = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == target)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.with_context(|| format!("cargo builds no tests {target}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Standard output of a command that must succeed.
fn said(command: &mut Command) -> Result<String> {
    workspace::output_of(command).with_context(|| format!("{} failed", command.get_program().display()))
}
