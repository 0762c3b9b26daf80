//! The record beside an object: its digest, and the tools that built it.
//!
//! People and supply-chain records read it. The build itself reads only the linker, to find that it has changed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    toolchain::Toolchain,
    workspace::{self, output_of},
};

/// The content of `bulkhead.o.json`.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Record {
    /// Of the object's bytes, in hexadecimal.
    pub sha256: String,
    /// The version that the compiler prints.
    pub rustc: String,
    /// The version that the linker prints.
    pub linker: String,
    /// The commit, marked when the tree differs from it.
    pub revision: String,
}

impl Record {
    /// Describes the build of these tools, without a digest.
    pub(super) fn new(tools: &Toolchain) -> Self {
        Self {
            sha256: String::new(),
            rustc: format!("{}, LLVM {}", tools.compiler.version, tools.compiler.llvm),
            linker: output_of(Command::new(&tools.linker).arg("--version")).unwrap_or_default(),
            revision: workspace::revision(),
        }
    }

    /// The same with the digest of the result.
    pub(super) fn with_sha256(self, sha256: String) -> Self {
        Self { sha256, ..self }
    }

    /// The record beside an object, if there is one that can be read.
    pub(super) fn read(object: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(beside(object)).ok()?).ok()
    }

    /// Writes the record beside its object.
    pub(super) fn write(&self, object: &Path) -> Result<()> {
        let file = beside(object);
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// `bulkhead.o.json` for `bulkhead.o`.
fn beside(object: &Path) -> PathBuf {
    let mut name = object.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let object = directory.path().join("x.o");
        assert_eq!(Record::read(&object), None);
        let record = Record {
            sha256: "00".to_owned(),
            rustc: "rustc".to_owned(),
            linker: "linker".to_owned(),
            revision: "unknown".to_owned(),
        };
        record.write(&object).expect("write");
        assert_eq!(Record::read(&object), Some(record));
    }
}
