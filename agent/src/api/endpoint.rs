//! `Endpoint`: a pod described in a file, for use without Kubernetes.
//!
//! Types as users write them, before any value is checked. The kind exists in files only, not in a cluster.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One container, network namespace, or virtual machine on a tap device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Endpoint {
    /// Always `bulkhead.dev/v1alpha1`.
    pub api_version: String,
    /// Always `Endpoint`.
    pub kind: String,
    /// Name of the endpoint.
    pub metadata: EndpointMeta,
    /// Addresses and interface.
    pub spec: EndpointSpec,
}

/// Identifies an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EndpointMeta {
    /// The namespace, which determines the tenant.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Name, unique in the namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Distinguishes an endpoint from a later one of the same name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub uid: String,
}

/// Addresses and interface of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EndpointSpec {
    /// Its addresses: at most one IPv4, one IPv6, and one IPv6 link-local.
    #[schemars(length(min = 1, max = 3), inner(length(min = 1, max = 45)))]
    pub addresses: Vec<String>,
    /// Host-side interface of an endpoint on this node. It excludes `netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 15))]
    pub interface: Option<String>,
    /// Named network namespace (`ip netns`) of an endpoint on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 255))]
    pub netns: Option<String>,
    /// Its hardware address. By default the observed address is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 17, max = 17))]
    pub mac: Option<String>,
    /// Its gateways, at most one per address family. By default the node's addresses are used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(min = 1, max = 45)))]
    pub gateways: Vec<String>,
    /// The workload that runs it, for events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "EndpointWorkload")]
    pub workload: Option<EndpointWorkload>,
}

/// Kind and name of the workload that runs an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EndpointWorkload {
    /// Kind, such as `Deployment` or `Job`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
