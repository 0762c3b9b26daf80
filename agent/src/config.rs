//! Flags and environment variables of the agent: as typed ([`RunArgs`]), then as configuration ([`Config`]).
//!
//! No other module reads flags or the environment. Flags that contradict each other stop the start with a message;
//! nothing is corrected silently.

pub(crate) mod cluster;
pub(crate) mod controller;

use std::net::SocketAddr;
use std::path::PathBuf;

use agent_common::ABI_VERSION;
use clap::{Args, ValueEnum};

use crate::dataplane::object;
use crate::{http, socket};
use cluster::{ClusterArgs, LogArgs, PodCidrError};
use policy::model::limits::Limits;
use policy::model::settings::{CgroupGuardMode, Settings, Unassigned, Uplinks};

/// Default of `--pin-dir`.
pub(crate) const PIN_DIR: &str = "/sys/fs/bpf/bulkhead";

/// Where programs and maps are pinned.
#[derive(Args, Clone, Debug)]
pub struct PinArgs {
    /// Directory on a BPF file system where programs and maps are pinned. Agents of other versions use other
    /// subdirectories
    #[arg(long, env = "BULKHEAD_PIN_DIR", default_value = PIN_DIR, value_name = "DIR")]
    pub pin_dir: PathBuf,
}

impl PinArgs {
    /// The subdirectory of this version's map layouts.
    pub fn pins(&self) -> PathBuf {
        self.pin_dir.join(ABI_VERSION)
    }
}

/// Flags of `bulkhead run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Read objects from this YAML file or directory instead of a cluster: NetworkTenant, Namespace and Endpoint. By
    /// default the agent watches the cluster that it runs in, or that of KUBECONFIG
    #[arg(long, env = "BULKHEAD_CONFIG", value_name = "PATH")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    #[allow(clippy::missing_docs_in_private_items, reason = "documented at its type")]
    pub pin: PinArgs,
    /// Name of this node in the cluster. It is required without --config; with --config the default is the host name
    #[arg(long, env = "BULKHEAD_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Name of the cluster in events, such as prod-eu. By default events name no cluster
    #[arg(long, env = "BULKHEAD_CLUSTER_NAME", value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// Address and port of /metrics, /healthz and /readyz
    #[arg(long, env = "BULKHEAD_LISTEN", default_value = http::LISTEN, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Path of the local socket that `bulkhead observe` and `bulkhead status` connect to
    #[arg(long, env = "BULKHEAD_SOCKET", default_value = socket::PATH, value_name = "PATH")]
    pub socket: PathBuf,
    /// Directory of the named network namespaces of pods
    #[arg(long, env = "BULKHEAD_NETNS_DIR", default_value = "/run/netns", value_name = "DIR")]
    pub netns_dir: PathBuf,
    /// Directory where the container runtime caches CNI results. The agent reads pod addresses from them
    #[arg(long, env = "BULKHEAD_CNI_CACHE_DIR", default_value = "/var/lib/cni/results", value_name = "DIR")]
    pub cni_cache_dir: PathBuf,
    /// NRI socket of the container runtime, such as /var/run/nri/nri.sock. The agent holds each new pod there until its
    /// traffic is enforced. By default no pod is held
    #[arg(long, env = "BULKHEAD_NRI_SOCKET", value_name = "PATH")]
    pub nri_socket: Option<PathBuf>,
    /// Named network namespaces that belong to no pod. The agent does not attach to their interfaces. Give several
    /// separated by commas
    #[arg(long, env = "BULKHEAD_FOREIGN_NETNS", value_delimiter = ',', value_name = "NAME")]
    pub foreign_netns: Vec<String>,
    /// Interfaces with the uplink guard, which drops packets that neither the node nor a claimed pod sends: `auto` (every
    /// interface of the node), names such as eth0,eth1, or `none`. The default is `auto`; with --config it is `none`
    #[arg(long, env = "BULKHEAD_UPLINK", value_delimiter = ',', value_name = "NAME|auto|none")]
    pub uplink: Vec<String>,
    /// Whether the cgroup guard keeps a pod's sockets from sending until the pod is enforced: `auto` (if the runtime
    /// reports the pods' cgroups), or `none`. With --config the guard is never used
    #[arg(long, env = "BULKHEAD_CGROUP_GUARD", value_enum, default_value_t, value_name = "MODE")]
    pub cgroup_guard: CgroupGuardArg,
    /// Whether the input guard drops what pods send to the node itself, however the node came to take it: `auto` (where
    /// the other guards are on), or `none`. It is a table of nftables
    #[arg(long, env = "BULKHEAD_INPUT_GUARD", value_enum, default_value_t, value_name = "MODE")]
    pub input_guard: InputGuardArg,
    /// Directory where the cgroup file systems are mounted
    #[arg(long, env = "BULKHEAD_CGROUP_ROOT", default_value = "/sys/fs/cgroup", value_name = "DIR")]
    pub cgroup_root: PathBuf,
    /// Report denied packets and let them pass, even for tenants in mode Enforce
    #[arg(long, env = "BULKHEAD_AUDIT")]
    pub audit: bool,
    /// How to treat pods in a namespace that belongs to no tenant
    #[arg(long, env = "BULKHEAD_UNASSIGNED", value_enum, default_value_t, value_name = "MODE")]
    pub unassigned: UnassignedArg,
    /// Let pods open connections to node addresses. By default they may not
    #[arg(long, env = "BULKHEAD_ALLOW_NODES")]
    pub allow_nodes: bool,
    #[command(flatten)]
    #[allow(clippy::missing_docs_in_private_items, reason = "documented at its type")]
    pub cluster: ClusterArgs,
    /// How many exact addresses the kernel maps hold, for IPv4 and IPv6 each
    #[arg(long, env = "BULKHEAD_MAX_PEERS", default_value_t = object::MapLimits::default().peers, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    pub max_peers: u32,
    /// How many connections of one pod the reply table holds: a power of two from 64 to 16384. Each takes 12 KB for 256
    /// pods. A change needs `bulkhead cleanup` first
    #[arg(long, env = "BULKHEAD_CONNECTIONS_PER_POD", value_name = "N", value_parser = connections,
          default_value_t = object::MapLimits::default().connections_per_pod)]
    pub connections_per_pod: u32,
    /// How many tenants have their own metric samples. The others are counted together as tenant `other`
    #[arg(long, env = "BULKHEAD_METRICS_MAX_TENANTS", default_value_t = 200, value_name = "N")]
    pub metrics_max_tenants: usize,
    #[command(flatten)]
    #[allow(clippy::missing_docs_in_private_items, reason = "documented at its type")]
    pub log: LogArgs,
}

