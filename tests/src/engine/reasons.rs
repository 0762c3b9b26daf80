//! Classes of the attack table, and which of our reasons say the same.
//!
//! A class names the attack; a reason names the rule that stopped it. The rules stand in an order, so
//! a frame that breaks two is dropped by the first: a truncated datagram for the other tenant is
//! `malformed`, not `cross_tenant`. What cannot be parsed (rule 1) and what is not the pod's own (rule
//! 2) is therefore accepted wherever a later rule was expected. A class we do not know is decided by
//! the verdict alone.
//!
//! | class | our reasons |
//! |---|---|
//! | `cross_tenant` | `cross_tenant`, `unassigned_source`, `unassigned_destination`, or of rule 1 |
//! | `off_subnet` | `off_subnet`, `martian`, `multicast`, `port_denied`, or of rule 1 |
//! | `metadata` | `metadata_service`, `martian`, or of rule 1 |
//! | `node` | `node`, `martian`, or of rule 1 |
//! | `martian`, `embedded_v4` | `martian`, `multicast`, `off_subnet`, `spoofed_source`, `not_own_address`, or of rule 1 |
//! | `multicast` | `multicast`, `martian`, `not_own_address`, or of rule 1 |
//! | `tunnel` | any destination's: `node`, `cross_tenant`, `off_subnet`, `port_denied` |
//! | `port_denied` | `port_denied`, `fragment`, or of rule 1 |
//! | `spoof_src_ip` | `spoofed_source`, `spoofed_neighbor`, `spoofed_mac`, `multicast`, `martian`, `malformed` |
//! | `spoof_src_mac` | `spoofed_mac`, `spoofed_neighbor` |
//! | `arp_spoof` | `spoofed_neighbor`, `spoofed_mac`, `cross_tenant`, `malformed`, `ethertype`, `not_own_address` |
//! | `nd_spoof` | as `arp_spoof`, and `spoofed_source`, `off_subnet`, `multicast` |
//! | `nd_ra` | `router_advertisement`, `spoofed_source`, `malformed` |
//! | `nd_redirect`, `icmp_redirect` | `icmp_redirect`, `malformed` |
//! | `malformed` | `malformed`, `fragment`, `extension_header`, `ethertype` |
//! | `fragment` | `fragment`, `malformed` |
//! | `ext_header` | `extension_header`, `malformed`, `routing_header` |
//! | `routing_header`, `source_route` | the same |
//! | `ethertype`, `vlan` | either of the two, or `malformed` |
//! | `l2_dst_mismatch` | `not_own_address`, `multicast` |
//! | `unknown_pod`, `not_programmed` | `not_ready` |
//! | `ct_full` | `internal`, or that of the rule which asked for the state |

use agent_common::reason::DropReason::{self, *};

/// What rule 1 drops, whatever the destination.
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

/// Whether a reason is one of those an expectation stands for; several classes are joined by `_or_`.
pub fn accepts(expected: &str, reason: DropReason) -> bool {
    let classes: Vec<&str> = expected.split("_or_").filter(|class| !class.is_empty()).collect();
    classes.is_empty() || classes.iter().any(|class| stands_for(class, reason))
}

fn stands_for(class: &str, reason: DropReason) -> bool {
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
    fn an_earlier_rule_may_win_and_a_later_one_may_not() {
        assert!(accepts("cross_tenant", CrossTenant));
        assert!(accepts("cross_tenant", Malformed), "rule 1 comes first");
        assert!(!accepts("malformed", CrossTenant), "rule 6 comes later");
        assert!(!accepts("cross_tenant", OffSubnet));
        assert!(!accepts("spoof_src_ip", CrossTenant), "the source was not looked at");
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
