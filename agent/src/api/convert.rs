//! Converts written objects to inputs of the model: the only place that decides what a field means.
//!
//! Trusts no schema, because the definition at an API server may be older or edited. Every bound and rule is checked
//! again here, and an object is accepted whole or refused whole. Refuses to know other objects, files, and the time.

mod endpoint;
mod tenant;

use std::fmt;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::cidr;
use super::tenant::{MAX_NAME, RESERVED};
use policy::model::input;

pub(crate) use endpoint::endpoint;
pub(crate) use tenant::tenant;

/// The label of a namespace that Kubernetes keeps equal to its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Why an object is refused, and because of which field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field}: {problem}")]
pub(crate) struct ConvertError {
    /// `Kind/name`.
    pub object: String,
    /// Path of the field, such as `spec.subnets[1].cidr`.
    pub field: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// A required value is empty.
    #[error("is empty")]
    Empty,
    /// A list is too long.
    #[error("has {have} entries; at most {limit} are allowed")]
    TooMany {
        /// Entries in the list.
        have: usize,
        /// Entries that are allowed.
        limit: usize,
    },
    /// The text is not a name.
    #[error("{0:?} is not a valid name")]
    Name(String),
    /// Metrics and events use the name for something else.
    #[error("{0:?} is reserved for metrics and events")]
    Reserved(String),
    /// A name or member occurs twice.
    #[error("{0:?} is used twice")]
    Twice(String),
    /// The selector is empty and would select every namespace.
    #[error("must not be empty: it would select every namespace")]
    SelectsAll,
    /// The text is not a label.
    #[error("{0:?} is not a valid label key or value")]
    Label(String),
    /// The operator needs values and has none, or has values and takes none.
    #[error("operator and values do not match")]
    Operator,
    /// The text is not an address or network in canonical form.
    #[error(transparent)]
    Cidr(#[from] cidr::CidrError),
    /// A data subnet is too wide.
    #[error("{0} is too wide to be exclusive to one tenant")]
    TooWide(ipnet::IpNet),
    /// The range is loopback, link-local, multicast, unspecified, or holds a metadata address.
    #[error("{0} is not an ordinary unicast range")]
    NotUnicast(String),
    /// The protocol has no port, or the range ends before it begins.
    #[error("port and endPort do not match the protocol or each other")]
    Port,
    /// A Shared tenant lists a peer.
    #[error("a Shared tenant reaches every tenant already")]
    PeersOfShared,
    /// A tenant lists itself.
    #[error("a tenant cannot be its own peer")]
    PeerItself,
    /// The text is not a time.
    #[error("{0:?} is not a time with a zone")]
    Until(String),
    /// The endpoint has two addresses of a kind.
    #[error("has more than one {0} address")]
    Addresses(&'static str),
    /// The text is not a unicast hardware address.
    #[error("{0:?} is not a unicast hardware address")]
    Mac(String),
    /// The kernel or `ip netns` would refuse the name.
    #[error("{0:?} cannot be the name of an interface or network namespace")]
    PortName(String),
    /// Interface and network namespace are both set.
    #[error("interface and netns are both set")]
    TwoPorts,
    /// The field is set for an endpoint that is not local.
    #[error("is set without interface or netns")]
    NotLocal,
}

impl Problem {
    /// What to do; empty if the problem says it.
    pub(crate) const fn remedy(&self) -> &'static str {
        match self {
            Self::Empty => "set a value, or remove the field",
            Self::TooMany { .. } => "merge adjacent ranges, or split the object",
            Self::Name(_) => {
                "use at most 63 lower-case letters, digits and dashes, with a letter or digit at both ends"
            }
            Self::Reserved(_) | Self::Twice(_) => "choose another name",
            Self::SelectsAll => "require at least one label, such as kubernetes.io/metadata.name",
            Self::Label(_) => "use the syntax of Kubernetes labels",
            Self::Operator => "In and NotIn need values; Exists and DoesNotExist take none",
            Self::Cidr(_) | Self::PeerItself => "",
            Self::TooWide(_) => "use /8 or longer for IPv4 and /16 or longer for IPv6, or list the range in egress",
            Self::NotUnicast(_) => "remove it",
            Self::Port => "remove port from ICMP; set endPort only with port, and not below it",
            Self::PeersOfShared => "remove peers",
            Self::Until(_) => "write RFC 3339 with a zone: 2027-01-31T00:00:00Z",
            Self::Addresses(_) => "keep at most one IPv4, one IPv6 and one IPv6 link-local address",
            Self::Mac(_) => "write six two-digit hexadecimal numbers joined by colons, such as 02:00:00:00:00:01",
            Self::PortName(_) => "use 1 to 15 characters without space, slash and colon for an interface",
            Self::TwoPorts => "keep one of them",
            Self::NotLocal => "set interface or netns, or remove the field",
        }
    }
}

impl ConvertError {
    /// What to do; empty if the problem says it.
    pub(crate) const fn remedy(&self) -> &'static str {
        self.problem.remedy()
    }
}

