//! Small clusters with every kind of conflict: addresses, ranges and names that several objects claim.
//!
//! A cluster is a set of indexes, so proptest can shrink it.

use proptest::prelude::*;

use policy::model::input::{Change, Endpoint, Link, Namespace, Range, Tenant};
use policy::model::settings::{Settings, Unassigned};
use policy::model::testing::{ip, link, local, namespace, peer, range, remote, tenant};

const SUBNETS: [&str; 6] =
    ["10.40.0.0/24", "10.40.0.0/16", "10.40.1.0/24", "10.41.0.0/24", "10.40.0.0/25", "10.40.0.128/25"];
const EGRESS: [&str; 5] = ["0.0.0.0/0", "10.40.0.0/16", "10.0.0.0/8", "169.254.169.254/32", "10.40.0.5/32"];
const PORTS: [&[u16]; 4] = [&[], &[80], &[443], &[80, 443]];
const NAMES: [&str; 3] = ["acme", "globex", "initech"];

/// A cluster, as indexes into the lists above.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub tenants: Vec<WorldTenant>,
    /// Tenant of each namespace; 3 is none.
    pub namespaces: Vec<usize>,
    /// Namespace and last byte of the address of each pod; the first three run here.
    pub pods: Vec<Option<(usize, u8)>>,
}

#[derive(Clone, Debug)]
pub(super) struct WorldTenant {
    pub exists: bool,
    pub created: i64,
    pub shared: bool,
    pub audit: bool,
    pub ports: usize,
    pub subnets: Vec<usize>,
    pub egress: Vec<usize>,
    pub peers: Vec<(usize, bool, bool)>,
    pub many: bool,
}

impl World {
    /// Two tenants; the second has a wide range.
    pub(super) fn example() -> Self {
        let narrow = WorldTenant {
            exists: true,
            created: 1,
            shared: false,
            audit: false,
            ports: 1,
            subnets: vec![0],
            egress: vec![],
            peers: vec![],
            many: false,
        };
        let wide = WorldTenant { created: 2, subnets: vec![], egress: vec![0], ..narrow.clone() };
        let none = WorldTenant { exists: false, ..narrow.clone() };
        let pods = vec![Some((0, 1)), Some((0, 2)), Some((1, 3)), Some((1, 6)), None, None];
        Self { tenants: vec![narrow, wide, none], namespaces: vec![0, 1, 3, 3], pods }
    }
}

pub(super) fn any_world() -> impl Strategy<Value = World> {
    let pod = prop::option::weighted(0.85, (0..4_usize, 0..4_u8));
    let tenants = prop::collection::vec(any_tenant(), 3);
    let namespaces = prop::collection::vec(0..4_usize, 4);
    (tenants, namespaces, prop::collection::vec(pod, 6)).prop_map(|(tenants, namespaces, pods)| {
        // Local pods have the addresses 1 to 4 and remote pods 4 to 7, so some conflict, also between nodes.
        let address = |at: usize, n: u8| if at < 3 { 1 + n } else { 4 + n };
        let pods = pods
            .into_iter()
            .enumerate()
            .map(|(at, pod)| pod.map(|(namespace, n)| (namespace, address(at, n))))
            .collect();
        World { tenants, namespaces, pods }
    })
}

fn any_tenant() -> impl Strategy<Value = WorldTenant> {
    let flags = (prop::bool::weighted(0.8), 0..3_i64, prop::bool::weighted(0.2), prop::bool::weighted(0.15));
    let ranges = (
        0..PORTS.len(),
        prop::collection::vec(0..SUBNETS.len(), 0..3),
        prop::collection::vec(0..EGRESS.len(), 0..3),
        prop::bool::weighted(0.2),
    );
    let peers = prop::collection::vec((0..3_usize, any::<bool>(), any::<bool>()), 0..3);
    (flags, ranges, peers).prop_map(|((exists, created, shared, audit), (ports, subnets, egress, many), peers)| {
        WorldTenant { exists, created, shared, audit, ports, subnets, egress, peers, many }
    })
}

pub(super) fn settings(fenced: bool) -> Settings {
    let pod_cidrs = if fenced { vec!["10.0.0.0/24".parse().expect("a range")] } else { vec![] };
    let unassigned = if fenced { Unassigned::Isolate } else { Unassigned::Allow };
    Settings { pod_cidrs, unassigned, ..Settings::default() }
}

/// The cluster as whole lists.
pub(super) fn whole(world: &World) -> Vec<Change> {
    vec![
        Change::Tenants(tenants(world)),
        Change::Namespaces(namespaces(world)),
        Change::Endpoints(endpoints(world)),
        Change::Links(links()),
        Change::Nodes(vec![ip("192.0.2.1")]),
    ]
}

/// The cluster as changes of one object each.
pub(super) fn one_by_one(world: &World) -> Vec<Change> {
    let mut changes: Vec<Change> = tenants(world).into_iter().map(Change::Tenant).collect();
    changes.extend(namespaces(world).into_iter().map(Change::Namespace));
    changes.extend(endpoints(world).into_iter().map(Change::Endpoint));
    changes.extend([Change::Links(links()), Change::Nodes(vec![ip("192.0.2.1")])]);
    changes
}

fn tenants(world: &World) -> Vec<Tenant> {
    let exists = world.tenants.iter().zip(NAMES).filter(|(tenant, _)| tenant.exists);
    exists.map(|(tenant, name)| object(tenant, name)).collect()
}

fn object(indexes: &WorldTenant, name: &str) -> Tenant {
    let ports = PORTS[indexes.ports];
    let mut object = Tenant {
        shared: indexes.shared,
        audit: indexes.audit,
        subnets: indexes.subnets.iter().map(|at| range(SUBNETS[*at], ports)).collect(),
        egress: indexes.egress.iter().map(|at| range(EGRESS[*at], &[])).collect(),
        peers: indexes.peers.iter().map(|(at, egress, ingress)| peer(NAMES[*at], *egress, *ingress, None)).collect(),
        ..tenant(name)
    };
    object.age.created = indexes.created;
    if indexes.many {
        object.egress.extend((0..17).map(|n| -> Range { range(&format!("203.0.113.{}/32", n * 2), &[80]) }));
    }
    object
}

fn namespaces(world: &World) -> Vec<Namespace> {
    let label = |tenant: usize| NAMES.get(tenant).copied().unwrap_or_default();
    world.namespaces.iter().enumerate().map(|(at, tenant)| namespace(&format!("ns{at}"), label(*tenant))).collect()
}

fn endpoints(world: &World) -> Vec<Endpoint> {
    let pod = |(at, pod): (usize, &Option<(usize, u8)>)| {
        let (namespace, address) = (*pod)?;
        let (path, address) = (format!("ns{namespace}/pod{at}"), format!("10.0.0.{address}"));
        Some(if at < 3 { local(&path, &[&address], &format!("veth{at}")) } else { remote(&path, &[&address]) })
    };
    world.pods.iter().enumerate().filter_map(pod).collect()
}

fn links() -> Vec<Link> {
    (0..3).map(|at| link(10 + at, &format!("veth{at}"))).collect()
}
