//! The severity of each drop reason, and the name of its default rule.
//!
//! Tables over a closed list. Knows no packet: the drop reason and the outcome suffice.

use agent_common::counters::Outcome;
use agent_common::reason::DropReason;

use super::schema::EventSeverity;

/// The severity of a violation. An audited one is one step lower.
pub(crate) fn severity(reason: DropReason, outcome: Outcome) -> EventSeverity {
    use EventSeverity::{Critical, High, Info, Low, Medium};
    match (of_reason(reason), outcome == Outcome::Audited) {
        (severity, false) => severity,
        (Critical, true) => High,
        (High, true) => Medium,
        (Medium, true) => Low,
        (Low | Info, true) => Info,
    }
}

fn of_reason(reason: DropReason) -> EventSeverity {
    use DropReason as R;
    match reason {
        // Nobody sends these by mistake.
        R::SpoofedSource
        | R::SpoofedMac
        | R::SpoofedNeighbor
        | R::MetadataService
        | R::IcmpRedirect
        | R::RouterAdvertisement => EventSeverity::High,
        // Traffic across tenants or to nodes, ways around the rules, and denials because of a fault of Bulkhead.
        R::CrossTenant
        | R::UnassignedDestination
        | R::Node
        | R::Vlan
        | R::SourceRoute
        | R::RoutingHeader
        | R::Martian
        | R::Internal => EventSeverity::Medium,
        R::OffSubnet
        | R::PortDenied
        | R::UnassignedSource
        | R::Fragment
        | R::Malformed
        | R::Ethertype
        | R::ExtensionHeader
        | R::NotOwnAddress => EventSeverity::Low,
        // Ordinary for a pod that starts, or that searches the network for services.
        R::NotReady | R::Multicast => EventSeverity::Info,
    }
}

/// The name of the rule that denies if no named range decides.
pub(crate) fn default_rule(reason: DropReason) -> &'static str {
    use DropReason as R;
    match reason {
        R::CrossTenant => "default-deny-cross-tenant",
        R::OffSubnet => "default-deny-off-subnet",
        R::UnassignedSource | R::UnassignedDestination => "default-deny-unassigned",
        R::MetadataService => "default-deny-metadata-service",
        R::Node => "default-deny-node",
        R::PortDenied => "default-deny-port",
        R::Multicast => "default-deny-multicast",
        R::SpoofedSource | R::SpoofedMac | R::SpoofedNeighbor | R::NotOwnAddress => "guard-own-address",
        R::IcmpRedirect | R::RouterAdvertisement => "guard-routing",
        R::SourceRoute | R::RoutingHeader => "guard-source-routing",
        R::Martian => "guard-martian",
        R::Fragment | R::Malformed | R::Ethertype | R::Vlan | R::ExtensionHeader => "guard-headers",
        R::NotReady | R::Internal => "fail-closed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audited_violation_is_one_step_lower_but_never_below_info() {
        assert_eq!(severity(DropReason::SpoofedSource, Outcome::Dropped), EventSeverity::High);
        assert_eq!(severity(DropReason::SpoofedSource, Outcome::Audited), EventSeverity::Medium);
        assert_eq!(severity(DropReason::Multicast, Outcome::Audited), EventSeverity::Info);
    }

    #[test]
    fn every_reason_has_a_rule_that_can_be_searched_for() {
        for reason in DropReason::ALL {
            let rule = default_rule(*reason);
            assert!(!rule.is_empty() && rule.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{rule}");
        }
    }
}
