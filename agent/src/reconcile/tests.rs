//! The promises of the reconcile loop, one test each.
//!
//! Every test drives the loop through [`super::step`] with a dataplane in memory and a clock of its own.

mod interfaces;
mod running;
mod scale;
mod writes;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use agent_common::layout::{EndpointEntry, Grant};
use agent_common::tenant::TenantId;
use tokio::sync::{mpsc, watch};

use super::propagation::TimedChange;
use super::schedule::{Now, ROUND};
use super::snapshot::{EndpointCondition, Snapshot};
use super::state::ReconcileState;
use super::step::{StepOutcome, step};
use super::{BEAT, LoopObserver};
use crate::dataplane::mem_dataplane::MemDataplane;
use policy::model::guards::Guards;
use policy::model::input::{Change, Link, LinkKind, Subject, Tenant};
use policy::model::input_guard::InputRules;
use policy::model::limits::Limits;
use policy::model::settings::{Settings, Uplinks};
use policy::model::testing::{ip, key, link, local, namespace, nothing, peer, range, remote, tenant};
use policy::model::unprotected::UnprotectedReason;
use policy::plan::{Op, Table};

/// A loop, its kernel and its clock.
struct TestLoop {
    state: ReconcileState,
    kernel: MemDataplane,
    now: Now,
}

impl TestLoop {
    fn new(settings: Settings) -> Self {
        Self::over(MemDataplane::default(), settings)
    }

    fn over(mut kernel: MemDataplane, settings: Settings) -> Self {
        let state = ReconcileState::start(&mut kernel, settings).expect("a readable kernel");
        Self { state, kernel, now: Now { unix: 1000, tick: Duration::ZERO } }
    }

    fn step(&mut self, changes: Vec<Change>) -> StepOutcome {
        self.kernel.log.clear();
        step(&mut self.state, &mut self.kernel, changes, self.now)
    }

    fn wait(&mut self, seconds: u64) -> StepOutcome {
        self.now.unix += i64::try_from(seconds).expect("small");
        self.now.tick += Duration::from_secs(seconds);
        self.step(vec![])
    }

    fn restart(self, settings: Settings) -> Self {
        Self { now: self.now, ..Self::over(self.kernel, settings) }
    }

    fn condition(&self, path: &str) -> EndpointCondition {
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
fn changes_become_tables_and_a_snapshot() {
    let mut test = TestLoop::new(Settings::default());
    let outcome = test.step(two_tenants());
    assert!(outcome.applied > 0 && outcome.pending == 0 && outcome.published);
    assert_eq!((test.owner("10.0.0.1"), test.owner("10.0.0.2")), (Some("acme".into()), Some("globex".into())));
    assert_eq!(test.claimed_by(7).as_deref(), Some("acme"));
    let snapshot = test.state.snapshot();
    assert!(snapshot.ready && snapshot.applied_at == Some(1000));
    assert_eq!(test.condition("web/a"), EndpointCondition::Enforced);
    assert_eq!(&*snapshot.pod(ip("10.0.0.2")).expect("a pod").name, "b");
    assert_eq!(snapshot.tenant_of("shop").map(|name| &**name), Some("globex"));
    let ifindex = snapshot.endpoint_on(7).expect("a pod");
    assert_eq!(snapshot.tenants[&test.kernel.actual.endpoints[&7].tenant].name, ifindex.status.tenant);
    assert_eq!(snapshot.tables.iter().find(|fill| fill.table == Table::PeersV4).map(|fill| fill.used), Some(8));
}

#[test]
fn nothing_is_written_before_every_kind_was_reported() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    let mut test = test.restart(Settings::default());
    let mut changes = two_tenants();
    let last = changes.pop().expect("five kinds");
    for change in changes {
        assert_eq!(test.step(vec![change]).applied, 0);
        assert!(test.kernel.log.is_empty() && !test.state.snapshot().ready);
    }
    assert_eq!(test.step(vec![last]).applied, 0, "and then there is nothing to do");
    assert!(test.state.snapshot().ready && test.kernel.ports.len() == 1);
}

#[test]
fn a_restart_with_a_changed_file_writes_only_the_difference() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    let cookie = test.kernel.actual.endpoints[&7].cookie;
    let mut test = test.restart(Settings::default());
    let mut changes = two_tenants();
    changes[2] = Change::Endpoints(vec![local("web/a", &["10.0.0.1"], "veth7"), remote("web/c", &["10.0.0.2"])]);
    test.step(changes);
    assert_eq!(test.owner("10.0.0.2").as_deref(), Some("acme"));
    assert_eq!(test.kernel.actual.endpoints[&7].cookie, cookie);
    let others = |op: &&Op| !matches!(op, Op::PeerV4(..) | Op::Generation(_));
    assert_eq!(test.kernel.log.iter().filter(others).count(), 0, "{:?}", test.kernel.log);
}