/// `--unassigned`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum UnassignedArg {
    /// Each such namespace is its own tenant
    #[default]
    Isolate,
    /// As `isolate`, but denied packets are only reported
    Audit,
    /// Their packets are not checked
    Allow,
}

impl From<UnassignedArg> for Unassigned {
    fn from(arg: UnassignedArg) -> Self {
        match arg {
            UnassignedArg::Isolate => Self::Isolate,
            UnassignedArg::Audit => Self::Audit,
            UnassignedArg::Allow => Self::Allow,
        }
    }
}

/// `--cgroup-guard`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CgroupGuardArg {
    /// If the runtime reports the cgroups of pods
    #[default]
    Auto,
    /// No cgroup guard
    None,
}

/// `--input-guard`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum InputGuardArg {
    /// Where the uplink guard is on
    #[default]
    Auto,
    /// No input guard
    None,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// File or directory.
    Files(PathBuf),
    /// The API server of the cluster and the container runtime of this node.
    Kubernetes {
        /// Directory of cached CNI results.
        cni_cache: PathBuf,
        /// Directory where the cgroup file systems are mounted.
        cgroups: PathBuf,
    },
}

/// Flags that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The node's name is unknown.
    #[error("--node-name is required without --config: the agent watches the pods of that node")]
    NodeName,
    /// `auto` or `none` is mixed with other values.
    #[error("--uplink must be `auto`, `none`, or names of interfaces; `auto` and `none` cannot be combined with names")]
    Uplink,
    /// `none` is mixed with ranges.
    #[error(transparent)]
    PodCidr(#[from] PodCidrError),
    /// Endpoints from files are not started by a container runtime.
    #[error("--nri-socket cannot be used with --config: endpoints from a file are not started by a container runtime")]
    NriWithFiles,
}

