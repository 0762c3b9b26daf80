//! The post-NAT check: the second verdict on a packet of a pod, with its final destination.
//!
//! `from_pod` sees the destination that the pod wrote. The node may translate it to any endpoint of a Service, or of an
//! address that a Service names as its external one. Those who may edit Services can do so while a packet is under way.
//! kube-proxy may apply an edit before or after the agent does, and keeps its choice for a connection. So a packet that
//! leaves the node or reaches a local pod is judged again with its final destination.
//!
//! The sender is the pod behind the interface by which the packet arrived. Only a bridge hides that interface; then the
//! mark that `from_pod` wrote names the tenant. Why the packet was allowed only the mark says, and another program may
//! wipe it. Kernel conntrack then says whether the packet is a reply, and also where the mark says so: conntrack, which
//! redirects replies, may forget a connection before our reply table does. No packet is allowed because it has no mark.

use crate::access::{Access, between, identify, other_owner};
use crate::addr::{V4, V6};
use crate::decide::{self, Rules};
use crate::endpoint::Claim;
use crate::flow::Direction;
use crate::headers::{
    AUTHENTICATION, ENCRYPTED, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Extension, FRAGMENT, Header, ICMPV6,
    Ipv4, Ipv6, SCTP, TCP, Transport, UDP,
};
use crate::layout::PeerEntry;
use crate::mark::{MarkKind, PacketMark};
use crate::parse::{self, MAX_EXTENSION_HEADERS, words};
use crate::query::Query;
use crate::reason::DropReason;
use crate::tables::{Family, Tables};
use crate::tenant::{LocalTenant, TenantId, TenantState};

/// A packet that can be read from its IP header on: some interfaces have no link header.
pub trait Network {
    /// The EtherType of the packet.
    fn ethertype(&self) -> u16;
    /// The header at `offset` bytes behind the beginning of the IP header; `None` if the packet is too short.
    fn read<H: Header>(&self, offset: u32) -> Option<H>;
    /// See [`behind_extensions`]. The kernel overrides it with a global function, which the verifier checks once.
    fn behind_extensions(&self, first: u8) -> Upper
    where
        Self: Sized,
    {
        behind_extensions(self, first)
    }
}

/// The sender of a packet: its tenant, and why the packet was allowed if a mark says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketSender {
    /// The tenant.
    pub tenant: TenantId,
    /// Why its packet was allowed; `None` if the mark was wiped.
    pub kind: Option<MarkKind>,
}

/// The sender of a packet that arrived by an interface of `claimant` (0 for an interface that is no claimed pod's).
/// `None` if no pod of this node sent it, as far as can be known. A mark of another tenant than the interface's was
/// changed by another program, and does not count.
#[inline(always)]
pub fn sender(claimant: TenantId, mark: Option<PacketMark>) -> Option<PacketSender> {
    let marked = match mark {
        Some(PacketMark { tenant, kind }) if !tenant.is_known() || tenant.0 == claimant.0 => Some(kind),
        _ => None,
    };
    match mark {
        _ if claimant.is_known() => Some(PacketSender { tenant: claimant, kind: marked }),
        Some(PacketMark { tenant, kind }) if tenant.is_known() => Some(PacketSender { tenant, kind: Some(kind) }),
        _ => None,
    }
}

/// The direction of a packet in its connection, as kernel conntrack sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnDirection {
    /// The sender opened the connection.
    Original,
    /// The other side did.
    Reply,
}

impl ConnDirection {
    /// From the state of a packet (`enum ip_conntrack_info`): `IP_CT_ESTABLISHED` 0, `IP_CT_NEW` 2,
    /// `IP_CT_ESTABLISHED_REPLY` 3, `IP_CT_RELATED_REPLY` 4. An error about a connection (1), an untracked packet (7)
    /// and a packet without an entry have no direction.
    #[inline(always)]
    pub const fn from_state(entry: u64) -> Option<Self> {
        match entry & 7 {
            _ if entry == 0 => None,
            0 | 2 => Some(Self::Original),
            3 | 4 => Some(Self::Reply),
            _ => None,
        }
    }
}

