//! Worlds that differ in what two bytes of the input choose.
//!
//! Holds no property.

use agent_common::layout::{Grant, PORTS_ANY, PrefixGrant};
use agent_common::tenant::TenantState;

use crate::world::{DATABASE, FILES, Host, LISTED, MINE, POSTGRES, THEIRS, World};

/// The settings that a bit each of the first byte turns on.
const FLAGS: [u32; 6] = [
    TenantState::SHARED,
    TenantState::OPEN,
    TenantState::UNASSIGNED,
    TenantState::NODES_ALLOWED,
    TenantState::TRIE_V4,
    TenantState::TRIE_V6,
];

/// A world with these settings.
pub(crate) fn world(flags: u8, policy: u8) -> World {
    let chosen = FLAGS.iter().enumerate().filter(|(bit, _)| flags >> bit & 1 == 1);
    let mut world = World::default().with(chosen.fold(0, |flags, (_, flag)| flags | flag));
    let until = |bit: u8| if policy >> bit & 1 == 1 { Grant::FOREVER } else { 0 };
    if policy & 1 == 1 {
        world.grant(MINE, THEIRS, until(1));
    }
    if policy >> 2 & 1 == 1 {
        world.grant(THEIRS, MINE, until(3));
    }
    if policy >> 4 & 1 == 1 {
        widen(&mut world);
    }
    world
}

/// A world in which nothing but its own ranges and the whole internet is open to the pod's tenant.
pub(crate) fn isolated() -> World {
    let mut world = World::default();
    widen(&mut world);
    world
}

/// Lists every address as a destination, so that only owners, peers and kinds of addresses can deny one.
fn widen(world: &mut World) {
    const EVERYWHERE: Host = [0; 4];
    let rows = [(LISTED, 32, POSTGRES), (DATABASE, 24, POSTGRES), (FILES, 24, PORTS_ANY), (EVERYWHERE, 0, PORTS_ANY)];
    world.row(MINE, &rows, PrefixGrant::CONTESTED);
}
