//! The one verdict: `from_pod` and `to_pod`, generic over a packet and tables.
//!
//! The order of the rules is the order of the code. Everything that is not allowed by a rule is
//! denied by the last one; nothing here has a default that passes.

use crate::addr::{Address, V4, V6};
use crate::conntrack::{ReplyEntry, ReplyKey, flags_of, icmp, opening_key, reply_key};
use crate::flow::{Flow, Ports};
use crate::headers::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_QINQ_OLD, ETHERTYPE_VLAN, Ethernet, ICMP,
    ICMPV6,
};
use crate::layout::{EndpointEntry, PeerEntry};
use crate::neighbor;
use crate::parse::{self, Packet};
use crate::reach::{Denied, Family, Party, Reach, Service, Tables, between, fits, foreign, prefix, reach};
use crate::reason::DropReason;
use crate::tenant::{TenantId, TenantState};

/// What happens to a packet. One register, so that the kernel's functions can return it; the zero
/// value is a denial.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Verdict(u64);

impl Verdict {
    /// Lets the next program on the hook decide.
    pub const ALLOW: Self = Self(1 << 8);

    /// A denial that names no other side.
    pub const fn deny(reason: DropReason) -> Self {
        Self::because(Denied { reason, peer: TenantId::UNKNOWN })
    }

    /// A denial.
    pub const fn because(denied: Denied) -> Self {
        Self(denied.reason.number() as u64 | (denied.peer.0 as u64) << 32)
    }

    /// Whether the packet passes.
    pub const fn is_allow(self) -> bool {
        self.0 == Self::ALLOW.0
    }

    /// Why it does not; `None` if it does.
    pub const fn denied(self) -> Option<Denied> {
        if self.is_allow() {
            return None;
        }
        let reason = match DropReason::from_number(self.0 as u8) {
            Some(reason) => reason,
            None => DropReason::Internal,
        };
        Some(Denied { reason, peer: TenantId((self.0 >> 32) as u32) })
    }
}

impl core::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.denied() {
            None => f.write_str("Allow"),
            Some(denied) => write!(f, "{denied:?}"),
        }
    }
}

/// The local pod a packet comes from or goes to.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Its entry.
    pub entry: &'a EndpointEntry,
    /// Its tenant.
    pub party: Party,
}

impl<'a> Endpoint<'a> {
    /// `None` where the interface is unclaimed or its tenant not written: `not_ready`.
    #[inline(always)]
    pub fn new(entry: &'a EndpointEntry, state: TenantState) -> Option<Self> {
        let ready = entry.tenant.is_known() && entry.cookie != 0 && state.has(TenantState::VALID);
        ready.then_some(Self { entry, party: Party { tenant: entry.tenant, state } })
    }
}

/// Judges a frame that a pod sent.
#[inline(always)]
pub fn from_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4> + Tables<V6>,
{
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return Verdict::deny(DropReason::Malformed) };
    let mac = endpoint.entry.mac;
    if ethernet.source != mac && !mac.is_unknown() {
        return Verdict::deny(DropReason::SpoofedMac);
    }
    match u16::from_be(ethernet.ethertype_be) {
        ETHERTYPE_IPV4 => match parse::ipv4(packet) {
            Ok(flow) if flow.source != endpoint.entry.v4 => Verdict::deny(DropReason::SpoofedSource),
            Ok(flow) => egress(packet, &flow, endpoint, tables),
            Err(reason) => Verdict::deny(reason),
        },
        ETHERTYPE_IPV6 => match parse::ipv6(packet) {
            Ok(flow) if neighbor::is_discovery(&flow) => neighbor::nd_from_pod(packet, &flow, endpoint, tables),
            Ok(flow) if flow.source != endpoint.entry.v6 => Verdict::deny(spoofed_v6(&flow, endpoint.entry)),
            Ok(flow) => egress(packet, &flow, endpoint, tables),
            Err(reason) => Verdict::deny(reason),
        },
        ETHERTYPE_ARP => neighbor::arp_from_pod(packet, &ethernet, endpoint, tables),
        other => Verdict::deny(unsupported(other)),
    }
}

