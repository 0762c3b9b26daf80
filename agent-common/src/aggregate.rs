//! Many packets of one denied flow become one record with a count.
//!
//! A small table per CPU, one bucket per hash: a flow's first packet is told at once, then its count
//! once a second. Counts only grow, so a reader that misses a record loses nothing it cannot read
//! from the next one, or from the table itself, which the agent sweeps. A flow pushed out of its
//! bucket before its count was told is counted as such.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::event::FlowEvent;
use crate::flow::Direction;
use crate::reason::DropReason;

/// Places in the table of one CPU. A power of two.
pub const AGGREGATE_LEN: u32 = 1024;
/// Records of one flow are at least this far apart.
pub const REPORT_INTERVAL_NS: u64 = 1_000_000_000;
/// Records of one pod in one window of a second, per CPU.
pub const POD_RECORDS_PER_SECOND: u32 = 100;
/// Event limits kept apart: local pods.
pub const EVENT_SLOTS: u32 = 4096;

/// What makes packets one flow here: no source port, as one client retrying is one story.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AggregateKey {
    /// The other end's address, first half; 0 for IPv4.
    pub remote_hi: u64,
    /// The other end's address, second half.
    pub remote_lo: u64,
    /// The local pod.
    pub cookie: u32,
    /// The port that names the service: the destination's.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Reason before anybody asked whose the destination is, and the direction in the high bit.
    pub cause: u8,
}

impl AggregateKey {
    /// Reason and direction in a byte.
    #[inline(always)]
    pub const fn cause(direction: Direction, reason: DropReason) -> u8 {
        reason.number() | (direction as u8) << 7
    }

    /// Place in the table. Attackers may choose it; they only push out their own node's records,
    /// and each one is counted.
    #[inline(always)]
    pub fn bucket(&self) -> u32 {
        let tail = u64::from(self.cookie) | u64::from(self.port) << 32 | u64::from(self.protocol) << 48;
        let mixed = (self.remote_hi ^ self.remote_lo.rotate_left(23) ^ tail.rotate_left(41))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 54) as u32 & (AGGREGATE_LEN - 1)
    }
}

/// One bucket of the table. All zero is free.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AggregateEntry {
    /// Which flow.
    pub key: AggregateKey,
    /// When a record was last sent or held back, monotonic clock; 0 never.
    pub sent_ns: u64,
    /// The count that the last record carried.
    pub sent_count: u64,
    /// The record as it would be sent now.
    pub event: FlowEvent,
}

/// How many records a pod may still send in this window.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventBudget {
    /// Start of the window, monotonic clock.
    pub window_ns: u64,
    /// Records in this window.
    pub used: u32,
    /// Zero.
    pub _pad: u32,
    /// Records held back since the beginning; their packets stay in the aggregate table's counts.
    pub held_back: u64,
}

impl EventBudget {
    /// Takes one record from the window's budget, or counts that there was none.
    #[inline(always)]
    pub fn take(&mut self, now_ns: u64) -> bool {
        if now_ns.wrapping_sub(self.window_ns) >= 1_000_000_000 {
            self.window_ns = now_ns;
            self.used = 0;
        }
        let allowed = self.used < POD_RECORDS_PER_SECOND;
        if allowed {
            self.used += 1;
        } else {
            self.held_back += 1;
        }
        allowed
    }
}

impl AggregateEntry {
    /// Packets counted here that no record has carried yet.
    #[inline(always)]
    pub fn unreported(&self) -> u64 {
        self.event.count.saturating_sub(self.sent_count)
    }

    /// Whether this is the flow, under the same policy.
    #[inline(always)]
    pub fn is_of(&self, key: &AggregateKey, generation: u64) -> bool {
        self.key == *key && self.event.generation == generation && self.event.count != 0
    }

    /// One more packet of the same flow.
    #[inline(always)]
    pub fn repeat(&mut self, now_ns: u64, length: u32, tcp_flags: u8) {
        self.event.count += 1;
        self.event.last_ns = now_ns;
        self.event.length = length;
        self.event.tcp_flags = tcp_flags;
    }

    /// Whether it is time for a record.
    #[inline(always)]
    pub fn is_due(&self, now_ns: u64) -> bool {
        now_ns.wrapping_sub(self.sent_ns) >= REPORT_INTERVAL_NS
    }

    /// Notes an attempt to send the record: the next is an interval away, whatever becomes of this
    /// one, so that a flood does not pay for it with every packet.
    #[inline(always)]
    pub fn attempted(&mut self, now_ns: u64) {
        self.sent_ns = now_ns;
    }

    /// Notes that the record as it stands was sent.
    #[inline(always)]
    pub fn reported(&mut self) {
        self.sent_count = self.event.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_flow_is_told_once_a_second_and_no_packet_is_forgotten() {
        let mut entry =
            AggregateEntry { event: FlowEvent { count: 1, ..FlowEvent::default() }, ..AggregateEntry::default() };
        entry.attempted(10 * SECOND);
        entry.reported();
        let due = (1..2500_u64).filter(|ms| {
            let now = 10 * SECOND + ms * 1_000_000;
            entry.repeat(now, 60, 2);
            let due = entry.is_due(now);
            if due {
                entry.attempted(now);
                entry.reported();
            }
            due
        });
        assert_eq!(due.count(), 2);
        assert_eq!((entry.event.count, entry.unreported()), (2500, 499));
    }

    #[test]
    fn a_limit_holds_back_and_counts_and_opens_again() {
        let mut limit = EventBudget::default();
        let sent = (0..1000).filter(|_| limit.take(5 * SECOND)).count() as u32;
        assert_eq!((sent, limit.held_back), (POD_RECORDS_PER_SECOND, 1000 - u64::from(POD_RECORDS_PER_SECOND)));
        assert!(limit.take(6 * SECOND), "the next window is a new budget");
    }

    #[test]
    fn neighbouring_flows_spread_over_the_table() {
        extern crate std;
        let buckets: std::collections::HashSet<_> = (0..1024_u64)
            .map(|host| {
                AggregateKey { remote_lo: host << 24 | 0x0a, cookie: 7, port: 80, ..AggregateKey::default() }.bucket()
            })
            .collect();
        assert!(buckets.len() > 500, "{} buckets for 1024 flows", buckets.len());
        assert!(buckets.iter().all(|bucket| *bucket < AGGREGATE_LEN));
    }
}
