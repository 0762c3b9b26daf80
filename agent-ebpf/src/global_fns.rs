//! The global functions of the verdict, which the verifier checks once each: the rules, and the slow path by protocol.
//!
//! A function of the kernel's is global (5.6) if it takes a context or scalars, and returns a scalar. So queries and
//! answers are packed into registers here. If these functions were inlined, the verifier would follow each path through
//! the parser through every rule again. It would verify hundreds of thousands of instructions instead of a few
//! thousand. Holds no rule.

#![allow(unsafe_code)]

use agent_common::access::{self, Access, Lookup, Range, RemoteIdentity};
use agent_common::addr::{V4, V6};
use agent_common::classify;
use agent_common::conntrack::{ReplyKey, ReplyPacket, ReplyState};
use agent_common::decide::{self, Rules};
use agent_common::endpoint::{Claim, Endpoint};
use agent_common::neighbor;
use agent_common::query::Query;
use agent_common::reason::DropReason;
use agent_common::reply_table::BLOCKS;
use agent_common::tenant::{LocalTenant, TenantId};
use agent_common::verdict::Verdict;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;

use crate::packet::{self, Frame};
use crate::tables::Maps;

macro_rules! global_fns {
    ($(fn $name:ident($($parameter:ident: $type:ty),+) -> $output:ty $body:block)+) => {
        $(
            // SAFETY: no other symbol of the object has this name.
            #[unsafe(no_mangle)]
            #[inline(never)]
            pub(crate) extern "C" fn $name($($parameter: $type),+) -> $output $body
        )+
    };
}
pub(crate) use global_fns;

/// Packs the local tenant and the cookie.
#[inline(always)]
fn pack_local<A>(query: &Query<A>) -> u64 {
    u64::from(query.local.tenant.0) | u64::from(query.claim.cookie) << 32
}

/// Packs ports, protocol, bits, and the block of the reply table.
#[inline(always)]
fn pack_ports<A>(query: &Query<A>) -> u64 {
    u64::from(query.remote_port)
        | u64::from(query.local_port) << 16
        | u64::from(query.protocol) << 32
        | u64::from(query.bits) << 40
        | u64::from(query.claim.block) << 48
}

/// Packs the ends of a connection.
#[inline(always)]
fn pack_ends(key: &ReplyKey) -> u64 {
    u64::from(key.cookie) | u64::from(key.remote_port) << 32 | u64::from(key.local_port) << 48
}

/// Packs the rest of a packet's connection, and what the packet does to it.
#[inline(always)]
fn pack_reply(packet: &ReplyPacket) -> u64 {
    let ReplyPacket { key, begins, flags } = packet;
    u64::from(key.protocol)
        | u64::from(key.side) << 8
        | u64::from(key.block) << 16
        | u64::from(*flags) << 32
        | u64::from(*begins) << 48
}

/// Unpacks what [`pack_ends`] and [`pack_reply`] have packed.
#[inline(always)]
fn reply_packet(remote_hi: u64, remote_lo: u64, ends: u64, packet: u64) -> ReplyPacket {
    let key = ReplyKey {
        remote_hi,
        remote_lo,
        cookie: ends as u32,
        block: (packet >> 16) as u16 & (BLOCKS - 1),
        remote_port: (ends >> 32) as u16,
        local_port: (ends >> 48) as u16,
        protocol: packet as u8,
        side: (packet >> 8) as u8,
    };
    ReplyPacket { key, begins: packet >> 48 & 1 != 0, flags: (packet >> 32) as u16 }
}

/// Unpacks a query. The tenant's state is looked up again: that is one load, and registers are few.
#[inline(always)]
fn query<A>(local: u64, remote: A, ports: u64) -> Query<A> {
    let tenant = TenantId(local as u32);
    Query {
        local: LocalTenant { tenant, state: Maps::tenant(tenant) },
        claim: Claim { cookie: (local >> 32) as u32, block: (ports >> 48) as u16 & (BLOCKS - 1) },
        remote,
        remote_port: ports as u16,
        local_port: (ports >> 16) as u16,
        protocol: (ports >> 32) as u8,
        bits: (ports >> 40) as u8,
        tcp_flags: 0,
    }
}

