//! A bounded queue on which the writer never waits.
//!
//! When it is full, the oldest event is lost and counted. The queue does not know who writes or reads.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Line;

/// One reader's queue.
#[derive(Debug)]
pub(crate) struct Queue {
    capacity: usize,
    state: Mutex<QueueState>,
    filled: Condvar,
    filled_async: Notify,
}

/// Events that a reader has taken.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Events, oldest first.
    pub lines: Vec<Arc<Line>>,
    /// Events lost since the batch before.
    pub lost: u64,
    /// No more events follow.
    pub closed: bool,
}

#[derive(Debug, Default)]
struct QueueState {
    lines: VecDeque<Arc<Line>>,
    lost: u64,
    closed: bool,
}

impl Queue {
    /// A queue for this many events, and for at least one.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), state: Mutex::default(), filled: Condvar::new(), filled_async: Notify::new() }
    }

    /// Adds an event; returns how many events were lost. A closed queue loses the new event.
    pub(crate) fn push(&self, line: Arc<Line>) -> u64 {
        let mut state = self.lock();
        if state.closed {
            return 1;
        }
        let mut lost = 0;
        while state.lines.len() >= self.capacity {
            state.lines.pop_front();
            lost += 1;
        }
        state.lost += lost;
        state.lines.push_back(line);
        drop(state);
        self.wake();
        lost
    }

    /// Waits until there are events or the queue is closed. Blocks the thread.
    pub(crate) fn take_blocking(&self, most: usize) -> Batch {
        let mut state = self.lock();
        while state.lines.is_empty() && !state.closed {
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.take(most)
    }

    /// The same in a task.
    pub(crate) async fn take(&self, most: usize) -> Batch {
        loop {
            let filled = self.filled_async.notified();
            let ready = {
                let mut state = self.lock();
                (!state.lines.is_empty() || state.closed).then(|| state.take(most))
            };
            match ready {
                Some(batch) => return batch,
                None => filled.await,
            }
        }
    }

    /// Refuses further events. Events in the queue may still be taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake();
    }

    /// Whether the queue was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Number of events in the queue.
    pub(crate) fn len(&self) -> usize {
        self.lock().lines.len()
    }

    fn wake(&self) {
        self.filled.notify_one();
        self.filled_async.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn take(&mut self, most: usize) -> Batch {
        let count = self.lines.len().min(most);
        Batch {
            lines: self.lines.drain(..count).collect(),
            lost: std::mem::take(&mut self.lost),
            closed: self.closed && self.lines.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::fixtures;

    #[test]
    fn a_full_queue_loses_the_oldest_and_counts_them() {
        let queue = Queue::new(3);
        let lost: u64 = (1..=5).map(|count| queue.push(fixtures::line(count))).sum();
        let batch = queue.take_blocking(10);
        let first = serde_json::from_slice::<serde_json::Value>(&batch.lines[0].json).expect("JSON");
        assert_eq!((lost, batch.lost, batch.lines.len()), (2, 2, 3));
        assert_eq!(first["count"], 3);
        assert!(!batch.closed);
    }

    #[test]
    fn a_closed_queue_gives_what_waits_and_then_ends() {
        let queue = Queue::new(3);
        queue.push(fixtures::line(1));
        queue.close();
        assert_eq!(queue.push(fixtures::line(2)), 1, "counted as lost");
        let batch = queue.take_blocking(10);
        assert_eq!((batch.lines.len(), batch.closed), (1, true));
    }
}
