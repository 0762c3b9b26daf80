//! The sink behind `observe`: keeps the last events and passes new ones to its readers.
//!
//! Each reader has its own queue. A slow reader loses its oldest events and receives their number. Other readers are
//! not affected.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::queue::Queue;
use super::{Line, Sink};
use crate::events::filter::Filter;
use crate::events::stats::{EventStats, SinkStats, Stage};

/// Events kept, at most.
pub(crate) const KEPT: usize = 4096;
/// Events that wait for one reader, at most.
const READER_QUEUE: usize = 4096;

/// The last events and their readers.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<HubState>,
    own: Arc<SinkStats>,
    stats: Arc<EventStats>,
}

#[derive(Debug, Default)]
struct HubState {
    kept: VecDeque<Arc<Line>>,
    readers: Vec<Reader>,
}

#[derive(Debug)]
struct Reader {
    filter: Filter,
    queue: Arc<Queue>,
}

/// The subscription of one reader. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct EventSubscription {
    /// The events after the history.
    pub queue: Arc<Queue>,
}

impl Drop for EventSubscription {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Hub {
    /// A hub without events or readers.
    pub(crate) fn new(stats: &Arc<EventStats>) -> Self {
        Self { state: Mutex::default(), own: stats.sink("socket"), stats: Arc::clone(stats) }
    }

    /// The last `last` events that pass the filter, oldest first.
    pub(crate) fn history(&self, filter: &Filter, last: usize) -> Vec<Arc<Line>> {
        self.lock().history(filter, last)
    }

    /// The history, and a subscription to all later events. Each event is in exactly one of the two.
    pub(crate) fn follow(&self, filter: Filter, last: usize) -> (Vec<Arc<Line>>, EventSubscription) {
        let queue = Arc::new(Queue::new(READER_QUEUE));
        let mut state = self.lock();
        let history = state.history(&filter, last);
        state.readers.retain(|reader| !reader.queue.is_closed());
        state.readers.push(Reader { filter, queue: Arc::clone(&queue) });
        (history, EventSubscription { queue })
    }

    /// Number of readers.
    #[cfg(test)]
    pub(crate) fn readers(&self) -> usize {
        let mut state = self.lock();
        state.readers.retain(|reader| !reader.queue.is_closed());
        state.readers.len()
    }

    fn lock(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HubState {
    fn history(&self, filter: &Filter, last: usize) -> Vec<Arc<Line>> {
        let mut lines: Vec<_> =
            self.kept.iter().rev().filter(|line| filter.admits(&line.event)).take(last).cloned().collect();
        lines.reverse();
        lines
    }
}

impl Sink for Hub {
    fn offer(&self, line: &Arc<Line>) {
        let mut state = self.lock();
        if state.kept.len() >= KEPT {
            state.kept.pop_front();
        }
        state.kept.push_back(Arc::clone(line));
        state.readers.retain(|reader| !reader.queue.is_closed());
        for reader in state.readers.iter().filter(|reader| reader.filter.admits(&line.event)) {
            self.stats.lost(Stage::Observer).add(reader.queue.push(Arc::clone(line)));
        }
        drop(state);
        self.own.taken.add(1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.own.last_ns.raise(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    }

    fn close(&self) {
        self.lock().readers.drain(..).for_each(|reader| reader.queue.close());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::fixtures;
    use crate::events::schema::Body;

    fn counts(lines: &[Arc<Line>]) -> Vec<u64> {
        lines
            .iter()
            .map(|line| match &line.event.body {
                Body::Violation(violation) => violation.count,
                _ => 0,
            })
            .collect()
    }

    #[test]
    fn a_reader_gets_the_last_events_and_then_each_new_one_once() {
        let hub = Hub::new(&Arc::default());
        (1..=5000).for_each(|count| hub.offer(&fixtures::line(count)));
        let (history, subscription) = hub.follow(Filter::default(), 2);
        hub.offer(&fixtures::line(5001));
        assert_eq!(counts(&history), [4999, 5000]);
        assert_eq!(counts(&subscription.queue.take_blocking(10).lines), [5001]);
        assert_eq!(hub.history(&Filter::default(), usize::MAX).len(), KEPT);
    }

    #[test]
    fn a_slow_reader_loses_its_oldest_and_a_quick_one_nothing() {
        let stats = Arc::new(EventStats::default());
        let hub = Hub::new(&stats);
        let (_, slow) = hub.follow(Filter::default(), 0);
        let (_, quick) = hub.follow(Filter::default(), 0);
        let mut seen = 0;
        let line = fixtures::line(1);
        for _ in 0..READER_QUEUE + 100 {
            hub.offer(&line);
            seen += quick.queue.take_blocking(10).lines.len();
        }
        assert_eq!(seen, READER_QUEUE + 100);
        let batch = slow.queue.take_blocking(usize::MAX);
        assert_eq!((batch.lost, batch.lines.len()), (100, READER_QUEUE));
        assert_eq!(stats.lost(Stage::Observer).get(), 100);
    }

    #[test]
    fn a_reader_that_leaves_is_forgotten() {
        let hub = Hub::new(&Arc::default());
        let (_, subscription) = hub.follow(Filter::default(), 0);
        assert_eq!(hub.readers(), 1);
        drop(subscription);
        assert_eq!(hub.readers(), 0);
    }
}
