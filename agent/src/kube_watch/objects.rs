//! Decodes Kubernetes objects: the only file that knows their schema.
//!
//! The types here have only the fields that are read. The API server's form of a pod takes about five kilobytes; a few
//! hundred bytes of it are kept. Fields that a tenant may write, such as `spec.externalIPs`, are never read.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::Deserialize;

use crate::api::convert;
use crate::api::tenant::NetworkTenant;
use policy::model::input::{self, EndpointKey};
use policy::model::settings::TenancyKey;

/// Field selector of pods that have not ended. An ended pod has no network.
pub(crate) const LIVE_PODS: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// The label of a slice that names its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Annotations in which overlays write the source addresses of a node's packets.
const TUNNELS: [&str; 6] = [
    "projectcalico.org/IPv4Address",
    "projectcalico.org/IPv6Address",
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "io.cilium.network.ipv4-cilium-host",
];
/// Annotation of a pod that the kubelet runs from a file.
const STATIC_POD: &str = "kubernetes.io/config.mirror";
/// The condition that says whether a pod has a sandbox with a network (Kubernetes 1.29).
const HAS_SANDBOX: &str = "PodReadyToStartContainers";
/// Annotation of a node with Flannel. The overlay's interface has the first address of the node's pod range; no other
/// field states it.
const FLANNEL: &str = "flannel.alpha.coreos.com/backend-type";

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObservedPod {
    /// The pod as an endpoint. A new pod has no address yet.
    pub endpoint: input::Endpoint,
    /// Name of the node that it runs on.
    pub node: String,
    /// Whether it uses the node's network. Such a pod is no endpoint, and its addresses are the node's.
    pub on_node: bool,
    /// Whether its deletion was asked for.
    pub is_ending: bool,
    /// Whether the kubelet runs it from a file, and knows it by another UID. The API server refuses to add or remove
    /// that mark of a pod.
    pub is_static: bool,
    /// Whether the kubelet says that it has no sandbox. After a reboot, or if a volume is missing, it keeps its old addresses.
    pub lacks_sandbox: bool,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObservedNode {
    /// Its name.
    pub name: String,
    /// Source addresses of the node's own packets.
    pub addresses: Vec<IpAddr>,
    /// Ranges of its pods. Some network plugins ignore them.
    pub pod_cidrs: Vec<IpNet>,
}

/// A Service without its backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObservedService {
    /// Its name.
    pub key: EndpointKey,
    /// Addresses that the API server assigned.
    pub addresses: Vec<IpAddr>,
}

/// Some of a Service's backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObservedSlice {
    /// Name of the slice.
    pub key: EndpointKey,
    /// Name of its Service.
    pub service: String,
    /// Addresses of the backends.
    pub backends: Vec<IpAddr>,
}

