//! Real sockets between network namespaces: the world itself, before there is an agent in it.

use std::thread;
use std::time::Duration;

use bench::drip::{Chat, Drip};
use bench::matrix::assert_matrix;
use bench::place::{Family, Place};
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

#[test]
fn lasting_probes_deliver_what_they_send() {
    if !tier::can_build_worlds() {
        return;
    }
    let world = World::new(Layout::Bridged).expect("a world");
    for family in Family::ALL {
        let drip = Drip::start(&world, Place::AcmeWeb, Place::GlobexWeb, family).expect("a drip");
        let chat = Chat::start(&world, Place::AcmeWeb, Place::AcmeDb, family).expect("a chat");
        thread::sleep(Duration::from_millis(300));
        let (drip, chat) = (drip.stop(), chat.stop());
        assert!(drip.sent > 100 && drip.refused == 0, "{} sent, {} refused", drip.sent, drip.refused);
        assert!(drip.arrived.len() as u64 == drip.sent, "{} of {}", drip.arrived.len(), drip.sent);
        assert!(chat.answers.len() > 50 && chat.error.is_none(), "{} answers, {:?}", chat.answers.len(), chat.error);
    }
}
