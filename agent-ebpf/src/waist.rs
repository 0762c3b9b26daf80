//! The rules below the waist as functions that the verifier judges on their own, once each.
//!
//! They take and return plain registers: that is what makes a function of the kernel's "global"
//! (5.6). Inlined, every way through the parser would be followed through every rule again, some
//! hundred thousand instructions instead of a few thousand.

#![allow(unsafe_code)]

use agent_common::addr::{V4, V6};
use agent_common::ask::Ask;
use agent_common::decide;
use agent_common::reach::Party;
use agent_common::tenant::{TenantId, TenantState};
use agent_common::verdict::Verdict;

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

rule!(egress, egress_v4, egress_v6, call_egress_v4, call_egress_v6);
rule!(ingress, ingress_v4, ingress_v6, call_ingress_v4, call_ingress_v6);
