//! When to look again without being told: retries, the slow sweep over all addresses, the regular
//! look at everything small. Time comes in as an argument.

use std::time::Duration;

use policy::model::book::SLICES;

/// Everything is looked at once in this time, told or not.
pub const ROUND: Duration = Duration::from_secs(30);
/// Addresses one step of the slow sweep looks at: a few milliseconds.
const STRIDE: usize = 2048;
/// Addresses one step looks at while new ones are known to wait.
const FAST_STRIDE: usize = 8192;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// A point in time, told twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Seconds since 1970: what objects speak of. May jump.
    pub unix: i64,
    /// Since some start: what pauses are measured by. Never goes back.
    pub tick: Duration,
}

/// Growing pauses between attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    due: Option<Duration>,
}

impl Backoff {
    /// An attempt at everything that is owed ended.
    pub fn ended(&mut self, failed: bool, tick: Duration) {
        *self = Self { due: None, ..*self };
        if !failed {
            return *self = Self::default();
        }
        self.failed(tick);
    }

    /// Something failed. An attempt that is already due some time stays due then, or steady news
    /// would put it off for ever.
    pub fn failed(&mut self, tick: Duration) {
        if self.due.is_some() {
            return;
        }
        let pause = FIRST_RETRY.saturating_mul(1 << self.failures.min(16)).min(LAST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.due = Some(tick + pause);
    }

    /// When the next attempt is due, if one is.
    pub const fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Whether it is due now.
    pub fn is_due(&self, tick: Duration) -> bool {
        self.due.is_some_and(|due| due <= tick)
    }

    /// Attempts that failed in a row.
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

/// Goes round all slices of the address book, a stride at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    at: usize,
    due: Duration,
    hurried: usize,
}

impl Sweep {
    /// One full round without pauses: something is known to wait.
    pub fn hurry(&mut self, tick: Duration) {
        self.hurried = SLICES;
        self.due = tick;
    }

    /// Whether something was known to wait and the round for it is not over.
    pub const fn is_hurried(&self) -> bool {
        self.hurried > 0
    }

    /// When the next stride is due.
    pub const fn due(&self) -> Duration {
        self.due
    }

    /// The slices to look at now, if it is time, given how many addresses there are.
    pub fn stride(&mut self, addresses: usize, tick: Duration) -> impl Iterator<Item = usize> + use<> {
        let size = if self.hurried > 0 { FAST_STRIDE } else { STRIDE };
        let slices = if self.due > tick { 0 } else { (size * SLICES / addresses.max(1)).clamp(1, SLICES) };
        let from = self.at;
        if slices > 0 {
            self.at = (from + slices) % SLICES;
            self.hurried = self.hurried.saturating_sub(slices);
            self.due = if self.hurried > 0 { tick } else { tick + ROUND * slices as u32 / SLICES as u32 };
        }
        (from..from + slices).map(|slice| slice % SLICES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_success_ends_them() {
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
        assert_eq!((backoff.due(), backoff.failures()), (None, 0));
    }

    #[test]
    fn news_that_fail_do_not_put_off_the_next_attempt() {
        let mut backoff = Backoff::default();
        backoff.failed(ms(0));
        backoff.failed(ms(90));
        assert!(backoff.is_due(ms(100)));
    }

    #[test]
    fn one_round_visits_every_slice() {
        for addresses in [0, 1, 2048, 100_000, 3_000_000] {
            let (mut sweep, mut seen, mut tick) = (Sweep::default(), vec![0; SLICES], Duration::ZERO);
            while tick < ROUND {
                sweep.stride(addresses, tick).for_each(|slice| seen[slice] += 1);
                assert!(sweep.due() > tick);
                tick = sweep.due();
            }
            // The last stride may reach into the next round.
            assert!(seen.iter().all(|times| (1..=2).contains(times)), "{addresses}: {seen:?}");
        }
    }

    #[test]
    fn nothing_is_looked_at_before_it_is_due() {
        let mut sweep = Sweep::default();
        assert_eq!(sweep.stride(10, ms(0)).count(), SLICES);
        assert_eq!(sweep.stride(10, ms(1)).count(), 0);
        sweep.hurry(ms(1));
        assert_eq!(sweep.stride(10, ms(1)).count(), SLICES);
        assert!(sweep.due() > ms(1), "a hurried round ends");
    }
}
