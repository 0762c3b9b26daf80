//! The guards of [`agent_common::guard`] over the maps.
//!
//! Holds no rule. A guard counts a dropped packet, and reports no event.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;

use agent_common::addr::V4;
use agent_common::checksum;
use agent_common::counters::{Counter, Loss};
use agent_common::guard::Guard;
use agent_common::guard::cgroup::{Socket, check_socket};
use agent_common::guard::interface::{Claims, Sender, check_arrival, check_bridge, check_uplink, claimant};
use agent_common::headers::Header;
use agent_common::layout::EndpointEntry;
use agent_common::mark::{CHECKED, MarkKind};
use agent_common::post_nat::{self, Network, PacketSender, Upper};
use agent_common::reason::DropReason;
use agent_common::tenant::{LocalTenant, TenantId};
use agent_common::verdict::{Denied, Verdict};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::generated::{bpf_check_mtu, bpf_skb_ancestor_cgroup_id, bpf_skb_load_bytes_relative};
use aya_ebpf::programs::{SkBuffContext, TcContext};

use crate::global_fns::global_fns;
use crate::packet::{self, Frame};
use crate::tables::Maps;
use crate::{kernel_fields, loss, maps};

/// Return codes of the guards on interfaces, as in `action`: the next program decides; drop.
const PASS: i32 = -1;
const DROP: i32 = 2;
/// Return codes of the program on a cgroup: pass; drop as a full queue would (`NET_XMIT_DROP`). TCP then sends the packet
/// again, and a datagram is lost as on a wire. The code 0 would be EPERM, which a resolver takes for a final answer,
/// although the pod is claimed a moment later.
const CGROUP_PASS: i32 = 1;
const CGROUP_DROP: i32 = 2;

/// Whether the kernel has `bpf_check_mtu` (5.12): only this helper shows a program that an interface no longer exists.
/// Set at load. Without it, a claim counts until an agent removes it.
#[unsafe(no_mangle)]
static CHECK_MTU: u32 = 0;

/// The claims in the maps, and the interfaces in the namespace of this packet.
pub(crate) struct MapClaims<'a>(pub(crate) &'a TcContext);

impl Claims for MapClaims<'_> {
    #[inline(always)]
    fn endpoint(&self, ifindex: u32) -> Option<&EndpointEntry> {
        Maps::endpoint(ifindex)
    }

    #[inline(always)]
    fn is_node_iface(&self, ifindex: u32) -> bool {
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
        // SAFETY: reads a constant that the loader sets before the map is frozen. The volatile read keeps the compiler
        // from assuming the value in the object.
        if unsafe { core::ptr::read_volatile(&raw const CHECK_MTU) } == 0 {
            return true;
        }
        let mut mtu = 0_u32;
        // SAFETY: a valid context, and a variable of four bytes that outlives the call. A positive result means that the
        // interface exists and the packet is too long for it; its length does not matter here.
        unsafe { bpf_check_mtu(self.0.skb.skb.cast(), ifindex, &raw mut mtu, 0, 0) >= 0 }
    }
}

/// The uplink guard.
#[inline(always)]
pub(crate) fn uplink(ctx: &TcContext) -> i32 {
    let ingress_ifindex = packet::ingress_ifindex(ctx);
    // A packet that the node sends itself has no mark, and no pod wrote its offsets.
    let refused = match ingress_ifindex {
        0 => None,
        _ => check_uplink(&MapClaims(ctx), ingress_ifindex).or_else(|| check_forwarded(ctx, ingress_ifindex)),
    };
    conclude(ctx, Guard::Uplink, refused)
}

/// Checks a packet that the node forwards: its checksum, and if a pod sent it, its final destination. That check is made
/// once, on the first interface by which the packet leaves: the next may see a tag or a header of the node's.
#[inline(always)]
fn check_forwarded(ctx: &TcContext, ingress_ifindex: u32) -> Option<DropReason> {
    if packet::is_checked(ctx) {
        return check_checksum(ctx, false);
    }
    let sender = sender(ctx, ingress_ifindex);
    let refused = check_checksum(ctx, sender.is_some());
    let (Some(PacketSender { tenant, kind }), None) = (sender, refused) else { return refused };
    let local = LocalTenant { tenant, state: Maps::tenant(tenant) };
    let kind = match kind {
        Some(kind @ (MarkKind::Request | MarkKind::Listed)) => kind,
        kind => post_nat::effective_kind(kind, kernel_fields::conn_direction(ctx.skb.skb)),
    };
    let refused = post_nat::check_leaving(&Maps, local, kind, &Wire(ctx));
    if refused.is_none() {
        packet::set_mark(ctx, CHECKED);
    }
    refused
}

/// The pod that sent a packet which arrived by this interface, as far as can be known.
#[inline(always)]
pub(crate) fn sender(ctx: &TcContext, ingress_ifindex: u32) -> Option<PacketSender> {
    post_nat::sender(claimant(&MapClaims(ctx), ingress_ifindex), packet::mark(ctx))
}

