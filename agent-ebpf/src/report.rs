//! Counts and reports a packet after its verdict: counters, aggregation, records.
//!
//! Decides nothing. Counters are exact and come first. A record that cannot be sent is counted as a loss.

#![allow(unsafe_code)]

use agent_common::addr::{Address, V4};
use agent_common::aggregate::{
    AggregateEntry, AggregateKey, EventBudget, POD_RECORDS_PER_SECOND, TENANT_RECORDS_PER_SECOND, tenant_budget,
};
use agent_common::counters::{Counter, Loss, Outcome, denied_index};
use agent_common::event::FlowEvent;
use agent_common::flow::Direction;
use agent_common::query::Query;
use agent_common::reason::DropReason;
use agent_common::summary::{PacketSummary, attribute, summarize};
use agent_common::tables::Tables;
use agent_common::tenant::{LocalTenant, TenantId, TenantState};
use agent_common::verdict::Denied;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::programs::TcContext;

use crate::packet::{self, Frame};
use crate::tables::Maps;
use crate::{loss, maps};

/// A denied packet.
struct Denial {
    /// Its direction.
    direction: Direction,
    /// The local pod's cookie; zero if the interface is unclaimed.
    cookie: u32,
    /// The local pod's event slot.
    slot: u16,
    /// The local tenant.
    local: LocalTenant,
    /// Reason, and tenant of the other side.
    denied: Denied,
    /// Dropped or audited.
    outcome: Outcome,
}

/// Counts an allowed packet.
#[inline(always)]
pub(crate) fn count_allowed(index: u32, length: u32) {
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

/// Counts a denied packet of a flow that was reported less than a second ago, without reading the packet again. False if
/// the flow is another, or a record is due: nothing was counted then.
#[inline(always)]
pub(crate) fn count_repeat<A: Address>(
    ctx: &TcContext,
    query: &Query<A>,
    direction: Direction,
    reason: DropReason,
) -> bool {
    let key = query.aggregate_key(direction, reason);
    let state = query.local.state;
    let flow = u64::from(key.cookie) | u64::from(key.port) << 32 | u64::from(key.protocol) << 48;
    let flow = flow | u64::from(key.cause) << 56;
    let packet = u64::from(state.slot) | u64::from(state.has(TenantState::AUDIT)) << 16;
    let packet = packet | u64::from(query.tcp_flags) << 24;
    repeat_flow(ctx.skb.skb, key.remote_hi, key.remote_lo, flow, packet) != 0
}

/// A global function, as in [`crate::global_fns`]: it takes a context, and all other values in registers.
// SAFETY: the name is taken by nothing else in the object.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn repeat_flow(skb: *mut __sk_buff, remote_hi: u64, remote_lo: u64, flow: u64, packet: u64) -> u64 {
    let (cookie, port, protocol, cause) = (flow as u32, (flow >> 32) as u16, (flow >> 48) as u8, (flow >> 56) as u8);
    let key = AggregateKey { remote_hi, remote_lo, cookie, port, protocol, cause };
    let generation = <Maps as Tables<V4>>::runtime(&Maps).generation;
    let Some(bucket) = find(&key, packet as u16, generation) else { return 0 };
    let now = Maps::now();
    if bucket.is_due(now) {
        return 0;
    }
    let ctx = TcContext::new(skb);
    bucket.repeat(now, ctx.len(), (packet >> 24) as u8);
    let reason = DropReason::from_number(bucket.event.reason).unwrap_or(DropReason::Internal);
    let direction = if cause >> 7 == 0 { Direction::Egress } else { Direction::Ingress };
    add(maps::DENIED.get_ptr_mut(denied_index(packet as u16, direction, packet >> 16 & 1 != 0, reason)), ctx.len());
    1
}

/// Counts a denied packet, and reports it or adds it to its flow.
#[inline(always)]
pub(crate) fn denied(ctx: &TcContext, direction: Direction, denied: Denied, outcome: Outcome) {
    report_denied(ctx.skb.skb, denied.reason.number(), denied.peer.0, direction as u8, outcome as u8);
}

/// A global function, as above.
// SAFETY: the name is taken by nothing else in the object.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn report_denied(skb: *mut __sk_buff, reason: u8, peer: u32, direction: u8, outcome: u8) -> u32 {
    let ctx = TcContext::new(skb);
    let entry = Maps::endpoint(packet::ifindex(&ctx));
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
    aggregate(&ctx, &denial);
    0
}

