//! The tables for the attack table: two tenants, a node, a gateway, a name service.
//!
//! The entries are written by hand and not by the agent's compiler, because the programs are under test here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_common::addr::{Mac, V4, V6};
use agent_common::headers::{TCP, UDP};
use agent_common::layout::{
    EndpointEntry, PORTS_ANY, PeerEntry, PortRange, PortSet, PrefixGrant, PrefixV4, PrefixV6, RowV4, RowV6, Runtime,
};
use agent_common::mem_tables::MemTables;
use agent_common::tenant::{TenantId, TenantState};

use super::LOOPBACK;
use crate::frames::topology;

/// Tenant A: 10.10.0.0/16 and fd00:a::/64.
pub const A: TenantId = TenantId(1);
/// Tenant B: 10.20.0.0/16 and fd00:b::/64.
pub const B: TenantId = TenantId(2);

/// Port set: 53 over UDP and TCP.
const DNS_PORTS: u16 = 1;

/// Every metadata address of ATK-012 and ATK-051.
const METADATA: [IpAddr; 7] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 253)),
    IpAddr::V6(topology::METADATA6),
];

/// The node's addresses: its own, and the gateway of its pods.
const NODE: [IpAddr; 4] = [
    IpAddr::V4(topology::NODE),
    IpAddr::V6(topology::NODE6),
    IpAddr::V4(topology::GATEWAY),
    IpAddr::V6(topology::GATEWAY6),
];

/// All tables, with pod A on the interface `LOOPBACK`.
pub fn tables() -> MemTables {
    let mut tables = MemTables { runtime: Runtime { generation: 1, clock_offset_ns: 0 }, ..MemTables::default() };
    tables.endpoints.insert(LOOPBACK, pod_a());
    tables.tenants.insert(A, tenant(1));
    tables.tenants.insert(B, tenant(2));
    tables.port_sets.insert(DNS_PORTS, ports(&[(UDP, 53, 53), (TCP, 53, 53)]));
    let [subnet_a, subnet_b] = [Ipv4Addr::new(10, 10, 0, 0), Ipv4Addr::new(10, 20, 0, 0)];
    let [subnet_a6, subnet_b6] = [0xa, 0xb].map(|tenant| Ipv6Addr::new(0xfd00, tenant, 0, 0, 0, 0, 0, 0));
    tables.rows_v4.insert(1, row_v4(&[(topology::DNS, 32, DNS_PORTS), (subnet_a, 16, PORTS_ANY)]));
    tables.rows_v6.insert(1, row_v6(&[(topology::DNS6, 128, DNS_PORTS), (subnet_a6, 64, PORTS_ANY)]));
    tables.rows_v4.insert(2, row_v4(&[(topology::DNS, 32, DNS_PORTS), (subnet_b, 16, PORTS_ANY)]));
    tables.rows_v6.insert(2, row_v6(&[(topology::DNS6, 128, DNS_PORTS), (subnet_b6, 64, PORTS_ANY)]));
    tables.owners_v4 = vec![(v4(subnet_a), 16, A), (v4(subnet_b), 16, B)];
    tables.owners_v6 = vec![(v6(subnet_a6), 64, A), (v6(subnet_b6), 64, B)];
    for (address, tenant) in [(topology::A, A), (topology::PEER, A), (topology::B, B)] {
        peer(&mut tables, address.into(), pod_of(tenant));
    }
    for (address, tenant) in [(topology::A6, A), (topology::PEER6, A), (topology::B6, B)] {
        peer(&mut tables, address.into(), pod_of(tenant));
    }
    for address in NODE {
        peer(&mut tables, address, PeerEntry { kind: PeerEntry::NODE, ..PeerEntry::default() });
    }
    for address in METADATA {
        peer(&mut tables, address, PeerEntry { kind: PeerEntry::METADATA, ..PeerEntry::default() });
    }
    tables
}

/// The local pod.
pub fn pod_a() -> EndpointEntry {
    EndpointEntry {
        tenant: A,
        cookie: 0x0a05,
        v4: v4(topology::A),
        mac: Mac::new(topology::A_MAC),
        slot: 1,
        gateway_mac: Mac::new(topology::GATEWAY_MAC),
        gateway_v4: v4(topology::GATEWAY),
        v6: v6(topology::A6),
        link_local: v6(topology::A_LOCAL),
        gateway_v6: v6(topology::GATEWAY6),
        flags: EndpointEntry::BRIDGED,
    }
}

/// An enforcing tenant. Its row and its counter slot have the same number.
pub fn tenant(number: u16) -> TenantState {
    TenantState { flags: TenantState::VALID, row: number, slot: number }
}

/// A pod of a tenant.
pub fn pod_of(tenant: TenantId) -> PeerEntry {
    PeerEntry { tenant, kind: PeerEntry::POD, ..PeerEntry::default() }
}

/// Adds a peer with an exact address.
pub fn peer(tables: &mut MemTables, address: IpAddr, entry: PeerEntry) {
    match address {
        IpAddr::V4(address) => tables.peers_v4.insert(v4(address), entry),
        IpAddr::V6(address) => tables.peers_v6.insert(v6(address), entry),
    };
}

/// Prefixes in the order given.
pub fn row_v4(prefixes: &[(Ipv4Addr, u8, u16)]) -> RowV4 {
    let mut row = RowV4::default();
    for (prefix, (net, length, ports)) in row.prefixes.iter_mut().zip(prefixes) {
        let grant = PrefixGrant { ports: *ports, flags: 0, length: *length };
        *prefix = PrefixV4 { net: v4(*net), mask: V4::mask(*length), grant, _pad: 0 };
    }
    row
}

/// Prefixes in the order given.
pub fn row_v6(prefixes: &[(Ipv6Addr, u8, u16)]) -> RowV6 {
    let mut row = RowV6::default();
    for (prefix, (net, length, ports)) in row.prefixes.iter_mut().zip(prefixes) {
        let grant = PrefixGrant { ports: *ports, flags: 0, length: *length };
        *prefix = PrefixV6 { net: v6(*net), mask: V6::mask(*length), grant, _pad: 0 };
    }
    row
}

/// A port set of ranges: protocol, first and last port.
pub fn ports(ranges: &[(u8, u16, u16)]) -> PortSet {
    let mut set = PortSet::default();
    for (range, (protocol, low, high)) in set.ranges.iter_mut().zip(ranges) {
        *range = PortRange { protocol: *protocol, low: *low, high: *high, _pad: 0 };
    }
    set
}

/// An address as the tables hold it.
pub fn v4(address: Ipv4Addr) -> V4 {
    V4::new(address.octets())
}

/// An address as the tables hold it.
pub fn v6(address: Ipv6Addr) -> V6 {
    V6::new(address.octets())
}
