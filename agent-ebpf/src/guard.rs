//! The guards over the maps: who came in by what is asked, a drop is counted, nothing is told.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;

use agent_common::access::LocalTenant;
use agent_common::checksum::{self, Unfinished};
use agent_common::counters::{Counter, Loss};
use agent_common::guard::{self, Claims, Guard, Sender, Socket};
use agent_common::headers::Header;
use agent_common::layout::EndpointEntry;
use agent_common::post_nat::{self, Network, PacketMark};
use agent_common::reason::DropReason;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::generated::{
    bpf_check_mtu, bpf_probe_read_kernel, bpf_skb_ancestor_cgroup_id, bpf_skb_load_bytes_relative,
};
use aya_ebpf::programs::{SkBuffContext, TcContext};

use crate::packet::{self, Frame};
use crate::tables::Maps;
use crate::{maps, report};

/// As in `action`: the next program decides, or nobody does.
const PASS: i32 = -1;
const DROP: i32 = 2;
/// What a program on a control group answers: go on; or drop it as a full queue would (`NET_XMIT_DROP`),
/// so that TCP sends it again and most datagrams are lost as on a wire. 0 would be EPERM, which a resolver
/// takes for an answer; the moment passes.
const SPEAKS: i32 = 1;
const REFUSED: i32 = 2;

/// Whether the kernel has `bpf_check_mtu` (5.12), which alone tells a program that an interface is
/// gone. Set at load; without it a claim counts until an agent removes it.
#[unsafe(no_mangle)]
static CHECK_MTU: u32 = 0;

/// Where the kernel's structures hold what leads from a packet to its network namespace, in bytes: the
/// device of a `sk_buff`, the namespace of a `net_device`, the inode number of a `net`. Set at load, from
/// the kernel's own description (BTF); without it this guard is not loaded.
#[unsafe(no_mangle)]
static SKB_DEV: u32 = 0;
#[unsafe(no_mangle)]
static DEV_NET: u32 = 0;
#[unsafe(no_mangle)]
static NET_INUM: u32 = 0;

/// Where a `sk_buff` holds what is still to be written: `ip_summed` (its byte and its bit there),
/// `csum_start` with `csum_offset` behind it, and `network_header`, both counted from the buffer's head.
/// Set at load, as above; 0 where that is not known.
#[unsafe(no_mangle)]
static SKB_SUMMED: u32 = 0;
#[unsafe(no_mangle)]
static SUMMED_BIT: u32 = 0;
#[unsafe(no_mangle)]
static SKB_CSUM: u32 = 0;
#[unsafe(no_mangle)]
static SKB_NETWORK: u32 = 0;

/// The maps, and the interfaces of this packet's namespace.
struct Here<'a>(&'a TcContext);

impl Claims for Here<'_> {
    #[inline(always)]
    fn endpoint(&self, ifindex: u32) -> Option<&EndpointEntry> {
        Maps::endpoint(ifindex)
    }

    #[inline(always)]
    fn is_own(&self, ifindex: u32) -> bool {
        // SAFETY: the value is only looked for, never read.
        unsafe { maps::NODE_IFACES.get(ifindex) }.is_some()
    }

    #[inline(always)]
    fn sender(&self, sender: &Sender) -> Option<u32> {
        // SAFETY: a value of four bytes is replaced in one store.
        unsafe { maps::SENDERS.get(sender) }.copied()
    }

    #[inline(always)]
    fn exists(&self, ifindex: u32) -> bool {
        // SAFETY: reads a constant that the loader sets before the map is frozen; the volatile read
        // keeps the compiler from assuming the value in the object.
        if unsafe { core::ptr::read_volatile(&raw const CHECK_MTU) } == 0 {
            return true;
        }
        let mut mtu = 0_u32;
        // SAFETY: a valid context, and a bucket of four bytes that outlives the call. Positive: the
        // interface is there and the packet too long for it, which is not asked here.
        unsafe { bpf_check_mtu(self.0.skb.skb.cast(), ifindex, &raw mut mtu, 0, 0) >= 0 }
    }
}

/// On the way out of the node.
#[inline(always)]
pub fn uplink(ctx: &TcContext) -> i32 {
    // SAFETY: the context is a valid `__sk_buff` for as long as the program runs.
    let ingress_ifindex = unsafe { (*ctx.skb.skb).ingress_ifindex };
    // What the node sends itself was written and noted by no pod.
    let refused = match ingress_ifindex {
        0 => None,
        _ => guard::leaves(&Here(ctx), ingress_ifindex).or_else(|| unfinished(ctx)).or_else(|| post_nat(ctx)),
    };
    enforce(ctx, Guard::Uplink, refused)
}

/// What the next device would write elsewhere than into a checksum.
#[inline(always)]
fn unfinished(ctx: &TcContext) -> Option<DropReason> {
    let (skb, field) = (ctx.skb.skb as u64, offset(&raw const SKB_CSUM));
    let summed: u8 = peek(skb, offset(&raw const SKB_SUMMED));
    if field == 0 || summed >> offset(&raw const SUMMED_BIT) & checksum::PARTIAL != checksum::PARTIAL {
        return None;
    }
    let [start, behind]: [u16; 2] = peek(skb, field);
    let network: u16 = peek(skb, offset(&raw const SKB_NETWORK));
    let start = i32::from(start) - i32::from(network);
    let unfinished = Unfinished { start, field: start + i32::from(behind) };
    let harmless = checksum::is_harmless(&Wire(ctx), unfinished, packet::mark(ctx).is_some());
    if harmless { None } else { Some(DropReason::Malformed) }
}

