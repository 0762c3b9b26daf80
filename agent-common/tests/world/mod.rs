//! The tables of a small cluster with four tenants, and frames to and from one pod of it.
//!
//! Every entry exists once for each family: the IPv6 address of a.b.c.d is fd00:a:b:c::d. So one test case checks both
//! families. A test builds the frames itself that only one family has.

#![allow(dead_code, reason = "each test file uses a part of it")]

use agent_common::addr::{Mac, V4, V6};
use agent_common::flow::Direction;
use agent_common::layout::{
    EndpointEntry, Grant, GrantKey, PORTS_ANY, PeerEntry, PortRange, PortSet, PrefixGrant, PrefixV4, PrefixV6, RowV4,
    RowV6,
};
use agent_common::mem_tables::{Judged, MemTables};
use agent_common::reason::DropReason;
use agent_common::tenant::{TenantId, TenantState};
use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header};

/// An address in both families.
pub(crate) type Host = [u8; 4];

/// The pod under test.
pub(crate) const LOCAL: Host = [10, 10, 1, 5];
/// A pod of its tenant.
pub(crate) const OWN_POD: Host = [10, 10, 1, 6];
/// A pod of another tenant.
pub(crate) const OTHER_POD: Host = [10, 10, 2, 7];
/// A pod of a Shared tenant.
pub(crate) const SHARED: Host = [10, 10, 3, 8];
/// A pod of an unassigned namespace.
pub(crate) const UNCLAIMED: Host = [10, 10, 4, 9];
/// An address of the cluster's pod range that is no pod.
pub(crate) const NO_POD: Host = [10, 10, 9, 9];
/// A host in the tenant's subnet, allowed on TCP 5432 only.
pub(crate) const DATABASE: Host = [10, 40, 0, 9];
/// A host in the tenant's subnet, allowed on all ports.
pub(crate) const FILES: Host = [10, 40, 1, 9];
/// A host in the other tenant's subnet.
pub(crate) const THEIR_DATABASE: Host = [10, 50, 0, 9];
/// A proxy that the tenant lists, on TCP 3128 only.
pub(crate) const PROXY: Host = [192, 0, 2, 200];
/// A node.
pub(crate) const NODE: Host = [192, 0, 2, 10];
/// A metadata service.
pub(crate) const METADATA: Host = [168, 63, 129, 16];
/// A Service with endpoints outside the cluster, which the tenant lists on port 80.
pub(crate) const LISTED: Host = [10, 96, 0, 80];
/// The same, which the tenant does not list.
pub(crate) const UNLISTED: Host = [10, 96, 0, 81];
/// A host outside the cluster that no tenant lists.
pub(crate) const WORLD: Host = [198, 51, 100, 9];

/// The pod's tenant.
pub(crate) const MINE: TenantId = TenantId(1);
/// Another tenant.
pub(crate) const THEIRS: TenantId = TenantId(2);
/// A Shared tenant.
pub(crate) const COMMON: TenantId = TenantId(3);
/// The implicit tenant of an unassigned namespace.
pub(crate) const UNASSIGNED: TenantId = TenantId(4);

/// Port sets.
pub(crate) const POSTGRES: u16 = 1;
pub(crate) const SQUID: u16 = 2;
pub(crate) const HTTP: u16 = 3;

/// The pod's hardware address.
pub(crate) const MAC: [u8; 6] = [2, 10, 0, 0, 1, 5];
/// The hardware address of its gateway.
pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0xfe, 0, 0, 1, 5];
/// The hardware address of another pod.
pub(crate) const OTHER_MAC: [u8; 6] = [2, 10, 0, 0, 1, 6];
/// The address of its gateway.
pub(crate) const GATEWAY: Host = [169, 254, 1, 1];

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;
pub(crate) const FIN: u8 = 1;
pub(crate) const RST: u8 = 4;

/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// The monotonic clock at the beginning of a test.
pub(crate) const START: u64 = 1_000 * SECOND;

/// Why a frame was denied; `None` if it passed.
pub(crate) type Denial = Option<DropReason>;

