//! The guards in the kernel: their programs on interfaces, and the two tables they ask.
//!
//! Brings what is there to what is wanted, in an order in which no step opens what the next must close:
//! first whoever is no longer known, then whoever is new, and the node's own interfaces before the
//! guards on them. Knows not why an interface is what it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agent_common::guard::{Guard, Sender};
use agent_common::maps;
use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError};

use super::attach::{self, Hook, Method, Notes};
use super::kernel::OpenError;
use super::maps::{boxed, put};
use super::{DataplaneError, Port};
use policy::model::guards::Guards;

/// Tables and notes of the guards, and what they were last brought to.
pub struct InstalledGuards {
    own: HashMap<MapData, u32, u32>,
    senders: HashMap<MapData, Sender, u32>,
    notes: Notes,
    held: Held,
    /// Why the kernel can hold none.
    refused: Option<Arc<OpenError>>,
}

/// What the kernel holds, as far as we wrote or read it.
#[derive(Default)]
struct Held {
    known: bool,
    own: BTreeSet<u32>,
    senders: BTreeMap<Sender, u32>,
    /// Interfaces whose program was put there or looked at.
    doors: BTreeMap<u32, (Guard, String)>,
    /// Interfaces with programs or notes of such.
    noted: BTreeSet<u32>,
}

