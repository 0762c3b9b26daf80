//! Where a packet really goes: judged again once the node has led it there.
//!
//! `from_pod` sees the address that the pod wrote. The node may translate it: a Service's address, or any
//! other that somebody has named as a Service's external one, to whatever ends the Service has. Who may write
//! those may write them while a packet is under way, and kube-proxy hears of it earlier or later than the
//! agent, or while no agent runs; what it has chosen for a connection stays. So `from_pod` leaves a note on
//! what it lets pass for no other reason than sender and destination, and where such a packet leaves the
//! node, or arrives at a pod of it, it is judged as if the pod had sent it there itself.
//!
//! The note can only close: nobody is asked about a packet because it has none. A pod that could write
//! one would be judged by it.

use crate::addr::{V4, V6};
use crate::ask::Ask;
use crate::decide;
use crate::flow::Direction;
use crate::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Header, Ipv4, Ipv6, SCTP, TCP, Transport, UDP};
use crate::layout::PeerEntry;
use crate::parse::words;
use crate::reach::{Family, Party, Reach, Tables, between};
use crate::reason::DropReason;
use crate::tenant::{TenantId, TenantState};

/// Set in every note: other programs' numbers are small.
const MARK: u32 = 1 << 15;
/// Bits of a tenant's number; the map of tenants has no higher one.
pub const TENANT_BITS: u32 = 14;

/// What to leave on a packet of this tenant: 16 bits, which the kernel carries with it (`tc_index`) and
/// nothing but programs like ours looks at.
#[inline(always)]
pub const fn note(tenant: TenantId) -> u32 {
    MARK | tenant.0 & ((1 << TENANT_BITS) - 1)
}

/// Whose packet has this note; `None` where there is none.
#[inline(always)]
pub const fn noted(note: u32) -> Option<TenantId> {
    if note >> TENANT_BITS != MARK >> TENANT_BITS { None } else { Some(TenantId(note & ((1 << TENANT_BITS) - 1))) }
}

/// A packet that can be read from its IP header on: not every interface has a link header.
pub trait Network {
    /// The EtherType of what the header is.
    fn ethertype(&self) -> u16;
    /// What stands that many bytes behind the header's beginning; `None` if the packet is too short.
    fn read<H: Header>(&self, offset: u32) -> Option<H>;
}

/// Judges a packet with a tenant's note where it leaves the node.
#[inline(always)]
pub fn leaves<N: Network, T: Tables<V4> + Tables<V6>>(tables: &T, me: Party, packet: &N) -> Option<DropReason> {
    match packet.ethertype() {
        ETHERTYPE_IPV4 => {
            let Some(ip) = packet.read::<Ipv4>(0) else { return Some(DropReason::Malformed) };
            let is_first = u16::from_be(ip.fragment_be) & 0x1fff == 0;
            let port = if is_first { port(packet, ip.protocol, u32::from(ip.version_ihl & 0x0f) * 4) } else { None };
            judge(tables, me, V4(ip.destination), ip.protocol, port)
        }
        ETHERTYPE_IPV6 => {
            let Some(ip) = packet.read::<Ipv6>(0) else { return Some(DropReason::Malformed) };
            let port = port(packet, ip.next_header, size_of::<Ipv6>() as u32);
            judge(tables, me, words(ip.destination), ip.next_header, port)
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

/// Judges where a packet with a tenant's note really goes. Nodes pass: what a tunnel wraps up goes to them.
/// So does a packet that does not tell its port, if any would do where it goes: it is a later piece of one
/// that told, or `from_pod` has seen it.
#[inline(always)]
pub fn judge<A: Family, T: Tables<A>>(
    tables: &T,
    me: Party,
    remote: A,
    protocol: u8,
    port: Option<u16>,
) -> Option<DropReason> {
    if !me.state.has(TenantState::VALID) {
        return Some(DropReason::NotReady);
    }
    let (remote_port, bits) = port.map_or((0, 0), |port| (port, Ask::<A>::KNOWN));
    let ask = Ask { me, cookie: 0, remote, remote_port, local_port: 0, protocol, bits, tcp_flags: 0 };
    let denied = decide::judge(tables, &ask, Direction::Egress).denied()?;
    let reason = decide::blame(tables, &me, remote, denied).reason;
    let passes = matches!(reason, DropReason::Node | DropReason::Fragment) || me.state.has(TenantState::AUDIT);
    if passes { None } else { Some(reason) }
}

/// Judges a packet with the note of `sender` that arrives at a pod of `me` on the same node, under whatever
/// source address: whether the sender's pods may send there, or answer.
#[inline(always)]
pub fn arrives<A: Family, T: Tables<A>>(tables: &T, sender: Party, me: Party) -> bool {
    if sender.tenant.0 == me.tenant.0 || sender.state.has(TenantState::OPEN) || me.state.has(TenantState::OPEN) {
        return true;
    }
    let shared = if me.state.has(TenantState::SHARED) { PeerEntry::SHARED } else { 0 };
    let peer = PeerEntry { tenant: me.tenant, kind: PeerEntry::POD, flags: shared, _pad: 0 };
    let reached = between(tables, &sender, peer);
    reached == Reach::YES || reached == Reach::ONE_WAY || reached.may_be_answer()
}
