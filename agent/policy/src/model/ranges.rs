//! What an address is by its range: a pod's, a Service's, a node's, or outside the cluster.
//!
//! Ranges come from the administrator's settings and from what the cluster's objects state. They may nest: the longest
//! prefix decides. Knows no tenant and no single address. A range of pods is learnt from objects that some network
//! plugins ignore, so it counts only while it contains every known pod address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::settings::Settings;

/// What the addresses of a range are. Of two equal ranges the first kind counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RangeKind {
    /// Pods'.
    Pods,
    /// Services'.
    Services,
    /// Nodes'.
    Nodes,
    /// Not the cluster's, although a wider range around it is.
    Outside,
}

/// Who states that a range has its kind. Of two equal ranges the first origin counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RangeOrigin {
    /// The administrator.
    Set,
    /// An object of the cluster.
    Learnt,
}

/// Ranges that the cluster's objects state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LearntRanges {
    /// Ranges of pods.
    pub pods: Vec<IpNet>,
    /// Ranges of Services.
    pub services: Vec<IpNet>,
    /// Whether the objects state the ranges of the pods of every node.
    pub covers_every_node: bool,
}

/// Why the range of pods is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodRangeGap {
    /// No object states the ranges of the pods of every node.
    NotStated,
    /// Pods have addresses outside the known ranges.
    Strays {
        /// How many addresses.
        count: usize,
        /// One of them.
        example: IpAddr,
    },
}

/// All ranges, each with its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    of: BTreeMap<IpNet, (RangeOrigin, RangeKind)>,
    /// Prefix lengths that occur, for IPv4 and IPv6.
    lengths: [BTreeSet<u8>; 2],
}

impl Ranges {
    /// The administrator's ranges, and those that were learnt if `settings` says that they count.
    pub fn new(settings: &Settings, learnt: &LearntRanges) -> Self {
        let mut ranges = Self::default();
        let set = [
            (RangeKind::Pods, &settings.pod_cidrs),
            (RangeKind::Services, &settings.service_cidrs),
            (RangeKind::Nodes, &settings.node_cidrs),
            (RangeKind::Outside, &settings.outside_cidrs),
        ];
        for (kind, nets) in set {
            nets.iter().for_each(|net| ranges.insert(*net, RangeOrigin::Set, kind));
        }
        if settings.learn_ranges {
            let pods = learnt.pods.iter().filter(|_| !settings.no_pod_range);
            IpNet::aggregate(&pods.copied().collect()).into_iter().for_each(|net| {
                ranges.insert(net, RangeOrigin::Learnt, RangeKind::Pods);
            });
            learnt.services.iter().for_each(|net| ranges.insert(*net, RangeOrigin::Learnt, RangeKind::Services));
        }
        ranges
    }

    fn insert(&mut self, net: IpNet, origin: RangeOrigin, kind: RangeKind) {
        let net = net.trunc();
        let known = self.of.entry(net).or_insert((origin, kind));
        *known = (*known).min((origin, kind));
        if let Some(lengths) = self.lengths.get_mut(family(net.addr())) {
            lengths.insert(net.prefix_len());
        }
    }

    /// What `address` is by the longest range that contains it; `None` if no range does.
    pub fn kind(&self, address: IpAddr) -> Option<RangeKind> {
        let lengths = self.lengths.get(family(address))?;
        let net = |length: &u8| IpNet::new(address, *length).ok().map(|net| net.trunc());
        lengths.iter().rev().filter_map(net).find_map(|net| self.of.get(&net)).map(|(_, kind)| *kind)
    }

    /// Whether some range of the address's family has this kind.
    pub fn has(&self, kind: RangeKind, address: IpAddr) -> bool {
        self.of.iter().any(|(net, (_, other))| *other == kind && family(net.addr()) == family(address))
    }

