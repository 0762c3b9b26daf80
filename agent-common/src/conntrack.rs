//! The reply table: connections that one side opened, and on which the other side may only reply.
//!
//! An entry is no permission by itself. It says that a policy generation allowed a packet in the opening direction. Under
//! another generation, the opening direction is judged again before the entry counts. Reads no clock: time is an
//! argument.

use crate::headers::{ICMP, ICMPV6, SCTP, TCP, UDP};

/// The side that opened a connection.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// The other end: the pod may reply.
    Remote = 1,
    /// The pod: the other end may reply.
    Pod = 2,
}

/// What the reply table says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyState {
    /// There is no live entry.
    Unknown = 0,
    /// The policy in force has allowed the connection.
    Current = 1,
    /// An earlier policy has allowed the connection: the opening direction must be judged again.
    Stale = 2,
}

impl ReplyState {
    /// From a register. Any other value is [`ReplyState::Unknown`].
    #[inline(always)]
    pub const fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Current,
            2 => Self::Stale,
            _ => Self::Unknown,
        }
    }
}

/// The key of a connection in the reply table, from the pod's view. It is the same type for both families, so the kernel
/// has one copy of the code that reads the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReplyKey {
    /// The other end's address, first half; 0 for IPv4.
    pub remote_hi: u64,
    /// The other end's address, second half.
    pub remote_lo: u64,
    /// The pod's cookie: a later pod with the same address has another one.
    pub cookie: u32,
    /// The pod's block of the table.
    pub block: u16,
    /// Host order; an ICMP echo identifier.
    pub remote_port: u16,
    /// Host order; 0 for ICMP.
    pub local_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// The number of the [`Opener`], and [`ReplyKey::IPV6`] for that family.
    pub side: u8,
}

impl ReplyKey {
    /// The addresses are IPv6.
    pub const IPV6: u8 = 1 << 7;
}

/// A packet of a connection, as far as the reply table depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyPacket {
    /// Its connection.
    pub key: ReplyKey,
    /// It begins the connection: what was seen of an earlier one with the same key no longer counts.
    pub begins: bool,
    /// The flags that it adds to the entry.
    pub flags: u16,
}

/// An entry of the reply table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyEntry {
    /// Time at which the entry ceases to count unless another packet comes, monotonic clock. 0 is no entry.
    pub expires_ns: u64,
    /// Policy generation that allowed the opening direction.
    pub generation: u64,
    /// [`ReplyEntry::CLOSING`] and so on.
    pub flags: u16,
}

const SECOND: u64 = 1_000_000_000;

impl ReplyEntry {
    /// The other side has replied.
    pub const REPLIED: u16 = 1;
    /// A FIN or RST was seen.
    pub const CLOSING: u16 = 1 << 1;
    /// The opener has sent more than the SYN of a TCP connection. The kernel of a pod answers each SYN by itself, so a reply
    /// alone does not show that somebody uses the connection.
    pub const CONFIRMED: u16 = 1 << 2;
    /// Least time between two writes of the time: a store to a shared cache line is not free.
    pub const STAMP_NS: u64 = SECOND;

    /// The entry of a connection that had a packet at `now_ns`, in either direction.
    #[inline(always)]
    pub const fn new(protocol: u8, flags: u16, generation: u64, now_ns: u64) -> Self {
        Self { expires_ns: now_ns + Self::timeout(protocol, flags), generation, flags }
    }

    /// Nanoseconds without a packet after which an entry with these flags no longer counts.
    #[inline(always)]
    const fn timeout(protocol: u8, flags: u16) -> u64 {
        let seconds = match (protocol, Self::are_of_established(flags)) {
            // Longer than two hours, after which TCP sends keep-alives by default (RFC 9293, 3.8.4).
            (TCP, true) => 3 * 3600,
            (TCP, false) => 120,
            (SCTP, _) => 600,
            (UDP, true) => 180,
            (ICMP | ICMPV6, _) => 30,
            _ => 60,
        };
        seconds * SECOND
    }