/// As what a packet is judged. A reply must be one in kernel conntrack's eyes too. A packet whose mark was wiped is a
/// request, unless conntrack says that it is a reply or does not know: then nothing was translated.
#[inline(always)]
pub fn effective_kind(kind: Option<MarkKind>, direction: Option<ConnDirection>) -> MarkKind {
    match (kind, direction) {
        (Some(MarkKind::Reply) | None, Some(ConnDirection::Original)) => MarkKind::Request,
        (Some(kind), _) => kind,
        (None, _) => MarkKind::Reply,
    }
}

/// Checks a packet of `local` where it leaves the node. Returns why it is denied. In Audit mode nothing is denied. ARP
/// and neighbour discovery stay on the link and are translated by nothing, so `from_pod` has judged them finally.
#[inline(always)]
pub fn check_leaving<N, T>(tables: &T, local: LocalTenant, kind: MarkKind, packet: &N) -> Option<DropReason>
where
    N: Network,
    T: Rules<V4> + Rules<V6>,
{
    if !local.state.has(TenantState::VALID) {
        return Some(DropReason::NotReady);
    }
    if local.state.has(TenantState::AUDIT) {
        return None;
    }
    match packet.ethertype() {
        ETHERTYPE_IPV4 => {
            let Some(ip) = packet.read::<Ipv4>(0) else { return Some(DropReason::Malformed) };
            let is_later = u16::from_be(ip.fragment_be) & 0x1fff != 0;
            let upper = Upper::new(ip.protocol, is_later, u32::from(ip.version_ihl & 0x0f) * 4);
            check_destination(tables, local, kind, V4(ip.destination), upper, port(packet, upper))
        }
        ETHERTYPE_IPV6 => {
            let Some(ip) = packet.read::<Ipv6>(0) else { return Some(DropReason::Malformed) };
            let upper = match ip.next_header {
                TCP | UDP => Upper::new(ip.next_header, false, size_of::<Ipv6>() as u32),
                first => packet.behind_extensions(first),
            };
            if upper.protocol() == ICMPV6 && is_discovery(packet, &ip, upper) {
                return None;
            }
            check_destination(tables, local, kind, words(ip.destination), upper, port(packet, upper))
        }
        ETHERTYPE_ARP => None,
        // The pod sent IP; no rule has decided on a packet of another type.
        _ => Some(DropReason::Ethertype),
    }
}

/// What is behind an IP header and its extension headers. It is one register; the zero value is a protocol without ports
/// that cannot be read.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper(u64);

impl Upper {
    const LATER: u64 = 1 << 8;

    /// The protocol at `offset` bytes behind the beginning of the IP header; `is_later` for a later fragment.
    #[inline(always)]
    pub const fn new(protocol: u8, is_later: bool, offset: u32) -> Self {
        let later = if is_later { Self::LATER } else { 0 };
        Self(protocol as u64 | later | (offset as u64) << 32)
    }

    /// As a register.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From a register.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    const fn protocol(self) -> u8 {
        self.0 as u8
    }

    const fn is_later(self) -> bool {
        self.0 & Self::LATER != 0
    }

    const fn offset(self) -> u32 {
        (self.0 >> 32) as u32 & parse::MAX_OFFSET as u32
    }
}

/// Follows the extension headers behind an IPv6 header, the first being of kind `first`. netfilter finds a port behind
/// them (`ipv6_skip_exthdr`), so a Service translates such packets too. A chain that is longer than what `from_pod` reads
/// ends at an extension header.
#[inline(always)]
pub fn behind_extensions<N: Network>(packet: &N, first: u8) -> Upper {
    let (mut protocol, mut offset) = (first, size_of::<Ipv6>() as u32);
    let mut step = 0;
    while step < MAX_EXTENSION_HEADERS && is_skipped(protocol) {
        step += 1;
        let Some(header) = packet.read::<Extension>(offset) else { break };
        if protocol == FRAGMENT && u16::from_be(header.word_be) >> 3 != 0 {
            return Upper::new(header.next_header, true, 0);
        }
        offset += match protocol {
            FRAGMENT => 8,
            // In words of 4 bytes, less 2 (RFC 4302).
            AUTHENTICATION => 8 + u32::from(header.length) * 4,
            _ => 8 + u32::from(header.length) * 8,
        };
        protocol = header.next_header;
        if offset > parse::MAX_OFFSET as u32 {
            break;
        }
    }
    Upper::new(protocol, false, offset)
}

