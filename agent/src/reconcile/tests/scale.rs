//! Measurements: the time of a step and the memory of a cluster.
//!
//! Run with `--ignored --nocapture` in a release build. No test here fails because it is slow.

use std::time::Duration;

use agent_common::addr::V4;
use agent_common::layout::PeerKeyV4;

use super::{TestLoop, key, link, local, namespace, range, remote, tenant};
use crate::dataplane::mem_dataplane::MemDataplane;
use crate::reconcile::ReconcileState;
use policy::model::cluster::Cluster;
use policy::model::input::{Change, Endpoint, Tenant};
use policy::model::settings::Settings;
use policy::plan::{Actual, Op};

const TENANTS: usize = 1000;
const NAMESPACES: usize = 4000;
const LOCAL: usize = 100;

fn objects() -> Vec<Change> {
    let subnets =
        |t: usize| (0..16).map(move |n| range(&format!("10.{}.{}.{}/28", 100 + t / 256, t % 256, n * 16), &[5432]));
    let egress = |t: usize| if t.is_multiple_of(4) { vec![range("0.0.0.0/0", &[443])] } else { vec![] };
    let object =
        |t: usize| Tenant { subnets: subnets(t).collect(), egress: egress(t), ..tenant(&format!("tenant-{t}")) };
    let numbered = |n: usize| namespace(&format!("team-namespace-{n}"), &format!("tenant-{}", n % TENANTS));
    vec![
        Change::Tenants((0..TENANTS).map(object).collect()),
        Change::Namespaces((0..NAMESPACES).map(numbered).collect()),
        Change::Links((0..LOCAL + 10).map(|n| link(n as u32 + 2, &format!("veth{n}"))).collect()),
        Change::Nodes(vec![]),
    ]
}

fn pod(n: usize) -> Endpoint {
    let path = format!("team-namespace-{}/payments-7d9c5b6f8-{n:07}", n % NAMESPACES);
    let address = std::net::Ipv4Addr::from(0x0b00_0000 + n as u32).to_string();
    let pod = if n < LOCAL { local(&path, &[&address], &format!("veth{n}")) } else { remote(&path, &[&address]) };
    let uid = format!("5b0c7b52-3c0f-4e3a-9b86-{n:012x}");
    Endpoint { uid, workload: Some(("Deployment".into(), format!("payments-{}", n % NAMESPACES))), ..pod }
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// The CPU time of this thread, which other processes do not affect.
fn spent() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

fn p99(mut times: Vec<Duration>) -> (Duration, Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1])
}

/// Mean CPU time and 99th percentile of a step, with a kernel in memory. The percentile counts scheduler ticks: 4 ms
/// means one tick.
fn timed(test: &mut TestLoop, changes: impl Iterator<Item = Change>) -> (Duration, Duration) {
    let changes: Vec<Change> = changes.collect();
    let (all, count) = (spent(), changes.len());
    let times = changes.into_iter().map(|change| {
        let start = spent();
        test.step(vec![change]);
        test.now.tick += Duration::from_millis(1);
        spent() - start
    });
    let (_, p99, _) = p99(times.collect());
    ((spent() - all) / u32::try_from(count).unwrap_or(1), p99)
}

#[test]
#[ignore = "prints figures"]
fn steps_among_100_000_pods() {
    steps(100_000);
}

#[test]
#[ignore = "prints figures"]
fn steps_among_a_million_pods() {
    steps(1_000_000);
}

fn steps(pods: usize) {
    let mut test = TestLoop::new(Settings::default());
    let all = || Change::Endpoints((0..pods).map(pod).collect());
    test.step(objects());
    let changes = vec![all()];
    let start = spent();
    test.step(changes);
    println!("{pods} pods, first step: {:?}", spent() - start);
    let start = spent();
    while test.kernel.actual.peers_v4.len() < pods {
        let due = test.step(vec![]).wake;
        test.now.tick = test.now.tick.max(due);
    }
    println!("{pods} pods, the rest of them: {:?}", spent() - start);
    let changes = vec![all()];
    let start = spent();
    test.step(changes);
    println!("{pods} pods, received again in full, nothing new: {:?}", spent() - start);

    let come = (0..500).map(|n| Change::Endpoint(pod(pods + n)));
    println!("remote pod comes: {:?}", timed(&mut test, come));
    let go = (0..500).map(|n| Change::EndpointGone { key: pod(pods + n).key, uid: String::new() });
    println!("remote pod goes: {:?}", timed(&mut test, go));
    let churn = (0..200).flat_map(|n| {
        let fresh = local(&format!("team-namespace-{n}/job-{n}"), &[&format!("12.0.0.{n}")], "veth105");
        let gone = Change::EndpointGone { key: key(&format!("team-namespace-{n}/job-{n}")), uid: String::new() };
        [Change::Endpoint(fresh), gone]
    });
    println!("local pod comes or goes: {:?}", timed(&mut test, churn));
    let edits = (0..100).map(|n| {
        let name = format!("tenant-{}", n % LOCAL);
        let more = range(&format!("172.16.{n}.0/24"), &[80]);
        Change::Tenant(Tenant { subnets: vec![more], ..tenant(&name) })
    });
    println!("tenant's subnets edited: {:?}", timed(&mut test, edits));
    let edits = (0..100).map(|n| {
        let name = format!("tenant-{}", n % LOCAL);
        let subnets = vec![range(&format!("172.16.{n}.0/24"), &[80])];
        Change::Tenant(Tenant { subnets, egress: vec![range("192.0.2.0/24", &[3128])], ..tenant(&name) })
    });
    println!("tenant's egress edited: {:?}", timed(&mut test, edits));
    let moves = (0..100).map(|n| Change::Namespace(namespace(&format!("team-namespace-{n}"), "tenant-500")));
    println!("namespace moved: {:?}", timed(&mut test, moves));
    test.now.tick += Duration::from_secs(60);
    let start = spent();
    test.step(vec![]);
    println!("regular look and one stride of the sweep: {:?}", spent() - start);
    let mut kernel = MemDataplane { actual: test.kernel.actual.clone(), ..MemDataplane::default() };
    let start = spent();
    let state = ReconcileState::start(&mut kernel, Settings::default()).expect("a kernel");
    println!("start over {} addresses: {:?}", state.actual().peers_v4.len(), spent() - start);
}

#[test]
#[ignore = "prints figures"]
fn weight_of_a_million_pods() {
    let mut cluster = Cluster::new(Settings::default());
    objects().into_iter().for_each(|change| _ = cluster.apply(change));
    let before = resident();
    let start = spent();
    (LOCAL..LOCAL + 1_000_000).for_each(|n| _ = cluster.apply(Change::Endpoint(pod(n))));
    let bytes = resident() - before;
    println!("1,000,000 remote pods: {} MiB, {} bytes each, in {:?}", bytes >> 20, bytes / 1_000_000, spent() - start);
    println!("of which a name of 25 bytes takes 48");
    let before = resident();
    let mut actual = Actual::default();
    for n in 0..1_000_000 {
        let address = V4::new((0x0b00_0000 + n as u32).to_be_bytes());
        actual.record(&Op::PeerV4(PeerKeyV4 { network: 0, address }, Some(policy::model::desired::NOBODYS)));
    }
    println!("the mirror of 1,000,000 addresses: {} MiB", (resident() - before) >> 20);
    assert_eq!(actual.peers_v4.len(), 1_000_000);
}