global_fns! {
    fn range_v4(local: u64, remote: u32, ports: u64) -> u64 {
        access::range(&Maps, &query(local, V4(remote), ports)).bits()
    }

    fn opens_node_v4(local: u64, remote: u32, ports: u64) -> u64 {
        access::opens_node(&Maps, &query(local, V4(remote), ports)).into()
    }

    fn access_v4(local: u64, remote: u32, ports: u64, identity: u64) -> u64 {
        access::access(&Maps, &query(local, V4(remote), ports), RemoteIdentity::from_bits(identity)).bits()
    }

    fn egress_v4(local: u64, remote: u32, ports: u64, identity: u64) -> u64 {
        decide::egress(&Maps, &query(local, V4(remote), ports), RemoteIdentity::from_bits(identity)).bits()
    }

    fn ingress_v4(local: u64, remote: u32, ports: u64, identity: u64) -> u64 {
        decide::ingress(&Maps, &query(local, V4(remote), ports), RemoteIdentity::from_bits(identity)).bits()
    }

    fn range_v6(local: u64, hi: u64, lo: u64, ports: u64) -> u64 {
        access::range(&Maps, &query(local, V6 { hi, lo }, ports)).bits()
    }

    fn opens_node_v6(local: u64, hi: u64, lo: u64, ports: u64) -> u64 {
        access::opens_node(&Maps, &query(local, V6 { hi, lo }, ports)).into()
    }

    fn embedded_at_v6(local: u64, hi: u64, lo: u64, index: u32) -> u64 {
        let Query { local, remote, .. } = query(local, V6 { hi, lo }, 0);
        access::embedded_at(&Maps, &local, remote, index).bits()
    }

    fn access_v6(local: u64, hi: u64, lo: u64, ports: u64, identity: u64) -> u64 {
        access::access(&Maps, &query(local, V6 { hi, lo }, ports), RemoteIdentity::from_bits(identity)).bits()
    }

    fn egress_v6(local: u64, hi: u64, lo: u64, ports: u64, identity: u64) -> u64 {
        decide::egress(&Maps, &query(local, V6 { hi, lo }, ports), RemoteIdentity::from_bits(identity)).bits()
    }

    fn ingress_v6(local: u64, hi: u64, lo: u64, ports: u64, identity: u64) -> u64 {
        decide::ingress(&Maps, &query(local, V6 { hi, lo }, ports), RemoteIdentity::from_bits(identity)).bits()
    }

    fn lookup_reply(hi: u64, lo: u64, ends: u64, packet: u64, generation: u64) -> u64 {
        decide::lookup_reply::<V6, _>(&Maps, &reply_packet(hi, lo, ends, packet), generation) as u64
    }

    fn record(hi: u64, lo: u64, ends: u64, packet: u64, generation: u64) -> u64 {
        decide::record::<V6, _>(&Maps, &reply_packet(hi, lo, ends, packet), generation);
        0
    }

    fn ipv4_from_pod(skb: *mut __sk_buff) -> u64 {
        frame_verdict(skb, |frame, endpoint| classify::ipv4_from_pod(frame, endpoint, &Maps))
    }

    fn ipv4_to_pod(skb: *mut __sk_buff) -> u64 {
        frame_verdict(skb, |frame, endpoint| classify::ipv4_to_pod(frame, endpoint, &Maps))
    }

    fn ipv6_from_pod(skb: *mut __sk_buff) -> u64 {
        frame_verdict(skb, |frame, endpoint| classify::ipv6_from_pod(frame, endpoint, &Maps))
    }

    fn ipv6_to_pod(skb: *mut __sk_buff) -> u64 {
        frame_verdict(skb, |frame, endpoint| classify::ipv6_to_pod(frame, endpoint, &Maps))
    }

    fn neighbor_from_pod(skb: *mut __sk_buff) -> u64 {
        frame_verdict(skb, |frame, endpoint| neighbor::from_pod(frame, endpoint, &Maps))
    }

    fn neighbor_to_pod(skb: *mut __sk_buff) -> u64 {
        frame_verdict(skb, |frame, endpoint| neighbor::to_pod(frame, endpoint, &Maps))
    }
}

