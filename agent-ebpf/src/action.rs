//! Verdict to return code: the only place those constants appear.

use agent_common::counters::{Loss, Outcome, allowed_index};
use agent_common::flow::Direction;
use agent_common::layout::EndpointEntry;
use agent_common::reason::DropReason;
use agent_common::tenant::TenantState;
use agent_common::verdict::{self, Endpoint, Verdict};
use aya_ebpf::programs::TcContext;

use crate::packet::Frame;
use crate::report;
use crate::tables::Maps;
use crate::waist;

/// "Next": the same number for TCX (`TCX_NEXT`) and for a direct-action filter (`TC_ACT_UNSPEC`).
/// We only subtract: whoever comes after us may still drop.
const PASS: i32 = -1;
/// `TC_ACT_SHOT`, `TCX_DROP`.
const DROP: i32 = 2;

/// What an unclaimed interface reads as.
pub const NOBODY: EndpointEntry = EndpointEntry {
    tenant: agent_common::tenant::TenantId::UNKNOWN,
    cookie: 0,
    v4: agent_common::addr::V4(0),
    mac: agent_common::addr::Mac([0; 3]),
    slot: 0,
    gateway_mac: agent_common::addr::Mac([0; 3]),
    _pad: 0,
    gateway_v4: agent_common::addr::V4(0),
    v6: agent_common::addr::V6::UNSPECIFIED,
    link_local: agent_common::addr::V6::UNSPECIFIED,
    gateway_v6: agent_common::addr::V6::UNSPECIFIED,
};

/// Judges a packet and does what the verdict says.
#[inline(always)]
pub fn enforce(ctx: &TcContext, direction: Direction) -> i32 {
    let entry = Maps::endpoint(report::ifindex(ctx)).unwrap_or(&NOBODY);
    let state = Maps::tenant(entry.tenant);
    let Some(endpoint) = Endpoint::new(entry, state) else {
        return deny(ctx, direction, TenantState::default(), Verdict::deny(DropReason::NotReady));
    };
    let verdict = judge(ctx, direction, &endpoint);
    if verdict.is_allow() {
        report::count_allowed(allowed_index(state.slot, direction), ctx.len());
        return PASS;
    }
    deny(ctx, direction, state, verdict)
}

#[inline(always)]
fn judge(ctx: &TcContext, direction: Direction, endpoint: &Endpoint<'_>) -> Verdict {
    // The kernel takes the outer tag out of the frame before the hook.
    if report::vlan_present(ctx) {
        return Verdict::deny(DropReason::Vlan);
    }
    let Some(frame) = Frame::of(ctx) else {
        report::lose(Loss::Pull, 1);
        return Verdict::deny(DropReason::Internal);
    };
    match direction {
        Direction::Egress if !verdict::owns_mac(&frame, endpoint.entry) => Verdict::deny(DropReason::SpoofedMac),
        Direction::Egress => verdict::branch(
            &frame,
            || verdict::ipv4_from_pod(&frame, endpoint, &Maps),
            || waist::call_ipv6_from_pod(ctx),
            || waist::call_neighbor_from_pod(ctx),
        ),
        Direction::Ingress => verdict::branch(
            &frame,
            || verdict::ipv4_to_pod(&frame, endpoint, &Maps),
            || waist::call_ipv6_to_pod(ctx),
            || waist::call_neighbor_to_pod(ctx),
        ),
    }
}

#[inline(always)]
fn deny(ctx: &TcContext, direction: Direction, state: TenantState, verdict: Verdict) -> i32 {
    let Some(denied) = verdict.denied() else { return PASS };
    let audited = state.has(TenantState::AUDIT);
    let outcome = if audited { Outcome::Audited } else { Outcome::Dropped };
    report::denied(ctx, direction, denied, outcome);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "direction {} reason {}", direction as u8, denied.reason.number());
    if audited { PASS } else { DROP }
}
