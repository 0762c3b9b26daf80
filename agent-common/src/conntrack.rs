//! What identity cannot justify: replies to connections that the other side opened.
//!
//! An entry is never a permission by itself. It says that a packet in the opening direction was
//! allowed under some policy generation; under another generation the opening direction is judged
//! again before the entry counts. Time comes in as an argument.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{V4, V6};
use crate::headers::{ICMP, ICMPV6, SCTP, TCP, UDP};

/// Who sent the packet that opened a connection.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// The other end: the pod may reply.
    Remote = 1,
    /// The pod: the other end may reply.
    Pod = 2,
}

/// What is remembered of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyState {
    /// Nothing that counts.
    Unknown = 0,
    /// The policy of this moment allowed it.
    Current = 1,
    /// An earlier policy allowed it: judge it again.
    Stale = 2,
}

impl ReplyState {
    /// From a register: any other value is nothing.
    #[inline(always)]
    pub const fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Current,
            2 => Self::Stale,
            _ => Self::Unknown,
        }
    }
}

/// A connection from the pod's view.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReplyKey<A> {
    /// The other end.
    pub remote: A,
    /// The pod's claim of its interface: a successor with the same address has another.
    pub cookie: u32,
    /// Host order; an ICMP echo identifier.
    pub remote_port: u16,
    /// Host order; 0 for ICMP.
    pub local_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// `Opener`.
    pub opener: u8,
    /// Zero.
    pub _pad: u16,
    /// Zero: fills an IPv6 key to a multiple of its alignment.
    pub _tail: u32,
}

const _: () = assert!(size_of::<ReplyKey<V4>>() == 20 && size_of::<ReplyKey<V6>>() == 32);

/// What is remembered of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ReplyEntry {
    /// Last packet in the opening direction, or reply, monotonic clock. 0 is no entry.
    pub seen_ns: u64,
    /// Policy generation that allowed the opening direction.
    pub generation: u64,
    /// `ReplyEntry::CLOSING` and so on.
    pub flags: u32,
    /// Zero.
    pub _pad: u32,
}

const SECOND: u64 = 1_000_000_000;

impl ReplyEntry {
    /// The other side has answered.
    pub const ANSWERED: u32 = 1;
    /// A FIN or RST was seen.
    pub const CLOSING: u32 = 1 << 1;
    /// Entries are stamped at most this often: a store to a shared cache line is not free.
    pub const STAMP_NS: u64 = SECOND;

    /// Nanoseconds of silence after which the entry is void.
    #[inline(always)]
    pub const fn timeout(self, protocol: u8) -> u64 {
        let seconds = match (protocol, self.flags & Self::CLOSING != 0, self.flags & Self::ANSWERED != 0) {
            (TCP, true, _) => 120,
            // Longer than the two hours after which TCP keeps alive by default (RFC 9293, 3.8.4).
            (TCP, false, true) => 3 * 3600,
            (TCP, false, false) => 120,
            (SCTP, ..) => 600,
            (UDP, _, true) => 180,
            (ICMP | ICMPV6, ..) => 30,
            _ => 60,
        };
        seconds * SECOND
    }

    /// Whether the entry still counts at `now_ns`.
    #[inline(always)]
    pub const fn is_live(self, protocol: u8, now_ns: u64) -> bool {
        self.seen_ns != 0 && now_ns.saturating_sub(self.seen_ns) < self.timeout(protocol)
    }

    /// The entry after one more packet under a policy that allows it; `None` where nothing worth a store changed.
    #[inline(always)]
    pub fn touched(self, flags: u32, generation: u64, now_ns: u64) -> Option<Self> {
        let next = Self { seen_ns: now_ns, generation, flags: self.flags | flags, _pad: 0 };
        let stale = now_ns.saturating_sub(self.seen_ns) >= Self::STAMP_NS;
        (stale || next.flags != self.flags || generation != self.generation).then_some(next)
    }
}

/// ICMP and ICMPv6 types that matter here.
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
    /// Neighbour solicitation.
    pub const NEIGHBOR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
    /// ICMPv6 redirect.
    pub const REDIRECT_V6: u8 = 137;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_expire_and_the_zero_entry_was_never_alive() {
        assert!(!ReplyEntry::default().is_live(TCP, 1));
        let now = 1_000 * SECOND;
        let fresh = ReplyEntry { seen_ns: now, generation: 1, ..ReplyEntry::default() };
        for (protocol, flags, alive) in [
            (TCP, 0, 119),
            (TCP, ReplyEntry::ANSWERED, 10_799),
            (TCP, ReplyEntry::ANSWERED | ReplyEntry::CLOSING, 119),
            (UDP, 0, 59),
            (UDP, ReplyEntry::ANSWERED, 179),
            (ICMP, ReplyEntry::ANSWERED, 29),
        ] {
            let entry = ReplyEntry { flags, ..fresh };
            assert!(entry.is_live(protocol, now + alive * SECOND), "{protocol} {flags}");
            assert!(!entry.is_live(protocol, now + (alive + 1) * SECOND), "{protocol} {flags}");
        }
    }

    #[test]
    fn an_entry_is_stored_again_only_for_news() {
        let entry = ReplyEntry { seen_ns: 5 * SECOND, generation: 3, flags: 0, _pad: 0 };
        assert_eq!(entry.touched(0, 3, 5 * SECOND + 1), None);
        assert!(entry.touched(0, 3, 6 * SECOND).is_some(), "a second later");
        assert!(entry.touched(ReplyEntry::CLOSING, 3, 5 * SECOND).is_some(), "a flag");
        assert!(entry.touched(0, 4, 5 * SECOND).is_some(), "a generation");
    }
}
