//! The joined view: who is told, when, and what must not change anything.

use super::*;
use policy::model::testing::{ip, key, namespace, tenant};

struct World {
    view: View,
    now: Duration,
    orders: Vec<Order>,
}

fn pod(path: &str, node: &str, addresses: &[&str]) -> PodSeen {
    let endpoint = Endpoint {
        key: key(path),
        uid: format!("uid of {path}"),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        ..Endpoint::default()
    };
    PodSeen { endpoint, node: node.into(), on_node: false }
}

fn sandbox(path: &str, netns: &str, addresses: &[&str]) -> Sandbox {
    Sandbox {
        uid: format!("uid of {path}"),
        namespace: key(path).namespace,
        name: key(path).name,
        netns: netns.into(),
        cgroup: None,
        group: None,
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        written: std::time::SystemTime::UNIX_EPOCH,
    }
}

fn all<T>(objects: Vec<T>) -> Told<T> {
    Told::All { objects, kept: Vec::new() }
}

impl World {
    /// acme has shop and depot, globex has bank; nothing runs anywhere.
    fn new() -> Self {
        let settings = Settings { pod_cidrs: vec!["10.244.0.0/16".parse().expect("a range")], ..Settings::default() };
        let mut world = Self { view: View::new("a".into(), settings), now: Duration::ZERO, orders: Vec::new() };
        world.take(News::Tenants(all(vec![tenant("acme"), tenant("globex")])));
        let spaces = [("shop", "acme"), ("depot", "acme"), ("bank", "globex")];
        world.take(News::Namespaces(all(spaces.map(|(name, tenant)| namespace(name, tenant)).into())));
        world.take(News::Nodes(all(vec![NodeSeen { name: "a".into(), addresses: vec![ip("192.168.0.1")] }])));
        world.take(News::ApiService(all(vec![])));
        world.take(News::ApiSlices(all(vec![])));
        world
    }

    fn take(&mut self, news: News) -> Vec<Change> {
        let mut changes = self.view.take(news);
        let (orders, more) = self.view.orders(self.now);
        self.orders.extend(orders);
        changes.extend(more);
        changes
    }

    /// With these pods here, and nothing elsewhere.
    fn with(pods: Vec<PodSeen>, sandboxes: Vec<Sandbox>) -> Self {
        let mut world = Self::new();
        world.take(News::Local(all(pods)));
        world.take(News::Sandboxes(Arc::new(sandboxes)));
        for order in world.orders.clone() {
            if let Order::Open(_, number) = order {
                world.quiet(number);
            }
        }
        assert!(world.view.is_complete());
        world
    }

    fn quiet(&mut self, number: u64) -> Vec<Change> {
        let mut changes = self.take(News::Room(number, RoomNews::Pods(all(vec![]))));
        changes.extend(self.take(News::Room(number, RoomNews::Services(all(vec![])))));
        changes.extend(self.take(News::Room(number, RoomNews::Slices(all(vec![])))));
        changes
    }

    fn number(&self, namespace: &str) -> u64 {
        let open = self.orders.iter().rev().find_map(|order| match order {
            Order::Open(name, number) if name == namespace => Some(*number),
            _ => None,
        });
        open.unwrap_or_else(|| panic!("{namespace} is not followed"))
    }