/// Judges a frame on its way to a pod: the second lock on the same door.
#[inline(always)]
pub fn to_pod<P, T>(packet: &P, endpoint: &Endpoint<'_>, tables: &T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4> + Tables<V6>,
{
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return Verdict::deny(DropReason::Malformed) };
    match u16::from_be(ethernet.ethertype_be) {
        ETHERTYPE_IPV4 => match parse::ipv4(packet) {
            Ok(flow) if flow.destination != endpoint.entry.v4 => Verdict::deny(not_ours(flow.destination)),
            Ok(flow) if flow.source == endpoint.entry.v4 => Verdict::deny(DropReason::Martian),
            Ok(flow) => ingress(&flow, endpoint, tables),
            Err(reason) => Verdict::deny(reason),
        },
        ETHERTYPE_IPV6 => match parse::ipv6(packet) {
            Ok(flow) if neighbor::is_discovery(&flow) => neighbor::nd_to_pod(packet, &flow, endpoint, tables),
            Ok(flow) if flow.destination != endpoint.entry.v6 => Verdict::deny(not_ours(flow.destination)),
            Ok(flow) if flow.source == endpoint.entry.v6 => Verdict::deny(DropReason::Martian),
            Ok(flow) => ingress(&flow, endpoint, tables),
            Err(reason) => Verdict::deny(reason),
        },
        ETHERTYPE_ARP => neighbor::arp_to_pod(packet, endpoint, tables),
        other => Verdict::deny(unsupported(other)),
    }
}

/// The reason for an EtherType that is none of ours.
#[inline(always)]
fn unsupported(ethertype: u16) -> DropReason {
    match ethertype {
        ETHERTYPE_VLAN | ETHERTYPE_QINQ | ETHERTYPE_QINQ_OLD => DropReason::Vlan,
        _ => DropReason::Ethertype,
    }
}

/// A pod's kernel announces multicast membership from its link-local address at every start: that
/// is multicast, not an attack.
#[inline(always)]
fn spoofed_v6(flow: &Flow<V6>, entry: &EndpointEntry) -> DropReason {
    let own = flow.source == entry.link_local || flow.source == V6::UNSPECIFIED;
    if own && flow.protocol == ICMPV6 && flow.destination.is_multicast() {
        return DropReason::Multicast;
    }
    DropReason::SpoofedSource
}

#[inline(always)]
fn not_ours<A: Address>(destination: A) -> DropReason {
    if destination.is_multicast() { DropReason::Multicast } else { DropReason::NotOwnAddress }
}

/// What a packet asks for at the address it goes to.
#[inline(always)]
fn service_of<A: Family>(flow: &Flow<A>) -> Service {
    let port = match flow.ports {
        Ports::Known { destination, .. } => Some(destination),
        // ICMP has one "port": a rule for ICMP names no port and fits all of it.
        Ports::Icmp { .. } => Some(0),
        Ports::LaterFragment | Ports::None => None,
    };
    Service { protocol: flow.protocol, port }
}

/// What the answer to a packet would ask for at the address it came from.
#[inline(always)]
fn service_back<A: Family>(flow: &Flow<A>) -> Service {
    let port = match flow.ports {
        Ports::Known { source, .. } => Some(source),
        Ports::Icmp { .. } => Some(0),
        Ports::LaterFragment | Ports::None => None,
    };
    Service { protocol: flow.protocol, port }
}