/// The configuration of the agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where objects come from.
    pub source: ConfigSource,
    /// Directory of the pins, including the layout version.
    pub pins: PathBuf,
    /// Name of this node.
    pub node: String,
    /// Name of the cluster.
    pub cluster: Option<String>,
    /// Address of metrics and health.
    pub listen: SocketAddr,
    /// Path of the local socket.
    pub socket: PathBuf,
    /// Directory of named network namespaces.
    pub netns_dir: PathBuf,
    /// NRI socket, if new pods are held.
    pub nri: Option<PathBuf>,
    /// Sizes of the maps that flags set.
    pub sizes: object::MapLimits,
    /// Settings of the model.
    pub settings: Settings,
    /// How many tenants have their own metric samples.
    pub metrics_max_tenants: usize,
}

impl RunArgs {
    /// The configuration that the flags describe.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn config(self) -> Result<Config, ConfigError> {
        let is_static = self.config.is_some();
        if is_static && self.nri_socket.is_some() {
            return Err(ConfigError::NriWithFiles);
        }
        let node = self.node()?;
        let sizes = object::MapLimits { peers: self.max_peers, connections_per_pod: self.connections_per_pod };
        let settings = self.settings(is_static, limits(&sizes))?;
        let (cni_cache, cgroups) = (self.cni_cache_dir, self.cgroup_root);
        Ok(Config {
            source: self.config.map_or(ConfigSource::Kubernetes { cni_cache, cgroups }, ConfigSource::Files),
            pins: self.pin.pins(),
            node,
            cluster: self.cluster_name,
            listen: self.listen,
            socket: self.socket,
            netns_dir: self.netns_dir,
            nri: self.nri_socket,
            sizes,
            settings,
            metrics_max_tenants: self.metrics_max_tenants,
        })
    }

    fn node(&self) -> Result<String, ConfigError> {
        match self.node_name.as_ref().filter(|name| !name.is_empty()) {
            Some(name) => Ok(name.clone()),
            None if self.config.is_some() => Ok(host_name()),
            None => Err(ConfigError::NodeName),
        }
    }

    fn settings(&self, is_static: bool, limits: Limits) -> Result<Settings, ConfigError> {
        let uplinks = uplinks(&self.uplink, is_static)?;
        Ok(Settings {
            input_guard: self.input_guard == InputGuardArg::Auto && uplinks != Uplinks::None,
            unassigned: self.unassigned.into(),
            audit: self.audit,
            allow_nodes: self.allow_nodes,
            // Files are complete: an interface that they do not name any more is released.
            // A cluster is not: a pod may be deleted before its processes have ended.
            release_unclaimed: is_static,
            hold_unknown: !is_static,
            foreign_netns: self.foreign_netns.iter().cloned().collect(),
            uplinks,
            cgroup_guard: match self.cgroup_guard {
                CgroupGuardArg::Auto if !is_static => CgroupGuardMode::Auto,
                CgroupGuardArg::Auto | CgroupGuardArg::None => CgroupGuardMode::Off,
            },
            // Files state everything that they mean.
            ..self.cluster.clone().settings(limits, !is_static)?
        })
    }
}

/// Parses `--connections-per-pod`. The hash of a connection chooses by bits, so only powers of two are sizes. The largest
/// one takes 200 MB.
fn connections(text: &str) -> Result<u32, String> {
    let number: u32 = text.parse().map_err(|error| format!("{error}"))?;
    let fits = number.is_power_of_two() && (64..=16_384).contains(&number);
    fits.then_some(number).ok_or_else(|| "state a power of two from 64 to 16384".to_owned())
}

/// The limits of the model are the sizes of the maps: the model refuses what does not fit before the kernel has to.
fn limits(sizes: &object::MapLimits) -> Limits {
    Limits { peers_v4: sizes.peers as usize, peers_v6: sizes.peers as usize, ..Limits::default() }
}

