//! A flow: one direction of a 5-tuple, as the headers of one packet name it.
//!
//! Types only. Knows no policy and no byte of the packet.

/// The direction of a packet, always from the pod's view.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// The pod sent the packet.
    Egress = 0,
    /// The packet goes to the pod.
    Ingress = 1,
}

impl Direction {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Egress, Self::Ingress];

    /// Its name in metrics and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }

    /// The direction of this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Egress),
            1 => Some(Self::Ingress),
            _ => None,
        }
    }
}

/// What is known of the transport header.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP, UDP or SCTP: both ports are known.
    Ports,
    /// ICMP or ICMPv6, whatever the packet's family: type, code and identifier are known.
    Icmp,
    /// A later fragment: there is no header to read.
    LaterFragment,
    /// A protocol without ports.
    Portless,
}

/// Addresses and transport of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// Source address, as the packet names it.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// IANA protocol number of the transport header.
    pub protocol: u8,
    /// TCP flags, else 0.
    pub tcp_flags: u8,
    /// Offset of the transport header from the frame's first byte; 0 where there is none.
    pub transport: u16,
    /// Which of the fields below have a meaning; the others are zero. This is no enum with payloads, because verifiers
    /// refuse to copy a payload that was never written.
    pub kind: Kind,
    /// Source port in host order. For an ICMP echo, both ports are its identifier.
    pub source_port: u16,
    /// Destination port in host order, or the identifier of an ICMP echo.
    pub destination_port: u16,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
}

impl<A> Flow<A> {
    /// A flow whose transport header has not been read. The flow of a later fragment stays so.
    #[inline(always)]
    pub const fn unread(source: A, destination: A, protocol: u8) -> Self {
        Self {
            source,
            destination,
            protocol,
            tcp_flags: 0,
            transport: 0,
            kind: Kind::LaterFragment,
            source_port: 0,
            destination_port: 0,
            icmp_type: 0,
            icmp_code: 0,
        }
    }
}

/// TCP flag bits.
pub mod tcp {
    /// The sender has no more data.
    pub const FIN: u8 = 1;
    /// Opens a connection.
    pub const SYN: u8 = 2;
    /// Ends a connection at once.
    pub const RST: u8 = 4;
    /// Acknowledges data of the other side.
    pub const ACK: u8 = 16;
}