#[inline(always)]
fn egress<A: Family, P: Packet + ?Sized, T: Tables<A>>(
    packet: &P,
    flow: &Flow<A>,
    endpoint: &Endpoint<'_>,
    tables: &T,
) -> Verdict {
    if is_redirect(flow) {
        return Verdict::deny(DropReason::IcmpRedirect);
    }
    let denied = match reach(tables, &endpoint.party, flow.destination, service_of(flow)) {
        Reach::Yes => return Verdict::ALLOW,
        Reach::OneWay => {
            note_opening(tables, flow, endpoint.entry.cookie, true);
            return Verdict::ALLOW;
        }
        Reach::Answer(denied) => {
            if answers(tables, flow, endpoint, denied) || quotes(packet, flow, endpoint, tables) {
                return Verdict::ALLOW;
            }
            denied
        }
        Reach::Never(denied) => denied,
    };
    if endpoint.party.state.has(TenantState::OPEN) && denied.reason != DropReason::MetadataService {
        return Verdict::ALLOW;
    }
    Verdict::because(denied)
}

#[inline(always)]
fn is_redirect<A: Family>(flow: &Flow<A>) -> bool {
    // ICMPv6 redirects are neighbour discovery and judged there.
    A::ICMP == ICMP && flow.protocol == ICMP && matches!(flow.ports, Ports::Icmp { kind: icmp::REDIRECT, .. })
}

/// Rule 3: whether the packet answers a connection that the other side opened and still may open.
#[inline(never)]
fn answers<A: Family, T: Tables<A>>(tables: &T, flow: &Flow<A>, endpoint: &Endpoint<'_>, denied: Denied) -> bool {
    let Some(key) = reply_key(flow, endpoint.entry.cookie, true) else { return false };
    let Some(entry) = live(tables, &key) else { return false };
    let generation = tables.runtime().generation;
    // Of another generation: the world might be somebody's subnet by now. `reach` has just said
    // that a pod or node may still open.
    if entry.generation != generation
        && denied.reason != DropReason::Node
        && !denied.peer.is_known()
        && foreign(tables, &endpoint.party, flow.destination).is_some()
    {
        return false;
    }
    keep(tables, &key, entry, flags_of(flow, true), generation);
    true
}

/// Rule 4: an ICMP error about a connection that the other side opened, quoting its packet.
#[inline(never)]
fn quotes<A: Family, P: Packet + ?Sized, T: Tables<A>>(
    packet: &P,
    flow: &Flow<A>,
    endpoint: &Endpoint<'_>,
    tables: &T,
) -> bool {
    let Ports::Icmp { kind, .. } = flow.ports else { return false };
    let is_error = if A::ICMP == ICMP {
        matches!(kind, icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER)
    } else {
        (1..=4).contains(&kind)
    };
    if !is_error || flow.protocol != A::ICMP {
        return false;
    }
    let Some(quoted) = A::quoted(packet, usize::from(flow.transport) + 8) else { return false };
    let about_us = quoted.source == flow.destination && quoted.destination == flow.source;
    about_us && opening_key(&quoted, endpoint.entry.cookie, false).is_some_and(|key| live(tables, &key).is_some())
}

#[inline(always)]
fn ingress<A: Family, T: Tables<A>>(flow: &Flow<A>, endpoint: &Endpoint<'_>, tables: &T) -> Verdict {
    let me = &endpoint.party;
    let cookie = endpoint.entry.cookie;
    match tables.peer(flow.source) {
        Some(peer) if matches!(peer.kind, PeerEntry::POD | PeerEntry::SERVICE) => match between(tables, me, peer) {
            Reach::Yes => Verdict::ALLOW,
            Reach::Answer(_) => {
                note_opening(tables, flow, cookie, false);
                Verdict::ALLOW
            }
            Reach::OneWay if is_answer(tables, flow, cookie) => Verdict::ALLOW,
            Reach::OneWay => Verdict::because(Denied { reason: DropReason::CrossTenant, peer: peer.tenant }),
            Reach::Never(_) if me.state.has(TenantState::OPEN) => Verdict::ALLOW,
            Reach::Never(denied) => Verdict::because(seen_from_inside(denied)),
        },
        Some(_) => {
            if !me.state.has(TenantState::NODES_ALLOWED | TenantState::SHARED) {
                note_opening(tables, flow, cookie, false);
            }
            Verdict::ALLOW
        }
        None => from_world(flow, endpoint, tables),
    }
}

