//! Writes `deploy/bulkhead.yaml` from the files that `deploy/kustomization.yaml` lists, in their order.
//!
//! The base transforms nothing, so its files only have to be joined. A kustomization with other fields is refused.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::workspace;

const HEADER: &str = "# Generated from the files of this directory by `cargo xtask manifests`. Do not edit.\n";
const RENDERED: &str = "bulkhead.yaml";

/// Writes the file; with `check`, only compares.
pub(crate) fn run(check: bool) -> Result<()> {
    let deploy = workspace::root().join("deploy");
    let (file, wanted) = (deploy.join(RENDERED), render(&deploy)?);
    if fs::read_to_string(&file).is_ok_and(|current| current == wanted) {
        eprintln!("{} is up to date", file.display());
        return Ok(());
    }
    if check {
        bail!("{} differs from its sources: run `cargo xtask manifests`", file.display());
    }
    fs::write(&file, wanted).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("{} written", file.display());
    Ok(())
}

/// Joins the files of the base.
fn render(deploy: &Path) -> Result<String> {
    let base = deploy.join("kustomization.yaml");
    let base = fs::read_to_string(&base).with_context(|| format!("cannot read {}", base.display()))?;
    let mut all = HEADER.to_owned();
    for name in resources(&base)? {
        let file = deploy.join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        all += &format!("---\n# {name}\n{}\n", text.trim_end());
    }
    Ok(all)
}

/// The items of `resources:`, the only field that the base may have.
fn resources(base: &str) -> Result<Vec<&str>> {
    let mut names = Vec::new();
    for line in base.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("- ") {
            Some(name) => names.push(name),
            None if ["apiVersion:", "kind:", "resources:"].iter().any(|known| line.starts_with(known)) => {}
            None => bail!(
                "kustomization.yaml has the line {line:?}: only `resources` is supported; see xtask/src/manifests.rs"
            ),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_manifest_is_what_its_sources_say() {
        let deploy = workspace::root().join("deploy");
        let committed = fs::read_to_string(deploy.join(RENDERED)).unwrap_or_default();
        assert!(committed == render(&deploy).expect("a base"), "run `cargo xtask manifests` and commit the result");
    }

    #[test]
    fn the_manifests_name_the_image_that_this_version_builds() {
        let deploy = workspace::root().join("deploy");
        let cleanup = fs::read_to_string(deploy.join("cleanup/daemonset.yaml")).expect("the way out");
        let text = render(&deploy).expect("a base") + &cleanup;
        let images: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
        assert_eq!(images, [crate::image::name(); 3]);
    }

    #[test]
    fn every_manifest_of_the_directory_is_in_the_base() {
        let deploy = workspace::root().join("deploy");
        let base = fs::read_to_string(deploy.join("kustomization.yaml")).expect("a base");
        let listed = resources(&base).expect("resources");
        for entry in fs::read_dir(&deploy).expect("deploy").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let expected = name.ends_with(".yaml") && name != RENDERED && name != "kustomization.yaml";
            assert!(!expected || listed.contains(&name.as_str()), "{name} would never be applied");
        }
    }

    #[test]
    fn a_base_that_transforms_is_refused() {
        assert!(resources("kind: Kustomization\nnamePrefix: x-\n").is_err());
        assert_eq!(resources("resources:\n- a.yaml\n- b.yaml\n").expect("resources"), ["a.yaml", "b.yaml"]);
    }
}
