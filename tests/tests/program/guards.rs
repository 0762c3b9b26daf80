//! Tests of the guards' programs on single frames, by ingress interface and by sender address.

use agent_common::addr::Mac;
use agent_common::counters::Counter;
use agent_common::flow::Direction;
use agent_common::guard::Guard;
use agent_common::guard::interface::{NODE_IFACES_LISTED, Sender, senders};
use agent_common::layout::EndpointEntry;
use agent_common::maps;
use agent_common::reason::DropReason;
use agent_common::tenant::TenantId;
use aya::maps::{Array, HashMap};
use aya::{TestRun, TestRunOptions};
use testbed::engine::{Engine, LOOPBACK, stage, stay_on_one_cpu};
use testbed::frames::craft::{Frame, Payload};
use testbed::frames::topology;

const PASS: i32 = -1;
const DROP: i32 = 2;
/// The claimed pod's interface; loopback, because it must exist.
const POD: u32 = LOOPBACK;
/// The node's own interface.
const OWN: u32 = 2;
/// A claimed interface with an index beyond the array of endpoints.
const FAR: u32 = 70_000;
const STRANGER: u32 = 9;

struct Guards(Engine);

impl Guards {
    fn new() -> Self {
        stay_on_one_cpu().expect("a CPU of our own");
        let mut guards = Self(Engine::new(stage::tables()).expect("the programs load"));
        guards.know(POD, &stage::pod_a());
        let far = EndpointEntry { cookie: 7, tenant: stage::A, ..EndpointEntry::default() };
        let mut beyond: HashMap<_, u32, EndpointEntry> =
            guards.map(maps::ENDPOINTS_FAR.name).try_into().expect("a map");
        beyond.insert(FAR, far, 0).expect("the map has capacity");
        let mut own: HashMap<_, u32, u32> = guards.map(maps::NODE_IFACES.name).try_into().expect("a map");
        own.insert(OWN, 1, 0).expect("the map has capacity");
        guards
    }

    fn map(&mut self, name: &str) -> &mut aya::maps::Map {
        self.0.ebpf().map_mut(name).expect("a map of the object")
    }

    fn claim(&mut self, ifindex: u32, entry: EndpointEntry) {
        let mut endpoints: Array<_, EndpointEntry> = self.map(maps::ENDPOINTS.name).try_into().expect("a map");
        endpoints.set(ifindex, entry, 0).expect("the map has capacity");
        self.know(ifindex, &entry);
    }

    fn know(&mut self, ifindex: u32, entry: &EndpointEntry) {
        let mut map: HashMap<_, Sender, u32> = self.map(maps::SENDERS.name).try_into().expect("a map");
        senders(entry).for_each(|sender| map.insert(sender, ifindex, 0).expect("the map has capacity"));
    }

    /// The return value of a guard for a frame with this ingress interface; 0 is the node's own frame.
    fn run(&self, guard: Guard, ingress_ifindex: u32, frame: &[u8]) -> i32 {
        // `struct __sk_buff`, all zero but for `ingress_ifindex` (offset 36).
        let mut context = [0_u8; 192];
        context[36..40].copy_from_slice(&ingress_ifindex.to_ne_bytes());
        let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::new() };
        self.0.guard(guard).expect("it is loaded").test_run(options).expect("a run").return_value.cast_signed()
    }

    /// The return value of `to_pod` on the interface `POD`.
    fn arrives(&self, ingress_ifindex: u32, frame: &[u8]) -> i32 {
        let mut context = [0_u8; 192];
        context[36..40].copy_from_slice(&ingress_ifindex.to_ne_bytes());
        context[40..44].copy_from_slice(&POD.to_ne_bytes());
        let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::new() };
        let program = self.0.program(Direction::Ingress).expect("it is loaded");
        program.test_run(options).expect("a run").return_value.cast_signed()
    }

    fn dropped(&self, guard: Guard) -> Counter {
        self.0.counter(maps::GUARD_DROPS.name, guard.index(DropReason::NotReady)).expect("a counter")
    }
}

