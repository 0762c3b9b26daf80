//! `NetworkTenant`: the namespaces of a tenant, its destinations, and its peers.
//!
//! Types as users write them, before any value is checked: a CIDR here is a string. Every list and string has a bound,
//! so that the API server can estimate the cost of the rules. `null` is refused: absent ports mean every port, and a
//! null must not.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use super::status::NetworkTenantStatus;

/// Names that metrics and events use for addresses without a tenant.
pub(crate) const RESERVED: [&str; 5] = ["none", "unassigned", "host", "world", "other"];
/// Longest name of a tenant, a subnet, or an egress entry. Names are also label values.
pub(crate) const MAX_NAME: usize = 63;
/// How many `subnets` a tenant may have.
pub(crate) const MAX_SUBNETS: usize = 64;
/// How many `egress` entries a tenant may have.
pub(crate) const MAX_EGRESS: usize = 32;
/// How many CIDRs an `egress` entry may have.
pub(crate) const MAX_CIDRS: usize = 32;
/// How many ports an entry may have.
pub(crate) const MAX_PORTS: usize = 16;
/// How many peers a tenant may have.
pub(crate) const MAX_PEERS: usize = 64;
/// How many labels and how many expressions a selector may have.
pub(crate) const MAX_SELECTOR: usize = 16;

/// One tenant of a shared cluster. The pods of the selected namespaces may reach each other, Shared tenants, mutual
/// peers and the destinations listed here. Everything else is denied.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "bulkhead.dev",
    version = "v1alpha1",
    kind = "NetworkTenant",
    plural = "networktenants",
    attr = "allow(clippy::missing_docs_in_private_items, reason = \"the derive documents no field\")",
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
        .message("a tenant's name is also a label value: use at most 63 characters"),
    validation = Rule::new("!(self.metadata.name in ['none', 'unassigned', 'host', 'world', 'other'])")
        .message("the names none, unassigned, host, world and other are reserved for metrics and events: choose another name"),
    validation = Rule::new("!has(self.spec.peers) || self.spec.peers.all(p, p.tenant != self.metadata.name)")
        .message("a tenant cannot be its own peer: its namespaces already reach each other"),
)]
#[x_kube(
    validation = Rule::new("!has(self.class) || self.class != 'Shared' || !has(self.peers) || size(self.peers) == 0")
        .message("a Shared tenant already reaches every tenant: remove peers")
        .field_path(".peers"),
    validation = Rule::new("!has(self.subnets) || !has(self.egress) || self.egress.all(e, self.subnets.all(s, s.name != e.name))")
        .message("a name may be used only once in subnets and egress: events name the entry that decided")
        .field_path(".egress"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(!deny_unknown_fields)]
pub(crate) struct NetworkTenantSpec {
    /// Which namespaces belong to the tenant. It must not be empty: an empty selector would select every namespace.
    pub namespace_selector: NamespaceSelector,
    /// Isolated (the default), or Shared. A Shared tenant reaches all tenants and is reached by all: use it for DNS,
    /// ingress and monitoring.
    #[serde(default)]
    pub class: Class,
    /// Enforce (the default) drops denied packets. Audit only reports them.
    #[serde(default)]
    pub mode: TenantMode,
    /// Data subnets of the tenant. No other tenant may reach them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub subnets: Vec<Subnet>,
    /// Further destinations that other tenants may list too, such as a proxy, or 0.0.0.0/0 for the internet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub egress: Vec<EgressRule>,
    /// Tenants that this tenant may exchange traffic with. A permission holds only if both tenants list each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["tenant".into()]))]
    pub peers: Vec<Peer>,
}

/// Labels that a namespace must have. All requirements must match.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new(
        "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)"
    ).message("namespaceSelector must not be empty: an empty selector would select every namespace"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(!deny_unknown_fields)]