/// The tables, and verdicts on frames.
pub(crate) struct World {
    pub tables: MemTables,
}

/// The transport of a frame, from the pod's view: `remote` and `local` ports do not depend on the direction.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Udp {
        remote: u16,
        local: u16,
    },
    Tcp {
        remote: u16,
        local: u16,
        flags: u8,
    },
    Sctp {
        remote: u16,
        local: u16,
    },
    Echo {
        id: u16,
    },
    EchoReply {
        id: u16,
    },
    /// An ICMP error that quotes a packet of the other direction.
    Unreachable(Box<Content>),
    /// A later fragment of this protocol.
    Later(u8),
    /// A whole packet of this protocol.
    Other(u8),
}

/// A datagram to or from a port of the other side.
pub(crate) fn udp(remote: u16) -> Content {
    Content::Udp { remote, local: 40_000 }
}

/// A SYN to a port of the other side.
pub(crate) fn syn(remote: u16) -> Content {
    Content::Tcp { remote, local: 40_000, flags: SYN }
}

/// A SYN from the other side to a port of the pod.
pub(crate) fn syn_to(local: u16) -> Content {
    Content::Tcp { remote: 50_000, local, flags: SYN }
}

/// What the other side sends after [`syn_ack_from`].
pub(crate) fn ack_to(local: u16) -> Content {
    Content::Tcp { remote: 50_000, local, flags: ACK }
}

/// The pod's reply to [`syn_to`].
pub(crate) fn syn_ack_from(local: u16) -> Content {
    Content::Tcp { remote: 50_000, local, flags: SYN | ACK }
}

impl Default for World {
    fn default() -> Self {
        let mut world = Self { tables: MemTables::default() };
        world.tables.now_ns.set(START);
        world.tables.runtime.generation = 7;
        for (tenant, flags) in
            [(MINE, 0), (THEIRS, 0), (COMMON, TenantState::SHARED), (UNASSIGNED, TenantState::UNASSIGNED)]
        {
            world.tenant(tenant, flags);
        }
        world.pod_is(MINE);
        for (host, tenant, flags) in [
            (LOCAL, MINE, 0),
            (OWN_POD, MINE, 0),
            (OTHER_POD, THEIRS, 0),
            (SHARED, COMMON, PeerEntry::SHARED),
            (UNCLAIMED, UNASSIGNED, PeerEntry::UNASSIGNED),
        ] {
            world.peer(host, PeerEntry { tenant, kind: PeerEntry::POD, flags, _pad: 0 });
        }
        for (host, kind) in [
            (NODE, PeerEntry::NODE),
            (METADATA, PeerEntry::METADATA),
            (LISTED, PeerEntry::SERVICE_LISTED),
            (UNLISTED, PeerEntry::SERVICE_LISTED),
        ] {
            world.peer(host, PeerEntry { kind, ..PeerEntry::default() });
        }
        world.ports(POSTGRES, &[(TCP, 5432, 5432)]);
        world.ports(SQUID, &[(TCP, 3128, 3128)]);
        world.ports(HTTP, &[(TCP, 80, 80), (UDP, 80, 80)]);
        world.row(MINE, &[(LISTED, 32, HTTP), (PROXY, 32, SQUID), (DATABASE, 24, POSTGRES), (FILES, 24, PORTS_ANY)], 0);
        world.row(THEIRS, &[(THEIR_DATABASE, 24, PORTS_ANY)], 0);
        world.owner(DATABASE, 24, MINE);
        world.owner(FILES, 24, MINE);
        world.owner(THEIR_DATABASE, 24, THEIRS);
        world.owner([10, 10, 0, 0], 16, TenantId::CLUSTER);
        world
    }
}

impl World {
    /// A valid tenant; its row and slot are its number.
    pub(crate) fn tenant(&mut self, tenant: TenantId, flags: u32) {
        let number = tenant.0 as u16;
        self.tables
            .tenants
            .insert(tenant, TenantState { flags: flags | TenantState::VALID, row: number, slot: number });
    }

