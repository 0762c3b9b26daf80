//! Edits `deploy/bulkhead.yaml` as its comments describe: sets a value, or removes the comment sign of a mount.
//!
//! Fails if a line does not exist exactly as expected, so that the comments stay correct.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The manifests with these keys of the ConfigMap set, including keys that are comments in the file.
pub(super) fn with_settings(file: &Path, settings: &[(&str, &str)]) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    settings.iter().try_fold(text, |text, (key, value)| set(&text, key, value))
}

/// The manifests with a volume of this name and its mount, which are comments in the file.
pub(super) fn with_mount(text: &str, name: &str) -> Result<String> {
    let comment = format!("# - {{name: {name}, ");
    let count = text.lines().filter(|line| line.trim_start().starts_with(&comment)).count();
    ensure!(
        count == 2,
        "{count} lines of the manifests are comments about {name}, but a mount and a volume were expected"
    );
    Ok(text.replace(&comment, &comment[2..]))
}

fn set(text: &str, key: &str, value: &str) -> Result<String> {
    let is_setting = |line: &str| {
        line.trim_start().trim_start_matches("# ").strip_prefix(key).is_some_and(|rest| rest.starts_with(": "))
    };
    let count = text.lines().filter(|line| is_setting(line)).count();
    ensure!(count == 1, "{count} lines of the manifests could set {key}, but one was expected");
    let lines =
        text.lines().map(|line| if is_setting(line) { format!("  {key}: {value}\n") } else { format!("{line}\n") });
    Ok(lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_and_its_volume_are_uncommented() {
        let text = "  # - {name: nri, mountPath: /x}\n  - {name: run, mountPath: /y}\n  # - {name: nri, hostPath: {path: /x}}\n";
        let with = with_mount(text, "nri").expect("both are there");
        assert_eq!(with, text.replace("# - ", "- "));
        assert!(with_mount(&with, "nri").is_err());
    }

    #[test]
    fn a_setting_is_set_whether_it_was_a_comment_or_not() {
        let text = "data:\n  # BULKHEAD_POD_CIDR: 10.0.0.0/8\n  BULKHEAD_UNASSIGNED: audit\n";
        let text =
            set(text, "BULKHEAD_POD_CIDR", "10.1.0.0/16").and_then(|text| set(&text, "BULKHEAD_UNASSIGNED", "allow"));
        assert_eq!(text.expect("settings"), "data:\n  BULKHEAD_POD_CIDR: 10.1.0.0/16\n  BULKHEAD_UNASSIGNED: allow\n");
        assert!(set("data:\n", "BULKHEAD_POD_CIDR", "x").is_err());
    }
}
