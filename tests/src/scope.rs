//! Everything that a test creates on this machine, under one name: network namespaces, a directory, a BPF file system.
//!
//! The name contains the pid of its owner, so the next run can remove what an ended owner left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, test_kill_process};

use crate::netns::{self, Netns};

/// The parent directory of all scopes.
const BASE: &str = "/run/bulkhead-bench";
/// The prefix of every scope's name.
const PREFIX: &str = "bh-";

/// A name and everything that carries it. Dropping the value removes all of it.
#[derive(Debug)]
pub struct Scope {
    name: String,
    owned: bool,
}

impl Scope {
    /// A new scope of this process, with an empty BPF file system.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        static RECLAIM: Once = Once::new();
        RECLAIM.call_once(reclaim);
        Self::named(&format!("{PREFIX}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// A scope of a fixed name, which outlives its process if it is kept.
    pub fn named(name: &str) -> Result<Self> {
        remove(name);
        let scope = Self { name: name.to_owned(), owned: true };
        let bpf = scope.bpf();
        fs::create_dir_all(&bpf).with_context(|| format!("cannot create {}", bpf.display()))?;
        mount("bpf", &bpf, "bpf", MountFlags::empty(), None)
            .with_context(|| format!("cannot mount a BPF file system at {}", bpf.display()))?;
        Ok(scope)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Keeps everything when the value is dropped.
    pub fn keep(&mut self) {
        self.owned = false;
    }

    /// A file of this name in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        directory(&self.name).join(name)
    }

    /// The agent's pin directory, on the scope's own BPF file system.
    pub fn pin_dir(&self) -> PathBuf {
        self.bpf().join("bulkhead")
    }

    /// The paths of all pins.
    pub fn pins(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.pin_dir(), &mut found);
        found
    }

    /// Creates a network namespace of this scope.
    pub fn netns(&self, label: &str) -> Result<Netns> {
        Netns::create(&self.netns_name(label))
    }

    /// The full name of a network namespace of this scope.
    pub fn netns_name(&self, label: &str) -> String {
        format!("{}-{label}", self.name)
    }

    fn bpf(&self) -> PathBuf {
        self.file("bpf")
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if self.owned {
            remove(&self.name);
        }
    }
}

/// Removes everything of a scope. Returns the number of removed network namespaces.
pub fn remove(name: &str) -> usize {
    let names: Vec<_> = netns::list().into_iter().filter(|n| n.starts_with(&format!("{name}-"))).collect();
    for netns in &names {
        netns::end_processes(netns);
        netns::remove(netns);
    }
    let directory = directory(name);
    let _ = unmount(directory.join("bpf"), UnmountFlags::DETACH);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            eprintln!("warning: cannot remove {}: {error}", directory.display());
        }
        _ => {}
    }
    names.len()
}

/// Whether anything of a scope exists.
pub fn exists(name: &str) -> bool {
    directory(name).exists() || netns::list().iter().any(|n| n.starts_with(&format!("{name}-")))
}

/// Removes the scopes of owners that have ended.
fn reclaim() {
    let directories = fs::read_dir(BASE).into_iter().flatten().flatten();
    let mut names: Vec<String> = directories.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.extend(netns::list());
    for scope in names.iter().filter_map(|name| scope_of(name)) {
        if owner(scope).is_some_and(|pid| test_kill_process(pid).is_err()) {
            remove(scope);
        }
    }
}

/// `bh-12-3` of `bh-12-3-node`; `None` for names without an owner.
fn scope_of(name: &str) -> Option<&str> {
    owner(name)?;
    let number = name.match_indices('-').nth(1)?.0 + 1;
    let digits = name.get(number..)?.bytes().take_while(u8::is_ascii_digit).count();
    name.get(..number + digits)
}

fn owner(name: &str) -> Option<Pid> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok().and_then(Pid::from_raw)
}

fn directory(name: &str) -> PathBuf {
    Path::new(BASE).join(name)
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_contains_its_owner_and_its_scope() {
        assert_eq!(owner("bh-12-3-node"), Pid::from_raw(12));
        assert_eq!(scope_of("bh-12-3-node"), Some("bh-12-3"));
        assert_eq!(scope_of("bh-12-34"), Some("bh-12-34"));
        for foreign in ["bh-demo-node", "cni-12-3", "bh-", "bh-12", ""] {
            assert_eq!(scope_of(foreign), None, "{foreign}");
        }
    }
}
