//! Builds bpf-linker against the LLVM of the compiler it will work with.
//!
//! The compiler decides the version of LLVM. This module only knows which versions bpf-linker can be built with.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{apt, crates};
use crate::{
    host::Host,
    workspace::{on_path, output_of},
};

const VERSION: &str = "0.13.0";
/// The versions of LLVM that this bpf-linker can be built with.
const LLVM: RangeInclusive<u32> = 21..=23;

/// Installs what the build needs, then builds bpf-linker.
pub(super) fn build(host: &Host, llvm: u32) -> Result<()> {
    let llvm = llvm.max(*LLVM.start());
    if !LLVM.contains(&llvm) {
        bail!(
            "bpf-linker {VERSION} supports LLVM {LLVM:?}, but the compiler has {llvm}: raise the version in {}",
            file!()
        );
    }
    if prefix(llvm).is_none() {
        apt::install(host, "install LLVM", &packages(llvm))?;
    }
    let prefix =
        prefix(llvm).with_context(|| format!("LLVM {llvm} is installed, but its llvm-config cannot be found"))?;
    eprintln!("building bpf-linker {VERSION} with LLVM {llvm}; this happens once and takes some minutes");
    crates::install("bpf-linker", VERSION, |command| {
        command.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
        command.env("LLVM_PREFIX", prefix);
    })
}

fn packages(llvm: u32) -> Vec<String> {
    let mut packages = vec![format!("llvm-{llvm}"), format!("llvm-{llvm}-dev")];
    packages.extend(["zlib1g-dev", "libzstd-dev"].map(str::to_owned));
    if on_path("c++").is_none() {
        packages.push("g++".to_owned());
    }
    packages
}

/// The directory where this LLVM is installed with its headers.
fn prefix(llvm: u32) -> Option<PathBuf> {
    let debian = Path::new("/usr/lib").join(format!("llvm-{llvm}"));
    if debian.join("bin/llvm-config").is_file() && debian.join("include/llvm-c").is_dir() {
        return Some(debian);
    }
    let config = on_path(&format!("llvm-config-{llvm}"))?;
    output_of(Command::new(config).arg("--prefix")).map(PathBuf::from)
}
