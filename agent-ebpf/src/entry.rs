//! The way from the hooks to the fast path and the slow path.
//!
//! Each of the four fast paths is a global function: the verifier checks it once, apart from the others.

#![allow(unsafe_code)]

use agent_common::addr::{V4, V6};
use agent_common::classify;
use agent_common::flow::Direction;
use agent_common::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;

use crate::action::{self, SLOW_PATH};
use crate::global_fns::global_fns;
use crate::packet::Frame;

/// Judges a packet and returns the code of the verdict. The fast path takes as few steps as possible for IPv4.
#[inline(always)]
pub(crate) fn enforce(ctx: &TcContext, direction: Direction) -> i32 {
    let skb = ctx.skb.skb;
    let code = match (classify::ethertype(&Frame::linear(ctx)), direction) {
        (Some(ETHERTYPE_IPV4), Direction::Egress) => fast_v4_from_pod(skb),
        (Some(ETHERTYPE_IPV4), Direction::Ingress) => fast_v4_to_pod(skb),
        (Some(ETHERTYPE_IPV6), Direction::Egress) => fast_v6_from_pod(skb),
        (Some(ETHERTYPE_IPV6), Direction::Ingress) => fast_v6_to_pod(skb),
        _ => SLOW_PATH,
    };
    // The slow path is no function of its own: its calls are deep, and kernel 5.10 counts 32 bytes of stack for each.
    if code == SLOW_PATH { action::slow(ctx, direction) } else { code }
}

global_fns! {
    fn fast_v4_from_pod(skb: *mut __sk_buff) -> i32 {
        action::fast::<V4>(&TcContext::new(skb), Direction::Egress)
    }

    fn fast_v4_to_pod(skb: *mut __sk_buff) -> i32 {
        action::fast::<V4>(&TcContext::new(skb), Direction::Ingress)
    }

    fn fast_v6_from_pod(skb: *mut __sk_buff) -> i32 {
        action::fast::<V6>(&TcContext::new(skb), Direction::Egress)
    }

    fn fast_v6_to_pod(skb: *mut __sk_buff) -> i32 {
        action::fast::<V6>(&TcContext::new(skb), Direction::Ingress)
    }
}
