//! Tests of the guard's table: how `nft` lists it, and what happens when others change or replace it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead::dataplane::input_guard::TABLE;
use bulkhead::dataplane::nft::NftError;
use bulkhead::dataplane::nft::watch::NftWatch;
use policy::model::input_guard::InputRules;
use testbed::stream::DatagramStream;

use crate::world::{ENDS, InputWorld, NODE, NODE6, POD, POD6, PORT, TCP, UDP, opening};

/// What `nft` prints of a table with these tests' rules.
const LISTED: [&str; 13] = [
    "type ipv4_addr . ipv4_addr . inet_proto . inet_service",
    "elements = { 10.99.0.2 . 10.99.0.1 . tcp . 7000 }",
    "elements = { fd99::2 . fd99::1 . udp . 53 }",
    "elements = { \"pod0\" }",
    "type filter hook input priority 200; policy accept;",
    "iif @interfaces goto judge",
    "ip saddr @pods4 goto judge",
    "ip6 saddr @pods6 goto judge",
    "udp dport @tunnels counter name \"tunnel\" drop",
    "ct direction reply ct state established,related accept",
    "ip saddr @open4 accept",
    "ip6 saddr @open6 accept",
    "counter name \"node\" drop",
];

/// What others may do to the table. HANDLE is that of its first rule.
const CHANGES: [&str; 13] = [
    "flush ruleset",
    "delete table inet bulkhead",
    "add table inet bulkhead { flags dormant; }",
    "flush chain inet bulkhead judge",
    "flush chain inet bulkhead input",
    "insert rule inet bulkhead judge accept",
    "add rule inet bulkhead judge accept",
    "replace rule inet bulkhead input handle HANDLE accept",
    "delete rule inet bulkhead input handle HANDLE",
    "flush set inet bulkhead pods4",
    "add element inet bulkhead open4 { 10.99.0.2 }",
    "add element inet bulkhead exact4 { 10.99.0.2 . 10.99.0.1 . tcp . 7001 }",
    "add chain inet bulkhead input { policy drop; }",
];

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn nft_lists_the_table() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    let exact = [opening(POD, NODE, TCP, PORT), opening(POD6, NODE6, UDP, 53)].into();
    guard.sync(&InputRules { exact, ..world.open() });
    let listed = world.list();
    for line in LISTED {
        assert!(listed.contains(line), "{line} is not in\n{listed}");
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn every_foreign_change_is_found_and_repaired() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    let rules = world.exact([opening(POD, NODE, TCP, PORT)]);
    assert!(!guard.is_intact(), "nothing was written yet");
    guard.sync(&rules);
    let listed = world.list();
    for change in CHANGES {
        world.nft("add table inet other; add set inet other s { type ipv4_addr; }; delete table inet other");
        assert!(guard.is_intact(), "the control: another table, before {change}");
        world.nft(&change.replace("HANDLE", &world.handle("goto judge")));
        assert!(!guard.is_intact(), "{change}");
        guard.sync(&rules);
        assert!(guard.is_intact(), "after {change}");
        assert_eq!(world.list(), listed, "after {change}");
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_foreign_table_of_the_same_name_is_removed() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    guard.sync(&InputRules::default());
    assert!(guard.is_intact(), "the control: no rules and no table");
    world.nft("add table inet bulkhead");
    assert!(!guard.is_intact());
    guard.sync(&InputRules::default());
    assert!(guard.is_intact());
    assert!(!guard.remove(), "there is no table");
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn counts_survive_changes_and_replacements() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    let drop_one = || assert!(!world.is_echoed(8, NODE, PORT));
    guard.sync(&world.strict());
    drop_one();
    assert_eq!(guard.drops().node.packets, 1);
    let another = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 3));
    guard.sync(&InputRules { open: [another].into(), ..world.strict() });
    assert_eq!(world.guard().drops().node.packets, 1, "a change keeps the kernel's counter");
    drop_one();
    world.nft("flush ruleset");
    assert_eq!(guard.drops().node.packets, 1, "one was lost with the table");
    assert!(!guard.is_intact());
    guard.sync(&world.strict());
    drop_one();
    assert_eq!(guard.drops().node.packets, 2);
    // The guard of the next process takes the table over with its counters.
    let mut second = world.guard();
    second.sync(&InputRules { open: [another].into(), ..world.strict() });
    assert_eq!(world.guard().drops().node.packets, 1, "the kernel's counter goes on");
    assert!(second.is_intact());
    // A table that another process changed is replaced, and the guard keeps its count.
    world.nft("add rule inet bulkhead judge accept");
    let mut third = world.guard();
    third.sync(&world.strict());
    assert_eq!(world.guard().drops().node.packets, 0, "the control: the kernel's counter is a new one");
    assert_eq!((third.drops().node.packets, guard.drops().node.packets), (1, 2));
    assert!(guard.remove() && !guard.remove());
    assert_eq!(guard.drops().node.packets, 2);
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_failed_change_leads_to_a_replacement() {
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    guard.sync(&world.strict());
    guard.sync(&world.open());
    guard.sync(&world.strict());
    assert!(guard.is_intact(), "the control: changes succeed");
    world.nft("flush ruleset");
    let error = guard.try_sync(&world.open()).expect_err("the table is gone");
    assert!(error.is_absent(), "{error:?}");
    assert_refused(&error, "add elements of set open4");
    guard.sync(&world.open());
    assert!(guard.is_intact());
    world.nft("delete element inet bulkhead open4 { 10.99.0.2 }");
    let error = guard.try_sync(&world.strict()).expect_err("the element is gone");
    assert_refused(&error, "delete elements of set open4");
    assert!(world.list().contains("elements = { fd99::2 }"), "nothing of the batch was applied");
    guard.sync(&world.strict());
    assert!(guard.is_intact());
}

