//! Flags and environment, in two steps: what was typed (`RunArgs`), then what it means (`Config`).
//!
//! The only reader of either for the agent itself. A flag that cannot be meant stops the start with
//! one sentence; nothing is silently corrected.

pub mod controller;

use std::net::SocketAddr;
use std::path::PathBuf;

use agent_common::ABI_VERSION;
use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::dataplane::object;
use crate::{http, socket};
use policy::model::settings::{Groups, Limits, Settings, TenancyKey, Unassigned, Uplinks};

/// Where pins live unless told otherwise.
pub const PIN_DIR: &str = "/sys/fs/bpf/bulkhead";

/// Where the kernel's state of an agent is pinned.
#[derive(Args, Clone, Debug)]
pub struct PinArgs {
    /// Directory of pinned programs and maps, on a BPF file system
    #[arg(long, env = "BULKHEAD_PIN_DIR", default_value = PIN_DIR, value_name = "DIR")]
    pub pin_dir: PathBuf,
}

impl PinArgs {
    /// The folder of this agent's layouts: agents of other layouts use another.
    pub fn pins(&self) -> PathBuf {
        self.pin_dir.join(ABI_VERSION)
    }
}

/// Flags of `bulkhead run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// File or directory of YAML documents: NetworkTenant, Namespace, Endpoint. Without it, the
    /// cluster is asked: the one this runs in, or that of KUBECONFIG
    #[arg(long, env = "BULKHEAD_CONFIG", value_name = "PATH")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub pin: PinArgs,
    /// Name of this node, as the cluster knows it; with --config, the host's name if not given
    #[arg(long, env = "BULKHEAD_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Name of the cluster in events
    #[arg(long, env = "BULKHEAD_CLUSTER_NAME", value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// Address of /metrics, /healthz and /readyz
    #[arg(long, env = "BULKHEAD_LISTEN", default_value = http::LISTEN, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Local socket that `observe` and `status` ask
    #[arg(long, env = "BULKHEAD_SOCKET", default_value = socket::PATH, value_name = "PATH")]
    pub socket: PathBuf,
    /// Directory of named network namespaces
    #[arg(long, env = "BULKHEAD_NETNS_DIR", default_value = "/run/netns", value_name = "DIR")]
    pub netns_dir: PathBuf,
    /// Directory where the container runtime's CNI library keeps what it did
    #[arg(long, env = "BULKHEAD_CNI_CACHE_DIR", default_value = "/var/lib/cni/results", value_name = "DIR")]
    pub cni_cache_dir: PathBuf,
    /// The container runtime's NRI socket, usually /var/run/nri/nri.sock: new pods are held there until
    /// they are enforced. Off unless given
    #[arg(long, env = "BULKHEAD_NRI_SOCKET", value_name = "PATH")]
    pub nri_socket: Option<PathBuf>,
    /// Named network namespaces that are no pods': their interfaces are left alone
    #[arg(long, env = "BULKHEAD_FOREIGN_NETNS", value_delimiter = ',', value_name = "NAME")]
    pub foreign_netns: Vec<String>,
    /// Where the guard stands that lets only the node itself and claimed pods send out of the node: `auto`
    /// (every interface of the node's own), names of interfaces, or `none`. With --config, `none` if not
    /// given: there, an interface that nobody names is left alone
    #[arg(long, env = "BULKHEAD_UPLINK", value_delimiter = ',', value_name = "NAME|auto|none")]
    pub uplink: Vec<String>,
    /// Whether sockets of pods speak only once programs judge what they send: `auto` (where the runtime tells which
    /// control groups are pods'), or `none`. With --config there is no such guard
    #[arg(long, env = "BULKHEAD_CGROUP_GUARD", value_enum, default_value_t)]
    pub cgroup_guard: CgroupGuardArg,
    /// Where the control groups' file systems are
    #[arg(long, env = "BULKHEAD_CGROUP_ROOT", default_value = "/sys/fs/cgroup", value_name = "DIR")]
    pub cgroup_root: PathBuf,
    /// Report what would be dropped and let it pass, whatever a tenant's mode says
    #[arg(long, env = "BULKHEAD_AUDIT")]
    pub audit: bool,
    /// What becomes of pods in a namespace that belongs to no tenant
    #[arg(long, env = "BULKHEAD_UNASSIGNED", value_enum, default_value_t)]
    pub unassigned: UnassignedArg,
    /// Let pods open connections to node addresses
    #[arg(long, env = "BULKHEAD_ALLOW_NODES")]
    pub allow_nodes: bool,
    /// Ranges of pod addresses: no egress range of a tenant opens them
    #[arg(long, env = "BULKHEAD_POD_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub pod_cidr: Vec<IpNet>,
    /// Ranges of Service addresses
    #[arg(long, env = "BULKHEAD_SERVICE_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub service_cidr: Vec<IpNet>,
    /// Ranges of node addresses
    #[arg(long, env = "BULKHEAD_NODE_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub node_cidr: Vec<IpNet>,
    /// Where a namespace names its tenant without an object, in order: label:KEY,
    /// annotation:KEY[=AFTER], label-suffix:KEY, or name
    #[arg(long, env = "BULKHEAD_TENANCY_KEY", value_delimiter = ',', value_name = "KEY", value_parser = tenancy_key)]
    pub tenancy_key: Vec<TenancyKey>,
    /// Namespaces that every tenant reaches and that reach every tenant
    #[arg(long, env = "BULKHEAD_SHARED_NAMESPACE", value_delimiter = ',', value_name = "NAMESPACE")]
    pub shared_namespace: Vec<String>,
    /// Exact addresses the kernel can know, per family
    #[arg(long, env = "BULKHEAD_MAX_PEERS", default_value_t = object::MapLimits::default().peers, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    pub max_peers: u32,
    /// Inbound connections the kernel can remember, per family
    #[arg(long, env = "BULKHEAD_MAX_CONNECTIONS", default_value_t = object::MapLimits::default().connections,
          value_name = "N", value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    pub max_connections: u32,
    /// Tenants with metrics of their own; the rest is `other`
    #[arg(long, env = "BULKHEAD_METRICS_MAX_TENANTS", default_value_t = 200, value_name = "N")]
    pub metrics_max_tenants: usize,
    /// Detail of the agent's own log, as `info` or `bulkhead=debug,warn`
    #[arg(long, env = "BULKHEAD_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// Form of the agent's own log, which goes to stderr
    #[arg(long, env = "BULKHEAD_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// `tenancy.unassigned`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum UnassignedArg {
    /// Each such namespace is a tenant of its own
    #[default]
    Isolate,
    /// The same, but only reported
    Audit,
    /// Their destinations are not judged
    Allow,
}

