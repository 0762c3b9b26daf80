//! Paths inside the repository, and calls of cargo on it.
//!
//! No other module knows these paths. This one builds nothing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

/// Every package with tests beside the code. Each build of tests or of the agent names all of them, so that cargo gives
/// their dependencies the same features and builds those once.
pub(crate) const PACKAGES: [&str; 10] =
    ["-p", "agent-common", "-p", "bulkhead-policy", "-p", "bulkhead", "-p", "bulkhead-tests", "-p", "bulkhead-cluster"];

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    let xtask = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    xtask.parent().map_or(xtask.clone(), Path::to_path_buf)
}

/// The directory of cargo's builds for this machine.
pub(crate) fn cargo_target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(chosen) => env::current_dir().unwrap_or_default().join(chosen),
        None => root().join("target"),
    }
}

/// The directory of xtask's own products: tools, logs, the eBPF object.
///
/// It does not follow `CARGO_TARGET_DIR`, because `agent/build.rs` must find the object in any case.
pub(crate) fn products() -> PathBuf {
    root().join("target")
}

/// The directory of the tools that xtask builds.
pub(crate) fn tools() -> PathBuf {
    products().join("tools")
}

/// The directory of the eBPF objects and of their build.
pub(crate) fn ebpf() -> PathBuf {
    products().join("ebpf")
}

/// The agent's binary, once built.
pub(crate) fn agent_binary() -> PathBuf {
    cargo_target().join("debug/bulkhead")
}

/// The manifest of this workspace.
pub(crate) fn manifest() -> PathBuf {
    root().join("Cargo.toml")
}

/// The manifest of the fuzz targets, which are a workspace of their own.
pub(crate) fn fuzz_manifest() -> PathBuf {
    root().join("fuzz/Cargo.toml")
}

/// A call of cargo on this workspace with the committed lock file. The current directory does not matter.
pub(crate) fn cargo(verb: &str) -> Command {
    cargo_on(&manifest(), verb)
}

/// A call of cargo on another workspace of the tree.
///
/// The variables that the outer `cargo run` sets for xtask are removed: build scripts would take them for a change.
pub(crate) fn cargo_on(manifest: &Path, verb: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(verb).arg("--locked").arg("--manifest-path").arg(manifest);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text.starts_with("CARGO_BIN_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Flags that keep the paths of the tree at `root` and of cargo's sources out of what rustc writes.
pub(crate) fn remaps(root: &Path) -> Result<Vec<String>> {
    let mut flags = Vec::new();
    let mut remap = |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    let home = cargo_home()?;
    remap(root, "/src");
    remap(&home, "/cargo");
    // The last match counts. The name of this directory depends on the registry or mirror.
    for registry in fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten() {
        remap(&registry.path(), "/cargo/registry");
    }
    Ok(flags)
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    Ok(env::home_dir().context("no home directory, and CARGO_HOME is not set")?.join(".cargo"))
}

/// The first file of this name on the search path.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // Some users' paths lack the directories of administrators' tools (ip, tc).
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(extra).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// The standard output of a program that exists and succeeds.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The current commit, marked as dirty when files differ from it.
pub(crate) fn revision() -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(root()).args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]);
    output_of(&mut git).unwrap_or_else(|| "unknown".to_owned())
}