#[test]
fn an_address_that_passes_to_another_tenant_has_no_owner_in_between() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    let gone = || Change::EndpointGone { key: key("shop/b"), uid: "uid of shop/b".into() };
    test.step(vec![gone(), Change::Endpoint(remote("web/c", &["10.0.0.2"]))]);
    let writes: Vec<u32> = test
        .kernel
        .log
        .iter()
        .filter_map(|op| match op {
            Op::PeerV4(_, Some(entry)) => Some(entry.tenant.0),
            _ => None,
        })
        .collect();
    assert_eq!(writes.first(), Some(&0));
    assert_eq!(test.owner("10.0.0.2").as_deref(), Some("acme"));
    assert_eq!(test.step(vec![gone()]).applied, 0, "the late delete of the first owner");
    assert_eq!(test.owner("10.0.0.2").as_deref(), Some("acme"));
}

#[test]
fn a_tenant_number_is_reused_only_when_no_table_mentions_it() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    let globex =
        test.state.snapshot().tenants.iter().find(|(_, t)| &*t.name == "globex").map(|(id, _)| *id).expect("a number");
    test.kernel.fail_tables = [Table::PeersV4].into();
    test.step(vec![
        Change::TenantGone("globex".into()),
        Change::Namespace(namespace("shop", "")),
        Change::Tenant(tenant("initech")),
    ]);
    assert_eq!(test.owner("10.0.0.2").as_deref(), Some("globex"), "its address could not be rewritten");
    assert_eq!(test.name(globex), "globex");
    test.kernel.fail_tables.clear();
    test.wait(60);
    assert_eq!(test.owner("10.0.0.2").as_deref(), Some("ns/shop"));
    assert_eq!(test.name(globex), "nobody", "now it is free");
    test.step(vec![Change::Tenant(tenant("hooli"))]);
    assert_eq!(test.name(globex), "hooli");
}

#[test]
fn a_new_subnet_of_a_tenant_is_one_write_of_the_tenant_to_new_rows() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    let acme = Tenant { subnets: vec![range("10.40.0.0/24", &[5432]), range("10.41.0.0/24", &[])], ..tenant("acme") };
    test.step(vec![Change::Tenant(acme.clone())]);
    let turns = test.kernel.log.iter().filter(|op| matches!(op, Op::Tenant(..))).count();
    assert_eq!(turns, 1, "{:?}", test.kernel.log);
    assert_eq!(test.step(vec![Change::Tenant(acme)]).applied, 0);
}

#[test]
fn the_loop_wakes_when_a_grant_ends_and_removes_it() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    let outcome = test.step(vec![
        Change::Tenant(Tenant { peers: vec![peer("globex", true, false, Some(1010))], ..tenant("acme") }),
        Change::Tenant(Tenant { peers: vec![peer("acme", false, true, None)], ..tenant("globex") }),
    ]);
    assert_eq!(test.kernel.actual.grants.values().copied().collect::<Vec<_>>(), [Grant { until: 1010 }]);
    assert_eq!(outcome.wake.min(Duration::from_secs(10)), outcome.wake);
    test.wait(9);
    assert_eq!(test.kernel.actual.grants.len(), 1);
    test.wait(1);
    assert!(test.kernel.actual.grants.is_empty());
    assert!(test.kernel.log.iter().any(|op| matches!(op, Op::Generation(_))), "what it had opened is judged again");
}

#[test]
fn an_address_that_fails_affects_no_other_and_is_tried_again() {
    let mut test = TestLoop::new(Settings::default());
    test.step(nothing());
    test.kernel.fail_writes = [test.kernel.log.len()].into();
    let mut changes = two_tenants();
    changes.push(Change::Endpoint(remote("web/z", &["10.0.0.3"])));
    test.kernel.fail_writes = BTreeSet::new();
    test.step(changes);
    test.kernel.log.clear();
    test.kernel.fail_writes = [0].into();
    let changes =
        vec![Change::Endpoint(remote("web/y", &["10.0.0.4"])), Change::Endpoint(remote("web/x", &["10.0.0.5"]))];
    let outcome = test.step(changes);
    assert_eq!((outcome.pending, test.owner("10.0.0.4"), test.owner("10.0.0.5").is_some()), (1, None, true));
    let snapshot = test.state.snapshot();
    assert_eq!((snapshot.pending, snapshot.failures[&(Table::PeersV4, "write")]), (1, 1));
    test.kernel.fail_writes.clear();
    test.now.tick = outcome.wake;
    let outcome = test.step(vec![]);
    assert_eq!((outcome.pending, test.owner("10.0.0.4").is_some()), (0, true));
}

