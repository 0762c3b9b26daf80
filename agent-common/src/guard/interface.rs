//! The interface guards: they decide by the interface or the addresses that a packet came from.
//!
//! Knows no policy and no map. An interface that is neither claimed nor the node's own lets no packet out.

use crate::addr::{Mac, V4, V6};
use crate::headers::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6};
use crate::layout::EndpointEntry;
use crate::parse::{Packet, words};
use crate::reason::DropReason;
use crate::tenant::TenantId;

/// An address that a pod sends from, as a key of the map of senders. A hardware address is put into a range that no
/// packet may come from (100::/64, RFC 6666), and an IPv4 address into its mapped form.
pub type Sender = V6;

/// The key of a hardware address.
#[inline(always)]
pub fn sender_mac(mac: Mac) -> Sender {
    let [a, b, c, d, e, f] = mac.octets();
    V6 { hi: 0x0100_0000_0000_0000_u64.to_be(), lo: u64::from_ne_bytes([0, 0, a, b, c, d, e, f]) }
}

/// The keys of all addresses of a claimed pod. Zero addresses are left out.
pub fn senders(entry: &EndpointEntry) -> impl Iterator<Item = Sender> {
    let mac = (!entry.mac.is_unknown()).then(|| sender_mac(entry.mac));
    let v4 = (entry.v4 != V4(0)).then(|| V6::mapped(entry.v4));
    let v6 = [entry.v6, entry.link_local].map(|address| (address != V6::UNSPECIFIED).then_some(address));
    [mac, v4].into_iter().chain(v6).flatten()
}

/// The data that the interface guards read.
pub trait Claims {
    /// The local pod behind an interface.
    fn endpoint(&self, ifindex: u32) -> Option<&EndpointEntry>;
    /// Whether an interface is the node's own.
    fn is_node_iface(&self, ifindex: u32) -> bool;
    /// The interface behind which an address was claimed.
    fn sender(&self, sender: &Sender) -> Option<u32>;
    /// Whether an interface still exists. While no agent runs, the claim of a removed pod stays, and its address may
    /// belong to another pod.
    fn exists(&self, ifindex: u32) -> bool;
}

/// Checks a packet that leaves the node. Returns why it is denied. `ingress_ifindex` is the interface by which the packet
/// arrived, which NAT does not change. It is 0 for packets of the node and of host-network pods: they cost one
/// comparison.
#[inline(always)]
pub fn check_uplink(claims: &impl Claims, ingress_ifindex: u32) -> Option<DropReason> {
    if ingress_ifindex == 0 || is_claimed(claims, ingress_ifindex) || claims.is_node_iface(ingress_ifindex) {
        return None;
    }
    Some(DropReason::NotReady)
}

/// The index under which the node's own interfaces are listed at all. No interface has it.
pub const NODE_IFACES_LISTED: u32 = 0;

/// Checks by which interface a packet to a pod arrived, as [`check_uplink`] does for one that leaves the node. Without it,
/// a pod without programs could send from any address. While the node's interfaces are not listed, nothing is denied.
#[inline(always)]
pub fn check_arrival(claims: &impl Claims, ingress_ifindex: u32) -> Option<DropReason> {
    check_uplink(claims, ingress_ifindex).filter(|_| claims.is_node_iface(NODE_IFACES_LISTED))
}

/// The tenant of the claimed pod behind an interface; 0 for any other interface.
#[inline(always)]
pub fn claimant(claims: &impl Claims, ifindex: u32) -> TenantId {
    match claims.endpoint(ifindex) {
        Some(entry) if entry.cookie != 0 => entry.tenant,
        _ => TenantId::UNKNOWN,
    }
}

/// Checks a packet from a bridge whose ports are all pods'. Returns why it is denied. The packet arrives by the bridge, so
/// only its addresses name the pod: the hardware address, which `from_pod` has checked, or the source address. The
/// latter serves pods that changed their hardware address, as they may in Audit mode.
#[inline(always)]
pub fn check_bridge<P: Packet>(claims: &impl Claims, frame: &P) -> Option<DropReason> {
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
        // A source address must not be taken for the key of a hardware address.
        Some(source) if source.hi != sender_mac(Mac([0; 3])).hi && is_sender(claims, &source) => None,
        _ => Some(DropReason::NotReady),
    }
}

/// Whether a sender is a claimed pod. The map of senders only names the interface; the claim is looked up there.
#[inline(always)]
fn is_sender(claims: &impl Claims, sender: &Sender) -> bool {
    let Some(ifindex) = claims.sender(sender) else { return false };
    is_claimed(claims, ifindex) && claims.exists(ifindex)
}

