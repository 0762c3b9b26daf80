//! The rules of the house, read from the sources: who may import what, where `unsafe` may live, how files open.
//!
//! An ordinary test runs them on the real tree, so plain `cargo test` notices a stranger. Rules are data (`rules`), reading
//! is done on tokens (`source`): comments and strings cannot fool it, and macros are read like the rest.

mod rules;
mod source;
mod text;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};

use self::source::Source;
use crate::workspace;

/// A rule that is broken, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    file: String,
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// The verb: every finding on a line.
pub fn run() -> Result<ExitCode> {
    let findings = check(&workspace::root())?;
    for finding in &findings {
        println!("{finding}");
    }
    eprintln!("tidy: {} findings", findings.len());
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Applies every rule to every file.
fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in files(root)? {
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        // What is not text has no rules.
        let Ok(content) = fs::read_to_string(&file) else {
            continue;
        };
        findings.extend(text::check(&name, &content));
        if name.ends_with(".rs") {
            let source = Source::parse(&name, &content).with_context(|| format!("cannot read {name}"))?;
            findings.extend(rules::check(&source, &crates_of(root, &name)));
        }
    }
    Ok(findings)
}

/// Every file that is part of the project, in a stable order.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                if name != "target" && name != ".git" {
                    open.push(entry.path());
                }
            } else if name != "Cargo.lock" && name != ".git" {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The crates that a file could name: those its manifest lists, and those of the compiler.
fn crates_of(root: &Path, file: &str) -> Vec<String> {
    let packages = Path::new(file).ancestors().map(|package| root.join(package).join("Cargo.toml"));
    let manifest = packages.filter_map(|manifest| fs::read_to_string(manifest).ok()).next().unwrap_or_default();
    dependencies(&manifest).chain(["std", "core", "alloc"].map(str::to_owned)).collect()
}

/// The names under every `[…dependencies]` heading, as code spells them.
fn dependencies(manifest: &str) -> impl Iterator<Item = String> {
    let mut inside = false;
    manifest.lines().filter_map(move |line| {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
            return None;
        }
        let name = line.split(['=', '.', ' ']).next()?;
        (inside && !name.is_empty() && !name.starts_with('#')).then(|| name.replace('-', "_"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_obeys_every_rule() {
        let findings = check(&workspace::root()).expect("the tree can be read");
        let list: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert!(list.is_empty(), "\n{}\n", list.join("\n"));
    }

    #[test]
    fn every_room_is_looked_for_where_it_can_be() {
        for crate_directory in ["agent-common/src", "agent-ebpf/src", "agent/src", "xtask/src"] {
            let seen = files(&workspace::root().join(crate_directory)).expect("the crate can be listed");
            assert!(!seen.is_empty(), "{crate_directory} holds no file");
        }
    }

    #[test]
    fn a_planted_stranger_is_found() {
        let tree = tempfile::tempdir().expect("a temporary directory");
        let model = tree.path().join("agent/policy/src/model");
        fs::create_dir_all(&model).expect("create");
        fs::write(tree.path().join("agent/policy/Cargo.toml"), "[dependencies]\nkube = { workspace = true }\n")
            .expect("write");
        fs::write(model.join("cluster.rs"), "//! What we know.\n\nuse kube::Client;\n").expect("write");
        let findings = check(tree.path()).expect("the tree can be read");
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!((findings[0].file.as_str(), findings[0].line), ("agent/policy/src/model/cluster.rs", 3));
    }

    #[test]
    fn dependencies_are_read_from_every_section() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\n# why\nserde-saphyr = { a = 1 }\nkube.workspace = true\n\n\
                        [dev-dependencies]\ntempfile = \"3\"\n[lints]\nworkspace = true\n";
        assert_eq!(dependencies(manifest).collect::<Vec<_>>(), ["serde_saphyr", "kube", "tempfile"]);
    }
}
