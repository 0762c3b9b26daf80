//! A policy may change while a packet is being judged: the entry of its connection then names the earlier generation.

mod world;

use std::cell::Cell;

use agent_common::access::Lookup;
use agent_common::addr::V4;
use agent_common::classify;
use agent_common::conntrack::{ReplyEntry, ReplyKey};
use agent_common::decide::Rules;
use agent_common::endpoint::Endpoint;
use agent_common::flow::Direction;
use agent_common::layout::{Grant, GrantKey, PeerEntry, PortSet, PrefixGrant, RowV4, Runtime};
use agent_common::mem_tables::MemTables;
use agent_common::reason::DropReason::CrossTenant;
use agent_common::tables::Tables;
use agent_common::tenant::TenantId;
use agent_common::verdict::Verdict;
use world::*;

/// Tables with one policy until the owner of a range is looked up, and another policy from then on.
struct ChangingTables<'a> {
    before: &'a MemTables,
    after: &'a MemTables,
    changed: Cell<bool>,
}

impl ChangingTables<'_> {
    fn now(&self) -> &MemTables {
        if self.changed.get() { self.after } else { self.before }
    }
}

impl Tables<V4> for ChangingTables<'_> {
    fn peer(&self, address: V4) -> Option<PeerEntry> {
        self.now().peer(address)
    }
    fn row(&self, row: u16) -> Option<&RowV4> {
        Tables::<V4>::row(self.now(), row)
    }
    fn trie(&self, tenant: TenantId, address: V4) -> PrefixGrant {
        self.now().trie(tenant, address)
    }
    fn owner(&self, address: V4) -> Option<TenantId> {
        let owner = self.now().owner(address);
        self.changed.set(true);
        owner
    }
    fn at_v4(&self, address: V4) -> (Option<PeerEntry>, Option<TenantId>) {
        Tables::<V4>::at_v4(self.after, address)
    }

    fn grant(&self, key: &GrantKey) -> Option<Grant> {
        Tables::<V4>::grant(self.now(), key)
    }
    fn port_set(&self, set: u16) -> Option<&PortSet> {
        Tables::<V4>::port_set(self.now(), set)
    }
    fn reply(&self, key: &ReplyKey) -> Option<ReplyEntry> {
        Tables::<V4>::reply(self.after, key)
    }
    fn insert_reply(&self, key: &ReplyKey, entry: ReplyEntry, now_ns: u64) {
        Tables::<V4>::insert_reply(self.after, key, entry, now_ns);
    }

    fn refresh_reply(&self, key: &ReplyKey, entry: ReplyEntry) {
        Tables::<V4>::refresh_reply(self.after, key, entry);
    }
    fn runtime(&self) -> Runtime {
        self.now().runtime
    }
    fn now_ns(&self) -> u64 {
        self.after.now_ns.get()
    }
}

impl Lookup<V4> for ChangingTables<'_> {}
impl Rules<V4> for ChangingTables<'_> {}

fn verdict_to_pod(world: &World, changing: &ChangingTables<'_>, content: &Content) -> Verdict {
    let entry = world.tables.endpoints[&1];
    let endpoint = Endpoint::new(&entry, world.tables.tenants[&entry.tenant]).expect("it is claimed");
    classify::ipv4_to_pod(&frame(false, Direction::Ingress, WORLD, content)[..], &endpoint, changing)
}

#[test]
fn a_connection_opened_while_its_range_changes_owner_is_judged_again() {
    for changes in [true, false] {
        let (world, mut next) = (World::default(), World::default());
        next.tables.runtime.generation += 1;
        if changes {
            next.owner(WORLD, 24, THEIRS);
        }
        let changing = ChangingTables { before: &world.tables, after: &next.tables, changed: Cell::new(false) };
        assert_eq!(verdict_to_pod(&world, &changing, &syn_to(80)), Verdict::ALLOW);
        assert!(changing.changed.get(), "the policy changed during the verdict");
        let reply = next.judge(Direction::Egress, &frame(false, Direction::Egress, WORLD, &syn_ack_from(80)));
        assert_eq!(reply, changes.then_some(CrossTenant));
    }
}
