//! Names as they were when the packet was dropped.
//!
//! An event gets its names a little later than the packet, and an address may have another owner by then. So the last
//! snapshots are kept, each with its time. They share what did not change, so keeping them is cheap. Reads no clock:
//! times are arguments.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use agent_common::tenant::TenantId;

use super::enrich::{Named, Names, TenantNamed};

/// Snapshots kept. With `DISTANCE_NS` between them, they cover about half a minute of constant change.
const KEPT: usize = 32;
/// Least time between two kept snapshots. Only the newest may be closer to the one before it.
const DISTANCE_NS: u64 = 1_000_000_000;

/// The last snapshots.
#[derive(Debug)]
pub(crate) struct History<S> {
    kept: RwLock<VecDeque<(u64, Arc<S>)>>,
}

impl<S> Default for History<S> {
    fn default() -> Self {
        Self { kept: RwLock::default() }
    }
}

impl<S: Names> History<S> {
    /// Adds a snapshot that is valid from `now_ns` on, monotonic clock.
    pub(crate) fn push(&self, snapshot: Arc<S>, now_ns: u64) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        // The new snapshot replaces the newest one if the one before that is too recent.
        let crowded = kept.len() > 1
            && kept.iter().nth_back(1).is_some_and(|(before, _)| now_ns.saturating_sub(*before) < DISTANCE_NS);
        if crowded || kept.len() >= KEPT {
            if crowded {
                kept.pop_back()
            } else {
                kept.pop_front()
            };
        }
        kept.push_back((now_ns, snapshot));
    }

    /// The first result: from the snapshot of that time, then from later ones, because the kernel may be ahead of them.
    /// Then from earlier ones, because the kernel may be behind.
    fn find<T>(&self, at_ns: u64, lookup: impl Fn(&S) -> Option<T>) -> Option<T> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let then = kept.iter().rposition(|(from, _)| *from <= at_ns).unwrap_or(0);
        let later = kept.iter().skip(then);
        let earlier = kept.iter().take(then).rev();
        later.chain(earlier).find_map(|(_, snapshot)| lookup(snapshot))
    }
}

impl<S: Names> Names for History<S> {
    // A cookie names one claim for ever. A tenant's number is not reused while anything refers to it. So the newest
    // result is right.
    fn endpoint(&self, ifindex: u32, cookie: u32) -> Option<Named> {
        self.find(u64::MAX, |names| names.endpoint(ifindex, cookie))
    }

    fn address(&self, address: IpAddr, at_ns: u64) -> Option<Named> {
        self.find(at_ns, |names| names.address(address, at_ns))
    }

    fn tenant(&self, id: TenantId) -> Option<TenantNamed> {
        self.find(u64::MAX, |names| names.tenant(id))
    }

    fn rule(&self, tenant: TenantId, address: IpAddr) -> Option<String> {
        self.find(u64::MAX, |names| names.rule(tenant, address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// The pod that has the one address, if any.
    struct One(Option<&'static str>);

    impl Names for One {
        fn endpoint(&self, _: u32, _: u32) -> Option<Named> {
            self.address(IpAddr::from([10, 0, 0, 1]), 0)
        }
        fn address(&self, _: IpAddr, _: u64) -> Option<Named> {
            self.0.map(|pod| Named { pod: Some(pod.into()), ..Named::default() })
        }
        fn tenant(&self, _: TenantId) -> Option<TenantNamed> {
            None
        }
        fn rule(&self, _: TenantId, _: IpAddr) -> Option<String> {
            None
        }
    }

    fn history(steps: &[(u64, Option<&'static str>)]) -> History<One> {
        let history = History::default();
        steps.iter().for_each(|(at, pod)| history.push(Arc::new(One(*pod)), *at));
        history
    }

    fn at(history: &History<One>, at_ns: u64) -> Option<String> {
        history.address(IpAddr::from([10, 0, 0, 1]), at_ns)?.pod
    }

    #[test]
    fn a_reused_address_is_named_as_of_the_drop() {
        let history = history(&[(0, Some("old")), (5 * SECOND, None), (9 * SECOND, Some("new"))]);
        assert_eq!(at(&history, 4 * SECOND).as_deref(), Some("old"));
        assert_eq!(at(&history, 9 * SECOND).as_deref(), Some("new"));
        assert_eq!(history.endpoint(1, 1).and_then(|named| named.pod).as_deref(), Some("new"));
    }

    #[test]
    fn a_pod_that_has_just_left_is_still_named() {
        let history = history(&[(0, Some("old")), (5 * SECOND, None)]);
        assert_eq!(at(&history, 6 * SECOND).as_deref(), Some("old"));
        assert_eq!(at(&History::default(), 0), None);
    }

    #[test]
    fn many_changes_keep_an_old_snapshot_and_the_newest() {
        let history = history(&[(0, Some("old"))]);
        for step in 1..10_000_u64 {
            history.push(Arc::new(One(Some("new"))), 5 * SECOND + step * 1_000_000);
        }
        let kept = history.kept.read().expect("a lock").len();
        assert!((10..=KEPT).contains(&kept), "{kept}");
        assert_eq!(at(&history, SECOND).as_deref(), Some("old"));
        assert_eq!(at(&history, 60 * SECOND).as_deref(), Some("new"));
    }
}
