//! Counters and records: what is told of a packet after it has been judged.
//!
//! Counting is exact and comes first; telling is best effort and counts what it could not tell.

#![allow(unsafe_code)]

use agent_common::addr::V4;
use agent_common::counters::{Counter, Loss, Outcome, denied_index};
use agent_common::event::FlowEvent;
use agent_common::flow::Direction;
use agent_common::fold::{FoldEntry, FoldKey};
use agent_common::layout::EndpointEntry;
use agent_common::reach::{Denied, Party, Tables};
use agent_common::reason::DropReason;
use agent_common::sighting::{Sighting, attribute, describe};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::programs::TcContext;

use agent_common::tenant::TenantId;

use crate::action::NOBODY;
use crate::maps;
use crate::packet::Frame;
use crate::tables::Maps;

/// A denied packet.
struct Denial<'a> {
    /// Which way it went.
    direction: Direction,
    /// The local pod's entry, zero if there is none.
    entry: &'a EndpointEntry,
    /// Its tenant.
    party: Party,
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

/// Counts a denied packet and tells of it, or folds it into what was told.
#[inline(always)]
pub fn denied(ctx: &TcContext, direction: Direction, denied: Denied, outcome: Outcome) {
    tell_denied(ctx.skb.skb, denied.reason.number(), denied.peer.0, direction as u8, outcome as u8);
}

/// A function of its own for the verifier, as those of the waist; its arguments are a context and
/// registers for that reason.
// SAFETY: the name is taken by nothing else in the object.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_denied(skb: *mut __sk_buff, reason: u8, peer: u32, direction: u8, outcome: u8) -> u32 {
    let ctx = TcContext::new(skb);
    let entry = Maps::endpoint(ifindex(&ctx)).unwrap_or(&NOBODY);
    let denial = Denial {
        direction: Direction::from_number(direction).unwrap_or(Direction::Egress),
        entry,
        party: Party { tenant: entry.tenant, state: Maps::tenant(entry.tenant) },
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
fn record(ctx: &TcContext, denial: &Denial<'_>) {
    let seen = Frame::of(ctx).map_or(Sighting::default(), |frame| describe(&frame));
    let key = seen.key(denial.direction, denial.entry.cookie, denial.denied.reason);
    let generation = <Maps as Tables<V4>>::runtime(&Maps).generation;
    let Some(place) = maps::FOLD.get_ptr_mut(key.place()) else { return };
    // SAFETY: as for `add`.
    let place = unsafe { &mut *place };
    let known = place.key == key && place.event.generation == generation && place.event.count != 0;
    if !known {
        let denied = attribute(&Maps, &denial.party, &seen, denial.direction, denial.denied);
        replace(place, key, denial, denied, &seen, generation, ifindex(ctx));
    }
    let reason = DropReason::from_number(place.event.reason).unwrap_or(denial.denied.reason);
    let audited = denial.outcome == Outcome::Audited;
    let slot = denial.party.state.slot;
    add(maps::DENIED.get_ptr_mut(denied_index(slot, denial.direction, audited, reason)), ctx.len());
    let now = Maps::now();
    if place.again(now, ctx.len(), seen.tcp_flags) {
        tell(place, denial.entry.slot, now);
    }
}

/// Gives a place to a new flow. The old one's untold packets are counted as such.
#[inline(always)]
fn replace(
    place: &mut FoldEntry,
    key: FoldKey,
    denial: &Denial<'_>,
    denied: Denied,
    seen: &Sighting,
    generation: u64,
    ifindex: u32,
) {
    let untold = place.untold();
    if untold != 0 {
        lose(Loss::Unreported, untold);
    }
    place.key = key;
    place.sent_ns = 0;
    place.sent_count = 0;
    let event = &mut place.event;
    event.first_ns = Maps::now();
    event.count = 0;
    event.generation = generation;
    event.ifindex = ifindex;
    event.cookie = denial.entry.cookie;
    event.tenant = denial.party.tenant;
    event.peer_tenant = denied.peer;
    event.reason = denied.reason.number();
    event.direction = denial.direction as u8;
    event.outcome = denial.outcome as u8;
    event.slot = denial.entry.slot;
    // SAFETY: no arguments.
    event.cpu = unsafe { bpf_get_smp_processor_id() };
    seen.fill(event);
}

/// Sends the record of a flow, within its pod's budget.
#[inline(always)]
fn tell(place: &mut FoldEntry, slot: u16, now: u64) {
    let Some(limit) = maps::LIMITS.get_ptr_mut(u32::from(slot)) else { return };
    place.tried(now);
    // SAFETY: as for `add`.
    if !unsafe { &mut *limit }.take(now) {
        return;
    }
    let Some(mut record) = maps::EVENTS.reserve::<FlowEvent>(0) else {
        lose(Loss::RingFull, 1);
        return;
    };
    record.write(place.event);
    record.submit(0);
    place.told();
}
