//! Where a packet to a Service really goes: judged once the node has chosen.
//!
//! `from_pod` sees a Service's address, and the agent has written there whose pods stand behind it. Who
//! may write the Service's ends may write them while a packet is under way, and kube-proxy hears of it
//! earlier or later than the agent, or while no agent runs; what it has chosen for a connection stays.
//! So `from_pod` leaves a note on such packets, and where they leave the node they are judged again as
//! if the pod had sent them there itself.
//!
//! The note can only close: nobody is asked about a packet because it has none. A pod that could write
//! one would be judged by it.

use crate::addr::{V4, V6};
use crate::ask::Ask;
use crate::decide;
use crate::flow::Direction;
use crate::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Header, Ipv4, Ipv6};
use crate::parse::words;
use crate::reach::{Family, Party, Tables};
use crate::reason::DropReason;
use crate::tenant::{TenantId, TenantState};

/// Set in every note: other programs' numbers are small.
const MARK: u32 = 1 << 15;
/// Bits of a tenant's number; the map of tenants has no higher one.
pub const TENANT_BITS: u32 = 14;

/// What to leave on a packet of this tenant to a Service: 16 bits, which the kernel carries with it
/// (`tc_index`) and nothing but programs like ours looks at.
#[inline(always)]
pub const fn note(tenant: TenantId) -> u32 {
    MARK | tenant.0 & ((1 << TENANT_BITS) - 1)
}

/// Whose packet has this note; `None` where there is none.
#[inline(always)]
pub const fn noted(note: u32) -> Option<TenantId> {
    if note >> TENANT_BITS != MARK >> TENANT_BITS { None } else { Some(TenantId(note & ((1 << TENANT_BITS) - 1))) }
}

/// A packet whose IP header can be read, wherever it stands: not every interface has a link header.
pub trait Network {
    /// The EtherType of what the header is.
    fn ethertype(&self) -> u16;
    /// The header; `None` if the packet is too short for it.
    fn header<H: Header>(&self) -> Option<H>;
}

/// Judges a packet with a tenant's note where it leaves the node.
#[inline(always)]
pub fn leaves<N: Network, T: Tables<V4> + Tables<V6>>(tables: &T, me: Party, packet: &N) -> Option<DropReason> {
    match packet.ethertype() {
        ETHERTYPE_IPV4 => match packet.header::<Ipv4>() {
            Some(ip) => judge(tables, me, V4(ip.destination), ip.protocol),
            None => Some(DropReason::Malformed),
        },
        ETHERTYPE_IPV6 => match packet.header::<Ipv6>() {
            Some(ip) => judge(tables, me, words(ip.destination), ip.next_header),
            None => Some(DropReason::Malformed),
        },
        // From a pod came IP; whatever this is, nobody has judged it.
        _ => Some(DropReason::Ethertype),
    }
}

/// Judges where a packet with a tenant's note really goes. It must be a pod that the tenant may reach, or
/// what every pod of its may: which port was meant is not known any more, so a range that allows only
/// some is none. Nodes pass: what a tunnel wraps up goes to them.
#[inline(always)]
pub fn judge<A: Family, T: Tables<A>>(tables: &T, me: Party, remote: A, protocol: u8) -> Option<DropReason> {
    if !me.state.has(TenantState::VALID) {
        return Some(DropReason::NotReady);
    }
    let ask = Ask { me, cookie: 0, remote, remote_port: 0, local_port: 0, protocol, bits: 0, tcp_flags: 0 };
    let denied = decide::judge(tables, &ask, Direction::Egress).denied()?;
    let reason = decide::blame(tables, &me, remote, denied).reason;
    let passes = reason == DropReason::Node || me.state.has(TenantState::AUDIT);
    if passes { None } else { Some(reason) }
}
