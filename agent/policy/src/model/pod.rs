//! A pod as the cluster stores it: the contents of an `Endpoint` in a tenth of the memory.
//!
//! Knows no rule of the policy. A node may know a million pods and run a hundred of them, so every byte of a remote
//! pod counts. What only local pods have is behind a pointer.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use agent_common::addr::{Address, V4, V6};

use super::input::{Attachment, Endpoint, EndpointKey};
use super::name::Name;

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub name: Box<str>,
    /// Its UID.
    pub uid: Uid,
    /// Creation time in seconds since 1970. 32 bits suffice until 2106.
    pub created: u32,
    /// Its IPv4 address, or zero.
    pub v4: V4,
    /// Its IPv6 address, or zero.
    pub v6: V6,
    /// Its workload.
    pub workload: Option<Arc<Workload>>,
    /// What only a pod of this node has.
    pub local: Option<Box<LocalPod>>,
}

/// What only a pod of this node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// How it is attached.
    pub attachment: Attachment,
    /// Its link-local address, or zero if none was reported.
    pub link_local: V6,
}

/// The workload that a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Kind, such as `Deployment`.
    pub kind: Box<str>,
    /// Name.
    pub name: Box<str>,
}

/// A UID. Nearly every UID is a UUID in its usual spelling, and 16 bytes are less than half of that text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Uid {
    /// A lower-case hyphenated UUID.
    Uuid([u8; 16]),
    /// Anything else, kept as it was written.
    Text(Box<str>),
}

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        match uuid::Uuid::try_parse(text) {
            Ok(uuid) if uuid.as_hyphenated().to_string() == text => Self::Uuid(uuid.into_bytes()),
            _ => Self::Text(text.into()),
        }
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(bytes) => uuid::Uuid::from_bytes(*bytes).as_hyphenated().fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Pod {
    /// The pod of an endpoint. Of several addresses of one kind (IPv4, IPv6, link-local), the first counts.
    pub fn new(endpoint: Endpoint, namespace: Name, workload: Option<Arc<Workload>>) -> Self {
        let mut pod = Self {
            namespace,
            name: endpoint.key.name.into(),
            uid: Uid::from(endpoint.uid.as_str()),
            created: u32::try_from(endpoint.created.max(0)).unwrap_or(u32::MAX),
            v4: V4::default(),
            v6: V6::default(),
            workload,
            local: endpoint.local.map(|attachment| Box::new(LocalPod { attachment, link_local: V6::default() })),
        };
        endpoint.addresses.into_iter().for_each(|address| pod.take(address));
        pod
    }

    /// Its addresses, without the link-local one.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = (self.v4 != V4::default()).then(|| v4_addr(self.v4).into());
        let v6 = (self.v6 != V6::default()).then(|| v6_addr(self.v6).into());
        v4.into_iter().chain(v6)
    }

    /// Its namespace and name.
    pub fn key(&self) -> EndpointKey {
        EndpointKey { namespace: self.namespace.to_string(), name: self.name.to_string() }
    }

    fn take(&mut self, address: IpAddr) {
        match address.to_canonical() {
            IpAddr::V4(v4) => fill(&mut self.v4, V4::new(v4.octets())),
            IpAddr::V6(v6) => self.take_v6(V6::new(v6.octets())),
        }
    }

    fn take_v6(&mut self, address: V6) {
        match (address.is_link_local(), &mut self.local) {
            (false, _) => fill(&mut self.v6, address),
            (true, Some(local)) => fill(&mut local.link_local, address),
            (true, None) => {}
        }
    }
}

fn fill<A: Default + PartialEq>(field: &mut A, address: A) {
    if *field == A::default() {
        *field = address;
    }
}

/// As the standard library's type.
pub fn v4_addr(address: V4) -> Ipv4Addr {
    Ipv4Addr::from(address.octets())
}

