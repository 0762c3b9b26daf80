//! The loop's promises, one story each.

mod scale;
mod writes;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agent_common::layout::{EndpointEntry, Grant};
use agent_common::tenant::TenantId;
use tokio::sync::{mpsc, watch};

use super::lag::News;
use super::pace::{Now, ROUND};
use super::snapshot::{Condition, Snapshot};
use super::state::{Outcome, State, step};
use crate::dataplane::memory::MemoryDataplane;
use policy::model::guards::Guards;
use policy::model::input::{Change, Link, LinkKind, Subject, Tenant};
use policy::model::settings::{Limits, Settings, Uplinks};
use policy::model::testing::{ip, key, link, local, namespace, nothing, peer, range, remote, tenant};
use policy::plan::{Op, Table};

/// An agent, its kernel, and a clock.
struct Bench {
    state: State,
    kernel: MemoryDataplane,
    now: Now,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        Self::over(MemoryDataplane::default(), settings)
    }

    fn over(mut kernel: MemoryDataplane, settings: Settings) -> Self {
        let state = State::start(&mut kernel, settings).expect("a readable kernel");
        Self { state, kernel, now: Now { unix: 1000, tick: Duration::ZERO } }
    }

    fn tell(&mut self, news: Vec<Change>) -> Outcome {
        self.kernel.log.clear();
        step(&mut self.state, &mut self.kernel, news, self.now)
    }

    fn wait(&mut self, seconds: u64) -> Outcome {
        self.now.unix += i64::try_from(seconds).expect("small");
        self.now.tick += Duration::from_secs(seconds);
        self.tell(vec![])
    }

    fn restart(self, settings: Settings) -> Self {
        Self { now: self.now, ..Self::over(self.kernel, settings) }
    }

    fn condition(&self, path: &str) -> Condition {
        self.state.snapshot().endpoints[&key(path)].condition
    }

    fn owner(&self, address: &str) -> Option<String> {
        let peers = &self.kernel.actual.peers_v4;
        let std::net::IpAddr::V4(v4) = ip(address) else { panic!("{address}") };
        let entry = peers.iter().find(|(key, _)| key.address.octets() == v4.octets())?.1;
        Some(self.name(entry.tenant))
    }

    fn name(&self, id: TenantId) -> String {
        self.kernel.actual.names.get(&id).and_then(|name| name.as_str()).unwrap_or("nobody").to_owned()
    }

    fn held(&self) -> Vec<u32> {
        self.kernel.ports.iter().map(|port| port.ifindex).collect()
    }

    fn claimed_by(&self, ifindex: u32) -> Option<String> {
        self.kernel.actual.endpoints.get(&ifindex).map(|entry| self.name(entry.tenant))
    }
}

fn two_tenants() -> Vec<Change> {
    let acme = Tenant { subnets: vec![range("10.40.0.0/24", &[5432])], ..tenant("acme") };
    vec![
        Change::Tenants(vec![acme, tenant("globex")]),
        Change::Namespaces(vec![namespace("web", "acme"), namespace("shop", "globex")]),
        Change::Endpoints(vec![local("web/a", &["10.0.0.1"], "veth7"), remote("shop/b", &["10.0.0.2"])]),
        Change::Links(vec![link(7, "veth7")]),
        Change::Nodes(vec![ip("192.0.2.1")]),
    ]
}

#[test]
fn news_become_tables_and_a_snapshot() {
    let mut bench = Bench::new(Settings::default());
    let outcome = bench.tell(two_tenants());
    assert!(outcome.applied > 0 && outcome.pending == 0 && outcome.published);
    assert_eq!((bench.owner("10.0.0.1"), bench.owner("10.0.0.2")), (Some("acme".into()), Some("globex".into())));
    assert_eq!(bench.claimed_by(7).as_deref(), Some("acme"));
    let snapshot = bench.state.snapshot();
    assert!(snapshot.ready && snapshot.applied_at == Some(1000));
    assert_eq!(bench.condition("web/a"), Condition::Enforced);
    assert_eq!(&*snapshot.pod(ip("10.0.0.2")).expect("a pod").name, "b");
    assert_eq!(snapshot.tenant_of("shop").map(|name| &**name), Some("globex"));
    let ifindex = snapshot.endpoint_on(7).expect("a pod");
    assert_eq!(snapshot.tenant_name(bench.kernel.actual.endpoints[&7].tenant), Some(&ifindex.standing.tenant));
    assert_eq!(snapshot.tables.iter().find(|fill| fill.table == Table::PeersV4).map(|fill| fill.used), Some(8));
}

