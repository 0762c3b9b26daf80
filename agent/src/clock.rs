//! The two clocks that kernel records, grants and messages use.
//!
//! The programs know only the monotonic clock. The time of day may jump, so it is an offset that is read anew.

use rustix::time::{ClockId, clock_gettime};

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    /// Monotonic time in nanoseconds: the clock of the programs.
    pub monotonic_ns: u64,
    /// Add this to monotonic time for nanoseconds since 1970.
    pub offset_ns: u64,
}

impl Clock {
    /// Reads both.
    pub(crate) fn now() -> Self {
        let nanos = |id| {
            let time = clock_gettime(id);
            u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
        };
        let monotonic_ns = nanos(ClockId::Monotonic);
        Self { monotonic_ns, offset_ns: nanos(ClockId::Realtime).saturating_sub(monotonic_ns) }
    }
}