impl InstalledGuards {
    /// Takes the tables by name from `take`.
    ///
    /// # Errors
    /// Those of `take`, and a map of another type under the name.
    pub fn new(
        mut take: impl FnMut(&'static str) -> Result<Map, MapError>,
        notes: Notes,
        refused: Option<OpenError>,
    ) -> Result<Self, MapError> {
        let (own, senders) = (take(maps::NODE_IFACES.name)?.try_into()?, take(maps::SENDERS.name)?.try_into()?);
        Ok(Self { own, senders, notes, held: Held::default(), refused: refused.map(Arc::new) })
    }

    /// Brings the kernel to `wanted`; with `look`, what is there is read again first. Returns what
    /// could not be done, which the next call tries again.
    pub fn bring(&mut self, ebpf: &mut Ebpf, method: Method, wanted: &Guards, look: bool) -> Vec<DataplaneError> {
        // One guard without the other would stop claimed pods, so all are opened.
        if let Some(refused) = self.refused.clone().filter(|_| !wanted.doors.is_empty()) {
            let mut failed = self.bring(ebpf, method, &Guards::default(), look);
            failed.push(DataplaneError::NoGuards(refused));
            return failed;
        }
        if (look || !self.held.known)
            && let Err(error) = self.read()
        {
            return vec![error];
        }
        let mut failed = Vec::new();
        self.withdraw(wanted, &mut failed);
        self.admit(wanted, &mut failed);
        // A bridge passes the uplinks because its own guard has judged what it brings: the guard first.
        let unguarded = self.shut(ebpf, method, wanted, Guard::Bridge, &mut failed);
        self.own(wanted, &unguarded, &mut failed);
        self.shut(ebpf, method, wanted, Guard::Uplink, &mut failed);
        self.open(wanted, &mut failed);
        failed
    }

    fn read(&mut self) -> Result<(), DataplaneError> {
        let own = self.own.keys().collect::<Result<_, _>>().map_err(|error| table(maps::NODE_IFACES.name, error))?;
        let senders =
            self.senders.iter().collect::<Result<_, _>>().map_err(|error| table(maps::SENDERS.name, error))?;
        let noted = self.notes.noted().map_err(|error| DataplaneError::Attached(boxed(error)))?;
        self.held = Held { known: true, own, senders, doors: BTreeMap::new(), noted: noted.into_iter().collect() };
        Ok(())
    }

    /// Forgets whoever is no longer known.
    fn withdraw(&mut self, wanted: &Guards, failed: &mut Vec<DataplaneError>) {
        let strangers: Vec<u32> = self.held.own.difference(&wanted.own).copied().collect();
        strangers.into_iter().for_each(|ifindex| self.set_own(ifindex, false, failed));
        let gone: Vec<Sender> =
            self.held.senders.keys().filter(|sender| !wanted.senders.contains_key(sender)).copied().collect();
        for sender in gone {
            match put(&mut self.senders, sender, None) {
                Ok(()) => _ = self.held.senders.remove(&sender),
                Err(error) => failed.push(table(maps::SENDERS.name, error)),
            }
        }
    }

    /// Writes whose the addresses of claimed pods are.
    fn admit(&mut self, wanted: &Guards, failed: &mut Vec<DataplaneError>) {
        for (sender, ifindex) in &wanted.senders {
            if self.held.senders.get(sender) == Some(ifindex) {
                continue;
            }
            match put(&mut self.senders, *sender, Some(*ifindex)) {
                Ok(()) => _ = self.held.senders.insert(*sender, *ifindex),
                Err(error) => failed.push(table(maps::SENDERS.name, error)),
            }
        }
    }

    /// Puts the programs of one guard in place, and returns the interfaces where that failed.
    fn shut(
        &mut self,
        ebpf: &mut Ebpf,
        method: Method,
        wanted: &Guards,
        guard: Guard,
        failed: &mut Vec<DataplaneError>,
    ) -> BTreeSet<u32> {
        let mut unguarded = BTreeSet::new();
        let Some(hook) = hook(guard) else { return unguarded };
        for (ifindex, door) in wanted.doors.iter().filter(|(_, (kind, _))| *kind == guard) {
            if self.held.doors.get(ifindex) == Some(door) {
                continue;
            }
            let port = Port { ifindex: *ifindex, name: door.1.clone() };
            match attach::put(ebpf, &self.notes, &port, method, hook) {
                Ok(()) => {
                    self.held.doors.insert(*ifindex, door.clone());
                    self.held.noted.insert(*ifindex);
                    // What it was before, it is no more.
                    let others = attach::GUARDS.iter().filter(|other| other.program != guard.as_str());
                    let removed = others.map(|other| attach::remove(&self.notes, &port, other));
                    failed.extend(removed.filter_map(Result::err));
                }
                // The next list of links will not have it.
                Err(DataplaneError::Gone(_)) => _ = unguarded.insert(*ifindex),
                Err(error) => {
                    unguarded.insert(*ifindex);
                    failed.push(error);
                }
            }
        }
        unguarded
    }

    /// Writes which interfaces are the node's own, without those that are nobody's until guarded.
    fn own(&mut self, wanted: &Guards, unguarded: &BTreeSet<u32>, failed: &mut Vec<DataplaneError>) {
        for ifindex in wanted.own.iter().chain(unguarded) {
            let (is, should) = (self.held.own.contains(ifindex), !unguarded.contains(ifindex));
            if is != should {
                self.set_own(*ifindex, should, failed);
            }
        }
    }

    /// Lets go of interfaces that hold no guard any more.
    fn open(&mut self, wanted: &Guards, failed: &mut Vec<DataplaneError>) {
        let idle: Vec<u32> = self.held.noted.iter().filter(|at| !wanted.doors.contains_key(at)).copied().collect();
        for ifindex in idle {
            let port = Port { ifindex, name: attach::name_of(ifindex).unwrap_or_default() };
            match attach::detach(&self.notes, &port) {
                Ok(()) => {
                    self.held.noted.remove(&ifindex);
                    self.held.doors.remove(&ifindex);
                }
                Err(error) => failed.push(error),
            }
        }
    }

    fn set_own(&mut self, ifindex: u32, own: bool, failed: &mut Vec<DataplaneError>) {
        match put(&mut self.own, ifindex, own.then_some(1)) {
            Ok(()) if own => _ = self.held.own.insert(ifindex),
            Ok(()) => _ = self.held.own.remove(&ifindex),
            Err(error) => failed.push(table(maps::NODE_IFACES.name, error)),
        }
    }
}

/// Where on an interface a guard's program belongs; `None` for one that stands on none.
fn hook(guard: Guard) -> Option<&'static Hook> {
    attach::GUARDS.iter().find(|hook| hook.program == guard.as_str())
}

fn table(name: &'static str, error: MapError) -> DataplaneError {
    DataplaneError::Guard { table: name, source: boxed(error) }
}
