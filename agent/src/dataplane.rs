//! The seam between decisions and the kernel: the trait [`Dataplane`].
//!
//! Knows tables, interfaces and bytes; knows neither Kubernetes nor a tenant's name. An implementation decides
//! nothing: it makes the write it is given, or returns why it could not.

use std::fmt;

use policy::model::guards::Guards;
use policy::model::input_guard::InputRules;
use policy::plan::{Actual, Op, Table};

mod attach;
mod btf;
pub mod cgroup_guard;
pub mod cleanup;
mod clsact;
mod error;
mod guards;
mod hooks;
pub mod input_guard;
pub mod kernel;
mod maps;
#[cfg(test)]
pub(crate) mod mem_dataplane;
pub mod nft;
pub mod object;
mod stand_in;
mod sys;
mod tc_filters;
mod tcx;

pub use attach::AttachMethod;
pub use error::DataplaneError;

/// An interface of the node that runs both programs, or should.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Index in the node's network namespace, which identifies it.
    pub ifindex: u32,
    /// Name at the time of observation, for messages and to detect that the index was reused.
    pub name: String,
}

/// Another program was put before one of ours, which is the first of its hook again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Displacement {
    /// The interface.
    pub port: Port,
    /// Our program.
    pub program: &'static str,
    /// The other program, and how to find it.
    pub other: String,
}

impl Displacement {
    /// What happened to our program.
    pub fn cause(&self) -> String {
        format!("another program was put before it and may have ended the chain: {}", self.other)
    }
}

impl fmt::Display for Displacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on interface {}: {}", self.program, self.port.name, self.cause())
    }
}

/// Whether [`Dataplane::sync_guards`] reads the kernel's state again before it compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// Compares with what was last read or written.
    Skip,
    /// Reads the guards' tables and programs again first.
    Kernel,
}

/// The kernel, or its substitute in tests.
///
/// All calls come from one thread, in the order of the plan.
pub trait Dataplane {
    /// Reads every table back. Called at start.
    fn load(&mut self) -> Result<Actual, DataplaneError>;

    /// Reads one table back; the others are empty in the result. The default reads all.
    fn load_table(&mut self, table: Table) -> Result<Actual, DataplaneError> {
        let _ = table;
        self.load()
    }

    /// Makes one write. On success the table holds the new value; on an error it is unchanged. Removing an
    /// absent entry succeeds.
    fn apply(&mut self, op: &Op) -> Result<(), DataplaneError>;

    /// Makes writes that do not depend on each other (no two on one key), and returns the index and
    /// error of each that failed. The default makes them one by one; a kernel batches runs of one table.
    fn apply_all(&mut self, ops: &[Op]) -> Vec<(usize, DataplaneError)> {
        ops.iter().enumerate().filter_map(|(at, op)| self.apply(op).err().map(|error| (at, error))).collect()
    }

    /// Attaches only the program for packets from the pod. The pod can send nothing from then on, until its
    /// `Endpoint` entry is written. [`Dataplane::attach`] repairs a failure here.
    fn attach_from_pod(&mut self, port: &Port) -> Result<(), DataplaneError> {
        let _ = port;
        Ok(())
    }

    /// Attaches both programs; succeeds when both are attached already. The interface is denied from then on,
    /// until its `Endpoint` entry is written.
    fn attach(&mut self, port: &Port) -> Result<(), DataplaneError>;

    /// Detaches both programs and removes their pins; succeeds when the interface or the programs are gone.
    fn detach(&mut self, port: &Port) -> Result<(), DataplaneError>;

    /// The programs of others that were first at a hook of ours since the last call. Attaching moved ours before them.
    fn take_displacements(&mut self) -> Vec<Displacement> {
        Vec::new()
    }

    /// Whether the interface still runs this agent's programs before all others. False after another process removed
    /// them or put one before them, and for programs of an earlier agent. [`Dataplane::attach`] repairs all three.
    fn is_intact(&mut self, port: &Port) -> bool {
        let _ = port;
        true
    }

    /// Makes the guards in the kernel equal to `guards`, and returns each part that failed. The guards deny
    /// what a failed part would have allowed.
    fn sync_guards(&mut self, guards: &Guards, recheck: Recheck) -> Vec<DataplaneError>;

    /// Makes the input guard in the kernel equal to `rules`. On an error it is unchanged, or unknown; the next call
    /// writes it whole.
    fn sync_input(&mut self, rules: &InputRules, recheck: Recheck) -> Result<(), DataplaneError>;

    /// Interfaces on which programs are attached now, and those of pins whose interface is gone. The latter
    /// must be detached too.
    fn attached(&mut self) -> Result<Vec<Port>, DataplaneError>;
}
