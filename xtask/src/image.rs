//! Builds the image: an OCI archive with one static binary. It needs no container tool.
//!
//! The same sources give the same bytes: paths of this machine are replaced, times and owners are fixed. Static glibc
//! cannot resolve names without shared libraries. The agent resolves none: the address of the API server is in the
//! environment of every pod.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use ::cluster::image::{Image, Layer, write};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{
    ebpf::{self, Variant},
    step, workspace,
};

/// Links the C library statically.
const STATIC: &str = "-Ctarget-feature=+crt-static";

/// The name of this version's image in pods.
pub(crate) fn name() -> &'static str {
    concat!("localhost/bulkhead:", env!("CARGO_PKG_VERSION"))
}

/// How the binary is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// For users.
    Release,
    /// For tests: a debug build. It shares most dependencies with the other tiers, and is far quicker than the release
    /// build, which takes many minutes on two cores.
    Quick,
}

/// Builds the image and prints its path, size and digest.
pub(crate) fn run(profile: Profile) -> Result<()> {
    let (archive, program) = build(profile)?;
    let bytes = fs::read(&archive)?;
    println!("{}", archive.display());
    println!("name    {}", name());
    println!("size    {} bytes, of which the binary {}", bytes.len(), fs::metadata(program)?.len());
    println!("sha256  {:x}", Sha256::digest(&bytes));
    Ok(())
}

/// The path of a profile's archive.
pub(crate) fn archive(profile: Profile) -> PathBuf {
    directory(profile).join("bulkhead.tar")
}

fn directory(profile: Profile) -> PathBuf {
    workspace::products().join(if profile == Profile::Release { "image" } else { "image-quick" })
}

/// Builds the archive. Returns its path, and that of the binary in it.
pub(crate) fn build(profile: Profile) -> Result<(PathBuf, PathBuf)> {
    ebpf::build(Variant::Shipped)?;
    let binary = compile(profile)?;
    let directory = directory(profile);
    let _ = fs::remove_dir_all(&directory);
    let root = directory.join("root");
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let program = root.join("bulkhead");
    fs::copy(&binary, &program).with_context(|| format!("cannot copy {}", binary.display()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let archive = archive(profile);
    write(&[image(&program)?], &directory.join("layout"), &archive)?;
    Ok((archive, program))
}

fn image(program: &std::path::Path) -> Result<Image> {
    Ok(Image {
        name: name().into(),
        layers: vec![Layer::file(program)?],
        entrypoint: vec!["/bulkhead".into()],
        arguments: vec!["--help".into()],
        user: None,
    })
}

/// Builds the static binary and starts it once.
fn compile(profile: Profile) -> Result<PathBuf> {
    let binary = if profile == Profile::Release { release()? } else { quick()? };
    step::run("start the static agent", Command::new(&binary).arg("version"))?;
    Ok(binary)
}

/// The target is named although it is this machine's own. Without a name, the flags would apply to build scripts and
/// macros, which cannot be static.
fn release() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = workspace::cargo("build");
    cargo.args(["--release", "-p", "bulkhead", "--bin", "bulkhead", "--target", &target]);
    cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags()?);
    step::run("build the static agent", &mut cargo)?;
    Ok(workspace::cargo_target().join(&target).join("release/bulkhead"))
}

/// Sets the flags for the binary alone: its link step decides for the libraries in it.
fn quick() -> Result<PathBuf> {
    let mut cargo = workspace::cargo("rustc");
    cargo.args(["-p", "bulkhead", "--bin", "bulkhead", "--", STATIC, "-Cstrip=symbols"]);
    step::run("link the static agent", &mut cargo)?;
    Ok(workspace::agent_binary())
}

fn flags() -> Result<String> {
    let mut flags = vec![STATIC.to_owned()];
    flags.extend(workspace::remaps(&workspace::root())?);
    // Separated by the byte cargo expects, because paths may hold spaces.
    Ok(flags.join("\x1f"))
}
