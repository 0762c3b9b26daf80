//! Fetches kernels from Debian's packages and unpacks them under `target/kernels`. Nothing is installed.
//!
//! Package lists of other suites are kept apart, so the machine's own lists do not change. They come from the mirrors of
//! this machine. Old versions vanish from mirrors, so versions are chosen by pattern.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use super::{Series, output};
use crate::{step, workspace};

/// A kernel, unpacked.
pub(super) struct Kernel {
    /// The output of `uname -r`.
    pub version: String,
    /// The image.
    pub image: PathBuf,
    /// The directory of its modules.
    pub modules: PathBuf,
}

/// The newest kernel of a series.
pub(super) fn kernel(series: &Series) -> Result<Kernel> {
    let directory = workspace::products().join("kernels").join(series.name);
    if let Ok(kernel) = unpacked(&directory) {
        return Ok(kernel);
    }
    let lists = Lists::of(series.suite)?;
    let package = lists.newest(series.version)?;
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    // Since 7.x the image is split into several packages.
    let version = package.trim_start_matches("linux-image-");
    let parts = [format!("linux-binary-{version}"), format!("linux-modules-{version}")];
    let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| lists.has(part)).collect();
    let wanted = if parts.is_empty() { vec![package.as_str()] } else { parts };
    let mut download = lists.apt("apt-get");
    step::run(&format!("fetch kernel {}", series.name), download.arg("download").args(wanted).current_dir(&directory))?;
    for file in files(&directory)?.iter().filter(|file| file.extension().is_some_and(|e| e == "deb")) {
        output(Command::new("dpkg-deb").arg("-x").arg(file).arg(&directory))?;
        fs::remove_file(file)?;
    }
    unpacked(&directory)
}

fn unpacked(directory: &Path) -> Result<Kernel> {
    // Newer packages use /usr/lib, older ones /lib.
    let roots = ["usr/lib/modules", "lib/modules"].map(|path| directory.join(path));
    let modules = roots.iter().filter_map(|root| files(root).ok()?.into_iter().next()).next();
    let modules = modules.context("the package holds no modules")?;
    let version = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let images = [directory.join(format!("boot/vmlinuz-{version}")), modules.join("vmlinuz")];
    let image = images.into_iter().find(|image| image.is_file()).context("the package holds no kernel")?;
    Ok(Kernel { version, image, modules })
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

/// Package lists of one suite.
struct Lists {
    options: Vec<String>,
}

impl Lists {
    /// Fetches them.
    fn of(suite: &str) -> Result<Self> {
        let directory = workspace::products().join("kernels/lists").join(suite);
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let sources = directory.join("sources.list");
        fs::write(&sources, format!("deb {} {suite} main\n", mirror(suite)?))?;
        let set = |name: &str, value: &Path| format!("-oDir::{name}={}", value.display());
        let options = vec![
            set("Etc::sourcelist", &sources),
            set("Etc::sourceparts", Path::new("/dev/null")),
            set("State::lists", &directory.join("lists")),
            set("Cache", &directory.join("cache")),
            // apt's sandbox user may not write the directory of the download.
            "-oAPT::Sandbox::User=root".to_owned(),
        ];
        let lists = Self { options };
        step::run(&format!("fetch the package list of {suite}"), lists.apt("apt-get").arg("update"))?;
        Ok(lists)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    fn newest(&self, version: &str) -> Result<String> {
        let pattern = format!("^linux-image-{version}.*-cloud-amd64$");
        let names = output(self.apt("apt-cache").args(["search", "--names-only", &pattern]))?;
        let names = names.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned);
        names.max_by_key(|name| numbers(name)).with_context(|| format!("the suite has no {pattern}"))
    }

    fn has(&self, package: &str) -> bool {
        output(self.apt("apt-cache").args(["show", package])).is_ok_and(|text| !text.is_empty())
    }
}

/// The numbers of a version, which sort as versions do.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// The mirror of this machine for suites of that kind.
fn mirror(suite: &str) -> Result<String> {
    let security = suite.ends_with("-security");
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(SIGNED_BY)",
        "Created-By: Packages",
    ]))?;
    for line in targets.lines() {
        let mut words = line.split_whitespace();
        let (Some(uri), Some(release)) = (words.next(), words.next()) else { continue };
        let debian = uri.trim_end_matches('/').ends_with(if security { "debian-security" } else { "debian" });
        if debian && release.ends_with("-security") == security {
            let key = words.next().filter(|key| key.starts_with('/'));
            return Ok(key.map_or(uri.to_owned(), |key| format!("[signed-by={key}] {uri}")));
        }
    }
    ensure!(!targets.is_empty(), "apt has no sources");
    bail!("this machine has no Debian mirror for {suite}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_numbers() {
        let mut names = ["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64"];
        names.sort_by_key(|name| numbers(name));
        assert_eq!(names[1], "linux-image-6.1.0-56-cloud-amd64");
    }
}
