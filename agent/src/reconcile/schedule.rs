//! When a step is due without changes: retries, the slow sweep over all addresses, the regular round.
//!
//! Time is an argument. A retry that is due is never put off by new failures.

use std::time::Duration;

use policy::model::address_index::SHARDS;

/// Everything is compared with the kernel once in this time, even without changes.
pub(crate) const ROUND: Duration = Duration::from_secs(30);
/// The same, while another program was found before one of ours: it may come again.
pub(crate) const CONFIRM: Duration = Duration::from_secs(5);
/// Addresses in one step of the slow sweep, which takes a few milliseconds.
const STRIDE: usize = 2048;
/// Addresses in one step while some are known to wait for space.
const FAST_STRIDE: usize = 8192;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// A point in time, on two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// Seconds since 1970, the clock of objects. May jump.
    pub unix: i64,
    /// Time since some start, which measures pauses. Never goes back.
    pub tick: Duration,
}

/// Growing pauses between attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
    due: Option<Duration>,
}

impl Backoff {
    /// Records the end of an attempt at everything that is owed.
    pub(crate) fn ended(&mut self, failed: bool, tick: Duration) {
        *self = Self { due: None, ..*self };
        if !failed {
            return *self = Self::default();
        }
        self.failed(tick);
    }

    /// Records a failure. An attempt that is already scheduled keeps its time, or steady changes would put it off for
    /// ever.
    pub(crate) fn failed(&mut self, tick: Duration) {
        if self.due.is_some() {
            return;
        }
        let pause = FIRST_RETRY.saturating_mul(1 << self.failures.min(16)).min(LAST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.due = Some(tick + pause);
    }

    /// When the next attempt is due, if one is scheduled.
    pub(crate) const fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Whether an attempt is due now.
    pub(crate) fn is_due(&self, tick: Duration) -> bool {
        self.due.is_some_and(|due| due <= tick)
    }
}

/// Visits all shards of the address index in turn, some at each step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sweep {
    at: usize,
    due: Duration,
    hurried: usize,
}

impl Sweep {
    /// Makes one full round without pauses, because an address waits for space.
    pub(crate) fn hurry(&mut self, tick: Duration) {
        self.hurried = SHARDS;
        self.due = tick;
    }

    /// Whether a round without pauses is not over yet.
    pub(crate) const fn is_hurried(&self) -> bool {
        self.hurried > 0
    }

    /// When the next shards are due.
    pub(crate) const fn due(&self) -> Duration {
        self.due
    }

    /// The shards that are due now, given the number of addresses.
    pub(crate) fn stride(&mut self, addresses: usize, tick: Duration) -> impl Iterator<Item = usize> + use<> {
        let size = if self.hurried > 0 { FAST_STRIDE } else { STRIDE };
        let shards = if self.due > tick { 0 } else { (size * SHARDS / addresses.max(1)).clamp(1, SHARDS) };
        let from = self.at;
        if shards > 0 {
            self.at = (from + shards) % SHARDS;
            self.hurried = self.hurried.saturating_sub(shards);
            self.due = if self.hurried > 0 { tick } else { tick + ROUND * shards as u32 / SHARDS as u32 };
        }
        (from..from + shards).map(|shard| shard % SHARDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_success_resets_them() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..40)
            .map(|_| {
                backoff.ended(true, ms(5));
                backoff.due().expect("an attempt") - ms(5)
            })
            .collect();
        assert_eq!(pauses[..3], [ms(100), ms(200), ms(400)]);
        assert_eq!(pauses.last(), Some(&LAST_RETRY));
        assert!(!backoff.is_due(ms(6)) && backoff.is_due(ms(30_005)));
        backoff.ended(false, ms(7));
        assert_eq!((backoff.due(), backoff.failures), (None, 0));
    }

    #[test]
    fn a_second_failure_does_not_put_off_the_next_attempt() {
        let mut backoff = Backoff::default();
        backoff.failed(ms(0));
        backoff.failed(ms(90));
        assert!(backoff.is_due(ms(100)));
    }

    #[test]
    fn one_round_visits_every_slice() {
        for addresses in [0, 1, 2048, 100_000, 3_000_000] {
            let (mut sweep, mut seen, mut tick) = (Sweep::default(), vec![0; SHARDS], Duration::ZERO);
            while tick < ROUND {
                sweep.stride(addresses, tick).for_each(|shard| seen[shard] += 1);
                assert!(sweep.due() > tick);
                tick = sweep.due();
            }
            // The last stride may reach into the next round.
            assert!(seen.iter().all(|times| (1..=2).contains(times)), "{addresses}: {seen:?}");
        }
    }

    #[test]
    fn no_slice_is_visited_before_it_is_due() {
        let mut sweep = Sweep::default();
        assert_eq!(sweep.stride(10, ms(0)).count(), SHARDS);
        assert_eq!(sweep.stride(10, ms(1)).count(), 0);
        sweep.hurry(ms(1));
        assert_eq!(sweep.stride(10, ms(1)).count(), SHARDS);
        assert!(sweep.due() > ms(1), "a hurried round ends");
    }
}