    /// Sets further flags of the pod's tenant.
    pub(crate) fn with(mut self, flags: u32) -> Self {
        self.tables.tenants.get_mut(&MINE).expect("the pod's tenant").flags |= flags;
        self
    }

    /// Gives the pod to a tenant.
    pub(crate) fn pod_is(&mut self, tenant: TenantId) {
        let entry = EndpointEntry {
            tenant,
            cookie: 77,
            v4: V4::new(LOCAL),
            mac: Mac::new(MAC),
            slot: 1,
            gateway_mac: Mac::new(GATEWAY_MAC),
            gateway_v4: V4::new(GATEWAY),
            v6: six(LOCAL),
            link_local: link_local(5),
            gateway_v6: link_local(1),
            flags: EndpointEntry::BRIDGED,
        };
        self.tables.endpoints.insert(1, entry);
    }

    /// Sets the peer at an address.
    pub(crate) fn peer(&mut self, host: Host, entry: PeerEntry) {
        self.tables.peers_v4.insert(V4::new(host), entry);
        self.tables.peers_v6.insert(six(host), entry);
    }

    /// Writes a tenant's row, in this order.
    pub(crate) fn row(&mut self, tenant: TenantId, prefixes: &[(Host, u8, u16)], flags: u8) {
        let (mut v4, mut v6) = (RowV4::default(), RowV6::default());
        for (i, (host, length, ports)) in prefixes.iter().enumerate() {
            let grant = PrefixGrant { ports: *ports, flags, length: *length };
            let (net, mask) = (V4::new(*host), V4::mask(*length));
            v4.prefixes[i] = PrefixV4 { net: V4(net.0 & mask.0), mask, grant, _pad: 0 };
            let (net, mask) = (six(*host), V6::mask(longer(*length)));
            let net = V6 { hi: net.hi & mask.hi, lo: net.lo & mask.lo };
            v6.prefixes[i] = PrefixV6 { net, mask, grant: PrefixGrant { length: longer(*length), ..grant }, _pad: 0 };
        }
        self.tables.rows_v4.insert(tenant.0 as u16, v4);
        self.tables.rows_v6.insert(tenant.0 as u16, v6);
    }

    /// Sets the owner of a range.
    pub(crate) fn owner(&mut self, host: Host, length: u8, tenant: TenantId) {
        self.tables.owners_v4.push((V4::new(host), length, tenant));
        self.tables.owners_v6.push((six(host), longer(length), tenant));
    }

    /// Writes a port set.
    pub(crate) fn ports(&mut self, set: u16, ranges: &[(u8, u16, u16)]) {
        let mut ports = PortSet::default();
        for (i, (protocol, low, high)) in ranges.iter().enumerate() {
            ports.ranges[i] = PortRange { protocol: *protocol, low: *low, high: *high, _pad: 0 };
        }
        self.tables.port_sets.insert(set, ports);
    }

    /// Lets `from` open connections to `to`.
    pub(crate) fn grant(&mut self, from: TenantId, to: TenantId, until: u64) {
        self.tables.grants.insert(GrantKey { from, to }, Grant { until });
        for tenant in [from, to] {
            if let Some(state) = self.tables.tenants.get_mut(&tenant) {
                state.flags |= TenantState::HAS_GRANTS;
            }
        }
    }

    /// Advances the clock.
    pub(crate) fn wait(&self, seconds: u64) {
        self.tables.now_ns.set(self.tables.now_ns.get() + seconds * SECOND);
    }

    /// Judges a packet from the pod, in both families.
    pub(crate) fn sends(&self, to: Host, content: &Content) -> Denial {
        same(
            to,
            content,
            [false, true].map(|six| self.judge(Direction::Egress, &frame(six, Direction::Egress, to, content))),
        )
    }

    /// Judges a packet to the pod, in both families.
    pub(crate) fn receives(&self, from: Host, content: &Content) -> Denial {
        let judge = |six| self.judge(Direction::Ingress, &frame(six, Direction::Ingress, from, content));
        same(from, content, [false, true].map(judge))
    }

    /// Why a frame is denied.
    pub(crate) fn judge(&self, direction: Direction, frame: &[u8]) -> Denial {
        self.judged(direction, frame).reason()
    }