/// `--cgroup-guard`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CgroupGuardArg {
    /// Wherever it is possible
    #[default]
    Auto,
    /// Nowhere
    None,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One object a line
    Json,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// File or directory.
    Files(PathBuf),
    /// The cluster's API server, and what the runtime of this node keeps in this directory.
    Kubernetes {
        /// The runtime's results.
        cni_cache: PathBuf,
        /// The control groups' file systems.
        cgroups: PathBuf,
    },
}

/// Flags that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Whose pods are ours would be a guess.
    #[error("--node-name is required without --config: the cluster must be asked for the pods of this node")]
    NodeName,
    /// A word that stands for all or none, among names.
    #[error("--uplink takes `auto`, `none`, or names of interfaces, and nothing beside the first two")]
    Uplink,
    /// What a file names no runtime runs.
    #[error("--nri-socket goes without --config: a container runtime holds pods, and a file's endpoints are none")]
    NriWithFiles,
}

/// What the flags mean.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where objects come from.
    pub source: Source,
    /// Where pins live, layout version included.
    pub pins: PathBuf,
    /// Name of this node.
    pub node: String,
    /// Name of the cluster.
    pub cluster: Option<String>,
    /// Address of the pages.
    pub listen: SocketAddr,
    /// Local socket.
    pub socket: PathBuf,
    /// Directory of named network namespaces.
    pub netns_dir: PathBuf,
    /// Socket of the container runtime where new pods are held, if they are.
    pub nri: Option<PathBuf>,
    /// Sizes of the maps that can be chosen.
    pub sizes: object::MapLimits,
    /// Settings of the model.
    pub settings: Settings,
    /// Tenants with metrics of their own.
    pub metrics_max_tenants: usize,
}

