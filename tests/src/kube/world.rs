//! The pods, Services and servers at the start of every scenario: two Isolated tenants with pods on both nodes and in
//! two namespaces each, a Shared namespace, and a namespace in no tenant.
//!
//! ```text
//!            acme                    globex                     kube-system   stray
//!  node a    acme-web/shop           globex-web/store           tool          stray
//!            acme-jobs/batch
//!  node b    acme-web/shop           globex-web/store           tool          stray
//!                                    globex-jobs/ledger
//!  db host   acme-rds, acme-efs      globex-db                  nobodys, internet, metadata
//! ```
//!
//! Containers run an HTTP server with a readiness probe. Echo servers of this process answer the probes. They are bound
//! inside the pods' own network namespaces, so no exec is needed and thousands of probes take seconds.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::{Cluster, images::AGNHOST, wait};
use serde_json::{Value, json};

use crate::host::Family;
use crate::netns::Netns;
use crate::serve::Servers;

/// The port of the echo servers of pods and databases, TCP and UDP.
pub const PORT: u16 = 5432;
/// A second port of the databases, which acme's PostgreSQL subnet does not list.
pub const OTHER_PORT: u16 = 9999;
/// The port of the echo servers of nodes.
pub const NODE_PORT: u16 = 7000;
/// The port of every Service.
pub const SERVICE_PORT: u16 = 80;
/// The node port of acme's shop.
pub const SHOP_NODE_PORT: u16 = 30080;

/// Addresses on the database host: name, IPv4, IPv6. The metadata service has no IPv6 address here.
pub const OUTSIDE: [(&str, &str, &str); 6] = [
    ("acme-rds", "10.40.0.10", "fd00:40::10"),
    ("acme-efs", "10.41.0.10", "fd00:41::10"),
    ("globex-db", "10.42.0.10", "fd00:42::10"),
    ("nobodys", "10.50.0.10", "fd00:50::10"),
    ("internet", "203.0.113.10", "2001:db8:113::10"),
    ("metadata", "169.254.169.254", ""),
];

/// The IPv4 address of a host on the database host.
pub fn outside(name: &str) -> Result<IpAddr> {
    let (_, address, _) =
        OUTSIDE.iter().find(|(known, ..)| *known == name).with_context(|| format!("{name} is no host outside"))?;
    Ok(address.parse()?)
}

/// The namespaces and their tenant labels. One has no label.
pub const NAMESPACES: [(&str, Option<&str>); 5] = [
    ("acme-web", Some("acme")),
    ("acme-jobs", Some("acme")),
    ("globex-web", Some("globex")),
    ("globex-jobs", Some("globex")),
    ("stray", None),
];

/// The Shared namespace, which exists already.
pub const SHARED: &str = "kube-system";

/// Workloads: namespace, name, kind, and the node of those that have only one pod.
const WORKLOADS: [(&str, &str, &str, Option<&str>); 6] = [
    ("acme-web", "shop", "DaemonSet", None),
    ("acme-jobs", "batch", "Deployment", Some("a")),
    ("globex-web", "store", "DaemonSet", None),
    ("globex-jobs", "ledger", "StatefulSet", Some("b")),
    (SHARED, "tool", "DaemonSet", None),
    ("stray", "stray", "DaemonSet", None),
];

/// A running pod.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its own name.
    pub name: String,
    /// Its workload's name.
    pub app: String,
    /// Its workload's kind.
    pub kind: String,
    /// Its node.
    pub node: String,
    /// Its UID.
    pub uid: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its network namespace.
    pub netns: Netns,
    _servers: Option<Servers>,
}

