//! Aggregation: many packets of one denied flow become one record with a count.
//!
//! Each CPU has a small table with one bucket per hash. The first packet of a flow is reported at once, and its count once
//! a second after that. Counts only grow: a reader that misses a record finds the count in the next one, or in the table,
//! which the agent also reads. If another flow takes the bucket first, the unreported packets are counted as a loss.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::event::FlowEvent;
use crate::flow::Direction;
use crate::reason::DropReason;

/// Buckets in the table of one CPU; a power of two.
pub const AGGREGATE_LEN: u32 = 1024;
/// Least time between two records of one flow.
pub const REPORT_INTERVAL_NS: u64 = 1_000_000_000;
/// Greatest number of records of one pod in a second, per CPU.
pub const POD_RECORDS_PER_SECOND: u32 = 100;
/// Number of event slots. Each local pod has one, and with it a budget of records.
pub const EVENT_SLOTS: u32 = 4096;

/// The key of a denied flow. It has no source port, so a client that tries again belongs to the same flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AggregateKey {
    /// The other end's address, first half; 0 for IPv4.
    pub remote_hi: u64,
    /// The other end's address, second half.
    pub remote_lo: u64,
    /// The local pod's cookie.
    pub cookie: u32,
    /// The destination port, which names the service.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// The reason before [`crate::decide::attribute_owner`] names the owner, and the direction in the high bit.
    pub cause: u8,
}

impl AggregateKey {
    /// Reason and direction in a byte.
    #[inline(always)]
    pub const fn cause(direction: Direction, reason: DropReason) -> u8 {
        reason.number() | (direction as u8) << 7
    }

    /// Index of the bucket. An attacker may choose it, but can only replace records of the same node, and each loss is
    /// counted.
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
    /// The flow.
    pub key: AggregateKey,
    /// When a record was last sent or held back, monotonic clock; 0 for never.
    pub sent_ns: u64,
    /// The count that the last record carried.
    pub sent_count: u64,
    /// The record as it would be sent now.
    pub event: FlowEvent,
}

/// The budget of records of one pod, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventBudget {
    /// Start of the window, monotonic clock.
    pub window_ns: u64,
    /// Records in this window.
    pub used: u32,
    /// Zero.
    pub _pad: u32,
    /// Records held back so far. Their packets stay in the counts of the table.
    pub held_back: u64,
}

impl EventBudget {
    /// Takes one record from the budget of this window; false, and counted, if the budget is spent.
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
    /// Packets counted here that no record has reported yet.
    #[inline(always)]
    pub fn unreported(&self) -> u64 {
        self.event.count.saturating_sub(self.sent_count)
    }

    /// Whether the bucket holds this flow under this policy generation.
    #[inline(always)]
    pub fn is_of(&self, key: &AggregateKey, generation: u64) -> bool {
        self.key == *key && self.event.generation == generation && self.event.count != 0
    }

    /// Counts one more packet of the same flow.
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

    /// Stores the time of an attempt to send the record. The next attempt is an interval later even if this one fails, so
    /// a flood does not cost an attempt for each packet.
    #[inline(always)]
    pub fn attempted(&mut self, now_ns: u64) {
        self.sent_ns = now_ns;
    }

    /// Stores that a record with the present count was sent.
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
    fn a_flow_is_reported_once_a_second_and_no_packet_is_lost() {
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
        let mut budget = EventBudget::default();
        let sent = (0..1000).filter(|_| budget.take(5 * SECOND)).count() as u32;
        assert_eq!((sent, budget.held_back), (POD_RECORDS_PER_SECOND, 1000 - u64::from(POD_RECORDS_PER_SECOND)));
        assert!(budget.take(6 * SECOND), "the next window is a new budget");
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