#[test]
fn a_tenant_does_not_refer_to_a_row_that_could_not_be_written() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    let before = test.kernel.actual.tenants.clone();
    test.kernel.fail_tables = [Table::RowsV6].into();
    let acme = Tenant { subnets: vec![range("10.41.0.0/24", &[])], ..tenant("acme") };
    assert!(test.step(vec![Change::Tenant(acme)]).pending > 0);
    assert_eq!(test.kernel.actual.tenants, before);
    test.kernel.fail_tables.clear();
    assert_eq!(test.wait(1).pending, 0);
    assert_ne!(test.kernel.actual.tenants, before);
}

#[test]
fn a_wide_range_is_not_written_before_the_owners_of_ranges_inside_it() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    test.kernel.fail_tables = [Table::OwnersV4].into();
    let before = test.kernel.actual.tenants.clone();
    test.step(vec![
        Change::Tenant(Tenant { egress: vec![range("0.0.0.0/0", &[])], ..tenant("acme") }),
        Change::Tenant(Tenant { subnets: vec![range("10.50.0.0/24", &[])], ..tenant("globex") }),
    ]);
    assert_eq!(test.kernel.actual.tenants, before);
    test.kernel.fail_tables.clear();
    test.wait(1);
    assert_ne!(test.kernel.actual.tenants, before);
}

#[test]
fn addresses_beyond_the_limit_are_reported_and_written_when_another_goes() {
    let limits = Limits { peers_v4: 8, ..Limits::default() };
    let mut test = TestLoop::new(Settings { limits, ..Settings::default() });
    test.step(two_tenants());
    test.step(vec![Change::Endpoint(remote("web/c", &["10.0.0.3"]))]);
    assert_eq!((test.owner("10.0.0.3"), test.owner("10.0.0.2").is_some()), (None, true));
    let text = test.state.snapshot().overflows[0].to_string();
    assert!(
        text.contains("limit peers_v4 of 8") && text.contains("--max-peers") && text.contains("10.0.0.3"),
        "{text}"
    );
    test.step(vec![Change::EndpointGone { key: key("shop/b"), uid: String::new() }]);
    test.step(vec![]);
    assert_eq!(test.owner("10.0.0.3").as_deref(), Some("acme"));
    assert!(test.state.snapshot().overflows.is_empty());
}

#[test]
fn new_addresses_beyond_one_plan_follow_in_later_steps_without_a_pause() {
    let mut test = TestLoop::new(Settings::default());
    let pods = policy::plan::MOST_NEW + 5_000;
    let pod = |n: usize| remote(&format!("web/p{n}"), &[&std::net::Ipv4Addr::from(0x0b00_0000 + n as u32).to_string()]);
    let mut changes = two_tenants();
    changes.push(Change::Endpoints((0..pods).map(pod).collect()));
    let first = test.step(changes);
    assert!(first.applied < pods && first.wake == test.now.tick && !test.state.snapshot().ready);
    while test.step(vec![]).wake == test.now.tick {}
    assert!(test.kernel.actual.peers_v4.len() >= pods && test.state.snapshot().ready);
}

#[test]
fn the_first_pod_of_a_namespace_of_a_present_tenant_compiles_no_tenant() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    test.step(vec![
        Change::Namespace(namespace("jobs", "acme")),
        Change::Links(vec![link(7, "veth7"), link(8, "veth8")]),
    ]);
    test.step(vec![Change::Endpoint(local("jobs/j", &["10.0.0.7"], "veth8"))]);
    assert_eq!(test.claimed_by(8).as_deref(), Some("acme"));
    assert_eq!(test.owner("10.0.0.7").as_deref(), Some("acme"));
    assert_eq!(test.condition("jobs/j"), EndpointCondition::Enforced);
    assert!(!test.kernel.log.iter().any(|op| matches!(op, Op::Tenant(..))));
}

