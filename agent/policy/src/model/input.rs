//! The input of the model: objects and observations, reduced to what the policy needs.
//!
//! Refuses to know where an object came from, how it was written, or what time it is. An expiry is in seconds since
//! 1970, and an age is only an order. The agent's modules `watch`, `source` and `links` make these values.

use std::collections::BTreeMap;
use std::net::IpAddr;

use agent_common::addr::Mac;
use ipnet::IpNet;

use super::ranges::LearntRanges;

/// Creation time and name of an object. The older object wins a conflict; of two equally old ones, the first by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// Creation time in seconds since 1970. It is 0 for objects from a file, so there the name decides.
    pub created: i64,
    /// Name of the object.
    pub name: String,
}

/// A `NetworkTenant`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its name and age.
    pub age: Age,
    /// Selects its namespaces.
    pub namespaces: Selector,
    /// Whether it is `class: Shared`.
    pub shared: bool,
    /// Whether it is `mode: Audit`.
    pub audit: bool,
    /// Its own data subnets, exclusive to it.
    pub subnets: Vec<Range>,
    /// Further destinations, not exclusive.
    pub egress: Vec<Range>,
    /// Its half of the permissions between tenants.
    pub peers: Vec<Peer>,
}

/// A named destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// Name in the object. Events report it as `policy.rule`.
    pub name: String,
    /// The CIDR, without host bits.
    pub cidr: IpNet,
    /// What is allowed there. An empty list allows every protocol and port.
    pub ports: Vec<PortRule>,
}

/// A protocol and its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRule {
    /// Protocol.
    pub protocol: Protocol,
    /// First port. 0 with `high` 65535 means all.
    pub low: u16,
    /// Last port.
    pub high: u16,
}

/// Protocols a rule may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP for IPv4 ranges, ICMPv6 for IPv6 ranges.
    Icmp,
}

/// One side's half of a permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The other tenant.
    pub tenant: String,
    /// This tenant may open connections to the other.
    pub egress: bool,
    /// The other tenant may open connections to this one.
    pub ingress: bool,
    /// When this half expires, in seconds since 1970.
    pub until: Option<i64>,
}

/// A label selector. All its parts must match. It is never empty in a valid tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Labels that must have these values.
    pub labels: BTreeMap<String, String>,
    /// Further requirements.
    pub expressions: Vec<Requirement>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The label has one of these values.
    In(String, Vec<String>),
    /// The label is absent or has none of these values.
    NotIn(String, Vec<String>),
    /// The label is present.
    Exists(String),
    /// The label is absent.
    DoesNotExist(String),
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations that a tenancy key names. The source drops all others.
    pub annotations: BTreeMap<String, String>,
}

/// Namespace and name of an endpoint or a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A pod as the network sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Which pod.
    pub key: EndpointKey,
    /// Its UID. A later pod of the same name has another one.
    pub uid: String,
    /// Creation time in seconds since 1970. An update with another UID and an earlier time is about a predecessor.
    pub created: i64,
    /// At most one per family, and one IPv6 link-local.
    pub addresses: Vec<IpAddr>,
    /// How it is attached, if it is on this node.
    pub local: Option<Attachment>,
    /// Kind and name of its workload, such as a Deployment or a Job. Events report them.
    pub workload: Option<(String, String)>,
}

/// How a local endpoint is attached to the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Its interface on the node.
    pub port: HostPort,
    /// The pod's hardware address, if it was reported. Otherwise the observed one is used.
    pub mac: Option<Mac>,
    /// Its gateways, at most one per family, if they were reported. Otherwise the node's addresses are used.
    pub gateways: Vec<IpAddr>,
    /// Its cgroup, if that is known.
    pub cgroup: Option<PodCgroup>,
    /// Whether it is no fault that the runtime reports no sandbox for it: the pod ends, or the kubelet runs it from a
    /// file and the runtime knows it by another UID.
    pub may_lack_sandbox: bool,
}

/// A pod's cgroup (v2), as observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodCgroup {
    /// Its id: the inode number of its directory.
    pub id: u64,
    /// Directory of the cgroup that holds the cgroups of all pods of the node.
    pub parent: String,
}

