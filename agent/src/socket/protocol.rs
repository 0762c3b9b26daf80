//! What is said over the socket: one request line, then answer lines.
//!
//! An observe answer is event lines as on stdout, with notes among them; a note has the key `note`,
//! an event has the key `schema`. A status answer is one line.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::events::filter::Filter;
use crate::health::{self, Observed};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum SocketRequest {
    /// How the agent is.
    Status,
    /// Events.
    Observe {
        /// Stay for what comes.
        #[serde(default)]
        follow: bool,
        /// How many of the last ones, after the filter.
        #[serde(default)]
        last: usize,
        /// Which.
        #[serde(default)]
        filter: Filter,
    },
}

/// Said between events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "snake_case")]
pub enum Notice {
    /// The reader was too slow: its oldest waiting events were dropped.
    Lost {
        /// How many.
        count: u64,
    },
    /// The request was refused.
    Error {
        /// Why.
        message: String,
    },
}

/// The versions of the status document; there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatusSchema {
    /// Version 1.
    #[default]
    #[serde(rename = "bulkhead.dev/status/v1")]
    V1,
}

/// How the agent is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Which document this is.
    pub schema: StatusSchema,
    /// Version of the agent.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// Name of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// When the agent started.
    pub started: Timestamp,
    /// Every promise about this node's pods holds.
    pub ready: bool,
    /// Why not.
    pub not_ready: Vec<String>,
    /// What the rooms report.
    pub observed: Observed,
    /// Packets dropped since the maps were made.
    pub dropped: u64,
    /// Packets audited since the maps were made.
    pub audited: u64,
    /// Records and events that reached no sink since the agent started.
    pub events_lost: u64,
}

impl AgentStatus {
    /// The document of this state; the counts are filled in by whoever has them.
    pub fn of(node: String, cluster: Option<String>, started: Timestamp, observed: Observed) -> Self {
        let not_ready = health::not_ready(&observed);
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            node,
            cluster,
            started,
            ready: not_ready.is_empty(),
            not_ready,
            observed,
            ..Self::default()
        }
    }
}