    /// The outcome for a frame, with its reason and peer.
    pub(crate) fn judged(&self, direction: Direction, frame: &[u8]) -> Judged {
        self.tables.judge(1, direction, frame)
    }
}

fn same(host: Host, content: &Content, [four, six]: [Denial; 2]) -> Denial {
    assert_eq!(four, six, "IPv4 and IPv6 differ for {content:?} and {host:?}");
    four
}

/// The IPv6 address of a host.
pub(crate) fn six(host: Host) -> V6 {
    V6::new(six_octets(host))
}

fn six_octets([a, b, c, d]: Host) -> [u8; 16] {
    [0xfd, 0, 0, a, 0, b, 0, c, 0, 0, 0, 0, 0, 0, 0, d]
}

/// A link-local address.
pub(crate) fn link_local(last: u8) -> V6 {
    let mut octets = [0; 16];
    (octets[0], octets[1], octets[15]) = (0xfe, 0x80, last);
    V6::new(octets)
}

/// The length of the IPv6 prefix; only prefixes of whole octets have one.
fn longer(length: u8) -> u8 {
    match length {
        0 => 0,
        32 => 128,
        length => 16 + length * 2,
    }
}

/// The bytes of a frame between the pod and `other`.
pub(crate) fn frame(six: bool, direction: Direction, other: Host, content: &Content) -> Vec<u8> {
    let (source, destination) = match direction {
        Direction::Egress => (LOCAL, other),
        Direction::Ingress => (other, LOCAL),
    };
    let out = direction == Direction::Egress;
    let (protocol, transport) = transport(six, out, other, content);
    let fragment = if matches!(content, Content::Later(_)) { 5 } else { 0 };
    packet(six, out, source, destination, protocol, fragment, &transport)
}

/// Wraps a transport in IP and Ethernet.
pub(crate) fn packet(
    six: bool,
    out: bool,
    source: Host,
    destination: Host,
    protocol: u8,
    fragment: u16,
    transport: &[u8],
) -> Vec<u8> {
    let mut bytes = ethernet(out, if six { 0x86dd } else { 0x0800 });
    if six {
        let extra = if fragment == 0 { vec![] } else { fragment_header(protocol, fragment << 3) };
        let next = if fragment == 0 { protocol } else { 44 };
        bytes.extend(ipv6(six_octets(source), six_octets(destination), next, extra.len() + transport.len()));
        bytes.extend(extra);
    } else {
        bytes.extend(ipv4(source, destination, protocol, fragment, &[], transport.len()));
    }
    bytes.extend(transport);
    bytes
}

/// An Ethernet header, pod to gateway or back.
pub(crate) fn ethernet(out: bool, ethertype: u16) -> Vec<u8> {
    let (to, from) = if out { (GATEWAY_MAC, MAC) } else { (MAC, GATEWAY_MAC) };
    [&to[..], &from, &ethertype.to_be_bytes()].concat()
}

/// An IPv4 header with a right checksum.
pub(crate) fn ipv4(
    source: Host,
    destination: Host,
    protocol: u8,
    fragment: u16,
    options: &[u8],
    payload: usize,
) -> Vec<u8> {
    let payload = u16::try_from(payload).expect("a short packet");
    let mut header = Ipv4Header::new(payload, 64, IpNumber(protocol), source, destination).expect("a header");
    header.options = options.try_into().expect("options in words");
    header.set_payload_len(usize::from(payload)).expect("a short packet");
    header.dont_fragment = false;
    header.more_fragments = fragment & 0x2000 != 0;
    header.fragment_offset = (fragment & 0x1fff).try_into().expect("13 bits");
    header.header_checksum = header.calc_header_checksum();
    header.to_bytes().to_vec()
}

/// An IPv6 header.
pub(crate) fn ipv6(source: [u8; 16], destination: [u8; 16], next_header: u8, payload: usize) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: u16::try_from(payload).expect("a short packet"),
        next_header: IpNumber(next_header),
        hop_limit: 64,
        source,
        destination,
    };
    header.to_bytes().to_vec()
}

