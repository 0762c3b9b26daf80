//! The guards: doors of the node that open only to senders somebody has claimed.
//!
//! `from_pod` judges a pod once its interface has a program, and that is some milliseconds after the
//! interface appeared, or much later while no agent runs. A guard stands where every packet must pass
//! that leaves the node and has been there all the time, so it depends on nobody's speed: what came in
//! by an interface that is neither a claimed pod's nor known to be the node's own goes no further. One
//! more stands on the control groups of pods, where their sockets speak: it keeps a pod nobody has claimed
//! from the node itself, and from pods of the same node, too.
//!
//! Knows no policy: who is claimed passes here, and is judged elsewhere.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{Mac, V4, V6};
use crate::headers::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6};
use crate::layout::EndpointEntry;
use crate::parse::{Packet, words};
use crate::reason::DropReason;

/// A door.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guard {
    /// Where packets leave the node.
    Uplink = 0,
    /// Where packets rise from a bridge of pods into the node.
    Bridge = 1,
    /// Where sockets of pods' control groups send.
    Cgroup = 2,
}

impl Guard {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Uplink, Self::Bridge, Self::Cgroup];

    /// Those that stand on interfaces; one of them without the other would stop claimed pods.
    pub const ON_INTERFACES: [Self; 2] = [Self::Uplink, Self::Bridge];

    /// Entries of the map of dropped packets, with room for further guards.
    pub const LEN: u32 = 4 * DropReason::ROW;

    /// Name of the program, and the word used in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Bridge => "bridge",
            Self::Cgroup => "cgroup",
        }
    }

    /// Where a packet that it dropped is counted.
    #[inline(always)]
    pub const fn index(self, reason: DropReason) -> u32 {
        self as u32 * DropReason::ROW + reason.number() as u32
    }
}

/// An address a pod sends from, as the key of the map of senders: hardware addresses stand in a
/// range that no packet may come from (100::/64, RFC 6666), IPv4 in its mapped form.
pub type Sender = V6;

/// The key of a hardware address.
#[inline(always)]
pub fn sender_mac(mac: Mac) -> Sender {
    let [a, b, c, d, e, f] = mac.octets();
    V6 { hi: 0x0100_0000_0000_0000_u64.to_be(), lo: u64::from_ne_bytes([0, 0, a, b, c, d, e, f]) }
}

/// The keys of all addresses of a claimed pod. Zero, and what has no key, is left out.
pub fn senders(entry: &EndpointEntry) -> impl Iterator<Item = Sender> {
    let mac = (!entry.mac.is_unknown()).then(|| sender_mac(entry.mac));
    let v4 = (entry.v4 != V4(0)).then(|| V6::mapped(entry.v4));
    let v6 = [entry.v6, entry.link_local].map(|address| (address != V6::UNSPECIFIED).then_some(address));
    [mac, v4].into_iter().chain(v6).flatten()
}

/// What the guards query.
pub trait Claims {
    /// The local pod behind an interface.
    fn endpoint(&self, ifindex: u32) -> Option<&EndpointEntry>;
    /// Whether an interface is the node's own.
    fn is_own(&self, ifindex: u32) -> bool;
    /// The interface behind which an address was claimed.
    fn sender(&self, sender: &Sender) -> Option<u32>;
    /// Whether an interface is still there. While no agent runs, the claim of a pod that is gone stays,
    /// and its address may be another's.
    fn exists(&self, ifindex: u32) -> bool;
}

/// Judges what leaves the node. `ingress_ifindex` is the interface that the packet came in by, which
/// no translation of addresses changes, and 0 for what the node sends itself: the usual packet of a
/// node's own, host-network pods' among them, costs one comparison.
#[inline(always)]
pub fn leaves(claims: &impl Claims, ingress_ifindex: u32) -> Option<DropReason> {
    if ingress_ifindex == 0 || is_claimed(claims, ingress_ifindex) || claims.is_own(ingress_ifindex) {
        return None;
    }
    Some(DropReason::NotReady)
}