fn uplinks(values: &[String], is_static: bool) -> Result<Uplinks, ConfigError> {
    let values: Vec<&str> = values.iter().map(|value| value.trim()).filter(|value| !value.is_empty()).collect();
    match values.as_slice() {
        [] if is_static => Ok(Uplinks::None),
        [] | ["auto"] => Ok(Uplinks::Auto),
        ["none"] => Ok(Uplinks::None),
        names if names.iter().any(|name| matches!(*name, "auto" | "none")) => Err(ConfigError::Uplink),
        names => Ok(Uplinks::Named(names.iter().map(|name| (*name).to_owned()).collect())),
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(typed: &[&str]) -> Result<Config, ConfigError> {
        #[derive(clap::Parser)]
        struct Typed {
            #[command(flatten)]
            run: RunArgs,
        }
        // Variables of whoever runs the tests must not count.
        let command =
            <Typed as clap::CommandFactory>::command().mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
        let matches = command.get_matches_from(typed);
        <Typed as clap::FromArgMatches>::from_arg_matches(&matches).expect("valid flags").run.config()
    }

    #[test]
    fn without_a_file_the_node_name_is_required() {
        assert_eq!(config(&["run"]).map(|config| config.node), Err(ConfigError::NodeName));
        let cluster = config(&["run", "--node-name", "a"]).expect("a node name");
        assert!(matches!(cluster.source, ConfigSource::Kubernetes { .. }));
        assert!(cluster.settings.hold_unknown && !cluster.settings.release_unclaimed);
        let files = config(&["run", "--config", "x"]).expect("a file needs no name");
        assert!(!files.settings.hold_unknown && files.settings.release_unclaimed);
    }

    #[test]
    fn the_range_of_pods_is_learnt_from_a_cluster_only_and_none_stands_alone() {
        let node = ["run", "--node-name", "a"];
        let cluster = |more: &[&str]| config(&[&node[..], more].concat()).map(|config| config.settings);
        assert!(cluster(&[]).expect("flags").learn_ranges);
        assert!(!config(&["run", "--config", "x"]).expect("flags").settings.learn_ranges);
        assert!(cluster(&["--pod-cidr", "none"]).expect("flags").no_pod_range);
        let set = cluster(&["--pod-cidr", "10.244.0.0/16,fd00::/48"]).expect("flags");
        assert_eq!((set.pod_cidrs.len(), set.no_pod_range), (2, false));
        assert_eq!(cluster(&["--pod-cidr", "none,10.244.0.0/16"]), Err(ConfigError::PodCidr(PodCidrError)));
    }

    #[test]
    fn uplinks_are_guarded_by_default_with_a_cluster_and_on_request_with_a_file() {
        let uplinks = |values: &[&str], is_static| {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            uplinks(&values, is_static)
        };
        assert_eq!((uplinks(&[], false), uplinks(&[], true)), (Ok(Uplinks::Auto), Ok(Uplinks::None)));
        assert_eq!((uplinks(&["none"], false), uplinks(&["auto"], true)), (Ok(Uplinks::None), Ok(Uplinks::Auto)));
        let names = Uplinks::Named(["eth0".to_owned(), "eth1".to_owned()].into());
        assert_eq!(uplinks(&["eth0", " eth1"], false), Ok(names));
        assert_eq!(uplinks(&["eth0", "none"], false), Err(ConfigError::Uplink));
    }

    #[test]
    fn pods_are_held_only_on_request_and_only_with_a_cluster() {
        let socket = ["--nri-socket", "/var/run/nri/nri.sock"];
        let node = config(&["run", "--node-name", "a"]).expect("a node name");
        assert_eq!(node.nri, None);
        let node = config(&[&["run", "--node-name", "a"], &socket[..]].concat()).expect("a node name");
        assert_eq!(node.nri, Some(socket[1].into()));
        let files = config(&[&["run", "--config", "x"], &socket[..]].concat());
        assert_eq!(files.map(|config| config.nri), Err(ConfigError::NriWithFiles));
    }

    #[test]
    fn the_limits_of_the_model_are_the_sizes_of_the_maps() {
        let limits = limits(&object::MapLimits { peers: 5000, connections_per_pod: 64 });
        assert_eq!((limits.peers_v4, limits.tenants, limits.rows), (5000, 16_383, 2_047));
        assert!(limits.tenants < 1 << agent_common::mark::TENANT_BITS, "a packet mark can name every tenant");
    }
}
