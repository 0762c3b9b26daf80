//! The agent's part of the reply table: a new claim gets an empty block.

use agent_common::layout::EndpointEntry;
use agent_common::maps;
use agent_common::reply_table::{self, CONNECTIONS_PER_POD, ReplyBucket, StoredReply};
use agent_common::tenant::TenantId;
use aya::maps::{Array, Map, MapData};
use bulkhead::dataplane::Dataplane;
use bulkhead::dataplane::kernel::Kernel;
use bulkhead::dataplane::object::MapLimits;
use policy::plan::Op;
use testbed::scope::Scope;

#[test]
#[ignore = "needs root and the BPF object: cargo xtask test netns"]
fn a_new_claim_finds_no_connection_of_the_pod_that_had_its_block() {
    let scope = Scope::new().expect("a scope");
    let pins = scope.pin_dir().join("v1");
    let mut kernel = Kernel::open(&pins, &MapLimits::default()).expect("the programs load");
    let map = MapData::from_pin(pins.join(maps::REPLIES.name)).expect("the pinned map");
    let mut replies: Array<_, ReplyBucket> = Map::Array(map).try_into().expect("its type");
    let first = |slot: u16| reply_table::buckets_of(slot, reply_table::buckets_per_pod(CONNECTIONS_PER_POD)).0;
    let claim =
        |slot: u16, cookie: u32| EndpointEntry { tenant: TenantId(1), slot, cookie, ..EndpointEntry::default() };
    let mut used = ReplyBucket::default();
    used.entries[0] = StoredReply { seal: 1, expires_ns: u64::MAX, ..StoredReply::default() };
    for slot in [0, 3, 4] {
        replies.set(first(slot) + 1, used, 0).expect("a write");
    }
    let left = |replies: &Array<MapData, ReplyBucket>| {
        [0, 3, 4].map(|slot| replies.get(&(first(slot) + 1), 0).expect("a bucket") != ReplyBucket::default())
    };
    let mut write = |slot, cookie| kernel.apply(&Op::Endpoint(7, claim(slot, cookie))).expect("a write");
    write(3, 9);
    assert_eq!(left(&replies), [true, false, true], "a new claim clears its own block");
    replies.set(first(3) + 1, used, 0).expect("a write");
    write(3, 9);
    assert_eq!(left(&replies), [true, true, true], "the same claim keeps it");
    write(0, 10);
    assert_eq!(left(&replies), [true, true, true], "the common block is other pods' too");
}
