//! Tests of the joined view: which changes it reports, when, and which events change nothing.

use super::*;
use policy::model::testing::{ip, key, namespace, tenant};

struct World {
    view: ClusterView,
    now: Duration,
    subscriptions: Vec<WatchSubscription>,
}

fn pod(path: &str, node: &str, addresses: &[&str]) -> ObservedPod {
    let endpoint = Endpoint {
        key: key(path),
        uid: format!("uid of {path}"),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        ..Endpoint::default()
    };
    ObservedPod { endpoint, node: node.into(), on_node: false, ..ObservedPod::default() }
}

fn sandbox(path: &str, netns: &str, addresses: &[&str]) -> Sandbox {
    Sandbox {
        uid: format!("uid of {path}"),
        namespace: key(path).namespace,
        name: key(path).name,
        netns: netns.into(),
        cgroup: None,
        group: None,
        networks: Vec::new(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        written: std::time::SystemTime::UNIX_EPOCH,
    }
}

fn all<T>(objects: Vec<T>) -> Update<T> {
    Update::Snapshot { objects, unreadable: Vec::new() }
}

impl World {
    /// acme has shop and depot, globex has bank; nothing runs anywhere.
    fn new() -> Self {
        let settings = Settings { pod_cidrs: vec!["10.244.0.0/16".parse().expect("a range")], ..Settings::default() };
        let mut world =
            Self { view: ClusterView::new("a".into(), settings), now: Duration::ZERO, subscriptions: Vec::new() };
        world.apply(WatchEvent::Tenants(all(vec![tenant("acme"), tenant("globex")])));
        let namespaces = [("shop", "acme"), ("depot", "acme"), ("bank", "globex")];
        world.apply(WatchEvent::Namespaces(all(namespaces.map(|(name, tenant)| namespace(name, tenant)).into())));
        let node = ObservedNode { name: "a".into(), addresses: vec![ip("192.168.0.1")], ..ObservedNode::default() };
        world.apply(WatchEvent::Nodes(all(vec![node])));
        world.apply(WatchEvent::Stated(StatedRanges::default()));
        world.apply(WatchEvent::ApiService(all(vec![])));
        world.apply(WatchEvent::ApiSlices(all(vec![])));
        world
    }

    fn apply(&mut self, event: WatchEvent) -> Vec<Change> {
        let mut changes = self.view.apply(event);
        let (subscriptions, more) = self.view.subscriptions(self.now);
        self.subscriptions.extend(subscriptions);
        changes.extend(more);
        changes
    }

    /// With these pods here, and nothing elsewhere.
    fn with(pods: Vec<ObservedPod>, sandboxes: Vec<Sandbox>) -> Self {
        let mut world = Self::new();
        world.apply(WatchEvent::Local(all(pods)));
        world.apply(WatchEvent::Sandboxes(Arc::new(sandboxes)));
        for subscription in world.subscriptions.clone() {
            if let WatchSubscription::Start(_, id) = subscription {
                world.quiet(id);
            }
        }
        assert!(world.view.is_complete());
        world
    }

    fn quiet(&mut self, id: u64) -> Vec<Change> {
        let mut changes = self.apply(WatchEvent::Namespace(id, NamespaceEvent::Pods(all(vec![]))));
        changes.extend(self.apply(WatchEvent::Namespace(id, NamespaceEvent::Services(all(vec![])))));
        changes.extend(self.apply(WatchEvent::Namespace(id, NamespaceEvent::Slices(all(vec![])))));
        changes
    }

    fn id(&self, namespace: &str) -> u64 {
        let open = self.subscriptions.iter().rev().find_map(|subscription| match subscription {
            WatchSubscription::Start(name, id) if name == namespace => Some(*id),
            _ => None,
        });
        open.unwrap_or_else(|| panic!("{namespace} is not followed"))
    }

    fn followed(&self) -> Vec<&str> {
        self.view.watched.keys().map(String::as_str).collect()
    }
}

/// `netns: addresses` of the endpoint in the only change.
fn endpoint(changes: &[Change]) -> String {
    let [Change::Endpoint(endpoint)] = changes else { panic!("{changes:?}") };
    let Some(Attachment { port: HostPort::Netns(netns), .. }) = &endpoint.local else { panic!("{endpoint:?}") };
    let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
    format!("{netns}: {}", addresses.join(" "))
}

#[test]
fn ranges_of_nodes_pools_and_results_are_reported_when_they_change() {
    let net = |text: &str| text.parse().expect("a range");
    let mut world = World::with(vec![], vec![]);
    let node = |name: &str, range: &str| ObservedNode {
        name: name.into(),
        pod_cidrs: vec![net(range)],
        addresses: vec![ip("192.168.0.1")],
    };
    let learnt = |changes: &[Change]| match changes {
        [Change::Ranges(learnt)] => (learnt.pods.clone(), learnt.covers_every_node),
        other => panic!("{other:?}"),
    };
    let first = world.apply(WatchEvent::Nodes(Update::Upsert(node("a", "10.244.0.0/24"))));
    assert_eq!(learnt(&first), (vec![net("10.244.0.0/24")], true));
    assert!(world.apply(WatchEvent::Nodes(Update::Upsert(node("a", "10.244.0.0/24")))).is_empty());
    let stated = StatedRanges { pools: [net("10.9.0.0/16")].into(), ..StatedRanges::default() };
    let second = world.apply(WatchEvent::Stated(stated));
    assert_eq!(learnt(&second).0, [net("10.9.0.0/16"), net("10.244.0.0/24")]);
    let result = Sandbox { networks: vec![net("10.88.0.0/16")], ..sandbox("shop/web", "n1", &[]) };
    let third = world.apply(WatchEvent::Sandboxes(Arc::new(vec![result])));
    assert_eq!(learnt(&third).0.len(), 3);
}

#[test]
fn endpoints_are_reported_once_every_set_is_complete() {
    let mut world = World::new();
    assert!(world.apply(WatchEvent::Local(all(vec![pod("shop/web", "a", &["10.244.0.5"])]))).is_empty());
    assert_eq!(world.followed(), ["depot", "shop"], "all of acme's, none of globex's");
    assert!(world.apply(WatchEvent::Sandboxes(Arc::new(vec![]))).is_empty());
    let (depot, shop) = (world.id("depot"), world.id("shop"));
    assert!(world.quiet(depot).is_empty());
    let elsewhere = pod("shop/db", "b", &["10.244.1.5"]);
    assert!(world.apply(WatchEvent::Namespace(shop, NamespaceEvent::Pods(all(vec![elsewhere])))).is_empty());
    assert!(world.apply(WatchEvent::Namespace(shop, NamespaceEvent::Services(all(vec![])))).is_empty());
    let last = world.apply(WatchEvent::Namespace(shop, NamespaceEvent::Slices(all(vec![]))));
    let [Change::Ranges(_), Change::ClusterNodes(nodes), Change::Services(_), Change::Endpoints(pods)] = &*last else {
        panic!("{last:?}")
    };
    assert_eq!((nodes.len(), pods.len()), (1, 2));
}

#[test]
fn the_runtime_s_report_is_enough_and_the_api_server_s_alone_is_not() {
    let mut world = World::with(vec![], vec![]);
    let changes = world.apply(WatchEvent::Local(Update::Upsert(pod("shop/web", "a", &[]))));
    assert_eq!(endpoint(&changes), ": ");
    let made = world.apply(WatchEvent::Sandboxes(Arc::new(vec![sandbox("shop/web", "cni-1", &["10.244.0.5"])])));
    assert_eq!(endpoint(&made), "cni-1: 10.244.0.5");
    let same = world.apply(WatchEvent::Local(Update::Upsert(pod("shop/web", "a", &["10.244.0.5"]))));
    assert!(same.is_empty(), "{same:?}");
}

#[test]
fn a_sandbox_of_an_unknown_pod_claims_nothing() {
    let mut world = World::with(vec![], vec![]);
    assert!(
        world.apply(WatchEvent::Sandboxes(Arc::new(vec![sandbox("shop/web", "cni-1", &["10.244.0.5"])]))).is_empty()
    );
}

#[test]
fn a_pod_has_no_address_while_runtime_and_api_server_disagree() {
    let made = sandbox("shop/web", "cni-1", &["10.244.0.5"]);
    let mut world = World::with(vec![pod("shop/web", "a", &["10.244.0.5"])], vec![made]);
    assert_eq!(
        endpoint(&world.apply(WatchEvent::Local(Update::Upsert(pod("shop/web", "a", &["10.244.0.9"]))))),
        "cni-1: "
    );
}

#[test]
fn of_two_sandboxes_the_newer_counts() {
    let mut world = World::with(vec![pod("shop/web", "a", &[])], vec![]);
    let both = ["cni-1", "cni-2"].map(|netns| sandbox("shop/web", netns, &["10.244.0.5"]));
    assert_eq!(endpoint(&world.apply(WatchEvent::Sandboxes(Arc::new(both.into())))), "cni-2: 10.244.0.5");
}

#[test]
fn a_late_deletion_of_a_predecessor_changes_nothing() {
    let mut world = World::with(vec![pod("shop/web", "a", &["10.244.0.5"])], vec![]);
    let late = |uid: &str| WatchEvent::Local(Update::Delete { key: key("shop/web"), uid: uid.into() });
    assert!(world.apply(late("an earlier one")).is_empty());
    assert!(matches!(&*world.apply(late("uid of shop/web")), [Change::EndpointGone { .. }]));
}

#[test]
fn a_snapshot_replaces_everything_but_unreadable_objects() {
    let (web, db, api) = ("shop/web", "shop/db", "shop/api");
    let mut world = World::with([web, db, api].map(|path| pod(path, "a", &[])).into(), vec![]);
    let relisted = Update::Snapshot { objects: vec![pod(web, "a", &[])], unreadable: vec![key(db)] };
    let changes = world.apply(WatchEvent::Local(relisted));
    let gone = Change::EndpointGone { key: key(api), uid: "uid of shop/api".into() };
    assert_eq!(changes, [gone]);
    let shop = world.id("shop");
    world.apply(WatchEvent::Namespace(shop, NamespaceEvent::Pods(all(vec![pod("shop/x", "b", &["10.244.1.1"])]))));
    let kept = Update::Snapshot { objects: vec![], unreadable: vec![key("shop/x")] };
    assert!(world.apply(WatchEvent::Namespace(shop, NamespaceEvent::Pods(kept))).is_empty());
    let gone = world.apply(WatchEvent::Namespace(shop, NamespaceEvent::Pods(all(vec![]))));
    assert!(matches!(&*gone, [Change::EndpointGone { .. }]));
}

#[test]
fn a_tenant_that_cannot_be_read_keeps_its_last_good_version() {
    let mut world = World::with(vec![pod("shop/web", "a", &[])], vec![]);
    let acme = EndpointKey { name: "acme".into(), ..EndpointKey::default() };
    let changes =
        world.apply(WatchEvent::Tenants(Update::Snapshot { objects: vec![tenant("globex")], unreadable: vec![acme] }));
    let [Change::Tenants(tenants)] = &*changes else { panic!("{changes:?}") };
    assert_eq!(tenants.len(), 2);
    assert_eq!(world.followed(), ["depot", "shop"]);
}

#[test]
fn a_namespace_is_followed_while_its_tenant_has_pods_here_and_a_little_longer() {
    let mut world = World::with(vec![], vec![]);
    assert!(world.followed().is_empty());
    world.apply(WatchEvent::Local(Update::Upsert(pod("bank/till", "a", &[]))));
    let bank = world.id("bank");
    world.quiet(bank);
    let elsewhere = pod("bank/vault", "b", &["10.244.1.7"]);
    assert_eq!(world.apply(WatchEvent::Namespace(bank, NamespaceEvent::Pods(Update::Upsert(elsewhere)))).len(), 1);
    world.apply(WatchEvent::Local(Update::Delete { key: key("bank/till"), uid: String::new() }));
    assert_eq!(world.followed(), ["bank"]);
    world.now += LINGER;
    let (subscriptions, changes) = world.view.subscriptions(world.now);
    assert_eq!(subscriptions, [WatchSubscription::Stop(bank)]);
    assert_eq!(changes, [Change::EndpointGone { key: key("bank/vault"), uid: "uid of bank/vault".into() }]);
    let late =
        WatchEvent::Namespace(bank, NamespaceEvent::Pods(Update::Upsert(pod("bank/vault", "b", &["10.244.1.7"]))));
    assert!(world.apply(late).is_empty(), "the watch was stopped");
}

#[test]
fn mutual_peers_and_shared_tenants_are_followed_too() {
    let mut world = World::with(vec![pod("shop/web", "a", &[])], vec![]);
    let peer = |name: &str| policy::model::testing::peer(name, true, true, None);
    let acme = Tenant { peers: vec![peer("globex")], ..tenant("acme") };
    world.apply(WatchEvent::Tenants(Update::Upsert(acme)));
    assert_eq!(world.followed(), ["depot", "shop"], "one side is not enough");
    world.apply(WatchEvent::Tenants(Update::Upsert(Tenant { peers: vec![peer("acme")], ..tenant("globex") })));
    assert_eq!(world.followed(), ["bank", "depot", "shop"]);
    let mut world = World::with(vec![], vec![]);
    world.apply(WatchEvent::Tenants(Update::Upsert(Tenant { shared: true, ..tenant("globex") })));
    assert_eq!(world.followed(), ["bank"]);
}

#[test]
fn a_pod_that_moves_between_nodes_is_reported_on_its_new_node() {
    let mut world = World::with(vec![pod("shop/db-0", "a", &["10.244.0.5"])], vec![]);
    let shop = world.id("shop");
    let mut moved = pod("shop/db-0", "b", &["10.244.1.5"]);
    moved.endpoint.uid = "second".into();
    let early = world.apply(WatchEvent::Namespace(shop, NamespaceEvent::Pods(Update::Upsert(moved.clone()))));
    assert!(early.is_empty(), "the old one is still here");
    let gone = Update::Delete { key: key("shop/db-0"), uid: "uid of shop/db-0".into() };
    let changes = world.apply(WatchEvent::Local(gone));
    assert!(matches!(&*changes, [Change::EndpointGone { .. }, Change::Endpoint(pod)] if *pod == moved.endpoint));
}

#[test]
fn a_service_has_all_its_backends_and_those_of_the_api_server_are_nodes() {
    let mut world = World::with(vec![pod("shop/web", "a", &["10.244.0.5"])], vec![]);
    let shop = world.id("shop");
    let service = ObservedService { key: key("shop/web"), addresses: vec![ip("10.96.0.9")] };
    let changes = world.apply(WatchEvent::Namespace(shop, NamespaceEvent::Services(Update::Upsert(service))));
    assert!(matches!(&*changes, [Change::Service(service)] if service.ends.is_empty()), "{changes:?}");
    let slice = |name: &str, service: &str, end: &str| ObservedSlice {
        key: key(name),
        service: service.into(),
        backends: vec![ip(end)],
    };
    world.apply(WatchEvent::Namespace(
        shop,
        NamespaceEvent::Slices(Update::Upsert(slice("shop/web-1", "web", "10.244.0.5"))),
    ));
    let second = Update::Upsert(slice("shop/web-2", "web", "10.244.1.5"));
    let changes = world.apply(WatchEvent::Namespace(shop, NamespaceEvent::Slices(second)));
    assert!(matches!(&*changes, [Change::Service(service)] if service.ends.len() == 2), "{changes:?}");
    let api = ObservedService { key: key("default/kubernetes"), addresses: vec![ip("10.96.0.1")] };
    world.apply(WatchEvent::ApiService(Update::Upsert(api)));
    let end = slice("default/kubernetes", "kubernetes", "203.0.113.5");
    let changes = world.apply(WatchEvent::ApiSlices(Update::Upsert(end)));
    let [Change::Service(api), Change::ClusterNodes(nodes)] = &*changes else { panic!("{changes:?}") };
    assert_eq!(api.ends, [ip("203.0.113.5")]);
    assert!(nodes.contains(&ip("203.0.113.5")) && nodes.contains(&ip("192.168.0.1")));
}

#[test]
fn host_network_pods_are_reported_with_their_control_groups_and_are_no_endpoints() {
    let mut world = World::with(vec![], vec![]);
    let host = ObservedPod { on_node: true, ..pod("kube-system/proxy", "a", &[]) };
    let proxy = |cgroup| {
        let (key, uid) = (key("kube-system/proxy"), "uid of kube-system/proxy".to_owned());
        Change::HostNetworkPods(vec![HostNetworkPod { key, uid, cgroup }])
    };
    let seen = world.apply(WatchEvent::Local(Update::Upsert(host)));
    assert_eq!(seen, [proxy(None)], "its control group is not known yet");
    let groups = |uids: &[(&str, u64)]| {
        WatchEvent::Groups(Arc::new(uids.iter().map(|(uid, id)| (format!("uid of {uid}"), *id)).collect()))
    };
    let seen = world.apply(groups(&[("kube-system/proxy", 9), ("shop/web", 8)]));
    assert_eq!(seen, [proxy(Some(9))]);
    assert!(world.apply(groups(&[("kube-system/proxy", 9)])).is_empty());
    let gone = Update::Delete { key: key("kube-system/proxy"), uid: String::new() };
    assert_eq!(world.apply(WatchEvent::Local(gone)), [Change::HostNetworkPods(vec![])]);
}

#[test]
fn a_pod_without_a_sandbox_is_excused_only_if_it_ends_or_is_static() {
    let plain = || pod("shop/web", "a", &["10.244.0.5"]);
    let ending = || ObservedPod { is_ending: true, ..plain() };
    let excused = |pod: ObservedPod, sandboxes: Vec<Sandbox>| {
        let world = World::with(vec![pod], sandboxes);
        let local = world.view.reported[&key("shop/web")].local.clone();
        local.expect("a local pod").may_lack_sandbox
    };
    assert!(!excused(plain(), vec![]));
    assert!(excused(ending(), vec![]));
    assert!(excused(ObservedPod { is_static: true, ..plain() }, vec![]));
    assert!(excused(ObservedPod { lacks_sandbox: true, ..plain() }, vec![]), "the kubelet says so");
    assert!(!excused(ending(), vec![sandbox("shop/web", "cni-1", &[])]), "its network exists");
}
