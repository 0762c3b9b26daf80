//! The event as the outside world reads it: `bulkhead.dev/violation/v1`.
//!
//! A promise to SIEM rules: fields are only added within v1, numbers are numbers, addresses are
//! strings, and what is not known is not there (never `""`, never `null`). Keys are in the order
//! in which people read them. Refuses to know how any of it was found out.

use std::net::IpAddr;

use agent_common::counters::Outcome;
use agent_common::flow::Direction;
use agent_common::reason::DropReason;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::labels::Label;
pub use super::wire::{Time, Uuid7};

/// One event, one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Which promise this line keeps.
    pub schema: SchemaId,
    /// Last packet of the event, or when the state changed. Events leave in about this order.
    pub time: Time,
    /// UUID version 7: sorts by time, and tells a repeat from a second event.
    pub id: Uuid7,
    /// What happened.
    #[serde(flatten)]
    pub body: Body,
}

/// The versions of the schema; there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SchemaId {
    /// Version 1.
    #[default]
    #[serde(rename = "bulkhead.dev/violation/v1")]
    V1,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Body {
    /// Packets of one flow were dropped, or would have been.
    Violation(Box<ViolationEvent>),
    /// Events were held back by a rate limit. Counters are not affected.
    Suppressed(SuppressedEvent),
    /// The agent's own state changed.
    State(StateEvent),
}

/// Packets of one flow were dropped, or would have been in enforce mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ViolationEvent {
    /// From the reason; an audited one stands one step lower.
    pub severity: EventSeverity,
    /// What became of the packets.
    pub verdict: Label<Outcome>,
    /// Why.
    pub reason: Label<DropReason>,
    /// Seen from the local pod.
    pub direction: Label<Direction>,
    /// Name of the cluster, if the agent was told one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Name of the node.
    pub node: String,
    /// Who sent it.
    pub source: FlowEndpoint,
    /// Who it was for.
    pub destination: FlowEndpoint,
    /// The packet.
    pub network: Network,
    /// What denied it.
    pub policy: Policy,
    /// Packets folded into this event.
    pub count: u64,
    /// No packet of this event is older.
    pub first_seen: Time,
    /// The newest packet of this event.
    pub last_seen: Time,
    /// One sentence for people.
    pub message: String,
}

/// How much somebody should care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventSeverity {
    /// For the record.
    Info,
    /// Probably a mistake.
    Low,
    /// Look at it today.
    Medium,
    /// Somebody tries.
    High,
    /// The boundary itself is in doubt.
    Critical,
}

/// What stands at one end of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlowEndpointKind {
    /// A pod.
    Pod,
    /// A node.
    Host,
    /// A Service address.
    Service,
    /// An address outside the cluster.
    External,
    /// An address of the cluster that is nothing we know, or a frame without one.
    #[default]
    Unknown,
}

/// One end of a flow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowEndpoint {
    /// What it is.
    pub kind: FlowEndpointKind,
    /// The address as the packet says; a spoofed one too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Port, of the newest packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its tenant; absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Namespace of the pod or Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// UID of the pod: safe to join on when names are reused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// What runs the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadRef>,
    /// Name of the Service or node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Name of the tenant's own subnet that holds the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
}

/// What runs a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadRef {
    /// Deployment, StatefulSet, Job and so on.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// The newest packet of the event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// Absent where the frame is no readable IP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<IpFamily>,
    /// The EtherType, where the frame is no readable IP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ethertype: Option<u16>,
    /// `tcp`, `udp`, `sctp`, `icmp` or `ipv6-icmp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// IANA protocol number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_number: Option<u8>,
    /// TCP flags that were set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tcp_flags: Vec<TcpFlag>,
    /// ICMP type, instead of ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// Bytes of the frame.
    pub length: u32,
    /// Community ID version 1: joins with Zeek and Suricata. Only where there are ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub community_id: Option<String>,
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IpFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// A TCP flag, in the order of the bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum TcpFlag {
    Fin,
    Syn,
    Rst,
    Psh,
    Ack,
    Urg,
    Ece,
    Cwr,
}

/// What denied it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Policy {
    /// Whose policy: the local pod's tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The default, or the named range, that decided.
    pub rule: String,
    /// Mode in which it was judged.
    pub mode: EnforcementMode,
    /// Policy generation that the kernel held.
    pub revision: u64,
}

/// Drop, or only report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnforcementMode {
    /// Drop.
    Enforce,
    /// Report what would be dropped.
    Audit,
}

impl EnforcementMode {
    /// The label used in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
        }
    }
}

/// Events were held back. What the counters say is complete all the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SuppressedEvent {
    /// Always `low`.
    pub severity: EventSeverity,
    /// Name of the cluster, if the agent was told one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Name of the node.
    pub node: String,
    /// Events and kernel records held back.
    pub count: u64,
    /// Packets that no event has told of.
    pub packets: u64,
    /// When.
    pub window: SuppressionWindow,
    /// Where they were held back.
    pub stages: Vec<StageCount>,
    /// The most frequent reasons.
    pub reasons: Vec<ReasonCount>,
    /// The loudest tenants.
    pub tenants: Vec<TenantCount>,
    /// One sentence for people.
    pub message: String,
}

/// From, until.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct SuppressionWindow {
    pub start: Time,
    pub end: Time,
}

/// Held back at one stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StageCount {
    /// `pod_limit` (in the kernel) or `rate_limit` (in the agent).
    pub stage: String,
    /// How many.
    pub count: u64,
}

/// Held back for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReasonCount {
    /// The reason.
    pub reason: Label<DropReason>,
    /// How many.
    pub count: u64,
}

/// Held back of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantCount {
    /// The tenant; absent means pods of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// How many.
    pub count: u64,
    /// Packets that no event has told of.
    pub packets: u64,
}

/// What changed about the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentStateChange {
    /// The agent has started.
    AgentStarted,
    /// The agent ends; the kernel keeps enforcing.
    AgentStopping,
    /// The mode in force is another.
    ModeChanged,
    /// Something local is not enforced that should be.
    EnforcementLost,
    /// It is again.
    EnforcementRestored,
}

/// The agent's own state changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StateEvent {
    /// `critical` when enforcement is lost.
    pub severity: EventSeverity,
    /// Name of the cluster, if the agent was told one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Name of the node.
    pub node: String,
    /// What changed.
    pub state: AgentStateChange,
    /// Mode in force now, where the change is about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<EnforcementMode>,
    /// Whose mode or pod, where the change is about one tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Version of the agent.
    pub version: String,
    /// Policy generation that the kernel holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// One sentence for people.
    pub message: String,
}

/// The JSON Schema of an event line.
pub fn json_schema() -> Schema {
    let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize().with_transform(never_null);
    settings.into_generator().into_root_schema_for::<Event>()
}

/// An absent value has no key, so `null` is no value of ours.
fn never_null(schema: &mut Schema) {
    schemars::transform::transform_subschemas(&mut never_null, schema);
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(serde_json::Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".into(), only);
        }
    }
    if let Some(serde_json::Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        if let [serde_json::Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            object.extend(only);
        }
    }
}

#[cfg(test)]
mod tests;
