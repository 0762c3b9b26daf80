//! Sinks: where events go.
//!
//! Offering an event never waits. The queue of a sink that hangs fills up. Then its oldest events are lost and counted.

pub(crate) mod hub;
pub(crate) mod queue;
pub(crate) mod writer;

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::schema::Event;

/// Events that wait for one sink, at most.
pub(crate) const QUEUE: usize = 8192;

/// An event and its line, encoded once for all sinks. The line ends with a line feed.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The event, for filters.
    pub event: Event,
    /// Its JSON.
    pub json: Bytes,
}

/// A receiver of events.
pub(crate) trait Sink: Send + Sync {
    /// Takes an event without waiting.
    fn offer(&self, line: &Arc<Line>);
    /// Ends the sink. May wait a moment until the events in its queue are written.
    fn close(&self) {}
}

impl Line {
    /// Encodes an event. JSON strings escape every control character, so one event is one line
    /// whatever the cluster's names contain.
    pub(crate) fn new(event: Event) -> Result<Self, serde_json::Error> {
        let mut writer = BytesMut::with_capacity(1024).writer();
        serde_json::to_writer(&mut writer, &event)?;
        let mut json = writer.into_inner();
        json.put_u8(b'\n');
        Ok(Self { event, json: json.freeze() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::fixtures;
    use crate::events::schema::Body;

    #[test]
    fn a_name_with_a_line_feed_in_it_does_not_make_a_second_event() {
        let mut event = fixtures::event(1);
        let Body::Violation(violation) = &mut event.body else { panic!("a violation") };
        violation.source.pod = Some("x\n{\"type\":\"state\"}\u{1b}[2J\"".into());
        let line = Line::new(event.clone()).expect("JSON");
        assert_eq!(line.json.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert!(
            line.json.iter().all(|byte| *byte >= b' ' || *byte == b'\n'),
            "no control character reaches a terminal"
        );
        assert_eq!(serde_json::from_slice::<Event>(&line.json).expect("the same event"), event);
    }
}