    /// The ranges of pods, Services and nodes, without the parts that are outside the cluster. They may nest.
    pub fn of_cluster(&self) -> Vec<(IpNet, RangeOrigin, RangeKind)> {
        let outside: Vec<IpNet> = self.of_kind(RangeKind::Outside).collect();
        let mut parts = BTreeMap::new();
        let mut inside: Vec<_> = self.of.iter().filter(|(_, (_, kind))| *kind != RangeKind::Outside).collect();
        // Parts of a wide range and of one inside it may be equal: that of the longer one counts.
        inside.sort_by_key(|(net, _)| net.prefix_len());
        for (net, (origin, kind)) in inside {
            parts.extend(without(*net, &outside).into_iter().map(|part| (part, (*origin, *kind))));
        }
        parts.into_iter().map(|(net, (origin, kind))| (net, origin, kind)).collect()
    }

    fn of_kind(&self, kind: RangeKind) -> impl Iterator<Item = IpNet> {
        self.of.iter().filter(move |(_, (_, other))| *other == kind).map(|(net, _)| *net)
    }

    /// Why the range of pods is not known; `None` if it is. `strays` is the number of pod addresses outside the known
    /// ranges, with one of them.
    pub(super) fn gap(
        settings: &Settings,
        learnt: &LearntRanges,
        strays: Option<(usize, IpAddr)>,
    ) -> Option<PodRangeGap> {
        if !settings.learn_ranges || settings.no_pod_range {
            return None;
        }
        let is_learnt = !learnt.pods.is_empty() && learnt.covers_every_node;
        if settings.pod_cidrs.is_empty() && !is_learnt {
            return Some(PodRangeGap::NotStated);
        }
        // An address outside is evidence, whoever stated the ranges: one family may be missing.
        strays.map(|(count, example)| PodRangeGap::Strays { count, example })
    }
}

impl std::fmt::Display for PodRangeGap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotStated => write!(
                f,
                "the range of pods is unknown: not every Node has spec.podCIDRs, and no IP pool could be read; set \
                 --pod-cidr to the ranges of all pods, or to `none` if they have none of their own"
            ),
            Self::Strays { count, example } => write!(
                f,
                "the range of pods is unknown: {count} pod addresses, such as {example}, lie outside the known \
                 ranges; set --pod-cidr to the ranges of all pods"
            ),
        }
    }
}

/// Ranges for private use (RFC 1918, RFC 6598, RFC 4193). Pods whose range is unknown may be anywhere in them.
pub const PRIVATE: [(IpAddr, u8); 5] = [
    (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)), 12),
    (IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
];

/// The private ranges.
pub(super) fn private() -> impl Iterator<Item = IpNet> {
    PRIVATE.into_iter().filter_map(|(address, length)| IpNet::new(address, length).ok())
}

/// Whether a range is so wide that whoever wrote it cannot have meant its private addresses one by one.
pub(super) fn is_wide(net: &IpNet) -> bool {
    net.prefix_len() < if net.addr().is_ipv4() { 16 } else { 32 }
}