/// A pod of this node that uses the node's network. It is no endpoint, because it has no interface of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostNetworkPod {
    /// Its namespace and name.
    pub key: EndpointKey,
    /// Its UID.
    pub uid: String,
    /// Id of its cgroup, if that is known.
    pub cgroup: Option<u64>,
}

/// How an endpoint names its host-side interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPort {
    /// By name.
    Interface(String),
    /// By the named network namespace that the other end of the pair is in.
    Netns(String),
}

impl Default for HostPort {
    fn default() -> Self {
        Self::Interface(String::new())
    }
}

/// An interface of the node, as the kernel reports it. What a pod claims has no influence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Index in the node's network namespace.
    pub ifindex: u32,
    /// Current name.
    pub name: String,
    /// The hardware address of the pod's gateway: that of the interface itself, or of its bridge.
    pub gateway_mac: Mac,
    /// Name of the network namespace that holds the other end, if it has one.
    pub netns: Option<String>,
    /// Index of the other end in its namespace; 0 if the interface has no other end in another namespace.
    pub peer: u32,
    /// The other end's hardware address.
    pub peer_mac: Option<Mac>,
    /// The other end's link-local address.
    pub peer_link_local: Option<IpAddr>,
    /// Its kind.
    pub kind: LinkKind,
    /// Index of the bridge or bond that it is a port of; 0 for none.
    pub controller: u32,
    /// Whether a route through it has a gateway or is a default route. This is observed only for a pair whose other end
    /// is in a network namespace without a name.
    pub gateway: bool,
    /// Whether its packets have no Ethernet header (TUN, WireGuard, IP in IP). A program for pods would take the IP header
    /// for one, and the sender would choose what it reads.
    pub lacks_ethernet: bool,
    /// Whether it runs an XDP program, which sees packets before ours and may send them elsewhere.
    pub xdp: bool,
    /// The UDP port at which the kernel unwraps what this tunnel device receives.
    pub tunnel_port: Option<u16>,
}

/// The kind of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkKind {
    /// Anything else, such as a network card, a tunnel, or a pair with both ends in the node's network namespace.
    #[default]
    Other,
    /// The loopback interface.
    Loopback,
    /// A bridge.
    Bridge,
    /// An end of a pair (veth, netkit) whose other end is in another network namespace.
    Pair,
}

/// What is inside the named network namespaces of the node, as the kernel lists it. None is entered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetnsInterfaces {
    /// The contents of each namespace, by its name.
    pub by_name: BTreeMap<String, NetnsContents>,
    /// Why the names could not be listed at the last reading. The contents are then those of an earlier one.
    pub unlisted: Option<String>,
}

/// The interfaces of one network namespace that can lead out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetnsContents {
    /// The interfaces, without those of [`InnerLink::stays_inside`].
    pub links: Vec<InnerLink>,
    /// Whether there are more than are read, or they changed while they were read.
    pub is_partial: bool,
    /// Why the last reading failed. The interfaces are then those of an earlier one.
    pub error: Option<String>,
}

/// An interface in a network namespace that is not the node's. Its name may be chosen by a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InnerLink {
    /// Index in its namespace.
    pub ifindex: u32,
    /// Name in its namespace.
    pub name: String,
    /// The kind that its driver states, such as `macvlan`. Hardware has none.
    pub kind: String,
    /// Where the interface below it, or the other end of the pair, is.
    pub lower: LowerEnd,
}

/// Where the interface is that another one sends through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LowerEnd {
    /// In the same namespace, or nowhere.
    #[default]
    Inside,
    /// In the node's network namespace.
    Node,
    /// In a third namespace.
    Elsewhere,
}

/// Kinds that send only through another interface of their namespace, or to a process, unless the kernel says that the
/// interface below them is elsewhere. Hardware is not among them. Neither is WireGuard: its packets may leave by the
/// namespace that it was created in, and the kernel does not tell which that is.
const INNER_KINDS: [&str; 30] = [
    "bareudp",
    "bond",
    "bridge",
    "dummy",
    "erspan",
    "geneve",
    "gre",
    "gretap",
    "gtp",
    "ifb",
    "ip6erspan",
    "ip6gre",
    "ip6gretap",
    "ip6tnl",
    "ipip",
    "ipvlan",
    "ipvtap",
    "macsec",
    "macvlan",
    "macvtap",
    "sit",
    "team",
    "tun",
    "veth",
    "vlan",
    "vrf",
    "vti",
    "vti6",
    "vxlan",
    "xfrm",
];

