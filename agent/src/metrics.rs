//! Every metric, named and documented once (`table`), read on scrape.
//!
//! Packet counters come from the kernel's maps and only from there: they are exact whether or not
//! anybody reads events. State comes from `Observed`. What only the agent knows (attempts,
//! durations, failures) is pushed into `Recorder`. No metric has a pod, an address or a port in it.

pub mod accounts;
pub mod process;
pub mod recorder;
pub mod scrape;
pub mod table;

use std::sync::{Arc, Mutex, PoisonError};

use crate::events::stats::EventStats;
use crate::health::Observed;

pub use accounts::{Accounts, KernelCounters, MapUsage, SlotCounters};
pub use recorder::Recorder;

/// Answers scrapes.
pub struct Metrics {
    kernel: Mutex<CounterReader>,
    recorder: Arc<Recorder>,
    events: Arc<EventStats>,
    build: BuildInfo,
}

struct CounterReader {
    counters: Box<dyn KernelCounters>,
    accounts: Accounts,
}

/// What was built, and what it runs on.
#[derive(Clone, Debug, Default)]
pub struct BuildInfo {
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
    /// This binary on this machine.
    pub fn here() -> Self {
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
    pub fn new(
        counters: Box<dyn KernelCounters>,
        recorder: Arc<Recorder>,
        events: Arc<EventStats>,
        max_tenants: usize,
    ) -> Self {
        let kernel = Mutex::new(CounterReader { counters, accounts: Accounts::new(max_tenants) });
        Self { kernel, recorder, events, build: BuildInfo::here() }
    }

    /// Reads the counters of all slots now. Call it every few seconds, and before a slot changes
    /// hands, so that what was counted goes to whom it belongs.
    pub fn settle(&self) -> Totals {
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        kernel.settle(&self.recorder);
        Totals { dropped: kernel.accounts.dropped(), audited: kernel.accounts.audited() }
    }

    /// The answer to a scrape: OpenMetrics text. Makes system calls; not for an async thread.
    pub fn scrape(&self, observed: &Observed) -> String {
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
pub fn recorded_page(recorder: &Arc<Recorder>) -> String {
    scrape::text(scrape::Samples::default(), recorder)
}

/// Packets denied since the maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Dropped.
    pub dropped: u64,
    /// Audited.
    pub audited: u64,
}

impl CounterReader {
    fn settle(&mut self, recorder: &Recorder) {
        // What cannot be read now is read next time: the kernel's counts only grow.
        for (slot, owner) in self.accounts.slots_to_read(self.counters.owners()) {
            match self.counters.slot(slot) {
                Ok(counters) => self.accounts.read(slot, owner.as_deref(), &counters),
                Err(error) => {
                    recorder.map_errors("counters", "read", 1);
                    tracing::debug!(%error, slot, "packet counters cannot be read now");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
