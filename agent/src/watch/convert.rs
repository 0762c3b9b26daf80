//! Kubernetes objects to what they mean here: the only file that knows their schema.
//!
//! Types of our own, with the fields we read and no more: a pod as the API server writes it is some
//! five kilobytes, of which this keeps a few hundred bytes. Believes nothing that a tenant may write
//! himself, such as `spec.externalIPs`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::Deserialize;

use crate::api::convert;
use crate::api::tenant::NetworkTenant;
use policy::model::input::{self, EndpointKey};

/// The label that ties a slice to its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Addresses a node's packets may come from, which overlays write into its annotations.
const TUNNELS: [&str; 6] = [
    "projectcalico.org/IPv4Address",
    "projectcalico.org/IPv6Address",
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "io.cilium.network.ipv4-cilium-host",
];
/// Flannel's interface of its overlay has the first address of the node's range of pods, and says so
/// by no other means.
const FLANNEL: &str = "flannel.alpha.coreos.com/backend-type";

/// An object that means something here.
pub trait Meaning: Sized {
    /// What it means.
    type Input;

    /// What it means; `None` if nothing.
    fn meaning(self) -> Result<Option<Self::Input>, String>;
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSeen {
    /// As the network sees it; without an address for a while.
    pub endpoint: input::Endpoint,
    /// Where it runs.
    pub node: String,
    /// Whether its network is the node's own: then it is no endpoint, and its addresses are not its.
    pub on_node: bool,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its name.
    pub name: String,
    /// Addresses its own packets come from.
    pub addresses: Vec<IpAddr>,
}

/// A Service without its ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSeen {
    /// Its name.
    pub key: EndpointKey,
    /// Addresses the API server gave it.
    pub addresses: Vec<IpAddr>,
}

/// Some of a Service's ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceSeen {
    /// Its own name.
    pub key: EndpointKey,
    /// Of which Service.
    pub service: String,
    /// The ends.
    pub ends: Vec<IpAddr>,
}

/// A pod, the fields we read.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "Pod")]
pub struct PodLite {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodIp {
    ip: String,
}

/// A namespace, the fields we read.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "Namespace")]
pub struct NamespaceLite {
    metadata: ObjectMeta,
}

/// A node, the fields we read.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "Node")]
pub struct NodeLite {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Clone, Debug, Deserialize)]
struct NodeAddress {
    address: String,
}

/// A Service, the fields we read.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "Service")]
pub struct ServiceLite {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceSpec {
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
}

/// A slice, the fields we read.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "EndpointSlice")]
#[serde(rename_all = "camelCase")]
pub struct SliceLite {
    metadata: ObjectMeta,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<SliceEnd>>,
}

#[derive(Clone, Debug, Deserialize)]
struct SliceEnd {
    addresses: Vec<String>,
}

impl Meaning for NetworkTenant {
    type Input = input::Tenant;

    fn meaning(self) -> Result<Option<input::Tenant>, String> {
        convert::tenant(&self).map(Some).map_err(|error| error.to_string())
    }
}

impl Meaning for NamespaceLite {
    type Input = input::Namespace;

    /// All annotations for now: which ones a tenancy key reads is the caller's business.
    fn meaning(self) -> Result<Option<input::Namespace>, String> {
        let whole = Namespace { metadata: self.metadata, ..Namespace::default() };
        convert::namespace(&whole, |_| true).map(Some).map_err(|error| error.to_string())
    }
}

impl Meaning for PodLite {
    type Input = PodSeen;

    fn meaning(self) -> Result<Option<PodSeen>, String> {
        let is_over = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if is_over {
            return Ok(None);
        }
        let on_node = self.spec.host_network == Some(true);
        let addresses = self.status.pod_ips.filter(|_| !on_node).unwrap_or_default();
        let addresses = addresses.iter().map(|one| address(&one.ip)).collect::<Result<_, _>>()?;
        let endpoint = input::Endpoint {
            key: key(&self.metadata),
            uid: self.metadata.uid.clone().unwrap_or_default(),
            created: created(&self.metadata),
            addresses,
            local: None,
            workload: workload(&self.metadata),
        };
        Ok(Some(PodSeen { endpoint, node: self.spec.node_name.unwrap_or_default(), on_node }))
    }
}

impl Meaning for NodeLite {
    type Input = NodeSeen;

    fn meaning(self) -> Result<Option<NodeSeen>, String> {
        let annotations = self.metadata.annotations.unwrap_or_default();
        let told = self.status.addresses.unwrap_or_default();
        // Host names are among them.
        let mut addresses: Vec<IpAddr> = told.iter().filter_map(|one| address(&one.address).ok()).collect();
        let tunnels = TUNNELS.iter().filter_map(|name| annotations.get(*name));
        addresses.extend(tunnels.filter_map(|text| address(text.split('/').next().unwrap_or_default()).ok()));
        if annotations.contains_key(FLANNEL) {
            let ranges = self.spec.pod_cidrs.unwrap_or_default();
            addresses.extend(ranges.iter().filter_map(|range| Some(range.parse::<ipnet::IpNet>().ok()?.network())));
        }
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Some(NodeSeen { name: self.metadata.name.unwrap_or_default(), addresses }))
    }
}

impl Meaning for ServiceLite {
    type Input = ServiceSeen;

    fn meaning(self) -> Result<Option<ServiceSeen>, String> {
        let addresses = self.spec.cluster_ips.unwrap_or_default();
        let addresses = addresses.iter().filter(|text| !text.is_empty() && *text != "None");
        let addresses = addresses.map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
        Ok((!addresses.is_empty()).then(|| ServiceSeen { key: key(&self.metadata), addresses }))
    }
}

