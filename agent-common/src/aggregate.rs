//! Aggregation: many packets of one denied flow become one record with a count.
//!
//! Each CPU has a small table with one bucket per hash. The first packet of a flow is reported at once, and its count once
//! a second after that. Counts only grow: a reader that misses a record finds the count in the next one, or in the table,
//! which the agent also reads. If another flow takes the bucket first, the unreported packets are counted as a loss.
//! Half of the table is common. In the other half each tenant has buckets of its own, so no tenant can keep another's
//! flows out.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::counters::TENANT_SLOTS;
use crate::event::FlowEvent;
use crate::flow::Direction;
use crate::reason::DropReason;

/// Buckets in the table of one CPU.
pub const AGGREGATE_LEN: u32 = COMMON_BUCKETS + SHARES * SHARE_LEN;
/// Buckets that any tenant's flow may take; a power of two.
const COMMON_BUCKETS: u32 = 512;
/// Shares of the rest, by a tenant's counter slot. Beyond 64 tenants on a node, several have one share together.
const SHARES: u32 = 64;
/// Buckets in a share; a power of two.
const SHARE_LEN: u32 = 8;
/// Time without a packet after which any tenant's flow may take a common bucket. It is more than two sweeps of the agent.
const IDLE_NS: u64 = 5_000_000_000;
/// Least time between two records of one flow.
pub const REPORT_INTERVAL_NS: u64 = 1_000_000_000;
/// Greatest number of records of one pod in a second, per CPU.
pub const POD_RECORDS_PER_SECOND: u32 = 100;
/// Greatest number of records of all pods of one tenant in a second, per CPU.
pub const TENANT_RECORDS_PER_SECOND: u32 = 400;
/// Number of event slots. Each local pod has one, and with it a budget of records.
pub const EVENT_SLOTS: u32 = 4096;
/// Number of budgets: one for each event slot, then one for each counter slot of a tenant.
pub const BUDGETS: u32 = EVENT_SLOTS + TENANT_SLOTS;

/// Index of the budget of a tenant with this counter slot.
#[inline(always)]
pub const fn tenant_budget(slot: u16) -> u32 {
    EVENT_SLOTS + slot as u32 % TENANT_SLOTS
}

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

    /// Index of the bucket in the common half. An attacker may choose it, but replaces no flow there that had a packet lately.
    #[inline(always)]
    pub fn common_bucket(&self) -> u32 {
        self.hash() >> 7 & (COMMON_BUCKETS - 1)
    }

    /// Index of the bucket in the share of the tenant with this counter slot.
    #[inline(always)]
    pub fn own_bucket(&self, slot: u16) -> u32 {
        COMMON_BUCKETS + slot as u32 % SHARES * SHARE_LEN + (self.hash() & (SHARE_LEN - 1))
    }

    #[inline(always)]
    fn hash(&self) -> u32 {
        let tail = u64::from(self.cookie) | u64::from(self.port) << 32 | u64::from(self.protocol) << 48;
        let mixed = (self.remote_hi ^ self.remote_lo.rotate_left(23) ^ tail.rotate_left(41))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 48) as u32
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

/// The budget of records of one pod or tenant, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventBudget {
    /// Start of the window, monotonic clock.
    pub window_ns: u64,
    /// Records in this window.
    pub used: u32,
    /// Zero.
    pub _pad: u32,
    /// Records of the pod held back so far, by either budget. Their packets stay in the counts of the table.
    pub held_back: u64,
}

impl EventBudget {
    /// Takes one record from the budget of this window; false if its `limit` is spent.
    #[inline(always)]
    pub fn take(&mut self, now_ns: u64, limit: u32) -> bool {
        if now_ns.wrapping_sub(self.window_ns) >= 1_000_000_000 {
            self.window_ns = now_ns;
            self.used = 0;
        }
        let allowed = self.used < limit;
        self.used += u32::from(allowed);
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

    /// Whether a new flow may take the bucket, which is in the common half: no flow holds it that had a packet lately. Not
    /// even one of the same tenant, because two flows that take one bucket from each other send a record for each packet.
    #[inline(always)]
    pub fn is_free(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.event.last_ns) >= IDLE_NS || self.event.count == 0
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
    fn a_budget_is_spent_and_opens_again() {
        let mut budget = EventBudget::default();
        let sent = (0..1000).filter(|_| budget.take(5 * SECOND, POD_RECORDS_PER_SECOND)).count() as u32;
        assert_eq!(sent, POD_RECORDS_PER_SECOND);
        assert!(budget.take(6 * SECOND, POD_RECORDS_PER_SECOND), "the next window is a new budget");
    }

    fn key(host: u64) -> AggregateKey {
        AggregateKey { remote_lo: host << 24 | 0x0a, cookie: 7, port: 80, ..AggregateKey::default() }
    }

    #[test]
    fn neighbouring_flows_spread_over_the_table() {
        extern crate std;
        let spread = |bucket: &dyn Fn(AggregateKey) -> u32| -> std::collections::HashSet<_> {
            (0..1024_u64).map(|host| bucket(key(host))).collect()
        };
        let common = spread(&|key| key.common_bucket());
        assert!(common.len() > 350, "{} common buckets for 1024 flows", common.len());
        for slot in [0, 1, 63, 64] {
            let own = spread(&|key| key.own_bucket(slot));
            assert_eq!(own.len(), SHARE_LEN as usize, "slot {slot}");
            assert!(own.is_disjoint(&common) && own.iter().all(|bucket| *bucket < AGGREGATE_LEN), "slot {slot}");
        }
        assert!(spread(&|key| key.own_bucket(1)).is_disjoint(&spread(&|key| key.own_bucket(2))), "two tenants");
    }

    #[test]
    fn a_common_bucket_is_free_once_it_is_idle() {
        let event = FlowEvent { count: 1, last_ns: 10 * SECOND, ..FlowEvent::default() };
        let entry = AggregateEntry { event, ..AggregateEntry::default() };
        assert!(!entry.is_free(14 * SECOND) && entry.is_free(15 * SECOND));
        assert!(AggregateEntry::default().is_free(1), "one that was never taken");
    }
}
