//! Verdict to return code: the only bucket those constants appear.

use agent_common::access::{Denied, Family, LocalTenant, Tables};
use agent_common::counters::{Loss, Outcome, allowed_index};
use agent_common::decide;
use agent_common::flow::Direction;
use agent_common::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use agent_common::post_nat::{MarkKind, PacketMark};
use agent_common::reason::DropReason;
use agent_common::tenant::{TenantId, TenantState};
use agent_common::verdict::{self, Endpoint, Verdict};
use aya_ebpf::programs::TcContext;

use crate::packet::{self, Frame};
use crate::tables::Maps;
use crate::{global_fns, report};

/// "Next": the same number for TCX (`TCX_NEXT`) and for a direct-action filter (`TC_ACT_UNSPEC`).
/// We only subtract: whoever comes after us may still drop.
const PASS: i32 = -1;
/// `TC_ACT_SHOT`, `TCX_DROP`.
const DROP: i32 = 2;

/// Not a return code: the packet is not plain.
const SLOW_PATH: i32 = i32::MIN;

/// Judges a packet and does what the verdict says. Plain IPv4 is fast here, with as few steps as
/// there can be; plain IPv6, and everything odd, in functions that the verifier judges apart.
#[inline(always)]
pub fn enforce(ctx: &TcContext, direction: Direction) -> i32 {
    let code = match (verdict::ethertype(&Frame::linear(ctx)), direction) {
        (Some(ETHERTYPE_IPV4), Direction::Egress) => global_fns::call_fast_v4_from_pod(ctx),
        (Some(ETHERTYPE_IPV4), Direction::Ingress) => global_fns::call_fast_v4_to_pod(ctx),
        (Some(ETHERTYPE_IPV6), Direction::Egress) => global_fns::call_fast_v6_from_pod(ctx),
        (Some(ETHERTYPE_IPV6), Direction::Ingress) => global_fns::call_fast_v6_to_pod(ctx),
        _ => SLOW_PATH,
    };
    match (code, direction) {
        (SLOW_PATH, Direction::Egress) => global_fns::call_slow_from_pod(ctx),
        (SLOW_PATH, Direction::Ingress) => global_fns::call_slow_to_pod(ctx),
        (code, _) => code,
    }
}

/// Settles a plain packet, or says that it is odd.
#[inline(always)]
pub fn fast<A: Family>(ctx: &TcContext, direction: Direction) -> i32
where
    Maps: Tables<A>,
{
    let entry = Maps::endpoint(report::ifindex(ctx));
    let endpoint = entry.and_then(|entry| Endpoint::new(entry, Maps::tenant(entry.tenant)));
    let Some(endpoint) = endpoint.filter(|_| !report::vlan_present(ctx)) else { return SLOW_PATH };
    let Some(query) = verdict::fast_query(&Frame::linear(ctx), &endpoint, direction) else { return SLOW_PATH };
    let verdict = led(ctx, direction, endpoint.local.tenant, decide::judge(&Maps, &query, direction));
    let told = verdict.denied().is_some_and(|denied| report::aggregated(ctx, &query, direction, denied.reason));
    if told { denial(ctx, direction, endpoint.local) } else { conclude(ctx, direction, endpoint.local, verdict) }
}

/// What a pod of this node sent may have been led here, and the node may have put its own address on it:
/// then the note tells whose it is.
#[inline(always)]
fn led(ctx: &TcContext, direction: Direction, local: TenantId, verdict: Verdict) -> Verdict {
    if matches!(direction, Direction::Egress) || !verdict.is_allow() {
        return verdict;
    }
    match packet::mark(ctx) {
        Some(PacketMark { tenant: sender, .. }) if sender.0 != local.0 && !global_fns::call_arrives(sender, local) => {
            Verdict::because(Denied { reason: DropReason::CrossTenant, peer: sender })
        }
        _ => verdict,
    }
}

/// Counts, tells, and says what the kernel shall do.
#[inline(always)]
fn conclude(
    ctx: &TcContext,
    direction: Direction,
    LocalTenant { tenant, state }: LocalTenant,
    verdict: Verdict,
) -> i32 {
    let Some(denied) = verdict.denied() else {
        if let Some(kind) = verdict.mark() {
            packet::set_mark(ctx, Some(PacketMark { tenant, kind }));
        }
        report::count_allowed(allowed_index(state.slot, direction), ctx.len());
        return PASS;
    };
    let audited = state.has(TenantState::AUDIT);
    let outcome = if audited { Outcome::Audited } else { Outcome::Dropped };
    report::denied(ctx, direction, denied, outcome);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "direction {} reason {}", direction as u8, denied.reason.number());
    denial(ctx, direction, LocalTenant { tenant, state })
}

/// What becomes of a packet that is denied. What Audit lets pass opens no other tenant's pod under the
/// address of the node.
#[inline(always)]
fn denial(ctx: &TcContext, direction: Direction, LocalTenant { tenant, state }: LocalTenant) -> i32 {
    if !state.has(TenantState::AUDIT) {
        return DROP;
    }
    if matches!(direction, Direction::Egress) {
        packet::set_mark(ctx, Some(PacketMark { tenant, kind: MarkKind::Request }));
    }
    PASS
}

/// Judges any frame, and does what the verdict says.
#[inline(always)]
pub fn slow(ctx: &TcContext, direction: Direction) -> i32 {
    let entry = Maps::endpoint(report::ifindex(ctx));
    let endpoint = entry.and_then(|entry| Endpoint::new(entry, Maps::tenant(entry.tenant)));
    let Some(endpoint) = endpoint else {
        let nobody = LocalTenant { tenant: TenantId::UNKNOWN, state: TenantState::default() };
        return conclude(ctx, direction, nobody, Verdict::deny(DropReason::NotReady));
    };
    let verdict = led(ctx, direction, endpoint.local.tenant, judge(ctx, direction, &endpoint));
    conclude(ctx, direction, endpoint.local, verdict)
}

#[inline(always)]
fn judge(ctx: &TcContext, direction: Direction, endpoint: &Endpoint<'_>) -> Verdict {
    // The kernel takes the outer tag out of the frame before the hook.
    if report::vlan_present(ctx) {
        return Verdict::deny(DropReason::Vlan);
    }
    if !Frame::pull(ctx) {
        report::lose(Loss::Pull, 1);
        return Verdict::deny(DropReason::Internal);
    }
    let frame = Frame::linear(ctx);
    match direction {
        Direction::Egress if !verdict::owns_mac(&frame, endpoint.entry.mac) => Verdict::deny(DropReason::SpoofedMac),
        Direction::Egress => verdict::branch(
            &frame,
            || global_fns::call_ipv4_from_pod(ctx),
            || global_fns::call_ipv6_from_pod(ctx),
            || global_fns::call_neighbor_from_pod(ctx),
        ),
        Direction::Ingress => verdict::branch(
            &frame,
            || global_fns::call_ipv4_to_pod(ctx),
            || global_fns::call_ipv6_to_pod(ctx),
            || global_fns::call_neighbor_to_pod(ctx),
        ),
    }
}