#[test]
fn nothing_is_written_before_every_kind_was_told() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    let mut bench = bench.restart(Settings::default());
    let mut news = two_tenants();
    let last = news.pop().expect("five kinds");
    for change in news {
        assert_eq!(bench.tell(vec![change]).applied, 0);
        assert!(bench.kernel.log.is_empty() && !bench.state.snapshot().ready);
    }
    assert_eq!(bench.tell(vec![last]).applied, 0, "and then there is nothing to do");
    assert!(bench.state.snapshot().ready && bench.kernel.ports.len() == 1);
}

#[test]
fn a_restart_with_a_changed_file_writes_only_the_difference() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    let cookie = bench.kernel.actual.endpoints[&7].cookie;
    let mut bench = bench.restart(Settings::default());
    let mut news = two_tenants();
    news[2] = Change::Endpoints(vec![local("web/a", &["10.0.0.1"], "veth7"), remote("web/c", &["10.0.0.2"])]);
    bench.tell(news);
    assert_eq!(bench.owner("10.0.0.2").as_deref(), Some("acme"));
    assert_eq!(bench.kernel.actual.endpoints[&7].cookie, cookie);
    let others = |op: &&Op| !matches!(op, Op::PeerV4(..) | Op::Generation(_));
    assert_eq!(bench.kernel.log.iter().filter(others).count(), 0, "{:?}", bench.kernel.log);
}

#[test]
fn an_interface_is_attached_before_its_pod_is_claimed() {
    let mut bench = Bench::new(Settings::default());
    let mut news = two_tenants();
    news[3] = Change::Links(vec![]);
    bench.tell(news);
    assert_eq!(bench.condition("web/a"), Condition::Pending);
    assert!(bench.kernel.ports.is_empty() && bench.claimed_by(7).is_none());
    bench.kernel.fail_ports = [7].into();
    let outcome = bench.tell(vec![Change::Links(vec![link(7, "veth7")])]);
    assert!(outcome.pending > 0 && !outcome.in_force && bench.claimed_by(7).is_none());
    assert_eq!(bench.condition("web/a"), Condition::Error);
    assert_eq!(bench.state.snapshot().attach_failures, 1);
    bench.kernel.fail_ports.clear();
    assert_eq!(bench.wait(1).pending, 0);
    assert_eq!(bench.claimed_by(7).as_deref(), Some("acme"));
    assert_eq!(bench.condition("web/a"), Condition::Enforced);
}

#[test]
fn many_interfaces_are_attached_and_claimed_a_few_at_a_time_the_newest_first() {
    let mut bench = Bench::new(Settings::default());
    let mut news = two_tenants();
    let pods = 1..=20_u32;
    let pod = |i: u32| local(&format!("web/p{i}"), &[&format!("10.0.1.{i}")], &format!("veth{i}"));
    news[2] = Change::Endpoints(pods.clone().map(pod).collect());
    news[3] = Change::Links(pods.clone().map(|i| link(i, &format!("veth{i}"))).collect());
    // One that cannot be attached must not take the others' turn.
    bench.kernel.fail_ports = [20].into();
    let mut outcome = bench.tell(news);
    let claimed = |bench: &Bench| pods.clone().filter(|i| bench.claimed_by(*i).is_some()).collect::<Vec<_>>();
    assert_eq!(claimed(&bench), (12..=19).collect::<Vec<_>>());
    assert_eq!(bench.condition("web/p1"), Condition::Pending);
    let mut steps = 1;
    while outcome.wake == bench.now.tick {
        assert!(!outcome.in_force, "some still wait");
        outcome = bench.tell(vec![]);
        steps += 1;
    }
    assert_eq!((steps, claimed(&bench)), (3, (1..=19).collect::<Vec<_>>()));
    assert_eq!(bench.condition("web/p20"), Condition::Error);
    bench.kernel.fail_ports.clear();
    assert_eq!(bench.wait(1).pending, 0);
    assert_eq!(claimed(&bench).len(), 20);
}

