//! Rules on plain text: how a file opens, what a TODO promises, and no path that exists on one machine only.
//!
//! Reads lines and knows no language.

use super::{Finding, Rule};

/// Beginnings of paths that exist on one machine only.
const MACHINES: [&str; 4] = ["/root/", "/home/", "/Users/", "/work/"];
/// Words that name the condition which will remove a TODO.
const CONDITIONS: [&str; 5] = ["when ", "once ", "until ", "after ", "as soon as "];
/// This file names what it looks for.
const SELF: &str = "xtask/src/tidy/text.rs";

/// Everything in this file that a rule forbids.
pub(super) fn check(file: &str, text: &str) -> Vec<Finding> {
    if file == SELF {
        return Vec::new();
    }
    let finding = |line: usize, message: String| Finding { file: file.to_owned(), line, message, rule: Rule::Text };
    let mut findings = Vec::new();
    if file.ends_with(".rs") && !opens_with_a_comment(text) {
        findings.push(finding(
            1,
            "open the file with a `//!` comment: what it is for, and what it refuses to know".to_owned(),
        ));
    }
    for (number, line) in text.lines().enumerate() {
        if is_bare_todo(line) {
            findings.push(finding(
                number + 1,
                "name the condition that removes this TODO: when, once, until, after".to_owned(),
            ));
        }
        if let Some(path) = machine_path(line) {
            findings.push(finding(number + 1, format!("{path} exists on one machine only: use a relative path")));
        }
    }
    findings
}

fn opens_with_a_comment(text: &str) -> bool {
    text.trim_start().starts_with("//!")
}

fn is_bare_todo(line: &str) -> bool {
    let words = || line.split(|c: char| !c.is_ascii_alphabetic());
    words().any(|word| word == "TODO" || word == "FIXME" || word == "XXX")
        && !CONDITIONS.iter().any(|condition| line.contains(condition))
}

/// A path that starts here, not one that only continues: `/work/` counts, `/src/work/` does not.
fn machine_path(line: &str) -> Option<&'static str> {
    MACHINES.into_iter().find(|path| {
        line.match_indices(path).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            before.is_none_or(|c| !c.is_ascii_alphanumeric() && !"._-/}>*$~".contains(c))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: [usize; 0] = [];

    fn lines(file: &str, text: &str) -> Vec<usize> {
        check(file, text).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_source_file_opens_by_saying_what_it_is_for() {
        assert_eq!(lines("agent/src/run.rs", "//! Wiring.\n"), CLEAN);
        assert_eq!(lines("agent/src/run.rs", "use std::fmt;\n"), [1]);
        assert_eq!(lines("agent/src/run.rs", "// Not a module comment.\n"), [1]);
        assert_eq!(lines("agent/src/run.rs", ""), [1]);
        assert_eq!(lines("Cargo.toml", "[workspace]\n"), CLEAN);
    }

    #[test]
    fn a_todo_names_its_condition() {
        assert_eq!(lines("a.toml", "# TODO: drop this when aya has it\n"), CLEAN);
        assert_eq!(lines("a.toml", "# all fine\n# TODO: tidy up\n"), [2]);
        assert_eq!(lines("a.toml", "# FIXME\n"), [1]);
    }

    #[test]
    fn no_path_of_one_machine() {
        assert_eq!(lines("a.sh", "cd /root/bulkhead\n"), [1]);
        assert_eq!(lines("a.yaml", "path: \"/home/me\"\n"), [1,]);
        assert_eq!(lines("a.yaml", "path: /var/home/me\nurl: https://example.org/work/x\n"), CLEAN);
    }
}