/// Judges what rises from a bridge whose ports are all pods'. The packet now comes in by the bridge,
/// so only its sender's addresses tell whose it is: the hardware address that `from_pod` has checked,
/// and for a pod that has changed its own (in audit mode it may), the source address.
#[inline(always)]
pub fn rises<P: Packet>(claims: &impl Claims, frame: &P) -> Option<DropReason> {
    let Some(ethernet) = frame.read::<Ethernet>(0) else { return Some(DropReason::Malformed) };
    if is_sender(claims, &sender_mac(ethernet.source)) {
        return None;
    }
    let source = match u16::from_be(ethernet.ethertype_be) {
        ETHERTYPE_IPV4 => frame.read::<Ipv4>(ETHERNET_LEN).map(|ip| V6::mapped(V4(ip.source))),
        ETHERTYPE_IPV6 => frame.read::<Ipv6>(ETHERNET_LEN).map(|ip| words(ip.source)),
        _ => None,
    };
    match source {
        // A hardware address is nobody's source address.
        Some(source) if source.hi != sender_mac(Mac([0; 3])).hi && is_sender(claims, &source) => None,
        _ => Some(DropReason::NotReady),
    }
}

/// The group that holds all pods' control groups, and whose sockets in it are not pods'. The zero value
/// lets no socket speak that is in no claimed group.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CgroupConfig {
    /// Its id; 0 is none.
    pub parent: u64,
    /// Inode number of the node's own network namespace; 0 is none.
    pub netns: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<CgroupConfig>() == 16);

impl CgroupConfig {
    /// Whether anything was written.
    #[inline(always)]
    pub const fn is_known(self) -> bool {
        self.parent != 0 || self.netns != 0
    }
}

/// What the guard on control groups queries of the socket that sends.
pub trait Socket {
    /// The group of that depth that the socket's is in, the hierarchy's root having 0; 0 for none.
    fn group(&self, level: u32) -> u64;
    /// Whether a pod's group is claimed.
    fn is_claimed(&self, group: u64) -> bool;
    /// Inode number of its network namespace; 0 where that cannot be read.
    fn netns(&self) -> u32;
}

/// Depth beyond which the group that holds all pods' is not looked for. It is the first on most nodes,
/// and some five deep where a node is itself a container.
const DEEPEST: u32 = 12;

/// Judges what a socket below the pods' group sends. Pods on the node's own network are the node: it must
/// never depend on an agent.
#[inline(always)]
pub fn speaks(socket: &impl Socket, groups: CgroupConfig) -> Option<DropReason> {
    let speaks = is_of_claimed(socket, groups.parent) || (groups.netns != 0 && socket.netns() == groups.netns);
    if speaks { None } else { Some(DropReason::NotReady) }
}

/// Whether the socket's pod is claimed. A pod's own group is below one for its quality of service or,
/// where that is guaranteed, beside those. How deep the group of all is only the kernel knows: an agent in
/// a namespace of control groups counts from another root.
#[inline(always)]
fn is_of_claimed(socket: &impl Socket, parent: u64) -> bool {
    let claimed = |level| {
        let group = socket.group(level);
        group != 0 && socket.is_claimed(group)
    };
    let mut level = 1;
    while level <= DEEPEST {
        let group = socket.group(level);
        if group == 0 {
            return false;
        }
        if group == parent {
            return claimed(level + 2) || claimed(level + 1);
        }
        level += 1;
    }
    false
}

/// The table of senders only says where to look; whether that interface is claimed now is asked there.
#[inline(always)]
fn is_sender(claims: &impl Claims, sender: &Sender) -> bool {
    let Some(ifindex) = claims.sender(sender) else { return false };
    is_claimed(claims, ifindex) && claims.exists(ifindex)
}

