//! `Endpoint`: what Kubernetes would otherwise tell about a pod, for use without it.
//!
//! Read from a static file only; there is no such kind in a cluster.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One pod-like thing: a container, a network namespace, a machine on a tap device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Always `bulkhead.dev/v1alpha1`.
    pub api_version: String,
    /// Always `Endpoint`.
    pub kind: String,
    /// Which endpoint.
    pub metadata: EndpointMeta,
    /// How the network sees it.
    pub spec: EndpointSpec,
}

/// Names an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointMeta {
    /// The namespace, which decides the tenant.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Unique in the namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Tells an endpoint from its successor of the same name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub uid: String,
}

/// How the network sees an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSpec {
    /// Its addresses: at most one IPv4, one IPv6, and one IPv6 link-local.
    #[schemars(length(min = 1, max = 3), inner(length(min = 1, max = 45)))]
    pub addresses: Vec<String>,
    /// Host-side interface, if it is on this node. Not together with `netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 15))]
    pub interface: Option<String>,
    /// Named network namespace (`ip netns`) that its end of the pair is in, if it is on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 255))]
    pub netns: Option<String>,
    /// Its hardware address; otherwise the observed one counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 17, max = 17))]
    pub mac: Option<String>,
    /// Its gateways, at most one per family; otherwise the node's addresses serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(min = 1, max = 45)))]
    pub gateways: Vec<String>,
    /// What runs it, for events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Workload")]
    pub workload: Option<Workload>,
}

/// Kind and name of what runs an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    /// `Deployment`, `Job` and the like.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
