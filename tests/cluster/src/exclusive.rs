//! Files that keep two runs from working on the same thing. The claim ends when the file is dropped.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result};

use crate::Cluster;

/// Claims a cluster. Without it, a second run with the same id would take the cluster for leftovers and remove it.
pub fn cluster(cluster: &Cluster) -> Result<File> {
    let path = Path::new("/run/lock").join(cluster.id.cgroup());
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.try_lock().with_context(|| format!("cluster {} is being brought up or down right now", cluster.id))?;
    Ok(file)
}

/// Claims the cache, and waits for another run. Without it, two runs would build the same parts over each other.
pub fn cache(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let file = File::create(cache.join("lock"))?;
    file.lock()?;
    Ok(file)
}