/// Converts a namespace. Only annotations that `keep` accepts are kept.
///
/// # Errors
/// The name is not a DNS label.
pub(crate) fn namespace(
    namespace: &v1::Namespace,
    keep: impl Fn(&str) -> bool,
) -> Result<input::Namespace, ConvertError> {
    let meta = &namespace.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let errors = ObjectErrors::new("Namespace", &name);
    errors.check("metadata.name", is_dns_label(&name), || Problem::Name(name.clone()))?;
    let mut labels = meta.labels.clone().unwrap_or_default();
    // The API server sets this label to the name. A file may omit it or give another name.
    labels.insert(NAME_LABEL.to_owned(), name.clone());
    let annotations = meta.annotations.clone().unwrap_or_default().into_iter().filter(|(key, _)| keep(key)).collect();
    Ok(input::Namespace { name, labels, annotations })
}

/// Whether `text` is RFC 3339 with a zone, in the spelling that every parser reads alike.
pub(crate) fn is_rfc3339(text: &str) -> bool {
    seconds(text).is_some()
}

/// Unix time in seconds, rounded down, so that a permission ends early rather than late.
fn seconds(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let shape = b"0000-00-00T00:00:00";
    let head = bytes.get(..shape.len())?;
    let fits =
        head.iter().zip(shape).all(|(have, want)| if *want == b'0' { have.is_ascii_digit() } else { have == want });
    // `None` inside a character that is not ASCII, which no time has.
    let tail = text.get(shape.len()..)?;
    let zone = tail.strip_prefix('.').map_or(tail, |digits| digits.trim_start_matches(|c: char| c.is_ascii_digit()));
    let zoned = zone == "Z" || (zone.len() == 6 && zone.starts_with(['+', '-']) && zone.as_bytes()[3] == b':');
    let at: jiff::Timestamp = text.parse().ok().filter(|_| fits && zoned)?;
    Some(at.as_second())
}

/// Name and age of an object.
fn age(meta: &ObjectMeta) -> input::Age {
    let created = meta.creation_timestamp.as_ref().map_or(0, |Time(at)| at.as_second());
    input::Age { created, name: meta.name.clone().unwrap_or_default() }
}

/// Builds the errors of one object.
struct ObjectErrors {
    object: String,
}

impl ObjectErrors {
    fn new(kind: &str, name: &str) -> Self {
        Self { object: format!("{kind}/{name}") }
    }

    fn at(&self, field: impl fmt::Display, problem: impl Into<Problem>) -> ConvertError {
        ConvertError { object: self.object.clone(), field: field.to_string(), problem: problem.into() }
    }

    fn check(&self, field: &str, ok: bool, problem: impl FnOnce() -> Problem) -> Result<(), ConvertError> {
        if ok { Ok(()) } else { Err(self.at(field, problem())) }
    }

    fn at_most(&self, field: &str, have: usize, limit: usize) -> Result<(), ConvertError> {
        self.check(field, have <= limit, || Problem::TooMany { have, limit })
    }
}

/// Lower-case letters, digits and dashes, 1 to 63, a letter or digit at both ends.
fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Checks a tenant's name: DNS labels joined by dots, at most 63 characters, and not reserved.
fn tenant_name(text: &str) -> Result<(), Problem> {
    if RESERVED.contains(&text) {
        return Err(Problem::Reserved(text.to_owned()));
    }
    if text.len() > MAX_NAME || !text.split('.').all(is_dns_label) {
        return Err(Problem::Name(text.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
