//! The cluster's cgroups: one directory in every hierarchy, with all processes of the cluster below it.
//!
//! Ownership of a process is therefore never decided by a pid that another process may have by now. The root and
//! foreign cgroups are only read.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Its mount point on the machine.
    pub path: PathBuf,
    /// `cgroup` (version 1) or `cgroup2`.
    pub kind: String,
    /// The options for mounting it again: its controllers, or its name.
    pub options: String,
}

/// The hierarchies of this machine, in the order they are mounted.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    let found: Vec<_> = mounts.lines().filter_map(hierarchy).collect();
    let unified = found.iter().any(|hierarchy| hierarchy.kind == "cgroup2");
    ensure!(unified, "no cgroup2 hierarchy is mounted on this machine");
    Ok(found)
}

/// Reads a line of mountinfo: `31 23 0:28 / /sys/fs/cgroup/cpu rw shared:1 - cgroup cgroup rw,cpu`.
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let path = PathBuf::from(mount.split(' ').nth(4)?);
    let [kind, _source, options] = filesystem.split(' ').collect::<Vec<_>>()[..] else { return None };
    let ours = matches!(kind, "cgroup" | "cgroup2") && path.starts_with("/sys/fs/cgroup");
    ours.then(|| Hierarchy { path, kind: kind.into(), options: again(kind, options) })
}

/// The options for mounting a hierarchy again. A named one without controllers needs `none`. Version 2 takes no
/// options.
fn again(kind: &str, options: &str) -> String {
    let dull = |option: &&str| !matches!(*option, "rw" | "ro" | "xattr") && !option.starts_with("release_agent=");
    let kept: Vec<_> = options.split(',').filter(dull).collect();
    match kept[..] {
        _ if kind == "cgroup2" => String::new(),
        [name] if name.starts_with("name=") => format!("none,{name}"),
        _ => kept.join(","),
    }
}

/// Creates a cgroup in every hierarchy. Returns its `cgroup.procs` files: a process joins by writing its pid to each.
pub(crate) fn create(cgroup: &Path) -> Result<Vec<PathBuf>> {
    let mut procs_files = Vec::new();
    for Hierarchy { path: root, .. } in hierarchies()? {
        let mut directory = root;
        for level in cgroup {
            directory.push(level);
            make(&directory).with_context(|| format!("cannot make cgroup {}", directory.display()))?;
        }
        procs_files.push(directory.join("cgroup.procs"));
    }
    Ok(procs_files)
}

/// Creates a cgroup. A new cpuset of version 1 is empty and accepts no process, so it copies its parent's values.
fn make(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let parent = directory.parent().unwrap_or(directory);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = fs::read_to_string(directory.join(file)).unwrap_or_default();
        // In version 2 an empty cpuset means "as the parent", and there is nothing to do.
        if own.trim().is_empty() && directory.join("cgroup.clone_children").exists() && directory.join(file).exists() {
            fs::write(directory.join(file), fs::read(parent.join(file))?)?;
        }
    }
    Ok(())
}

/// Enables all controllers of version 2 for the cgroups below.
pub(crate) fn delegate(cgroup: &Path) -> Result<()> {
    for directory in directories(cgroup)? {
        let offered = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
        for controller in offered.split_whitespace() {
            let file = directory.join("cgroup.subtree_control");
            fs::write(&file, format!("+{controller}")).with_context(|| format!("cannot delegate {controller}"))?;
        }
    }
    Ok(())
}

/// Moves every process of a cgroup to the cgroup of these `cgroup.procs` files.
pub(crate) fn transfer(from: &Path, procs_files: &[PathBuf]) -> Result<()> {
    for pid in members(from)? {
        for file in procs_files {
            fs::write(file, pid.as_raw_nonzero().to_string())
                .with_context(|| format!("cannot move process {pid:?} into {}", file.display()))?;
        }
    }
    Ok(())
}

/// Kills every process in a cgroup and below. Returns the number of processes.
pub(crate) fn kill(cgroup: &Path) -> Result<usize> {
    let start = Instant::now();
    let mut ended = std::collections::HashSet::new();
    loop {
        let living = tree(cgroup)?.iter().map(|directory| pids(directory)).collect::<Vec<_>>().concat();
        if living.is_empty() {
            return Ok(ended.len());
        }
        ensure!(start.elapsed() < Duration::from_secs(20), "processes {living:?} do not end");
        for pid in living {
            // The process may have ended since it was listed.
            let _ = kill_process(pid, Signal::KILL);
            ended.insert(pid);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Removes a cgroup and everything below it. Returns the number of directories.
pub(crate) fn remove(cgroup: &Path) -> Result<usize> {
    let directories = tree(cgroup)?;
    for directory in &directories {
        fs::remove_dir(directory).with_context(|| format!("cannot remove cgroup {}", directory.display()))?;
    }
    Ok(directories.len())
}

/// The processes of a cgroup itself, in any hierarchy.
pub(crate) fn members(cgroup: &Path) -> Result<Vec<Pid>> {
    let mut all: Vec<_> = directories(cgroup)?.iter().flat_map(|directory| pids(directory)).collect();
    all.sort_by_key(|pid| pid.as_raw_nonzero());
    all.dedup();
    Ok(all)
}

/// The processes of those cgroups below one whose path is `wished`, in any hierarchy.
pub(crate) fn processes(cgroup: &Path, wished: impl Fn(&Path) -> bool) -> Result<Vec<Pid>> {
    Ok(tree(cgroup)?.iter().filter(|directory| wished(directory)).flat_map(|directory| pids(directory)).collect())
}

/// The directories of a cgroup that exist, one per hierarchy at most.
fn directories(cgroup: &Path) -> Result<Vec<PathBuf>> {
    let all = hierarchies()?.into_iter().map(|hierarchy| hierarchy.path.join(cgroup));
    Ok(all.filter(|directory| directory.is_dir()).collect())
}

/// The directories of a cgroup and of all below it, the deepest first.
fn tree(cgroup: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    directories(cgroup)?.into_iter().for_each(|directory| walk(directory, &mut found));
    Ok(found)
}

fn walk(directory: PathBuf, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.for_each(|entry| walk(entry.path(), found));
    found.push(directory);
}

fn pids(directory: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Option<(String, String)> {
        hierarchy(line).map(|found| (found.path.display().to_string(), found.options))
    }

    #[test]
    fn a_hierarchy_is_mounted_again_with_its_controllers_or_its_name() {
        let cpu = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct";
        assert_eq!(options(cpu), Some(("/sys/fs/cgroup/cpu,cpuacct".into(), "cpu,cpuacct".into())));
        let systemd = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd";
        assert_eq!(options(systemd), Some(("/sys/fs/cgroup/systemd".into(), "none,name=systemd".into())));
    }

    #[test]
    fn version_two_needs_no_options() {
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(options(unified), Some(("/sys/fs/cgroup/unified".into(), String::new())));
    }

    #[test]
    fn other_mounts_are_ignored() {
        assert_eq!(options("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755"), None);
        assert_eq!(options("50 23 0:38 / /mnt/elsewhere rw - cgroup2 cgroup2 rw"), None);
        assert_eq!(options("nonsense"), None);
    }
}
