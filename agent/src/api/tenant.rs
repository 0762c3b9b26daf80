//! `NetworkTenant`: who belongs together, which destinations are theirs, and whom they may meet.
//!
//! Types as written, before anybody checked what they mean: a CIDR here is a string that claims to be
//! one. Every list and string has a bound, so that the API server can price the rules in advance.
//! `null` is refused where a value belongs: "no ports given" means every port, and a null must not.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use super::status::NetworkTenantStatus;

/// Names that metrics and events use for addresses of no tenant.
pub const RESERVED: [&str; 5] = ["none", "unassigned", "host", "world", "other"];
/// Longest name of a tenant, a subnet, an egress entry: names are label values too.
pub const MAX_NAME: usize = 63;
/// Most `subnets` of one tenant.
pub const MAX_SUBNETS: usize = 64;
/// Most `egress` entries of one tenant.
pub const MAX_EGRESS: usize = 32;
/// Most CIDRs of one `egress` entry.
pub const MAX_CIDRS: usize = 32;
/// Most ports of one entry.
pub const MAX_PORTS: usize = 16;
/// Most peers of one tenant.
pub const MAX_PEERS: usize = 64;
/// Most labels, and most expressions, of a selector.
pub const MAX_SELECTOR: usize = 16;

/// Keeps the tenants of a shared cluster apart: the pods of the selected namespaces may reach each
/// other, Shared tenants, mutual peers and the destinations listed here, and nothing else.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "bulkhead.dev",
    version = "v1alpha1",
    kind = "NetworkTenant",
    plural = "networktenants",
    shortname = "nt",
    category = "bulkhead",
    status = "NetworkTenantStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "The namespaces of one tenant and the destinations its pods may reach.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.class"),
    printcolumn(name = "Namespaces", type_ = "integer", json_path = ".status.namespaceCount"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.podCount"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63")
        .message("tenant names are also label values: at most 63 characters"),
    validation = Rule::new("!(self.metadata.name in ['none', 'unassigned', 'host', 'world', 'other'])")
        .message("none, unassigned, host, world and other are reserved: metrics and events use them"),
    validation = Rule::new("!has(self.spec.peers) || self.spec.peers.all(p, p.tenant != self.metadata.name)")
        .message("a tenant cannot be its own peer: its namespaces reach each other already"),
)]
#[x_kube(
    validation = Rule::new("!has(self.class) || self.class != 'Shared' || !has(self.peers) || size(self.peers) == 0")
        .message("a Shared tenant reaches every tenant already: remove peers")
        .field_path(".peers"),
    validation = Rule::new("!has(self.subnets) || !has(self.egress) || self.egress.all(e, self.subnets.all(s, s.name != e.name))")
        .message("a name may be used once in subnets and egress together: events name the entry that decided")
        .field_path(".egress"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(!deny_unknown_fields)]
pub struct NetworkTenantSpec {
    /// Which namespaces belong to the tenant. Never empty: an empty selector would select them all.
    pub namespace_selector: NamespaceSelector,
    /// Isolated, or Shared for DNS, ingress and monitoring: reachable by all tenants, reaches all.
    #[serde(default)]
    pub class: Class,
    /// Enforce, or Audit to report what would be dropped.
    #[serde(default)]
    pub mode: Mode,
    /// The tenant's own data subnets, exclusive to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub subnets: Vec<Subnet>,
    /// Further destinations, not exclusive: a proxy, a SaaS range, 0.0.0.0/0 for the internet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub egress: Vec<EgressRule>,
    /// This side's half of permissions between tenants: both must list each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["tenant".into()]))]
    pub peers: Vec<Peer>,
}

/// Labels that a namespace must have; all requirements must match.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new(
        "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)"
    ).message("namespaceSelector must not be empty: it would select every namespace"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(!deny_unknown_fields)]
pub struct NamespaceSelector {
    /// Labels with the values they must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "match_labels")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<LabelRequirement>,
}

/// One requirement on one label.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!(self.operator in ['In', 'NotIn']) || (has(self.values) && size(self.values) > 0)")
        .message("In and NotIn need values"),
    validation = Rule::new("self.operator in ['In', 'NotIn'] || !has(self.values) || size(self.values) == 0")
        .message("Exists and DoesNotExist take no values"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(!deny_unknown_fields)]
