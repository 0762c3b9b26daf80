//! The event as sinks write it: `bulkhead.dev/violation/v1`.
//!
//! SIEM rules depend on it. Within v1, fields are only added. Numbers are numbers, and addresses are strings. An
//! unknown value has no key: neither `""` nor `null` is written. Keys are in the order in which people read them. This
//! file does not know where a value comes from.

use std::net::IpAddr;

use agent_common::counters::Outcome;
use agent_common::flow::Direction;
use agent_common::reason::DropReason;
use policy::model::unprotected::UnprotectedReason;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::labels::Label;
pub(crate) use super::wire::{Time, Uuid7};

/// One event, one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Event {
    /// Name and version of the schema of this line.
    pub schema: SchemaId,
    /// Time of the last packet, or of the change of state. Events are written in about this order.
    pub time: Time,
    /// UUID version 7, which sorts by time. Two lines with the same one are the same event.
    pub id: Uuid7,
    /// What happened.
    #[serde(flatten)]
    pub body: Body,
}

/// The versions of the schema. There is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum SchemaId {
    /// Version 1.
    #[default]
    #[serde(rename = "bulkhead.dev/violation/v1")]
    V1,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Body {
    /// Packets of one flow were dropped, or would have been dropped in enforce mode.
    Violation(Box<ViolationEvent>),
    /// A rate limit held events back. Counters are not affected.
    Suppressed(SuppressedEvent),
    /// The agent's own state changed.
    State(StateEvent),
}

/// Packets of one flow were dropped, or would have been dropped in enforce mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ViolationEvent {
    /// Severity of the reason; one step lower if the packets were only audited.
    pub severity: EventSeverity,
    /// Whether the packets were dropped or audited.
    pub verdict: Label<Outcome>,
    /// Why the packets were denied.
    pub reason: Label<DropReason>,
    /// Direction, from the view of the local pod.
    pub direction: Label<Direction>,
    /// Name of the cluster, if one is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Name of the node.
    pub node: String,
    /// The sender.
    pub source: FlowEndpoint,
    /// The receiver.
    pub destination: FlowEndpoint,
    /// Headers of the newest packet.
    pub network: Network,
    /// The policy that denied the packets.
    pub policy: Policy,
    /// Packets aggregated in this event.
    pub count: u64,
    /// No packet of this event is older.
    pub first_seen: Time,
    /// Time of the newest packet of this event.
    pub last_seen: Time,
    /// One sentence for people.
    pub message: String,
}

/// How urgent an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EventSeverity {
    /// Ordinary; no action is needed.
    Info,
    /// Probably a mistake.
    Low,
    /// To be looked at the same day.
    Medium,
    /// Probably deliberate.
    High,
    /// Enforcement is incomplete.
    Critical,
}

/// The kind of one end of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FlowEndpointKind {
    /// A pod.
    Pod,
    /// A node.
    Host,
    /// A Service address.
    Service,
    /// An address outside the cluster.
    External,
    /// An address of the cluster without a known owner, or a frame without an address.
    #[default]
    Unknown,
}

/// One end of a flow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FlowEndpoint {
    /// Kind of this end.
    pub kind: FlowEndpointKind,
    /// Address in the packet, even if it is spoofed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Port in the newest packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Tenant of the address. Absent if it has none.
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
    /// Workload that the pod belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadRef>,
    /// Name of the Service or node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Name of the tenant's own subnet that holds the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
}

/// The workload that a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct WorkloadRef {
    /// Deployment, StatefulSet, Job and so on.
    pub kind: String,
    /// Name of the workload.
    pub name: String,
}

/// The newest packet of the event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Network {
    /// Address family. Absent if the frame is not readable IP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<IpFamily>,
    /// EtherType. Present only if the frame is not readable IP.
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
    /// ICMP type. ICMP has no ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// Bytes of the frame.
    pub length: u32,
    /// Community ID version 1, which Zeek and Suricata compute too. Present only if there are ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub community_id: Option<String>,
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IpFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// The TCP flags, in the order of their bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(clippy::missing_docs_in_private_items, reason = "the names are the documentation")]
pub(crate) enum TcpFlag {
    Fin,
    Syn,
    Rst,
    Psh,
    Ack,
    Urg,
    Ece,
    Cwr,
}

