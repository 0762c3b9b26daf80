//! From the verdict to the return code of a program: the only file with those codes for pods' interfaces.
//!
//! Holds no rule. A packet that is not allowed passes only in Audit mode.

use agent_common::classify;
use agent_common::counters::{Loss, Outcome, allowed_index};
use agent_common::decide::{self, Rules};
use agent_common::endpoint::Endpoint;
use agent_common::flow::Direction;
use agent_common::layout::EndpointEntry;
use agent_common::reason::DropReason;
use agent_common::tables::Family;
use agent_common::tenant::{TenantId, TenantState};
use agent_common::verdict::Verdict;
use aya_ebpf::programs::TcContext;

use crate::packet::{self, Frame};
use crate::tables::Maps;
use crate::{global_fns, guard, loss, maps, report};

/// "Next": the same number for TCX (`TCX_NEXT`) and for a direct-action filter (`TC_ACT_UNSPEC`). A program after ours
/// may still drop the packet.
const PASS: i32 = -1;
/// `TC_ACT_SHOT`, `TCX_DROP`.
const DROP: i32 = 2;

/// No return code: the packet takes the slow path.
pub(crate) const SLOW_PATH: i32 = i32::MIN;

/// Judges a packet on the fast path, or returns [`SLOW_PATH`].
#[inline(always)]
pub(crate) fn fast<A: Family>(ctx: &TcContext, direction: Direction) -> i32
where
    Maps: Rules<A>,
{
    let entry = Maps::endpoint(packet::ifindex(ctx));
    let endpoint = entry.and_then(|entry| Endpoint::new(entry, Maps::tenant(entry.tenant)));
    let Some(endpoint) = endpoint.filter(|_| !packet::vlan_present(ctx)) else { return SLOW_PATH };
    let local = PodTenant::of(&endpoint);
    let Some(query) = classify::fast_query(&Frame::linear(ctx), &endpoint, direction) else { return SLOW_PATH };
    let verdict = check_sender(ctx, direction, endpoint.local.tenant, decide::verdict(&Maps, &query, direction));
    let counted = verdict.denied().is_some_and(|denied| report::count_repeat(ctx, &query, direction, denied.reason));
    if counted { drop_or_audit(ctx, direction, local) } else { finish(ctx, direction, local, verdict) }
}

/// Judges any packet on the slow path.
#[inline(always)]
pub(crate) fn slow(ctx: &TcContext, direction: Direction) -> i32 {
    let entry = Maps::endpoint(packet::ifindex(ctx));
    let endpoint = entry.and_then(|entry| Endpoint::new(entry, Maps::tenant(entry.tenant)));
    let Some(endpoint) = endpoint else {
        let unknown = PodTenant { state: TenantState::default(), marked: TenantId::UNKNOWN };
        return finish(ctx, direction, unknown, Verdict::deny(DropReason::NotReady));
    };
    let local = PodTenant::of(&endpoint);
    let verdict = check_sender(ctx, direction, endpoint.local.tenant, slow_verdict(ctx, direction, &endpoint));
    finish(ctx, direction, local, verdict)
}

#[inline(always)]
fn slow_verdict(ctx: &TcContext, direction: Direction, endpoint: &Endpoint<'_>) -> Verdict {
    // The kernel takes the outer tag out of the frame before the hook.
    if packet::vlan_present(ctx) {
        return Verdict::deny(DropReason::Vlan);
    }
    if !Frame::pull(ctx) {
        loss::count(Loss::Pull, 1);
        return Verdict::deny(DropReason::Internal);
    }
    let frame = Frame::linear(ctx);
    let skb = ctx.skb.skb;
    match direction {
        Direction::Egress if !classify::owns_mac(&frame, endpoint.entry.mac) => Verdict::deny(DropReason::SpoofedMac),
        Direction::Egress => classify::by_ethertype(
            &frame,
            || Verdict::from_bits(global_fns::ipv4_from_pod(skb)),
            || Verdict::from_bits(global_fns::ipv6_from_pod(skb)),
            || Verdict::from_bits(global_fns::neighbor_from_pod(skb)),
        ),
        Direction::Ingress => classify::by_ethertype(
            &frame,
            || Verdict::from_bits(global_fns::ipv4_to_pod(skb)),
            || Verdict::from_bits(global_fns::ipv6_to_pod(skb)),
            || Verdict::from_bits(global_fns::neighbor_to_pod(skb)),
        ),
    }
}

/// Checks who sent an allowed packet to a pod: its source address may not be the sender's. The node may have translated
/// it, and an interface without programs may send from any address. A packet of a pod of the same tenant costs one
/// lookup, and one of the node a comparison.
#[inline(always)]
fn check_sender(ctx: &TcContext, direction: Direction, local: TenantId, verdict: Verdict) -> Verdict {
    let ingress_ifindex = packet::ingress_ifindex(ctx);
    if matches!(direction, Direction::Egress) || ingress_ifindex == 0 || !verdict.is_allow() {
        return verdict;
    }
    match maps::ENDPOINTS.get(ingress_ifindex) {
        Some(sender) if sender.tenant.0 == local.0 && sender.cookie != 0 => verdict,
        _ => guard::check_sender(ctx, local).map_or(verdict, Verdict::from_denied),
    }
}

/// Counts and reports a verdict, marks an allowed packet, and returns the code.
#[inline(always)]
fn finish(ctx: &TcContext, direction: Direction, local: PodTenant, verdict: Verdict) -> i32 {
    let state = local.state;
    let Some(denied) = verdict.denied() else {
        if matches!(direction, Direction::Egress) {
            packet::set_mark(ctx, verdict.mark_bits(local.marked));
        }
        report::count_allowed(allowed_index(state.slot, direction), ctx.len());
        return PASS;
    };
    let audited = state.has(TenantState::AUDIT);
    let outcome = if audited { Outcome::Audited } else { Outcome::Dropped };
    report::denied(ctx, direction, denied, outcome);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "direction {} reason {}", direction as u8, denied.reason.number());
    drop_or_audit(ctx, direction, local)
}

/// The return code for a denied packet. A packet that passes in Audit mode is marked, so it cannot reach a local pod of
/// another tenant under the address of the node.
#[inline(always)]
fn drop_or_audit(ctx: &TcContext, direction: Direction, local: PodTenant) -> i32 {
    if !local.state.has(TenantState::AUDIT) {
        return DROP;
    }
    if matches!(direction, Direction::Egress) {
        packet::set_mark(ctx, Verdict::ALLOW_MARKED.mark_bits(local.marked));
    }
    PASS
}

/// What the end of a program needs of the local pod: its tenant's state, and the tenant as a mark names it.
#[derive(Clone, Copy)]
struct PodTenant {
    state: TenantState,
    /// 0 where the interface names the sender.
    marked: TenantId,
}

impl PodTenant {
    /// Without a branch, because the verifier follows each one to the end of the program.
    #[inline(always)]
    fn of(endpoint: &Endpoint<'_>) -> Self {
        let is_hidden = u32::from(endpoint.entry.flags & EndpointEntry::BRIDGED);
        let marked = TenantId(endpoint.local.tenant.0 & is_hidden.wrapping_neg());
        Self { state: endpoint.local.state, marked }
    }
}
