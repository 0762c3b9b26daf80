//! Verdict to return code: the only place those constants appear.

use agent_common::addr::{V4, V6};
use agent_common::ask::Ask;
use agent_common::counters::{Loss, Outcome, allowed_index};
use agent_common::flow::Direction;
use agent_common::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use agent_common::reach::Family;
use agent_common::reason::DropReason;
use agent_common::tenant::TenantState;
use agent_common::verdict::{self, Endpoint, Verdict};
use agent_common::{decide, reach::Tables};
use aya_ebpf::programs::TcContext;

use crate::packet::Frame;
use crate::tables::Maps;
use crate::{maps, report, waist};

/// "Next": the same number for TCX (`TCX_NEXT`) and for a direct-action filter (`TC_ACT_UNSPEC`).
/// We only subtract: whoever comes after us may still drop.
const PASS: i32 = -1;
/// `TC_ACT_SHOT`, `TCX_DROP`.
const DROP: i32 = 2;

/// Judges a packet and does what the verdict says: plain packets here, with as few steps as there
/// can be, all others in a function that the verifier judges apart.
#[inline(always)]
pub fn enforce(ctx: &TcContext, direction: Direction) -> i32 {
    match plain(ctx, direction) {
        Some(code) => code,
        None => match direction {
            Direction::Egress => waist::call_odd_from_pod(ctx),
            Direction::Ingress => waist::call_odd_to_pod(ctx),
        },
    }
}

#[inline(always)]
fn plain(ctx: &TcContext, direction: Direction) -> Option<i32> {
    let entry = maps::ENDPOINTS.get(report::ifindex(ctx))?;
    let endpoint = Endpoint::new(entry, Maps::tenant(entry.tenant))?;
    if report::vlan_present(ctx) {
        return None;
    }
    let frame = Frame::linear(ctx);
    match verdict::ethertype(&frame)? {
        ETHERTYPE_IPV4 => settle::<V4>(ctx, &frame, &endpoint, direction),
        ETHERTYPE_IPV6 => settle::<V6>(ctx, &frame, &endpoint, direction),
        _ => None,
    }
}

#[inline(always)]
fn settle<A: Family>(ctx: &TcContext, frame: &Frame, endpoint: &Endpoint<'_>, direction: Direction) -> Option<i32>
where
    Maps: Tables<A>,
{
    let ask: Ask<A> = verdict::plain(frame, endpoint, direction)?;
    let verdict = match direction {
        Direction::Egress => decide::from_pod(&Maps, &ask),
        Direction::Ingress => decide::to_pod(&Maps, &ask),
    };
    let state = endpoint.party.state;
    let told = verdict.denied().is_some_and(|denied| report::folded(ctx, &ask, direction, denied.reason));
    Some(if told { denial(state) } else { conclude(ctx, direction, state, verdict) })
}

/// Counts, tells, and says what the kernel shall do.
#[inline(always)]
fn conclude(ctx: &TcContext, direction: Direction, state: TenantState, verdict: Verdict) -> i32 {
    let Some(denied) = verdict.denied() else {
        report::count_allowed(allowed_index(state.slot, direction), ctx.len());
        return PASS;
    };
    let audited = state.has(TenantState::AUDIT);
    let outcome = if audited { Outcome::Audited } else { Outcome::Dropped };
    report::denied(ctx, direction, denied, outcome);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "direction {} reason {}", direction as u8, denied.reason.number());
    denial(state)
}

/// What becomes of a packet that is denied.
#[inline(always)]
fn denial(state: TenantState) -> i32 {
    if state.has(TenantState::AUDIT) { PASS } else { DROP }
}

/// Judges any frame, and does what the verdict says.
#[inline(always)]
pub fn odd(ctx: &TcContext, direction: Direction) -> i32 {
    let (tenant, cookie) = Maps::endpoint(report::ifindex(ctx), |entry| (entry.tenant, entry.cookie));
    let state = Maps::tenant(tenant);
    if !verdict::is_ready(tenant, cookie, state) {
        return conclude(ctx, direction, TenantState::default(), Verdict::deny(DropReason::NotReady));
    }
    conclude(ctx, direction, state, judge(ctx, direction))
}

#[inline(always)]
fn judge(ctx: &TcContext, direction: Direction) -> Verdict {
    // The kernel takes the outer tag out of the frame before the hook.
    if report::vlan_present(ctx) {
        return Verdict::deny(DropReason::Vlan);
    }
    if !Frame::pull(ctx) {
        report::lose(Loss::Pull, 1);
        return Verdict::deny(DropReason::Internal);
    }
    let frame = Frame::linear(ctx);
    let own = || Maps::endpoint(report::ifindex(ctx), |entry| entry.mac);
    match direction {
        Direction::Egress if !verdict::owns_mac(&frame, own()) => Verdict::deny(DropReason::SpoofedMac),
        Direction::Egress => verdict::branch(
            &frame,
            || waist::call_ipv4_from_pod(ctx),
            || waist::call_ipv6_from_pod(ctx),
            || waist::call_neighbor_from_pod(ctx),
        ),
        Direction::Ingress => verdict::branch(
            &frame,
            || waist::call_ipv4_to_pod(ctx),
            || waist::call_ipv6_to_pod(ctx),
            || waist::call_neighbor_to_pod(ctx),
        ),
    }
}
