//! The messages on the agent's socket: one request line, then answer lines.
//!
//! The answer to `observe` consists of event lines as on stdout, with notices among them. A notice has the key
//! `notice`, and an event has the key `schema`. The answer to `status` is one line.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::events::filter::Filter;
use crate::health::{self, Observed};

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum SocketRequest {
    /// The agent's status.
    Status,
    /// Events.
    Observe {
        /// Whether to send later events, too.
        #[serde(default)]
        follow: bool,
        /// How many of the latest events that pass the filter to send.
        #[serde(default)]
        last: usize,
        /// Which events to send.
        #[serde(default)]
        filter: Filter,
    },
}

/// A message among the events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "snake_case")]
pub(crate) enum Notice {
    /// The reader was too slow, so its oldest waiting events were dropped.
    Lost {
        /// How many events.
        count: u64,
    },
    /// The request was refused.
    Error {
        /// Why.
        message: String,
    },
}

/// Versions of the status document. There is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StatusSchema {
    /// Version 1.
    #[default]
    #[serde(rename = "bulkhead.dev/status/v1")]
    V1,
}

/// The agent's status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct AgentStatus {
    /// Version of this document.
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
    /// Whether the agent is ready, as [`health::not_ready`] decides.
    pub ready: bool,
    /// Why it is not ready.
    pub not_ready: Vec<String>,
    /// What the modules report.
    pub observed: Observed,
    /// Packets dropped since the maps were made.
    pub dropped: u64,
    /// Packets audited since the maps were made.
    pub audited: u64,
    /// Records and events that reached no sink since the agent started.
    pub events_lost: u64,
}

impl AgentStatus {
    /// The status of an agent in this state. The caller adds the counts.
    pub(crate) fn of(node: String, cluster: Option<String>, started: Timestamp, observed: Observed) -> Self {
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
