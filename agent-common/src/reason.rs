//! The drop reasons: a closed list. Each reason has a counter, a line in the documentation, and a test.
//!
//! Numbers are part of the kernel ABI and of every metric and event. A number is never reused.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal;)+) => {
        /// Why a packet was dropped, or would have been in enforce mode.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason { $($(#[doc = $doc])+ $name = $number,)+ }

        impl DropReason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name in metrics, events and console output.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// One sentence that explains it, the same as in the documentation.
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The reason of this number, if there is one.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// Both ends are known and belong to different tenants without a grant between them.
    CrossTenant = 1, "cross_tenant";
    /// The destination is no known pod and in none of the tenant's subnets or egress ranges.
    OffSubnet = 2, "off_subnet";
    /// The sending pod's namespace belongs to no tenant.
    UnassignedSource = 3, "unassigned_source";
    /// The other pod's namespace belongs to no tenant.
    UnassignedDestination = 4, "unassigned_destination";
    /// The source address is not this pod's own.
    SpoofedSource = 5, "spoofed_source";
    /// The other end is a cloud metadata address that the tenant does not list exactly.
    MetadataService = 6, "metadata_service";
    /// The destination is an address of a node.
    Node = 7, "node";
    /// A fragment without ports where only ports could allow it.
    Fragment = 8, "fragment";
    /// Headers are short, contradictory or cannot be read.
    Malformed = 9, "malformed";
    /// The interface, or its tenant, is not programmed yet.
    NotReady = 10, "not_ready";
    /// A map is full or a helper failed; closed until the agent repairs it.
    Internal = 11, "internal";
    /// The destination is allowed, the port or protocol is not.
    PortDenied = 12, "port_denied";
    /// The Ethernet source is not this pod's own.
    SpoofedMac = 13, "spoofed_mac";
    /// An ARP or neighbour discovery claim for an address or hardware address that is not this pod's.
    SpoofedNeighbor = 14, "spoofed_neighbor";
    /// An EtherType other than IPv4, IPv6 and ARP.
    Ethertype = 15, "ethertype";
    /// A VLAN tag, in the frame or in its metadata.
    Vlan = 16, "vlan";
    /// An IPv4 source route option.
    SourceRoute = 17, "source_route";
    /// An IPv6 routing header with segments left.
    RoutingHeader = 18, "routing_header";
    /// More IPv6 extension headers than we follow.
    ExtensionHeader = 19, "extension_header";
    /// An ICMP redirect from a pod.
    IcmpRedirect = 20, "icmp_redirect";
    /// An IPv6 router advertisement from a pod.
    RouterAdvertisement = 21, "router_advertisement";
    /// A multicast or broadcast destination.
    Multicast = 22, "multicast";
    /// An address that must not appear on a wire here: loopback, unspecified, link-local, reserved, or IPv4 hidden in IPv6.
    Martian = 23, "martian";
    /// A packet brought to a pod that does not own its destination address.
    NotOwnAddress = 24, "not_own_address";
}

impl DropReason {
    /// Length of one row of counters: no reason has a higher number.
    pub const ROW: u32 = 32;

    /// The number in maps, events and counters.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_fit_a_counter_row() {
        for reason in DropReason::ALL {
            assert_eq!(DropReason::from_number(reason.number()), Some(*reason));
            assert!(u32::from(reason.number()) < DropReason::ROW);
            assert!(reason.describe().ends_with('.'));
        }
        assert_eq!(DropReason::from_number(0), None, "zero is no reason");
    }
}
