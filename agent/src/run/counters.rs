//! The kernel's packet counters for the metrics, summed over all CPUs.
//!
//! Only reads maps. Knows slots and map names; does not know how a metric is called.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use agent_common::counters::{Counter, allowed_index, denied_index};
use agent_common::flow::Direction;
use agent_common::guard::Guard;
use agent_common::maps::{self, MapSpec};
use agent_common::reason::DropReason;
use aya::maps::{MapData, MapError, PerCpuArray};
use tokio::sync::watch;

use crate::dataplane::input_guard::InputGuard;
use crate::dataplane::kernel::Kernel;
use crate::dataplane::object;
use crate::metrics::{KernelCounters, MapUsage, SlotCounters};
use crate::reconcile::Snapshot;
use policy::plan::Table;

/// Handles of the counter maps, and the snapshots that name the owners of slots.
pub(super) struct CounterMaps {
    allowed: PerCpuArray<MapData, Counter>,
    denied: PerCpuArray<MapData, Counter>,
    guard_drops: PerCpuArray<MapData, Counter>,
    /// Reads the counters of the input guard's table, and writes nothing.
    input: Mutex<InputGuard>,
    latest: watch::Receiver<Arc<Snapshot>>,
    sizes: object::MapLimits,
}

impl CounterMaps {
    /// Takes the counter maps.
    ///
    /// # Errors
    /// They were taken already.
    pub(super) fn new(
        kernel: &mut Kernel,
        latest: watch::Receiver<Arc<Snapshot>>,
        sizes: &object::MapLimits,
    ) -> Result<Self, MapError> {
        let (allowed, denied) =
            (kernel.take(maps::ALLOWED.name)?.try_into()?, kernel.take(maps::DENIED.name)?.try_into()?);
        let guard_drops = kernel.take(maps::GUARD_DROPS.name)?.try_into()?;
        let input = Mutex::new(InputGuard::new());
        Ok(Self { allowed, denied, guard_drops, input, latest, sizes: *sizes })
    }
}

fn sum(map: &PerCpuArray<MapData, Counter>, index: u32) -> io::Result<Counter> {
    let values = map.get(&index, 0).map_err(io::Error::other)?;
    Ok(values.iter().fold(Counter::default(), |sum, value| Counter {
        packets: sum.packets + value.packets,
        bytes: sum.bytes + value.bytes,
    }))
}

impl KernelCounters for CounterMaps {
    fn owners(&self) -> Vec<(u16, String)> {
        let snapshot = self.latest.borrow();
        let slots = snapshot.tenants.values().filter(|tenant| tenant.state.slot != 0);
        slots.map(|tenant| (tenant.state.slot, tenant.name.to_string())).collect()
    }

    fn slot(&self, slot: u16) -> io::Result<SlotCounters> {
        let mut counters = SlotCounters::default();
        for direction in Direction::ALL {
            counters.allowed[direction as usize] = sum(&self.allowed, allowed_index(slot, direction))?;
            for audited in [false, true] {
                for reason in DropReason::ALL {
                    let cell = &mut counters.denied[direction as usize][usize::from(audited)];
                    cell[usize::from(reason.number())] =
                        sum(&self.denied, denied_index(slot, direction, audited, *reason))?;
                }
            }
        }
        Ok(counters)
    }

    fn input_drops(&self) -> Vec<(&'static str, u64)> {
        if !self.latest.borrow().has_input_guard {
            return Vec::new();
        }
        let drops = self.input.lock().unwrap_or_else(PoisonError::into_inner).drops();
        drops.map_or_else(|_| Vec::new(), |drops| vec![("node", drops.node.packets), ("tunnel", drops.tunnel.packets)])
    }

    fn guard_drops(&self, guard: Guard, reason: DropReason) -> io::Result<Counter> {
        sum(&self.guard_drops, guard.index(reason))
    }

    fn maps(&self) -> Vec<MapUsage> {
        let snapshot = self.latest.borrow();
        let guards = &snapshot.guards;
        let used = |spec: &MapSpec| match *spec {
            maps::NODE_IFACES => Some(guards.own.len() as u64),
            maps::SENDERS => Some(guards.senders.len() as u64),
            maps::POD_CGROUPS => Some(guards.pods.as_ref().map_or(0, |guard| guard.claimed.len()) as u64),
            _ => snapshot.tables.iter().find(|fill| map_of(fill.table) == spec.name).map(|fill| fill.used as u64),
        };
        let usage = |shape: object::Shape| MapUsage {
            name: shape.spec.name.to_lowercase(),
            entries: used(shape.spec),
            max_entries: u64::from(shape.max_entries()),
        };
        object::shapes(&self.sizes).into_iter().map(usage).collect()
    }

    fn memory(&self) -> Vec<(&'static str, u64)> {
        let (mut maps, mut programs) = (0, 0);
        for entry in fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten() {
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim_start_matches(':').trim().parse::<u64>().ok()
            };
            match (field("map_id"), field("prog_id")) {
                (Some(_), _) => maps += field("memlock").unwrap_or(0),
                (_, Some(_)) => programs += field("memlock").unwrap_or(0),
                _ => {}
            }
        }
        vec![("maps", maps), ("programs", programs)]
    }
}

/// The map behind a table of the plan.
fn map_of(table: Table) -> String {
    table.as_str().to_uppercase()
}
