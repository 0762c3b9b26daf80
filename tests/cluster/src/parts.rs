//! The Kubernetes programs, built from the Go modules pinned in `parts/*/go.mod` and cached by version.
//!
//! A part is reused while its pins are unchanged. Otherwise it is built in a separate directory and moved into position
//! when it is complete.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    command::{command, run},
    exclusive,
};

pub(crate) mod go;

/// A Go module whose programs a cluster needs.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its directory under `parts`.
    pub name: &'static str,
    /// The module that determines the part's version.
    pub module: &'static str,
    /// The names of the programs on nodes and in pods.
    pub programs: &'static [&'static str],
    /// Programs that the Go tool builds under another name.
    pub renamed: Option<(&'static str, &'static str)>,
    /// Build tags. A part with tags needs a C compiler, too.
    pub tags: Option<&'static str>,
}

const fn part(name: &'static str, module: &'static str, programs: &'static [&'static str]) -> Part {
    Part { name, module, programs, renamed: None, tags: None }
}

/// All parts. Those that build quickly come first, so that errors appear early. Without the seccomp tag, runc refuses
/// every pod.
pub const PARTS: [Part; 6] = [
    part("cni", "github.com/containernetworking/plugins", &["bridge", "host-local", "loopback", "portmap", "ptp"]),
    Part { tags: Some("seccomp"), ..part("runc", "github.com/opencontainers/runc", &["runc"]) },
    Part { renamed: Some(("server", "etcd")), ..part("etcd", "go.etcd.io/etcd/server/v3", &["etcd"]) },
    part("containerd", "github.com/containerd/containerd/v2", &["containerd", "containerd-shim-runc-v2", "ctr"]),
    part("coredns", "github.com/coredns/coredns", &["coredns"]),
    part("kubernetes", "k8s.io/kubernetes", &KUBERNETES),
];

const KUBERNETES: [&str; 7] =
    ["agnhost", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"];

/// The directories with all programs of a cluster.
#[derive(Clone, Debug)]
pub struct Parts {
    directories: Vec<PathBuf>,
    cache: PathBuf,
}

impl Parts {
    /// Uses the parts in `cache`, builds missing parts, and prints its progress.
    ///
    /// Without Go and without cached parts, `KUBEBUILDER_ASSETS` may name a directory with all programs.
    pub fn ready(cache: &Path) -> Result<Self> {
        let cache = cache.to_path_buf();
        if PARTS.iter().all(|part| part.kept(&cache)) {
            return Ok(Self { directories: PARTS.map(|part| part.directory(&cache)).into(), cache });
        }
        if !go::present() {
            return Ok(Self { directories: vec![assets()?], cache });
        }
        let _alone = exclusive::cache(&cache)?;
        PARTS.iter().filter(|part| !part.kept(&cache)).try_for_each(|part| part.build(&cache))?;
        Ok(Self { directories: PARTS.map(|part| part.directory(&cache)).into(), cache })
    }

    /// Why [`Parts::ready`] cannot succeed here, without building anything.
    pub fn missing(cache: &Path) -> Option<String> {
        let possible = go::present() || PARTS.iter().all(|part| part.kept(cache));
        if possible { None } else { assets().err().map(|error| format!("{error:#}")) }
    }

    /// The directory with the cached parts.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The path of a program.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let found = self.directories.iter().map(|directory| directory.join(name)).find(|path| path.exists());
        found.with_context(|| format!("{name} is not among the Kubernetes parts"))
    }

    /// The paths of all programs.
    pub fn programs(&self) -> Result<Vec<PathBuf>> {
        PARTS.iter().flat_map(|part| part.programs).map(|name| self.program(name)).collect()
    }

    /// The path of a program that is installed on the machine.
    pub fn tool(&self, name: &str) -> Result<PathBuf> {
        let path = run(&mut command("sh", ["-c", "command -v -- \"$1\"", "sh", name]));
        Ok(path.with_context(|| format!("{name} is not installed"))?.trim().into())
    }
}

