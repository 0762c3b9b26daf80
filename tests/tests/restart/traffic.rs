//! Traffic that continues during an event, and checks that no denied packet arrived and no allowed packet was lost.

use std::thread;
use std::time::{Duration, Instant};

use testbed::host::{Family, Host};
use testbed::stream::{DatagramRecord, DatagramStream, EchoConnection, EchoRecord};
use testbed::world::World;

/// The time within which a live edit must be in force.
pub(crate) const SOON: Duration = Duration::from_secs(2);

/// The traffic while the agent is killed or stopped.
pub(crate) struct Traffic {
    denied: Vec<DatagramStream>,
    allowed: Vec<DatagramStream>,
    connections: Vec<EchoConnection>,
}

impl Traffic {
    /// Denied traffic to a pod and to the internet, allowed traffic to a pod, connections that a pod opened, and one
    /// that was opened to it, which depends on the reply table.
    pub(crate) fn start(world: &World) -> Self {
        world.introduce().expect("neighbours");
        let stream = |from, to, family| DatagramStream::start(world, from, to, family).expect("a stream");
        let connection = |from, to, family| EchoConnection::start(world, from, to, family).expect("a connection");
        Self {
            denied: vec![
                stream(Host::AcmeWeb, Host::GlobexWeb, Family::V4),
                stream(Host::AcmeWeb, Host::GlobexApi, Family::V6),
                stream(Host::AcmeApi, Host::Internet, Family::V4),
                stream(Host::GlobexFar, Host::AcmeWeb, Family::V4),
            ],
            allowed: vec![
                stream(Host::AcmeWeb, Host::AcmeApi, Family::V4),
                stream(Host::GlobexWeb, Host::GlobexApi, Family::V6),
            ],
            connections: vec![
                connection(Host::AcmeWeb, Host::AcmeDb, Family::V4),
                connection(Host::AcmeApi, Host::AcmeFar, Family::V6),
                connection(Host::Node, Host::AcmeWeb, Family::V4),
                connection(Host::Internet, Host::GlobexWeb, Family::V4),
            ],
        }
    }

    /// Ends the traffic and checks it: no denied packet arrived, no allowed packet was lost, no connection ended or
    /// stalled.
    pub(crate) fn assert_undisturbed(self) {
        for (index, stream) in self.denied.into_iter().enumerate() {
            let DatagramRecord { sent, refused, arrived } = stream.stop();
            assert!(sent + refused > 300, "denied {index}: only {sent} were sent");
            assert_eq!(arrived.len(), 0, "denied {index}: of {sent} sent");
        }
        for (index, stream) in self.allowed.into_iter().enumerate() {
            let stream = stream.stop();
            assert_eq!(
                stream.arrived.len() as u64,
                stream.sent,
                "allowed {index}; longest gap {:?}",
                stream.longest_gap()
            );
        }
        for (index, connection) in self.connections.into_iter().enumerate() {
            let connection = connection.stop();
            assert_eq!(connection.error, None, "connection {index}");
            // TCP retransmits a lost packet after 200 ms at the earliest.
            assert!(
                connection.longest_gap() < Duration::from_millis(150),
                "connection {index}: {:?}",
                connection.longest_gap()
            );
        }
    }
}

/// Waits while traffic flows.
pub(crate) fn pause() {
    thread::sleep(Duration::from_millis(300));
}

/// Ends a connection and checks that it got no answer later than `SOON` after a moment.
pub(crate) fn assert_cut(connection: EchoConnection, moment: Instant) {
    let connection: EchoRecord = connection.stop();
    assert!(connection.answers.len() > 50, "only {} answers in all", connection.answers.len());
    assert_eq!(connection.answers_after(moment + SOON), 0, "the connection continued; {:?}", connection.error);
}
