//! Proves that the object does not depend on where it was built.
//!
//! Copies the tree to another directory, builds there from nothing, and compares the bytes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result, bail};

use super::{Variant, compile, digest};
use crate::{toolchain::Toolchain, workspace};

/// Directories that the build does not read, or that it writes.
const NOT_SOURCES: [&str; 2] = [".git", "target"];

/// Builds a copy of the tree, and fails if the object differs.
pub(super) fn check(tools: &Toolchain, variant: Variant, expected: &[u8]) -> Result<()> {
    let elsewhere = Elsewhere::new()?;
    let tree = elsewhere.0.join("tree");
    copy(&workspace::root(), &tree)?;
    let bytes = compile(tools, variant, &tree, &elsewhere.0.join("target"))?;
    if bytes != expected {
        let kept = variant.object().with_extension("other.o");
        fs::write(&kept, &bytes).with_context(|| format!("cannot write {}", kept.display()))?;
        bail!("not reproducible: a copy of the tree gives {}, kept as {}", digest(&bytes), kept.display());
    }
    eprintln!("copy      gives the same bytes from another directory");
    Ok(())
}

/// A temporary directory that is removed with this value.
struct Elsewhere(PathBuf);

impl Elsewhere {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("bulkhead-reproducible-{}", process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // Left-overs in the temporary directory do no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if NOT_SOURCES.iter().any(|skipped| name == *skipped) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(name))?;
        } else {
            fs::copy(entry.path(), to.join(name)).with_context(|| format!("cannot copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}
