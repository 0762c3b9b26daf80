//! What a packet queries of the policy, without the packet: scalars that fit five registers.
//!
//! This is the global_fns of the verdict. Above it, code looks at bytes; below it, at tables. The kernel
//! verifies the two sides apart, so that their paths add up instead of multiplying.

use crate::access::LocalTenant;
use crate::addr::Address;
use crate::aggregate::AggregateKey;
use crate::conntrack::{Opener, ReplyEntry, ReplyKey, icmp};
use crate::flow::{Direction, Flow, Kind, tcp};
use crate::headers::{ICMP, ICMPV6, TCP};
use crate::reason::DropReason;

/// A packet between a local pod and a remote address.
#[derive(Clone, Copy, Debug)]
pub struct Query<A> {
    /// The local pod's tenant.
    pub local: LocalTenant,
    /// The local pod's claim.
    pub cookie: u32,
    /// The other end.
    pub remote: A,
    /// Port at the other end, host order; an ICMP echo identifier.
    pub remote_port: u16,
    /// Port at the pod, host order; an ICMP echo identifier.
    pub local_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// `Query::KNOWN` and so on.
    pub bits: u8,
    /// TCP flags, else 0: no rule queries for them, records tell them.
    pub tcp_flags: u8,
}

impl<A> Query<A> {
    /// The ports are known, or the protocol has none: all but later fragments.
    pub const KNOWN: u8 = 1;
    /// May open a connection that is answered.
    pub const OPENS: u8 = 1 << 1;
    /// May belong to a connection that its sender opened, but opens none.
    pub const CONTINUES: u8 = 1 << 6;
    /// May be an answer.
    pub const ANSWERS: u8 = 1 << 2;
    /// Carries a FIN or RST.
    pub const CLOSES: u8 = 1 << 3;
    /// Asks where an address is, not to send anything there.
    pub const RESOLVES: u8 = 1 << 4;
    /// Is an ICMP error, which may quote a packet.
    pub const QUOTES: u8 = 1 << 5;

    /// Whether a bit is set.
    #[inline(always)]
    pub const fn has(&self, bit: u8) -> bool {
        self.bits & bit != 0
    }

    /// From the headers. `outbound`: the pod sent it.
    #[inline(always)]
    pub fn new(local: LocalTenant, cookie: u32, flow: &Flow<A>, outbound: bool) -> Self
    where
        A: Copy,
    {
        let (remote, remote_port, local_port) = if outbound {
            (flow.destination, flow.destination_port, flow.source_port)
        } else {
            (flow.source, flow.source_port, flow.destination_port)
        };
        let (protocol, tcp_flags) = (flow.protocol, flow.tcp_flags);
        Self { local, cookie, remote, remote_port, local_port, protocol, bits: bits(flow), tcp_flags }
    }

    /// Where the connection is remembered that this packet opens (or answers).
    #[inline(always)]
    pub fn key(&self, opener: Opener) -> ReplyKey<A>
    where
        A: Copy,
    {
        ReplyKey {
            remote: self.remote,
            cookie: self.cookie,
            remote_port: self.remote_port,
            local_port: self.local_port,
            protocol: self.protocol,
            opener: opener as u8,
            _pad: 0,
            _tail: 0,
        }
    }

    /// What makes further packets that are denied the same story: what `PacketSummary::key` reads from the
    /// frame.
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
        AggregateKey { remote_hi, remote_lo, cookie: self.cookie, port, protocol: self.protocol, cause }
    }

    /// What the packet adds to its connection's flags.
    #[inline(always)]
    pub fn mark(&self, reply: bool) -> u32 {
        let closing = if self.has(Self::CLOSES) { ReplyEntry::CLOSING } else { 0 };
        closing | if reply { ReplyEntry::ANSWERED } else { 0 }
    }
}

/// An error is no answer, and a later fragment is neither; an echo *request*
/// is never an answer, whatever identifier it carries.
#[inline(always)]
fn bits<A>(flow: &Flow<A>) -> u8 {
    type Bits = Query<()>;
    match flow.kind {
        Kind::Ports => {
            let closes = if flow.tcp_flags & (tcp::FIN | tcp::RST) != 0 { Bits::CLOSES } else { 0 };
            Bits::KNOWN | tcp_role(flow) | closes
        }
        Kind::Icmp => Bits::KNOWN | icmp_bits(flow),
        Kind::Portless => Bits::KNOWN | Bits::OPENS | Bits::ANSWERS,
        Kind::LaterFragment => 0,
    }
}

