//! What a packet asks of the policy, as scalars that fit five registers.
//!
//! This is the query boundary. The code above it reads bytes, and the code below it reads tables. The kernel verifies
//! the two sides apart, so the numbers of their paths add up instead of multiplying.

use crate::addr::Address;
use crate::aggregate::AggregateKey;
use crate::conntrack::{Opener, ReplyEntry, ReplyKey, ReplyPacket, icmp};
use crate::endpoint::Claim;
use crate::flow::{Direction, Flow, Kind, tcp};
use crate::headers::{ICMP, ICMPV6, TCP};
use crate::reason::DropReason;
use crate::tables::Family;
use crate::tenant::LocalTenant;

/// A packet between a local pod and a remote address.
#[derive(Clone, Copy, Debug)]
pub struct Query<A> {
    /// The local pod's tenant.
    pub local: LocalTenant,
    /// The local pod's claim.
    pub claim: Claim,
    /// The other end.
    pub remote: A,
    /// Port at the other end, host order; an ICMP echo identifier.
    pub remote_port: u16,
    /// Port at the pod, host order; an ICMP echo identifier.
    pub local_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// [`Query::PORTS_KNOWN`] and so on.
    pub bits: u8,
    /// TCP flags, else 0: no rule reads them; records report them.
    pub tcp_flags: u8,
}

impl<A> Query<A> {
    /// The ports are known, or the protocol has none. Later fragments have no known ports.
    pub const PORTS_KNOWN: u8 = 1;
    /// The packet may open a connection.
    pub const MAY_OPEN: u8 = 1 << 1;
    /// The packet may belong to a connection that its sender opened, but opens none.
    pub const MAY_CONTINUE: u8 = 1 << 6;
    /// The packet may be a reply.
    pub const MAY_REPLY: u8 = 1 << 2;
    /// The packet carries a FIN or RST.
    pub const CLOSES: u8 = 1 << 3;
    /// The packet resolves an address (ARP, neighbour discovery) and sends nothing to it.
    pub const RESOLVES: u8 = 1 << 4;
    /// The packet is an ICMP error, which may quote a packet.
    pub const ICMP_ERROR: u8 = 1 << 5;

    /// Whether a bit is set.
    #[inline(always)]
    pub const fn has(&self, bit: u8) -> bool {
        self.bits & bit != 0
    }

    /// From the headers of a packet; `outbound` if the pod sent it.
    #[inline(always)]
    pub fn new(local: LocalTenant, claim: Claim, flow: &Flow<A>, outbound: bool) -> Self
    where
        A: Copy,
    {
        let (remote, remote_port, local_port) = if outbound {
            (flow.destination, flow.destination_port, flow.source_port)
        } else {
            (flow.source, flow.source_port, flow.destination_port)
        };
        let (protocol, tcp_flags) = (flow.protocol, flow.tcp_flags);
        Self { local, claim, remote, remote_port, local_port, protocol, bits: bits(flow), tcp_flags }
    }

    /// The key of this packet's connection in the reply table.
    #[inline(always)]
    pub fn reply_key(&self, opener: Opener) -> ReplyKey
    where
        A: Family,
    {
        let (remote_hi, remote_lo) = self.remote.halves();
        ReplyKey {
            remote_hi,
            remote_lo,
            cookie: self.claim.cookie,
            block: self.claim.block,
            remote_port: self.remote_port,
            local_port: self.local_port,
            protocol: self.protocol,
            side: opener as u8 | if A::BITS == 128 { ReplyKey::IPV6 } else { 0 },
        }
    }

    /// This packet as the reply table sees it.
    #[inline(always)]
    pub fn reply_packet(&self, opener: Opener, reply: bool) -> ReplyPacket
    where
        A: Family,
    {
        ReplyPacket { key: self.reply_key(opener), begins: self.begins_connection(), flags: self.entry_flags(reply) }
    }

    /// The key of the denied flow that this packet belongs to. [`crate::summary::PacketSummary::key`] reads the same from
    /// the frame.
    #[inline(always)]
    pub fn aggregate_key(&self, direction: Direction, cause: DropReason) -> AggregateKey
    where
        A: Address,
    {
        let (remote_hi, remote_lo) = self.remote.halves();
        let port = match direction {
            Direction::Egress => self.remote_port,
            Direction::Ingress => self.local_port,
        };
        let cause = AggregateKey::cause(direction, cause);
        AggregateKey { remote_hi, remote_lo, cookie: self.claim.cookie, port, protocol: self.protocol, cause }
    }

    /// Whether the packet begins a TCP connection: what was seen of an earlier one with the same ports no longer counts.
    /// Other protocols do not show where a connection begins.
    #[inline(always)]
    fn begins_connection(&self) -> bool {
        self.protocol == TCP && self.has(Self::MAY_OPEN)
    }

    /// The flags that the packet adds to its entry in the reply table.
    #[inline(always)]
    fn entry_flags(&self, reply: bool) -> u16 {
        let closing = if self.has(Self::CLOSES) { ReplyEntry::CLOSING } else { 0 };
        let seen = match reply {
            true => ReplyEntry::REPLIED,
            false if self.begins_connection() => 0,
            false => ReplyEntry::CONFIRMED,
        };
        closing | seen
    }
}

/// The names of the bits, which are the same for each family.
type Bits = Query<()>;

