//! Port rules in one canonical form, so that rules with the same meaning are equal values.
//!
//! Knows no address and no tenant. The zero value is `Ports::none()`, which allows nothing. An empty list of rules
//! allows everything. A list of rules that match no port allows nothing.

use agent_common::headers::{ICMP, ICMPV6, SCTP, TCP, UDP};
use agent_common::layout::{PORT_RANGES, PortRange, PortSet};

use super::input::{PortRule, Protocol};

/// UDP ports at which the kernel unwraps packets: VXLAN (RFC 7348, and the port that Linux chose before it), Geneve
/// (RFC 8926), MPLS (RFC 7510) and GTP-U (3GPP TS 29.281). Ports of the node's own tunnel devices are added to them.
pub(super) const TUNNELS: [u16; 5] = [4789, 8472, 6081, 6635, 2152];

/// What is allowed at a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every protocol and port.
    Any,
    /// These ranges: sorted, neither overlapping nor adjacent.
    Ranges(Vec<PortRange>),
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Ports {
    /// Nothing.
    pub const fn none() -> Self {
        Self::Ranges(Vec::new())
    }

    /// What `rules` allow. An empty list allows everything.
    pub fn of(rules: &[PortRule], family: IpFamily) -> Self {
        if rules.is_empty() {
            return Self::Any;
        }
        Self::Ranges(canonical(rules.iter().filter(|rule| rule.low <= rule.high).map(|rule| range(rule, family))))
    }

    /// What either allows.
    pub fn union(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Ranges(a), Self::Ranges(b)) => Self::Ranges(canonical(a.iter().chain(b).copied())),
            _ => Self::Any,
        }
    }

    /// Whether nothing is allowed.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Ranges(ranges) if ranges.is_empty())
    }

    /// Whether it fits in a port set.
    pub fn fits(&self) -> bool {
        matches!(self, Self::Any) || matches!(self, Self::Ranges(ranges) if ranges.len() <= PORT_RANGES)
    }

    /// As a port set of the kernel, if the ranges fit. `Ports::Any` has a reserved number and no set.
    pub(crate) fn to_set(&self) -> Option<PortSet> {
        let Self::Ranges(ranges) = self else { return None };
        let mut set = PortSet::default();
        set.ranges.get_mut(..ranges.len())?.copy_from_slice(ranges);
        Some(set)
    }
}

fn range(rule: &PortRule, family: IpFamily) -> PortRange {
    let (protocol, low, high) = match (rule.protocol, family) {
        (Protocol::Tcp, _) => (TCP, rule.low, rule.high),
        (Protocol::Udp, _) => (UDP, rule.low, rule.high),
        (Protocol::Sctp, _) => (SCTP, rule.low, rule.high),
        (Protocol::Icmp, IpFamily::V4) => (ICMP, 0, u16::MAX),
        (Protocol::Icmp, IpFamily::V6) => (ICMPV6, 0, u16::MAX),
    };
    PortRange { protocol, _pad: 0, low, high }
}

fn canonical(ranges: impl Iterator<Item = PortRange>) -> Vec<PortRange> {
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for next in ranges {
        match merged.last_mut() {
            Some(last) if last.protocol == next.protocol && next.low <= last.high.saturating_add(1) => {
                last.high = last.high.max(next.high);
            }
            _ => merged.push(next),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(low: u16, high: u16) -> PortRule {
        PortRule { protocol: Protocol::Tcp, low, high }
    }

    fn spans(ports: &Ports) -> Vec<(u8, u16, u16)> {
        match ports {
            Ports::Any => panic!("any"),
            Ports::Ranges(ranges) => ranges.iter().map(|r| (r.protocol, r.low, r.high)).collect(),
        }
    }

    #[test]
    fn no_rules_mean_everything_and_senseless_rules_mean_nothing() {
        assert_eq!(Ports::of(&[], IpFamily::V4), Ports::Any);
        assert!(Ports::of(&[tcp(9, 8)], IpFamily::V4).is_none());
    }

    #[test]
    fn overlapping_and_adjacent_ranges_merge_and_others_stay() {
        let ports = Ports::of(&[tcp(90, 95), tcp(80, 89), tcp(85, 92), tcp(97, 97)], IpFamily::V4);
        assert_eq!(spans(&ports), [(6, 80, 95), (6, 97, 97)]);
        let top = Ports::of(&[tcp(65535, 65535), tcp(0, 65534)], IpFamily::V4);
        assert_eq!(spans(&top), [(6, 0, 65535)]);
    }

    #[test]
    fn ranges_of_different_protocols_never_merge() {
        let udp = PortRule { protocol: Protocol::Udp, low: 81, high: 90 };
        assert_eq!(spans(&Ports::of(&[tcp(80, 80), udp], IpFamily::V4)), [(6, 80, 80), (17, 81, 90)]);
    }

    #[test]
    fn icmp_has_its_family_s_number_and_no_ports() {
        let rule = [PortRule { protocol: Protocol::Icmp, low: 8, high: 8 }];
        assert_eq!(spans(&Ports::of(&rule, IpFamily::V4)), [(1, 0, 65535)]);
        assert_eq!(spans(&Ports::of(&rule, IpFamily::V6)), [(58, 0, 65535)]);
    }

    #[test]
    fn sixteen_ranges_fit_a_set_and_seventeen_do_not() {
        let many = |n: u16| Ports::of(&(0..n).map(|i| tcp(i * 2, i * 2)).collect::<Vec<_>>(), IpFamily::V4);
        assert!(many(16).fits() && many(16).to_set().is_some());
        assert!(!many(17).fits() && many(17).to_set().is_none());
    }

    #[test]
    fn a_union_with_any_is_any_and_with_nothing_changes_nothing() {
        let some = Ports::of(&[tcp(80, 80)], IpFamily::V4);
        assert_eq!(some.union(&Ports::Any), Ports::Any);
        assert_eq!(some.union(&Ports::none()), some);
        assert_eq!(Ports::none().to_set(), Some(PortSet::default()));
    }
}
