//! The metrics of the agent. Each is named and documented once, in `table`, and read when the page is scraped.
//!
//! Packet counters come from the kernel's maps only, so they are exact whether or not events are read. State comes from
//! `Observed`. What only the agent counts (attempts, durations, failures) comes from `Recorder`. No label is a pod, an
//! address or a port.

pub(crate) mod accounts;
pub(crate) mod process;
pub(crate) mod recorder;
pub(crate) mod scrape;
pub(crate) mod table;

use std::sync::{Arc, Mutex, PoisonError};

use crate::events::stats::EventStats;
use crate::health::Observed;

pub(crate) use accounts::{Accounts, KernelCounters, MapUsage, SlotCounters};
pub(crate) use recorder::Recorder;

/// All that a scrape reads.
pub(crate) struct Metrics {
    kernel: Mutex<CounterReader>,
    recorder: Arc<Recorder>,
    events: Arc<EventStats>,
    build: BuildInfo,
}

struct CounterReader {
    counters: Box<dyn KernelCounters>,
    accounts: Accounts,
}

/// Versions of this binary and of what it runs on.
#[derive(Clone, Debug, Default)]
pub(crate) struct BuildInfo {
    /// Version of the agent.
    pub version: String,
    /// Revision of the sources, if the build knew it.
    pub revision: String,
    /// Compiler, if the build knew it.
    pub rustc: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// Architecture.
    pub arch: String,
}

impl BuildInfo {
    /// The versions of this binary and of the running kernel.
    pub(crate) fn here() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            revision: option_env!("BULKHEAD_REVISION").unwrap_or_default().into(),
            rustc: env!("BULKHEAD_RUSTC").into(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            arch: std::env::consts::ARCH.into(),
        }
    }
}

impl Metrics {
    /// Tenants beyond `max_tenants` are counted as `other`.
    pub(crate) fn new(
        counters: Box<dyn KernelCounters>,
        recorder: Arc<Recorder>,
        events: Arc<EventStats>,
        max_tenants: usize,
    ) -> Self {
        let kernel = Mutex::new(CounterReader { counters, accounts: Accounts::new(max_tenants) });
        Self { kernel, recorder, events, build: BuildInfo::here() }
    }

    /// Reads the kernel's counters now. Call it every few seconds, so that growth is added to the right owner after a
    /// slot is reassigned.
    pub(crate) fn settle(&self) -> Totals {
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        kernel.settle(&self.recorder);
        Totals { dropped: kernel.accounts.dropped(), audited: kernel.accounts.audited() }
    }

    /// The page for a scrape, as OpenMetrics text. Makes system calls, so it must not run in an async task.
    pub(crate) fn scrape(&self, observed: &Observed) -> String {
        let mut samples = scrape::Samples::default();
        {
            let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
            kernel.settle(&self.recorder);
            scrape::packets(&kernel.accounts, &mut samples);
            scrape::guards(&*kernel.counters, &mut samples);
            scrape::maps(&kernel.counters.maps(), kernel.counters.memory(), &mut samples);
        }
        scrape::observed(observed, &mut samples);
        scrape::events(&self.events, &mut samples);
        scrape::build(&self.build, &mut samples);
        scrape::process(&process::read(), &mut samples);
        scrape::text(samples, &self.recorder)
    }
}

/// A metrics page with nothing but the samples of `recorder`.
#[cfg(test)]
pub(crate) fn recorded_page(recorder: &Arc<Recorder>) -> String {
    scrape::text(scrape::Samples::default(), recorder)
}

/// Packets denied since the maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Dropped.
    pub dropped: u64,
    /// Audited.
    pub audited: u64,
}

impl CounterReader {
    fn settle(&mut self, recorder: &Recorder) {
        // A slot that cannot be read now is read next time: the kernel's counts only grow.
        for (slot, owner) in self.accounts.slots_to_read(self.counters.owners()) {
            match self.counters.slot(slot) {
                Ok(counters) => self.accounts.read(slot, owner.as_deref(), &counters),
                Err(error) => {
                    recorder.map_errors("counters", "read", 1);
                    tracing::debug!(%error, slot, "packet counters could not be read: the next reading includes them");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
