//! What the operator decided once for the whole cluster.
//!
//! Plain and already valid: flags, files and their errors are `crate::config`'s business.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::limits::Limits;

/// Settings of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Ranges of pod addresses: owned by the cluster, so no `egress` range opens them.
    pub pod_cidrs: Vec<IpNet>,
    /// Ranges of Service addresses.
    pub service_cidrs: Vec<IpNet>,
    /// Ranges of node addresses.
    pub node_cidrs: Vec<IpNet>,
    /// Cloud metadata addresses: denied unless a tenant lists them exactly.
    pub metadata: BTreeSet<IpAddr>,
    /// What becomes of a namespace that nobody claims.
    pub unassigned: Unassigned,
    /// Where tenancy comes from without an object; the first that yields a value wins.
    pub keys: Vec<TenancyKey>,
    /// Namespaces of the cluster's own services.
    pub shared_namespaces: BTreeSet<String>,
    /// Nothing is dropped anywhere, whatever an object says.
    pub audit: bool,
    /// Pods may open connections to node addresses.
    pub allow_nodes: bool,
    /// Let go of an interface that no endpoint names any more though it still exists. Safe only
    /// where endpoints are declared (a file): a pod that is deleted by force outlives its object.
    pub release_unclaimed: bool,
    /// Hold, and so deny, every interface whose other end is in a named network namespace, though
    /// no endpoint names it: where pods are observed, it is one that nobody has told of yet.
    pub hold_unknown: bool,
    /// Named network namespaces that are not pods': their interfaces are left alone.
    pub foreign_netns: BTreeSet<String>,
    /// Where packets leave the node and only those of claimed pods and of the node itself may.
    pub uplinks: Uplinks,
    /// Whether sockets of pods speak only once programs judge what they send.
    pub cgroup_guard: CgroupGuardMode,
    /// Sizes of the kernel's tables.
    pub limits: Limits,
}

/// Which interfaces hold the guard on what leaves the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Uplinks {
    /// None: there are no guards.
    #[default]
    None,
    /// All of the node's own, as observed.
    Auto,
    /// Those of these names, and no others.
    Named(BTreeSet<String>),
}

/// The guard on the control groups of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CgroupGuardMode {
    /// There is none.
    #[default]
    Off,
    /// Wherever the runtime tells which groups are pods'.
    Auto,
    /// There is none, because of this.
    Unsupported(String),
}

/// What becomes of a namespace that no object and no key assigns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unassigned {
    /// It is a tenant of its own.
    #[default]
    Isolate,
    /// The same, but only reported.
    Audit,
    /// Its pods' destinations are not judged.
    Allow,
}

/// Where in a Namespace its tenant's name stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenancyKey {
    /// The value of this label.
    NamespaceLabel {
        /// Label.
        key: String,
    },
    /// The value of this annotation, or what follows the first `after` in it.
    NamespaceAnnotation {
        /// Annotation.
        key: String,
        /// Separator; a value without it yields nothing.
        after: Option<String>,
    },
    /// The label whose key ends so; what stands before is the name, its value the distance, and
    /// the farthest wins (the root of a hierarchy).
    NamespaceLabelSuffix {
        /// End of the label's key.
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
            limits: Limits::default(),
        }
    }
}

impl Settings {
    /// Ranges of pods and of Services.
    pub fn pods_and_services(&self) -> impl Iterator<Item = IpNet> {
        self.pod_cidrs.iter().chain(&self.service_cidrs).map(IpNet::trunc)
    }

    /// All ranges that belong to the cluster itself, with the name of each kind.
    pub fn cluster_ranges(&self) -> impl Iterator<Item = (&'static str, IpNet)> {
        let of = |kind, nets: &'_ [IpNet]| nets.iter().map(move |net| (kind, net.trunc())).collect::<Vec<_>>();
        [of("pod", &self.pod_cidrs), of("service", &self.service_cidrs), of("node", &self.node_cidrs)]
            .into_iter()
            .flatten()
    }
}

/// Metadata and credential services: EC2, GCE, Azure, OpenStack, Oracle (169.254.169.254), ECS and
/// EKS credentials, EC2 over IPv6, Azure's wire server, Alibaba.
fn well_known_metadata() -> BTreeSet<IpAddr> {
    let v4 = [[169, 254, 169, 254], [169, 254, 170, 2], [169, 254, 170, 23], [168, 63, 129, 16], [100, 100, 100, 200]];
    let v6 = [0x254, 0x23].map(|last| Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, last));
    v4.map(|octets| IpAddr::V4(Ipv4Addr::from(octets))).into_iter().chain(v6.map(IpAddr::V6)).collect()
}
