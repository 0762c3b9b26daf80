//! A sink that writes events as JSON lines to a writer: stdout.
//!
//! It has its own thread, because writing to a pipe blocks while nobody reads. A blocked thread delays neither the
//! event path nor the end of the process. If stdout is closed, events are counted as lost and the agent continues,
//! because the kernel still enforces.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Buf as _, BytesMut};

use super::queue::Queue;
use super::{Line, QUEUE, Sink};
use crate::events::stats::{EventStats, SinkStats, Stage};

/// Events written between two flushes, at most.
const BATCH: usize = 256;
/// How long `close` waits for a slow reader.
const PATIENCE: Duration = Duration::from_secs(2);

/// The sink, with the thread that writes.
#[derive(Debug)]
pub(crate) struct WriterSink {
    queue: Arc<Queue>,
    own: Arc<SinkStats>,
    stats: Arc<EventStats>,
    thread: JoinHandle<()>,
}

impl WriterSink {
    /// Starts the thread. It ends with `close`, or with the process.
    pub(crate) fn start(
        name: &'static str,
        writer: impl Write + Send + 'static,
        stats: &Arc<EventStats>,
    ) -> std::io::Result<Self> {
        Self::with_queue(name, writer, stats, QUEUE)
    }

    /// The same with a queue of this length.
    pub(crate) fn with_queue(
        name: &'static str,
        mut writer: impl Write + Send + 'static,
        stats: &Arc<EventStats>,
        length: usize,
    ) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::new(length));
        let own = stats.sink(name);
        let (source, numbers, losses) = (Arc::clone(&queue), Arc::clone(&own), Arc::clone(stats));
        let thread = thread::Builder::new().name(format!("sink-{name}")).spawn(move || {
            let mut buffer = BytesMut::with_capacity(64 * 1024);
            loop {
                let batch = source.take_blocking(BATCH);
                numbers.queued.store(source.len() as u64, Ordering::Relaxed);
                if !batch.lines.is_empty() {
                    write(&mut writer, &mut buffer, &batch.lines, &numbers, &losses);
                }
                if batch.closed {
                    break;
                }
            }
        })?;
        Ok(Self { queue, own, stats: Arc::clone(stats), thread })
    }
}

/// Writes a batch and counts what became of it.
fn write(writer: &mut impl Write, buffer: &mut BytesMut, lines: &[Arc<Line>], own: &SinkStats, stats: &EventStats) {
    buffer.clear();
    for line in lines {
        buffer.extend_from_slice(&line.json);
    }
    let written = write_all(writer, buffer);
    // A line that an error cut off does not count as written.
    let mut left = written;
    let taken = lines.iter().take_while(|line| take(&mut left, line.json.len())).count() as u64;
    let refused = lines.len() as u64 - taken;
    own.taken.add(taken);
    own.refused.add(refused);
    stats.lost(Stage::Sink).add(refused);
    if taken > 0 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        own.last_ns.raise(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Writes and flushes; returns how many bytes the writer took.
fn write_all(writer: &mut impl Write, buffer: &mut BytesMut) -> usize {
    let all = buffer.len();
    while buffer.has_remaining() {
        match writer.write(buffer.chunk()) {
            Ok(0) => break,
            Ok(count) => buffer.advance(count),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let flushed = writer.flush().is_ok();
    if flushed || buffer.has_remaining() { all - buffer.remaining() } else { 0 }
}

fn take(left: &mut usize, length: usize) -> bool {
    let fits = *left >= length;
    *left = left.saturating_sub(length);
    fits
}

impl Sink for WriterSink {
    fn offer(&self, line: &Arc<Line>) {
        let lost = self.queue.push(Arc::clone(line));
        self.stats.lost(Stage::Queue).add(lost);
        self.own.queued.store(self.queue.len() as u64, Ordering::Relaxed);
    }

    fn close(&self) {
        self.queue.close();
        let deadline = Instant::now() + PATIENCE;
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::fixtures;
    use std::io;
    use std::sync::Mutex;

    /// Takes this many bytes, then refuses.
    #[derive(Clone)]
    struct Pipe(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut pipe = self.0.lock().expect("a lock");
            let count = bytes.len().min(pipe.1);
            if count == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            pipe.1 -= count;
            pipe.0.extend_from_slice(&bytes[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Never returns.
    struct Stuck;

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            loop {
                thread::park();
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// How often this thread gave up its CPU to wait for something. The load of the machine does not change it.
    fn waits() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("a thread's status");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("a count");
        count.trim().parse().expect("a number")
    }

    fn settle(stats: &SinkStats, total: u64) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while stats.taken.get() + stats.refused.get() < total && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn every_event_is_one_line_in_order() {
        let stats = Arc::new(EventStats::default());
        let pipe = Pipe(Arc::new(Mutex::new((Vec::new(), usize::MAX))));
        let sink = WriterSink::start("stdout", pipe.clone(), &stats).expect("a thread");
        (1..=600).for_each(|count| sink.offer(&fixtures::line(count)));
        sink.close();
        settle(&sink.own, 600);
        let written = pipe.0.lock().expect("a lock").0.clone();
        let counts: Vec<u64> = String::from_utf8(written)
            .expect("UTF-8")
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).expect("JSON")["count"].as_u64().expect("a count")
            })
            .collect();
        assert_eq!(counts, (1..=600).collect::<Vec<_>>());
        assert_eq!((sink.own.taken.get(), stats.lost_total()), (600, 0));
    }

    #[test]
    fn a_closed_stdout_loses_events_that_are_counted_exactly() {
        let stats = Arc::new(EventStats::default());
        let line = fixtures::line(1);
        let limit = line.json.len() * 2 + 10;
        let sink =
            WriterSink::start("stdout", Pipe(Arc::new(Mutex::new((Vec::new(), limit)))), &stats).expect("a thread");
        (0..10).for_each(|_| sink.offer(&line));
        settle(&sink.own, 10);
        assert_eq!((sink.own.taken.get(), sink.own.refused.get()), (2, 8));
        assert_eq!(stats.lost(Stage::Sink).get(), 8);
    }

    #[test]
    fn a_sink_that_hangs_does_not_make_its_writer_wait() {
        let stats = Arc::new(EventStats::default());
        let sink = WriterSink::with_queue("stdout", Stuck, &stats, 16).expect("a thread");
        let line = fixtures::line(1);
        let before = waits();
        (0..100_000).for_each(|_| sink.offer(&line));
        let waited = waits() - before;
        assert!(waited < 1000, "{waited} of 100000 calls waited");
        let lost = stats.lost(Stage::Queue).get();
        assert!((100_000 - 16 - BATCH as u64..=100_000 - 16).contains(&lost), "{lost}");
    }
}
