//! The parts of the verdict that the verifier judges on their own, once each: the rules below the
//! waist, and what is neither IPv4 nor often.
//!
//! They take a context or plain registers and return one: that is what makes a function of the
//! kernel's "global" (5.6). Inlined, every way through the parser would be followed through every rule again, some
//! hundred thousand instructions instead of a few thousand.

#![allow(unsafe_code)]

use agent_common::addr::{V4, V6};
use agent_common::ask::Ask;
use agent_common::decide;
use agent_common::neighbor;
use agent_common::reach::Party;
use agent_common::reason::DropReason;
use agent_common::tenant::{TenantId, TenantState};
use agent_common::verdict::{self, Endpoint, Verdict};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;

use crate::action::NOBODY;
use crate::packet::Frame;
use crate::report;
use crate::tables::Maps;

/// Tenant and claim.
#[inline(always)]
fn who<A>(ask: &Ask<A>) -> u64 {
    u64::from(ask.me.tenant.0) | u64::from(ask.cookie) << 32
}

#[inline(always)]
fn state<A>(ask: &Ask<A>) -> u64 {
    let TenantState { flags, row, slot } = ask.me.state;
    u64::from(flags) | u64::from(row) << 32 | u64::from(slot) << 48
}

/// Ports, protocol and bits.
#[inline(always)]
fn what<A>(ask: &Ask<A>) -> u64 {
    u64::from(ask.remote_port)
        | u64::from(ask.local_port) << 16
        | u64::from(ask.protocol) << 32
        | u64::from(ask.bits) << 40
}

#[inline(always)]
fn ask<A>(who: u64, state: u64, remote: A, what: u64) -> Ask<A> {
    let state = TenantState { flags: state as u32, row: (state >> 32) as u16, slot: (state >> 48) as u16 };
    Ask {
        me: Party { tenant: TenantId(who as u32), state },
        cookie: (who >> 32) as u32,
        remote,
        remote_port: what as u16,
        local_port: (what >> 16) as u16,
        protocol: (what >> 32) as u8,
        bits: (what >> 40) as u8,
    }
}

macro_rules! rule {
    ($rule:ident, $v4:ident, $v6:ident, $call_v4:ident, $call_v6:ident) => {
        // SAFETY: the name is taken by nothing else in the object.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v4(who: u64, state: u64, remote: u32, what: u64) -> u64 {
            decide::$rule(&Maps, &ask(who, state, V4(remote), what)).bits()
        }

        // SAFETY: as above.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v6(who: u64, state: u64, remote_hi: u64, remote_lo: u64, what: u64) -> u64 {
            decide::$rule(&Maps, &ask(who, state, V6 { hi: remote_hi, lo: remote_lo }, what)).bits()
        }

        /// Calls the rule for IPv4.
        #[inline(always)]
        pub fn $call_v4(ask: &Ask<V4>) -> Verdict {
            Verdict::from_bits($v4(who(ask), state(ask), ask.remote.0, what(ask)))
        }

        /// Calls the rule for IPv6.
        #[inline(always)]
        pub fn $call_v6(ask: &Ask<V6>) -> Verdict {
            Verdict::from_bits($v6(who(ask), state(ask), ask.remote.hi, ask.remote.lo, what(ask)))
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
            let entry = Maps::endpoint(report::ifindex(&ctx)).unwrap_or(&NOBODY);
            let Some(endpoint) = Endpoint::new(entry, Maps::tenant(entry.tenant)) else {
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

branch!(ipv6_from_pod, call_ipv6_from_pod, verdict::ipv6_from_pod);
branch!(ipv6_to_pod, call_ipv6_to_pod, verdict::ipv6_to_pod);
branch!(neighbor_from_pod, call_neighbor_from_pod, neighbor::from_pod);
branch!(neighbor_to_pod, call_neighbor_to_pod, neighbor::to_pod);
rule!(egress, egress_v4, egress_v6, call_egress_v4, call_egress_v6);
rule!(ingress, ingress_v4, ingress_v6, call_ingress_v4, call_ingress_v6);