impl InnerLink {
    /// Whether what it sends can leave its namespace only by another interface of the same namespace.
    pub fn stays_inside(&self) -> bool {
        self.lower == LowerEnd::Inside && INNER_KINDS.contains(&self.kind.as_str())
    }

    /// Whether it is an end of a pair.
    pub fn is_pair(&self) -> bool {
        matches!(self.kind.as_str(), "veth" | "netkit")
    }
}

/// A Service: addresses that the nodes translate to other addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name.
    pub key: EndpointKey,
    /// Addresses that the cluster assigned. Those that a tenant may write, such as `spec.externalIPs`, are left out: a
    /// tenant could claim a foreign address with them.
    pub addresses: Vec<IpAddr>,
    /// The addresses behind it, ready or not.
    pub ends: Vec<IpAddr>,
}

/// The kind of object that a change is about, for kinds whose propagation time is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Tenants.
    Tenant,
    /// Namespaces.
    Namespace,
    /// Pods, and endpoints of files.
    Pod,
}

/// One observation. A resync replaces all objects of a kind, so an object that vanished meanwhile is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// All tenants.
    Tenants(Vec<Tenant>),
    /// One tenant is new or different.
    Tenant(Tenant),
    /// One tenant is gone.
    TenantGone(String),
    /// All namespaces.
    Namespaces(Vec<Namespace>),
    /// One namespace is new or different.
    Namespace(Namespace),
    /// One namespace is gone.
    NamespaceGone(String),
    /// All endpoints.
    Endpoints(Vec<Endpoint>),
    /// One endpoint is new or different.
    Endpoint(Endpoint),
    /// One endpoint is gone. A UID that is no longer current changes nothing.
    EndpointGone {
        /// Which pod.
        key: EndpointKey,
        /// Its UID. Empty if the source has none.
        uid: String,
    },
    /// All interfaces of the node.
    Links(Vec<Link>),
    /// What is inside all named network namespaces.
    NetnsInterfaces(NetnsInterfaces),
    /// Addresses of this node, as observed.
    Nodes(Vec<IpAddr>),
    /// Addresses on this node's dummy interfaces. kube-proxy in IPVS mode puts those of all Services there, also those
    /// that a Service's owner chose, and a node-local DNS cache puts that of the DNS Service there.
    VirtualAddresses(Vec<IpAddr>),
    /// Addresses of all nodes and of the API server, as the cluster reports them. A source reports them before it first
    /// reports all endpoints.
    ClusterNodes(Vec<IpAddr>),
    /// The ranges that the cluster's objects state. A source reports them before it first reports all endpoints.
    Ranges(LearntRanges),
    /// All host-network pods of this node.
    HostNetworkPods(Vec<HostNetworkPod>),
    /// The input guard in the kernel was changed, perhaps by another process.
    InputGuardTouched,
    /// All Services. A source reports them before it first reports all endpoints.
    Services(Vec<Service>),
    /// One Service is new or different.
    Service(Service),
    /// One Service is gone.
    ServiceGone(EndpointKey),
}

impl Subject {
    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Namespace => "namespace",
            Self::Pod => "pod",
        }
    }
}

impl Change {
    /// What it is about. `None` for interfaces, nodes, ranges, guards and Services.
    pub const fn subject(&self) -> Option<Subject> {
        match self {
            Self::Tenants(_) | Self::Tenant(_) | Self::TenantGone(_) => Some(Subject::Tenant),
            Self::Namespaces(_) | Self::Namespace(_) | Self::NamespaceGone(_) => Some(Subject::Namespace),
            Self::Endpoints(_) | Self::Endpoint(_) | Self::EndpointGone { .. } => Some(Subject::Pod),
            Self::Links(_)
            | Self::NetnsInterfaces(_)
            | Self::Nodes(_)
            | Self::VirtualAddresses(_)
            | Self::ClusterNodes(_)
            | Self::Ranges(_)
            | Self::HostNetworkPods(_)
            | Self::InputGuardTouched
            | Self::Services(_)
            | Self::Service(_)
            | Self::ServiceGone(_) => None,
        }
    }
}