/// The parts of `net` that lie in none of `holes`.
pub(super) fn without(net: IpNet, holes: &[IpNet]) -> Vec<IpNet> {
    let inside: Vec<IpNet> = holes.iter().filter(|hole| net.contains(*hole)).copied().collect();
    if inside.is_empty() {
        return vec![net];
    }
    if inside.contains(&net) {
        return Vec::new();
    }
    // No hole is the whole range, so a range of one address has none, and each half is smaller.
    let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, &inside)).collect()
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a range")).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn learning() -> Settings {
        Settings { learn_ranges: true, ..Settings::default() }
    }

    fn learnt(pods: &[&str]) -> LearntRanges {
        LearntRanges { pods: nets(pods), services: nets(&["10.96.0.0/12"]), covers_every_node: true }
    }

    #[test]
    fn the_longest_prefix_says_what_an_address_is() {
        let settings = Settings {
            pod_cidrs: nets(&["10.0.64.0/18"]),
            node_cidrs: nets(&["10.0.0.0/16"]),
            outside_cidrs: nets(&["10.0.70.0/24"]),
            ..learning()
        };
        let ranges = Ranges::new(&settings, &learnt(&["10.0.1.0/24"]));
        for (address, kind) in [
            ("10.0.64.2", Some(RangeKind::Pods)),
            ("10.0.2.9", Some(RangeKind::Nodes)),
            ("10.0.1.9", Some(RangeKind::Pods)),
            ("10.0.70.4", Some(RangeKind::Outside)),
            ("10.96.0.1", Some(RangeKind::Services)),
            ("192.0.2.1", None),
            ("fd00::1", None),
        ] {
            assert_eq!(ranges.kind(ip(address)), kind, "{address}");
        }
    }

    #[test]
    fn of_two_equal_ranges_the_unknown_address_counts_as_a_pod_unless_an_admin_says_otherwise() {
        let vpc = || nets(&["10.0.0.0/16"]);
        let both = Settings { pod_cidrs: vpc(), node_cidrs: vpc(), ..learning() };
        assert_eq!(Ranges::new(&both, &learnt(&[])).kind(ip("10.0.0.1")), Some(RangeKind::Pods));
        let outside = Settings { outside_cidrs: vpc(), ..learning() };
        assert_eq!(Ranges::new(&outside, &learnt(&["10.0.0.0/16"])).kind(ip("10.0.0.1")), Some(RangeKind::Outside));
    }

    #[test]
    fn ranges_of_the_cluster_have_no_part_outside() {
        let settings =
            Settings { pod_cidrs: nets(&["10.0.0.0/22"]), outside_cidrs: nets(&["10.0.1.0/24"]), ..learning() };
        let ranges = Ranges::new(&settings, &LearntRanges::default());
        let parts: Vec<String> = ranges.of_cluster().iter().map(|(net, ..)| net.to_string()).collect();
        assert_eq!(parts, ["10.0.0.0/24", "10.0.2.0/23"]);
        assert_eq!(without("10.0.0.0/24".parse().expect("a range"), &nets(&["10.0.0.0/16"])).len(), 1);
        assert!(without("10.0.0.1/32".parse().expect("a range"), &nets(&["10.0.0.1/32"])).is_empty());
    }

    #[test]
    fn ranges_that_touch_are_one_and_learnt_ones_count_only_where_they_are_asked_for() {
        let stated = learnt(&["10.244.0.0/24", "10.244.1.0/24"]);
        let ranges = Ranges::new(&learning(), &stated);
        let nets: Vec<String> = ranges.of_kind(RangeKind::Pods).map(|net| net.to_string()).collect();
        assert_eq!(nets, ["10.244.0.0/23"]);
        assert_eq!(Ranges::new(&Settings::default(), &stated), Ranges::default());
        let none = Settings { no_pod_range: true, ..learning() };
        assert_eq!(Ranges::new(&none, &stated).kind(ip("10.244.0.1")), None);
    }

    #[test]
    fn the_range_of_pods_is_known_if_it_is_set_or_if_every_pod_lies_in_what_was_learnt() {
        let gap = |settings: &Settings, learnt: &LearntRanges, strays| Ranges::gap(settings, learnt, strays);
        let stray = Some((2, ip("10.9.0.1")));
        assert_eq!(gap(&learning(), &learnt(&["10.244.0.0/16"]), None), None);
        assert_eq!(
            gap(&learning(), &learnt(&["10.244.0.0/16"]), stray),
            Some(PodRangeGap::Strays { count: 2, example: ip("10.9.0.1") })
        );
        let partial = LearntRanges { covers_every_node: false, ..learnt(&["10.244.0.0/16"]) };
        for unknown in [LearntRanges::default(), learnt(&[]), partial] {
            assert_eq!(gap(&learning(), &unknown, None), Some(PodRangeGap::NotStated));
        }
        let set = Settings { pod_cidrs: nets(&["10.244.0.0/16"]), ..learning() };
        assert_eq!(gap(&set, &LearntRanges::default(), None), None);
        assert!(gap(&set, &LearntRanges::default(), stray).is_some(), "a family without a range");
        for said in [Settings { no_pod_range: true, ..learning() }, Settings::default()] {
            assert_eq!(gap(&said, &LearntRanges::default(), stray), None);
        }
    }
}
