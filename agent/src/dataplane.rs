//! The seam of the house: what the rest may ask of the kernel.
//!
//! Knows tables, interfaces and bytes; knows neither Kubernetes nor a tenant's name. Nothing here
//! decides: an implementation writes what it is told, or says why it could not.

use policy::model::guards::Guards;
use policy::plan::{Actual, Op, Table};

pub mod attach;
pub mod btf;
pub mod cgroup_guard;
pub mod guards;
pub mod kernel;
pub mod leave;
pub mod maps;
pub mod memory;
pub mod object;
mod sys;

/// An interface of the node that holds, or shall hold, both programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Index in the node's namespace: its identity.
    pub ifindex: u32,
    /// Name when it was seen, for messages and for a check against reuse of the index.
    pub name: String,
}

/// What went wrong in the kernel; the variant says what was tried.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// A table could not be read back.
    #[error("cannot read table {}", .table.as_str())]
    Load {
        /// Which.
        table: Table,
        /// Why.
        #[source]
        source: Source,
    },
    /// A table is full.
    #[error("table {} is full", .0.as_str())]
    Full(Table),
    /// An entry could not be written or removed.
    #[error("cannot write table {}", .table.as_str())]
    Write {
        /// Which.
        table: Table,
        /// Why.
        #[source]
        source: Source,
    },
    /// The interface is gone, so nothing can or need be attached.
    #[error("interface {} (index {}) is gone", .0.name, .0.ifindex)]
    Gone(Port),
    /// A program could not be attached.
    #[error("cannot attach to interface {} (index {})", .port.name, .port.ifindex)]
    Attach {
        /// Where.
        port: Port,
        /// Why.
        #[source]
        source: Source,
    },
    /// A program could not be detached.
    #[error("cannot detach from interface {} (index {})", .port.name, .port.ifindex)]
    Detach {
        /// Where.
        port: Port,
        /// Why.
        #[source]
        source: Source,
    },
    /// A table of the guards could not be read or written.
    #[error("cannot bring the guards' table {table} up to date")]
    Guard {
        /// Which.
        table: &'static str,
        /// Why.
        #[source]
        source: Source,
    },
    /// The kernel refused the program of a guard, so there is none.
    #[error("there are no guards")]
    NoGuards(#[source] std::sync::Arc<kernel::OpenError>),
    /// The guard on the pods' control groups could not be put in place or taken away.
    #[error("cannot guard the pods' control groups at {path:?} (BULKHEAD_CGROUP_GUARD=none does without)")]
    CgroupGuardState {
        /// The group that holds them all; empty where the guard was to go.
        path: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// What is attached could not be listed.
    #[error("cannot list attached programs")]
    Attached(#[source] Source),
}

/// The cause below a `DataplaneError`.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

impl DataplaneError {
    /// The word used in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Load { .. } => "load",
            Self::Full(_) => "full",
            Self::Write { .. } => "write",
            Self::Gone(_) => "gone",
            Self::Attach { .. } => "attach",
            Self::Detach { .. } => "detach",
            Self::Guard { .. } | Self::NoGuards(_) | Self::CgroupGuardState { .. } => "guard",
            Self::Attached(_) => "attached",
        }
    }
}

/// The kernel, or what stands in for it in tests.
///
/// Calls are made from one thread, in the order of the plan.
pub trait Dataplane {
    /// Reads every table back. Called at start, and again when drift is suspected.
    fn load(&mut self) -> Result<Actual, DataplaneError>;

    /// Makes one write. Afterwards either the table holds the new value, or it is unchanged and an
    /// error says so. Removing what is not there succeeds.
    fn apply(&mut self, op: &Op) -> Result<(), DataplaneError>;

    /// Makes writes that do not depend on each other (no two on one key), and returns the index and
    /// error of each that failed. The default makes them one by one; a kernel batches runs of one table.
    fn apply_all(&mut self, ops: &[Op]) -> Vec<(usize, DataplaneError)> {
        ops.iter().enumerate().filter_map(|(at, op)| self.apply(op).err().map(|error| (at, error))).collect()
    }

    /// Puts the program on an interface that judges what its pod sends: from then on nothing comes out of it
    /// until its `Endpoint` entry is written. `attach` repairs what fails here.
    fn shut(&mut self, port: &Port) -> Result<(), DataplaneError> {
        let _ = port;
        Ok(())
    }

    /// Puts both programs on an interface; succeeds when they are there already. From then on the
    /// interface is denied until its `Endpoint` entry is written.
    fn attach(&mut self, port: &Port) -> Result<(), DataplaneError>;

    /// Removes both programs, and every pin of theirs; succeeds when interface or programs are gone.
    fn detach(&mut self, port: &Port) -> Result<(), DataplaneError>;

    /// Whether an interface that `attached` named still runs this agent's programs: not those of the
    /// agent before it, and not none because somebody removed them. `attach` repairs it.
    fn is_intact(&mut self, port: &Port) -> bool {
        let _ = port;
        true
    }

    /// Brings the guards to this, and returns what could not be done; whoever is not known then stays
    /// guarded out. With `look`, what is in the kernel is read again first.
    fn sync_guards(&mut self, guards: &Guards, look: bool) -> Vec<DataplaneError>;

    /// What the kernel says is attached now, pins of vanished interfaces included: those are to be
    /// detached too.
    fn attached(&mut self) -> Result<Vec<Port>, DataplaneError>;
}
