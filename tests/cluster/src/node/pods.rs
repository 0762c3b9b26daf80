//! Finds the processes of a node's pods by their cgroups.
//!
//! The cgroup path contains the pod's UID, whatever container runtime and network plugin are in use.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Node;
use crate::cgroup;

impl Node<'_> {
    /// The path of a pod's network namespace. It is valid while the pod's first container runs.
    pub fn pod_netns(&self, uid: &str) -> Result<PathBuf> {
        let pid = self.pod_process(uid).with_context(|| format!("no process of pod {uid} on node {}", self.name()))?;
        Ok(Path::new("/proc").join(pid.to_string()).join("ns/net"))
    }

    /// The pid of some process of a pod on the machine.
    fn pod_process(&self, uid: &str) -> Result<i32> {
        let directory = format!("pod{uid}");
        let inside = |path: &Path| path.iter().any(|level| level.to_str() == Some(&directory));
        let processes = cgroup::processes(&self.cgroup(), inside)?;
        processes.first().map(|pid| pid.as_raw_nonzero().get()).context("its cgroup is empty or missing")
    }
}