    /// Whether the entry still counts at `now_ns`.
    #[inline(always)]
    pub const fn is_live(self, now_ns: u64) -> bool {
        now_ns < self.expires_ns
    }

    /// Whether both sides use the connection, and neither has closed it.
    #[inline(always)]
    pub const fn is_established(self) -> bool {
        Self::are_of_established(self.flags)
    }

    #[inline(always)]
    const fn are_of_established(flags: u16) -> bool {
        flags & (Self::REPLIED | Self::CONFIRMED | Self::CLOSING) == Self::REPLIED | Self::CONFIRMED
    }

    /// The entry after one more allowed packet; `None` if no field changed enough for a store. A packet that begins a
    /// connection with the ports of an earlier one keeps no flag of it.
    #[inline(always)]
    pub fn touched(self, packet: &ReplyPacket, generation: u64, now_ns: u64) -> Option<Self> {
        let kept = if packet.begins { 0 } else { self.flags };
        let next = Self::new(packet.key.protocol, kept | packet.flags, generation, now_ns);
        let stale = next.expires_ns.saturating_sub(self.expires_ns) >= Self::STAMP_NS;
        (stale || next.flags != self.flags || generation != self.generation).then_some(next)
    }
}

/// ICMP and ICMPv6 types that the rules name.
pub mod icmp {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// Destination unreachable, with "fragmentation needed".
    pub const UNREACHABLE: u8 = 3;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER: u8 = 12;
    /// ICMPv6 echo request.
    pub const ECHO_V6: u8 = 128;
    /// ICMPv6 echo reply.
    pub const ECHO_REPLY_V6: u8 = 129;
    /// Router solicitation.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour advertisement.
    pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
    /// ICMPv6 redirect.
    pub const REDIRECT_V6: u8 = 137;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_expire_and_the_zero_entry_never_counts() {
        assert!(!ReplyEntry::default().is_live(0) && !ReplyEntry::default().is_live(1));
        let now = 1_000 * SECOND;
        for (protocol, flags, alive) in [
            (TCP, 0, 119),
            (TCP, ReplyEntry::REPLIED, 119),
            (TCP, BOTH, 10_799),
            (TCP, BOTH | ReplyEntry::CLOSING, 119),
            (UDP, ReplyEntry::CONFIRMED, 59),
            (UDP, BOTH, 179),
            (ICMP, ReplyEntry::REPLIED, 29),
        ] {
            let entry = ReplyEntry::new(protocol, flags, 1, now);
            assert!(entry.is_live(now + alive * SECOND), "{protocol} {flags}");
            assert!(!entry.is_live(now + (alive + 1) * SECOND), "{protocol} {flags}");
        }
    }

    const BOTH: u16 = ReplyEntry::REPLIED | ReplyEntry::CONFIRMED;

    #[test]
    fn an_entry_is_written_again_only_if_it_changed() {
        let key = ReplyKey { protocol: TCP, ..ReplyKey::default() };
        let [plain, begins] = [false, true].map(|begins| ReplyPacket { key, begins, flags: 0 });
        let closes = ReplyPacket { flags: ReplyEntry::CLOSING, ..plain };
        let entry = ReplyEntry::new(TCP, 0, 3, 5 * SECOND);
        assert_eq!(entry.touched(&plain, 3, 5 * SECOND + 1), None);
        assert_eq!(entry.touched(&begins, 3, 5 * SECOND + 1), None, "there is no flag to drop");
        assert!(entry.touched(&plain, 3, 6 * SECOND).is_some(), "a second later");
        assert!(entry.touched(&closes, 3, 5 * SECOND).is_some(), "a flag");
        assert!(entry.touched(&plain, 4, 5 * SECOND).is_some(), "a generation");
        let closing = ReplyEntry::new(TCP, ReplyEntry::CLOSING | ReplyEntry::REPLIED, 3, 5 * SECOND);
        assert_eq!(closing.touched(&begins, 3, 5 * SECOND).map(|next| next.flags), Some(0), "a new connection");
    }
}