#[test]
fn guards_are_put_in_place_once_the_pods_that_were_there_before_are_claimed() {
    let mut bench = Bench::new(Settings { uplinks: Uplinks::Auto, ..Settings::default() });
    let mut news = two_tenants();
    let pods = 3..=22_u32;
    let pod = |i: u32| local(&format!("web/p{i}"), &[&format!("10.0.1.{i}")], &format!("veth{i}"));
    news[2] = Change::Endpoints(pods.clone().map(pod).collect());
    news[3] = Change::Links(pods.map(pods_end).chain([link(2, "eth0")]).collect());
    let mut outcome = bench.tell(news);
    while outcome.wake == bench.now.tick {
        assert_eq!(bench.kernel.guards, Guards::default());
        outcome = bench.tell(vec![]);
    }
    let guards = bench.kernel.guards.clone();
    assert_eq!(guards.own, [2].into());
    assert_eq!((guards.doors.keys().collect::<Vec<_>>(), guards.senders.len()), (vec![&2], 20));
    bench.tell(vec![Change::EndpointGone { key: key("web/p3"), uid: "uid of web/p3".into() }]);
    assert_eq!(bench.kernel.guards.senders.len(), 19);
}

#[test]
fn a_guard_that_cannot_be_put_in_place_is_told_and_tried_again() {
    let mut bench = Bench::new(Settings { uplinks: Uplinks::Auto, ..Settings::default() });
    bench.kernel.fail_ports = [2].into();
    let mut news = two_tenants();
    news[3] = Change::Links(vec![pods_end(7), link(2, "eth0")]);
    bench.tell(news);
    assert!(bench.state.snapshot().unguarded.len() == 1, "{:?}", bench.state.snapshot().unguarded);
    bench.kernel.fail_ports.clear();
    bench.wait(1);
    assert!(bench.state.snapshot().unguarded.is_empty());
}

/// The node's end of a pair whose other end is in a pod.
fn pods_end(ifindex: u32) -> Link {
    Link { kind: LinkKind::Pair, netns: Some(format!("cni-{ifindex}")), ..link(ifindex, &format!("veth{ifindex}")) }
}

#[test]
fn an_interface_that_vanishes_leaves_nothing_behind() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    bench.tell(vec![Change::Links(vec![])]);
    assert!(bench.kernel.actual.endpoints.is_empty() && bench.kernel.ports.is_empty());
    assert_eq!(bench.owner("10.0.0.1").as_deref(), Some("acme"), "its address is still the pod's");
}

#[test]
fn an_interface_without_a_pod_stays_denied_unless_the_settings_let_go_of_it() {
    for release in [false, true] {
        let mut bench = Bench::new(Settings { release_unclaimed: release, ..Settings::default() });
        bench.tell(two_tenants());
        bench.tell(vec![Change::EndpointGone { key: key("web/a"), uid: String::new() }]);
        assert!(bench.kernel.actual.endpoints.is_empty());
        assert_eq!(bench.kernel.ports.is_empty(), release);
    }
}

#[test]
fn a_pod_on_a_reused_interface_is_cleared_before_it_is_claimed() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    let first = bench.kernel.actual.endpoints[&7];
    bench.tell(vec![Change::Endpoints(vec![local("shop/b", &["10.0.0.9"], "veth7")])]);
    let writes: Vec<&Op> = bench.kernel.log.iter().filter(|op| matches!(op, Op::Endpoint(..))).collect();
    let [Op::Endpoint(7, cleared), Op::Endpoint(7, claimed)] = writes[..] else { panic!("{writes:?}") };
    assert_eq!(*cleared, EndpointEntry::default());
    assert!(claimed.cookie != first.cookie && claimed.tenant != first.tenant);
}

#[test]
fn an_address_that_passes_to_another_tenant_is_nobodys_in_between() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    let gone = || Change::EndpointGone { key: key("shop/b"), uid: "uid of shop/b".into() };
    bench.tell(vec![gone(), Change::Endpoint(remote("web/c", &["10.0.0.2"]))]);
    let writes: Vec<u32> = bench
        .kernel
        .log
        .iter()
        .filter_map(|op| match op {
            Op::PeerV4(_, Some(entry)) => Some(entry.tenant.0),
            _ => None,
        })
        .collect();
    assert_eq!(writes.first(), Some(&0));
    assert_eq!(bench.owner("10.0.0.2").as_deref(), Some("acme"));
    assert_eq!(bench.tell(vec![gone()]).applied, 0, "the late delete of the first owner");
    assert_eq!(bench.owner("10.0.0.2").as_deref(), Some("acme"));
}

