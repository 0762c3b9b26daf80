//! What can fail between a decision and the kernel.
//!
//! Names what was tried: a table, an interface, a guard. Knows no implementation of the dataplane; what an
//! implementation has to say is kept as the cause.

use std::error::Error;
use std::sync::Arc;

use super::Port;
use policy::plan::Table;

/// The cause below a [`DataplaneError`].
pub(super) type BoxedCause = Box<dyn Error + Send + Sync>;

/// A failed operation. The variant says what was tried.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// A table could not be read back.
    #[error("cannot read table {}", .table.as_str())]
    Load {
        /// The table.
        table: Table,
        /// The kernel's answer.
        #[source]
        source: BoxedCause,
    },
    /// A table is full.
    #[error("table {} is full", .0.as_str())]
    Full(Table),
    /// An entry could not be written or removed.
    #[error("cannot write table {}", .table.as_str())]
    Write {
        /// The table.
        table: Table,
        /// The kernel's answer.
        #[source]
        source: BoxedCause,
    },
    /// The interface is gone, so nothing can or need be attached.
    #[error("interface {} (index {}) is gone", .0.name, .0.ifindex)]
    Gone(Port),
    /// A program could not be attached.
    #[error("cannot attach to interface {} (index {})", .port.name, .port.ifindex)]
    Attach {
        /// The interface.
        port: Port,
        /// The kernel's answer.
        #[source]
        source: BoxedCause,
    },
    /// A program could not be detached.
    #[error("cannot detach from interface {} (index {})", .port.name, .port.ifindex)]
    Detach {
        /// The interface.
        port: Port,
        /// The kernel's answer.
        #[source]
        source: BoxedCause,
    },
    /// A table of the guards could not be read or written.
    #[error("cannot update table {table} of the guards")]
    Guard {
        /// The name of the map.
        table: &'static str,
        /// The kernel's answer.
        #[source]
        source: BoxedCause,
    },
    /// The kernel refused the program of a guard, so no guard is attached.
    #[error("no guard is attached, because the kernel refused the program of one")]
    NoGuards(#[source] Arc<dyn Error + Send + Sync>),
    /// The cgroup guard could not be attached or detached.
    #[error(
        "cannot {} the cgroup guard{}; BULKHEAD_CGROUP_GUARD=none turns it off",
        if .path.is_empty() { "detach" } else { "attach" },
        if .path.is_empty() { String::new() } else { format!(" to {}", .path) }
    )]
    CgroupGuardState {
        /// The control group above those of all pods; empty when the guard was to be detached.
        path: String,
        /// The kernel's answer.
        #[source]
        source: BoxedCause,
    },
    /// The table of the input guard could not be read or written.
    #[error("the input guard is not in place; BULKHEAD_INPUT_GUARD=none turns it off")]
    InputGuard(#[source] BoxedCause),
    /// The attached programs could not be listed.
    #[error("cannot list attached programs")]
    Attached(#[source] BoxedCause),
}

impl DataplaneError {
    /// The label used in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Load { .. } => "load",
            Self::Full(_) => "full",
            Self::Write { .. } => "write",
            Self::Gone(_) => "gone",
            Self::Attach { .. } => "attach",
            Self::Detach { .. } => "detach",
            Self::Guard { .. } | Self::NoGuards(_) | Self::CgroupGuardState { .. } | Self::InputGuard(_) => "guard",
            Self::Attached(_) => "attached",
        }
    }
}
