//! Embeds the eBPF object that `cargo xtask ebpf` builds.
//!
//! It builds no object itself: checking, linting and testing the agent must work without a BPF toolchain. Without an
//! object the agent embeds nothing, and `cfg(bpf_object_missing)` makes it report that.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

fn main() {
    let object = object_path();
    let bytes = read_or_reserve(&object);
    if bytes.is_empty() {
        println!("cargo::rustc-cfg=bpf_object_missing");
    }
    let embedded = PathBuf::from(variable("OUT_DIR")).join("bulkhead.o");
    fs::write(&embedded, &bytes).unwrap_or_else(|e| panic!("cannot write {}: {e}", embedded.display()));
    println!("cargo::rustc-env=BULKHEAD_BPF_SHA256={}", sha256(&bytes));
    println!("cargo::rustc-env=BULKHEAD_REVISION={}", revision());
    println!("cargo::rustc-env=BULKHEAD_RUSTC={}", rustc());
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rerun-if-changed=build.rs");
}

/// The object that `BULKHEAD_BPF_OBJECT` names, or the one that `cargo xtask ebpf` writes.
fn object_path() -> PathBuf {
    println!("cargo::rerun-if-env-changed=BULKHEAD_BPF_OBJECT");
    if let Some(named) = env::var_os("BULKHEAD_BPF_OBJECT") {
        return PathBuf::from(named);
    }
    let file = match env::var_os("CARGO_FEATURE_EBPF_LOG") {
        Some(_) => "bulkhead-log.o",
        None => "bulkhead.o",
    };
    workspace().join("target/ebpf").join(file)
}

/// Reads the object. If it does not exist, an empty file is written in its place.
///
/// Cargo treats a missing file as one that always changes, and would build the agent again each time. A named object
/// must exist.
fn read_or_reserve(object: &Path) -> Vec<u8> {
    match fs::read(object) {
        Ok(bytes) => bytes,
        Err(error) if env::var_os("BULKHEAD_BPF_OBJECT").is_some() => {
            panic!("cannot read BULKHEAD_BPF_OBJECT={}: {error}", object.display())
        }
        Err(_) => {
            // In a read-only tree, Cargo only builds more often.
            let _ = object.parent().map(fs::create_dir_all);
            let _ = fs::write(object, b"");
            Vec::new()
        }
    }
}

/// The object's digest in hexadecimal; empty if there is no object.
fn sha256(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return String::new();
    }
    format!("{:x}", Sha256::digest(bytes))
}

/// The version of the compiler, such as `1.90.0`; empty if it is unknown.
fn rustc() -> String {
    let output = Command::new(variable("RUSTC")).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

/// The commit that this agent is built from, or the value of `BULKHEAD_REVISION` that a packager sets.
fn revision() -> String {
    println!("cargo::rerun-if-env-changed=BULKHEAD_REVISION");
    if let Ok(named) = env::var("BULKHEAD_REVISION") {
        return named;
    }
    // The log of HEAD changes with every commit and checkout. The sources decide whether the tree is clean.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        let log = workspace().join(log);
        if log.exists() {
            println!("cargo::rerun-if-changed={}", log.display());
        }
    }
    println!("cargo::rerun-if-changed=src");
    git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]).unwrap_or_else(|| "unknown".to_owned())
}

/// The output of git in the workspace, if there is a git and this is a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(workspace()).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn workspace() -> PathBuf {
    PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("..")
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|e| panic!("cargo sets {name} for build scripts: {e}"))
}