#[test]
fn prefixes_of_a_tenant_are_written_with_its_first_local_pod_and_removed_with_its_last() {
    let mut test = TestLoop::new(Settings::default());
    let shop = Tenant { subnets: vec![range("10.50.0.0/24", &[])], ..tenant("globex") };
    let mut changes = two_tenants();
    changes.extend([Change::Tenant(shop), Change::Links(vec![link(7, "veth7"), link(8, "veth8")])]);
    test.step(changes);
    let rows = |test: &TestLoop| test.kernel.actual.tenants.values().filter(|state| state.row != 0).count();
    assert_eq!(rows(&test), 1);
    test.step(vec![Change::Endpoint(local("shop/l", &["10.0.0.8"], "veth8"))]);
    assert_eq!(rows(&test), 2);
    test.step(vec![Change::EndpointGone { key: key("shop/l"), uid: String::new() }]);
    test.wait(ROUND.as_secs());
    assert_eq!(rows(&test), 1);
}

#[test]
fn a_kernel_table_smaller_than_configured_is_a_counted_error() {
    let mut test = TestLoop::new(Settings::default());
    test.kernel.limits = [(Table::PeersV4, 7)].into();
    let outcome = test.step(two_tenants());
    assert_eq!(outcome.pending, 1);
    assert_eq!(test.state.snapshot().failures[&(Table::PeersV4, "full")], 1);
    assert_eq!(test.claimed_by(7).as_deref(), Some("acme"), "and everything else works");
}

#[test]
fn a_tenant_without_a_row_is_denied_until_a_row_is_free() {
    let limits = Limits { rows: 1, ..Limits::default() };
    let mut test = TestLoop::new(Settings { limits, ..Settings::default() });
    test.step(two_tenants());
    let with = |cidr: &str| Change::Tenant(Tenant { subnets: vec![range(cidr, &[])], ..tenant("acme") });
    let row = |test: &TestLoop| test.kernel.actual.tenants[&test.kernel.actual.endpoints[&7].tenant].row;
    assert_eq!(row(&test), 1);
    test.step(vec![with("10.42.0.0/24")]);
    assert_eq!(row(&test), 1, "the old row was freed by one plan and reused by the next");
    let turns: Vec<u16> = test
        .kernel
        .log
        .iter()
        .filter_map(|op| match op {
            Op::Tenant(_, state) => Some(state.row),
            _ => None,
        })
        .collect();
    assert_eq!(turns, [0, 1]);
    test.step(vec![
        Change::Tenant(Tenant { subnets: vec![range("10.43.0.0/24", &[])], ..tenant("globex") }),
        Change::Endpoint(local("shop/l", &["10.0.0.8"], "veth8")),
        Change::Links(vec![link(7, "veth7"), link(8, "veth8")]),
    ]);
    assert_eq!(row(&test), 1, "who has a row keeps it");
    assert_eq!(test.state.snapshot().overflows[0].limit.as_str(), "rows");
}

#[test]
fn the_sweep_removes_entries_that_only_the_kernel_has() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    let stray = policy::model::desired::NOBODYS;
    let key = agent_common::layout::PeerKeyV4 { network: 0, address: agent_common::addr::V4::new([10, 9, 9, 9]) };
    test.kernel.actual.peers_v4.insert(key, stray);
    for _ in Table::ALL {
        test.wait(ROUND.as_secs());
    }
    assert!(!test.kernel.actual.peers_v4.contains_key(&key));
}

#[test]
fn each_condition_is_reported() {
    let mut test = TestLoop::new(Settings::default());
    let mut changes = two_tenants();
    changes.extend([
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
    test.step(changes);
    for (path, condition) in [
        ("web/a", EndpointCondition::Enforced),
        ("try/t", EndpointCondition::Audited),
        ("dns/d", EndpointCondition::Shared),
        ("loose/l", EndpointCondition::Unassigned),
        ("web/bad", EndpointCondition::Denied),
        ("web/soon", EndpointCondition::Pending),
    ] {
        assert_eq!(test.condition(path), condition, "{path}");
    }
}

#[test]
fn an_idle_round_writes_nothing_and_publishes_nothing() {
    let mut test = TestLoop::new(Settings::default());
    test.step(two_tenants());
    let revision = test.state.snapshot().revision;
    for _ in 0..5 {
        let outcome = test.wait(ROUND.as_secs());
        assert_eq!((outcome.applied, outcome.pending), (0, 0));
    }
    assert!(test.kernel.log.is_empty());
    assert_eq!(test.state.snapshot().revision, revision);
}
