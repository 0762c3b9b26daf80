//! What the operator decided once for the whole cluster.
//!
//! Plain and already valid: flags, files and their errors are `crate::config`'s business.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_common::aggregate::EVENT_SLOTS;
use agent_common::counters::TENANT_SLOTS;
use agent_common::maps;
use ipnet::IpNet;

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
    pub groups: Groups,
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
pub enum Groups {
    /// There is none.
    #[default]
    Off,
    /// Wherever the runtime tells which groups are pods'.
    Auto,
    /// There is none, because of this.
    Impossible(String),
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

/// A limit, by the name an operator raises it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Interface indexes, exclusive bound.
    Interfaces,
    /// Tenants, which is also the highest tenant number.
    Tenants,
    /// IPv4 addresses of pods, nodes, Services.
    PeersV4,
    /// IPv6 addresses of pods, nodes, Services.
    PeersV6,
    /// Rows of prefixes, which is also the highest row number.
    Rows,
    /// Distinct port sets, which is also the highest number.
    PortSets,
    /// Grants.
    Grants,
    /// Owned IPv4 ranges.
    OwnersV4,
    /// Owned IPv6 ranges.
    OwnersV6,
    /// IPv4 prefixes of tenants with long lists.
    TrieV4,
    /// IPv6 prefixes of tenants with long lists.
    TrieV6,
    /// Tenants with counters of their own.
    CounterSlots,
    /// Endpoints with an event limit of their own.
    EventSlots,
}

impl Limit {
    /// Name in the settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interfaces => "interfaces",
            Self::Tenants => "tenants",
            Self::PeersV4 => "peers_v4",
            Self::PeersV6 => "peers_v6",
            Self::Rows => "rows",
            Self::PortSets => "port_sets",
            Self::Grants => "grants",
            Self::OwnersV4 => "owners_v4",
            Self::OwnersV6 => "owners_v6",
            Self::TrieV4 => "trie_v4",
            Self::TrieV6 => "trie_v6",
            Self::CounterSlots => "counter_slots",
            Self::EventSlots => "event_slots",
        }
    }
}

/// Sizes of the kernel's tables. What does not fit is denied and reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// See `Limit::Interfaces`.
    pub interfaces: u32,
    /// See `Limit::Tenants`.
    pub tenants: u32,
    /// See `Limit::PeersV4`.
    pub peers_v4: usize,
    /// See `Limit::PeersV6`.
    pub peers_v6: usize,
    /// See `Limit::Rows`.
    pub rows: u16,
    /// See `Limit::PortSets`.
    pub port_sets: u16,
    /// See `Limit::Grants`.
    pub grants: usize,
    /// See `Limit::OwnersV4`.
    pub owners_v4: usize,
    /// See `Limit::OwnersV6`.
    pub owners_v6: usize,
    /// See `Limit::TrieV4`.
    pub trie_v4: usize,
    /// See `Limit::TrieV6`.
    pub trie_v6: usize,
    /// See `Limit::CounterSlots`.
    pub counter_slots: u16,
    /// See `Limit::EventSlots`.
    pub event_slots: u16,
}

impl Limits {
    /// The value of one limit.
    pub fn get(&self, limit: Limit) -> usize {
        match limit {
            Limit::Interfaces => self.interfaces as usize,
            Limit::Tenants => self.tenants as usize,
            Limit::PeersV4 => self.peers_v4,
            Limit::PeersV6 => self.peers_v6,
            Limit::Rows => usize::from(self.rows),
            Limit::PortSets => usize::from(self.port_sets),
            Limit::Grants => self.grants,
            Limit::OwnersV4 => self.owners_v4,
            Limit::OwnersV6 => self.owners_v6,
            Limit::TrieV4 => self.trie_v4,
            Limit::TrieV6 => self.trie_v6,
            Limit::CounterSlots => usize::from(self.counter_slots),
            Limit::EventSlots => usize::from(self.event_slots),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // `ENDPOINTS_FAR` takes any index: it limits the number of interfaces, not their index.
            interfaces: u32::MAX,
            tenants: maps::TENANTS.max_entries - 1,
            peers_v4: maps::PEERS_V4.max_entries as usize,
            peers_v6: maps::PEERS_V6.max_entries as usize,
            rows: maps::ROWS_V4.max_entries as u16 - 1,
            port_sets: maps::PORT_SETS.max_entries as u16 - 1,
            grants: maps::GRANTS.max_entries as usize,
            owners_v4: maps::OWNERS_V4.max_entries as usize,
            owners_v6: maps::OWNERS_V6.max_entries as usize,
            trie_v4: maps::TRIE_V4.max_entries as usize,
            trie_v6: maps::TRIE_V6.max_entries as usize,
            counter_slots: TENANT_SLOTS as u16 - 1,
            event_slots: EVENT_SLOTS as u16 - 1,
        }
    }
}

const _: () = assert!(maps::ROWS_V4.max_entries == maps::ROWS_V6.max_entries, "one limit serves both families");

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
            groups: Groups::Off,
            limits: Limits::default(),
        }
    }
}

impl Settings {
    /// Ranges of pods and of Services.
    pub fn pods_and_services(&self) -> impl Iterator<Item = IpNet> {
        self.pod_cidrs.iter().chain(&self.service_cidrs).map(IpNet::trunc)
    }

    /// All ranges that belong to the cluster itself, with the word for each kind.
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