global_fns! {
    fn check_sender_of(skb: *mut __sk_buff, local: u32) -> u64 {
        sender_denied(&TcContext::new(skb), TenantId(local)).map_or(Verdict::ALLOW, Verdict::from_denied).bits()
    }

    fn behind_extensions_of(skb: *mut __sk_buff, first: u8) -> u64 {
        post_nat::behind_extensions(&Wire(&TcContext::new(skb)), first).bits()
    }
}

/// Checks who sent a packet to a pod of `local` on this node, whatever its source address. Returns why it is denied.
#[inline(always)]
pub(crate) fn check_sender(ctx: &TcContext, local: TenantId) -> Option<Denied> {
    Verdict::from_bits(check_sender_of(ctx.skb.skb, local.0)).denied()
}

#[inline(always)]
fn sender_denied(ctx: &TcContext, local: TenantId) -> Option<Denied> {
    let ingress_ifindex = packet::ingress_ifindex(ctx);
    // Before the mark is read: a pod without programs may set one.
    if let Some(reason) = check_arrival(&MapClaims(ctx), ingress_ifindex) {
        return Some(Denied { reason, peer: TenantId::UNKNOWN });
    }
    let PacketSender { tenant, .. } = sender(ctx, ingress_ifindex)?;
    let of = |tenant| LocalTenant { tenant, state: Maps::tenant(tenant) };
    if post_nat::may_arrive::<V4, _>(&Maps, of(tenant), of(local)) {
        return None;
    }
    Some(Denied { reason: DropReason::CrossTenant, peer: tenant })
}

/// Denies a packet whose unfinished checksum the next device would write outside the transport header.
#[inline(always)]
fn check_checksum(ctx: &TcContext, is_pods: bool) -> Option<DropReason> {
    let unfinished = kernel_fields::unfinished_checksum(ctx.skb.skb)?;
    if checksum::is_harmless(&Wire(ctx), unfinished, is_pods) { None } else { Some(DropReason::Malformed) }
}

/// A packet from its network header on.
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
        let (to, size) = (header.as_mut_ptr(), size_of::<H>() as u32);
        // SAFETY: a valid context, and a variable of that size that outlives the call.
        let read =
            unsafe { bpf_skb_load_bytes_relative(self.0.skb.skb.cast(), offset, to.cast(), size, BPF_HDR_START_NET) };
        // SAFETY: `Header` promises that any bytes are a valid value, zeros among them.
        (read == 0).then(|| unsafe { header.assume_init() })
    }

    #[inline(always)]
    fn behind_extensions(&self, first: u8) -> Upper {
        Upper::from_bits(behind_extensions_of(self.0.skb.skb, first))
    }
}

/// The bridge guard.
#[inline(always)]
pub(crate) fn bridge(ctx: &TcContext) -> i32 {
    if !Frame::pull(ctx) {
        loss::count(Loss::Pull, 1);
        return conclude(ctx, Guard::Bridge, Some(DropReason::Internal));
    }
    conclude(ctx, Guard::Bridge, check_bridge(&MapClaims(ctx), &Frame::linear(ctx)))
}

/// Counts a denial, and returns the code.
#[inline(always)]
fn conclude(ctx: &TcContext, guard: Guard, refused: Option<DropReason>) -> i32 {
    let Some(reason) = refused else { return PASS };
    count(guard, reason, ctx.len());
    DROP
}

/// The cgroup guard.
#[inline(always)]
pub(crate) fn cgroup(ctx: &SkBuffContext) -> i32 {
    let config = maps::CGROUP_CONFIG.get(0).copied().unwrap_or_default();
    let Some(reason) = check_socket(&Sending(ctx.skb.skb), config) else { return CGROUP_PASS };
    // Without a configuration, the agent is running the program once as a test, before it attaches it.
    if config.is_known() {
        count(Guard::Cgroup, reason, ctx.len());
    }
    CGROUP_DROP
}

#[inline(always)]
fn count(guard: Guard, reason: DropReason, bytes: u32) {
    let Some(counter) = maps::GUARD_DROPS.get_ptr_mut(guard.index(reason)) else { return };
    // SAFETY: this CPU's own value of a per-CPU map. Programs on one hook of an interface do not interrupt each other on
    // a CPU. On a cgroup, the timer of one socket may interrupt another that sends. If both are denied, one may go
    // uncounted: stable Rust has no atomic add for this target.
    let counter: &mut Counter = unsafe { &mut *counter };
    counter.packets += 1;
    counter.bytes += u64::from(bytes);
}

/// The socket that sends a packet.
struct Sending(*mut __sk_buff);

impl Socket for Sending {
    #[inline(always)]
    fn ancestor(&self, level: u32) -> u64 {
        // SAFETY: a valid context; the result for a depth that does not exist is 0.
        unsafe { bpf_skb_ancestor_cgroup_id(self.0, level as i32) }
    }

    #[inline(always)]
    fn is_claimed(&self, cgroup: u64) -> bool {
        // SAFETY: the value is only looked for, never read.
        unsafe { maps::POD_CGROUPS.get(cgroup) }.is_some()
    }

    #[inline(always)]
    fn netns(&self) -> u32 {
        kernel_fields::netns(self.0)
    }
}