pub(crate) struct NamespaceSelector {
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
pub(crate) struct LabelRequirement {
    /// Key of the label.
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
#[allow(clippy::missing_docs_in_private_items, reason = "the names are those of Kubernetes' own label selectors")]
pub(crate) enum LabelOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// How a tenant relates to all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(clippy::missing_docs_in_private_items, reason = "described at the field")]
pub(crate) enum Class {
    #[default]
    Isolated,
    Shared,
}

/// What happens to a denied packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(clippy::missing_docs_in_private_items, reason = "described at the field")]
pub(crate) enum TenantMode {
    #[default]
    Enforce,
    Audit,
}

/// One data subnet of the tenant.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!isCIDR(self.cidr) || cidr(self.cidr).prefixLength() >= (cidr(self.cidr).ip().family() == 4 ? 8 : 16)")
        .message("a data subnet must not be wider than /8 (IPv4) or /16 (IPv6): list wider ranges in egress")
        .field_path(".cidr"),
    validation = Rule::new("!isCIDR(self.cidr) || (cidr(self.cidr).ip().isGlobalUnicast() && !cidr(self.cidr).containsIP('169.254.169.254'))")
        .message("a data subnet must be an ordinary unicast range, without loopback, link-local, multicast, unspecified and metadata addresses")
        .field_path(".cidr"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(!deny_unknown_fields)]
pub(crate) struct Subnet {
    /// Name of the entry in events.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("must consist of lower-case letters, digits and dashes, and begin and end with a letter or digit"))]
    pub name: String,
    /// The network without host bits, such as 10.40.0.0/24.
    pub cidr: Cidr,
    /// Protocols and ports that may be reached. Leave it out for every protocol and port.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<PortRule>", length(min = 1, max = 16))]
    pub ports: Option<Vec<PortRule>>,
}

/// Further destinations with one name.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(!deny_unknown_fields)]
pub(crate) struct EgressRule {
    /// Name of the entry in events.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("must consist of lower-case letters, digits and dashes, and begin and end with a letter or digit"))]
    pub name: String,
    /// The networks without host bits, such as 203.0.113.0/24.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub cidrs: Vec<Cidr>,
    /// Protocols and ports that may be reached. Leave it out for every protocol and port.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<PortRule>", length(min = 1, max = 16))]
    pub ports: Option<Vec<PortRule>>,
}

/// A protocol with a port or a range of ports.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.endPort) || (has(self.port) && self.endPort >= self.port)")
        .message("endPort needs port and must not be below it"),
    validation = Rule::new("self.protocol != 'ICMP' || !has(self.port)")
        .message("ICMP has no port: remove port"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(!deny_unknown_fields)]
pub(crate) struct PortRule {
    /// TCP, UDP, SCTP or ICMP. In IPv6 networks ICMP means ICMPv6.
    pub protocol: PortProtocol,
    /// The port. Leave it out for every port.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Last port of a range that begins at `port`.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 65535))]
    pub end_port: Option<u16>,
}

/// Protocols of a port rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "UPPERCASE")]
#[allow(clippy::missing_docs_in_private_items, reason = "the names are those of NetworkPolicy")]
pub(crate) enum PortProtocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// One tenant's part of a permission between two tenants.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(!deny_unknown_fields)]
pub(crate) struct Peer {
    /// Name of the other tenant, which must list this tenant too.
    #[schemars(length(min = 1, max = 63))]
    pub tenant: String,
    /// Which tenant may open connections. Egress: this tenant; Ingress: the other tenant; Both: both.
    pub direction: Direction,
    /// Time at which this entry expires, in RFC 3339 with a zone, such as 2027-01-31T00:00:00Z.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 40), extend("format" = "date-time"))]
    pub until: Option<String>,
    /// Why the entry exists, for later readers.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 256))]
    pub reason: Option<String>,
}

/// Which side may open connections, seen from the tenant that lists the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(clippy::missing_docs_in_private_items, reason = "described at the field")]
pub(crate) enum Direction {
    Egress,
    Ingress,
    Both,
}

/// A string that should be a network; [`super::cidr::parse`] checks it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Cidr(pub String);

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

    /// A `messageExpression` could name the canonical form, but the API server cannot bound its cost (1.36).
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            // Length of the longest IPv6 address with "/128".
            "maxLength": 43,
            "x-kubernetes-validations": [
                {"rule": "isCIDR(self)",
                 "message": "must be a network such as 10.40.0.0/24 or fd00:40::/64, without leading zeros, spaces, zone and IPv4-mapped form"},
                {"rule": "!isCIDR(self) || cidr(self) == cidr(self).masked()",
                 "message": "has host bits set: write the address of the network itself"},
            ],
        })
    }
}

/// Schema of `matchLabels`. Maps have no attribute for their size and the length of their values.
fn match_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63},
    })
}

/// Reads an optional field. An absent field is `None`; a null is an error.
fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests;
