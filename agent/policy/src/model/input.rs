//! What the model is told: objects reduced to what they mean here, whoever told them.
//!
//! Refuses to know where an object came from, how it was written, or what time it is: an expiry is
//! seconds since 1970, an age is an order. `crate::watch` and `crate::source` fill these in.

use std::collections::BTreeMap;
use std::net::IpAddr;

use agent_common::addr::Mac;
use ipnet::IpNet;

/// A name's position among others of its kind: the older object wins a conflict, then the name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// Creation in seconds since 1970; 0 where nobody tells (a file): then the name decides.
    pub created: i64,
    /// Name of the object.
    pub name: String,
}

/// A `NetworkTenant`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its name and age.
    pub age: Age,
    /// Which namespaces are its.
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
    /// Name in the object: what an event's `policy.rule` says.
    pub name: String,
    /// Canonical: no host bits.
    pub cidr: IpNet,
    /// What is allowed there; empty means every protocol and port.
    pub ports: Vec<PortRule>,
}

/// A protocol and its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRule {
    /// Protocol.
    pub protocol: Protocol,
    /// First port; 0 with `high` 65535 means all.
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
    /// Seconds since 1970 after which this half is gone.
    pub until: Option<i64>,
}

/// A label selector: all of it must match. Never empty in a valid tenant.
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
    /// Annotations that a tenancy key names; others are dropped on the way in.
    pub annotations: BTreeMap<String, String>,
}

/// Names an endpoint for as long as it exists.
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
    /// UID: tells a pod from its successor of the same name.
    pub uid: String,
    /// When it was created: of two live claims of an address the younger wins only after the older is gone.
    pub created: i64,
    /// At most one per family, and one IPv6 link-local.
    pub addresses: Vec<IpAddr>,
    /// Where it is attached, if on this node.
    pub local: Option<Attachment>,
    /// Kind and name of what runs it (a Deployment, a Job), for events.
    pub workload: Option<(String, String)>,
}

/// Where a local endpoint meets the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Which interface of the node.
    pub port: HostPort,
    /// Its hardware address, if told; otherwise the observed one counts.
    pub mac: Option<Mac>,
    /// Its gateways, at most one per family, if told; otherwise node addresses serve.
    pub gateways: Vec<IpAddr>,
    /// Its control group, where that is known.
    pub cgroup: Option<PodCgroup>,
}

/// A pod's control group (version 2), as observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodCgroup {
    /// Its id: the inode number of its directory.
    pub id: u64,
    /// Directory of the group that holds those of all pods of the node.
    pub parent: String,
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

/// An interface of the node as observed, never as asserted by a pod or a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Index in the node's namespace.
    pub ifindex: u32,
    /// Name now.
    pub name: String,
    /// The hardware address a pod's gateway answers from: the interface's own, or its bridge's.
    pub gateway_mac: Mac,
    /// Name of the network namespace that holds the other end, where it has one.
    pub netns: Option<String>,
    /// The other end's hardware address.
    pub peer_mac: Option<Mac>,
    /// The other end's link-local address.
    pub peer_link_local: Option<IpAddr>,
    /// What it is.
    pub kind: LinkKind,
    /// Index of the bridge or bond that it is a port of; 0 for none.
    pub controller: u32,
    /// A way out of the node leads through it, set up by somebody on the node. Looked for only at an
    /// end of a pair whose other end is in no namespace with a name.
    pub gateway: bool,
}

/// What an interface is, as far as that matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkKind {
    /// A card, a tunnel, an end of a pair within the node, anything else.
    #[default]
    Other,
    /// The loopback interface.
    Loopback,
    /// A bridge.
    Bridge,
    /// An end of a pair (veth, netkit) whose other end is in another namespace.
    Pair,
}

/// A Service: addresses that the nodes translate to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Which one.
    pub key: EndpointKey,
    /// Addresses that the cluster gave it. Never those its owner may write himself: whoever wrote a
    /// foreign address there would make it his own.
    pub addresses: Vec<IpAddr>,
    /// What they are translated to, ready or not.
    pub ends: Vec<IpAddr>,
}

/// What a piece of news is about, where people wait for it to be in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Tenants.
    Tenant,
    /// Namespaces.
    Namespace,
    /// Pods, and endpoints of files.
    Pod,
}

/// One piece of news. A resync replaces a whole kind at once, so what vanished meanwhile vanishes.
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
    /// One endpoint is gone; a UID that is no longer current changes nothing.
    EndpointGone {
        /// Which pod.
        key: EndpointKey,
        /// Its UID, empty where the teller has none.
        uid: String,
    },
    /// All interfaces of the node.
    Links(Vec<Link>),
    /// Addresses of this node, as observed; without a cluster, of all nodes there are.
    Nodes(Vec<IpAddr>),
    /// Addresses of all nodes and of the API server, as the cluster tells them. A source that
    /// tells them does so before it tells endpoints in full.
    ClusterNodes(Vec<IpAddr>),
    /// Control groups of pods on the node's own network, by id.
    NodeCgroups(Vec<u64>),
    /// All Services. A source that tells them does so before it tells endpoints in full.
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
    /// What it is about; none for what the node and the cluster are made of.
    pub const fn subject(&self) -> Option<Subject> {
        match self {
            Self::Tenants(_) | Self::Tenant(_) | Self::TenantGone(_) => Some(Subject::Tenant),
            Self::Namespaces(_) | Self::Namespace(_) | Self::NamespaceGone(_) => Some(Subject::Namespace),
            Self::Endpoints(_) | Self::Endpoint(_) | Self::EndpointGone { .. } => Some(Subject::Pod),
            Self::Links(_)
            | Self::Nodes(_)
            | Self::ClusterNodes(_)
            | Self::NodeCgroups(_)
            | Self::Services(_)
            | Self::Service(_)
            | Self::ServiceGone(_) => None,
        }
    }
}
