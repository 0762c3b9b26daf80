//! Locked files that prevent two runs from changing the same cluster or cache. The claim ends when the file is dropped.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result};

use crate::Cluster;

/// Claims a cluster. Without the claim, a second run with the same id would remove the cluster as leftovers.
pub(crate) fn cluster(cluster: &Cluster) -> Result<File> {
    let path = Path::new("/run/lock").join(cluster.id.cgroup());
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.try_lock()
        .with_context(|| format!("another run is bringing cluster {} up or down; wait for its end", cluster.id))?;
    Ok(file)
}

/// Claims the cache, and waits for another run. Without the claim, two runs would overwrite each other's parts.
pub(crate) fn cache(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let file = File::create(cache.join("lock"))?;
    file.lock()?;
    Ok(file)
}
