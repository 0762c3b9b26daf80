//! The guards on interfaces: their programs, and the two tables that the programs read.
//!
//! Changes the kernel to what is wanted, in an order in which no step allows what the next must deny: stale
//! entries go first, then new entries come, and bridges are guarded before uplinks. Does not know why an
//! interface needs a guard.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;

use agent_common::guard::Guard;
use agent_common::guard::interface::{NODE_IFACES_LISTED, Sender};
use agent_common::maps;
use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError};

use super::attach::{self, AttachMethod};
use super::hooks::{GUARDS, Hook, Pins};
use super::maps::{boxed, put};
use super::{DataplaneError, Displacement, Port, Recheck};
use policy::model::guards::Guards;

/// Tables and pins of the guards, and their last known contents.
pub(super) struct InstalledGuards {
    own: HashMap<MapData, u32, u32>,
    senders: HashMap<MapData, Sender, u32>,
    pins: Pins,
    kernel: GuardsInKernel,
    /// Why the kernel refused the program of a guard.
    refused: Option<Refusal>,
    displaced: Vec<Displacement>,
}

/// Why the kernel refused a program.
type Refusal = Arc<dyn Error + Send + Sync>;

/// What the kernel holds, as last read or written.
#[derive(Default)]
struct GuardsInKernel {
    /// Whether it was read.
    known: bool,
    own: BTreeSet<u32>,
    senders: BTreeMap<Sender, u32>,
    /// Interfaces whose program was attached or checked.
    interfaces: BTreeMap<u32, (Guard, String)>,
    /// Interfaces with programs, or with pins of programs.
    pinned: BTreeSet<u32>,
}

impl InstalledGuards {
    /// Takes the tables by name from `take`.
    ///
    /// # Errors
    /// Those of `take`, and a map of another type under the name.
    pub(super) fn new(
        mut take: impl FnMut(&'static str) -> Result<Map, MapError>,
        pins: Pins,
        refused: Option<Refusal>,
    ) -> Result<Self, MapError> {
        let (own, senders) = (take(maps::NODE_IFACES.name)?.try_into()?, take(maps::SENDERS.name)?.try_into()?);
        Ok(Self { own, senders, pins, kernel: GuardsInKernel::default(), refused, displaced: Vec::new() })
    }

    /// Makes the kernel equal to `wanted`. Returns each part that failed; the next call tries it again.
    pub(super) fn sync(
        &mut self,
        ebpf: &mut Ebpf,
        method: AttachMethod,
        wanted: &Guards,
        recheck: Recheck,
    ) -> Vec<DataplaneError> {
        // One guard without the other would stop claimed pods, so none is attached.
        if let Some(refused) = self.refused.clone().filter(|_| !wanted.interfaces.is_empty()) {
            let mut failed = self.sync(ebpf, method, &Guards::default(), recheck);
            failed.push(DataplaneError::NoGuards(refused));
            return failed;
        }
        if (recheck == Recheck::Kernel || !self.kernel.known)
            && let Err(error) = self.read()
        {
            return vec![error];
        }
        let mut failed = Vec::new();
        self.remove_stale(wanted, &mut failed);
        self.write_senders(wanted, &mut failed);
        // Uplinks accept packets from a bridge because its guard has checked them, so that guard comes first.
        let unguarded = self.attach(ebpf, method, wanted, Guard::Bridge, &mut failed);
        self.write_own(wanted, &unguarded, &mut failed);
        self.attach(ebpf, method, wanted, Guard::Uplink, &mut failed);
        self.detach_idle(wanted, &mut failed);
        failed
    }

    /// The programs of others that were before a guard since the last call.
    pub(super) fn take_displacements(&mut self) -> Vec<Displacement> {
        std::mem::take(&mut self.displaced)
    }

    fn read(&mut self) -> Result<(), DataplaneError> {
        let own = self.own.keys().collect::<Result<_, _>>().map_err(|error| table(maps::NODE_IFACES.name, error))?;
        let senders =
            self.senders.iter().collect::<Result<_, _>>().map_err(|error| table(maps::SENDERS.name, error))?;
        let pinned = self.pins.interfaces().map_err(|error| DataplaneError::Attached(boxed(error)))?;
        self.kernel = GuardsInKernel {
            known: true,
            own,
            senders,
            interfaces: BTreeMap::new(),
            pinned: pinned.into_iter().collect(),
        };
        Ok(())
    }

    /// Removes interfaces and senders that are no longer wanted.
    fn remove_stale(&mut self, wanted: &Guards, failed: &mut Vec<DataplaneError>) {
        let stale: Vec<u32> = self.kernel.own.difference(&wanted.own).copied().collect();
        stale.into_iter().for_each(|ifindex| self.set_own(ifindex, false, failed));
        let gone: Vec<Sender> =
            self.kernel.senders.keys().filter(|sender| !wanted.senders.contains_key(sender)).copied().collect();
        for sender in gone {
            match put(&mut self.senders, sender, None) {
                Ok(()) => _ = self.kernel.senders.remove(&sender),
                Err(error) => failed.push(table(maps::SENDERS.name, error)),
            }
        }
    }

    /// Writes the addresses of claimed pods.
    fn write_senders(&mut self, wanted: &Guards, failed: &mut Vec<DataplaneError>) {
        for (sender, ifindex) in &wanted.senders {
            if self.kernel.senders.get(sender) == Some(ifindex) {
                continue;
            }
            match put(&mut self.senders, *sender, Some(*ifindex)) {
                Ok(()) => _ = self.kernel.senders.insert(*sender, *ifindex),
                Err(error) => failed.push(table(maps::SENDERS.name, error)),
            }
        }
    }

    /// Attaches the programs of one guard, and returns the interfaces where that failed.
    fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        method: AttachMethod,
        wanted: &Guards,
        guard: Guard,
        failed: &mut Vec<DataplaneError>,
    ) -> BTreeSet<u32> {
        let mut unguarded = BTreeSet::new();
        let Some(hook) = hook(guard) else { return unguarded };
        for (ifindex, entry) in wanted.interfaces.iter().filter(|(_, (kind, _))| *kind == guard) {
            if self.kernel.interfaces.get(ifindex) == Some(entry) {
                continue;
            }
            let port = Port { ifindex: *ifindex, name: entry.1.clone() };
            match attach::attach_hook(ebpf, &self.pins, &port, method, hook, &mut self.displaced) {
                Ok(()) => {
                    self.kernel.interfaces.insert(*ifindex, entry.clone());
                    self.kernel.pinned.insert(*ifindex);
                    // The interface may have had the other guard before.
                    let others = GUARDS.iter().filter(|other| other.program != guard.as_str());
                    let removed = others.map(|other| attach::detach_hook(&self.pins, &port, other));
                    failed.extend(removed.filter_map(Result::err));
                }
                // The next list of links will not contain it.
                Err(DataplaneError::Gone(_)) => _ = unguarded.insert(*ifindex),
                Err(error) => {
                    unguarded.insert(*ifindex);
                    failed.push(error);
                }
            }
        }
        unguarded
    }

