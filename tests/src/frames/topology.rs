//! The network of the corpus: two tenants, a node, a gateway, hosts outside.
//!
//! The assumed policy: a tenant reaches its own ranges and the name service on port 53, and nothing else.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A hardware address.
pub type Mac = [u8; 6];

/// The sending pod, of tenant A.
pub const A: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 5);
/// The same over IPv6.
pub const A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa, 0, 0, 0, 0, 0, 0x105);
/// Its link-local address.
pub const A_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa105);
/// Its hardware address.
pub const A_MAC: Mac = [0x02, 0x0a, 0, 0, 1, 5];

/// Another pod of tenant A.
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 6);
/// The same over IPv6.
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa, 0, 0, 0, 0, 0, 0x106);
/// Its hardware address.
pub const PEER_MAC: Mac = [0x02, 0x0a, 0, 0, 1, 6];

/// A pod of tenant B.
pub const B: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 7);
/// The same over IPv6.
pub const B6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xb, 0, 0, 0, 0, 0, 0x107);
/// Its hardware address.
pub const B_MAC: Mac = [0x02, 0x0b, 0, 0, 1, 7];

/// The node.
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The same over IPv6.
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// The pod's gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same over IPv6.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The gateway's hardware address.
pub const GATEWAY_MAC: Mac = [0x02, 0xfe, 0, 0, 1, 5];

/// The name service, of a Shared tenant.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The same over IPv6.
pub const DNS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0xa);
/// A host on the internet.
pub const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
/// The same over IPv6.
pub const EXTERNAL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9);
/// The cloud's metadata service.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The same over IPv6.
pub const METADATA6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Everybody on the link.
pub const BROADCAST_MAC: Mac = [0xff; 6];
/// All nodes.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The hardware address of an IPv6 multicast group (RFC 2464, 7).
pub fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// The solicited-node group of an address (RFC 4291, 2.7.1).
pub fn solicited(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}