#[test]
fn a_number_is_handed_on_only_when_nothing_mentions_it() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    let globex =
        bench.state.snapshot().tenants.iter().find(|(_, t)| &*t.name == "globex").map(|(id, _)| *id).expect("a number");
    bench.kernel.fail_tables = [Table::PeersV4].into();
    bench.tell(vec![
        Change::TenantGone("globex".into()),
        Change::Namespace(namespace("shop", "")),
        Change::Tenant(tenant("initech")),
    ]);
    assert_eq!(bench.owner("10.0.0.2").as_deref(), Some("globex"), "its address could not be rewritten");
    assert_eq!(bench.name(globex), "globex");
    bench.kernel.fail_tables.clear();
    bench.wait(60);
    assert_eq!(bench.owner("10.0.0.2").as_deref(), Some("ns/shop"));
    assert_eq!(bench.name(globex), "nobody", "now it is free");
    bench.tell(vec![Change::Tenant(tenant("hooli"))]);
    assert_eq!(bench.name(globex), "hooli");
}

#[test]
fn a_tenant_s_new_subnet_is_one_turn_and_its_rows_are_fresh() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    let acme = Tenant { subnets: vec![range("10.40.0.0/24", &[5432]), range("10.41.0.0/24", &[])], ..tenant("acme") };
    bench.tell(vec![Change::Tenant(acme.clone())]);
    let turns = bench.kernel.log.iter().filter(|op| matches!(op, Op::Tenant(..))).count();
    assert_eq!(turns, 1, "{:?}", bench.kernel.log);
    assert_eq!(bench.tell(vec![Change::Tenant(acme)]).applied, 0);
}

#[test]
fn a_grant_ends_by_itself_and_the_loop_wakes_for_it() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    let outcome = bench.tell(vec![
        Change::Tenant(Tenant { peers: vec![peer("globex", true, false, Some(1010))], ..tenant("acme") }),
        Change::Tenant(Tenant { peers: vec![peer("acme", false, true, None)], ..tenant("globex") }),
    ]);
    assert_eq!(bench.kernel.actual.grants.values().copied().collect::<Vec<_>>(), [Grant { until: 1010 }]);
    assert_eq!(outcome.wake.min(Duration::from_secs(10)), outcome.wake);
    bench.wait(9);
    assert_eq!(bench.kernel.actual.grants.len(), 1);
    bench.wait(1);
    assert!(bench.kernel.actual.grants.is_empty());
    assert!(bench.kernel.log.iter().any(|op| matches!(op, Op::Generation(_))), "what it had opened is judged again");
}

#[test]
fn one_failing_address_spoils_only_itself_and_is_tried_again() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(nothing());
    bench.kernel.fail_writes = [bench.kernel.log.len()].into();
    let mut news = two_tenants();
    news.push(Change::Endpoint(remote("web/z", &["10.0.0.3"])));
    bench.kernel.fail_writes = BTreeSet::new();
    bench.tell(news);
    bench.kernel.log.clear();
    bench.kernel.fail_writes = [0].into();
    let news = vec![Change::Endpoint(remote("web/y", &["10.0.0.4"])), Change::Endpoint(remote("web/x", &["10.0.0.5"]))];
    let outcome = bench.tell(news);
    assert_eq!((outcome.pending, bench.owner("10.0.0.4"), bench.owner("10.0.0.5").is_some()), (1, None, true));
    let snapshot = bench.state.snapshot();
    assert_eq!((snapshot.pending, snapshot.failures[&(Table::PeersV4, "write")]), (1, 1));
    bench.kernel.fail_writes.clear();
    bench.now.tick = outcome.wake;
    let outcome = bench.tell(vec![]);
    assert_eq!((outcome.pending, bench.owner("10.0.0.4").is_some()), (0, true));
}

