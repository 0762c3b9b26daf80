//! Which drop reasons satisfy each class of the attack table.
//!
//! A class names the attack. A reason names the rule that stopped it. Rules have an order, so a frame that breaks two
//! is dropped by the first: a truncated datagram for another tenant is `malformed`, not `cross_tenant`. Reasons of
//! rules 1 and 2 are therefore accepted wherever a later rule was expected. For an unknown class, only the verdict
//! counts.

use agent_common::reason::DropReason::{self, *};

/// The reasons of rule 1, which ignores the destination.
const RULE_1: &[DropReason] = &[
    Malformed,
    Fragment,
    ExtensionHeader,
    RoutingHeader,
    SourceRoute,
    Vlan,
    Ethertype,
    IcmpRedirect,
    RouterAdvertisement,
];

const CLASSES: &[(&str, bool, &[DropReason])] = &[
    ("cross_tenant", true, &[CrossTenant, UnassignedSource, UnassignedDestination]),
    ("off_subnet", true, &[OffSubnet, Martian, Multicast, PortDenied]),
    ("metadata", true, &[MetadataService, Martian]),
    ("node", true, &[Node, Martian]),
    ("martian", true, &[Martian, Multicast, OffSubnet, SpoofedSource, NotOwnAddress]),
    ("embedded_v4", true, &[Martian, Multicast, OffSubnet, SpoofedSource, NotOwnAddress]),
    ("multicast", true, &[Multicast, Martian, NotOwnAddress]),
    ("tunnel", false, &[Node, CrossTenant, OffSubnet, PortDenied]),
    ("port_denied", true, &[PortDenied]),
    ("spoof_src_ip", false, &[SpoofedSource, SpoofedNeighbor, SpoofedMac, Multicast, Martian, Malformed]),
    ("spoof_src_mac", false, &[SpoofedMac, SpoofedNeighbor]),
    ("arp_spoof", false, &[SpoofedNeighbor, SpoofedMac, CrossTenant, Malformed, Ethertype, NotOwnAddress]),
    (
        "nd_spoof",
        false,
        &[SpoofedNeighbor, SpoofedMac, SpoofedSource, CrossTenant, OffSubnet, Multicast, Malformed, NotOwnAddress],
    ),
    ("nd_ra", false, &[RouterAdvertisement, SpoofedSource, Malformed]),
    ("nd_redirect", false, &[DropReason::IcmpRedirect, Malformed]),
    ("icmp_redirect", false, &[DropReason::IcmpRedirect, Malformed]),
    ("malformed", false, &[Malformed, Fragment, ExtensionHeader, Ethertype]),
    ("fragment", false, &[Fragment, Malformed]),
    ("ext_header", false, &[ExtensionHeader, Malformed, RoutingHeader]),
    ("routing_header", false, &[RoutingHeader]),
    ("source_route", false, &[SourceRoute]),
    ("ethertype", false, &[Ethertype, Vlan, Malformed]),
    ("vlan", false, &[Vlan, Ethertype, Malformed]),
    ("l2_dst_mismatch", false, &[NotOwnAddress, Multicast]),
    ("unknown_pod", false, &[NotReady]),
    ("not_programmed", false, &[NotReady]),
    ("ct_full", false, &[Internal, CrossTenant, OffSubnet]),
];

/// Whether a reason satisfies an expectation: one class, or several joined by `_or_`.
pub fn accepts(expected: &str, reason: DropReason) -> bool {
    let classes: Vec<&str> = expected.split("_or_").filter(|class| !class.is_empty()).collect();
    classes.is_empty() || classes.iter().any(|class| satisfies(class, reason))
}

fn satisfies(class: &str, reason: DropReason) -> bool {
    if class == reason.as_str() {
        return true;
    }
    match CLASSES.iter().find(|(name, ..)| *name == class) {
        Some((_, late, reasons)) => reasons.contains(&reason) || (*late && RULE_1.contains(&reason)),
        None => !class.starts_with("allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_an_earlier_rule_is_accepted_and_of_a_later_one_is_not() {
        assert!(accepts("cross_tenant", CrossTenant));
        assert!(accepts("cross_tenant", Malformed), "rule 1 comes first");
        assert!(!accepts("malformed", CrossTenant), "rule 6 comes later");
        assert!(!accepts("cross_tenant", OffSubnet));
        assert!(!accepts("spoof_src_ip", CrossTenant), "the source was not checked");
        assert!(accepts("cross_tenant_or_vlan", Vlan));
        assert!(!accepts("allowed", CrossTenant), "no drop was expected");
        assert!(accepts("allowed_or_fragment", Fragment));
        assert!(accepts("a_class_of_tomorrow", CrossTenant) && accepts("", CrossTenant));
    }

    #[test]
    fn every_class_names_a_reason() {
        assert!(CLASSES.iter().all(|(class, _, reasons)| !reasons.is_empty() && !class.contains("_or_")));
    }
}