/// A Service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name, which is also the name of its workload.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// The pods, Services and hosts of a cluster. Dropping the value ends the servers; the pods stay in the cluster.
#[derive(Debug)]
pub struct ClusterWorld {
    /// The pods, by namespace, workload and node.
    pub pods: Vec<Pod>,
    /// The Services.
    pub services: Vec<Service>,
    /// The network namespaces of nodes `a` and `b`.
    pub nodes: Vec<(&'static str, Netns, Vec<IpAddr>)>,
    /// The database host.
    pub outside: Netns,
    /// The control plane's host.
    pub control: Netns,
    _servers: Vec<Servers>,
}

impl ClusterWorld {
    /// Creates namespaces and workloads, waits for the pods, and starts the servers.
    pub fn build(cluster: &Cluster) -> Result<Self> {
        let kubectl = cluster.kubectl();
        for (namespace, _) in NAMESPACES {
            kubectl.namespace(namespace, &[])?;
        }
        kubectl.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects()}).to_string())?;
        let outside = Netns::at(&cluster.netns("db"), "db")?;
        let control = Netns::at(&cluster.netns("cp"), "cp")?;
        let mut nodes = Vec::new();
        for node in cluster.nodes() {
            let host = cluster::plan::Host::node(node.name()).context("a node")?;
            let addresses = vec![IpAddr::V4(host.v4()), IpAddr::V6(host.v6())];
            nodes.push((node.name(), Netns::at(&node.netns(), node.name())?, addresses));
        }
        let mut servers = Vec::new();
        for (_, netns, addresses) in &nodes {
            pingable(netns)?;
            servers.push(Servers::start(netns, &sockets(addresses, &[NODE_PORT]))?);
        }
        pingable(&outside)?;
        pingable(&control)?;
        let all: Vec<IpAddr> = OUTSIDE.iter().flat_map(|(_, v4, v6)| [v4, v6]).filter_map(|a| a.parse().ok()).collect();
        servers.push(Servers::start(&outside, &sockets(&all, &[PORT, OTHER_PORT]))?);
        let mut world = Self { pods: Vec::new(), services: Vec::new(), nodes, outside, control, _servers: servers };
        world.find_pods(cluster)?;
        world.find_services(cluster)?;
        Ok(world)
    }

    /// Waits until every workload has its pods and updates the list, for example after a pod was replaced.
    pub fn find_pods(&mut self, cluster: &Cluster) -> Result<()> {
        let expected = WORKLOADS.iter().map(|(.., node)| if node.is_some() { 1 } else { 2 }).sum::<usize>();
        let found = wait("the pods of all workloads", Duration::from_secs(90), || {
            let list = cluster.kubectl().json(["get", "pods", "-A", "-l", "world"])?;
            let ready: Vec<Value> = items(&list).filter(|pod| is_ready(pod)).cloned().collect();
            ensure!(ready.len() == expected && items(&list).count() == expected, "{} of {expected} ready", ready.len());
            Ok(ready)
        })?;
        self.pods.retain(|pod| found.iter().any(|object| object["metadata"]["uid"] == *pod.uid));
        for object in &found {
            if self.pods.iter().all(|pod| object["metadata"]["uid"] != *pod.uid) {
                self.pods.push(Pod::find(cluster, object, &[PORT])?);
            }
        }
        self.pods.sort_by_key(Pod::label);
        Ok(())
    }

    fn find_services(&mut self, cluster: &Cluster) -> Result<()> {
        let list = cluster.kubectl().json(["get", "services", "-A", "-l", "world"])?;
        for object in items(&list) {
            let addresses = strings(&object["spec"]["clusterIPs"]).filter_map(|ip| ip.parse().ok()).collect();
            self.services.push(Service {
                namespace: text(object, "/metadata/namespace"),
                name: text(object, "/metadata/name"),
                addresses,
            });
        }
        Ok(())
    }

    /// The pod of a workload on a node.
    pub fn pod(&self, app: &str, node: &str) -> Result<&Pod> {
        let pod = self.pods.iter().find(|pod| pod.app == app && pod.node == node);
        pod.with_context(|| format!("there is no {app} on node {node}"))
    }
}

