//! Where a packet really goes: judged again once the node has led it there.
//!
//! `from_pod` sees the address that the pod wrote. The node may translate it: a Service's address, or any
//! other that somebody has named as a Service's external one, to whatever ends the Service has. Who may write
//! those may write them while a packet is under way, and kube-proxy hears of it earlier or later than the
//! agent, or while no agent runs; what it has chosen for a connection stays. So `from_pod` leaves a note on
//! what it lets pass for no other reason than sender and destination, and where such a packet leaves the
//! node, or arrives at a pod of it, it is judged as if the pod had sent it there itself. What passes as an
//! answer has a note too: the node's own memory of the connection, which leads it back, may be shorter than ours.
//!
//! The note can only close: nobody is asked about a packet because it has none. A pod that could write
//! one would be judged by it.

use crate::access::{Access, Family, LocalTenant, Tables, between, identify};
use crate::addr::{V4, V6};
use crate::decide;
use crate::flow::Direction;
use crate::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Header, Ipv4, Ipv6, SCTP, TCP, Transport, UDP};
use crate::layout::PeerEntry;
use crate::parse::words;
use crate::query::Query;
use crate::reason::DropReason;
use crate::tenant::{TenantId, TenantState};

/// Set in every mark: other programs' numbers are small.
const MARK: u32 = 1 << 15;
const REPLY: u32 = 1 << TENANT_BITS;
const TENANT: u32 = REPLY - 1;
/// Bits of a tenant's number; the map of tenants has no higher one.
pub const TENANT_BITS: u32 = 14;

/// As what a packet passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// As one that may open a connection to where it goes.
    Request,
    /// As an answer, or to a node, that may lead it back to whoever asked.
    Reply,
}

/// What is left on a packet: 16 bits, which the kernel carries with it (`tc_index`) and nothing but
/// programs like ours looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketMark {
    /// Whose packet it is.
    pub tenant: TenantId,
    /// As what it passed.
    pub kind: MarkKind,
}

impl PacketMark {
    /// As a number; 0 is no mark.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        let answer = if matches!(self.kind, MarkKind::Reply) { REPLY } else { 0 };
        MARK | answer | self.tenant.0 & TENANT
    }

    /// From a number; `None` where it is no mark.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !REPLY & !TENANT != MARK {
            return None;
        }
        let kind = if bits & REPLY != 0 { MarkKind::Reply } else { MarkKind::Request };
        Some(Self { tenant: TenantId(bits & TENANT), kind })
    }
}

/// A packet that can be read from its IP header on: not every interface has a link header.
pub trait Network {
    /// The EtherType of what the header is.
    fn ethertype(&self) -> u16;
    /// What stands that many bytes behind the header's beginning; `None` if the packet is too short.
    fn read<H: Header>(&self, offset: u32) -> Option<H>;
}

/// Judges a packet with a note of `local` where it leaves the node. In Audit mode nothing is stopped.
#[inline(always)]
pub fn leaves<N, T>(tables: &T, local: LocalTenant, kind: MarkKind, packet: &N) -> Option<DropReason>
where
    N: Network,
    T: Tables<V4> + Tables<V6>,
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
            let is_first = u16::from_be(ip.fragment_be) & 0x1fff == 0;
            let port = if is_first { port(packet, ip.protocol, u32::from(ip.version_ihl & 0x0f) * 4) } else { None };
            judge(tables, local, kind, V4(ip.destination), ip.protocol, port)
        }
        ETHERTYPE_IPV6 => {
            let Some(ip) = packet.read::<Ipv6>(0) else { return Some(DropReason::Malformed) };
            let port = port(packet, ip.next_header, size_of::<Ipv6>() as u32);
            judge(tables, local, kind, words(ip.destination), ip.next_header, port)
        }
        // From a pod came IP; whatever this is, nobody has judged it.
        _ => Some(DropReason::Ethertype),
    }
}

/// The destination port; `None` where the protocol has none, or the packet does not tell.
#[inline(always)]
fn port<N: Network>(packet: &N, protocol: u8, offset: u32) -> Option<u16> {
    if !matches!(protocol, TCP | UDP | SCTP) {
        return None;
    }
    packet.read::<Transport>(offset).map(|ports| u16::from_be(ports.second_be))
}

/// Judges where a packet with a note really goes. What a tunnel wraps up goes to nodes, and passes. So
/// does a packet that does not tell its port, if any would do where it goes: it is a later piece of one
/// that told, or `from_pod` has seen it.
#[inline(always)]
fn judge<A: Family, T: Tables<A>>(
    tables: &T,
    local: LocalTenant,
    kind: MarkKind,
    remote: A,
    protocol: u8,
    port: Option<u16>,
) -> Option<DropReason> {
    let (remote_port, bits) = port.map_or((0, 0), |port| (port, Query::<A>::KNOWN));
    let query = Query { local, cookie: 0, remote, remote_port, local_port: 0, protocol, bits, tcp_flags: 0 };
    let denied = decide::judge(tables, &query, Direction::Egress).denied()?;
    let reason = decide::attribute_owner(tables, &local, remote, denied).reason;
    let passes = match reason {
        DropReason::Fragment => true,
        DropReason::Node if decide::is_tunnelled(&query) => true,
        _ if matches!(kind, MarkKind::Reply) => may_have_asked(tables, &query),
        _ => false,
    };
    if passes { None } else { Some(reason) }
}

/// Whether somebody at that address may open connections to this tenant's pods.
#[inline(always)]
fn may_have_asked<A: Family, T: Tables<A>>(tables: &T, query: &Query<A>) -> bool {
    let access = tables.access(query, identify(tables, query));
    access.allows_reply() && decide::may_ask(tables, query, access.denied())
}

/// Judges a packet with a note of `sender` that arrives at a pod of `local` on the same node, under whatever
/// source address: whether the sender's pods may send there, or answer.
#[inline(always)]
pub fn arrives<A: Family, T: Tables<A>>(tables: &T, sender: LocalTenant, local: LocalTenant) -> bool {
    if sender.tenant.0 == local.tenant.0 || sender.state.has(TenantState::OPEN) || local.state.has(TenantState::OPEN) {
        return true;
    }
    let shared = if local.state.has(TenantState::SHARED) { PeerEntry::SHARED } else { 0 };
    let peer = PeerEntry { tenant: local.tenant, kind: PeerEntry::POD, flags: shared, _pad: 0 };
    let access = between(tables, &sender, peer);
    access == Access::BOTH_WAYS || access == Access::ONE_WAY || access.allows_reply()
}