/// What a pod sent is judged by where it now goes, once: a tunnel's own interface comes before the one
/// that what it wraps up leaves by.
#[inline(always)]
fn post_nat(ctx: &TcContext) -> Option<DropReason> {
    let PacketMark { tenant, kind } = packet::mark(ctx)?;
    let local = LocalTenant { tenant, state: Maps::tenant(tenant) };
    let refused = post_nat::leaves(&Maps, local, kind, &Wire(ctx));
    if refused.is_none() {
        packet::set_mark(ctx, None);
    }
    refused
}

/// The packet, from its network header on.
struct Wire<'a>(&'a TcContext);

impl Network for Wire<'_> {
    #[inline(always)]
    fn ethertype(&self) -> u16 {
        // SAFETY: the context is a valid `__sk_buff` for as long as the program runs.
        u16::from_be(unsafe { (*self.0.skb.skb).protocol } as u16)
    }

    #[inline(always)]
    fn read<H: Header>(&self, offset: u32) -> Option<H> {
        let mut header = MaybeUninit::<H>::zeroed();
        let (to, room) = (header.as_mut_ptr(), size_of::<H>() as u32);
        // SAFETY: a valid context, and a bucket of that size that outlives the call.
        let read =
            unsafe { bpf_skb_load_bytes_relative(self.0.skb.skb.cast(), offset, to.cast(), room, BPF_HDR_START_NET) };
        // SAFETY: `Header` promises that any bytes are a valid value, zeros among them.
        (read == 0).then(|| unsafe { header.assume_init() })
    }
}

/// On the way from a bridge of pods into the node.
#[inline(always)]
pub fn bridge(ctx: &TcContext) -> i32 {
    if !Frame::pull(ctx) {
        report::lose(Loss::Pull, 1);
        return enforce(ctx, Guard::Bridge, Some(DropReason::Internal));
    }
    enforce(ctx, Guard::Bridge, guard::rises(&Here(ctx), &Frame::linear(ctx)))
}

#[inline(always)]
fn enforce(ctx: &TcContext, guard: Guard, refused: Option<DropReason>) -> i32 {
    let Some(reason) = refused else { return PASS };
    count(guard, reason, ctx.len());
    DROP
}

/// Where a socket of the pods' control groups sends.
#[inline(always)]
pub fn cgroup(ctx: &SkBuffContext) -> i32 {
    let groups = maps::CGROUP_CONFIG.get(0).copied().unwrap_or_default();
    let Some(reason) = guard::speaks(&Sending(ctx.skb.skb), groups) else { return SPEAKS };
    // Nothing known yet: the agent tries the program out before it attaches it, and nobody is refused.
    if groups.is_known() {
        count(Guard::Cgroup, reason, ctx.len());
    }
    REFUSED
}

#[inline(always)]
fn count(guard: Guard, reason: DropReason, bytes: u32) {
    let Some(counter) = maps::GUARD_DROPS.get_ptr_mut(guard.index(reason)) else { return };
    // SAFETY: this CPU's own value of a per-CPU map. Programs on one hook of an interface do not interrupt
    // each other on a CPU; on a control group the timer of one socket may interrupt another that sends, and
    // if that is refused too, one of the two may go uncounted: stable Rust has no atomic add for this target.
    let counter: &mut Counter = unsafe { &mut *counter };
    counter.packets += 1;
    counter.bytes += u64::from(bytes);
}

/// The packet a socket sends.
struct Sending(*mut __sk_buff);

impl Socket for Sending {
    #[inline(always)]
    fn group(&self, level: u32) -> u64 {
        // SAFETY: a valid context; a depth that does not exist is 0.
        unsafe { bpf_skb_ancestor_cgroup_id(self.0, level as i32) }
    }

    #[inline(always)]
    fn is_claimed(&self, group: u64) -> bool {
        // SAFETY: the value is only looked for, never read.
        unsafe { maps::POD_CGROUPS.get(group) }.is_some()
    }

    #[inline(always)]
    fn netns(&self) -> u32 {
        let device: u64 = peek(self.0 as u64, offset(&raw const SKB_DEV));
        let net: u64 = peek(device, offset(&raw const DEV_NET));
        peek(net, offset(&raw const NET_INUM))
    }
}

#[inline(always)]
fn offset(of: *const u32) -> u64 {
    // SAFETY: reads a constant that the loader sets before the map is frozen; the volatile read keeps
    // the compiler from assuming the value in the object.
    u64::from(unsafe { core::ptr::read_volatile(of) })
}

/// What stands at an address of the kernel's; the zero value where that cannot be read.
#[inline(always)]
fn peek<T: Default>(base: u64, offset: u64) -> T {
    let mut value = T::default();
    // SAFETY: a bucket of that size that outlives the call. The kernel checks the address it reads, and
    // fills the bucket with zeros where it cannot.
    unsafe {
        bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, (base + offset) as *const _);
    }
    value
}
