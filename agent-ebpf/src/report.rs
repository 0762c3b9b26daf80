//! Counters and records: what is told of a packet after it has been judged.
//!
//! Counting is exact and comes first; telling is best effort and counts what it could not tell.

#![allow(unsafe_code)]

use agent_common::access::{Denied, LocalTenant, Tables};
use agent_common::addr::{Address, V4};
use agent_common::aggregate::{AggregateEntry, AggregateKey};
use agent_common::counters::{Counter, Loss, Outcome, denied_index};
use agent_common::event::FlowEvent;
use agent_common::flow::Direction;
use agent_common::query::Query;
use agent_common::reason::DropReason;
use agent_common::summary::{PacketSummary, attribute, summarize};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::programs::TcContext;

use agent_common::tenant::{TenantId, TenantState};

use crate::maps;
use crate::packet::Frame;
use crate::tables::Maps;

/// A denied packet.
struct Denial {
    /// Which way it went.
    direction: Direction,
    /// The local pod's claim, zero if there is none.
    cookie: u32,
    /// Slot of its budget.
    slot: u16,
    /// Its tenant.
    local: LocalTenant,
    /// Why.
    denied: Denied,
    /// What was done.
    outcome: Outcome,
}

/// Index of the interface that the hook is on.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is a valid `__sk_buff` for as long as the program runs.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Whether the kernel holds a VLAN tag beside the frame.
#[inline(always)]
pub fn vlan_present(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}

/// Counts an allowed packet.
#[inline(always)]
pub fn count_allowed(index: u32, length: u32) {
    add(maps::ALLOWED.get_ptr_mut(index), length);
}

#[inline(always)]
fn add(counter: Option<*mut Counter>, length: u32) {
    if let Some(counter) = counter {
        // SAFETY: this CPU's own value of a per-CPU map; programs on one hook do not interrupt each
        // other on a CPU.
        let counter = unsafe { &mut *counter };
        counter.packets += 1;
        counter.bytes += u64::from(length);
    }
}

/// Counts what could not be told.
#[inline(always)]
pub fn lose(what: Loss, amount: u64) {
    if let Some(lost) = maps::LOSS.get_ptr_mut(what as u32) {
        // SAFETY: as for `add`.
        unsafe { *lost += amount };
    }
}

/// Counts a denied packet of a flow that was told a moment ago, without reading the packet again.
/// False, and nothing is done, where there is more to do.
#[inline(always)]
pub fn aggregated<A: Address>(ctx: &TcContext, query: &Query<A>, direction: Direction, reason: DropReason) -> bool {
    let key = query.aggregate_key(direction, reason);
    let state = query.local.state;
    let who = u64::from(key.cookie) | u64::from(key.port) << 32 | u64::from(key.protocol) << 48;
    let who = who | u64::from(key.cause) << 56;
    let what = u64::from(state.slot) | u64::from(state.has(TenantState::AUDIT)) << 16;
    let what = what | u64::from(query.tcp_flags) << 24;
    aggregate_again(ctx.skb.skb, key.remote_hi, key.remote_lo, who, what) != 0
}

/// A function of its own for the verifier, as those of the global_fns: a context, and all else in registers.
// SAFETY: the name is taken by nothing else in the object.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn aggregate_again(skb: *mut __sk_buff, remote_hi: u64, remote_lo: u64, who: u64, what: u64) -> u64 {
    let (cookie, port, protocol, cause) = (who as u32, (who >> 32) as u16, (who >> 48) as u8, (who >> 56) as u8);
    let key = AggregateKey { remote_hi, remote_lo, cookie, port, protocol, cause };
    let Some(bucket) = maps::DENIED_FLOWS.get_ptr_mut(key.bucket()) else { return 0 };
    // SAFETY: as for `add`.
    let bucket = unsafe { &mut *bucket };
    let now = Maps::now();
    if !bucket.is_of(&key, <Maps as Tables<V4>>::runtime(&Maps).generation) || bucket.is_due(now) {
        return 0;
    }
    let ctx = TcContext::new(skb);
    bucket.repeat(now, ctx.len(), (what >> 24) as u8);
    let reason = DropReason::from_number(bucket.event.reason).unwrap_or(DropReason::Internal);
    let direction = if cause >> 7 == 0 { Direction::Egress } else { Direction::Ingress };
    add(maps::DENIED.get_ptr_mut(denied_index(what as u16, direction, what >> 16 & 1 != 0, reason)), ctx.len());
    1
}

/// Counts a denied packet and tells of it, or folds it into what was told.
#[inline(always)]
pub fn denied(ctx: &TcContext, direction: Direction, denied: Denied, outcome: Outcome) {
    tell_denied(ctx.skb.skb, denied.reason.number(), denied.peer.0, direction as u8, outcome as u8);
}

