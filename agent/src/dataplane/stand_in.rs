//! Programs of a few instructions that stand in for ours while a link moves to the front of its hook.
//!
//! The kernel refuses one program twice at a hook, so ours cannot be at the new place before it has left the old one.

use std::io;
use std::os::fd::OwnedFd;

use super::sys::{self, Instruction};

/// `r0 = VALUE`.
const fn result(value: i32) -> Instruction {
    Instruction(0xb7, 0, 0, value)
}

/// Returns r0.
const EXIT: Instruction = Instruction(0x95, 0, 0, 0);
/// `r0 = skb->ingress_ifindex`: the interface by which a packet came, 0 for the node's own.
const LOAD_INGRESS: Instruction = Instruction(0x61, 0x10, 36, 0);
/// Skips two instructions if r0 is 0.
const SKIP_TWO_IF_ZERO: Instruction = Instruction(0x15, 0, 2, 0);
/// The next program decides (`TCX_NEXT`).
const NEXT: i32 = -1;
/// The packet is dropped (`TCX_DROP`).
const DROP: i32 = 2;

/// A program that leaves the decision to the next one.
///
/// # Errors
/// The kernel's answer.
pub(super) fn pass() -> io::Result<OwnedFd> {
    sys::prog_load(c"bulkhead_pass", &[result(NEXT), EXIT])
}

/// A program that drops each packet.
///
/// # Errors
/// The kernel's answer.
pub(super) fn deny() -> io::Result<OwnedFd> {
    sys::prog_load(c"bulkhead_deny", &[result(DROP), EXIT])
}

/// A program that drops each packet but the node's own, as no guard may stop those.
///
/// # Errors
/// The kernel's answer.
pub(super) fn deny_forwarded() -> io::Result<OwnedFd> {
    let instructions = [LOAD_INGRESS, SKIP_TWO_IF_ZERO, result(DROP), EXIT, result(NEXT), EXIT];
    sys::prog_load(c"bulkhead_deny", &instructions)
}
