//! Runs the same programs and traffic on other kernels, each in a virtual machine of its own.
//!
//! A guest has a Debian kernel and an initial file system with the binaries of the other tiers. It has no acceleration,
//! disk or network, and reports on its serial line. Guests are slow, so few tests run there and limits are generous.

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

/// A series of kernels, by the beginning of their version. The newest one is taken.
pub(crate) struct Series {
    /// Its short name.
    pub name: &'static str,
    /// The Debian suite that holds it.
    pub suite: &'static str,
    /// A pattern for what follows `linux-image-` in the name of the package.
    pub version: &'static str,
}

/// The oldest supported kernel, those of today's nodes, and the newest one.
pub(crate) const SERIES: [Series; 4] = [
    Series { name: "5.10", suite: "bullseye-security", version: r"5\.10\." },
    Series { name: "6.1", suite: "bookworm-security", version: r"6\.1\." },
    Series { name: "6.12", suite: "bookworm-security", version: r"6\.12\." },
    Series { name: "newest", suite: "trixie-backports", version: r"[0-9.]+\+" },
];

const PACKAGES: [&str; 3] = ["qemu-system-x86", "busybox-static", "xz-utils"];

/// Why no guest can be started on this machine.
pub(crate) fn obstacle() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some(format!("guests are x86_64 only, and this machine is {}", std::env::consts::ARCH));
    }
    let apt = workspace::on_path("apt-get").is_some();
    (!apt).then(|| "the kernels are Debian packages, and this machine has no apt".to_owned())
}

/// Fetches the kernels, boots each, and counts the results.
pub(crate) fn run() -> Result<Outcome> {
    setup::packages("install what guests need", &PACKAGES)?;
    let binaries = binaries()?;
    let mut sum = Tally::default();
    let mut missing = 0;
    for series in &SERIES {
        let kernel = match fetch::kernel(series) {
            Ok(kernel) => kernel,
            Err(error) => {
                println!("SKIPPED kernel {}: {error:#}", series.name);
                missing += 1;
                continue;
            }
        };
        println!("kernel {} ({})", series.name, kernel.version);
        let once_more = |error| {
            // Without acceleration, a kernel that patches its own text on one CPU can crash on the other (int3).
            println!("kernel {}: {error:#}; the guest is booted once more", kernel.version);
            guest::run(&kernel, &binaries)
        };
        let tally = guest::run(&kernel, &binaries).or_else(once_more).unwrap_or_else(|error| {
            println!("error: kernel {}: {error:#}", kernel.version);
            Tally::one_failure()
        });
        sum += tally;
    }
    sum.ignored += missing;
    Ok(if missing as usize == SERIES.len() {
        Outcome::Skipped("no kernel could be fetched".to_owned())
    } else {
        Outcome::Ran(sum)
    })
}

/// Programs of the guest.
pub(crate) struct Binaries {
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
    let ip = workspace::on_path("ip").context("there is no program ip: install iproute2")?;
    Ok(Binaries {
        frames: delegate::binary("frames"),
        isolation: test_binary("isolation")?,
        guards: test_binary("guards")?,
        agent: workspace::agent_binary(),
        ip,
    })
}

/// The path of a test binary, which only cargo knows.
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
    executable.with_context(|| format!("cargo built no test {target}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The standard output of a command that must succeed.
fn output(command: &mut Command) -> Result<String> {
    workspace::output_of(command).with_context(|| format!("{} failed", command.get_program().display()))
}
