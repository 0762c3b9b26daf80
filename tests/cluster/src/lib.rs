//! A real Kubernetes on one machine: two nodes, a control plane, DNS, and a database host outside.
//!
//! `cargo xtask cluster` and the cluster tier of the tests use it, so it is a crate of its own. xtask must not wait for
//! the agent to compile, and tests must not call a program to get a `Node`.
//!
//! Reading order: [`plan`] (addresses), [`Id`] (names), [`parts`] and [`images`] (programs), `network`, `cgroup` and
//! [`daemon`] (Linux), `control` and [`node`] (processes), `up` and `down` (the sequence).
//!
//! Invariants:
//! - Everything that a cluster changes on the machine is in namespaces, cgroups and a directory that carry its id.
//! - A process is ended only if it is in the cluster's cgroups, or if a record has its pid and start time.
//! - The machine's own interfaces, root cgroup and directories are read, never changed.
#![forbid(unsafe_code)]

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

mod cgroup;
mod command;
mod control;
pub mod daemon;
mod dns;
mod down;
mod exclusive;
mod id;
pub mod image;
pub mod images;
mod keys;
mod kubectl;
mod network;
pub mod node;
pub mod parts;
pub mod plan;
mod setup;
mod source;
mod up;

pub use command::wait;
pub use down::Removed;
pub use id::Id;
pub use kubectl::Kubectl;
pub use node::Node;
pub use parts::Parts;
pub use setup::packages;
pub use source::Source;

use daemon::Daemons;
use keys::Keys;
use plan::{Host, NODES};

/// How pods are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cni {
    /// A routed veth per pod.
    #[default]
    Ptp,
    /// All pods of a node on one bridge.
    Bridge,
}

/// The kind of cluster to bring up.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How pods are connected.
    pub cni: Cni,
    /// Whether there are nodes. Without nodes there is only an API server, in half the time.
    pub nodes: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { cni: Cni::default(), nodes: true }
    }
}

/// A cluster by its name, whether it is up or not. Dropping the value leaves the cluster as it is.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) id: Id,
    state: PathBuf,
}

impl Cluster {
    /// The cluster of that id whose directory is in `directory`.
    pub fn new(id: Id, directory: &Path) -> Self {
        let state = directory.join(id.to_string());
        Self { id, state }
    }

    /// The cluster of this checkout for a purpose (letters such as `dev`, `test`), its directory under `target`.
    pub fn of_checkout(purpose: &str) -> Result<Self> {
        Ok(Self::named(Id::of_checkout(purpose, &checkout())?))
    }

    /// The cluster of that id, its directory under `target`.
    pub fn named(id: Id) -> Self {
        Self::new(id, &target().join("cluster"))
    }

    /// Every cluster of which this machine has a namespace.
    pub fn on_this_machine() -> Vec<Id> {
        network::clusters()
    }

    /// Its name.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// Removes what a crashed run of the same id left, then brings the cluster up and waits for nodes and DNS.
    pub fn up(&self, parts: &Parts, options: Options) -> Result<()> {
        up::up(self, parts, options)
    }

    /// Ends the cluster and removes everything of it. Returns what was removed.
    pub fn down(&self) -> Result<Removed> {
        down::down(self)
    }