#[inline(always)]
fn is_claimed(claims: &impl Claims, ifindex: u32) -> bool {
    claims.endpoint(ifindex).is_some_and(|entry| entry.tenant.0 != 0 && entry.cookie != 0)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::{HashMap, HashSet};
    use std::vec::Vec;

    use super::*;
    use crate::headers::ETHERTYPE_ARP;
    use crate::tenant::TenantId;

    const POD: u32 = 7;
    const STRANGER: u32 = 8;
    const UPLINK: u32 = 2;
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
    const STRANGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];
    const ADDRESS: [u8; 4] = [10, 244, 0, 7];
    const ADDRESS6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

    #[derive(Default)]
    struct Tables {
        endpoints: HashMap<u32, EndpointEntry>,
        own: HashSet<u32>,
        senders: HashMap<Sender, u32>,
        gone: HashSet<u32>,
    }

    impl Claims for Tables {
        fn endpoint(&self, ifindex: u32) -> Option<&EndpointEntry> {
            self.endpoints.get(&ifindex)
        }
        fn is_own(&self, ifindex: u32) -> bool {
            self.own.contains(&ifindex)
        }
        fn sender(&self, sender: &Sender) -> Option<u32> {
            self.senders.get(sender).copied()
        }
        fn exists(&self, ifindex: u32) -> bool {
            !self.gone.contains(&ifindex)
        }
    }

    struct Bytes(Vec<u8>);

    impl Packet for Bytes {
        fn length(&self) -> usize {
            self.0.len()
        }
        fn read<H: crate::headers::Header>(&self, offset: usize) -> Option<H> {
            H::read_from_bytes(self.0.get(offset..offset + size_of::<H>())?).ok()
        }
    }

    fn claim() -> EndpointEntry {
        EndpointEntry {
            tenant: TenantId(1),
            cookie: 5,
            v4: V4::new(ADDRESS),
            v6: V6::new(ADDRESS6),
            mac: Mac::new(MAC),
            ..EndpointEntry::default()
        }
    }

    fn tables() -> Tables {
        let senders = senders(&claim()).map(|sender| (sender, POD)).collect();
        Tables { endpoints: [(POD, claim())].into(), own: [UPLINK].into(), senders, ..Tables::default() }
    }

    fn frame(mac: [u8; 6], ethertype: u16, source: &[u8]) -> Bytes {
        let mut bytes = std::vec![0xff_u8; 6];
        bytes.extend(mac);
        bytes.extend(ethertype.to_be_bytes());
        let (at, length) = if ethertype == ETHERTYPE_IPV6 { (8, 40) } else { (12, 20) };
        let mut header = std::vec![0_u8; length];
        header[at..at + source.len()].copy_from_slice(source);
        bytes.extend(header);
        Bytes(bytes)
    }

    #[test]
    fn what_the_node_sends_itself_leaves_whatever_is_known() {
        assert_eq!(leaves(&Tables::default(), 0), None);
    }

    #[test]
    fn only_claimed_and_own_interfaces_are_let_out() {
        assert_eq!(leaves(&tables(), POD), None);
        assert_eq!(leaves(&tables(), UPLINK), None);
        assert_eq!(leaves(&tables(), STRANGER), Some(DropReason::NotReady));
        assert_eq!(leaves(&Tables::default(), POD), Some(DropReason::NotReady), "nothing known opens nothing");
    }

    #[test]
    fn half_a_claim_is_none() {
        for entry in [
            EndpointEntry::default(),
            EndpointEntry { cookie: 0, ..claim() },
            EndpointEntry { tenant: TenantId(0), ..claim() },
        ] {
            let tables = Tables { endpoints: [(POD, entry)].into(), ..tables() };
            assert_eq!(leaves(&tables, POD), Some(DropReason::NotReady), "{entry:?}");
            assert_eq!(rises(&tables, &frame(MAC, ETHERTYPE_IPV4, &ADDRESS)), Some(DropReason::NotReady), "{entry:?}");
        }
    }

    #[test]
    fn from_a_bridge_rises_what_has_a_claimed_sender() {
        for (mac, ethertype, source, passes) in [
            (MAC, ETHERTYPE_IPV4, &ADDRESS[..], true),
            (MAC, ETHERTYPE_ARP, &[], true),
            (MAC, ETHERTYPE_IPV6, &ADDRESS6, true),
            (STRANGE_MAC, ETHERTYPE_IPV4, &ADDRESS, true),
            (STRANGE_MAC, ETHERTYPE_IPV6, &ADDRESS6, true),
            (STRANGE_MAC, ETHERTYPE_IPV4, &[10, 244, 0, 8], false),
            (STRANGE_MAC, ETHERTYPE_IPV4, &[198, 51, 100, 1], false),
            (STRANGE_MAC, ETHERTYPE_IPV6, &[0; 16], false),
            (STRANGE_MAC, ETHERTYPE_ARP, &[], false),
            (STRANGE_MAC, 0x88cc, &ADDRESS, false),
        ] {
            let reason = rises(&tables(), &frame(mac, ethertype, source));
            assert_eq!(reason, (!passes).then_some(DropReason::NotReady), "{mac:?} {ethertype:x} {source:?}");
        }
        assert_eq!(rises(&tables(), &Bytes(std::vec![0; 13])), Some(DropReason::Malformed));
    }

    #[test]
    fn the_address_of_a_pod_that_is_gone_is_nobody_s() {
        let tables = Tables { gone: [POD].into(), ..tables() };
        for mac in [MAC, STRANGE_MAC] {
            assert_eq!(rises(&tables, &frame(mac, ETHERTYPE_IPV4, &ADDRESS)), Some(DropReason::NotReady));
        }
    }

    #[test]
    fn a_source_address_that_spells_a_hardware_address_is_nobody_s() {
        let forged = sender_mac(Mac::new(MAC)).octets();
        assert_eq!(rises(&tables(), &frame(STRANGE_MAC, ETHERTYPE_IPV6, &forged)), Some(DropReason::NotReady));
    }

    #[test]
    fn a_pod_without_addresses_adds_no_sender() {
        assert_eq!(senders(&EndpointEntry { tenant: TenantId(1), cookie: 1, ..EndpointEntry::default() }).count(), 0);
        assert_eq!(senders(&claim()).count(), 3);
    }

    /// A socket's groups from the root on, those that are claimed, its namespace.
    struct Speaker(Vec<u64>, HashSet<u64>, u32);

    impl Socket for Speaker {
        fn group(&self, level: u32) -> u64 {
            self.0.get(level as usize).copied().unwrap_or_default()
        }
        fn is_claimed(&self, group: u64) -> bool {
            self.1.contains(&group)
        }
        fn netns(&self) -> u32 {
            self.2
        }
    }

    const NODE: u32 = 4_026_531_840;
    const ELSEWHERE: u32 = 4_026_532_600;
    /// Root, `kubepods`, its class, pod, container.
    const BURSTABLE: [u64; 5] = [1, 10, 20, 30, 40];
    /// The same where the node is a container.
    const NESTED: [u64; 7] = [1, 2, 3, 10, 20, 30, 40];
    /// The same of a guaranteed pod.
    const GUARANTEED: [u64; 4] = [1, 10, 31, 41];

    fn speaks_here(groups: &[u64], claimed: &[u64], netns: u32, known: CgroupConfig) -> bool {
        speaks(&Speaker(groups.to_vec(), claimed.iter().copied().collect(), netns), known).is_none()
    }

    #[test]
    fn a_socket_speaks_once_its_pod_is_claimed() {
        let known = CgroupConfig { parent: 10, netns: NODE, _pad: 0 };
        for (groups, claimed, speaks) in [
            (&BURSTABLE[..], &[30][..], true),
            (&BURSTABLE, &[31], false),
            (&BURSTABLE, &[], false),
            (&GUARANTEED, &[31], true),
            (&GUARANTEED, &[30], false),
            (&BURSTABLE[..4], &[30], true),
            (&BURSTABLE[..3], &[30], false),
            (&NESTED, &[30], true),
            (&NESTED, &[2, 3, 40], false),
            (&[1, 11, 20, 30], &[30], false),
            (&[], &[0], false),
        ] {
            assert_eq!(speaks_here(groups, claimed, ELSEWHERE, known), speaks, "{groups:?} {claimed:?}");
        }
    }

    #[test]
    fn whoever_is_on_the_node_s_own_network_speaks() {
        let known = CgroupConfig { parent: 10, netns: NODE, _pad: 0 };
        assert!(speaks_here(&BURSTABLE, &[], NODE, known));
        assert!(!speaks_here(&BURSTABLE, &[], 0, CgroupConfig::default()), "what is not known is nobody's network");
        assert!(!speaks_here(&BURSTABLE, &[], NODE, CgroupConfig::default()));
        assert!(!speaks_here(&BURSTABLE, &[30], ELSEWHERE, CgroupConfig::default()));
        let deep: Vec<u64> = (1..30).chain([10]).collect();
        assert!(!speaks_here(&deep, &[], ELSEWHERE, CgroupConfig { parent: 99, ..known }));
    }

    #[test]
    fn no_two_guards_share_a_counter() {
        let all: HashSet<u32> =
            Guard::ALL.iter().flat_map(|guard| DropReason::ALL.iter().map(|reason| guard.index(*reason))).collect();
        assert_eq!(all.len(), Guard::ALL.len() * DropReason::ALL.len());
        assert!(all.iter().all(|index| *index < Guard::LEN));
    }
}