#[test]
fn a_tenant_does_not_turn_to_a_row_that_could_not_be_written() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    let before = bench.kernel.actual.tenants.clone();
    bench.kernel.fail_tables = [Table::RowsV6].into();
    let acme = Tenant { subnets: vec![range("10.41.0.0/24", &[])], ..tenant("acme") };
    assert!(bench.tell(vec![Change::Tenant(acme)]).pending > 0);
    assert_eq!(bench.kernel.actual.tenants, before);
    bench.kernel.fail_tables.clear();
    assert_eq!(bench.wait(1).pending, 0);
    assert_ne!(bench.kernel.actual.tenants, before);
}

#[test]
fn a_wide_range_does_not_open_before_what_is_carved_out_of_it_is_fenced() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    bench.kernel.fail_tables = [Table::OwnersV4].into();
    let before = bench.kernel.actual.tenants.clone();
    bench.tell(vec![
        Change::Tenant(Tenant { egress: vec![range("0.0.0.0/0", &[])], ..tenant("acme") }),
        Change::Tenant(Tenant { subnets: vec![range("10.50.0.0/24", &[])], ..tenant("globex") }),
    ]);
    assert_eq!(bench.kernel.actual.tenants, before);
    bench.kernel.fail_tables.clear();
    bench.wait(1);
    assert_ne!(bench.kernel.actual.tenants, before);
}

#[test]
fn addresses_beyond_the_limit_are_refused_told_and_taken_in_when_one_goes() {
    let limits = Limits { peers_v4: 8, ..Limits::default() };
    let mut bench = Bench::new(Settings { limits, ..Settings::default() });
    bench.tell(two_tenants());
    bench.tell(vec![Change::Endpoint(remote("web/c", &["10.0.0.3"]))]);
    assert_eq!((bench.owner("10.0.0.3"), bench.owner("10.0.0.2").is_some()), (None, true));
    let text = bench.state.snapshot().overflows[0].to_string();
    assert!(
        text.contains("limit peers_v4 of 8") && text.contains("--max-peers") && text.contains("10.0.0.3"),
        "{text}"
    );
    bench.tell(vec![Change::EndpointGone { key: key("shop/b"), uid: String::new() }]);
    bench.tell(vec![]);
    assert_eq!(bench.owner("10.0.0.3").as_deref(), Some("acme"));
    assert!(bench.state.snapshot().overflows.is_empty());
}

#[test]
fn more_new_addresses_than_one_plan_takes_follow_in_later_steps_without_a_pause() {
    let mut bench = Bench::new(Settings::default());
    let pods = policy::plan::MOST_NEW + 5_000;
    let pod = |n: usize| remote(&format!("web/p{n}"), &[&std::net::Ipv4Addr::from(0x0b00_0000 + n as u32).to_string()]);
    let mut news = two_tenants();
    news.push(Change::Endpoints((0..pods).map(pod).collect()));
    let first = bench.tell(news);
    assert!(first.applied < pods && first.wake == bench.now.tick && !bench.state.snapshot().ready);
    while bench.tell(vec![]).wake == bench.now.tick {}
    assert!(bench.kernel.actual.peers_v4.len() >= pods && bench.state.snapshot().ready);
}

#[test]
fn a_job_s_first_pod_in_a_namespace_of_a_present_tenant_compiles_no_tenant() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    bench.tell(vec![
        Change::Namespace(namespace("jobs", "acme")),
        Change::Links(vec![link(7, "veth7"), link(8, "veth8")]),
    ]);
    bench.tell(vec![Change::Endpoint(local("jobs/j", &["10.0.0.7"], "veth8"))]);
    assert_eq!(bench.claimed_by(8).as_deref(), Some("acme"));
    assert_eq!(bench.owner("10.0.0.7").as_deref(), Some("acme"));
    assert_eq!(bench.condition("jobs/j"), Condition::Enforced);
    assert!(!bench.kernel.log.iter().any(|op| matches!(op, Op::Tenant(..))));
}