/// A pod with the fields that are read.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "Pod")]
pub(crate) struct PodLite {
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
    conditions: Option<Vec<PodCondition>>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodCondition {
    r#type: String,
    status: String,
}

#[derive(Clone, Debug, Deserialize)]
struct PodIp {
    ip: String,
}

/// A namespace with the fields that are read.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "Namespace")]
pub(crate) struct NamespaceLite {
    metadata: ObjectMeta,
}

/// A node with the fields that are read.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "Node")]
pub(crate) struct NodeLite {
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

/// A Service with the fields that are read.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "Service")]
pub(crate) struct ServiceLite {
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

/// An EndpointSlice with the fields that are read.
#[derive(Resource, Clone, Debug, Default, Deserialize)]
#[resource(inherit = "EndpointSlice")]
#[serde(rename_all = "camelCase")]
pub(crate) struct SliceLite {
    metadata: ObjectMeta,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<SliceEndpoint>>,
}

#[derive(Clone, Debug, Deserialize)]
struct SliceEndpoint {
    addresses: Vec<String>,
}

/// Reads a tenant.
///
/// # Errors
/// The spec is not understood.
pub(crate) fn read_tenant(object: NetworkTenant) -> Result<Option<input::Tenant>, String> {
    convert::tenant(&object).map(Some).map_err(|error| error.to_string())
}

/// Reads a namespace. Of its annotations only those stay that a key of `keys` reads.
pub(crate) fn namespace_reader(
    keys: &[TenancyKey],
) -> impl Fn(NamespaceLite) -> Result<Option<input::Namespace>, String> + use<> {
    let annotation = |key: &TenancyKey| match key {
        TenancyKey::NamespaceAnnotation { key, .. } => Some(key.clone()),
        _ => None,
    };
    let keep: Vec<String> = keys.iter().filter_map(annotation).collect();
    move |object| {
        let whole = Namespace { metadata: object.metadata, ..Namespace::default() };
        let read = convert::namespace(&whole, |annotation| keep.iter().any(|kept| kept == annotation));
        read.map(Some).map_err(|error| error.to_string())
    }
}

impl PodLite {
    /// Reads the pod; `None` if it has ended.
    ///
    /// # Errors
    /// An address that is none.
    pub(crate) fn read(self) -> Result<Option<ObservedPod>, String> {
        let is_over = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if is_over {
            return Ok(None);
        }
        let on_node = self.spec.host_network == Some(true);
        let addresses = self.status.pod_ips.filter(|_| !on_node).unwrap_or_default();
        let addresses = addresses.iter().map(|one| address(&one.ip)).collect::<Result<_, _>>()?;
        let conditions = self.status.conditions.unwrap_or_default();
        let lacks_sandbox = conditions.iter().any(|one| one.r#type == HAS_SANDBOX && one.status == "False");
        let is_static = self.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(STATIC_POD));
        let endpoint = input::Endpoint {
            key: key(&self.metadata),
            uid: self.metadata.uid.clone().unwrap_or_default(),
            created: created(&self.metadata),
            addresses,
            local: None,
            workload: workload(&self.metadata),
        };
        Ok(Some(ObservedPod {
            endpoint,
            node: self.spec.node_name.unwrap_or_default(),
            on_node,
            is_ending: self.metadata.deletion_timestamp.is_some(),
            is_static,
            lacks_sandbox,
        }))
    }
}

impl NodeLite {
    /// Reads the node. Host names among its addresses are skipped.
    ///
    /// # Errors
    /// None: an address that cannot be read is skipped.
    pub(crate) fn read(self) -> Result<Option<ObservedNode>, String> {
        let annotations = self.metadata.annotations.unwrap_or_default();
        let reported = self.status.addresses.unwrap_or_default();
        let mut addresses: Vec<IpAddr> = reported.iter().filter_map(|one| address(&one.address).ok()).collect();
        let tunnels = TUNNELS.iter().filter_map(|name| annotations.get(*name));
        addresses.extend(tunnels.filter_map(|text| address(text.split('/').next().unwrap_or_default()).ok()));
        let ranges = self.spec.pod_cidrs.unwrap_or_default();
        let pod_cidrs: Vec<IpNet> = ranges.iter().filter_map(|range| range.parse().ok()).collect();
        if annotations.contains_key(FLANNEL) {
            addresses.extend(pod_cidrs.iter().map(IpNet::network));
        }
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Some(ObservedNode { name: self.metadata.name.unwrap_or_default(), addresses, pod_cidrs }))
    }
}

impl ServiceLite {
    /// Reads the Service; `None` if it has no address.
    ///
    /// # Errors
    /// An address that is none.
    pub(crate) fn read(self) -> Result<Option<ObservedService>, String> {
        let addresses = self.spec.cluster_ips.unwrap_or_default();
        let addresses = addresses.iter().filter(|text| !text.is_empty() && *text != "None");
        let addresses = addresses.map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
        Ok((!addresses.is_empty()).then(|| ObservedService { key: key(&self.metadata), addresses }))
    }
}

impl SliceLite {
    /// Reads the slice; `None` if it belongs to no Service or has no addresses.
    ///
    /// # Errors
    /// An address that is none.
    pub(crate) fn read(self) -> Result<Option<ObservedSlice>, String> {
        let service = self.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)).cloned();
        let Some(service) = service.filter(|_| self.address_type != "FQDN") else { return Ok(None) };
        let endpoints = self.endpoints.unwrap_or_default();
        let backends = endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let backends = backends.map(|text| address(text)).collect::<Result<_, _>>()?;
        Ok(Some(ObservedSlice { key: key(&self.metadata), service, backends }))
    }
}

/// Namespace and name of an object. The namespace of a cluster-scoped object is empty.
pub(crate) fn key(meta: &ObjectMeta) -> EndpointKey {
    EndpointKey { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
}

fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(0, |Time(at)| at.as_second())
}

fn address(text: &str) -> Result<IpAddr, String> {
    let parsed: Result<IpAddr, _> = text.parse();
    parsed.map(|address| address.to_canonical()).map_err(|_| format!("{text:?} is not an address"))
}