    /// Writes which interfaces are the node's own. A bridge without its guard is not written. That they are listed is
    /// written last, and only if all are: pods then refuse packets from all other interfaces.
    fn write_own(&mut self, wanted: &Guards, unguarded: &BTreeSet<u32>, failed: &mut Vec<DataplaneError>) {
        let before = failed.len();
        let interfaces = wanted.own.iter().filter(|ifindex| **ifindex != NODE_IFACES_LISTED);
        for ifindex in interfaces.chain(unguarded) {
            let (is, should) = (self.kernel.own.contains(ifindex), !unguarded.contains(ifindex));
            if is != should {
                self.set_own(*ifindex, should, failed);
            }
        }
        let listed = wanted.own.contains(&NODE_IFACES_LISTED) && failed.len() == before;
        if self.kernel.own.contains(&NODE_IFACES_LISTED) != listed {
            self.set_own(NODE_IFACES_LISTED, listed, failed);
        }
    }

    /// Detaches guards from interfaces that need none any more.
    fn detach_idle(&mut self, wanted: &Guards, failed: &mut Vec<DataplaneError>) {
        let idle: Vec<u32> =
            self.kernel.pinned.iter().filter(|at| !wanted.interfaces.contains_key(at)).copied().collect();
        for ifindex in idle {
            let port = Port { ifindex, name: attach::name_of(ifindex).unwrap_or_default() };
            match attach::detach(&self.pins, &port) {
                Ok(()) => {
                    self.kernel.pinned.remove(&ifindex);
                    self.kernel.interfaces.remove(&ifindex);
                }
                Err(error) => failed.push(error),
            }
        }
    }

    fn set_own(&mut self, ifindex: u32, own: bool, failed: &mut Vec<DataplaneError>) {
        match put(&mut self.own, ifindex, own.then_some(1)) {
            Ok(()) if own => _ = self.kernel.own.insert(ifindex),
            Ok(()) => _ = self.kernel.own.remove(&ifindex),
            Err(error) => failed.push(table(maps::NODE_IFACES.name, error)),
        }
    }
}

/// The hook of a guard's program; `None` for a guard that is not on an interface.
fn hook(guard: Guard) -> Option<&'static Hook> {
    GUARDS.iter().find(|hook| hook.program == guard.as_str())
}

fn table(name: &'static str, error: MapError) -> DataplaneError {
    DataplaneError::Guard { table: name, source: boxed(error) }
}