#[inline(always)]
fn is_claimed(claims: &impl Claims, ifindex: u32) -> bool {
    claimant(claims, ifindex).is_known()
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
    const UNCLAIMED: u32 = 8;
    const UPLINK: u32 = 2;
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
    const UNCLAIMED_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];
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
        fn is_node_iface(&self, ifindex: u32) -> bool {
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
    fn packets_of_the_node_itself_always_leave() {
        assert_eq!(check_uplink(&Tables::default(), 0), None);
    }

    #[test]
    fn only_packets_from_claimed_and_node_interfaces_leave() {
        assert_eq!(check_uplink(&tables(), POD), None);
        assert_eq!(check_uplink(&tables(), UPLINK), None);
        assert_eq!(check_uplink(&tables(), UNCLAIMED), Some(DropReason::NotReady));
        assert_eq!(check_uplink(&Tables::default(), POD), Some(DropReason::NotReady), "empty maps let nothing pass");
    }

    #[test]
    fn a_packet_to_a_pod_arrives_by_a_known_interface_once_the_node_s_are_listed() {
        let listed = || {
            let mut listed = tables();
            listed.own.insert(NODE_IFACES_LISTED);
            listed
        };
        assert_eq!(check_arrival(&listed(), UNCLAIMED), Some(DropReason::NotReady));
        for known in [0, POD, UPLINK] {
            assert_eq!(check_arrival(&listed(), known), None, "{known}");
        }
        assert_eq!(check_arrival(&tables(), UNCLAIMED), None, "no interface is listed as the node's");
        assert_eq!((claimant(&listed(), POD), claimant(&listed(), UPLINK)), (TenantId(1), TenantId::UNKNOWN));
    }

    #[test]
    fn an_entry_without_tenant_or_cookie_is_no_claim() {
        for entry in [
            EndpointEntry::default(),
            EndpointEntry { cookie: 0, ..claim() },
            EndpointEntry { tenant: TenantId(0), ..claim() },
        ] {
            let tables = Tables { endpoints: [(POD, entry)].into(), ..tables() };
            assert_eq!(check_uplink(&tables, POD), Some(DropReason::NotReady), "{entry:?}");
            assert_eq!(
                check_bridge(&tables, &frame(MAC, ETHERTYPE_IPV4, &ADDRESS)),
                Some(DropReason::NotReady),
                "{entry:?}"
            );
        }
    }

    #[test]
    fn a_packet_from_a_bridge_passes_if_its_sender_is_claimed() {
        for (mac, ethertype, source, passes) in [
            (MAC, ETHERTYPE_IPV4, &ADDRESS[..], true),
            (MAC, ETHERTYPE_ARP, &[], true),
            (MAC, ETHERTYPE_IPV6, &ADDRESS6, true),
            (UNCLAIMED_MAC, ETHERTYPE_IPV4, &ADDRESS, true),
            (UNCLAIMED_MAC, ETHERTYPE_IPV6, &ADDRESS6, true),
            (UNCLAIMED_MAC, ETHERTYPE_IPV4, &[10, 244, 0, 8], false),
            (UNCLAIMED_MAC, ETHERTYPE_IPV4, &[198, 51, 100, 1], false),
            (UNCLAIMED_MAC, ETHERTYPE_IPV6, &[0; 16], false),
            (UNCLAIMED_MAC, ETHERTYPE_ARP, &[], false),
            (UNCLAIMED_MAC, 0x88cc, &ADDRESS, false),
        ] {
            let reason = check_bridge(&tables(), &frame(mac, ethertype, source));
            assert_eq!(reason, (!passes).then_some(DropReason::NotReady), "{mac:?} {ethertype:x} {source:?}");
        }
        assert_eq!(check_bridge(&tables(), &Bytes(std::vec![0; 13])), Some(DropReason::Malformed));
    }

    #[test]
    fn the_address_of_a_removed_pod_is_no_sender() {
        let tables = Tables { gone: [POD].into(), ..tables() };
        for mac in [MAC, UNCLAIMED_MAC] {
            assert_eq!(check_bridge(&tables, &frame(mac, ETHERTYPE_IPV4, &ADDRESS)), Some(DropReason::NotReady));
        }
    }

    #[test]
    fn a_source_address_equal_to_a_hardware_key_is_no_sender() {
        let forged = sender_mac(Mac::new(MAC)).octets();
        assert_eq!(check_bridge(&tables(), &frame(UNCLAIMED_MAC, ETHERTYPE_IPV6, &forged)), Some(DropReason::NotReady));
    }

    #[test]
    fn a_pod_without_addresses_adds_no_sender() {
        assert_eq!(senders(&EndpointEntry { tenant: TenantId(1), cookie: 1, ..EndpointEntry::default() }).count(), 0);
        assert_eq!(senders(&claim()).count(), 3);
    }
}
