//! Rules on the tree itself: imports, circles, words, where `unsafe` may live, how files open, how long documents are.
//!
//! An ordinary test runs them on the real tree, so plain `cargo test` finds a break. The rules are data; Rust is read as
//! tokens, so comments and strings cannot pass for code. No rule knows another.

mod documents;
mod graph;
mod identifiers;
mod lexer;
mod modules;
mod prose;
mod rules;
mod source;
mod text;
mod words;

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};

use self::source::Source;
use crate::workspace;

/// The kinds of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    /// Imports, unsafe code, reads of the environment.
    Imports,
    /// The table of the agent's modules.
    Modules,
    /// Files that import each other.
    Circles,
    /// How a file opens, unfinished notes, paths of one machine.
    Text,
    /// Banned words in identifiers, flags, variables, metrics and file names.
    Identifiers,
    /// Types of one crate that share a name.
    Types,
    /// Coined senses in prose.
    Prose,
    /// Lengths of documents.
    Documents,
}

/// A rule that is broken, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    file: String,
    line: usize,
    message: String,
    rule: Rule,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// The verb: prints every finding on a line, and how many there are of each kind.
pub(crate) fn run() -> Result<ExitCode> {
    let findings = check(&workspace::root())?;
    let mut counts: BTreeMap<Rule, usize> = BTreeMap::new();
    for finding in &findings {
        println!("{finding}");
        *counts.entry(finding.rule).or_default() += 1;
    }
    for (rule, count) in counts {
        eprintln!("{rule:?}: {count}");
    }
    eprintln!("tidy: {} findings", findings.len());
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Applies every rule to every file.
fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    for file in files(root)? {
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        // What is not text has no rules.
        let Ok(content) = fs::read_to_string(&file) else {
            continue;
        };
        findings.extend(text::check(&name, &content));
        findings.extend(documents::check(&name, &content));
        findings.extend(prose::check(&name, &content));
        findings.extend(identifiers::in_text(&name, &content));
        if name.ends_with(".rs") {
            sources.push(Source::parse(&name, &content).with_context(|| format!("cannot read {name}"))?);
        }
    }
    mark_tests(&mut sources);
    for source in &sources {
        let crates = crates_of(root, &source.file);
        findings.extend(rules::check(source, &crates));
        findings.extend(modules::check(source, &crates));
        findings.extend(identifiers::in_code(source));
    }
    findings.extend(modules::unused(&sources));
    for members in by_crate(&sources).values() {
        findings.extend(identifiers::shared_types(members));
        findings.extend(graph::circles(members).into_iter().map(circle));
    }
    findings.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Ok(findings)
}

fn circle(files: Vec<String>) -> Finding {
    let message = format!("these files import each other: {}", files.join(", "));
    Finding { file: files.into_iter().next().unwrap_or_default(), line: 1, message, rule: Rule::Circles }
}

/// Marks the files of modules that are declared for tests only.
fn mark_tests(sources: &mut [Source]) {
    let mut prefixes = Vec::new();
    for source in &*sources {
        let top = source.file.trim_end_matches(".rs");
        let inside = top.strip_suffix("/lib").or(top.strip_suffix("/main")).or(top.strip_suffix("/mod")).unwrap_or(top);
        prefixes.extend(source.test_modules.iter().map(|module| format!("{inside}/{module}")));
    }
    for source in sources {
        if prefixes.iter().any(|prefix| rules::is_in(&source.file, prefix)) {
            source.mark_as_test();
        }
    }
}

/// The sources of each crate, by the directory of its root. A program below `src/bin` is a crate of its own.
fn by_crate(sources: &[Source]) -> BTreeMap<String, Vec<&Source>> {
    let mut crates: BTreeMap<String, Vec<&Source>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_test) {
        let Some((package, inside)) = source.file.split_once("/src/") else {
            continue;
        };
        let binary = inside.strip_prefix("bin/").map(|rest| rest.split(['/', '.']).next().unwrap_or(rest));
        let name = binary.map_or_else(|| package.to_owned(), |binary| format!("{package}/bin/{binary}"));
        crates.entry(name).or_default().push(source);
    }
    crates
}

