//! Finds the compiler, linker and strip that build the kernel side.
//!
//! Installs nothing; `setup` does. No version is written down here: Debian raises its compiler with the needs of browsers,
//! so every other version follows from the compiler that is found.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::workspace::{self, on_path, output_of};

/// The target our programs are compiled for.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// A compiler that can produce BPF code.
#[derive(Debug)]
pub(crate) struct Compiler {
    /// The compiler itself.
    pub rustc: PathBuf,
    /// Its directory of libraries.
    pub sysroot: PathBuf,
    /// Where `core` for the BPF target comes from.
    pub core: Core,
    /// `rustc 1.96.0 (…)`.
    pub version: String,
    /// Major version of the LLVM inside.
    pub llvm: u32,
    /// Why this compiler was chosen.
    pub why: &'static str,
}

/// Where the library `core` for the BPF target comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// Shipped with the compiler.
    Prebuilt,
    /// Built from its sources, which needs a nightly cargo.
    FromSource,
}

/// All that is needed to build the kernel side.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// Compiles to bitcode.
    pub compiler: Compiler,
    /// Links bitcode to one object.
    pub linker: PathBuf,
    /// Removes debug sections, keeps BTF.
    pub strip: PathBuf,
}

impl Toolchain {
    /// Finds all three. The error names the command that installs the missing one.
    pub(crate) fn find() -> Result<Self> {
        let compiler = compiler()?.context(NO_COMPILER)?;
        let linker = linker(compiler.llvm)
            .with_context(|| format!("no bpf-linker with LLVM {} or later: run `cargo xtask setup`", compiler.llvm))?;
        let strip = strip(compiler.llvm).context("no llvm-strip: run `cargo xtask setup`")?;
        Ok(Self { compiler, linker, strip })
    }
}

const NO_COMPILER: &str = "there is no Rust compiler for BPF; one of these installs it:\n  \
    cargo xtask setup            (Debian-like, as root: installs rustc-web and libstd-rust-web-dev-bpf)\n  \
    rustup toolchain install nightly --component rust-src";

/// The compiler to use: a named one, one with a prebuilt `core`, or a nightly with the sources of `core`.
///
/// A named one that cannot build for BPF is an error. Finding none is not.
pub(crate) fn compiler() -> Result<Option<Compiler>> {
    if let Some(named) = env::var_os("BULKHEAD_BPF_RUSTC") {
        let named = PathBuf::from(named);
        let found = examine(&named, Core::Prebuilt, "BULKHEAD_BPF_RUSTC names it")
            .or_else(|| examine(&named, Core::FromSource, "BULKHEAD_BPF_RUSTC names it"));
        return match found {
            Some(compiler) => Ok(Some(compiler)),
            None => bail!(
                "BULKHEAD_BPF_RUSTC={}: this compiler has neither core for {TARGET} nor rust-src",
                named.display()
            ),
        };
    }
    let prebuilt = ["/usr/bin/rustc", "rustc"]
        .iter()
        .find_map(|rustc| examine(Path::new(rustc), Core::Prebuilt, "it ships core for BPF"));
    Ok(prebuilt.or_else(nightly))
}

fn nightly() -> Option<Compiler> {
    let rustc = output_of(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"]))?;
    examine(Path::new(&rustc), Core::FromSource, "a nightly with rust-src builds core itself")
}

/// Describes the compiler, if it can get `core` in this way.
fn examine(rustc: &Path, core: Core, why: &'static str) -> Option<Compiler> {
    let sysroot = PathBuf::from(output_of(Command::new(rustc).args(["--print", "sysroot"]))?);
    let there = match core {
        Core::Prebuilt => has_prebuilt_core(&sysroot),
        Core::FromSource => sysroot.join("lib/rustlib/src/rust/library/core").is_dir(),
    };
    if !there {
        return None;
    }
    let verbose = output_of(Command::new(rustc).arg("-vV"))?;
    Some(Compiler {
        rustc: rustc.to_path_buf(),
        sysroot,
        core,
        version: verbose.lines().next()?.to_owned(),
        llvm: llvm_of_rustc(&verbose)?,
        why,
    })
}

fn has_prebuilt_core(sysroot: &Path) -> bool {
    let directory = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let Ok(entries) = fs::read_dir(directory) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    })
}

fn llvm_of_rustc(verbose: &str) -> Option<u32> {
    major(verbose.lines().find_map(|line| line.strip_prefix("LLVM version: "))?)
}

/// A bpf-linker whose LLVM reads the bitcode of a compiler with this LLVM: that of `target/tools`, or one on the path.
pub(crate) fn linker(llvm: u32) -> Option<PathBuf> {
    let ours = workspace::tools().join("bin/bpf-linker");
    [Some(ours), on_path("bpf-linker")].into_iter().flatten().find(|linker| reads(linker, llvm))
}

/// True if the linker runs and its LLVM is not older than `llvm`.
///
/// It does not print the version of its LLVM, but the name of its shared library holds it. A linker without that library
/// is accepted: if its LLVM is too old, the build fails with a clear message.
fn reads(linker: &Path, llvm: u32) -> bool {
    if output_of(Command::new(linker).arg("--version")).is_none() {
        return false;
    }
    let libraries = output_of(Command::new("ldd").arg(linker)).unwrap_or_default();
    llvm_of_libraries(&libraries).is_none_or(|linked| linked >= llvm)
}

/// The major version in `libLLVM.so.22.1` or `libLLVM-19.so.1`.
fn llvm_of_libraries(ldd: &str) -> Option<u32> {
    let name = ldd.split_whitespace().find(|word| word.starts_with("libLLVM"))?;
    major(name.trim_start_matches(|c: char| !c.is_ascii_digit()))
}

/// The strip of the compiler's own LLVM, or any other one.
pub(crate) fn strip(llvm: u32) -> Option<PathBuf> {
    let own = Path::new("/usr/lib").join(format!("llvm-{llvm}/bin/llvm-strip"));
    if own.is_file() {
        return Some(own);
    }
    on_path(&format!("llvm-strip-{llvm}")).or_else(|| on_path("llvm-strip"))
}

fn major(version: &str) -> Option<u32> {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_compiler_comes_from_its_own_words() {
        assert_eq!(llvm_of_rustc("rustc 1.96.0 (x)\nrelease: 1.96.0\nLLVM version: 22.1.8"), Some(22));
        assert_eq!(llvm_of_rustc("rustc 1.96.0 (x)"), None);
    }

    #[test]
    fn the_llvm_of_a_linker_comes_from_the_library_it_loads() {
        assert_eq!(llvm_of_libraries("\tlibc.so.6 => x\n\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/y (0x1)"), Some(22));
        assert_eq!(llvm_of_libraries("\tlibLLVM-19.so.1 => /usr/lib/x (0x1)"), Some(19));
        assert_eq!(llvm_of_libraries("\tlibc.so.6 => x"), None);
    }

    #[test]
    fn a_sysroot_without_the_target_has_no_core() {
        let sysroot = tempfile::tempdir().expect("a temporary directory");
        assert!(!has_prebuilt_core(sysroot.path()));
        let lib = sysroot.path().join("lib/rustlib").join(TARGET).join("lib");
        fs::create_dir_all(&lib).expect("create");
        fs::write(lib.join("libcore-1234.rmeta"), "").expect("write");
        assert!(!has_prebuilt_core(sysroot.path()));
        fs::write(lib.join("libcore-1234.rlib"), "").expect("write");
        assert!(has_prebuilt_core(sysroot.path()));
    }
}