/// A function of its own for the verifier, as above.
// SAFETY: the name is taken by nothing else in the object.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_denied(skb: *mut __sk_buff, reason: u8, peer: u32, direction: u8, outcome: u8) -> u32 {
    let ctx = TcContext::new(skb);
    let entry = Maps::endpoint(ifindex(&ctx));
    let (tenant, cookie, slot) =
        entry.map_or((TenantId::UNKNOWN, 0, 0), |entry| (entry.tenant, entry.cookie, entry.slot));
    let denial = Denial {
        direction: Direction::from_number(direction).unwrap_or(Direction::Egress),
        cookie,
        slot,
        local: LocalTenant { tenant, state: Maps::tenant(tenant) },
        denied: Denied {
            reason: DropReason::from_number(reason).unwrap_or(DropReason::Internal),
            peer: TenantId(peer),
        },
        outcome: Outcome::from_number(outcome).unwrap_or(Outcome::Dropped),
    };
    record(&ctx, &denial);
    0
}

#[inline(always)]
fn record(ctx: &TcContext, denial: &Denial) {
    let Some(seen) = maps::SUMMARY.get_ptr_mut(0) else { return };
    see(ctx.skb.skb);
    // SAFETY: as for `add`.
    let seen = unsafe { &*seen };
    let key = seen.key(denial.direction, denial.cookie, denial.denied.reason);
    let generation = <Maps as Tables<V4>>::runtime(&Maps).generation;
    let Some(bucket) = maps::DENIED_FLOWS.get_ptr_mut(key.bucket()) else { return };
    // SAFETY: as for `add`.
    let bucket = unsafe { &mut *bucket };
    if !bucket.is_of(&key, generation) {
        let denied = attribute(&Maps, &denial.local, seen, denial.direction, denial.denied);
        replace(bucket, key, denial, denied, seen, generation, ifindex(ctx));
    }
    let reason = DropReason::from_number(bucket.event.reason).unwrap_or(denial.denied.reason);
    let audited = denial.outcome == Outcome::Audited;
    let slot = denial.local.state.slot;
    add(maps::DENIED.get_ptr_mut(denied_index(slot, denial.direction, audited, reason)), ctx.len());
    let now = Maps::now();
    bucket.repeat(now, ctx.len(), seen.tcp_flags);
    if bucket.is_due(now) {
        tell(bucket, denial.slot, now);
    }
}

/// Reads what can be told of a packet into this CPU's `SUMMARY`: through a map, because the verifier
/// would follow every way to read a packet through everything that is told of it.
// SAFETY: the name is taken by nothing else in the object.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn see(skb: *mut __sk_buff) -> u32 {
    let ctx = TcContext::new(skb);
    let Some(seen) = maps::SUMMARY.get_ptr_mut(0) else { return 0 };
    // SAFETY: as for `add`.
    let seen = unsafe { &mut *seen };
    *seen = if Frame::pull(&ctx) { summarize(&Frame::linear(&ctx)) } else { PacketSummary::default() };
    0
}

/// Gives a bucket to a new flow. The old one's unreported packets are counted as such.
#[inline(always)]
fn replace(
    bucket: &mut AggregateEntry,
    key: AggregateKey,
    denial: &Denial,
    denied: Denied,
    seen: &PacketSummary,
    generation: u64,
    ifindex: u32,
) {
    let unreported = bucket.unreported();
    if unreported != 0 {
        lose(Loss::Unreported, unreported);
    }
    bucket.key = key;
    bucket.sent_ns = 0;
    let event = &mut bucket.event;
    event.first_ns = Maps::now();
    bucket.sent_count = 0;
    event.count = 0;
    event.generation = generation;
    event.ifindex = ifindex;
    event.cookie = denial.cookie;
    event.tenant = denial.local.tenant;
    event.peer_tenant = denied.peer;
    event.reason = denied.reason.number();
    event.direction = denial.direction as u8;
    event.outcome = denial.outcome as u8;
    event.slot = denial.slot;
    // SAFETY: no arguments.
    event.cpu = unsafe { bpf_get_smp_processor_id() };
    seen.fill(event);
}

/// Sends the record of a flow, within its pod's budget.
#[inline(always)]
fn tell(bucket: &mut AggregateEntry, slot: u16, now: u64) {
    let Some(limit) = maps::EVENT_BUDGETS.get_ptr_mut(u32::from(slot)) else { return };
    bucket.attempted(now);
    // SAFETY: as for `add`.
    if !unsafe { &mut *limit }.take(now) {
        return;
    }
    match maps::EVENTS.output::<FlowEvent>(&bucket.event, 0) {
        Ok(()) => bucket.reported(),
        Err(_) => lose(Loss::RingFull, 1),
    }
}