#[test]
fn a_tenant_s_first_pod_here_brings_its_prefixes_and_its_last_takes_them_along_in_time() {
    let mut bench = Bench::new(Settings::default());
    let shop = Tenant { subnets: vec![range("10.50.0.0/24", &[])], ..tenant("globex") };
    let mut news = two_tenants();
    news.extend([Change::Tenant(shop), Change::Links(vec![link(7, "veth7"), link(8, "veth8")])]);
    bench.tell(news);
    let rows = |bench: &Bench| bench.kernel.actual.tenants.values().filter(|state| state.row != 0).count();
    assert_eq!(rows(&bench), 1);
    bench.tell(vec![Change::Endpoint(local("shop/l", &["10.0.0.8"], "veth8"))]);
    assert_eq!(rows(&bench), 2);
    bench.tell(vec![Change::EndpointGone { key: key("shop/l"), uid: String::new() }]);
    bench.wait(ROUND.as_secs());
    assert_eq!(rows(&bench), 1);
}

#[test]
fn a_kernel_table_smaller_than_configured_is_a_counted_error() {
    let mut bench = Bench::new(Settings::default());
    bench.kernel.limits = [(Table::PeersV4, 7)].into();
    let outcome = bench.tell(two_tenants());
    assert_eq!(outcome.pending, 1);
    assert_eq!(bench.state.snapshot().failures[&(Table::PeersV4, "full")], 1);
    assert_eq!(bench.claimed_by(7).as_deref(), Some("acme"), "and everything else works");
}

#[test]
fn rows_that_run_out_deny_and_come_back_when_there_is_room() {
    let limits = Limits { rows: 1, ..Limits::default() };
    let mut bench = Bench::new(Settings { limits, ..Settings::default() });
    bench.tell(two_tenants());
    let with = |cidr: &str| Change::Tenant(Tenant { subnets: vec![range(cidr, &[])], ..tenant("acme") });
    let row = |bench: &Bench| bench.kernel.actual.tenants[&bench.kernel.actual.endpoints[&7].tenant].row;
    assert_eq!(row(&bench), 1);
    bench.tell(vec![with("10.42.0.0/24")]);
    assert_eq!(row(&bench), 1, "the old row was freed by one plan and reused by the next");
    let turns: Vec<u16> = bench
        .kernel
        .log
        .iter()
        .filter_map(|op| match op {
            Op::Tenant(_, state) => Some(state.row),
            _ => None,
        })
        .collect();
    assert_eq!(turns, [0, 1]);
    bench.tell(vec![
        Change::Tenant(Tenant { subnets: vec![range("10.43.0.0/24", &[])], ..tenant("globex") }),
        Change::Endpoint(local("shop/l", &["10.0.0.8"], "veth8")),
        Change::Links(vec![link(7, "veth7"), link(8, "veth8")]),
    ]);
    assert_eq!(row(&bench), 1, "who has a row keeps it");
    assert_eq!(bench.state.snapshot().overflows[0].limit.as_str(), "rows");
}

#[test]
fn what_only_the_kernel_still_has_is_swept_away() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    let stray = policy::model::desired::NOBODYS;
    let key = agent_common::layout::PeerKeyV4 { network: 0, address: agent_common::addr::V4::new([10, 9, 9, 9]) };
    bench.kernel.actual.peers_v4.insert(key, stray);
    bench.state.reload(&mut bench.kernel).expect("a readable kernel");
    bench.wait(ROUND.as_secs());
    assert!(!bench.kernel.actual.peers_v4.contains_key(&key));
}

#[test]
fn a_program_that_somebody_removed_is_attached_again() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    assert!(bench.state.snapshot().repairs.is_empty());
    for times in 1..=2 {
        bench.kernel.ports.clear();
        bench.wait(ROUND.as_secs());
        assert_eq!(bench.kernel.ports.len(), 1);
        assert_eq!(*bench.state.snapshot().repairs, [(key("web/a"), times)].into());
    }
    bench.wait(ROUND.as_secs());
    assert_eq!(*bench.state.snapshot().repairs, [(key("web/a"), 2)].into(), "nothing was missing");
}