/// The bits of a packet. An ICMP error and a later fragment neither open a connection nor reply. An echo request is
/// never a reply, whatever its identifier.
#[inline(always)]
fn bits<A>(flow: &Flow<A>) -> u8 {
    match flow.kind {
        Kind::Ports => {
            let closes = if flow.tcp_flags & (tcp::FIN | tcp::RST) != 0 { Bits::CLOSES } else { 0 };
            Bits::PORTS_KNOWN | tcp_role(flow) | closes
        }
        Kind::Icmp => Bits::PORTS_KNOWN | icmp_bits(flow),
        Kind::Portless => Bits::PORTS_KNOWN | Bits::MAY_OPEN | Bits::MAY_REPLY,
        Kind::LaterFragment => 0,
    }
}

/// Whether a packet may open a connection, continue it, or reply. TCP opens with a SYN alone, which is no reply. If any
/// segment could open, the other end's next one would restore a connection whose permission was just withdrawn.
#[inline(always)]
fn tcp_role<A>(flow: &Flow<A>) -> u8 {
    if flow.protocol != TCP {
        Bits::MAY_OPEN | Bits::MAY_REPLY
    } else if flow.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN {
        Bits::MAY_OPEN
    } else {
        Bits::MAY_CONTINUE | Bits::MAY_REPLY
    }
}

#[inline(always)]
fn icmp_bits<A>(flow: &Flow<A>) -> u8 {
    match (flow.protocol, flow.icmp_type) {
        (ICMP, icmp::ECHO) | (ICMPV6, icmp::ECHO_V6) => Bits::MAY_OPEN,
        (ICMP, icmp::ECHO_REPLY) | (ICMPV6, icmp::ECHO_REPLY_V6) => Bits::MAY_REPLY,
        (ICMP, icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER) | (ICMPV6, 1..=4) => Bits::ICMP_ERROR,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::V4;
    use crate::headers::UDP;
    use crate::tenant::{TenantId, TenantState};

    const LOCAL: LocalTenant = LocalTenant { tenant: TenantId(1), state: TenantState { flags: 1, row: 0, slot: 0 } };

    const CLAIM: Claim = Claim { cookie: 7, block: 1 };

    fn flow(protocol: u8, kind: Kind) -> Flow<V4> {
        let mut flow = Flow::unread(V4::new([192, 0, 2, 10]), V4::new([10, 10, 1, 5]), protocol);
        flow.kind = kind;
        flow
    }

    fn ports(protocol: u8, source_port: u16, destination_port: u16) -> Flow<V4> {
        Flow { source_port, destination_port, tcp_flags: tcp::SYN, ..flow(protocol, Kind::Ports) }
    }

    fn echo(protocol: u8, icmp_type: u8) -> Flow<V4> {
        Flow { icmp_type, source_port: 9, destination_port: 9, ..flow(protocol, Kind::Icmp) }
    }

    fn reversed(flow: Flow<V4>) -> Flow<V4> {
        Flow {
            source: flow.destination,
            destination: flow.source,
            source_port: flow.destination_port,
            destination_port: flow.source_port,
            tcp_flags: flow.tcp_flags | tcp::ACK,
            ..flow
        }
    }

    fn opening(flow: &Flow<V4>) -> Option<ReplyKey> {
        let query = Query::new(LOCAL, CLAIM, flow, false);
        query.has(Query::<V4>::MAY_OPEN).then(|| query.reply_key(Opener::Remote))
    }

    fn reply(flow: &Flow<V4>, cookie: u32) -> Option<ReplyKey> {
        let query = Query::new(LOCAL, Claim { cookie, ..CLAIM }, flow, true);
        query.has(Query::<V4>::MAY_REPLY).then(|| query.reply_key(Opener::Remote))
    }

    #[test]
    fn a_reply_finds_its_opening_and_nothing_else_does() {
        let request = ports(TCP, 40000, 80);
        let stored = opening(&request);
        assert!(stored.is_some());
        assert_eq!(reply(&reversed(request), 7), stored);
        assert_ne!(reply(&reversed(request), 8), stored, "another claim of the address");
        assert_ne!(reply(&request, 7), stored, "the same direction is no reply");
        assert_eq!(reply(&Flow { tcp_flags: tcp::SYN, ..reversed(request) }, 7), None, "a SYN alone is no reply");
        assert_ne!(reply(&reversed(ports(TCP, 40001, 80)), 7), stored, "another port");
        assert_ne!(reply(&reversed(ports(UDP, 40000, 80)), 7), stored, "another protocol");
        assert_ne!(
            Some(Query::new(LOCAL, CLAIM, &reversed(request), true).reply_key(Opener::Pod)),
            stored,
            "the other opener"
        );
    }

    #[test]
    fn an_echo_request_is_never_a_reply_and_an_error_never_an_opening() {
        let request = echo(ICMP, icmp::ECHO);
        assert_eq!(reply(&reversed(echo(ICMP, icmp::ECHO_REPLY)), 7), opening(&request));
        assert_eq!(reply(&reversed(request), 7), None);
        assert_eq!(opening(&echo(ICMP, icmp::UNREACHABLE)), None);
        assert_eq!(opening(&flow(UDP, Kind::LaterFragment)), None);
        for flags in [0, tcp::ACK, tcp::SYN | tcp::ACK, tcp::RST, tcp::FIN, tcp::SYN | tcp::RST] {
            assert_eq!(opening(&Flow { tcp_flags: flags, ..ports(TCP, 1, 2) }), None, "{flags:#x}");
        }
        // ICMPv4 numbers under ICMPv6's protocol, and the reverse, mean nothing.
        assert_eq!(opening(&echo(ICMPV6, icmp::ECHO)), None);
        assert_eq!(reply(&echo(ICMP, icmp::ECHO_REPLY_V6), 7), None);
    }
}
