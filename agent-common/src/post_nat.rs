//! The post-NAT check: the second verdict on a marked packet, with its final destination.
//!
//! `from_pod` sees the destination that the pod wrote. The node may translate it to any endpoint of a Service, or of an
//! address that a Service names as its external one. Those who may edit Services can do so while a packet is under way.
//! kube-proxy may apply an edit before or after the agent does, and keeps its choice for a connection. So `from_pod`
//! marks every packet it allows because of its destination alone. When a marked packet leaves the node or reaches a
//! local pod, it is judged again with its final destination. Replies are marked too: kernel conntrack, which redirects
//! them, may forget a connection before our reply table does.
//!
//! A mark only restricts: no packet is allowed because it has none. A pod that wrote a mark would be judged by it.

use crate::access::{Access, between, identify};
use crate::addr::{V4, V6};
use crate::decide::{self, Rules};
use crate::flow::Direction;
use crate::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Header, Ipv4, Ipv6, SCTP, TCP, Transport, UDP};
use crate::layout::PeerEntry;
use crate::mark::MarkKind;
use crate::parse::words;
use crate::query::Query;
use crate::reason::DropReason;
use crate::tables::{Family, Tables};
use crate::tenant::{LocalTenant, TenantState};

/// A packet that can be read from its IP header on: some interfaces have no link header.
pub trait Network {
    /// The EtherType of the packet.
    fn ethertype(&self) -> u16;
    /// The header at `offset` bytes behind the beginning of the IP header; `None` if the packet is too short.
    fn read<H: Header>(&self, offset: u32) -> Option<H>;
}

/// Checks a packet with a mark of `local` where it leaves the node. Returns why it is denied. In Audit mode nothing is
/// denied.
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
            let is_first = u16::from_be(ip.fragment_be) & 0x1fff == 0;
            let port = if is_first { port(packet, ip.protocol, u32::from(ip.version_ihl & 0x0f) * 4) } else { None };
            check_destination(tables, local, kind, V4(ip.destination), ip.protocol, port)
        }
        ETHERTYPE_IPV6 => {
            let Some(ip) = packet.read::<Ipv6>(0) else { return Some(DropReason::Malformed) };
            let port = port(packet, ip.next_header, size_of::<Ipv6>() as u32);
            check_destination(tables, local, kind, words(ip.destination), ip.next_header, port)
        }
        // The pod sent IP; no rule has decided on a packet of another type.
        _ => Some(DropReason::Ethertype),
    }
}

/// The destination port; `None` where the protocol has none, or the port cannot be read.
#[inline(always)]
fn port<N: Network>(packet: &N, protocol: u8, offset: u32) -> Option<u16> {
    if !matches!(protocol, TCP | UDP | SCTP) {
        return None;
    }
    packet.read::<Transport>(offset).map(|ports| u16::from_be(ports.second_be))
}

/// Checks the final destination of a marked packet. A tunnel packet to a node passes. A packet without a readable port
/// passes if some port of its destination is allowed. Either it is a later fragment of a packet that was checked, or
/// `from_pod` has read the port.
#[inline(always)]
fn check_destination<A: Family, T: Rules<A>>(
    tables: &T,
    local: LocalTenant,
    kind: MarkKind,
    remote: A,
    protocol: u8,
    port: Option<u16>,
) -> Option<DropReason> {
    let (remote_port, bits) = port.map_or((0, 0), |port| (port, Query::<A>::PORTS_KNOWN));
    let query = Query { local, cookie: 0, remote, remote_port, local_port: 0, protocol, bits, tcp_flags: 0 };
    let denied = decide::verdict(tables, &query, Direction::Egress).denied()?;
    let reason = decide::attribute_owner(tables, &local, remote, denied).reason;
    let passes = match reason {
        DropReason::Fragment => true,
        DropReason::Node if decide::is_tunnelled(&query) => true,
        _ if matches!(kind, MarkKind::Reply) => remote_may_open(tables, &query),
        _ => false,
    };
    if passes { None } else { Some(reason) }
}

/// Whether the remote address may open connections to the pods of the query's tenant.
#[inline(always)]
fn remote_may_open<A: Family, T: Rules<A>>(tables: &T, query: &Query<A>) -> bool {
    let access = tables.access(query, identify(tables, query));
    access.allows_reply() && decide::may_open_to_pod(tables, query, access.denied())
}

/// Whether a packet with a mark of `sender` may reach a pod of `local` on the same node, whatever its source address.
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
