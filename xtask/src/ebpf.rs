//! Builds the kernel side into `target/ebpf/bulkhead.o`.
//!
//! The build has its own compiler, target and directory. The same sources give the same bytes in every directory. The
//! object is written only when its bytes change, so that the agent is rebuilt only then.

mod record;
mod reproducible;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use self::record::Record;
use crate::{
    step,
    toolchain::{Core, TARGET, Toolchain},
    workspace,
};

/// The crate and binary of the kernel side.
const CRATE: &str = "agent-ebpf";

/// Which of the objects to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// The one that the agent embeds.
    Shipped,
    /// The one with development log lines.
    Log,
}

impl Variant {
    /// The file `agent/build.rs` embeds for this variant.
    pub(crate) fn object(self) -> PathBuf {
        workspace::ebpf().join(match self {
            Self::Shipped => "bulkhead.o",
            Self::Log => "bulkhead-log.o",
        })
    }

    fn features(self) -> &'static [&'static str] {
        match self {
            Self::Shipped => &[],
            Self::Log => &["--features", "log"],
        }
    }
}

/// The verb: builds and prints the result; with `check`, also builds a copy elsewhere and compares.
pub(crate) fn run(variant: Variant, check: bool) -> Result<()> {
    let tools = Toolchain::find()?;
    let compiler = &tools.compiler;
    eprintln!("compiler  {} ({}), because {}", compiler.rustc.display(), compiler.version, compiler.why);
    eprintln!("linker    {}", tools.linker.display());
    let (bytes, written) = build_with(&tools, variant)?;
    eprintln!("object    {} ({})", variant.object().display(), if written { "written" } else { "unchanged" });
    eprintln!("size      {} bytes", bytes.len());
    eprintln!("sha256    {}", digest(&bytes));
    if check {
        reproducible::check(&tools, variant, &bytes)?;
    }
    Ok(())
}

/// Builds the object if it is not up to date.
pub(crate) fn build(variant: Variant) -> Result<()> {
    build_with(&Toolchain::find()?, variant).map(|_| ())
}

/// Builds, strips and stores the object. Returns its bytes, and true if they differ from those stored before.
fn build_with(tools: &Toolchain, variant: Variant) -> Result<(Vec<u8>, bool)> {
    let record = Record::new(tools);
    let object = variant.object();
    if Record::read(&object).is_some_and(|before| before.linker != record.linker) {
        forget(&workspace::root(), &workspace::ebpf())?;
    }
    let bytes = compile(tools, variant, &workspace::root(), &workspace::ebpf())?;
    let written = store(&object, &bytes)?;
    record.with_sha256(digest(&bytes)).write(&object)?;
    Ok((bytes, written))
}

/// Compiles the tree at `root` in the directory `target` and returns the stripped object.
fn compile(tools: &Toolchain, variant: Variant, root: &Path, target: &Path) -> Result<Vec<u8>> {
    step::run("build the eBPF programs", cargo(tools, root)?.args(variant.features()).arg("--target-dir").arg(target))?;
    let built = target.join(TARGET).join("release").join(CRATE);
    let stripped = target.join("stripped.o");
    let strip = Command::new(&tools.strip).args(["-g", "-o"]).arg(&stripped).arg(&built).output();
    let strip = strip.with_context(|| format!("cannot run {}", tools.strip.display()))?;
    if !strip.status.success() {
        bail!("cannot strip {}: {}", built.display(), String::from_utf8_lossy(&strip.stderr).trim());
    }
    fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))
}

/// Removes the results of another linker, because cargo does not know the linker's version.
fn forget(root: &Path, target: &Path) -> Result<()> {
    let mut clean = workspace::cargo("clean");
    clean.current_dir(root).args(["-p", CRATE, "--target", TARGET, "--release", "--target-dir"]).arg(target);
    step::run("forget the programs of another linker", &mut clean)
}

fn cargo(tools: &Toolchain, root: &Path) -> Result<Command> {
    let compiler = &tools.compiler;
    let mut command = match compiler.core {
        Core::Prebuilt => Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())),
        Core::FromSource => Command::new(compiler.sysroot.join("bin/cargo")),
    };
    // Only `aya-ebpf` needs unstable features; our own crates stay on stable Rust.
    command.env_clear().envs(inherited()).env("RUSTC", &compiler.rustc).env("RUSTC_BOOTSTRAP", "aya_ebpf");
    command.env("PATH", path_with(&tools.linker)?).env("CARGO_ENCODED_RUSTFLAGS", flags(root)?);
    // The profile is meant for the agent. Here bpf-linker optimises and llvm-strip strips.
    command.env("CARGO_PROFILE_RELEASE_LTO", "false").env("CARGO_PROFILE_RELEASE_STRIP", "none");
    command.current_dir(root).args(["build", "--locked", "--release", "-p", CRATE, "--target", TARGET]);
    if compiler.core == Core::FromSource {
        command.arg("-Zbuild-std=core");
    }
    Ok(command)
}

/// The environment without what would change the object: compilers, flags and libraries of the toolchain that runs xtask.
fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        let network = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"];
        if name.starts_with("CARGO") {
            return network.iter().any(|prefix| name.starts_with(prefix));
        }
        !name.starts_with("RUST") && name != "LD_LIBRARY_PATH" || name == "RUSTUP_HOME" || name == "RUSTUP_TOOLCHAIN"
    })
}

/// rustc calls `bpf-linker` by name.
fn path_with(linker: &Path) -> Result<OsString> {
    let directory = linker.parent().map(Path::to_path_buf);
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(directory.into_iter().chain(env::split_paths(&path)))?)
}

/// Debug information and BTF, with every path of this machine replaced.
fn flags(root: &Path) -> Result<String> {
    // v3 has 32-bit operations (kernel 5.1) and needs a third fewer instructions than the default. The optimiser prefers
    // size: an unrolled scan of a row runs no faster, and the verifier would read it sixteen times.
    let mut flags: Vec<String> =
        ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3", "-Copt-level=s"].map(str::to_owned).into();
    flags.extend(workspace::remaps(root)?);
    // Separated by the byte cargo expects, because paths may hold spaces.
    Ok(flags.join("\x1f"))
}

/// Replaces the object atomically, and only if its bytes differ.
fn store(object: &Path, bytes: &[u8]) -> Result<bool> {
    if fs::read(object).is_ok_and(|before| before == bytes) {
        return Ok(false);
    }
    let fresh = object.with_extension("new");
    fs::write(&fresh, bytes).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, object).with_context(|| format!("cannot replace {}", object.display()))?;
    Ok(true)
}

fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_is_not_written_again() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let object = directory.path().join("x.o");
        assert!(store(&object, b"one").expect("store"));
        assert!(!store(&object, b"one").expect("store"));
        assert!(store(&object, b"two").expect("store"));
    }

    #[test]
    fn flags_hide_the_directory_of_the_sources() {
        let flags = flags(Path::new("/some where/else")).expect("flags");
        assert!(flags.split('\x1f').any(|flag| flag == "--remap-path-prefix=/some where/else=/src"), "{flags}");
    }
}
