//! Removes a cluster, complete or not, by its id. `up` uses it to remove a crashed run.

use std::{fmt, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{Cluster, cgroup, command::wait, exclusive, network};

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Ended processes, including those of containers.
    pub processes: usize,
    /// Network namespaces.
    pub namespaces: usize,
    /// Cgroups, counted in every hierarchy.
    pub cgroups: usize,
    /// The cluster's directory.
    pub directory: bool,
}

/// See [`Cluster::down`].
pub(crate) fn down(cluster: &Cluster) -> Result<Removed> {
    ensure!(rustix::process::geteuid().is_root(), "namespaces and cgroups need root");
    let _alone = exclusive::cluster(cluster)?;
    let removed = reclaim(cluster)?;
    let _ = fs::remove_file(Path::new("/run/lock").join(cluster.id.cgroup()));
    Ok(removed)
}

/// Ends processes first, because a process keeps its mounts and namespaces.
pub(crate) fn reclaim(cluster: &Cluster) -> Result<Removed> {
    let cgroup = cluster.id.cgroup();
    let cgroup = Path::new(&cgroup);
    let processes = cgroup::kill(cgroup)?;
    let namespaces = network::remove(&cluster.id)?.len();
    let cgroups = wait("empty cgroups", Duration::from_secs(10), || cgroup::remove(cgroup))?;
    let directory = cluster.state().exists();
    if directory {
        wait("an unused directory", Duration::from_secs(10), || remove(cluster.state()))?;
    }
    Ok(Removed { processes, namespaces, cgroups, directory })
}

fn remove(directory: &Path) -> Result<()> {
    fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))
}

impl Removed {
    /// Whether there was something to remove.
    pub fn anything(&self) -> bool {
        *self != Self::default()
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processes, namespaces, cgroups, directory } = self;
        let directory = if *directory { "and its directory" } else { "no directory" };
        write!(f, "{processes} processes, {namespaces} network namespaces, {cgroups} cgroups, {directory}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Id;

    #[test]
    fn nothing_is_removed_if_nothing_exists() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = Cluster::new(Id::new("nosuchcluster").unwrap(), directory.path());
        assert!(!reclaim(&cluster).unwrap().anything());
    }
}
