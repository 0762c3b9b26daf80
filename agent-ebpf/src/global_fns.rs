//! The parts of the verdict that the verifier judges on their own, once each: the rules below the
//! global_fns, and frames that are not plain.
//!
//! They take a context or plain registers and return one: that is what makes a function of the
//! kernel's "global" (5.6). Inlined, every way through the parser would be followed through every rule again, some
//! hundred thousand instructions instead of a few thousand.

#![allow(unsafe_code)]

use agent_common::access::{self, Access, LocalTenant, Range, RemoteIdentity};
use agent_common::addr::{V4, V6};
use agent_common::conntrack::{Opener, ReplyState};
use agent_common::decide;
use agent_common::flow::Direction;
use agent_common::neighbor;
use agent_common::post_nat;
use agent_common::query::Query;
use agent_common::reason::DropReason;
use agent_common::tenant::{TenantId, TenantState};
use agent_common::verdict::{self, Endpoint, Verdict};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;

use crate::action;
use crate::packet::Frame;
use crate::report;
use crate::tables::Maps;

/// Tenant and claim.
#[inline(always)]
fn who<A>(query: &Query<A>) -> u64 {
    u64::from(query.local.tenant.0) | u64::from(query.cookie) << 32
}

/// Ports, protocol and bits.
#[inline(always)]
fn what<A>(query: &Query<A>) -> u64 {
    u64::from(query.remote_port)
        | u64::from(query.local_port) << 16
        | u64::from(query.protocol) << 32
        | u64::from(query.bits) << 40
}

/// The question again. The tenant's state is read anew: that is one load, and registers are few.
#[inline(always)]
fn query<A>(who: u64, remote: A, what: u64) -> Query<A> {
    let tenant = TenantId(who as u32);
    let state = Maps::tenant(tenant);
    Query { local: LocalTenant { tenant, state }, ..claim(who, remote, what) }
}

/// As far as state needs it: without the tenant's state.
#[inline(always)]
fn claim<A>(who: u64, remote: A, what: u64) -> Query<A> {
    Query {
        local: LocalTenant { tenant: TenantId(who as u32), state: TenantState::default() },
        cookie: (who >> 32) as u32,
        remote,
        remote_port: what as u16,
        local_port: (what >> 16) as u16,
        protocol: (what >> 32) as u8,
        bits: (what >> 40) as u8,
        tcp_flags: 0,
    }
}

macro_rules! rule {
    ($rule:path, $answer:ident, $v4:ident, $v6:ident, $call_v4:ident, $call_v6:ident) => {
        // SAFETY: the name is taken by nothing else in the object.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v4(who: u64, remote: u32, what: u64, identity: u64) -> u64 {
            $rule(&Maps, &query(who, V4(remote), what), RemoteIdentity::from_bits(identity)).bits()
        }

        // SAFETY: as above.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v6(who: u64, remote_hi: u64, remote_lo: u64, what: u64, identity: u64) -> u64 {
            let remote = V6 { hi: remote_hi, lo: remote_lo };
            $rule(&Maps, &query(who, remote, what), RemoteIdentity::from_bits(identity)).bits()
        }

        /// Calls the rule for IPv4.
        #[inline(always)]
        pub fn $call_v4(query: &Query<V4>, identity: RemoteIdentity) -> $answer {
            $answer::from_bits($v4(who(query), query.remote.0, what(query), identity.bits()))
        }

        /// Calls the rule for IPv6.
        #[inline(always)]
        pub fn $call_v6(query: &Query<V6>, identity: RemoteIdentity) -> $answer {
            let V6 { hi, lo } = query.remote;
            $answer::from_bits($v6(who(query), hi, lo, what(query), identity.bits()))
        }
    };
}

// SAFETY: as above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn range_v4(who: u64, remote: u32, what: u64) -> u64 {
    access::range(&Maps, &query(who, V4(remote), what)).bits()
}

// SAFETY: as above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn range_v6(who: u64, remote_hi: u64, remote_lo: u64, what: u64) -> u64 {
    access::range(&Maps, &query(who, V6 { hi: remote_hi, lo: remote_lo }, what)).bits()
}

/// Looks for an IPv4 range.
#[inline(always)]
pub fn call_range_v4(query: &Query<V4>) -> Range {
    Range::from_bits(range_v4(who(query), query.remote.0, what(query)))
}

/// Looks for an IPv6 range.
#[inline(always)]
pub fn call_range_v6(query: &Query<V6>) -> Range {
    Range::from_bits(range_v6(who(query), query.remote.hi, query.remote.lo, what(query)))
}

/// Ports, protocol, bits, and which side of which connection.
#[inline(always)]
fn side<A>(query: &Query<A>, opener: Opener, reply: bool) -> u64 {
    what(query) | u64::from(opener == Opener::Pod) << 48 | u64::from(reply) << 49
}

// SAFETY: as above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn arrives_v4(sender: u32, local: u32) -> u64 {
    let tenant = |number| LocalTenant { tenant: TenantId(number), state: Maps::tenant(TenantId(number)) };
    u64::from(post_nat::arrives::<V4, _>(&Maps, tenant(sender), tenant(local)))
}