/// `unassigned_source` and `unassigned_destination` name the ends of the packet, not of the rule.
#[inline(always)]
fn seen_from_inside(denied: Denied) -> Denied {
    let reason = match denied.reason {
        DropReason::UnassignedSource => DropReason::UnassignedDestination,
        DropReason::UnassignedDestination => DropReason::UnassignedSource,
        other => other,
    };
    Denied { reason, ..denied }
}

#[inline(never)]
fn from_world<A: Family, T: Tables<A>>(flow: &Flow<A>, endpoint: &Endpoint<'_>, tables: &T) -> Verdict {
    let me = &endpoint.party;
    if flow.source.is_multicast() || flow.source.is_martian() {
        return Verdict::deny(DropReason::Martian);
    }
    // What the pod may open itself needs no memory: answers are justified by identity.
    if let Some(grant) = prefix(tables, me, flow.source) {
        let clear = grant.flags & crate::layout::PrefixGrant::CONTESTED == 0;
        if clear && fits(tables, grant.ports, service_back(flow)) {
            return Verdict::ALLOW;
        }
    }
    let generation = tables.runtime().generation;
    let key = opening_key(flow, endpoint.entry.cookie, false);
    if let Some(key) = &key {
        if let Some(entry) = live(tables, key).filter(|entry| entry.generation == generation) {
            keep(tables, key, entry, flags_of(flow, false), generation);
            return Verdict::ALLOW;
        }
    }
    if let Some(denied) = foreign(tables, me, flow.source) {
        return Verdict::because(Denied { reason: DropReason::CrossTenant, ..denied });
    }
    if let Some(key) = &key {
        begin(tables, key, flags_of(flow, false), generation);
    }
    Verdict::ALLOW
}

/// Whether a packet to the pod answers a connection the pod opened.
#[inline(never)]
fn is_answer<A: Family, T: Tables<A>>(tables: &T, flow: &Flow<A>, cookie: u32) -> bool {
    let Some(key) = reply_key(flow, cookie, false) else { return false };
    let Some(entry) = live(tables, &key) else { return false };
    keep(tables, &key, entry, flags_of(flow, true), tables.runtime().generation);
    true
}

/// Remembers, or refreshes, the connection that this packet opens or continues.
#[inline(never)]
fn note_opening<A: Family, T: Tables<A>>(tables: &T, flow: &Flow<A>, cookie: u32, from_pod: bool) {
    let Some(key) = opening_key(flow, cookie, from_pod) else { return };
    let generation = tables.runtime().generation;
    match live(tables, &key) {
        Some(entry) => keep(tables, &key, entry, flags_of(flow, false), generation),
        None => begin(tables, &key, flags_of(flow, false), generation),
    }
}

#[inline(always)]
fn live<A: Family, T: Tables<A>>(tables: &T, key: &ReplyKey<A>) -> Option<ReplyEntry> {
    let entry = tables.reply(key)?;
    entry.is_live(key.protocol, tables.now_ns()).then_some(entry)
}

#[inline(always)]
fn keep<A: Family, T: Tables<A>>(tables: &T, key: &ReplyKey<A>, entry: ReplyEntry, flags: u32, generation: u64) {
    if let Some(next) = entry.touched(flags, generation, tables.now_ns()) {
        tables.remember(key, next);
    }
}

#[inline(always)]
fn begin<A: Family, T: Tables<A>>(tables: &T, key: &ReplyKey<A>, flags: u32, generation: u64) {
    tables.remember(key, ReplyEntry { seen_ns: tables.now_ns(), generation, flags, _pad: 0 });
}

/// Names the owner of an address that no rule allowed: `off_subnet` becomes `cross_tenant` where it
/// lies in somebody's subnet. Never turns a denial into anything else.
#[inline(always)]
pub fn blame<A: Family, T: Tables<A>>(tables: &T, party: &Party, remote: A, denied: Denied) -> Denied {
    match denied.reason {
        DropReason::OffSubnet => foreign(tables, party, remote).unwrap_or(denied),
        _ => denied,
    }
}