    /// kubectl as its administrator.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::of(self)
    }

    /// The administrator's kubeconfig. Its server answers only within [`Cluster::netns`] of a host.
    pub fn kubeconfig(&self) -> PathBuf {
        self.keys().kubeconfig("admin")
    }

    /// Its two nodes.
    pub fn nodes(&self) -> [Node<'_>; 2] {
        NODES.map(|host| Node { cluster: self, host })
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Result<Node<'_>> {
        let host = Host::node(name).with_context(|| format!("there is no node {name}; there are a and b"))?;
        Ok(Node { cluster: self, host })
    }

    /// The network namespace of a host: `cp`, `a`, `b`, `db` or `lan`.
    pub fn netns(&self, host: &str) -> PathBuf {
        network::path(&self.id, host)
    }

    /// A command with a host's network and the machine's files. For all of a node, see [`Node::command`].
    pub fn command(&self, host: &str, program: &str) -> Command {
        let mut command = network::enter(&self.id, host);
        command.arg(program).env("PATH", self.path());
        command
    }

    /// Starts something on a host that runs until [`Cluster::stop`] or [`Cluster::down`]; see [`Cluster::log`].
    pub fn start(&self, host: &str, name: &str, command: &[&str]) -> Result<()> {
        let (program, arguments) = command.split_first().context("nothing to start")?;
        let mut command = self.command(host, program);
        self.daemons().start(name, &self.procs_files(host)?, command.args(arguments)).map(drop)
    }

    /// Stops a daemon by its name.
    pub fn stop(&self, name: &str) -> Result<()> {
        self.daemons().stop(name)
    }

    /// Stops the API server. Everything else continues.
    pub fn stop_api_server(&self) -> Result<()> {
        self.stop("kube-apiserver")
    }

    /// Starts the API server and waits until it is ready.
    pub fn start_api_server(&self) -> Result<()> {
        control::start(self, "kube-apiserver")?;
        control::ready(self)
    }

    /// Stops the API server with SIGSTOP: connections stay open, and nothing answers.
    pub fn freeze_api_server(&self) -> Result<()> {
        self.daemons().freeze("kube-apiserver")
    }

    /// Continues the API server and waits until it is ready.
    pub fn thaw_api_server(&self) -> Result<()> {
        self.daemons().thaw("kube-apiserver")?;
        control::ready(self)
    }

    /// Loads an OCI archive into the containerd of every node.
    pub fn import(&self, archive: &Path) -> Result<()> {
        std::thread::scope(|scope| {
            let imports = self.nodes().map(|node| scope.spawn(move || node.import(archive)));
            imports.into_iter().try_for_each(|import| import.join().expect("an import does not panic"))
        })
    }

    /// The API server's audit log: an event per line, level Metadata, from the beginning of the cluster.
    pub fn audit_log(&self) -> PathBuf {
        self.directory("log").join("audit.jsonl")
    }

    /// The file with a daemon's output: `etcd`, `kube-apiserver`, `kubelet-a`, …
    pub fn log(&self, name: &str) -> PathBuf {
        self.daemons().log(name)
    }

    /// All daemons that were started, and whether each still runs.
    pub fn status(&self) -> Vec<(String, bool)> {
        self.daemons().list()
    }

    /// The directory with everything of this cluster on the disk.
    pub fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.directory("bin").join(name)
    }

    pub(crate) fn path(&self) -> OsString {
        let mut path = self.directory("bin").into_os_string();
        path.push(":");
        path.push(setup::PATH);
        path
    }

    /// The `cgroup.procs` files for the daemons of a host. Their cgroup is below the host's own: in version 2, a cgroup
    /// with processes of its own cannot delegate controllers, and a node's must.
    pub(crate) fn procs_files(&self, host: &str) -> Result<Vec<PathBuf>> {
        cgroup::create(&Path::new(&self.id.cgroup()).join(host).join("daemons"))
    }

    pub(crate) fn keys(&self) -> Keys {
        Keys(self.directory("keys"))
    }

    pub(crate) fn daemons(&self) -> Daemons {
        Daemons { records: self.directory("pids"), logs: self.directory("log") }
    }
}

impl std::str::FromStr for Cni {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        ensure!(matches!(name, "ptp" | "bridge"), "there is no CNI {name:?} here; there are ptp and bridge");
        Ok(if name == "ptp" { Self::Ptp } else { Self::Bridge })
    }
}

impl fmt::Display for Cni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ptp => "ptp",
            Self::Bridge => "bridge",
        })
    }
}

/// The directory with the Kubernetes parts: `BULKHEAD_KUBE_DIR`, or `kube` under `target`.
pub fn cache() -> PathBuf {
    env::var_os("BULKHEAD_KUBE_DIR").map_or_else(|| target().join("kube"), PathBuf::from)
}

fn target() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from);
    std::path::absolute(&target).unwrap_or(target)
}

fn checkout() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate is two directories below the checkout").into()
}