/// Every file that is part of the project, in a stable order. A fuzzer wrote its corpus, and no rule holds there.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                let is_corpus = directory.ends_with("fuzz") && name == "corpus";
                if name != "target" && name != ".git" && !is_corpus {
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

/// The crates that a file could name: those that its manifest lists, and those of the compiler.
fn crates_of(root: &Path, file: &str) -> Vec<String> {
    let packages = Path::new(file).ancestors().map(|package| root.join(package).join("Cargo.toml"));
    let manifest = packages.filter_map(|manifest| fs::read_to_string(manifest).ok()).next().unwrap_or_default();
    dependencies(&manifest).chain(["std", "core", "alloc"].map(str::to_owned)).collect()
}

/// The names under every `[…dependencies]` heading but that of tests, as code spells them.
fn dependencies(manifest: &str) -> impl Iterator<Item = String> {
    let mut inside = false;
    manifest.lines().filter_map(move |line| {
        if line.starts_with('[') {
            // Code outside tests cannot name the dependencies of tests.
            inside = line.ends_with("dependencies]") && !line.ends_with("dev-dependencies]");
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
    fn every_crate_is_looked_for_where_it_can_be() {
        for directory in ["agent-common/src", "agent-ebpf/src", "agent/src", "xtask/src"] {
            let seen = files(&workspace::root().join(directory)).expect("the crate can be listed");
            assert!(!seen.is_empty(), "{directory} holds no file");
        }
    }

    #[test]
    fn a_planted_break_of_each_rule_is_found() {
        let tree = tempfile::tempdir().expect("a temporary directory");
        let write = |file: &str, text: &str| {
            let path = tree.path().join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("create");
            fs::write(path, text).expect("write");
        };
        write("agent/policy/Cargo.toml", "[dependencies]\nkube = { workspace = true }\n");
        write("agent/src/new.rs", "//! N.\nuse crate::run::run;\n");
        write("agent/policy/src/model/cluster.rs", "//! What we know.\n\nuse kube::Client;\nstruct A;\n");
        write("agent/policy/src/model/other.rs", "//! The waist.\nuse super::view::V;\nstruct A;\n");
        write("agent/policy/src/model/view.rs", "use super::other::A;\nstruct Sighting;\n");
        write("README.md", &"\n".repeat(200));
        let findings = check(tree.path()).expect("the tree can be read");
        let found: Vec<(&str, usize, Rule)> =
            findings.iter().map(|finding| (finding.file.as_str(), finding.line, finding.rule)).collect();
        for expected in [
            ("README.md", 1, Rule::Documents),
            ("agent/policy/src/model/cluster.rs", 3, Rule::Imports),
            ("agent/src/new.rs", 2, Rule::Modules),
            ("agent/policy/src/model/other.rs", 1, Rule::Circles),
            ("agent/policy/src/model/other.rs", 1, Rule::Prose),
            ("agent/policy/src/model/other.rs", 3, Rule::Types),
            ("agent/policy/src/model/view.rs", 1, Rule::Text),
            ("agent/policy/src/model/view.rs", 2, Rule::Identifiers),
        ] {
            assert!(found.contains(&expected), "{expected:?} is not in {found:?}");
        }
    }

    #[test]
    fn a_module_for_tests_is_known_by_its_declaration() {
        let tree = tempfile::tempdir().expect("a temporary directory");
        let source = tree.path().join("agent/policy/src");
        fs::create_dir_all(source.join("model")).expect("create");
        fs::write(source.join("model.rs"), "//! M.\n#[cfg(test)]\nmod testing;\n").expect("write");
        fs::write(source.join("model/testing.rs"), "//! T.\nuse std::time::Instant;\n").expect("write");
        assert_eq!(check(tree.path()).expect("the tree can be read"), []);
    }

    #[test]
    fn dependencies_are_read_from_every_section_but_that_of_tests() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\n# why\nserde-saphyr = { a = 1 }\nkube.workspace = true\n\n\
                        [build-dependencies]\nsha2 = \"1\"\n[dev-dependencies]\ntempfile = \"3\"\n[lints]\nworkspace = true\n";
        assert_eq!(dependencies(manifest).collect::<Vec<_>>(), ["serde_saphyr", "kube", "sha2"]);
    }
}