/// Looks up the pod again and decides on a frame whose headers are readable.
#[inline(always)]
fn frame_verdict(skb: *mut __sk_buff, verdict: impl FnOnce(&Frame, &Endpoint<'_>) -> Verdict) -> u64 {
    let ctx = TcContext::new(skb);
    let entry = Maps::endpoint(packet::ifindex(&ctx));
    let Some(endpoint) = entry.and_then(|entry| Endpoint::new(entry, Maps::tenant(entry.tenant))) else {
        return Verdict::deny(DropReason::NotReady).bits();
    };
    verdict(&Frame::linear(&ctx), &endpoint).bits()
}

impl Lookup<V4> for Maps {
    #[inline(always)]
    fn range(&self, query: &Query<V4>) -> Range {
        Range::from_bits(range_v4(pack_local(query), query.remote.0, pack_ports(query)))
    }

    #[inline(always)]
    fn opens_node(&self, query: &Query<V4>) -> bool {
        opens_node_v4(pack_local(query), query.remote.0, pack_ports(query)) != 0
    }
}

impl Lookup<V6> for Maps {
    #[inline(always)]
    fn range(&self, query: &Query<V6>) -> Range {
        Range::from_bits(range_v6(pack_local(query), query.remote.hi, query.remote.lo, pack_ports(query)))
    }

    #[inline(always)]
    fn opens_node(&self, query: &Query<V6>) -> bool {
        opens_node_v6(pack_local(query), query.remote.hi, query.remote.lo, pack_ports(query)) != 0
    }

    #[inline(always)]
    fn embedded_at(&self, query: &Query<V6>, index: u32) -> Access {
        Access::from_bits(embedded_at_v6(pack_local(query), query.remote.hi, query.remote.lo, index))
    }
}

impl Maps {
    #[inline(always)]
    fn lookup_reply(packet: &ReplyPacket, generation: u64) -> ReplyState {
        let ReplyKey { remote_hi, remote_lo, .. } = packet.key;
        let state = lookup_reply(remote_hi, remote_lo, pack_ends(&packet.key), pack_reply(packet), generation);
        ReplyState::from_number(state)
    }

    #[inline(always)]
    fn record(packet: &ReplyPacket, generation: u64) {
        let ReplyKey { remote_hi, remote_lo, .. } = packet.key;
        record(remote_hi, remote_lo, pack_ends(&packet.key), pack_reply(packet), generation);
    }
}

impl Rules<V4> for Maps {
    #[inline(always)]
    fn access(&self, query: &Query<V4>, identity: RemoteIdentity) -> Access {
        Access::from_bits(access_v4(pack_local(query), query.remote.0, pack_ports(query), identity.bits()))
    }

    #[inline(always)]
    fn egress(&self, query: &Query<V4>, identity: RemoteIdentity) -> Verdict {
        Verdict::from_bits(egress_v4(pack_local(query), query.remote.0, pack_ports(query), identity.bits()))
    }

    #[inline(always)]
    fn ingress(&self, query: &Query<V4>, identity: RemoteIdentity) -> Verdict {
        Verdict::from_bits(ingress_v4(pack_local(query), query.remote.0, pack_ports(query), identity.bits()))
    }

    #[inline(always)]
    fn lookup_reply(&self, packet: &ReplyPacket, generation: u64) -> ReplyState {
        Maps::lookup_reply(packet, generation)
    }

    #[inline(always)]
    fn record(&self, packet: &ReplyPacket, generation: u64) {
        Maps::record(packet, generation);
    }
}

impl Rules<V6> for Maps {
    #[inline(always)]
    fn access(&self, query: &Query<V6>, identity: RemoteIdentity) -> Access {
        let V6 { hi, lo } = query.remote;
        Access::from_bits(access_v6(pack_local(query), hi, lo, pack_ports(query), identity.bits()))
    }

    #[inline(always)]
    fn egress(&self, query: &Query<V6>, identity: RemoteIdentity) -> Verdict {
        let V6 { hi, lo } = query.remote;
        Verdict::from_bits(egress_v6(pack_local(query), hi, lo, pack_ports(query), identity.bits()))
    }

    #[inline(always)]
    fn ingress(&self, query: &Query<V6>, identity: RemoteIdentity) -> Verdict {
        let V6 { hi, lo } = query.remote;
        Verdict::from_bits(ingress_v6(pack_local(query), hi, lo, pack_ports(query), identity.bits()))
    }

    #[inline(always)]
    fn lookup_reply(&self, packet: &ReplyPacket, generation: u64) -> ReplyState {
        Maps::lookup_reply(packet, generation)
    }

    #[inline(always)]
    fn record(&self, packet: &ReplyPacket, generation: u64) {
        Maps::record(packet, generation);
    }
}