/// An IPv6 fragment header.
pub(crate) fn fragment_header(next: u8, word: u16) -> Vec<u8> {
    let [high, low] = word.to_be_bytes();
    vec![next, 0, high, low, 0, 0, 0, 9]
}

/// Protocol and bytes of a transport.
fn transport(six: bool, out: bool, other: Host, content: &Content) -> (u8, Vec<u8>) {
    let ports = |remote: u16, local: u16| {
        let (source, destination) = if out { (local, remote) } else { (remote, local) };
        [source.to_be_bytes(), destination.to_be_bytes()].concat()
    };
    let echo = |kind: [u8; 2], id: u16| {
        let [high, low] = id.to_be_bytes();
        (if six { ICMPV6 } else { ICMP }, vec![kind[usize::from(six)], 0, 0, 0, high, low, 0, 1])
    };
    match content {
        Content::Udp { remote, local } => (UDP, [&ports(*remote, *local)[..], &[0, 12, 0, 0], b"data"].concat()),
        Content::Tcp { remote, local, flags } => {
            let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, *flags, 0xff, 0xff, 0, 0, 0, 0];
            (TCP, [&ports(*remote, *local)[..], &rest].concat())
        }
        Content::Sctp { remote, local } => (132, [&ports(*remote, *local)[..], &[0; 8]].concat()),
        Content::Echo { id } => echo([8, 128], *id),
        Content::EchoReply { id } => echo([0, 129], *id),
        Content::Unreachable(about) => {
            let quoted = frame(six, if out { Direction::Ingress } else { Direction::Egress }, other, about);
            let (kind, protocol) = if six { (1, ICMPV6) } else { (3, ICMP) };
            (protocol, [&[kind, 1, 0, 0, 0, 0, 0, 0][..], &quoted[14..]].concat())
        }
        Content::Later(protocol) => (*protocol, vec![0xaa; 24]),
        Content::Other(protocol) => (*protocol, vec![0x55; 24]),
    }
}

/// Whether the source of a frame is the pod. It reads bytes at the offsets of the standards.
pub(crate) fn claims_the_pod(frame: &[u8]) -> bool {
    let at = |range: std::ops::Range<usize>| frame.get(range).unwrap_or_default();
    let (v6, local) = (six(LOCAL).octets(), link_local(5).octets());
    match at(12..14) {
        [0x08, 0x00] => at(26..30) == LOCAL,
        // A probe for the pod's own address has no sender yet.
        [0x08, 0x06] => at(28..32) == LOCAL || (at(28..32) == [0; 4] && at(38..42) == LOCAL),
        [0x86, 0xdd] => {
            let discovery = at(20..21) == [ICMPV6] && matches!(at(54..55), [135 | 136]);
            let about_own = at(62..78) == v6 || at(62..78) == local;
            at(22..38) == v6 || (discovery && (at(22..38) == local || (at(22..38) == [0; 16] && about_own)))
        }
        _ => false,
    }
}

/// Writes the right checksum, so that the frame reaches the later rules.
pub(crate) fn mend_checksum(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 0x0f) * 4;
    if frame[12..14] != [8, 0] || end < 34 || end > frame.len() {
        return;
    }
    frame[24..26].fill(0);
    let sum: u32 = frame[14..end].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// Sets the other end of a TCP or UDP frame.
pub(crate) fn aim(frame: &mut [u8], direction: Direction, remote: Host, port: u16) {
    let out = direction == Direction::Egress;
    let (at, body, address) = match frame.get(12..14) {
        Some([8, 0]) => (if out { 30 } else { 26 }, 34, remote.to_vec()),
        Some([0x86, 0xdd]) => (if out { 38 } else { 22 }, 54, six(remote).octets().to_vec()),
        _ => return,
    };
    if frame.len() < body + 4 {
        return;
    }
    frame[at..at + address.len()].copy_from_slice(&address);
    frame[body + 2 * usize::from(out)..][..2].copy_from_slice(&port.to_be_bytes());
    mend_checksum(frame);
}