    fn followed(&self) -> Vec<&str> {
        self.view.rooms.keys().map(String::as_str).collect()
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
fn endpoints_are_told_once_nothing_is_missing() {
    let mut world = World::new();
    assert!(world.take(News::Local(all(vec![pod("shop/web", "a", &["10.244.0.5"])]))).is_empty());
    assert_eq!(world.followed(), ["depot", "shop"], "all of acme's, none of globex's");
    assert!(world.take(News::Sandboxes(Arc::new(vec![]))).is_empty());
    let (depot, shop) = (world.number("depot"), world.number("shop"));
    assert!(world.quiet(depot).is_empty());
    let elsewhere = pod("shop/db", "b", &["10.244.1.5"]);
    assert!(world.take(News::Room(shop, RoomNews::Pods(all(vec![elsewhere])))).is_empty());
    assert!(world.take(News::Room(shop, RoomNews::Services(all(vec![])))).is_empty());
    let last = world.take(News::Room(shop, RoomNews::Slices(all(vec![]))));
    let [Change::ClusterNodes(nodes), Change::Services(_), Change::Endpoints(pods)] = &*last else {
        panic!("{last:?}")
    };
    assert_eq!((nodes.len(), pods.len()), (1, 2));
}

#[test]
fn the_runtime_s_word_is_enough_and_the_api_s_alone_is_not() {
    let mut world = World::with(vec![], vec![]);
    let told = world.take(News::Local(Told::One(pod("shop/web", "a", &[]))));
    assert_eq!(endpoint(&told), ": ");
    let made = world.take(News::Sandboxes(Arc::new(vec![sandbox("shop/web", "cni-1", &["10.244.0.5"])])));
    assert_eq!(endpoint(&made), "cni-1: 10.244.0.5");
    let same = world.take(News::Local(Told::One(pod("shop/web", "a", &["10.244.0.5"]))));
    assert!(same.is_empty(), "{same:?}");
}

#[test]
fn a_sandbox_that_the_api_does_not_know_claims_nothing() {
    let mut world = World::with(vec![], vec![]);
    assert!(world.take(News::Sandboxes(Arc::new(vec![sandbox("shop/web", "cni-1", &["10.244.0.5"])]))).is_empty());
}

#[test]
fn two_witnesses_who_disagree_are_not_believed() {
    let made = sandbox("shop/web", "cni-1", &["10.244.0.5"]);
    let mut world = World::with(vec![pod("shop/web", "a", &["10.244.0.5"])], vec![made]);
    assert_eq!(endpoint(&world.take(News::Local(Told::One(pod("shop/web", "a", &["10.244.0.9"]))))), "cni-1: ");
}

#[test]
fn of_two_sandboxes_the_later_counts() {
    let mut world = World::with(vec![pod("shop/web", "a", &[])], vec![]);
    let both = ["cni-1", "cni-2"].map(|netns| sandbox("shop/web", netns, &["10.244.0.5"]));
    assert_eq!(endpoint(&world.take(News::Sandboxes(Arc::new(both.into())))), "cni-2: 10.244.0.5");
}

#[test]
fn a_late_word_about_a_predecessor_changes_nothing() {
    let mut world = World::with(vec![pod("shop/web", "a", &["10.244.0.5"])], vec![]);
    let late = |uid: &str| News::Local(Told::Gone { key: key("shop/web"), uid: uid.into() });
    assert!(world.take(late("an earlier one")).is_empty());
    assert!(matches!(&*world.take(late("uid of shop/web")), [Change::EndpointGone { .. }]));
}

#[test]
fn a_relist_replaces_the_set_but_for_what_could_not_be_read() {
    let (web, db, api) = ("shop/web", "shop/db", "shop/api");
    let mut world = World::with([web, db, api].map(|path| pod(path, "a", &[])).into(), vec![]);
    let told = Told::All { objects: vec![pod(web, "a", &[])], kept: vec![key(db)] };
    let changes = world.take(News::Local(told));
    let gone = Change::EndpointGone { key: key(api), uid: "uid of shop/api".into() };
    assert_eq!(changes, [gone]);
    let shop = world.number("shop");
    world.take(News::Room(shop, RoomNews::Pods(all(vec![pod("shop/x", "b", &["10.244.1.1"])]))));
    let kept = Told::All { objects: vec![], kept: vec![key("shop/x")] };
    assert!(world.take(News::Room(shop, RoomNews::Pods(kept))).is_empty());
    let gone = world.take(News::Room(shop, RoomNews::Pods(all(vec![]))));
    assert!(matches!(&*gone, [Change::EndpointGone { .. }]));
}

#[test]
fn a_tenant_that_cannot_be_read_keeps_what_it_had() {
    let mut world = World::with(vec![pod("shop/web", "a", &[])], vec![]);
    let acme = EndpointKey { name: "acme".into(), ..EndpointKey::default() };
    let changes = world.take(News::Tenants(Told::All { objects: vec![tenant("globex")], kept: vec![acme] }));
    let [Change::Tenants(tenants)] = &*changes else { panic!("{changes:?}") };
    assert_eq!(tenants.len(), 2);
    assert_eq!(world.followed(), ["depot", "shop"]);
}

#[test]
fn a_namespace_is_followed_while_its_tenant_is_here_and_a_little_longer() {
    let mut world = World::with(vec![], vec![]);
    assert!(world.followed().is_empty());
    world.take(News::Local(Told::One(pod("bank/till", "a", &[]))));
    let bank = world.number("bank");
    world.quiet(bank);
    let elsewhere = pod("bank/vault", "b", &["10.244.1.7"]);
    assert_eq!(world.take(News::Room(bank, RoomNews::Pods(Told::One(elsewhere)))).len(), 1);
    world.take(News::Local(Told::Gone { key: key("bank/till"), uid: String::new() }));
    assert_eq!(world.followed(), ["bank"]);
    world.now += LINGER;
    let (orders, changes) = world.view.orders(world.now);
    assert_eq!(orders, [Order::Close(bank)]);
    assert_eq!(changes, [Change::EndpointGone { key: key("bank/vault"), uid: "uid of bank/vault".into() }]);
    let late = News::Room(bank, RoomNews::Pods(Told::One(pod("bank/vault", "b", &["10.244.1.7"]))));
    assert!(world.take(late).is_empty(), "nobody follows it any more");
}

#[test]
fn peers_that_agree_and_shared_tenants_are_followed_too() {
    let mut world = World::with(vec![pod("shop/web", "a", &[])], vec![]);
    let peer = |name: &str| policy::model::testing::peer(name, true, true, None);
    let acme = Tenant { peers: vec![peer("globex")], ..tenant("acme") };
    world.take(News::Tenants(Told::One(acme)));
    assert_eq!(world.followed(), ["depot", "shop"], "one side is not enough");
    world.take(News::Tenants(Told::One(Tenant { peers: vec![peer("acme")], ..tenant("globex") })));
    assert_eq!(world.followed(), ["bank", "depot", "shop"]);
    let mut world = World::with(vec![], vec![]);
    world.take(News::Tenants(Told::One(Tenant { shared: true, ..tenant("globex") })));
    assert_eq!(world.followed(), ["bank"]);
}

#[test]
fn a_pod_that_moves_between_nodes_is_told_where_it_is() {
    let mut world = World::with(vec![pod("shop/db-0", "a", &["10.244.0.5"])], vec![]);
    let shop = world.number("shop");
    let mut moved = pod("shop/db-0", "b", &["10.244.1.5"]);
    moved.endpoint.uid = "second".into();
    let early = world.take(News::Room(shop, RoomNews::Pods(Told::One(moved.clone()))));
    assert!(early.is_empty(), "the old one is still here");
    let gone = Told::Gone { key: key("shop/db-0"), uid: "uid of shop/db-0".into() };
    let changes = world.take(News::Local(gone));
    assert!(matches!(&*changes, [Change::EndpointGone { .. }, Change::Endpoint(pod)] if *pod == moved.endpoint));
}

#[test]
fn a_service_is_told_with_all_its_ends_and_the_api_server_s_ends_are_nodes() {
    let mut world = World::with(vec![pod("shop/web", "a", &["10.244.0.5"])], vec![]);
    let shop = world.number("shop");
    let service = ServiceSeen { key: key("shop/web"), addresses: vec![ip("10.96.0.9")] };
    let changes = world.take(News::Room(shop, RoomNews::Services(Told::One(service))));
    assert!(matches!(&*changes, [Change::Service(service)] if service.ends.is_empty()), "{changes:?}");
    let slice = |name: &str, service: &str, end: &str| SliceSeen {
        key: key(name),
        service: service.into(),
        ends: vec![ip(end)],
    };
    world.take(News::Room(shop, RoomNews::Slices(Told::One(slice("shop/web-1", "web", "10.244.0.5")))));
    let second = Told::One(slice("shop/web-2", "web", "10.244.1.5"));
    let changes = world.take(News::Room(shop, RoomNews::Slices(second)));
    assert!(matches!(&*changes, [Change::Service(service)] if service.ends.len() == 2), "{changes:?}");
    let api = ServiceSeen { key: key("default/kubernetes"), addresses: vec![ip("10.96.0.1")] };
    world.take(News::ApiService(Told::One(api)));
    let end = slice("default/kubernetes", "kubernetes", "203.0.113.5");
    let changes = world.take(News::ApiSlices(Told::One(end)));
    let [Change::Service(api), Change::ClusterNodes(nodes)] = &*changes else { panic!("{changes:?}") };
    assert_eq!(api.ends, [ip("203.0.113.5")]);
    assert!(nodes.contains(&ip("203.0.113.5")) && nodes.contains(&ip("192.168.0.1")));
}

#[test]
fn pods_on_the_node_s_network_are_told_by_their_groups_and_are_no_endpoints() {
    let mut world = World::with(vec![], vec![]);
    let host = PodSeen { on_node: true, ..pod("kube-system/proxy", "a", &[]) };
    assert!(world.take(News::Local(Told::One(host))).is_empty(), "nobody has seen its group");
    let groups = |uids: &[(&str, u64)]| {
        News::Groups(Arc::new(uids.iter().map(|(uid, id)| (format!("uid of {uid}"), *id)).collect()))
    };
    let seen = world.take(groups(&[("kube-system/proxy", 9), ("shop/web", 8)]));
    assert_eq!(seen, [Change::NodeGroups(vec![9])]);
    assert!(world.take(groups(&[("kube-system/proxy", 9)])).is_empty());
    let gone = Told::Gone { key: key("kube-system/proxy"), uid: String::new() };
    assert_eq!(world.take(News::Local(gone)), [Change::NodeGroups(vec![])]);
}