/// Checks that the kernel refused an operation.
fn assert_refused(error: &NftError, wanted: &str) {
    let NftError::Refused { operation, .. } = error else { panic!("not refused: {error:?}") };
    assert!(operation.contains(wanted), "{error:?}");
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn the_watch_sees_a_flush_and_no_other_table() {
    const SHORT: Duration = Duration::from_millis(200);
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    guard.sync(&world.strict());
    let watch = world.node.run(|| NftWatch::open(TABLE)).expect("a watch");
    let begin = Instant::now();
    assert!(!watch.wait(SHORT).expect("it waits"), "nothing changed");
    assert!(begin.elapsed() >= SHORT - Duration::from_millis(10), "{:?}", begin.elapsed());
    world.nft("add table inet other; add set inet other s { type ipv4_addr; }; add table ip bulkhead");
    assert!(!watch.wait(SHORT).expect("it waits"), "only other tables changed");
    world.nft("flush ruleset");
    assert!(watch.wait(Duration::from_secs(5)).expect("it waits"));
    // The watch repairs nothing, and the guard compares with what it wrote itself.
    guard.sync(&world.strict());
    assert!(!guard.is_intact());
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn no_packet_passes_while_the_table_is_replaced() {
    /// Unused ports of the node, and the time for replacements.
    const PORTS: [u16; 2] = [7100, 7101];
    const PERIOD: Duration = Duration::from_secs(2);
    let world = InputWorld::new().expect("a world");
    let mut guard = world.guard();
    guard.sync(&world.strict());
    let streams = PORTS.into_iter().flat_map(|port| ENDS.map(|(pod, node)| (pod, SocketAddr::new(node, port))));
    let streams: Vec<DatagramStream> = streams
        .map(|(pod, target)| DatagramStream::between(&world.pod, pod, &world.node, target).expect("a stream"))
        .collect();
    let begin = Instant::now();
    let mut replacements = 0;
    while begin.elapsed() < PERIOD {
        world.guard().sync(&world.strict());
        replacements += 1;
    }
    assert!(replacements > 20, "the control: only {replacements} replacements");
    assert!(guard.is_intact());
    let removed = Instant::now();
    assert!(guard.remove());
    thread::sleep(Duration::from_millis(300));
    for stream in streams {
        let record = stream.stop();
        let (early, late) = (record.arrived.len() - record.arrived_after(removed), record.arrived_after(removed));
        assert!(record.sent > 500 && late > 20, "the control: {late} of {} arrived without the guard", record.sent);
        assert_eq!(early, 0, "of {} sent", record.sent);
    }
}
