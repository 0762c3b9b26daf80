//! Reports to the operator: conflicts between objects, entries that did not fit, and what a local pod waits for.
//!
//! Knows no log, no metric and no status. Each message names the objects that it is about.

use std::fmt;
use std::net::IpAddr;

use super::input::EndpointKey;
use super::limits::Limit;
use super::name::Name;

/// An object does not get all that it lists, because of another object or a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The tenant that does not get it.
    pub tenant: Name,
    /// Which rule.
    pub kind: ConflictKind,
    /// Names both sides and the remedy.
    pub message: String,
}

/// Why an object does not get all that it lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConflictKind {
    /// A subnet overlaps an older tenant's.
    SubnetOverlap,
    /// A subnet overlaps pod, Service or node ranges.
    ClusterRange,
    /// Pods or nodes have addresses in a subnet.
    SubnetInUse,
    /// The range of pods is unknown, so a wide egress range opens no private address.
    PodRangeUnknown,
    /// An older tenant selects the namespace too.
    NamespaceClaimed,
    /// A tenancy key names a tenant object that does not select the namespace.
    KeyNotSelected,
    /// Two tenancy keys of one namespace disagree.
    KeyMismatch,
    /// A range has more port ranges than fit.
    TooManyPorts,
    /// An exact egress entry names an address of a node, and states no ports that it could open there.
    NodeWithoutPorts,
    /// The name does not fit the kernel's table of names.
    NameTooLong,
}

impl ConflictKind {
    /// The name used in metrics and conditions.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SubnetOverlap => "subnet_overlap",
            Self::ClusterRange => "cluster_range",
            Self::SubnetInUse => "subnet_in_use",
            Self::PodRangeUnknown => "pod_range_unknown",
            Self::NamespaceClaimed => "namespace_claimed",
            Self::KeyNotSelected => "key_not_selected",
            Self::KeyMismatch => "key_mismatch",
            Self::TooManyPorts => "too_many_ports",
            Self::NodeWithoutPorts => "node_without_ports",
            Self::NameTooLong => "name_too_long",
        }
    }
}

/// Entries that did not fit in a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overflow {
    /// Which limit.
    pub limit: Limit,
    /// Its value.
    pub value: usize,
    /// How many entries were left out.
    pub left_out: usize,
    /// One of them.
    pub example: String,
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, value, left_out, example } = self;
        let effect = match limit {
            Limit::CounterSlots => "counted together with pods of no tenant",
            Limit::EventSlots => "in one event budget together",
            _ => "left out and denied",
        };
        let remedy = match limit {
            Limit::PeersV4 | Limit::PeersV6 => "raise --max-peers",
            _ => "this release cannot raise it; use fewer objects, or wider ranges",
        };
        write!(f, "limit {} of {value} reached: {left_out} {effect}, such as {example}; {remedy}", limit.as_str())
    }
}

/// Overflows, one entry for each limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overflows(Vec<Overflow>);

impl Overflows {
    /// Records that an entry was left out.
    pub fn note(&mut self, limit: Limit, value: usize, example: impl fmt::Display) {
        match self.0.iter_mut().find(|known| known.limit == limit) {
            Some(known) => known.left_out += 1,
            None => self.0.push(Overflow { limit, value, left_out: 1, example: example.to_string() }),
        }
    }

    /// Adds other overflows.
    pub fn extend(&mut self, other: &Self) {
        for overflow in &other.0 {
            match self.0.iter_mut().find(|known| known.limit == overflow.limit) {
                Some(known) => known.left_out += overflow.left_out,
                None => self.0.push(overflow.clone()),
            }
        }
    }

    /// All of them.
    pub fn as_slice(&self) -> &[Overflow] {
        &self.0
    }
}

/// What keeps a local pod from its full policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The node does not have the interface that the endpoint names. It may appear.
    NoInterface(String),
    /// The packets of the interface have no Ethernet header, so no program is attached.
    NoEthernet(String),
    /// Several endpoints name the interface, so none gets it.
    InterfaceContested {
        /// Interface.
        interface: String,
        /// One of the other pods.
        other: EndpointKey,
    },
    /// Several live pods claim the address, so none gets it.
    AddressContested {
        /// Address.
        address: IpAddr,
        /// One of the other pods.
        other: EndpointKey,
    },
    /// The address is a node's, a metadata service's, or impossible for a pod.
    AddressRefused(IpAddr),
    /// It has no address yet.
    NoAddress,
    /// Its tenant has no number: too many tenants, or too long a name.
    NoNumber(Name),
    /// Its namespace is not known yet. Until then the pod is isolated.
    NamespaceUnknown,
}

impl Trouble {
    /// Whether the pod's interface stays denied because of it.
    pub const fn denies(&self) -> bool {
        !matches!(self, Self::AddressContested { .. } | Self::AddressRefused(_) | Self::NamespaceUnknown)
    }

    /// Whether no program judges the pod's interface because of it. Such a pod is not denied.
    pub const fn is_unjudged(&self) -> bool {
        matches!(self, Self::NoEthernet(_))
    }

    /// Whether it may end by itself, because nothing is wrong.
    pub const fn is_pending(&self) -> bool {
        matches!(self, Self::NoInterface(_) | Self::NoAddress | Self::NamespaceUnknown)
    }

    /// The name used in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NoInterface(_) => "no_interface",
            Self::NoEthernet(_) => "no_ethernet",
            Self::InterfaceContested { .. } => "interface_contested",
            Self::AddressContested { .. } => "address_contested",
            Self::AddressRefused(_) => "address_refused",
            Self::NoAddress => "no_address",
            Self::NoNumber(_) => "no_number",
            Self::NamespaceUnknown => "namespace_unknown",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterface(wanted) => write!(f, "no interface yet: {wanted}"),
            Self::NoEthernet(interface) => write!(
                f,
                "interface {interface} has no Ethernet header, so nothing judges its packets: name a veth, netkit or TAP \
                 interface"
            ),
            Self::InterfaceContested { interface, other } => {
                write!(
                    f,
                    "interface {interface} is also named by {}/{}: none gets it until only one names it",
                    other.namespace, other.name
                )
            }
            Self::AddressContested { address, other } => {
                write!(
                    f,
                    "address {address} is also claimed by {}/{}: none gets it until only one claims it",
                    other.namespace, other.name
                )
            }
            Self::AddressRefused(address) => write!(
                f,
                "address {address} was refused: it is a node's, a metadata service's, or impossible for a pod"
            ),
            Self::NoAddress => write!(f, "no address yet"),
            Self::NoNumber(tenant) => write!(f, "tenant {tenant} has no number: the pod stays denied"),
            Self::NamespaceUnknown => write!(f, "namespace not known yet: the pod is isolated until it is"),
        }
    }
}
