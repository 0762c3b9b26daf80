//! The event loop on a source that is two vectors.
//!
//! Tests `run` only: each stage of the event path has its own tests. Needs no kernel.

use std::convert::Infallible;
use std::sync::Mutex;

use agent_common::event::FlowEvent;
use zerocopy::IntoBytes as _;

use super::aggregate::AggregatorBounds;
use super::enrich::Enricher;
use super::fixtures::{FixtureNames, flow};
use super::limit::Rates;
use super::schema::{AgentStateChange, Body};
use super::sink::{Line, Sink};
use super::stats::EventStats;
use super::*;

#[derive(Default)]
struct Kept {
    lines: Mutex<Vec<Arc<Line>>>,
    closed: Mutex<bool>,
}

impl Sink for Kept {
    fn offer(&self, line: &Arc<Line>) {
        self.lines.lock().expect("a lock").push(Arc::clone(line));
    }
    fn close(&self) {
        *self.closed.lock().expect("a lock") = true;
    }
}

/// Records that wait, and an aggregation table with a higher count.
struct Maps {
    records: Vec<FlowEvent>,
    table: Vec<AggregateEntry>,
}

impl RecordSource for Maps {
    type Error = Infallible;

    async fn ready(&mut self) -> Result<(), Infallible> {
        if self.records.is_empty() { std::future::pending().await } else { Ok(()) }
    }

    fn drain(&mut self, most: usize, each: &mut dyn FnMut(&[u8])) -> usize {
        let count = self.records.len().min(most);
        self.records.drain(..count).for_each(|record| each(record.as_bytes()));
        count
    }

    fn sweep(&mut self) -> Result<Vec<AggregateEntry>, Infallible> {
        Ok(self.table.clone())
    }

    fn held_back(&mut self, _: u16) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn losses(&mut self) -> Result<[u64; Loss::LEN as usize], Infallible> {
        Ok([4, 0, 3, 2])
    }
}

#[tokio::test]
async fn at_the_end_what_waits_is_reported_and_the_sinks_are_closed() {
    let (kept, stats) = (Arc::new(Kept::default()), Arc::new(EventStats::default()));
    let fresh = FlowEvent { first_ns: u64::MAX - 1, last_ns: u64::MAX - 1, ..flow(1) };
    let entry = AggregateEntry { event: FlowEvent { count: 90, ..fresh }, ..AggregateEntry::default() };
    let source = Maps { records: vec![fresh], table: vec![entry] };
    let enricher = Enricher::new("node".into(), None, Arc::new(FixtureNames));
    let settings = (AggregatorBounds { windows: 10, seen: 10 }, Rates::default());
    let pipeline =
        Pipeline::new(enricher, vec![kept.clone()], Arc::clone(&stats), settings, std::iter::empty(), Clock::now());
    let (notices, receiver) = mpsc::channel(4);
    let started = StateNotice {
        state: AgentStateChange::AgentStarted,
        mode: None,
        tenant: None,
        unprotected: None,
        revision: None,
        message: "started".into(),
    };
    notices.send(started).await.expect("a receiver");
    drop(notices);

    run(source, pipeline, receiver).await;

    let lines = kept.lines.lock().expect("a lock");
    let packets: u64 = lines
        .iter()
        .map(|line| match &line.event.body {
            Body::Violation(violation) => violation.count,
            _ => 0,
        })
        .sum();
    assert_eq!(packets, 90, "the last count is reported, though no record carried it");
    assert!(lines.iter().any(|line| matches!(&line.event.body, Body::State(_))));
    assert!(*kept.closed.lock().expect("a lock"));
    assert_eq!(stats.lost(stats::Stage::RingBuffer).get(), 4);
    assert_eq!((stats.reply_evictions.get(), stats.pull_failures.get()), (3, 2));
}
