//! The kernel's source of records: aya's ring buffer and per-CPU arrays.
//!
//! Only reads. Needs Linux 5.8, the first version with BPF ring buffers.

use std::io;

use agent_common::aggregate::{AGGREGATE_LEN, AggregateEntry, EVENT_SLOTS, EventBudget};
use agent_common::counters::Loss;
use agent_common::maps;
use aya::maps::{MapData, MapError, PerCpuArray, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::RecordSource;

/// Reading the event maps failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RingError {
    /// The ring buffer cannot be polled.
    #[error("cannot wait for the ring buffer")]
    Wait(#[source] io::Error),
    /// An aggregation table, an event budget or a loss counter cannot be read.
    #[error("cannot read the event map {map}")]
    Read {
        /// Name of the map.
        map: &'static str,
        /// The kernel's answer.
        #[source]
        source: MapError,
    },
}

/// The event maps.
pub(crate) struct Ring {
    records: AsyncFd<RingBuf<MapData>>,
    flows: PerCpuArray<MapData, AggregateEntry>,
    budgets: PerCpuArray<MapData, EventBudget>,
    losses: PerCpuArray<MapData, u64>,
}

impl Ring {
    /// Takes the maps over. Must be called inside the tokio runtime.
    pub(crate) fn new(
        records: RingBuf<MapData>,
        flows: PerCpuArray<MapData, AggregateEntry>,
        budgets: PerCpuArray<MapData, EventBudget>,
        losses: PerCpuArray<MapData, u64>,
    ) -> Result<Self, RingError> {
        #[expect(
            deprecated,
            reason = "its successor is an unsafe fn that requires what `RingBuf` guarantees: an open descriptor"
        )]
        let records = AsyncFd::with_interest(records, Interest::READABLE).map_err(RingError::Wait)?;
        Ok(Self { records, flows, budgets, losses })
    }

    /// What the budget of each event slot has held back so far. Read once, at the start.
    pub(crate) fn all_held_back(&mut self) -> Result<Vec<(u16, u64)>, RingError> {
        (0..EVENT_SLOTS as u16).map(|slot| self.held_back(slot).map(|count| (slot, count))).collect()
    }
}

impl RecordSource for Ring {
    type Error = RingError;

    async fn ready(&mut self) -> Result<(), RingError> {
        // Readiness is not cleared here: `drain` may leave records, and only an empty buffer is not ready.
        self.records.readable().await.map(|mut guard| guard.retain_ready()).map_err(RingError::Wait)
    }

    fn drain(&mut self, most: usize, each: &mut dyn FnMut(&[u8])) -> usize {
        let mut count = 0;
        // "Would block" means to tokio that the buffer was empty, so the next `ready` waits.
        let mut read = |records: &mut RingBuf<MapData>| {
            while count < most {
                let Some(item) = records.next() else { return Err(io::Error::from(io::ErrorKind::WouldBlock)) };
                each(&item);
                count += 1;
            }
            Ok(())
        };
        let known_ready = self.records.try_io_mut(Interest::READABLE, &mut read);
        // Tokio may not know yet that records wait. The second reading finds them.
        if known_ready.is_err() && read(self.records.get_mut()).is_ok() {
            tracing::trace!("more records wait than one turn reads");
        }
        count
    }

    fn sweep(&mut self) -> Result<Vec<AggregateEntry>, RingError> {
        let mut found = Vec::new();
        for bucket in 0..AGGREGATE_LEN {
            let entries = self
                .flows
                .get(&bucket, 0)
                .map_err(|source| RingError::Read { map: maps::DENIED_FLOWS.name, source })?;
            found.extend(entries.iter().filter(|entry| entry.event.count > 0));
        }
        Ok(found)
    }

    fn held_back(&mut self, slot: u16) -> Result<u64, RingError> {
        let budgets = self
            .budgets
            .get(&slot.into(), 0)
            .map_err(|source| RingError::Read { map: maps::EVENT_BUDGETS.name, source })?;
        Ok(budgets.iter().map(|budget| budget.held_back).sum())
    }

    fn losses(&mut self) -> Result<[u64; Loss::LEN as usize], RingError> {
        let mut losses = [0; Loss::LEN as usize];
        for (index, lost) in (0..).zip(&mut losses) {
            let counts =
                self.losses.get(&index, 0).map_err(|source| RingError::Read { map: maps::LOSS.name, source })?;
            *lost = counts.iter().sum();
        }
        Ok(losses)
    }
}
