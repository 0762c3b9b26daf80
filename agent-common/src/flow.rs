//! One direction of a packet's conversation, as far as its headers tell.

/// Which way a packet goes, always from the pod's view.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// The pod sent it.
    Egress = 0,
    /// It is on its way to the pod.
    Ingress = 1,
}

impl Direction {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Egress, Self::Ingress];

    /// The word used in metrics and events.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Ports in host order; for ICMP echo, the identifier in both. TCP flags, else 0.
    Known {
        /// Port of the sender.
        source: u16,
        /// Port of the receiver.
        destination: u16,
    },
    /// ICMP type and code.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Identifier of an echo, host order; else 0.
        id: u16,
    },
    /// A later fragment: no header to read.
    LaterFragment,
    /// A protocol without ports.
    None,
}

/// Addresses and transport of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// Who the packet says it is from.
    pub source: A,
    /// Where it goes.
    pub destination: A,
    /// IANA protocol number of the transport header.
    pub protocol: u8,
    /// TCP flags, else 0.
    pub tcp_flags: u8,
    /// Hop limit or TTL.
    pub hop_limit: u8,
    /// Whether IPv6 extension headers stood before the transport header.
    pub extended: bool,
    /// Offset of the transport header from the frame's first byte; 0 where there is none.
    pub transport: u16,
    /// Bytes of the packet from there on.
    pub room: u32,
    /// Ports, if any.
    pub ports: Ports,
}

impl<A: Copy> Flow<A> {
    /// Source and destination port in host order, 0 where there is none.
    #[inline(always)]
    pub fn port_pair(&self) -> (u16, u16) {
        match self.ports {
            Ports::Known { source, destination } => (source, destination),
            _ => (0, 0),
        }
    }
}

/// TCP flag bits.
pub mod tcp {
    /// Sender is done.
    pub const FIN: u8 = 1;
    /// Opens.
    pub const SYN: u8 = 2;
    /// Ends at once.
    pub const RST: u8 = 4;
    /// Answers.
    pub const ACK: u8 = 16;
}
