//! Prepares the machine: what builds the kernel side, and what loads it.
//!
//! Installs only what is missing, so a second run is quick. When it lacks permission, it prints the commands instead. It
//! changes nothing but packages, `target/tools` and the mount of bpffs.

mod apt;
mod crates;
pub(crate) mod deny;
mod linker;

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{
    host::{BPFFS, Host},
    step,
    toolchain::{self, Compiler, Toolchain},
    workspace::on_path,
};

/// Programs that the demo and the tests call, and the packages that hold them.
const PROGRAMS: [(&str, &str); 3] = [("ip", "iproute2"), ("nft", "nftables"), ("cc", "gcc")];
/// Debian's compiler for browsers: the only one of Debian's with `core` for BPF.
const COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// The verb: installs everything and prints what was found.
pub(crate) fn run() -> Result<()> {
    let tools = build_tools()?;
    eprintln!(
        "compiler  {} ({}), because {}",
        tools.compiler.rustc.display(),
        tools.compiler.version,
        tools.compiler.why
    );
    eprintln!("linker    {}", tools.linker.display());
    eprintln!("strip     {}", tools.strip.display());
    let obstacles = kernel();
    if !obstacles.is_empty() {
        bail!("the programs can be built here, but not loaded:\n  {}", obstacles.join("\n  "));
    }
    eprintln!("kernel    loads and attaches programs");
    Ok(())
}

/// Installs what the demo needs, and fails if the kernel cannot load programs.
pub(crate) fn all() -> Result<()> {
    build_tools()?;
    let obstacles = kernel();
    if !obstacles.is_empty() {
        bail!("this machine cannot load the programs:\n  {}", obstacles.join("\n  "));
    }
    Ok(())
}

/// Installs packages that only one tier needs.
pub(crate) fn packages(label: &str, names: &[&str]) -> Result<()> {
    apt::install(&Host::look(), label, &names.iter().map(ToString::to_string).collect::<Vec<_>>())
}

/// Installs what is missing to build the kernel side and to run the tiers.
pub(crate) fn build_tools() -> Result<Toolchain> {
    let host = Host::look();
    let programs: Vec<String> = PROGRAMS
        .iter()
        .filter(|(program, _)| on_path(program).is_none())
        .map(|(_, package)| package.to_string())
        .collect();
    apt::install(&host, "install programs", &programs)?;
    let compiler = ensure_compiler(&host)?;
    if toolchain::strip(compiler.llvm).is_none() {
        apt::install(&host, "install LLVM", &[format!("llvm-{}", compiler.llvm)])?;
    }
    if toolchain::linker(compiler.llvm).is_none() {
        linker::build(&host, compiler.llvm)?;
    }
    Toolchain::find()
}

fn ensure_compiler(host: &Host) -> Result<Compiler> {
    if let Some(compiler) = toolchain::compiler()? {
        return Ok(compiler);
    }
    apt::install(host, "install the compiler for BPF", &COMPILER.map(str::to_owned)).context(
        "there is no Rust compiler for BPF, and Debian's cannot be installed; install a nightly instead:\n  \
         rustup toolchain install nightly --component rust-src",
    )?;
    toolchain::compiler()?
        .context("the compiler was installed, but cannot be found; set BULKHEAD_BPF_RUSTC to its path")
}

/// Mounts the BPF file system if this user may. Returns what still keeps programs from being loaded.
pub(crate) fn kernel() -> Vec<String> {
    let host = Host::look();
    if host.bpffs || !host.root {
        return host.obstacles();
    }
    let mount = step::run("mount bpffs", Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]));
    if let Err(error) = mount {
        eprintln!("{error:#}");
    }
    Host::look().obstacles()
}