/// Whether a header precedes the transport header.
#[inline(always)]
const fn is_skipped(protocol: u8) -> bool {
    protocol == AUTHENTICATION || parse::is_extension(protocol)
}

/// Whether a packet is neighbour discovery (RFC 4861), which no router forwards: its hop limit is still 255.
#[inline(always)]
fn is_discovery<N: Network>(packet: &N, ip: &Ipv6, upper: Upper) -> bool {
    let kind = packet.read::<Transport>(upper.offset()).map(|header| header.first_be.to_ne_bytes()[0]);
    ip.hop_limit == 255 && matches!(kind, Some(133..=137))
}

/// The destination port; `None` where the protocol has none, or the port cannot be read.
#[inline(always)]
fn port<N: Network>(packet: &N, upper: Upper) -> Option<u16> {
    if upper.is_later() || !has_ports(upper.protocol()) {
        return None;
    }
    packet.read::<Transport>(upper.offset()).map(|ports| u16::from_be(ports.second_be))
}

#[inline(always)]
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

/// Checks the final destination of a packet. A later fragment passes if some port of its destination is allowed: it
/// belongs to a packet that was checked. No Service translates IPsec, so `from_pod` has judged an encrypted packet, or
/// the node has made it of one. What the node encapsulates by a device does not get here.
#[inline(always)]
fn check_destination<A: Family, T: Rules<A>>(
    tables: &T,
    local: LocalTenant,
    kind: MarkKind,
    remote: A,
    upper: Upper,
    port: Option<u16>,
) -> Option<DropReason> {
    let protocol = upper.protocol();
    if port.is_none() && has_ports(protocol) && !upper.is_later() {
        // It ends before its port: nobody can tell what it opens, or whether it is a tunnel's.
        return Some(DropReason::Fragment);
    }
    // In IPv4 no header precedes the transport header.
    let is_v6 = A::BITS == 128;
    if protocol == ENCRYPTED || protocol == AUTHENTICATION && !is_v6 {
        return None;
    }
    if is_v6 && is_skipped(protocol) {
        return Some(DropReason::ExtensionHeader);
    }
    let (remote_port, bits) = port.map_or((0, 0), |port| (port, Query::<A>::PORTS_KNOWN));
    let query =
        Query { local, claim: Claim::default(), remote, remote_port, local_port: 0, protocol, bits, tcp_flags: 0 };
    let denied = decide::verdict(tables, &query, Direction::Egress).denied()?;
    let reason = decide::attribute_owner(tables, &local, remote, denied).reason;
    let passes = match (reason, kind) {
        // A later fragment, or a protocol without ports.
        (DropReason::Fragment, _) => true,
        (_, MarkKind::Request) => false,
        (_, MarkKind::Reply) => remote_may_open(tables, &query),
        (reason, MarkKind::Listed) => reason == DropReason::OffSubnet && other_owner(tables, &local, remote).is_none(),
    };
    if passes { None } else { Some(reason) }
}

/// Whether the remote address may open connections to the pods of the query's tenant.
#[inline(always)]
fn remote_may_open<A: Family, T: Rules<A>>(tables: &T, query: &Query<A>) -> bool {
    let access = tables.access(query, identify(tables, query));
    access.allows_reply() && decide::may_open_to_pod(tables, query, access.denied())
}

/// Whether a packet of a pod of `sender` may reach a pod of `local` on the same node, whatever its source address.
/// The sender's pods must have permission to open connections to that pod, or to reply to it. An open tenant has none by
/// being open: another tenant's pod refuses it under its own address too.
#[inline(always)]
pub fn may_arrive<A: Family, T: Tables<A>>(tables: &T, sender: LocalTenant, local: LocalTenant) -> bool {
    if sender.tenant.0 == local.tenant.0 || local.state.has(TenantState::OPEN) {
        return true;
    }
    let shared = if local.state.has(TenantState::SHARED) { PeerEntry::SHARED } else { 0 };
    let peer = PeerEntry { tenant: local.tenant, kind: PeerEntry::POD, flags: shared, _pad: 0 };
    let access = between(tables, &sender, peer);
    access == Access::BOTH_WAYS || access == Access::ONE_WAY || access.allows_reply()
}