/// Where in a connection a packet may stand. TCP opens with a SYN alone, which answers nothing. Were
/// any segment enough, the other end's next one would bring a connection back whose permission has
/// just been withdrawn.
#[inline(always)]
fn tcp_role<A>(flow: &Flow<A>) -> u8 {
    type Bits = Query<()>;
    if flow.protocol != TCP {
        Bits::OPENS | Bits::ANSWERS
    } else if flow.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN {
        Bits::OPENS
    } else {
        Bits::CONTINUES | Bits::ANSWERS
    }
}

#[inline(always)]
fn icmp_bits<A>(flow: &Flow<A>) -> u8 {
    type Bits = Query<()>;
    match (flow.protocol, flow.icmp_type) {
        (ICMP, icmp::ECHO) | (ICMPV6, icmp::ECHO_V6) => Bits::OPENS,
        (ICMP, icmp::ECHO_REPLY) | (ICMPV6, icmp::ECHO_REPLY_V6) => Bits::ANSWERS,
        (ICMP, icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER) | (ICMPV6, 1..=4) => Bits::QUOTES,
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

    fn turned(flow: Flow<V4>) -> Flow<V4> {
        Flow {
            source: flow.destination,
            destination: flow.source,
            source_port: flow.destination_port,
            destination_port: flow.source_port,
            tcp_flags: flow.tcp_flags | tcp::ACK,
            ..flow
        }
    }

    fn opening(flow: &Flow<V4>) -> Option<ReplyKey<V4>> {
        let query = Query::new(LOCAL, 7, flow, false);
        query.has(Query::<V4>::OPENS).then(|| query.key(Opener::Remote))
    }

    fn answer(flow: &Flow<V4>, cookie: u32) -> Option<ReplyKey<V4>> {
        let query = Query::new(LOCAL, cookie, flow, true);
        query.has(Query::<V4>::ANSWERS).then(|| query.key(Opener::Remote))
    }

    #[test]
    fn a_reply_finds_its_opening_and_nothing_else_does() {
        let request = ports(TCP, 40000, 80);
        let stored = opening(&request);
        assert!(stored.is_some());
        assert_eq!(answer(&turned(request), 7), stored);
        assert_ne!(answer(&turned(request), 8), stored, "another claim of the address");
        assert_ne!(answer(&request, 7), stored, "the same direction is no reply");
        assert_eq!(answer(&Flow { tcp_flags: tcp::SYN, ..turned(request) }, 7), None, "a SYN alone answers nothing");
        assert_ne!(answer(&turned(ports(TCP, 40001, 80)), 7), stored, "another port");
        assert_ne!(answer(&turned(ports(UDP, 40000, 80)), 7), stored, "another protocol");
        assert_ne!(Some(Query::new(LOCAL, 7, &turned(request), true).key(Opener::Pod)), stored, "the other opener");
    }

    #[test]
    fn an_echo_request_is_never_a_reply_and_an_error_never_an_opening() {
        let request = echo(ICMP, icmp::ECHO);
        assert_eq!(answer(&turned(echo(ICMP, icmp::ECHO_REPLY)), 7), opening(&request));
        assert_eq!(answer(&turned(request), 7), None);
        assert_eq!(opening(&echo(ICMP, icmp::UNREACHABLE)), None);
        assert_eq!(opening(&flow(UDP, Kind::LaterFragment)), None);
        for flags in [0, tcp::ACK, tcp::SYN | tcp::ACK, tcp::RST, tcp::FIN, tcp::SYN | tcp::RST] {
            assert_eq!(opening(&Flow { tcp_flags: flags, ..ports(TCP, 1, 2) }), None, "{flags:#x}");
        }
        // ICMPv4 numbers under ICMPv6's protocol, and the reverse, mean nothing.
        assert_eq!(opening(&echo(ICMPV6, icmp::ECHO)), None);
        assert_eq!(answer(&echo(ICMP, icmp::ECHO_REPLY_V6), 7), None);
    }
}
