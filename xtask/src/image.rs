//! The image: one static binary and nothing else, in an OCI archive, without a container tool.
//!
//! Same sources, same bytes: paths of this machine are replaced, times and owners fixed. Static glibc cannot resolve
//! names without libraries of the same version; the agent needs none, since the API server's address is in every pod's
//! environment.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use ::cluster::image::{Image, Layer, write};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{
    ebpf::{self, Variant},
    step, workspace,
};

/// Links the C library in.
const STATIC: &str = "-Ctarget-feature=+crt-static";

/// By which name pods ask for the image of this version.
pub fn name() -> &'static str {
    concat!("localhost/bulkhead:", env!("CARGO_PKG_VERSION"))
}

/// How the binary is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As it is given to users.
    Release,
    /// For tests: the agent of the other tiers, linked without libraries. Only the last step differs from what those
    /// tiers have built, so it takes seconds where the release build takes many minutes on two cores.
    Quick,
}

/// Builds everything and prints what came out.
pub fn run(profile: Profile) -> Result<()> {
    let (archive, program) = build(profile)?;
    let bytes = fs::read(&archive)?;
    println!("{}", archive.display());
    println!("name    {}", name());
    println!("size    {} bytes, of which the binary {}", bytes.len(), fs::metadata(program)?.len());
    println!("sha256  {:x}", Sha256::digest(&bytes));
    Ok(())
}

/// Where the archive of a profile is.
pub fn archive(profile: Profile) -> PathBuf {
    folder(profile).join("bulkhead.tar")
}

fn folder(profile: Profile) -> PathBuf {
    workspace::products().join(if profile == Profile::Release { "image" } else { "image-quick" })
}

/// Builds the archive; returns it and the binary in it.
pub fn build(profile: Profile) -> Result<(PathBuf, PathBuf)> {
    ebpf::build(Variant::Plain)?;
    let binary = compile(profile)?;
    let folder = folder(profile);
    let _ = fs::remove_dir_all(&folder);
    let root = folder.join("root");
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let program = root.join("bulkhead");
    fs::copy(&binary, &program).with_context(|| format!("cannot copy {}", binary.display()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let archive = archive(profile);
    write(&[image(&program)?], &folder.join("layout"), &archive)?;
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

/// The binary without a single library.
fn compile(profile: Profile) -> Result<PathBuf> {
    let binary = if profile == Profile::Release { release()? } else { quick()? };
    step::run("start the static agent", Command::new(&binary).arg("version"))?;
    Ok(binary)
}

/// The target is named although it is this machine's own: flags for it would otherwise meet build scripts and macros
/// too, and those cannot be static.
fn release() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = workspace::cargo("build");
    cargo.args(["--release", "-p", "bulkhead", "--bin", "bulkhead", "--target", &target]);
    cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags()?);
    step::run("build the static agent", &mut cargo)?;
    Ok(workspace::cargo_target().join(&target).join("release/bulkhead"))
}

/// Flags for the last step alone: how a program is linked is decided there, also for the libraries in it.
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
