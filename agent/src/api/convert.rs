//! Written objects to model inputs: the only place that decides what a field means.
//!
//! Trusts no schema: an object may come from an API server whose definition is older, or was edited.
//! So every bound and rule is checked again here, and an object is taken whole or not at all. Refuses to
//! know other objects, files, and the time.

mod endpoint;
mod tenant;

use std::fmt;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::cidr;
use super::tenant::{MAX_NAME, RESERVED};
use policy::model::input;

pub use endpoint::endpoint;
pub use tenant::tenant;

/// The label that Kubernetes itself keeps equal to a namespace's name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// An object that is refused, and the field that is why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field}: {problem}")]
pub struct Error {
    /// `Kind/name`.
    pub object: String,
    /// Path of the field, such as `spec.subnets[1].cidr`.
    pub field: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No value where one must be.
    #[error("is empty")]
    Empty,
    /// A list over its bound.
    #[error("has {have} entries, at most {limit} are allowed")]
    TooMany {
        /// How many there are.
        have: usize,
        /// How many may be.
        limit: usize,
    },
    /// Not the form of a name.
    #[error("{0:?} is not a valid name")]
    Name(String),
    /// A name that metrics and events use otherwise.
    #[error("{0:?} is reserved")]
    Reserved(String),
    /// The same name or member twice.
    #[error("{0:?} is used twice")]
    Twice(String),
    /// Would select every namespace.
    #[error("must not be empty: it would select every namespace")]
    SelectsAll,
    /// Not a label.
    #[error("{0:?} is not a valid label key or value")]
    Label(String),
    /// Values where none belong, or none where they do.
    #[error("operator and values do not fit")]
    Operator,
    /// Not an address or network in the one spelling.
    #[error(transparent)]
    Cidr(#[from] cidr::Error),
    /// Too much to own.
    #[error("{0} is too wide to be exclusive to one tenant")]
    TooWide(ipnet::IpNet),
    /// Loopback, link-local, multicast, unspecified, metadata.
    #[error("{0} is not ordinary unicast space")]
    NotUnicast(String),
    /// A port where there is none, or a range that ends before it begins.
    #[error("port and endPort do not fit the protocol or each other")]
    Port,
    /// Shared tenants have no peers.
    #[error("a Shared tenant reaches every tenant already")]
    PeersOfShared,
    /// A tenant lists itself.
    #[error("a tenant cannot be its own peer")]
    PeerItself,
    /// Not a point in time.
    #[error("{0:?} is not a point in time")]
    Until(String),
    /// More than one address of a kind.
    #[error("has more than one {0} address")]
    Addresses(&'static str),
    /// Not a hardware address of one station.
    #[error("{0:?} is not the hardware address of one station")]
    Mac(String),
    /// Not a name the kernel or `ip netns` would take.
    #[error("{0:?} cannot be the name of an interface or network namespace")]
    PortName(String),
    /// Two answers to where an endpoint is attached.
    #[error("interface and netns are both given")]
    TwoPorts,
    /// Something only a local endpoint has.
    #[error("is given without interface or netns")]
    NotLocal,
}

impl Problem {
    /// What to do about it; empty where the problem says it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Empty => "fill it, or remove the field",
            Self::TooMany { .. } => "merge adjacent ranges, or split the object",
            Self::Name(_) => "lower-case letters, digits and dashes, at most 63, a letter or digit at both ends",
            Self::Reserved(_) | Self::Twice(_) => "choose another name",
            Self::SelectsAll => "name at least one label, such as kubernetes.io/metadata.name",
            Self::Label(_) => "see the syntax of Kubernetes labels",
            Self::Operator => "In and NotIn need values, Exists and DoesNotExist take none",
            Self::Cidr(_) | Self::PeerItself => "",
            Self::TooWide(_) => "at most /8 for IPv4 and /16 for IPv6; wide ranges belong in egress",
            Self::NotUnicast(_) => "remove it",
            Self::Port => "ICMP has no port; endPort needs port and must not be below it",
            Self::PeersOfShared => "remove peers",
            Self::Until(_) => "write RFC 3339 with a zone: 2027-01-31T00:00:00Z",
            Self::Addresses(_) => "at most one IPv4, one IPv6 and one IPv6 link-local",
            Self::Mac(_) => "six two-digit hexadecimal numbers joined by colons, such as 02:00:00:00:00:01",
            Self::PortName(_) => "an interface name has 1 to 15 characters, none of them a space or a slash",
            Self::TwoPorts => "keep the one that is known",
            Self::NotLocal => "say where the endpoint is attached, or remove it",
        }
    }
}

impl Error {
    /// What to do about it; empty where the problem says it.
    pub const fn remedy(&self) -> &'static str {
        self.problem.remedy()
    }
}

/// A namespace. `keep` names the annotations that a tenancy key reads; the rest is dropped.
pub fn namespace(namespace: &v1::Namespace, keep: impl Fn(&str) -> bool) -> Result<input::Namespace, Error> {
    let meta = &namespace.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let blame = Blame::new("Namespace", &name);
    blame.check("metadata.name", is_dns_label(&name), || Problem::Name(name.clone()))?;
    let mut labels = meta.labels.clone().unwrap_or_default();
    // The API server keeps this label true; a file might leave it out, or claim another name.
    labels.insert(NAME_LABEL.to_owned(), name.clone());
    let annotations = meta.annotations.clone().unwrap_or_default().into_iter().filter(|(key, _)| keep(key)).collect();
    Ok(input::Namespace { name, labels, annotations })
}

/// Whether `text` is RFC 3339 with a zone, in the spelling that everybody reads alike.
pub fn is_rfc3339(text: &str) -> bool {
    seconds(text).is_some()
}

/// Seconds since 1970, a part of a second left out: a permission rather ends early.
fn seconds(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let shape = b"0000-00-00T00:00:00";
    let head = bytes.get(..shape.len())?;
    let fits =
        head.iter().zip(shape).all(|(have, want)| if *want == b'0' { have.is_ascii_digit() } else { have == want });
    let tail = &text[shape.len()..];
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

/// The object that errors are about.
struct Blame {
    object: String,
}

impl Blame {
    fn new(kind: &str, name: &str) -> Self {
        Self { object: format!("{kind}/{name}") }
    }

    fn on(&self, field: impl fmt::Display, problem: impl Into<Problem>) -> Error {
        Error { object: self.object.clone(), field: field.to_string(), problem: problem.into() }
    }

    fn check(&self, field: &str, ok: bool, problem: impl FnOnce() -> Problem) -> Result<(), Error> {
        if ok { Ok(()) } else { Err(self.on(field, problem())) }
    }

    fn at_most(&self, field: &str, have: usize, limit: usize) -> Result<(), Error> {
        self.check(field, have <= limit, || Problem::TooMany { have, limit })
    }
}

/// Lower-case letters, digits and dashes, 1 to 63, a letter or digit at both ends.
fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A tenant's name: DNS labels joined by dots, 63 characters in all, none of the reserved.
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