impl Meaning for SliceLite {
    type Input = SliceSeen;

    fn meaning(self) -> Result<Option<SliceSeen>, String> {
        let service = self.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)).cloned();
        let Some(service) = service.filter(|_| self.address_type != "FQDN") else { return Ok(None) };
        let ends = self.endpoints.unwrap_or_default();
        let ends = ends.iter().flat_map(|end| &end.addresses).map(|text| address(text)).collect::<Result<_, _>>()?;
        Ok(Some(SliceSeen { key: key(&self.metadata), service, ends }))
    }
}

/// Name and namespace; the namespace is empty for objects of the cluster.
pub fn key(meta: &ObjectMeta) -> EndpointKey {
    EndpointKey { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
}

fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(0, |Time(at)| at.as_second())
}

fn address(text: &str) -> Result<IpAddr, String> {
    let parsed: Result<IpAddr, _> = text.parse();
    parsed.map(|address| address.to_canonical()).map_err(|_| format!("{text:?} is not an address"))
}

/// What runs a pod. A Deployment is behind its ReplicaSet, whose name ends in a hash the pod also has.
fn workload(meta: &ObjectMeta) -> Option<(String, String)> {
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let empty = BTreeMap::new();
    let hash = meta.labels.as_ref().unwrap_or(&empty).get("pod-template-hash");
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    match deployment {
        Some(name) if owner.kind == "ReplicaSet" => Some(("Deployment".to_owned(), name.to_owned())),
        _ => Some((owner.kind.clone(), owner.name.clone())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read<T: Meaning + for<'a> Deserialize<'a>>(value: Value) -> Result<Option<T::Input>, String> {
        serde_json::from_value::<T>(value).expect("it can be decoded").meaning()
    }

    fn pod(spec: Value, status: Value) -> Result<Option<PodSeen>, String> {
        let metadata = json!({"namespace": "shop", "name": "web-5d4-x", "uid": "u1",
            "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"pod-template-hash": "5d4"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4", "uid": "r",
                                 "controller": true}]});
        read::<PodLite>(json!({"metadata": metadata, "spec": spec, "status": status}))
    }

    #[test]
    fn a_pod_is_its_addresses_its_node_and_what_runs_it() {
        let status = json!({"phase": "Running", "podIP": "10.244.0.5",
                            "podIPs": [{"ip": "10.244.0.5"}, {"ip": "fd00::5"}]});
        let seen = pod(json!({"nodeName": "a", "containers": []}), status).expect("good").expect("a pod");
        assert_eq!(seen.node, "a");
        assert_eq!(seen.endpoint.addresses.len(), 2);
        assert_eq!(seen.endpoint.workload, Some(("Deployment".into(), "web".into())));
        assert_eq!(seen.endpoint.created, 1_767_323_045);
    }

    #[test]
    fn completed_pods_are_none_and_host_network_pods_have_no_address() {
        let ip = json!([{"ip": "10.244.0.5"}]);
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(pod(json!({}), json!({"phase": phase, "podIPs": ip})), Ok(None));
        }
        let on_node = pod(json!({"hostNetwork": true}), json!({"phase": "Running", "podIPs": ip})).expect("good");
        assert!(on_node.is_some_and(|seen| seen.on_node && seen.endpoint.addresses.is_empty()));
        assert!(pod(json!({}), json!({"podIPs": [{"ip": "10.244.0.555"}]})).is_err());
    }

    #[test]
    fn a_node_s_addresses_are_those_its_packets_come_from() {
        let node = |annotations: Value| {
            let node = json!({"metadata": {"name": "a", "annotations": annotations},
                "spec": {"podCIDRs": ["10.244.3.0/24"]},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"},
                                         {"type": "Hostname", "address": "a"}]}});
            let seen = read::<NodeLite>(node).expect("good").expect("a node");
            seen.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(node(json!({})), "192.168.0.1");
        assert_eq!(node(json!({"flannel.alpha.coreos.com/backend-type": "vxlan"})), "10.244.3.0 192.168.0.1");
        assert_eq!(node(json!({"projectcalico.org/IPv4VXLANTunnelAddr": "10.244.7.64"})), "10.244.7.64 192.168.0.1");
    }

    #[test]
    fn a_service_has_no_address_that_its_owner_wrote() {
        let service = json!({"metadata": {"namespace": "shop", "name": "web"},
            "spec": {"clusterIPs": ["10.96.0.9"], "externalIPs": ["10.40.0.10"], "type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}});
        let seen = read::<ServiceLite>(service).expect("good").expect("a Service");
        assert_eq!(seen.addresses, ["10.96.0.9".parse::<IpAddr>().expect("an address")]);
        let headless = json!({"metadata": {"name": "db"}, "spec": {"clusterIPs": ["None"]}});
        assert_eq!(read::<ServiceLite>(headless), Ok(None));
    }

    #[test]
    fn a_slice_tells_ends_ready_or_not() {
        let slice = |kind: &str, end: &str| {
            read::<SliceLite>(
                json!({"metadata": {"namespace": "shop", "name": "web-1", "labels": {SERVICE_NAME: "web"}},
                "addressType": kind, "ports": [],
                "endpoints": [{"addresses": [end], "conditions": {"ready": false}}]}),
            )
        };
        assert_eq!(slice("IPv4", "10.244.0.5").expect("good").expect("a slice").ends.len(), 1);
        assert_eq!(slice("FQDN", "example.com"), Ok(None));
        assert!(slice("IPv4", "nonsense").is_err());
    }
}
