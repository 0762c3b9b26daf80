//! Real sockets between network namespaces: the world itself, before there is an agent in it.

use bench::matrix::assert_matrix;
use bench::tier;
use bench::world::{Layout, World};
use bench::{netns, scope};

#[test]
fn without_an_agent_everybody_reaches_everybody() {
    if !tier::can_build_worlds() {
        return;
    }
    for layout in [Layout::Routed, Layout::Bridged] {
        let world = World::new(layout).expect("a world");
        assert_matrix(&world, |_| true);
    }
}

#[test]
fn a_world_leaves_nothing_behind_even_after_a_panic() {
    if !tier::can_build_worlds() {
        return;
    }
    let world = World::new(Layout::Routed).expect("a world");
    let name = world.scope.name().to_owned();
    assert!(scope::exists(&name) && netns::list().contains(&world.scope.netns_name("node")));
    let panicked = std::thread::spawn(move || -> () {
        let world = world;
        panic!("a test fails in {}", world.scope.name());
    });
    assert!(panicked.join().is_err());
    assert!(!scope::exists(&name));
}
