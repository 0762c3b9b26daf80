//! Constructors for tests: each makes an object in one line.
//!
//! Knows no rule of the policy. Whatever is not an argument has its default.

use std::net::IpAddr;

use super::cluster::Cluster;
use super::desired::{Desired, compile};
use super::dirty::Dirty;
use super::input::{
    Age, Attachment, Change, Endpoint, EndpointKey, HostPort, Link, Namespace, Peer, PortRule, Protocol, Range,
    Selector, Tenant,
};
use super::settings::Settings;
use super::tenant_ids::KernelView;
use crate::plan::{Actual, Ledger};

/// A tenant that selects namespaces labelled `t: <name>`.
pub fn tenant(name: &str) -> Tenant {
    Tenant {
        age: Age { created: 0, name: name.to_owned() },
        namespaces: Selector { labels: [("t".to_owned(), name.to_owned())].into(), ..Selector::default() },
        shared: false,
        audit: false,
        subnets: Vec::new(),
        egress: Vec::new(),
        peers: Vec::new(),
    }
}

/// A range with these TCP ports. Without any, every protocol and port is allowed.
pub fn range(cidr: &str, ports: &[u16]) -> Range {
    let ports = ports.iter().map(|port| PortRule { protocol: Protocol::Tcp, low: *port, high: *port }).collect();
    Range { name: cidr.to_owned(), cidr: cidr.parse().expect("a range"), ports }
}

/// One half of a permission.
pub fn peer(tenant: &str, egress: bool, ingress: bool, until: Option<i64>) -> Peer {
    Peer { tenant: tenant.to_owned(), egress, ingress, until }
}

/// A namespace labelled `t: <tenant>`, or without a label.
pub fn namespace(name: &str, tenant: &str) -> Namespace {
    let labels = [("t".to_owned(), tenant.to_owned())].into_iter().filter(|(_, value)| !value.is_empty());
    Namespace { name: name.to_owned(), labels: labels.collect(), ..Namespace::default() }
}

/// The key of `namespace/name`.
pub fn key(path: &str) -> EndpointKey {
    let (namespace, name) = path.split_once('/').expect("namespace/name");
    EndpointKey { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// A pod on another node.
pub fn remote(path: &str, addresses: &[&str]) -> Endpoint {
    Endpoint {
        key: key(path),
        uid: format!("uid of {path}"),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        ..Endpoint::default()
    }
}

/// A pod on this node, behind interface `port`.
pub fn local(path: &str, addresses: &[&str], port: &str) -> Endpoint {
    let attachment = Attachment { port: HostPort::Interface(port.to_owned()), ..Attachment::default() };
    Endpoint { local: Some(attachment), ..remote(path, addresses) }
}

/// An interface.
pub fn link(ifindex: u32, name: &str) -> Link {
    Link { ifindex, name: name.to_owned(), ..Link::default() }
}

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A cluster after these changes. Before them, every kind was reported as empty.
pub fn cluster(settings: Settings, changes: Vec<Change>) -> Cluster {
    let mut cluster = Cluster::new(settings);
    apply_all(&mut cluster, nothing());
    apply_all(&mut cluster, changes);
    cluster
}

/// These pods of acme's namespace `web`, on a node with the interfaces veth7 and veth8.
pub fn node_of_acme(settings: Settings, pods: Vec<Endpoint>) -> Cluster {
    let mut changes = vec![
        Change::Tenant(tenant("acme")),
        Change::Namespace(namespace("web", "acme")),
        Change::Links(vec![link(7, "veth7"), link(8, "veth8")]),
        Change::Nodes(vec![ip("192.0.2.1")]),
    ];
    changes.extend(pods.into_iter().map(Change::Endpoint));
    cluster(settings, changes)
}

/// An empty list of every kind that a complete cluster needs.
pub fn nothing() -> Vec<Change> {
    vec![
        Change::Tenants(vec![]),
        Change::Namespaces(vec![]),
        Change::Endpoints(vec![]),
        Change::Links(vec![]),
        Change::Nodes(vec![]),
    ]
}

/// Applies all changes.
pub fn apply_all(cluster: &mut Cluster, changes: Vec<Change>) -> Dirty {
    let mut dirty = Dirty::default();
    changes.into_iter().for_each(|change| dirty.add(cluster.apply(change)));
    dirty
}

/// Compiles against an empty kernel.
pub fn compiled(cluster: &Cluster, now: i64) -> Desired {
    compiled_with(cluster, Actual::default(), now)
}

/// Compiles against a kernel that holds `actual`.
pub fn compiled_with(cluster: &Cluster, actual: Actual, now: i64) -> Desired {
    let ledger = Ledger::new(actual, &cluster.settings().limits);
    let mentions = |id| ledger.mentions(id);
    let kernel: KernelView<'_> = ledger.kernel_view(&mentions);
    compile(cluster, &kernel, now)
}

/// The tenant and the kind of each conflict.
pub fn conflicts(desired: &Desired) -> Vec<(String, &'static str)> {
    desired.conflicts().iter().map(|conflict| (conflict.tenant.to_string(), conflict.kind.as_str())).collect()
}
