//! Fields of the kernel's own structures, read at offsets that the loader takes from the kernel's description (BTF).
//!
//! No helper gives these fields to a program of these types. Decides nothing. An offset that is unknown is 0, and the
//! value then reads as "nothing known".

#![allow(unsafe_code)]

use agent_common::checksum::{self, Unfinished};
use agent_common::post_nat::ConnDirection;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// Offsets in bytes that lead from a packet to its network namespace. They are the device in a `sk_buff`, the namespace
/// in a `net_device`, and the inode number in a `net`. Without them the cgroup guard is not loaded.
#[unsafe(no_mangle)]
static SKB_DEV: u32 = 0;
#[unsafe(no_mangle)]
static DEV_NET: u32 = 0;
#[unsafe(no_mangle)]
static NET_INUM: u32 = 0;

/// Offsets of an unfinished checksum in a `sk_buff`: `ip_summed` (its byte, and its bit there), `csum_start` with
/// `csum_offset` behind it, and `network_header`. The last two count from the buffer's head. 0 where unknown.
#[unsafe(no_mangle)]
static SKB_SUMMED: u32 = 0;
#[unsafe(no_mangle)]
static SUMMED_BIT: u32 = 0;
#[unsafe(no_mangle)]
static SKB_CSUM: u32 = 0;
#[unsafe(no_mangle)]
static SKB_NETWORK: u32 = 0;

/// Offset of the field `_nfct` of a `sk_buff`: the packet's entry of kernel conntrack, with its state in the low bits. 0
/// where unknown, or where the kernel has no conntrack.
#[unsafe(no_mangle)]
static SKB_NFCT: u32 = 0;

/// Inode number of the network namespace of a packet's device; 0 where it cannot be read.
#[inline(always)]
pub(crate) fn netns(skb: *mut __sk_buff) -> u32 {
    let device: u64 = peek(skb as u64, offset(&raw const SKB_DEV));
    let net: u64 = peek(device, offset(&raw const DEV_NET));
    peek(net, offset(&raw const NET_INUM))
}

/// The checksum that the next device has yet to write; `None` if there is none, or the offsets are unknown.
#[inline(always)]
pub(crate) fn unfinished_checksum(skb: *mut __sk_buff) -> Option<Unfinished> {
    let (skb, field) = (skb as u64, offset(&raw const SKB_CSUM));
    let summed: u8 = peek(skb, offset(&raw const SKB_SUMMED));
    if field == 0 || summed >> offset(&raw const SUMMED_BIT) & checksum::PARTIAL != checksum::PARTIAL {
        return None;
    }
    let [start, behind]: [u16; 2] = peek(skb, field);
    let network: u16 = peek(skb, offset(&raw const SKB_NETWORK));
    let start = i32::from(start) - i32::from(network);
    Some(Unfinished { start, field: start + i32::from(behind) })
}

/// The direction of a packet in its connection; `None` where kernel conntrack does not know it.
#[inline(always)]
pub(crate) fn conn_direction(skb: *mut __sk_buff) -> Option<ConnDirection> {
    match offset(&raw const SKB_NFCT) {
        0 => None,
        field => ConnDirection::from_state(peek(skb as u64, field)),
    }
}

#[inline(always)]
fn offset(of: *const u32) -> u64 {
    // SAFETY: reads a constant that the loader sets before the map is frozen. The volatile read keeps the compiler from
    // assuming the value in the object.
    u64::from(unsafe { core::ptr::read_volatile(of) })
}

/// Reads a value at an address of the kernel's; the zero value where it cannot be read.
#[inline(always)]
fn peek<T: Default>(base: u64, offset: u64) -> T {
    let mut value = T::default();
    // SAFETY: a variable of that size that outlives the call. The kernel checks the address it reads, and fills the
    // variable with zeros where it cannot read.
    unsafe {
        bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, (base + offset) as *const _);
    }
    value
}
