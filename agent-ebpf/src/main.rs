//! The kernel programs, one function for each hook.
//!
//! `from_pod` is attached to the ingress hook of a pod's host-side interface, and `to_pod` to its egress hook. They give
//! [`agent_common::classify`] a packet and tables, act on its verdict, and count and report it. `uplink`, `bridge` and
//! `cgroup` are the guards of [`agent_common::guard`]. They are attached to the egress hook of the node's own
//! interfaces, the ingress hook of bridges, and the cgroup of all pods. The programs hold no policy of their own.

#![no_std]
#![no_main]
#![deny(unsafe_code)]
#![allow(missing_docs, reason = "the items that a macro makes of a documented function have no documentation")]

mod action;
mod entry;
mod global_fns;
mod guard;
mod kernel_fields;
mod loss;
mod maps;
mod packet;
mod report;
mod tables;

use agent_common::flow::Direction;
use aya_ebpf::macros::{cgroup_skb, classifier};
use aya_ebpf::programs::{SkBuffContext, TcContext};

/// Judges a packet from a pod.
#[classifier]
pub(crate) fn from_pod(ctx: TcContext) -> i32 {
    entry::enforce(&ctx, Direction::Egress)
}

/// Judges a packet to a pod.
#[classifier]
pub(crate) fn to_pod(ctx: TcContext) -> i32 {
    entry::enforce(&ctx, Direction::Ingress)
}

/// Lets packets leave the node if the node or a claimed pod sent them.
#[classifier]
pub(crate) fn uplink(ctx: TcContext) -> i32 {
    guard::uplink(&ctx)
}

/// Lets packets of claimed pods enter the node from a bridge of pods.
#[classifier]
pub(crate) fn bridge(ctx: TcContext) -> i32 {
    guard::bridge(&ctx)
}

/// Lets sockets of claimed pods send, and those on the node's own network.
#[cgroup_skb(egress)]
pub(crate) fn cgroup(ctx: SkBuffContext) -> i32 {
    guard::cgroup(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects a reachable endless loop, so a program that could panic does not load.
    loop {}
}

/// The kernel offers its helpers to GPL-compatible programs. This file may be used as Apache-2.0 or GPL-2.0.
#[expect(unsafe_code, reason = "the loader finds the licence by its section")]
mod license {
    // SAFETY: a byte string under a name and in a section of its own.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "license")]
    static LICENSE: [u8; 4] = *b"GPL\0";
}
