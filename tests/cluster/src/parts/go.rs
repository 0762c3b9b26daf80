//! Builds a part with the Go tool and reports progress, because the first build takes minutes.

use std::{
    io::{BufRead, BufReader, IsTerminal, Read},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Part;
use crate::command::{command, run};

/// Whether there is a Go tool.
pub(crate) fn present() -> bool {
    run(&mut command("go", ["version"])).is_ok()
}

/// The flags of a build. Without these linker flags, the API server reports v0.0.0 as its version.
pub(crate) fn flags(part: &Part, version: &str) -> Vec<String> {
    let mut link = String::from("-s -w");
    if part.name == "kubernetes" {
        let minor = version.split('.').nth(1).unwrap_or_default();
        for (name, value) in [("gitVersion", version), ("gitMajor", "1"), ("gitMinor", minor)] {
            link += &format!(" -X k8s.io/component-base/version.{name}={value}");
        }
    }
    let tags = part.tags.map(|tags| format!("-tags={tags}"));
    ["-trimpath".into(), format!("-ldflags={link}")].into_iter().chain(tags).collect()
}

/// Builds all programs of a part into a directory.
pub(crate) fn build(part: &Part, version: &str, into: &Path) -> Result<()> {
    let name = format!("{} {version}", part.name);
    eprintln!("{name}: building {} from Go modules", part.programs.join(", "));
    let mut go = command("go", ["build", "-v", "-mod=readonly", "-buildvcs=false"]);
    go.args(flags(part, version)).arg("-o").arg(format!("{}/", into.display())).arg("tool");
    go.current_dir(part.pins()).env("CGO_ENABLED", if part.tags.is_some() { "1" } else { "0" });
    let start = Instant::now();
    let packages = watch(&mut go, &name, start).with_context(|| format!("cannot build {name}"))?;
    eprintln!("{name}: {packages} packages in {} s", start.elapsed().as_secs());
    Ok(())
}

/// Counts the packages that the tool compiles, and keeps the rest of its output for the error.
fn watch(go: &mut Command, name: &str, start: Instant) -> Result<usize> {
    let mut child = go.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start go")?;
    let said = child.stderr.take().expect("standard error was piped above");
    let mut progress = Progress { name, start, printed: start, packages: 0 };
    let complaints = read(said, &mut progress);
    let status = child.wait()?;
    ensure!(status.success(), "go: {status}\n{}", complaints.join("\n"));
    Ok(progress.packages)
}

fn read(said: impl Read, progress: &mut Progress) -> Vec<String> {
    let mut complaints = Vec::new();
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        if line.starts_with("go: downloading") || !line.contains(' ') && !line.starts_with('#') {
            progress.count(&line);
        } else {
            complaints.push(line);
        }
    }
    complaints
}

/// The progress of a build. On a terminal it is one line that is overwritten, otherwise a line every 20 seconds.
struct Progress<'a> {
    name: &'a str,
    start: Instant,
    printed: Instant,
    packages: usize,
}

impl Progress<'_> {
    fn count(&mut self, line: &str) {
        self.packages += usize::from(!line.starts_with("go:"));
        let terminal = std::io::stderr().is_terminal();
        let pause = Duration::from_millis(if terminal { 200 } else { 20_000 });
        if self.printed.elapsed() < pause {
            return;
        }
        self.printed = Instant::now();
        let (name, packages, seconds) = (self.name, self.packages, self.start.elapsed().as_secs());
        let doing = if line.starts_with("go:") { "downloading".into() } else { format!("{packages} packages") };
        eprint!(
            "{}{name}: {doing}, {seconds} s{}",
            if terminal { "\r\x1b[K" } else { "" },
            if terminal { "\r" } else { "\n" }
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::PARTS;

    fn part(name: &str) -> Part {
        *PARTS.iter().find(|part| part.name == name).unwrap()
    }

    #[test]
    fn kubernetes_is_built_with_its_version() {
        let flags = flags(&part("kubernetes"), "v1.36.3").join(" ");
        assert!(
            flags.contains("gitVersion=v1.36.3") && flags.contains("gitMinor=36 ") || flags.ends_with("gitMinor=36")
        );
    }

    #[test]
    fn runc_has_seccomp() {
        assert!(flags(&part("runc"), "v1.5.2").contains(&"-tags=seccomp".into()));
    }

    #[test]
    fn packages_are_counted_and_complaints_kept() {
        let now = Instant::now();
        let mut progress = Progress { name: "x", start: now, printed: now, packages: 0 };
        let said = "go: downloading a.b/c v1\na.b/c\na.b/c/d\n# a.b/c/d\nd.go:1:1: no such thing\n";
        let complaints = read(said.as_bytes(), &mut progress);
        assert_eq!(progress.packages, 2);
        assert_eq!(complaints, ["# a.b/c/d", "d.go:1:1: no such thing"]);
    }
}
