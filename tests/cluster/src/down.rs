//! Removes a cluster, complete or not, by its id. `up` uses it to remove a crashed run.

use std::{fmt, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{Cluster, cgroup, command::wait, network, up};

/// What was there and is no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Processes ended, containers' included.
    pub processes: usize,
    /// Network namespaces.
    pub namespaces: usize,
    /// Cgroups, counted in every hierarchy.
    pub cgroups: usize,
    /// The cluster's folder.
    pub folder: bool,
}

/// See [`Cluster::down`].
pub fn down(cluster: &Cluster) -> Result<Removed> {
    ensure!(rustix::process::geteuid().is_root(), "namespaces and cgroups need root");
    let _alone = up::lock(cluster)?;
    let removed = reclaim(cluster)?;
    let _ = fs::remove_file(Path::new("/run/lock").join(cluster.id.cgroup()));
    Ok(removed)
}

/// Processes first: while one lives, its mounts and namespaces do too.
pub(crate) fn reclaim(cluster: &Cluster) -> Result<Removed> {
    let cgroup = cluster.id.cgroup();
    let cgroup = Path::new(&cgroup);
    let processes = cgroup::kill(cgroup)?;
    let namespaces = network::remove(&cluster.id)?.len();
    let cgroups = wait("empty cgroups", Duration::from_secs(10), || cgroup::remove(cgroup))?;
    let folder = cluster.state().exists();
    if folder {
        wait("an unused folder", Duration::from_secs(10), || remove(cluster.state()))?;
    }
    Ok(Removed { processes, namespaces, cgroups, folder })
}

fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

impl Removed {
    /// Whether there was something to remove.
    pub fn anything(&self) -> bool {
        *self != Self::default()
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processes, namespaces, cgroups, folder } = self;
        let folder = if *folder { "and its folder" } else { "no folder" };
        write!(f, "{processes} processes, {namespaces} network namespaces, {cgroups} cgroups, {folder}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Id;

    #[test]
    fn nothing_there_is_nothing_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::new(Id::new("nosuchcluster").unwrap(), folder.path());
        assert!(!reclaim(&cluster).unwrap().anything());
    }
}
