//! What tests of several modules share. Compiled for tests only.

use std::io;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Event, Metadata, Subscriber, level_filters::LevelFilter, span};

/// What this thread logs at level `info` and above while the guard of [`CapturedLog::start`] lives.
///
/// `tracing` decides once per call site whether anything listens to it. While only one subscriber exists, the first
/// thread that reaches the call site decides for all: a thread of another test, which has no subscriber, then silences
/// it here as well. With a second subscriber, `tracing` asks each thread anew. [`Never`] is that second subscriber.
#[derive(Clone, Default)]
pub(crate) struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl CapturedLog {
    /// Captures from here on.
    #[expect(clippy::disallowed_methods, reason = "the second subscriber exists before this one")]
    pub(crate) fn start() -> (Self, DefaultGuard) {
        static SECOND: OnceLock<Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| Dispatch::new(Never));
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// How often the text was logged.
    pub(crate) fn times(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).matches(text).count()
    }
}

impl Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A subscriber that wants nothing.
struct Never;

impl Subscriber for Never {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    /// Without this, `tracing` asks call sites of every level before any test captures.
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::OFF)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_a_subscriber_that_logs_first_silences_nothing() {
        let (log, _guard) = CapturedLog::start();
        let say = || tracing::info!("one call site of two threads");
        std::thread::spawn(say).join().expect("no panic");
        assert_eq!(log.times("one call site"), 0, "another thread's log is not captured");
        say();
        assert_eq!(log.times("one call site"), 1);
    }
}