/// The directory in `KUBEBUILDER_ASSETS`, if it contains all programs.
fn assets() -> Result<PathBuf> {
    let Some(directory) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
        bail!(
            "there is no Go to build Kubernetes: install Go, or set KUBEBUILDER_ASSETS to a directory with its programs"
        );
    };
    let all = PARTS.iter().flat_map(|part| part.programs);
    let absent: Vec<_> = all.filter(|name| !directory.join(name).exists()).copied().collect();
    ensure!(
        absent.is_empty(),
        "there is no Go to build Kubernetes, and {} has no {}",
        directory.display(),
        absent.join(", ")
    );
    Ok(directory)
}

impl Part {
    /// The directory of its pins.
    pub(crate) fn pins(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("parts").join(self.name)
    }

    /// The version in its pins.
    pub fn version(&self) -> Result<String> {
        let text = fs::read_to_string(self.pins().join("go.mod"))?;
        required(&text, self.module).with_context(|| format!("parts/{}/go.mod requires no {}", self.name, self.module))
    }

    fn directory(&self, cache: &Path) -> PathBuf {
        cache.join(format!("{}-{}", self.name, self.version().unwrap_or_default()))
    }

    /// The inputs of a build: the pins and the build flags.
    fn recipe(&self) -> Result<String> {
        let pins = ["go.mod", "go.sum"].map(|name| fs::read_to_string(self.pins().join(name)));
        let [modules, sums] = pins;
        Ok(format!("{:?}\n{}{}", go::flags(self, &self.version()?), modules?, sums?))
    }

    fn kept(&self, cache: &Path) -> bool {
        let built_from = fs::read_to_string(self.directory(cache).join("built-from"));
        matches!((built_from, self.recipe()), (Ok(then), Ok(now)) if then == now)
    }

    fn build(&self, cache: &Path) -> Result<()> {
        let (directory, aside) = (self.directory(cache), cache.join(format!("{}.part", self.name)));
        for old in [&directory, &aside] {
            let _ = fs::remove_dir_all(old);
        }
        fs::create_dir_all(&aside)?;
        go::build(self, &self.version()?, &aside)?;
        if let Some((theirs, ours)) = self.renamed {
            fs::rename(aside.join(theirs), aside.join(ours))?;
        }
        let absent: Vec<_> = self.programs.iter().filter(|name| !aside.join(name).exists()).collect();
        ensure!(absent.is_empty(), "the build of {} did not create {absent:?}", self.name);
        fs::write(aside.join("built-from"), self.recipe()?)?;
        Ok(fs::rename(aside, directory)?)
    }
}

/// The version of a module in the text of a `go.mod`.
fn required(text: &str, module: &str) -> Option<String> {
    let words = text.lines().map(|line| line.trim().trim_start_matches("require "));
    let mut versions = words.filter_map(|line| line.split_once(' ').filter(|(name, _)| *name == module));
    versions.find_map(|(_, rest)| Some(rest.split(' ').next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_concrete_version() {
        for part in PARTS {
            let version = part.version().unwrap();
            assert!(version.starts_with('v') && !version.contains("-0."), "{}: {version}", part.name);
        }
    }

    #[test]
    fn a_version_is_read_from_either_form_of_require() {
        let text = "module x\nrequire a.b/c v1.2.3\nrequire (\n\ta.b/d v4.5.6 // indirect\n)\n";
        assert_eq!(required(text, "a.b/c").as_deref(), Some("v1.2.3"));
        assert_eq!(required(text, "a.b/d").as_deref(), Some("v4.5.6"));
        assert_eq!(required(text, "a.b/e"), None);
    }

    #[test]
    fn kubernetes_is_one_version_throughout() {
        let part = PARTS.iter().find(|part| part.name == "kubernetes").unwrap();
        let staging = part.version().unwrap().replacen("v1.", "v0.", 1);
        let text = fs::read_to_string(part.pins().join("go.mod")).unwrap();
        let replaced: Vec<_> = text.lines().filter(|line| line.contains(" => k8s.io/")).collect();
        assert!(!replaced.is_empty() && replaced.iter().all(|line| line.ends_with(&staging)));
    }

    #[test]
    fn an_empty_cache_has_no_parts() {
        let directory = tempfile::tempdir().unwrap();
        assert!(PARTS.iter().all(|part| !part.kept(directory.path())));
    }
}