/// As the standard library's type.
pub fn v6_addr(address: V6) -> Ipv6Addr {
    Ipv6Addr::from(address.octets())
}

/// Whether a pod can have this address at all. A multicast address, for example, is never a pod's.
pub(crate) fn is_possible(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => plausible(V4::new(v4.octets())),
        IpAddr::V6(v6) => plausible(V6::new(v6.octets())),
    }
}

fn plausible<A: Address>(address: A) -> bool {
    !address.is_martian() && !address.is_multicast() && !address.embeds_v4()
}

/// A pod in a hash set, found by its name. It is one pointer, without a second copy of the name.
#[derive(Clone, Debug)]
pub struct PodByName(pub Arc<Pod>);

impl Borrow<str> for PodByName {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl Hash for PodByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl PartialEq for PodByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for PodByName {}

/// Workloads that pods share, each stored once.
#[derive(Clone, Debug, Default)]
pub struct Workloads {
    known: HashSet<Arc<Workload>>,
    sweep_at: usize,
}

impl Workloads {
    /// The shared value for this kind and name.
    pub(crate) fn intern(&mut self, (kind, name): (String, String)) -> Arc<Workload> {
        let wanted = Workload { kind: kind.into(), name: name.into() };
        if let Some(known) = self.known.get(&wanted) {
            return Arc::clone(known);
        }
        self.sweep();
        let new = Arc::new(wanted);
        self.known.insert(Arc::clone(&new));
        new
    }

    /// Removes workloads without pods whenever the set has doubled, because every run of a job has a new name.
    fn sweep(&mut self) {
        if self.known.len() >= self.sweep_at.max(1024) {
            self.known.retain(|workload| Arc::strong_count(workload) > 1);
            self.sweep_at = self.known.len() * 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_written_as_it_was_read() {
        for text in ["5b0c7b52-3c0f-4e3a-9b86-0d4a4b9a2f10", "5B0C7B52-3C0F-4E3A-9B86-0D4A4B9A2F10", "web-0", ""] {
            assert_eq!(Uid::from(text).to_string(), text);
        }
        assert!(matches!(Uid::from("5b0c7b52-3c0f-4e3a-9b86-0d4a4b9a2f10"), Uid::Uuid(_)));
    }

    #[test]
    fn a_remote_pod_takes_no_more_than_88_bytes() {
        assert!(size_of::<Pod>() <= 88, "{}", size_of::<Pod>());
    }

    #[test]
    fn the_first_address_of_each_kind_counts() {
        let endpoint = Endpoint {
            addresses: ["fe80::1", "10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"].map(|a| a.parse().expect("a")).into(),
            local: Some(Attachment::default()),
            ..Endpoint::default()
        };
        let pod = Pod::new(endpoint, Name::from("ns"), None);
        assert_eq!(pod.addresses().map(|a| a.to_string()).collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"]);
        assert_eq!(v6_addr(pod.local.expect("local").link_local).to_string(), "fe80::1");
    }

    #[test]
    fn addresses_that_no_pod_can_have_are_refused() {
        for text in ["127.0.0.1", "169.254.169.254", "224.0.0.1", "::1", "fe80::1", "ff02::1", "64:ff9b::1"] {
            assert!(!is_possible(text.parse().expect("an address")), "{text}");
        }
        for text in ["10.0.0.1", "192.0.2.1", "fd00::1", "2001:db8::1"] {
            assert!(is_possible(text.parse().expect("an address")), "{text}");
        }
    }

    #[test]
    fn workloads_without_pods_are_removed() {
        let mut workloads = Workloads::default();
        let kept = workloads.intern(("Deployment".into(), "web".into()));
        for n in 0..5000 {
            workloads.intern(("Job".into(), format!("run-{n}")));
        }
        assert!(workloads.known.len() <= 1025, "{}", workloads.known.len());
        assert!(Arc::ptr_eq(&kept, &workloads.intern(("Deployment".into(), "web".into()))));
    }
}