#[inline(always)]
fn aggregate(ctx: &TcContext, denial: &Denial) {
    let Some(summary) = maps::SUMMARY.get_ptr_mut(0) else { return };
    read_summary(ctx.skb.skb);
    // SAFETY: as for `add`.
    let summary = unsafe { &*summary };
    let key = summary.key(denial.direction, denial.cookie, denial.denied.reason);
    let generation = <Maps as Tables<V4>>::runtime(&Maps).generation;
    let bucket = match find(&key, denial.local.state.slot, generation) {
        Some(bucket) => bucket,
        None => {
            let Some(bucket) = free(&key, &denial.local) else { return };
            let denied = attribute(&Maps, &denial.local, summary, denial.direction, denial.denied);
            replace(bucket, key, denial, denied, summary, generation, packet::ifindex(ctx));
            bucket
        }
    };
    let reason = DropReason::from_number(bucket.event.reason).unwrap_or(denial.denied.reason);
    let audited = denial.outcome == Outcome::Audited;
    let slot = denial.local.state.slot;
    add(maps::DENIED.get_ptr_mut(denied_index(slot, denial.direction, audited, reason)), ctx.len());
    let now = Maps::now();
    bucket.repeat(now, ctx.len(), summary.tcp_flags);
    if bucket.is_due(now) {
        send_record(bucket, denial, now);
    }
}

/// The bucket that holds a flow: a common one, or one of the tenant's share.
#[inline(always)]
fn find(key: &AggregateKey, tenant_slot: u16, generation: u64) -> Option<&'static mut AggregateEntry> {
    let common = bucket(key.common_bucket())?;
    if common.is_of(key, generation) {
        return Some(common);
    }
    bucket(key.own_bucket(tenant_slot)).filter(|own| own.is_of(key, generation))
}

/// The bucket that a new flow takes: the common one where it is free to take, else one of the tenant's share.
#[inline(always)]
fn free(key: &AggregateKey, local: &LocalTenant) -> Option<&'static mut AggregateEntry> {
    bucket(key.common_bucket())
        .filter(|common| common.is_free(Maps::now()))
        .or_else(|| bucket(key.own_bucket(local.state.slot)))
}

#[inline(always)]
fn bucket(index: u32) -> Option<&'static mut AggregateEntry> {
    // SAFETY: as for `add`.
    maps::DENIED_FLOWS.get_ptr_mut(index).map(|bucket| unsafe { &mut *bucket })
}

/// Reads the summary of a packet into this CPU's `SUMMARY`. It goes through a map, because the verifier would otherwise
/// follow each path of the reader through all code that reports the packet.
// SAFETY: the name is taken by nothing else in the object.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_summary(skb: *mut __sk_buff) -> u32 {
    let ctx = TcContext::new(skb);
    let Some(summary) = maps::SUMMARY.get_ptr_mut(0) else { return 0 };
    // SAFETY: as for `add`.
    let summary = unsafe { &mut *summary };
    *summary = if Frame::pull(&ctx) { summarize(&Frame::linear(&ctx)) } else { PacketSummary::default() };
    0
}

/// Gives a bucket to a new flow. Unreported packets of the flow before are counted as a loss.
#[inline(always)]
fn replace(
    bucket: &mut AggregateEntry,
    key: AggregateKey,
    denial: &Denial,
    denied: Denied,
    summary: &PacketSummary,
    generation: u64,
    ifindex: u32,
) {
    let unreported = bucket.unreported();
    if unreported != 0 {
        loss::count(Loss::Unreported, unreported);
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
    summary.fill(event);
}

/// Sends the record of a flow, within the budgets of its pod and its tenant.
#[inline(always)]
fn send_record(bucket: &mut AggregateEntry, denial: &Denial, now: u64) {
    let Some(pod) = budget(u32::from(denial.slot)) else { return };
    let Some(tenant) = budget(tenant_budget(denial.local.state.slot)) else { return };
    bucket.attempted(now);
    if !pod.take(now, POD_RECORDS_PER_SECOND) || !tenant.take(now, TENANT_RECORDS_PER_SECOND) {
        pod.held_back += 1;
        return;
    }
    match maps::EVENTS.output::<FlowEvent>(&bucket.event, 0) {
        Ok(()) => bucket.reported(),
        Err(_) => loss::count(Loss::RingFull, 1),
    }
}

#[inline(always)]
fn budget(index: u32) -> Option<&'static mut EventBudget> {
    // SAFETY: as for `add`. A pod and a tenant never have the same index.
    maps::EVENT_BUDGETS.get_ptr_mut(index).map(|budget| unsafe { &mut *budget })
}