#[test]
fn each_condition_is_told() {
    let mut bench = Bench::new(Settings::default());
    let mut news = two_tenants();
    news.extend([
        Change::Tenant(Tenant { audit: true, ..tenant("tryout") }),
        Change::Tenant(Tenant { shared: true, ..tenant("dns") }),
        Change::Namespace(namespace("try", "tryout")),
        Change::Namespace(namespace("dns", "dns")),
        Change::Namespace(namespace("loose", "")),
        Change::Endpoint(local("try/t", &["10.0.1.1"], "veth1")),
        Change::Endpoint(local("dns/d", &["10.0.1.2"], "veth2")),
        Change::Endpoint(local("loose/l", &["10.0.1.3"], "veth3")),
        Change::Endpoint(local("web/bad", &["127.0.0.1"], "veth4")),
        Change::Endpoint(local("web/soon", &[], "veth5")),
        Change::Links((1..=7).map(|n| link(n, &format!("veth{n}"))).collect()),
    ]);
    bench.tell(news);
    for (path, condition) in [
        ("web/a", Condition::Enforced),
        ("try/t", Condition::Audited),
        ("dns/d", Condition::Shared),
        ("loose/l", Condition::Unassigned),
        ("web/bad", Condition::Error),
        ("web/soon", Condition::Pending),
    ] {
        assert_eq!(bench.condition(path), condition, "{path}");
    }
}

#[test]
fn an_idle_look_round_writes_nothing_and_publishes_nothing() {
    let mut bench = Bench::new(Settings::default());
    bench.tell(two_tenants());
    let revision = bench.state.snapshot().revision;
    for _ in 0..5 {
        let outcome = bench.wait(ROUND.as_secs());
        assert_eq!((outcome.applied, outcome.pending), (0, 0));
    }
    assert!(bench.kernel.log.is_empty());
    assert_eq!(bench.state.snapshot().revision, revision);
}

#[tokio::test]
async fn the_loop_applies_a_burst_at_once_and_ends_with_its_senders() {
    let mut kernel = MemoryDataplane::default();
    let state = State::start(&mut kernel, Settings::default()).expect("an empty kernel");
    let (changes, inbox) = mpsc::channel(64);
    let (snapshots, mut seen) = watch::channel(Arc::new(Snapshot::default()));
    let start = tokio::time::Instant::now();
    let clock = move || Now { unix: 1000, tick: start.elapsed() };
    let (took, lags) = std::sync::mpsc::channel();
    let told = move |subject, lag| took.send((subject, lag)).expect("the test listens");
    let running = tokio::spawn(super::run(state, kernel, inbox, snapshots, clock, told));
    for change in two_tenants() {
        changes.send(News { change, seen: Duration::ZERO }).await.expect("the loop lives");
    }
    let snapshot = seen.wait_for(|snapshot| snapshot.ready).await.expect("the loop lives").clone();
    assert_eq!(snapshot.endpoints.len(), 1);
    drop(changes);
    let kernel = running.await.expect("no panic");
    assert_eq!(kernel.actual.endpoints.len(), 1);
    let subjects: Vec<Subject> = lags.iter().map(|(subject, _)| subject).collect();
    assert_eq!(subjects, [Subject::Tenant, Subject::Namespace, Subject::Pod]);
}

/// An interface whose other end is in a namespace of this name.
fn pods(ifindex: u32, netns: &str) -> policy::model::input::Link {
    policy::model::input::Link { netns: Some(netns.to_owned()), ..link(ifindex, &format!("veth{ifindex}")) }
}

fn holding() -> Settings {
    Settings { hold_unknown: true, foreign_netns: ["vpn".to_owned()].into(), ..Settings::default() }
}

#[test]
fn an_interface_of_an_unknown_pod_is_held_and_denied_and_the_node_s_own_are_left_alone() {
    let mut bench = Bench::new(holding());
    bench.tell(nothing());
    bench.tell(vec![Change::Links(vec![link(2, "uplink"), pods(3, "vpn"), pods(7, "cni-1")])]);
    assert_eq!(bench.held(), [7]);
    assert_eq!(bench.claimed_by(7), None);
}

#[test]
fn an_interface_that_appears_while_sources_are_silent_is_denied_and_older_ones_keep_what_they_have() {
    let mut bench = Bench::new(holding());
    bench.tell(vec![Change::Links(vec![pods(7, "cni-1")])]);
    bench.tell(vec![Change::Links(vec![pods(7, "cni-1"), pods(8, "cni-2")])]);
    assert_eq!(bench.held(), [8]);
    bench.tell(nothing().into_iter().filter(|change| !matches!(change, Change::Links(_))).collect());
    assert_eq!(bench.held(), [7, 8]);
}