/// The policy that denied the packets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Policy {
    /// Tenant of the local pod. The policy is its policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Name of the default rule, or of the named range, that decided.
    pub rule: String,
    /// Mode in which the packets were judged.
    pub mode: EnforcementMode,
    /// Policy generation that denied the packets.
    pub revision: u64,
}

/// Whether denied packets are dropped or only reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EnforcementMode {
    /// Drop.
    Enforce,
    /// Report what would be dropped.
    Audit,
}

impl EnforcementMode {
    /// The label used in messages.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
        }
    }
}

/// Events were held back. Counters are complete nevertheless.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SuppressedEvent {
    /// Always `low`.
    pub severity: EventSeverity,
    /// Name of the cluster, if one is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Name of the node.
    pub node: String,
    /// Events and kernel records held back.
    pub count: u64,
    /// Packets that no event reports.
    pub packets: u64,
    /// The period in which they were held back.
    pub window: SuppressionWindow,
    /// Counts by the stage that held them back.
    pub stages: Vec<StageCount>,
    /// Events held back by drop reason, the most frequent first.
    pub reasons: Vec<ReasonCount>,
    /// Counts by tenant, the highest first.
    pub tenants: Vec<TenantCount>,
    /// One sentence for people.
    pub message: String,
}

/// Start and end of a period.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(clippy::missing_docs_in_private_items, reason = "the names are the documentation")]
pub(crate) struct SuppressionWindow {
    pub start: Time,
    pub end: Time,
}

/// What one stage held back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct StageCount {
    /// `pod_limit` (in the kernel) or `rate_limit` (in the agent).
    pub stage: String,
    /// Events and kernel records held back.
    pub count: u64,
}

/// What was held back for one drop reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ReasonCount {
    /// The reason.
    pub reason: Label<DropReason>,
    /// Events held back.
    pub count: u64,
}

/// What was held back of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct TenantCount {
    /// The tenant. Absent for pods without a tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Events and kernel records held back.
    pub count: u64,
    /// Packets that no event reports.
    pub packets: u64,
}

/// What changed about the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AgentStateChange {
    /// The agent has started.
    AgentStarted,
    /// The agent stops. The kernel keeps enforcing.
    AgentStopping,
    /// The mode in force has changed.
    ModeChanged,
    /// A local pod, the guards or the newest policy should be enforced and are not.
    EnforcementLost,
    /// What was not enforced is enforced again.
    EnforcementRestored,
    /// A local pod has had traffic that no program judges for ten seconds.
    PodUnprotected,
    /// The pod's traffic is judged again, or the pod is gone.
    PodProtected,
}

/// The agent's own state changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct StateEvent {
    /// `critical` when enforcement is lost, or the node causes an unprotected pod; `high` if its author can cause it.
    pub severity: EventSeverity,
    /// Name of the cluster, if one is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Name of the node.
    pub node: String,
    /// What changed.
    pub state: AgentStateChange,
    /// Mode now in force, if the mode changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<EnforcementMode>,
    /// Tenant whose mode or pod it is, if the change concerns one tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The pod that is or was unprotected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unprotected: Option<UnprotectedRef>,
    /// Version of the agent.
    pub version: String,
    /// Policy generation that the kernel holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// One sentence for people.
    pub message: String,
}

/// A pod with traffic that no program judges, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct UnprotectedRef {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod. Absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Why no program judges it.
    pub reason: Label<UnprotectedReason>,
}

/// The JSON Schema of an event line.
pub(crate) fn json_schema() -> Schema {
    let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize().with_transform(never_null);
    settings.into_generator().into_root_schema_for::<Event>()
}

/// Removes `null` from the schema: an absent value has no key.
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
