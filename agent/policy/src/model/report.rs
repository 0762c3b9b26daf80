//! What people must be told about the objects: who keeps what in a dispute, what did not fit,
//! what a local pod still waits for.

use std::fmt;
use std::net::IpAddr;

use super::input::EndpointKey;
use super::limits::Limit;
use super::name::Name;

/// An object does not get all it asks for, because of another object or a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The tenant that goes without.
    pub tenant: Name,
    /// Which rule.
    pub kind: ConflictKind,
    /// Names both sides and the remedy.
    pub message: String,
}

/// Why an object does not get all it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConflictKind {
    /// A subnet overlaps an older tenant's.
    SubnetOverlap,
    /// A subnet overlaps pod, Service or node ranges.
    ClusterRange,
    /// An older tenant selects the namespace too.
    NamespaceClaimed,
    /// A tenancy key names a tenant object that does not select the namespace.
    KeyNotSelected,
    /// Two tenancy keys of one namespace disagree.
    KeyMismatch,
    /// A range has more port ranges than fit.
    TooManyPorts,
    /// The name does not fit the kernel's table of names.
    NameTooLong,
}

impl ConflictKind {
    /// The name used in metrics and conditions.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SubnetOverlap => "subnet_overlap",
            Self::ClusterRange => "cluster_range",
            Self::NamespaceClaimed => "namespace_claimed",
            Self::KeyNotSelected => "key_not_selected",
            Self::KeyMismatch => "key_mismatch",
            Self::TooManyPorts => "too_many_ports",
            Self::NameTooLong => "name_too_long",
        }
    }
}

/// Something did not fit a table and is denied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overflow {
    /// Which limit.
    pub limit: Limit,
    /// Its value.
    pub value: usize,
    /// How many entries were left out.
    pub left_out: usize,
    /// One of them, for a start.
    pub example: String,
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.limit.as_str();
        write!(f, "limit {name} of {} reached: {} left out and denied", self.value, self.left_out)?;
        let remedy = match self.limit {
            Limit::PeersV4 | Limit::PeersV6 => "raise --max-peers",
            _ => "this release has no more room; use fewer, or wider ranges",
        };
        write!(f, ", such as {}; {remedy}", self.example)
    }
}

/// Overflows of one round, one entry a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overflows(Vec<Overflow>);

impl Overflows {
    /// Notes that something was left out.
    pub fn note(&mut self, limit: Limit, value: usize, example: impl fmt::Display) {
        match self.0.iter_mut().find(|known| known.limit == limit) {
            Some(known) => known.left_out += 1,
            None => self.0.push(Overflow { limit, value, left_out: 1, example: example.to_string() }),
        }
    }

    /// Takes in another round's.
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

/// What stands between a local pod and its full policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// No interface of the node fits what the endpoint names; it may appear.
    NoInterface(String),
    /// Several endpoints name the interface, so it is nobody's.
    InterfaceContested {
        /// Interface.
        interface: String,
        /// One of the others.
        other: EndpointKey,
    },
    /// The index is beyond the table.
    InterfaceBeyondLimit(u32),
    /// Several live pods claim the address, so it is nobody's.
    AddressContested {
        /// Address.
        address: IpAddr,
        /// One of the others.
        other: EndpointKey,
    },
    /// The address is a node's, a metadata service's, or none a pod can have.
    AddressRefused(IpAddr),
    /// It has no address yet.
    NoAddress,
    /// Its tenant has no number: too many tenants, or too long a name.
    NoNumber(Name),
    /// Its namespace is not known yet: isolated until it is.
    NamespaceUnknown,
}

impl Trouble {
    /// Whether the pod's interface stays denied because of it.
    pub const fn denies(&self) -> bool {
        !matches!(self, Self::AddressContested { .. } | Self::AddressRefused(_) | Self::NamespaceUnknown)
    }

    /// Whether time alone may cure it: nobody did anything wrong.
    pub const fn is_pending(&self) -> bool {
        matches!(self, Self::NoInterface(_) | Self::NoAddress | Self::NamespaceUnknown)
    }

    /// The name used in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NoInterface(_) => "no_interface",
            Self::InterfaceContested { .. } => "interface_contested",
            Self::InterfaceBeyondLimit(_) => "interface_beyond_limit",
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
            Self::NoInterface(wanted) => write!(f, "no interface for {wanted} yet"),
            Self::InterfaceContested { interface, other } => {
                write!(f, "interface {interface} is also named by {}/{}: it is nobody's", other.namespace, other.name)
            }
            Self::InterfaceBeyondLimit(ifindex) => {
                write!(f, "interface index {ifindex} does not fit; raise limits.interfaces")
            }
            Self::AddressContested { address, other } => {
                write!(f, "address {address} is also claimed by {}/{}: it is nobody's", other.namespace, other.name)
            }
            Self::AddressRefused(address) => write!(f, "address {address} cannot be a pod's"),
            Self::NoAddress => write!(f, "no address yet"),
            Self::NoNumber(tenant) => write!(f, "tenant {tenant} has no number"),
            Self::NamespaceUnknown => write!(f, "namespace not known yet; isolated until it is"),
        }
    }
}
