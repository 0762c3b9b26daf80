//! The programs that judge packets on pod interfaces.
//!
//! One pair for all pods: `from_pod` sits on the ingress hook of a pod's host-side interface,
//! `to_pod` on its egress hook. They lend `agent_common::verdict` a packet and tables, act on its
//! verdict, count it, and tell of denials. They hold no policy of their own. `uplink` and `bridge` are
//! the guards (`agent_common::guard`) on the egress hook of the node's own interfaces and on the ingress
//! hook of bridges; `cgroup` is the one on the control groups of pods.

#![no_std]
#![no_main]
#![deny(unsafe_code)]
#![allow(missing_docs, reason = "what a macro makes of a documented function is not")]

mod action;
mod global_fns;
mod guard;
mod maps;
mod packet;
mod report;
mod tables;

use agent_common::flow::Direction;
use aya_ebpf::macros::{cgroup_skb, classifier};
use aya_ebpf::programs::{SkBuffContext, TcContext};

/// Judges what a pod sends.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    action::enforce(&ctx, Direction::Egress)
}

/// Judges what is on its way to a pod.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    action::enforce(&ctx, Direction::Ingress)
}

/// Lets out of the node what it sends itself or a claimed pod sent.
#[classifier]
pub fn uplink(ctx: TcContext) -> i32 {
    guard::uplink(&ctx)
}

/// Lets rise from a bridge of pods what a claimed pod sent.
#[classifier]
pub fn bridge(ctx: TcContext) -> i32 {
    guard::bridge(&ctx)
}

/// Lets sockets of claimed pods speak, and the node's own.
#[cgroup_skb(egress)]
pub fn cgroup(ctx: SkBuffContext) -> i32 {
    guard::cgroup(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects a reachable endless loop, so a program that could panic does not load.
    loop {}
}

/// The kernel offers its helpers to GPL-compatible programs; this file may be used as Apache-2.0 or
/// GPL-2.0.
#[expect(unsafe_code, reason = "the loader finds the licence by its section")]
mod license {
    // SAFETY: a plain byte string under a name and in a section of its own.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "license")]
    static LICENSE: [u8; 4] = *b"GPL\0";
}
