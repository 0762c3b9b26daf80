//! The hosts of the test network: their names, addresses and ports.
//!
//! All test networks use this table. Each has network namespaces of its own, so equal addresses never conflict.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One end of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A pod of acme on this node.
    AcmeWeb,
    /// Another pod of acme on this node.
    AcmeApi,
    /// A pod of globex on this node.
    GlobexWeb,
    /// Another pod of globex on this node.
    GlobexApi,
    /// The DNS pod of a Shared tenant.
    Dns,
    /// A pod of acme on another node.
    AcmeFar,
    /// A pod of globex on another node.
    GlobexFar,
    /// A database in acme's data subnet.
    AcmeDb,
    /// A database in globex's data subnet.
    GlobexDb,
    /// A host on the internet.
    Internet,
    /// The cloud's metadata service.
    Metadata,
    /// The node itself.
    Node,
}

/// The link-local gateways of routed pods.
pub const ROUTED_GATEWAYS: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(169, 254, 1, 1), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// The gateways of bridged pods: the bridge's own addresses.
pub const BRIDGED_GATEWAYS: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 244, 1, 1), Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 1));
/// The node's neighbour on its uplink.
pub const UPSTREAM: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1));

impl Host {
    /// All hosts.
    pub const ALL: [Self; 12] = [
        Self::AcmeWeb,
        Self::AcmeApi,
        Self::GlobexWeb,
        Self::GlobexApi,
        Self::Dns,
        Self::AcmeFar,
        Self::GlobexFar,
        Self::AcmeDb,
        Self::GlobexDb,
        Self::Internet,
        Self::Metadata,
        Self::Node,
    ];
    /// The pods of this node.
    pub const PODS: [Self; 5] = [Self::AcmeWeb, Self::AcmeApi, Self::GlobexWeb, Self::GlobexApi, Self::Dns];
    /// The hosts beyond the uplink.
    pub const OUTSIDE: [Self; 6] =
        [Self::AcmeFar, Self::GlobexFar, Self::AcmeDb, Self::GlobexDb, Self::Internet, Self::Metadata];

    /// A short name for output. For a pod it is the pod's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AcmeWeb => "acme-web",
            Self::AcmeApi => "acme-api",
            Self::GlobexWeb => "globex-web",
            Self::GlobexApi => "globex-api",
            Self::Dns => "dns",
            Self::AcmeFar => "acme-far",
            Self::GlobexFar => "globex-far",
            Self::AcmeDb => "acme-db",
            Self::GlobexDb => "globex-db",
            Self::Internet => "internet",
            Self::Metadata => "metadata",
            Self::Node => "node",
        }
    }

    /// The namespace of a pod, on this node or another one.
    pub const fn namespace(self) -> Option<&'static str> {
        match self {
            Self::AcmeWeb | Self::AcmeApi | Self::AcmeFar => Some("acme-prod"),
            Self::GlobexWeb | Self::GlobexApi | Self::GlobexFar => Some("globex-prod"),
            Self::Dns => Some("platform-dns"),
            _ => None,
        }
    }

    /// IPv4 address.
    pub const fn v4(self) -> Ipv4Addr {
        match self {
            Self::AcmeWeb => Ipv4Addr::new(10, 244, 1, 11),
            Self::AcmeApi => Ipv4Addr::new(10, 244, 1, 12),
            Self::GlobexWeb => Ipv4Addr::new(10, 244, 1, 21),
            Self::GlobexApi => Ipv4Addr::new(10, 244, 1, 22),
            Self::Dns => Ipv4Addr::new(10, 244, 1, 53),
            Self::AcmeFar => Ipv4Addr::new(10, 244, 2, 11),
            Self::GlobexFar => Ipv4Addr::new(10, 244, 2, 21),
            Self::AcmeDb => Ipv4Addr::new(10, 40, 0, 10),
            Self::GlobexDb => Ipv4Addr::new(10, 41, 0, 10),
            Self::Internet => Ipv4Addr::new(198, 51, 100, 9),
            Self::Metadata => Ipv4Addr::new(169, 254, 169, 254),
            Self::Node => Ipv4Addr::new(192, 0, 2, 10),
        }
    }

    /// IPv6 address.
    pub const fn v6(self) -> Ipv6Addr {
        match self {
            Self::AcmeWeb => Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 0x11),
            Self::AcmeApi => Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 0x12),
            Self::GlobexWeb => Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 0x21),
            Self::GlobexApi => Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 0x22),
            Self::Dns => Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 0x53),
            Self::AcmeFar => Ipv6Addr::new(0xfd00, 0x244, 2, 0, 0, 0, 0, 0x11),
            Self::GlobexFar => Ipv6Addr::new(0xfd00, 0x244, 2, 0, 0, 0, 0, 0x21),
            Self::AcmeDb => Ipv6Addr::new(0xfd00, 0x40, 0, 0, 0, 0, 0, 0x10),
            Self::GlobexDb => Ipv6Addr::new(0xfd00, 0x41, 0, 0, 0, 0, 0, 0x10),
            Self::Internet => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9),
            Self::Metadata => Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
            Self::Node => Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10),
        }
    }

    /// Address of a family.
    pub const fn address(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4()),
            Family::V6 => IpAddr::V6(self.v6()),
        }
    }

    /// The port at which its servers listen, TCP and UDP.
    pub const fn port(self) -> u16 {
        match self {
            Self::Dns => 53,
            Self::AcmeDb | Self::GlobexDb => 5432,
            Self::Internet => 443,
            Self::Metadata => 80,
            Self::Node => 10250,
            _ => 8080,
        }
    }

    /// The address and port of its server, by family.
    pub fn server(self, family: Family) -> SocketAddr {
        SocketAddr::new(self.address(family), self.port())
    }

    /// Hardware address of a local pod, and of its gateway if pods are routed.
    pub fn macs(self) -> ([u8; 6], [u8; 6]) {
        let last = self.v4().octets()[3];
        ([0x02, 0x0a, 0, 0, 1, last], [0x02, 0xfe, 0, 0, 1, last])
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// A hardware address as `ip` writes it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