impl Pod {
    /// A running pod, with echo servers at these ports of each of its addresses.
    pub fn find(cluster: &Cluster, object: &Value, ports: &[u16]) -> Result<Self> {
        let (uid, node) = (text(object, "/metadata/uid"), text(object, "/spec/nodeName"));
        let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        let netns = Netns::at(&cluster.node(&node)?.pod_netns(&uid)?, &name)?;
        pingable(&netns)?;
        let ips = object["status"]["podIPs"].as_array().into_iter().flatten();
        let addresses: Vec<IpAddr> = ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect();
        ensure!(addresses.len() == 2, "{namespace}/{name} has addresses {addresses:?}");
        let servers = if ports.is_empty() { None } else { Some(Servers::start(&netns, &sockets(&addresses, ports))?) };
        let app = text(object, "/metadata/labels/world");
        let kind = text(object, "/metadata/labels/kind");
        Ok(Self { namespace, name, app, kind, node, uid, addresses, netns, _servers: servers })
    }

    /// Its name in tables.
    pub fn label(&self) -> String {
        format!("{}/{}@{}", self.namespace, self.app, self.node)
    }

    /// Its address of a family.
    pub fn address(&self, family: Family) -> Result<IpAddr> {
        of_family(&self.addresses, family).with_context(|| format!("{} has no {family:?} address", self.label()))
    }
}

/// The first address of a family.
pub fn of_family(addresses: &[IpAddr], family: Family) -> Option<IpAddr> {
    addresses.iter().copied().find(|address| address.is_ipv4() == (family == Family::V4))
}

/// The objects of a list.
pub fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// The text at a JSON path of an object. Empty if there is none.
pub fn text(object: &Value, at: &str) -> String {
    object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Whether a pod is ready and not terminating.
pub fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    ready && pod["metadata"]["deletionTimestamp"].is_null()
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn sockets(addresses: &[IpAddr], ports: &[u16]) -> Vec<SocketAddr> {
    addresses.iter().flat_map(|address| ports.iter().map(|port| SocketAddr::new(*address, *port))).collect()
}

/// Allows ICMP echo sockets without CAP_NET_RAW in the namespace, as container runtimes do.
fn pingable(netns: &Netns) -> Result<()> {
    netns.sysctl(&[("ipv4/ping_group_range", "0 2147483647")])
}

fn objects() -> Vec<Value> {
    let mut all: Vec<Value> = WORKLOADS.iter().map(|(ns, app, kind, node)| workload(ns, app, kind, *node)).collect();
    for (namespace, app) in [("acme-web", "shop"), ("globex-web", "store"), (SHARED, "tool")] {
        let mut simple = service(namespace, app, app, &json!({}));
        // The other Services are probed by name, or at node ports.
        simple["metadata"]["labels"] = json!({"world": app});
        all.push(simple);
    }
    all.push(service("acme-web", "shop-headless", "shop", &json!({"clusterIP": "None"})));
    let mut open = service("acme-web", "shop-open", "shop", &json!({"type": "NodePort"}));
    for port in open["spec"]["ports"].as_array_mut().into_iter().flatten() {
        port["nodePort"] = json!(SHOP_NODE_PORT);
    }
    all.push(open);
    all
}

fn service(namespace: &str, name: &str, app: &str, more: &Value) -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": SERVICE_PORT, "targetPort": PORT});
    let ports = [port("tcp", "TCP"), port("udp", "UDP")];
    let mut spec = json!({"selector": {"world": app}, "ipFamilyPolicy": "RequireDualStack", "ports": ports});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    let metadata = json!({"name": name, "namespace": namespace});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}

fn workload(namespace: &str, app: &str, kind: &str, node: Option<&str>) -> Value {
    let labels = json!({"world": app, "kind": kind});
    let mut pod = pod_spec();
    if let Some(node) = node {
        pod["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    }
    let mut spec = json!({
        "selector": {"matchLabels": {"world": app}},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    });
    if kind != "DaemonSet" {
        spec["replicas"] = json!(1);
    }
    if kind == "StatefulSet" {
        spec["serviceName"] = json!(app);
    }
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app, "namespace": namespace}, "spec": spec})
}

/// A container with a readiness probe, so that the kubelet connects to every pod once a second.
pub fn pod_spec() -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{
            "name": "main",
            "image": AGNHOST,
            "imagePullPolicy": "Never",
            "args": ["netexec"],
            "readinessProbe": {"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 1},
        }],
    })
}
