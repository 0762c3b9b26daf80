//! The attack table's classes of reasons, and which of our reasons are meant by each.
//!
//! A case may name several, joined by `_or_`: rules overlap, and which of them speaks first is
//! documented behaviour, not a promise.

use agent_common::reason::DropReason;

/// Whether a drop for this reason is what the case meant. A case without a reason is content.
pub fn fits(class: &str, reason: DropReason) -> bool {
    class.is_empty() || class.split("_or_").any(|word| meant(word).contains(&reason) || word == reason.as_str())
}

/// What a word of the table means here; its own name where it is one of ours.
fn meant(word: &str) -> &'static [DropReason] {
    match word {
        "spoof_src_ip" => &[DropReason::SpoofedSource],
        "spoof_src_mac" => &[DropReason::SpoofedMac],
        "arp_spoof" | "nd_spoof" => &[DropReason::SpoofedNeighbor],
        "nd_ra" => &[DropReason::RouterAdvertisement],
        "nd_redirect" => &[DropReason::IcmpRedirect],
        "ext_header" => &[DropReason::ExtensionHeader],
        "metadata" => &[DropReason::MetadataService],
        "embedded_v4" => &[DropReason::Martian],
        "l2_dst_mismatch" => &[DropReason::NotOwnAddress],
        "unknown_pod" | "not_programmed" => &[DropReason::NotReady],
        "ct_full" => &[DropReason::Internal],
        // The outer address decides.
        "tunnel" => &[DropReason::CrossTenant, DropReason::OffSubnet, DropReason::Node],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Expected, generate};

    #[test]
    fn every_class_of_the_corpus_means_something() {
        for case in generate().iter().filter(|case| case.verdict == Expected::Drop) {
            for word in case.reason.split("_or_") {
                assert!(DropReason::ALL.iter().any(|reason| fits(word, *reason)), "{}: {word}", case.name);
            }
        }
    }

    #[test]
    fn a_class_fits_its_reasons_and_no_others() {
        assert!(fits("malformed_or_cross_tenant", DropReason::CrossTenant));
        assert!(fits("malformed_or_cross_tenant", DropReason::Malformed));
        assert!(!fits("malformed_or_cross_tenant", DropReason::OffSubnet));
        assert!(fits("spoof_src_ip", DropReason::SpoofedSource));
        assert!(!fits("spoof_src_ip", DropReason::SpoofedMac));
        assert!(fits("", DropReason::Internal));
        assert!(!fits("nonsense", DropReason::Internal));
    }
}