impl RunArgs {
    /// What was typed, understood.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn config(self) -> Result<Config, ConfigError> {
        let is_static = self.config.is_some();
        let node = match self.node_name.filter(|name| !name.is_empty()) {
            Some(name) => name,
            None if is_static => host_name(),
            None => return Err(ConfigError::NodeName),
        };
        if is_static && self.nri_socket.is_some() {
            return Err(ConfigError::NriWithFiles);
        }
        let sizes = object::MapLimits { peers: self.max_peers, connections: self.max_connections };
        let settings = Settings {
            pod_cidrs: self.pod_cidr,
            service_cidrs: self.service_cidr,
            node_cidrs: self.node_cidr,
            unassigned: match self.unassigned {
                UnassignedArg::Isolate => Unassigned::Isolate,
                UnassignedArg::Audit => Unassigned::Audit,
                UnassignedArg::Allow => Unassigned::Allow,
            },
            keys: self.tenancy_key,
            shared_namespaces: self.shared_namespace.into_iter().collect(),
            audit: self.audit,
            allow_nodes: self.allow_nodes,
            // A file says all there is: an interface that nothing names any more is let go.
            // A cluster does not: a pod may be deleted before its processes are.
            release_unclaimed: is_static,
            hold_unknown: !is_static,
            foreign_netns: self.foreign_netns.into_iter().collect(),
            uplinks: uplinks(self.uplink, is_static)?,
            groups: match self.cgroup_guard {
                CgroupGuardArg::Auto if !is_static => Groups::Auto,
                CgroupGuardArg::Auto | CgroupGuardArg::None => Groups::Off,
            },
            limits: limits(&sizes),
            ..Settings::default()
        };
        let (cni_cache, cgroups) = (self.cni_cache_dir, self.cgroup_root);
        Ok(Config {
            source: self.config.map_or(Source::Kubernetes { cni_cache, cgroups }, Source::Files),
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
}

/// The model's limits are the sizes of the maps: the model refuses what does not fit before the kernel has to.
fn limits(sizes: &object::MapLimits) -> Limits {
    Limits { peers_v4: sizes.peers as usize, peers_v6: sizes.peers as usize, ..Limits::default() }
}

fn uplinks(words: Vec<String>, is_static: bool) -> Result<Uplinks, ConfigError> {
    let words: Vec<&str> = words.iter().map(|word| word.trim()).filter(|word| !word.is_empty()).collect();
    match words.as_slice() {
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

fn tenancy_key(text: &str) -> Result<TenancyKey, String> {
    let form = "expected label:KEY, annotation:KEY[=AFTER], label-suffix:KEY, or name";
    if text == "name" {
        return Ok(TenancyKey::NamespaceName);
    }
    let (kind, key) = text.split_once(':').ok_or(form)?;
    if key.is_empty() {
        return Err(format!("{kind}: needs a key; {form}"));
    }
    match kind {
        "label" => Ok(TenancyKey::NamespaceLabel { key: key.into() }),
        "label-suffix" => Ok(TenancyKey::NamespaceLabelSuffix { key: key.into() }),
        "annotation" => {
            let (key, after) = match key.split_once('=') {
                Some((key, after)) => (key, Some(after.to_owned())),
                None => (key, None),
            };
            Ok(TenancyKey::NamespaceAnnotation { key: key.into(), after })
        }
        other => Err(format!("unknown source {other:?}; {form}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenancy_keys_are_read_or_refused_with_the_form() {
        assert_eq!(tenancy_key("label:a/b"), Ok(TenancyKey::NamespaceLabel { key: "a/b".into() }));
        let annotation = TenancyKey::NamespaceAnnotation { key: "p/id".into(), after: Some(":".into()) };
        assert_eq!(tenancy_key("annotation:p/id=:"), Ok(annotation));
        assert_eq!(tenancy_key("name"), Ok(TenancyKey::NamespaceName));
        for bad in ["", "label", "label:", "pod:x"] {
            assert!(tenancy_key(bad).is_err_and(|text| text.contains("label:KEY")), "{bad}");
        }
    }

    fn config(typed: &[&str]) -> Result<Config, ConfigError> {
        #[derive(clap::Parser)]
        struct Typed {
            #[command(flatten)]
            run: RunArgs,
        }
        <Typed as clap::Parser>::parse_from(typed).run.config()
    }

    #[test]
    fn a_cluster_s_agent_must_be_told_its_node() {
        assert_eq!(config(&["run"]).map(|config| config.node), Err(ConfigError::NodeName));
        let cluster = config(&["run", "--node-name", "a"]).expect("it is told");
        assert!(matches!(cluster.source, Source::Kubernetes { .. }));
        assert!(cluster.settings.hold_unknown && !cluster.settings.release_unclaimed);
        let files = config(&["run", "--config", "x"]).expect("a file needs no name");
        assert!(!files.settings.hold_unknown && files.settings.release_unclaimed);
    }

    #[test]
    fn a_cluster_s_agent_guards_by_itself_and_a_file_s_when_told() {
        let uplinks = |words: &[&str], is_static| uplinks(words.iter().map(|w| (*w).to_owned()).collect(), is_static);
        assert_eq!((uplinks(&[], false), uplinks(&[], true)), (Ok(Uplinks::Auto), Ok(Uplinks::None)));
        assert_eq!((uplinks(&["none"], false), uplinks(&["auto"], true)), (Ok(Uplinks::None), Ok(Uplinks::Auto)));
        let names = Uplinks::Named(["eth0".to_owned(), "eth1".to_owned()].into());
        assert_eq!(uplinks(&["eth0", " eth1"], false), Ok(names));
        assert_eq!(uplinks(&["eth0", "none"], false), Err(ConfigError::Uplink));
    }

    #[test]
    fn pods_are_held_only_where_asked_for_and_where_there_are_pods() {
        let socket = ["--nri-socket", "/var/run/nri/nri.sock"];
        let node = config(&["run", "--node-name", "a"]).expect("it is told");
        assert_eq!(node.nri, None);
        let node = config(&[&["run", "--node-name", "a"], &socket[..]].concat()).expect("it is told");
        assert_eq!(node.nri, Some(socket[1].into()));
        let files = config(&[&["run", "--config", "x"], &socket[..]].concat());
        assert_eq!(files.map(|config| config.nri), Err(ConfigError::NriWithFiles));
    }

    #[test]
    fn the_model_never_plans_more_than_the_maps_hold() {
        let limits = limits(&object::MapLimits { peers: 5000, connections: 5000 });
        assert_eq!((limits.peers_v4, limits.tenants, limits.rows), (5000, 16_383, 2_047));
        assert!(limits.tenants < 1 << agent_common::post_nat::TENANT_BITS, "a packet mark can name every tenant");
    }
}