pub struct LabelRequirement {
    /// The label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the label relates to the values.
    pub operator: LabelOperator,
    /// Values for In and NotIn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label relates to the values of a requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(missing_docs, reason = "the names are those of Kubernetes' own label selectors")]
pub enum LabelOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// How a tenant relates to all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(missing_docs, reason = "described at the field")]
pub enum Class {
    #[default]
    Isolated,
    Shared,
}

/// What happens to a packet that may not pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(missing_docs, reason = "described at the field")]
pub enum Mode {
    #[default]
    Enforce,
    Audit,
}

/// One data subnet of the tenant.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!isCIDR(self.cidr) || cidr(self.cidr).prefixLength() >= (cidr(self.cidr).ip().family() == 4 ? 8 : 16)")
        .message("a data subnet is exclusive to its tenant and must not be wider than /8 (IPv4) or /16 (IPv6): wide ranges belong in egress")
        .field_path(".cidr"),
    validation = Rule::new("!isCIDR(self.cidr) || (cidr(self.cidr).ip().isGlobalUnicast() && !cidr(self.cidr).containsIP('169.254.169.254'))")
        .message("a data subnet must be ordinary unicast space: no loopback, link-local, multicast, unspecified or metadata address")
        .field_path(".cidr"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(!deny_unknown_fields)]
pub struct Subnet {
    /// What events call it.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("must be lower-case letters, digits and dashes, and begin and end with a letter or digit"))]
    pub name: String,
    /// The network, without host bits.
    pub cidr: Cidr,
    /// What may be reached there. Leave it out for every protocol and port.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<PortRule>", length(min = 1, max = 16))]
    pub ports: Option<Vec<PortRule>>,
}

/// Further destinations under one name.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(!deny_unknown_fields)]
pub struct EgressRule {
    /// What events call it.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("must be lower-case letters, digits and dashes, and begin and end with a letter or digit"))]
    pub name: String,
    /// The networks, without host bits.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub cidrs: Vec<Cidr>,
    /// What may be reached there. Leave it out for every protocol and port.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<PortRule>", length(min = 1, max = 16))]
    pub ports: Option<Vec<PortRule>>,
}

/// A protocol, and a port or a range of them.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.endPort) || (has(self.port) && self.endPort >= self.port)")
        .message("endPort needs port and must not be below it"),
    validation = Rule::new("self.protocol != 'ICMP' || !has(self.port)")
        .message("ICMP has no port: remove port"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(!deny_unknown_fields)]
pub struct PortRule {
    /// TCP, UDP, SCTP or ICMP (which is ICMPv6 in IPv6 networks).
    pub protocol: Protocol,
    /// The port. Leave it out for every port.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Last port of a range that begins at `port`.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 65535))]
    pub end_port: Option<u16>,
}

/// Protocols a rule may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names are those of NetworkPolicy")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// One side's half of a permission between two tenants.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(!deny_unknown_fields)]
pub struct Peer {
    /// The other tenant, which must list this one too.
    #[schemars(length(min = 1, max = 63))]
    pub tenant: String,
    /// Who may open connections: Egress this tenant, Ingress the other, or Both.
    pub direction: Direction,
    /// When this half ends by itself, in RFC 3339 with a zone: 2027-01-31T00:00:00Z.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 40), extend("format" = "date-time"))]
    pub until: Option<String>,
    /// Why, for whoever reads it later.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 256))]
    pub reason: Option<String>,
}

/// Who may open connections, seen from the tenant that lists the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(missing_docs, reason = "described at the field")]
pub enum Direction {
    Egress,
    Ingress,
    Both,
}

/// A string that claims to be a network; [`super::cidr::parse`] decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cidr(pub String);

impl From<&str> for Cidr {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// No `messageExpression` naming the canonical form: the API server cannot bound its cost (1.36).
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            // The longest IPv6 address and "/128".
            "maxLength": 43,
            "x-kubernetes-validations": [
                {"rule": "isCIDR(self)",
                 "message": "must be a network such as 10.40.0.0/24 or fd00:40::/64: no leading zeros, spaces, zone or IPv4-mapped form"},
                {"rule": "!isCIDR(self) || cidr(self) == cidr(self).masked()",
                 "message": "has host bits set: write the network's own address"},
            ],
        })
    }
}

/// Maps have no attribute for their size and their values' length.
fn match_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63},
    })
}

/// An absent optional field is `None`; a null is an error and not the same thing.
fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests;
