//! Banned words in identifiers, and types that share a name.
//!
//! An identifier is split into its parts, so a word is found in `snake_case`, `CamelCase` and `--flags` alike. Names of
//! flags, variables and metrics are read from every text file.

use std::collections::BTreeMap;

use super::{
    Finding, Rule,
    source::Source,
    words::{Banned, IDENTIFIERS, Scope, names_the_banned},
};

/// Banned words in the identifiers of a source file.
pub(super) fn in_code(source: &Source) -> Vec<Finding> {
    let names = source.identifiers.iter().map(|(name, line)| (name.trim_start_matches("r#"), *line));
    names.filter_map(|(name, line)| finding(&source.file, line, name)).collect()
}

/// Banned words in the name of a file and in the names of flags, variables and metrics.
pub(super) fn in_text(file: &str, text: &str) -> Vec<Finding> {
    if names_the_banned(file) {
        return Vec::new();
    }
    let of_path = file.split('/').flat_map(|part| part.split('.').next()).map(|part| (part, 1));
    let lines = text.lines().zip(1..);
    let of_text = lines.flat_map(|(line, number)| public_names(line).map(move |name| (name, number)));
    of_path.chain(of_text).filter_map(|(name, line)| finding(file, line, name)).collect()
}

/// What looks like a metric, a variable or a flag of ours.
fn public_names(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-');
    words.filter(|word| ["bulkhead_", "BULKHEAD_", "--"].iter().any(|start| word.starts_with(start)))
}

fn finding(file: &str, line: usize, name: &str) -> Option<Finding> {
    let parts = parts(name);
    let is_type = name.starts_with(|c: char| c.is_ascii_uppercase()) && name.contains(|c: char| c.is_ascii_lowercase());
    let applies = |banned: &&Banned| {
        (banned.scope == Scope::Everywhere || is_type)
            && parts.iter().any(|part| part == banned.part)
            && !banned.except.contains(&name)
    };
    let banned = IDENTIFIERS.iter().find(applies)?;
    let message = format!("{name}: the word {} is not used here; write {}", banned.part, banned.instead);
    Some(Finding { file: file.to_owned(), line, message, rule: Rule::Identifiers })
}

/// `["cgroup", "guard", "v", "4"]` for `CgroupGuardV4`, `cgroup_guard_v4` and `--cgroup-guard-v4`.
fn parts(name: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut current = String::new();
    let letters: Vec<char> = name.chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| letters[at]);
        let after = letters.get(at + 1);
        let begins = letter.is_ascii_uppercase()
            && (before.is_some_and(|c| c.is_ascii_lowercase())
                || before.is_some_and(|c| c.is_ascii_uppercase()) && after.is_some_and(|c| c.is_ascii_lowercase()));
        if begins || !letter.is_ascii_alphabetic() {
            parts.push(std::mem::take(&mut current));
        }
        if letter.is_ascii_alphabetic() {
            current.push(letter.to_ascii_lowercase());
        }
    }
    parts.push(current);
    parts.retain(|part| !part.is_empty());
    parts
}

/// Types of one crate that share a name.
pub(super) fn shared_types(sources: &[&Source]) -> Vec<Finding> {
    let mut places: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
    for source in sources {
        for (name, line) in &source.types {
            places.entry(name).or_default().push((&source.file, *line));
        }
    }
    let shared = places.into_iter().filter(|(_, places)| places.len() > 1);
    shared
        .flat_map(|(name, places)| {
            let (first, rest) = places.split_first().map_or((None, &[][..]), |(first, rest)| (Some(*first), rest));
            let (other, at) = first.unwrap_or_default();
            let message = format!("the type {name} is also defined in {other}:{at}; put its subject in front");
            rest.iter()
                .map(|(file, line)| {
                    let (file, message) = ((*file).to_owned(), message.clone());
                    Finding { file, line: *line, message, rule: Rule::Types }
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_into_their_parts() {
        assert_eq!(parts("CgroupLockArg"), ["cgroup", "lock", "arg"]);
        assert_eq!(parts("HTTPServer"), ["http", "server"]);
        assert_eq!(parts("LOCK_DROPS"), ["lock", "drops"]);
        assert_eq!(parts("--cgroup-lock"), ["cgroup", "lock"]);
        assert_eq!(parts("v4_of"), ["v", "of"]);
    }

    #[test]
    fn a_banned_word_is_found_with_its_replacement() {
        let of = |text: &str| {
            let source = Source::parse("agent/src/run.rs", text).expect("valid tokens");
            in_code(&source).into_iter().map(|finding| finding.message).collect::<Vec<_>>()
        };
        assert_eq!(of("struct Waist;"), ["Waist: the word waist is not used here; write global function"]);
        assert_eq!(of("fn f(lock_drops: u8) {}").len(), 1);
        assert!(of("static A: LazyLock<u8> = m.lock(); fn clock(block: u8) { a.fold() }").is_empty());
        assert_eq!(of("enum Reach {}").len(), 1);
        assert!(of("fn reach() {}").is_empty());
    }

    #[test]
    fn flags_variables_metrics_and_file_names_are_read_everywhere() {
        let lines = |file: &str, text: &str| in_text(file, text).into_iter().map(|f| f.line).collect::<Vec<_>>();
        assert_eq!(lines("a.md", "x\nsee `--cgroup-lock`\nBULKHEAD_CGROUP_LOCK=1\n"), [2, 3]);
        assert_eq!(lines("a.yaml", "bulkhead_lock_broken > 0, Cargo.lock, a lock"), [1]);
        assert_eq!(lines("agent-ebpf/src/waist.rs", ""), [1]);
        assert!(lines("Cargo.lock", "").is_empty());
    }

    #[test]
    fn types_of_one_name_are_found() {
        let parse = |file: &str, text: &str| Source::parse(file, text).expect("valid tokens");
        let (a, b) = (parse("a/src/a.rs", "struct View;"), parse("a/src/b.rs", "\nenum View {} struct Other;"));
        let found = shared_types(&[&a, &b]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].file.as_str(), found[0].line), ("a/src/b.rs", 2));
    }
}
