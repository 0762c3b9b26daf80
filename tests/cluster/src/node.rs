//! A node: its own namespaces for everything that a real node has of its own, then containerd, kubelet and kube-proxy.
//!
//! The first process makes the mounts and stays as process 1 of the node. Every command on the node sees these mounts.
//! Pid and cgroup namespaces hide the machine's other processes and cgroups.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Cluster, Cni, cgroup,
    command::{command, run, wait},
    network,
    plan::{Host, POD_RANGES},
};

pub(crate) mod config;
pub(crate) mod mounts;
mod pods;

/// The daemons of a node, in the order in which they start.
pub const DAEMONS: [&str; 3] = ["containerd", "kubelet", "kube-proxy"];

/// One node of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) host: Host,
}

impl Node<'_> {
    /// Its name, in Kubernetes too.
    pub fn name(&self) -> &'static str {
        self.host.name
    }

    /// Its network namespace.
    pub fn netns(&self) -> PathBuf {
        network::path(&self.cluster.id, self.host.name)
    }

    /// Its cgroup on the machine, relative to a hierarchy's root. On the node itself this is `/`.
    pub fn cgroup(&self) -> PathBuf {
        Path::new(&self.cluster.id.cgroup()).join(self.host.name)
    }

    /// A command that runs as if typed on the node: its network, mounts, host name, cgroups and processes.
    pub fn command(&self, program: &str) -> Result<Command> {
        let init = self.daemon("node");
        let init = self.cluster.daemons().find(&init).with_context(|| format!("node {} is not up", self.name()))?;
        let mut enter = command("nsenter", ["--net", "--mount", "--uts", "--cgroup"]);
        enter.arg(format!("--target={}", init.pid));
        // The recorded process is the parent of the node's process 1, so its own `ns/pid` is the machine's namespace.
        enter.arg(format!("--pid=/proc/{}/ns/pid_for_children", init.pid));
        enter.arg(program).env("PATH", self.cluster.path());
        Ok(enter)
    }

    /// The path on the machine of a file of the node.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        let init = self.daemon("node");
        let init = self.cluster.daemons().find(&init).with_context(|| format!("node {} is not up", self.name()))?;
        Ok(Path::new("/proc").join(init.pid.to_string()).join("root").join(path.trim_start_matches('/')))
    }

    /// Loads an OCI archive into the node's containerd, under the names it carries.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let mut import = self.command("ctr")?;
        // `--local` takes half the time of the transfer service.
        run(import.args(["--namespace=k8s.io", "images", "import", "--local"]).arg(archive))
            .with_context(|| format!("cannot load {} on node {}", archive.display(), self.name()))?;
        Ok(())
    }

    /// Starts one of [`DAEMONS`]. Waits until containerd answers, because a kubelet without it gives up.
    pub fn start(&self, daemon: &str) -> Result<()> {
        let mut command = self.command(daemon)?;
        command.args(self.arguments(daemon));
        let procs_files = self.cluster.procs_files(self.host.name)?;
        self.cluster.daemons().start(&self.daemon(daemon), &procs_files, &command)?;
        if daemon == "containerd" { self.answers() } else { Ok(()) }
    }

    /// Stops one of [`DAEMONS`]. Containers continue without it.
    pub fn stop(&self, daemon: &str) -> Result<()> {
        self.cluster.daemons().stop(&self.daemon(daemon))
    }

    /// The directory with its configuration, and with the files that must be on a disk.
    pub(crate) fn directory(&self) -> PathBuf {
        self.cluster.directory("nodes").join(self.host.name)
    }

    /// Makes the namespaces and mounts and starts containerd.
    pub(crate) fn boot(&self, cni: Cni) -> Result<()> {
        config::write(self, cni)?;
        self.first_process()?;
        self.start("containerd")
    }

    fn answers(&self) -> Result<()> {
        let answers = || run(self.command("ctr")?.arg("version"));
        let answer = wait("containerd", Duration::from_secs(20), answers);
        answer.with_context(|| self.cluster.daemons().last_words(&self.daemon("containerd")))?;
        Ok(())
    }

    /// Starts process 1 in the cgroup that becomes the root of the node's cgroup namespace, then moves it below.
    fn first_process(&self) -> Result<()> {
        let (name, ready) = (self.daemon("node"), self.directory().join("ready"));
        let root = cgroup::create(&self.cgroup())?;
        cgroup::delegate(Path::new(&self.cluster.id.cgroup()))?;
        let mut unshare = network::enter(&self.cluster.id, self.host.name);
        unshare.args(["unshare", "--mount", "--uts", "--cgroup", "--pid", "--fork", "--mount-proc"]);
        unshare.args(["sh", "-ec", &mounts::script(self, &cgroup::hierarchies()?)]);
        let process = self.cluster.daemons().start(&name, &root, &unshare)?;
        let is_ready = || {
            ensure!(process.lives() && ready.exists(), "node {} has no first process", self.name());
            Ok(())
        };
        wait("the node's mounts", Duration::from_secs(10), is_ready)
            .with_context(|| self.cluster.daemons().last_words(&name))?;
        cgroup::transfer(&self.cgroup(), &self.cluster.procs_files(self.host.name)?)
    }

    /// The name of a daemon's record and log.
    fn daemon(&self, daemon: &str) -> String {
        format!("{daemon}-{}", self.host.name)
    }

    fn arguments(&self, daemon: &str) -> Vec<String> {
        let file = |name: &str| self.directory().join(name).display().to_string();
        let kubeconfig = |who: &str| format!("--kubeconfig={}", self.cluster.keys().kubeconfig(who).display());
        let name = format!("--hostname-override={}", self.host.name);
        match daemon {
            "containerd" => vec!["--config".into(), file("containerd.toml")],
            "kubelet" => vec![
                format!("--config={}", file("kubelet.json")),
                kubeconfig(self.host.name),
                name,
                format!("--node-ip={},{}", self.host.v4(), self.host.v6()),
            ],
            // kube-proxy must not resize the machine's connection table.
            _ => vec![
                kubeconfig("proxy"),
                name,
                "--proxy-mode=nftables".into(),
                format!("--cluster-cidr={POD_RANGES}"),
                "--conntrack-max-per-core=0".into(),
                "--conntrack-tcp-timeout-established=0".into(),
                "--conntrack-tcp-timeout-close-wait=0".into(),
            ],
        }
    }
}

/// Creates the directories of a node.
fn directories(directory: &Path) -> Result<()> {
    for name in ["kubelet", "containerd", "cni", "log"] {
        fs::create_dir_all(directory.join(name))?;
    }
    Ok(())
}