/// The workload that runs a pod. A ReplicaSet of a Deployment has the Deployment's name and the pod's template hash.
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

    fn decode<T: for<'a> Deserialize<'a>>(value: Value) -> T {
        serde_json::from_value(value).expect("it can be decoded")
    }

    fn pod(spec: Value, status: Value) -> Result<Option<ObservedPod>, String> {
        let metadata = json!({"namespace": "shop", "name": "web-5d4-x", "uid": "u1",
            "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"pod-template-hash": "5d4"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4", "uid": "r",
                                 "controller": true}]});
        decode::<PodLite>(json!({"metadata": metadata, "spec": spec, "status": status})).read()
    }

    #[test]
    fn a_pod_has_its_addresses_its_node_and_its_workload() {
        let status = json!({"phase": "Running", "podIP": "10.244.0.5",
                            "podIPs": [{"ip": "10.244.0.5"}, {"ip": "fd00::5"}]});
        let seen = pod(json!({"nodeName": "a", "containers": []}), status).expect("good").expect("a pod");
        assert_eq!(seen.node, "a");
        assert_eq!(seen.endpoint.addresses.len(), 2);
        assert_eq!(seen.endpoint.workload, Some(("Deployment".into(), "web".into())));
        assert_eq!(seen.endpoint.created, 1_767_323_045);
    }

    #[test]
    fn completed_pods_are_skipped_and_host_network_pods_have_no_address() {
        let ip = json!([{"ip": "10.244.0.5"}]);
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(pod(json!({}), json!({"phase": phase, "podIPs": ip})), Ok(None));
        }
        let on_node = pod(json!({"hostNetwork": true}), json!({"phase": "Running", "podIPs": ip})).expect("good");
        assert!(on_node.is_some_and(|seen| seen.on_node && seen.endpoint.addresses.is_empty()));
        assert!(pod(json!({}), json!({"podIPs": [{"ip": "10.244.0.555"}]})).is_err());
    }

    #[test]
    fn a_pod_without_a_sandbox_is_recognised_by_its_condition() {
        let seen = |status: &str| {
            let conditions = json!([{"type": "Ready", "status": "False"}, {"type": HAS_SANDBOX, "status": status}]);
            pod(json!({}), json!({"conditions": conditions})).expect("good").expect("a pod").lacks_sandbox
        };
        assert!(seen("False") && !seen("True") && !seen("Unknown"));
    }

    #[test]
    fn a_pod_that_ends_and_a_static_pod_are_recognised() {
        let seen = |metadata: Value| {
            let pod = decode::<PodLite>(json!({"metadata": metadata, "spec": {}, "status": {}}));
            let seen = pod.read().expect("good").expect("a pod");
            (seen.is_ending, seen.is_static)
        };
        assert_eq!(seen(json!({"name": "web"})), (false, false));
        assert_eq!(seen(json!({"name": "web", "deletionTimestamp": "2026-01-02T03:04:05Z"})), (true, false));
        assert_eq!(seen(json!({"name": "web", "annotations": {STATIC_POD: "1f2e"}})), (false, true));
    }

    #[test]
    fn a_node_has_the_source_addresses_of_its_packets() {
        let node = |annotations: Value| {
            let node = json!({"metadata": {"name": "a", "annotations": annotations},
                "spec": {"podCIDRs": ["10.244.3.0/24"]},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"},
                                         {"type": "Hostname", "address": "a"}]}});
            let seen = decode::<NodeLite>(node).read().expect("good").expect("a node");
            seen.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(node(json!({})), "192.168.0.1");
        assert_eq!(node(json!({"flannel.alpha.coreos.com/backend-type": "vxlan"})), "10.244.3.0 192.168.0.1");
        assert_eq!(node(json!({"projectcalico.org/IPv4VXLANTunnelAddr": "10.244.7.64"})), "10.244.7.64 192.168.0.1");
    }

    #[test]
    fn addresses_that_a_service_s_owner_wrote_are_not_read() {
        let service = json!({"metadata": {"namespace": "shop", "name": "web"},
            "spec": {"clusterIPs": ["10.96.0.9"], "externalIPs": ["10.40.0.10"], "type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}});
        let seen = decode::<ServiceLite>(service).read().expect("good").expect("a Service");
        assert_eq!(seen.addresses, ["10.96.0.9".parse::<IpAddr>().expect("an address")]);
        let headless = json!({"metadata": {"name": "db"}, "spec": {"clusterIPs": ["None"]}});
        assert_eq!(decode::<ServiceLite>(headless).read(), Ok(None));
    }

    #[test]
    fn a_slice_has_its_backends_ready_or_not() {
        let slice = |kind: &str, end: &str| {
            let slice = json!({"metadata": {"namespace": "shop", "name": "web-1", "labels": {SERVICE_NAME: "web"}},
                "addressType": kind, "ports": [],
                "endpoints": [{"addresses": [end], "conditions": {"ready": false}}]});
            decode::<SliceLite>(slice).read()
        };
        assert_eq!(slice("IPv4", "10.244.0.5").expect("good").expect("a slice").backends.len(), 1);
        assert_eq!(slice("FQDN", "example.com"), Ok(None));
        assert!(slice("IPv4", "nonsense").is_err());
    }
}
