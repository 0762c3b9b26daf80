//! Traffic that goes on while something happens, and what must be true of it afterwards.

use std::thread;
use std::time::{Duration, Instant};

use testbed::drip::{Chat, Chatted, Drip, Dripped};
use testbed::place::{Family, Place};
use testbed::world::World;

/// How long a live edit may take to be in force.
pub const SOON: Duration = Duration::from_secs(2);

/// What goes on while something happens to the agent.
pub struct Traffic {
    denied: Vec<Drip>,
    allowed: Vec<Drip>,
    chats: Vec<Chat>,
}

impl Traffic {
    /// Denied pod to pod and to the world, allowed pod to pod; connections that a pod opened and
    /// one that was opened to it, which lives on remembered state.
    pub fn start(world: &World) -> Self {
        world.introduce().expect("neighbours");
        let drip = |from, to, family| Drip::start(world, from, to, family).expect("a drip");
        let chat = |from, to, family| Chat::start(world, from, to, family).expect("a connection");
        Self {
            denied: vec![
                drip(Place::AcmeWeb, Place::GlobexWeb, Family::V4),
                drip(Place::AcmeWeb, Place::GlobexApi, Family::V6),
                drip(Place::AcmeApi, Place::Internet, Family::V4),
                drip(Place::GlobexFar, Place::AcmeWeb, Family::V4),
            ],
            allowed: vec![
                drip(Place::AcmeWeb, Place::AcmeApi, Family::V4),
                drip(Place::GlobexWeb, Place::GlobexApi, Family::V6),
            ],
            chats: vec![
                chat(Place::AcmeWeb, Place::AcmeDb, Family::V4),
                chat(Place::AcmeApi, Place::AcmeFar, Family::V6),
                chat(Place::Node, Place::AcmeWeb, Family::V4),
                chat(Place::Internet, Place::GlobexWeb, Family::V4),
            ],
        }
    }

    /// Ends it: not one denied packet came, not one allowed was lost, no connection broke or stalled.
    pub fn assert_undisturbed(self) {
        for (index, drip) in self.denied.into_iter().enumerate() {
            let Dripped { sent, refused, arrived } = drip.stop();
            assert!(sent + refused > 300, "denied {index}: only {sent} were sent");
            assert_eq!(arrived.len(), 0, "denied {index}: of {sent} sent");
        }
        for (index, drip) in self.allowed.into_iter().enumerate() {
            let drip = drip.stop();
            assert_eq!(drip.arrived.len() as u64, drip.sent, "allowed {index}; longest gap {:?}", drip.longest_gap());
        }
        for (index, chat) in self.chats.into_iter().enumerate() {
            let chat = chat.stop();
            assert_eq!(chat.error, None, "connection {index}");
            // A lost packet costs TCP 200 ms at least.
            assert!(chat.longest_gap() < Duration::from_millis(150), "connection {index}: {:?}", chat.longest_gap());
        }
    }
}

/// Lets traffic flow.
pub fn pause() {
    thread::sleep(Duration::from_millis(300));
}

/// Ends a connection: it must have been cut within `SOON` of a moment.
pub fn assert_cut(chat: Chat, moment: Instant) {
    let chat: Chatted = chat.stop();
    assert!(chat.answers.len() > 50, "only {} answers ever", chat.answers.len());
    assert_eq!(chat.answers_after(moment + SOON), 0, "it went on; {:?}", chat.error);
}
