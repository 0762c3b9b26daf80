//! Token buckets: a rate of events for each tenant, and one for the node.
//!
//! Pure; time is an argument. The invariant: a tenant below its fair share of the node's rate is never held back,
//! whatever other tenants do. Events that are held back are counted by tenant and reason.

use std::collections::{BTreeMap, HashMap};

use agent_common::reason::DropReason;
use agent_common::tenant::TenantId;

use super::aggregate::FlowReport;

const SECOND: u64 = 1_000_000_000;
/// A tenant counts as active for this long after its last event.
const ACTIVE_NS: u64 = 10 * SECOND;
/// Tenants with a bucket of their own, at most. The others share the bucket of the unknown tenant. A node has fewer
/// tenants.
const TENANTS: usize = 1024;

/// Events a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rates {
    /// For one tenant.
    pub tenant: u32,
    /// For the node.
    pub node: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self { tenant: 100, node: 1000 }
    }
}

/// What was held back of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SuppressedCounts {
    /// Events.
    pub events: u64,
    /// Packets of these events.
    pub packets: u64,
    /// Events by reason.
    pub reasons: BTreeMap<DropReason, u64>,
}

/// The buckets.
#[derive(Debug)]
pub(crate) struct Limiter {
    rates: Rates,
    node: Bucket,
    tenants: HashMap<TenantId, Share>,
    held: BTreeMap<TenantId, SuppressedCounts>,
    active: usize,
    counted_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Share {
    own: Bucket,
    /// Fills at the node's rate divided by the number of active tenants. It is used before the node's bucket.
    assured: Bucket,
    last_ns: u64,
}

/// Tokens in billionths, so that a nanosecond at any rate is a whole number.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: i128,
    filled_ns: u64,
}

impl Limiter {
    /// All buckets start full.
    pub(crate) fn new(rates: Rates, now_ns: u64) -> Self {
        Self {
            node: Bucket::full(rates.node, now_ns),
            rates,
            tenants: HashMap::new(),
            held: BTreeMap::new(),
            active: 0,
            counted_ns: 0,
        }
    }

    /// Whether this event is within the rates. If not, it is counted as held back.
    pub(crate) fn admit(&mut self, report: &FlowReport, now_ns: u64) -> bool {
        let tenant = self.bucket_of(report.record.event.tenant);
        let admitted = self.take(tenant, now_ns);
        if !admitted {
            let held = self.held.entry(tenant).or_default();
            held.events += 1;
            held.packets = held.packets.saturating_add(report.count);
            *held.reasons.entry(report.record.reason).or_default() += 1;
        }
        admitted
    }

    /// What was held back since the last call.
    pub(crate) fn take_held(&mut self) -> BTreeMap<TenantId, SuppressedCounts> {
        std::mem::take(&mut self.held)
    }

    fn bucket_of(&self, tenant: TenantId) -> TenantId {
        let known = self.tenants.len() < TENANTS || self.tenants.contains_key(&tenant);
        if known { tenant } else { TenantId::UNKNOWN }
    }

    fn take(&mut self, tenant: TenantId, now_ns: u64) -> bool {
        let rates = self.rates;
        self.count_active(tenant, now_ns);
        let fair = (rates.node / u32::try_from(self.active.max(1)).unwrap_or(u32::MAX)).max(1);
        self.node.fill(rates.node, rates.node, now_ns);
        let share = self.tenants.entry(tenant).or_insert_with(|| Share {
            own: Bucket::full(rates.tenant, now_ns),
            assured: Bucket::full(fair, now_ns),
            last_ns: now_ns,
        });
        share.last_ns = now_ns;
        share.own.fill(rates.tenant, rates.tenant, now_ns);
        share.assured.fill(fair, fair, now_ns);
        if !share.own.has_one() {
            return false;
        }
        if share.assured.has_one() {
            share.assured.spend();
        } else if !self.node.has_one() {
            return false;
        }
        share.own.spend();
        // Assured events may take the node's bucket below zero. Other events then wait until it has filled again.
        self.node.spend();
        true
    }

    /// Counts the active tenants, once a second and when a tenant is new. Removes inactive tenants.
    fn count_active(&mut self, tenant: TenantId, now_ns: u64) {
        let new = !self.tenants.contains_key(&tenant);
        if new || now_ns.saturating_sub(self.counted_ns) >= SECOND {
            self.tenants.retain(|_, share| now_ns.saturating_sub(share.last_ns) < ACTIVE_NS);
            self.active = self.tenants.len() + usize::from(new);
            self.counted_ns = now_ns;
        }
    }
}

impl Bucket {
    fn full(size: u32, now_ns: u64) -> Self {
        Self { tokens: i128::from(size) * i128::from(SECOND), filled_ns: now_ns }
    }

    fn fill(&mut self, rate: u32, size: u32, now_ns: u64) {
        let elapsed = now_ns.saturating_sub(self.filled_ns);
        self.filled_ns = self.filled_ns.max(now_ns);
        let most = i128::from(size) * i128::from(SECOND);
        self.tokens = (self.tokens + i128::from(elapsed) * i128::from(rate)).clamp(-most, most);
    }

    fn has_one(&self) -> bool {
        self.tokens >= i128::from(SECOND)
    }

    fn spend(&mut self) {
        self.tokens -= i128::from(SECOND);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::fixtures::report;

    #[test]
    fn a_tenant_gets_its_burst_then_its_rate_and_the_rest_is_counted() {
        let mut limiter = Limiter::new(Rates { tenant: 10, node: 1000 }, 0);
        let admitted = (0..1000_u64).filter(|ms| limiter.admit(&report(1, 3), ms * 1_000_000)).count();
        assert!((19..=20).contains(&admitted), "{admitted} of a burst of 10 and a second at 10/s");
        let held = limiter.take_held();
        let held = &held[&TenantId(1)];
        assert_eq!((held.events, held.packets), (1000 - admitted as u64, 3 * (1000 - admitted as u64)));
        assert_eq!(held.reasons.values().sum::<u64>(), held.events);
        assert!(limiter.take_held().is_empty(), "reported once");
    }

    #[test]
    fn fifty_loud_tenants_do_not_hold_back_a_quiet_one() {
        let mut limiter = Limiter::new(Rates::default(), 0);
        let mut quiet = 0;
        let mut loud = 0;
        for step in 0..20_000_u64 {
            let now = step * 1_000_000;
            for tenant in 1..=50 {
                for _ in 0..5 {
                    loud += u64::from(limiter.admit(&report(tenant, 1), now));
                }
            }
            if step % 500 == 499 {
                assert!(limiter.admit(&report(99, 1), now), "step {step}");
                quiet += 1;
            }
        }
        assert_eq!(quiet, 40);
        assert!(loud <= 1000 * 20 + 2 * 1000, "{loud} events in twenty seconds at 1000/s");
        assert!(loud >= 1000 * 19, "{loud}: the node's rate is used");
    }

    #[test]
    fn more_tenants_than_buckets_share_one_and_nothing_grows() {
        let mut limiter = Limiter::new(Rates::default(), 0);
        for tenant in 1..5000 {
            limiter.admit(&report(tenant, 1), 0);
        }
        assert!(limiter.tenants.len() <= TENANTS + 1);
    }
}
