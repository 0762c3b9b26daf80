//! The dataplane of the tests: tables in memory, with limits and faults on demand.
//!
//! Knows no kernel. A write that fails leaves the tables unchanged, as [`Dataplane::apply`] promises.

use std::collections::{BTreeMap, BTreeSet};

use super::{Dataplane, DataplaneError, Displacement, Port, Recheck};
use policy::model::guards::Guards;
use policy::model::input_guard::InputRules;
use policy::plan::{Actual, Op, Table};

/// Tables in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemDataplane {
    /// Contents of the tables.
    pub actual: Actual,
    /// Interfaces with programs.
    pub ports: BTreeSet<Port>,
    /// Limits on the entries of a table.
    pub limits: BTreeMap<Table, usize>,
    /// Writes that fail, counted from 0 at the first write ever made.
    pub fail_writes: BTreeSet<usize>,
    /// Tables whose every write fails.
    pub fail_tables: BTreeSet<Table>,
    /// Interfaces on which attaching fails.
    pub fail_ports: BTreeSet<u32>,
    /// What the next attachments of an interface find before ours.
    pub displaced: Vec<Displacement>,
    /// The guards of the last call.
    pub guards: Guards,
    /// The rules of the input guard at each call, and how many writes were attempted before it.
    pub inputs: Vec<(usize, InputRules)>,
    /// The input guard cannot be written.
    pub fail_input: bool,
    /// Every attempted write, in order.
    pub log: Vec<Op>,
}

impl MemDataplane {
    /// Number of entries in `table`.
    pub(crate) fn len(&self, table: Table) -> usize {
        self.actual.len(table)
    }

    fn refuse(&self, op: &Op) -> Option<DataplaneError> {
        let table = op.table();
        if self.fail_writes.contains(&self.log.len()) || self.fail_tables.contains(&table) {
            return Some(DataplaneError::Write { table, source: "injected".into() });
        }
        let limit = *self.limits.get(&table)?;
        (self.len(table) >= limit && self.actual.would_grow(op)).then_some(DataplaneError::Full(table))
    }
}

impl Dataplane for MemDataplane {
    fn load(&mut self) -> Result<Actual, DataplaneError> {
        Ok(self.actual.clone())
    }

    fn apply(&mut self, op: &Op) -> Result<(), DataplaneError> {
        let refused = self.refuse(op);
        self.log.push(op.clone());
        match refused {
            Some(error) => Err(error),
            None => {
                self.actual.record(op);
                Ok(())
            }
        }
    }

    fn attach_from_pod(&mut self, port: &Port) -> Result<(), DataplaneError> {
        if self.fail_ports.contains(&port.ifindex) {
            return Err(DataplaneError::Attach { port: port.clone(), source: "injected".into() });
        }
        Ok(())
    }

    fn attach(&mut self, port: &Port) -> Result<(), DataplaneError> {
        self.attach_from_pod(port)?;
        self.ports.insert(port.clone());
        Ok(())
    }

    fn take_displacements(&mut self) -> Vec<Displacement> {
        std::mem::take(&mut self.displaced)
    }

    fn detach(&mut self, port: &Port) -> Result<(), DataplaneError> {
        self.ports.retain(|held| held.ifindex != port.ifindex);
        Ok(())
    }

    fn sync_guards(&mut self, guards: &Guards, _: Recheck) -> Vec<DataplaneError> {
        let fails = |ifindex: &&u32| self.fail_ports.contains(ifindex);
        let port = |ifindex: &u32| Port { ifindex: *ifindex, name: guards.interfaces[ifindex].1.clone() };
        let refuse = |ifindex: &u32| DataplaneError::Attach { port: port(ifindex), source: "injected".into() };
        let failed = guards.interfaces.keys().filter(fails).map(refuse).collect();
        self.guards = guards.clone();
        failed
    }

    fn sync_input(&mut self, rules: &InputRules, _: Recheck) -> Result<(), DataplaneError> {
        self.inputs.push((self.log.len(), rules.clone()));
        if self.fail_input { Err(DataplaneError::InputGuard("injected".into())) } else { Ok(()) }
    }

    fn attached(&mut self) -> Result<Vec<Port>, DataplaneError> {
        Ok(self.ports.iter().cloned().collect())
    }
}
