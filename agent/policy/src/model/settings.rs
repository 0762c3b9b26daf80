//! The operator's settings, which hold for the whole cluster.
//!
//! Knows no flag, no file and no error in them: the agent's module `config` validates every value first.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::limits::Limits;

/// Settings of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Ranges of pod addresses. The cluster owns them, so no `egress` range opens them.
    pub pod_cidrs: Vec<IpNet>,
    /// Ranges of Service addresses.
    pub service_cidrs: Vec<IpNet>,
    /// Ranges of node addresses.
    pub node_cidrs: Vec<IpNet>,
    /// Ranges inside the others that are not the cluster's, such as a load balancer's subnet.
    pub outside_cidrs: Vec<IpNet>,
    /// Pods have no range of their own: an address that no object names is outside the cluster.
    pub no_pod_range: bool,
    /// The cluster's objects state ranges too. Until they state that of pods, or the administrator does, it is unknown.
    pub learn_ranges: bool,
    /// Cloud metadata addresses. They are denied unless a tenant lists them exactly.
    pub metadata: BTreeSet<IpAddr>,
    /// How a namespace without a tenant is treated.
    pub unassigned: Unassigned,
    /// Where a namespace names its tenant if no `NetworkTenant` selects it. The first key that yields a value wins.
    pub keys: Vec<TenancyKey>,
    /// Namespaces of the cluster's own services.
    pub shared_namespaces: BTreeSet<String>,
    /// Audit mode for all tenants, whatever their objects say.
    pub audit: bool,
    /// Pods may open connections to node addresses.
    pub allow_nodes: bool,
    /// Detach from an interface that still exists but that no endpoint names any more. Safe only where endpoints are
    /// declared (a file): a pod that is deleted by force outlives its object.
    pub release_unclaimed: bool,
    /// Attach to every interface whose other end is in a named network namespace, and so deny it, even if no endpoint
    /// names it. Where pods are observed, it is the interface of a pod that was not reported yet.
    pub hold_unknown: bool,
    /// Named network namespaces that are not pods'. The agent does not attach to their interfaces.
    pub foreign_netns: BTreeSet<String>,
    /// Which interfaces get the uplink guard.
    pub uplinks: Uplinks,
    /// Whether the cgroup guard drops what pods' sockets send until programs judge it.
    pub cgroup_guard: CgroupGuardMode,
    /// Whether the input guard drops what pods send to the node itself and may not.
    pub input_guard: bool,
    /// Sizes of the kernel's tables.
    pub limits: Limits,
}

/// Which interfaces get the uplink guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Uplinks {
    /// None. There is no bridge guard either.
    #[default]
    None,
    /// All interfaces of the node's own, as observed.
    Auto,
    /// Only interfaces with these names.
    Named(BTreeSet<String>),
}

/// The mode of the cgroup guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CgroupGuardMode {
    /// It is not used.
    #[default]
    Off,
    /// It is used if the runtime reports the cgroups of pods.
    Auto,
    /// The kernel cannot run it, for this reason.
    Unsupported(String),
}

/// How a namespace without a tenant is treated: neither an object nor a key assigns it to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unassigned {
    /// It is a tenant of its own.
    #[default]
    Isolate,
    /// The same, but denied packets are only reported.
    Audit,
    /// Its pods may reach every destination, except metadata services and data subnets of tenants.
    Allow,
}

/// The part of a Namespace that names its tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenancyKey {
    /// The value of this label.
    NamespaceLabel {
        /// Label.
        key: String,
    },
    /// The value of this annotation, or the part of it after the first `after`.
    NamespaceAnnotation {
        /// Annotation.
        key: String,
        /// Separator. A value without it yields nothing.
        after: Option<String>,
    },
    /// The label whose key has this suffix. The rest of the key is the tenant's name, and the value is a distance. The
    /// greatest distance wins: the root of a hierarchy.
    NamespaceLabelSuffix {
        /// Suffix of the label's key.
        key: String,
    },
    /// The namespace's own name.
    NamespaceName,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pod_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            node_cidrs: Vec::new(),
            outside_cidrs: Vec::new(),
            no_pod_range: false,
            learn_ranges: false,
            metadata: well_known_metadata(),
            unassigned: Unassigned::Isolate,
            keys: Vec::new(),
            shared_namespaces: BTreeSet::new(),
            audit: false,
            allow_nodes: false,
            release_unclaimed: false,
            hold_unknown: false,
            foreign_netns: BTreeSet::new(),
            uplinks: Uplinks::None,
            cgroup_guard: CgroupGuardMode::Off,
            input_guard: false,
            limits: Limits::default(),
        }
    }
}

/// Metadata and credential services: EC2, GCE, Azure, OpenStack, Oracle (169.254.169.254), ECS and
/// EKS credentials, EC2 over IPv6, Azure's wire server, Alibaba.
fn well_known_metadata() -> BTreeSet<IpAddr> {
    let v4 = [[169, 254, 169, 254], [169, 254, 170, 2], [169, 254, 170, 23], [168, 63, 129, 16], [100, 100, 100, 200]];
    let v6 = [0x254, 0x23].map(|last| Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, last));
    v4.map(|octets| IpAddr::V4(Ipv4Addr::from(octets))).into_iter().chain(v6.map(IpAddr::V6)).collect()
}
