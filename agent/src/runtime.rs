//! Observes what the container runtime has created for the pods of this node: their sandboxes and control groups.
//!
//! ```text
//! CNI cache ──▶ cni ──▶ sandboxes ──▶ cgroups ──▶ control groups of pods
//! ```
//!
//! Decides nothing. Other modules know whether a pod exists, and which interface leads to a network namespace.

pub(crate) mod cgroups;
pub(crate) mod cni;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::dir_watcher::DirWatcher;
use cgroups::PodCgroupIds;
use cni::{CniCache, Sandbox};

/// How often the CNI cache is read if no change is reported. A missed report delays the next read by no more.
const POLL: Duration = Duration::from_secs(2);

/// Sandboxes and control groups of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SandboxSet {
    /// The sandboxes.
    pub sandboxes: Arc<Vec<Sandbox>>,
    /// The control groups.
    pub groups: Arc<PodCgroupIds>,
}

/// The directories that describe sandboxes.
#[derive(Clone, Debug)]
pub(crate) struct SandboxPaths {
    /// The directory in which the CNI library keeps its results.
    pub cache: PathBuf,
    /// The directory that names network namespaces. A result without a namespace there is left over from a dead pod.
    pub namespaces: PathBuf,
    /// The cgroup v2 hierarchy, if there is one.
    pub groups: Option<PathBuf>,
}

/// Publishes all sandboxes whenever they change, until the receivers are gone. The value is `None` until the first
/// read.
pub(crate) async fn follow(paths: SandboxPaths, to: watch::Sender<Option<SandboxSet>>) {
    let mut watcher = DirWatcher::new("the CNI cache");
    let mut cache = CniCache::default();
    loop {
        watcher.watch(&paths.cache);
        let paths = paths.clone();
        let read = tokio::task::spawn_blocking(move || {
            let sandboxes = cache.read(&paths);
            let groups = cgroups::of_pods(sandboxes.iter().filter_map(|sandbox| sandbox.group.as_ref()));
            (cache, SandboxSet { sandboxes: Arc::new(sandboxes), groups: Arc::new(groups) })
        });
        let Ok((kept, set)) = read.await else { return };
        cache = kept;
        to.send_if_modified(|published| {
            let differs = published.as_ref() != Some(&set);
            if differs {
                *published = Some(set);
            }
            differs
        });
        tokio::select! {
            () = watcher.changed() => {}
            () = tokio::time::sleep(POLL) => {}
            () = to.closed() => return,
        }
    }
}