fn from(mac: [u8; 6]) -> Vec<u8> {
    Frame::v4(topology::PEER, Payload::udp(1, 2)).with(|frame| frame.from = mac).build(b"x")
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn the_uplink_guard_passes_the_node_and_claimed_pods_and_counts_the_rest() {
    let guards = Guards::new();
    let frame = from(topology::A_MAC);
    for (came_in_by, returns) in [(0, PASS), (POD, PASS), (OWN, PASS), (FAR, PASS), (STRANGER, DROP), (70_001, DROP)] {
        assert_eq!(guards.run(Guard::Uplink, came_in_by, &frame), returns, "interface {came_in_by}");
    }
    assert_eq!(guards.dropped(Guard::Uplink), Counter { packets: 2, bytes: 2 * frame.len() as u64 });
    assert_eq!(guards.dropped(Guard::Bridge), Counter::default());
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn a_pod_believes_a_source_address_only_from_an_interface_that_is_claimed_or_the_node_s() {
    let mut guards = Guards::new();
    guards.claim(5, EndpointEntry { cookie: 9, tenant: stage::B, ..EndpointEntry::default() });
    // A pod of the receiver's own tenant, as the source address says.
    let frame = Frame::v4(topology::A, Payload::udp(1, 2)).ip(|ip| ip.source = topology::PEER).build(b"x");
    let arrives = |guards: &Guards, came_in_by| guards.arrives(came_in_by, &frame);
    for came_in_by in [0, POD, OWN, FAR, STRANGER, 70_001] {
        assert_eq!(arrives(&guards, came_in_by), PASS, "{came_in_by}: the node's interfaces are not listed");
    }
    assert_eq!(arrives(&guards, 5), DROP, "another tenant's pod");
    let mut own: HashMap<_, u32, u32> = guards.map(maps::NODE_IFACES.name).try_into().expect("a map");
    own.insert(NODE_IFACES_LISTED, 1, 0).expect("the map has capacity");
    for (came_in_by, returns) in [(0, PASS), (POD, PASS), (OWN, PASS), (FAR, PASS), (STRANGER, DROP), (70_001, DROP)] {
        assert_eq!(arrives(&guards, came_in_by), returns, "interface {came_in_by}");
    }
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn an_incomplete_claim_passes_no_guard() {
    let mut guards = Guards::new();
    for entry in [
        EndpointEntry { tenant: TenantId::UNKNOWN, ..stage::pod_a() },
        EndpointEntry { cookie: 0, ..stage::pod_a() },
        EndpointEntry::default(),
    ] {
        guards.claim(POD, entry);
        assert_eq!(guards.run(Guard::Uplink, POD, &from(topology::A_MAC)), DROP, "{entry:?}");
        assert_eq!(guards.run(Guard::Bridge, POD, &from(topology::A_MAC)), DROP, "{entry:?}");
    }
}

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test program"]
fn the_bridge_guard_passes_claimed_senders_on_existing_interfaces() {
    const STRANGE: [u8; 6] = [2, 9, 9, 9, 9, 9];
    let mut guards = Guards::new();
    let foreign = Frame::v4(topology::PEER, Payload::udp(1, 2)).with(|f| f.from = STRANGE);
    let foreign = foreign.ip(|ip| ip.source = topology::B).build(b"x");
    assert_eq!(guards.run(Guard::Bridge, 0, &from(topology::A_MAC)), PASS);
    assert_eq!(guards.run(Guard::Bridge, 0, &from(STRANGE)), PASS, "its source address is the pod's");
    assert_eq!(guards.run(Guard::Bridge, 0, &foreign), DROP);
    // A claim of a removed interface, which stays while no agent runs.
    let gone = EndpointEntry { mac: Mac::new(STRANGE), ..stage::pod_a() };
    let gone = EndpointEntry { v4: stage::v4(topology::B), ..gone };
    guards.claim(60_000, gone);
    assert_eq!(guards.run(Guard::Bridge, 0, &foreign), DROP);
    guards.know(POD, &gone);
    assert_eq!(guards.run(Guard::Bridge, 0, &foreign), PASS, "the paired control");
}