/// Whether a tenant's pods may send to another's on this node, or answer.
#[inline(always)]
pub fn call_arrives(sender: TenantId, local: TenantId) -> bool {
    arrives_v4(sender.0, local.0) != 0
}

macro_rules! state {
    ($rule:ident, $v4:ident, $v6:ident, $call_v4:ident, $call_v6:ident, $output:ty, $to:expr, $from:expr) => {
        // SAFETY: the name is taken by nothing else in the object.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v4(who: u64, remote: u32, side: u64, generation: u64) -> u64 {
            let opener = if side >> 48 & 1 != 0 { Opener::Pod } else { Opener::Remote };
            $to(decide::$rule(&Maps, &claim(who, V4(remote), side), opener, side >> 49 & 1 != 0, generation))
        }

        // SAFETY: as above.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v6(who: u64, remote_hi: u64, remote_lo: u64, side: u64, generation: u64) -> u64 {
            let opener = if side >> 48 & 1 != 0 { Opener::Pod } else { Opener::Remote };
            let remote = V6 { hi: remote_hi, lo: remote_lo };
            $to(decide::$rule(&Maps, &claim(who, remote, side), opener, side >> 49 & 1 != 0, generation))
        }

        /// Calls it for IPv4.
        #[inline(always)]
        pub fn $call_v4(query: &Query<V4>, opener: Opener, reply: bool, generation: u64) -> $output {
            $from($v4(who(query), query.remote.0, side(query, opener, reply), generation))
        }

        /// Calls it for IPv6.
        #[inline(always)]
        pub fn $call_v6(query: &Query<V6>, opener: Opener, reply: bool, generation: u64) -> $output {
            let V6 { hi, lo } = query.remote;
            $from($v6(who(query), hi, lo, side(query, opener, reply), generation))
        }
    };
}

macro_rules! whole {
    ($function:ident, $call:ident, $action:path, $direction:expr) => {
        // SAFETY: the name is taken by nothing else in the object.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $function(skb: *mut __sk_buff) -> i32 {
            $action(&TcContext::new(skb), $direction)
        }

        /// Does all that is to be done with such a frame.
        #[inline(always)]
        pub fn $call(ctx: &TcContext) -> i32 {
            $function(ctx.skb.skb)
        }
    };
}

macro_rules! branch {
    ($function:ident, $call:ident, $path:path) => {
        // SAFETY: the name is taken by nothing else in the object.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $function(skb: *mut __sk_buff) -> u64 {
            let ctx = TcContext::new(skb);
            let entry = Maps::endpoint(report::ifindex(&ctx));
            let Some(endpoint) = entry.and_then(|entry| Endpoint::new(entry, Maps::tenant(entry.tenant))) else {
                return Verdict::deny(DropReason::NotReady).bits();
            };
            $path(&Frame::linear(&ctx), &endpoint, &Maps).bits()
        }

        /// Judges a frame of this kind whose headers have been made readable.
        #[inline(always)]
        pub fn $call(ctx: &TcContext) -> Verdict {
            Verdict::from_bits($function(ctx.skb.skb))
        }
    };
}

whole!(fast_v4_from_pod, call_fast_v4_from_pod, action::fast::<V4>, Direction::Egress);
whole!(fast_v4_to_pod, call_fast_v4_to_pod, action::fast::<V4>, Direction::Ingress);
whole!(fast_v6_from_pod, call_fast_v6_from_pod, action::fast::<V6>, Direction::Egress);
whole!(fast_v6_to_pod, call_fast_v6_to_pod, action::fast::<V6>, Direction::Ingress);
whole!(slow_from_pod, call_slow_from_pod, action::slow, Direction::Egress);
whole!(slow_to_pod, call_slow_to_pod, action::slow, Direction::Ingress);
branch!(ipv4_from_pod, call_ipv4_from_pod, verdict::ipv4_from_pod);
branch!(ipv4_to_pod, call_ipv4_to_pod, verdict::ipv4_to_pod);
branch!(ipv6_from_pod, call_ipv6_from_pod, verdict::ipv6_from_pod);
branch!(ipv6_to_pod, call_ipv6_to_pod, verdict::ipv6_to_pod);
branch!(neighbor_from_pod, call_neighbor_from_pod, neighbor::from_pod);
branch!(neighbor_to_pod, call_neighbor_to_pod, neighbor::to_pod);
rule!(access::access, Access, access_v4, access_v6, call_access_v4, call_access_v6);
rule!(decide::egress, Verdict, egress_v4, egress_v6, call_egress_v4, call_egress_v6);
rule!(decide::ingress, Verdict, ingress_v4, ingress_v6, call_ingress_v4, call_ingress_v6);
state!(
    lookup_reply,
    lookup_reply_v4,
    lookup_reply_v6,
    call_lookup_reply_v4,
    call_lookup_reply_v6,
    ReplyState,
    |state| state as u64,
    ReplyState::from_number
);
state!(record, record_v4, record_v6, call_record_v4, call_record_v6, (), |()| 0, |_: u64| ());
