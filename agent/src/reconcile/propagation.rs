//! How long changes take until the kernel holds them.
//!
//! Knows the kind of each change and when it was observed; knows neither its content nor what was written.

use std::collections::BTreeMap;
use std::time::Duration;

use policy::model::input::{Change, Subject};

/// A change and the time of its observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimedChange {
    /// The change.
    pub change: Change,
    /// Tick of the loop's clock when it was observed.
    pub seen: Duration,
}

/// The oldest change of each kind that the kernel may not hold yet.
#[derive(Debug, Default)]
pub(crate) struct Propagation(BTreeMap<Subject, Duration>);

impl Propagation {
    /// Takes in a change.
    pub(crate) fn seen(&mut self, timed: &TimedChange) {
        if let Some(subject) = timed.change.subject() {
            let oldest = self.0.entry(subject).or_insert(timed.seen);
            *oldest = timed.seen.min(*oldest);
        }
    }

    /// Everything is written: returns how long the oldest change of each kind took, and starts over.
    pub(crate) fn finish(&mut self, now: Duration) -> impl Iterator<Item = (Subject, Duration)> + use<> {
        std::mem::take(&mut self.0).into_iter().map(move |(subject, seen)| (subject, now.saturating_sub(seen)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(change: Change, seen: u64) -> TimedChange {
        TimedChange { change, seen: Duration::from_secs(seen) }
    }

    #[test]
    fn the_oldest_of_each_kind_counts_once() {
        let mut propagation = Propagation::default();
        propagation.seen(&timed(Change::TenantGone("acme".into()), 7));
        propagation.seen(&timed(Change::TenantGone("globex".into()), 3));
        propagation.seen(&timed(Change::NamespaceGone("web".into()), 9));
        propagation.seen(&timed(Change::Links(Vec::new()), 1));
        let took: Vec<_> = propagation.finish(Duration::from_secs(10)).collect();
        assert_eq!(took, [(Subject::Tenant, Duration::from_secs(7)), (Subject::Namespace, Duration::from_secs(1))]);
        assert_eq!(propagation.finish(Duration::from_secs(11)).count(), 0);
    }
}
