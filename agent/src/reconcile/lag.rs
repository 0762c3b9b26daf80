//! How long news take until the kernel holds them.
//!
//! Knows what news are about and when they were seen; knows neither what they say nor what was written.

use std::collections::BTreeMap;
use std::time::Duration;

use policy::model::input::{Change, Subject};

/// A change, and when it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// What changed.
    pub change: Change,
    /// Ticks of the loop's clock when it was seen.
    pub seen: Duration,
}

/// The oldest news of each kind that the kernel may not hold yet.
#[derive(Debug, Default)]
pub struct Lag(BTreeMap<Subject, Duration>);

impl Lag {
    /// Something was seen.
    pub fn note(&mut self, news: &News) {
        if let Some(subject) = news.change.subject() {
            let oldest = self.0.entry(subject).or_insert(news.seen);
            *oldest = news.seen.min(*oldest);
        }
    }

    /// Everything is written; how long the oldest of each kind took.
    pub fn end(&mut self, now: Duration) -> impl Iterator<Item = (Subject, Duration)> + use<> {
        std::mem::take(&mut self.0).into_iter().map(move |(subject, seen)| (subject, now.saturating_sub(seen)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(change: Change, seen: u64) -> News {
        News { change, seen: Duration::from_secs(seen) }
    }

    #[test]
    fn the_oldest_of_each_kind_counts_once() {
        let mut lag = Lag::default();
        lag.note(&news(Change::TenantGone("acme".into()), 7));
        lag.note(&news(Change::TenantGone("globex".into()), 3));
        lag.note(&news(Change::NamespaceGone("web".into()), 9));
        lag.note(&news(Change::Links(Vec::new()), 1));
        let took: Vec<_> = lag.end(Duration::from_secs(10)).collect();
        assert_eq!(took, [(Subject::Tenant, Duration::from_secs(7)), (Subject::Namespace, Duration::from_secs(1))]);
        assert_eq!(lag.end(Duration::from_secs(11)).count(), 0);
    }
}
