//! Lasting probes: one small message per millisecond, and a record of what arrived.
//!
//! Tests use them to check a whole period, such as a restart. A denied [`DatagramStream`] must have delivered nothing. An
//! allowed [`EchoConnection`] must have continued.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::host::{Family, Host};
use crate::netns::Netns;
use crate::probe::{PATIENCE, open_tcp};
use crate::worker::Worker;
use crate::world::World;

/// Between two messages.
const PACE: Duration = Duration::from_millis(1);
/// The port that a `DatagramStream` sends to.
const PORT: u16 = 7000;

/// Numbered datagrams, one way.
#[derive(Debug)]
pub struct DatagramStream {
    sender: Worker<Sent>,
    receiver: Worker<Vec<Instant>>,
}

/// What the sender of a `DatagramStream` saw.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    sent: u64,
    refused: u64,
}

/// The record of a `DatagramStream`.
#[derive(Clone, Debug)]
pub struct DatagramRecord {
    /// Datagrams the sender's kernel took.
    pub sent: u64,
    /// Datagrams the sender's kernel refused.
    pub refused: u64,
    /// When each of those that came arrived.
    pub arrived: Vec<Instant>,
}

impl DatagramStream {
    /// Starts to stream from one host to a port of its own at another.
    pub fn start(world: &World, from: Host, to: Host, family: Family) -> Result<Self> {
        // A port for each pair, so that several streams can end at one host.
        let target = SocketAddr::new(to.address(family), PORT + from as u16);
        Self::between(world.netns(from), from.address(family), world.netns(to), target)
    }

    /// Starts to stream from an address in one namespace to a port in another, where nobody listens yet.
    pub fn between(from: &Netns, source: IpAddr, to: &Netns, target: SocketAddr) -> Result<Self> {
        let receiver = to.run(|| UdpSocket::bind(target)).context("cannot listen for streams")?;
        receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
        let mouth = from.run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(source, 0))?;
            socket.connect(target).map(|()| socket)
        })?;
        let receiver = Worker::start(to, move |stop| listen(&receiver, stop));
        let sender = Worker::start(from, move |stop| talk(&mouth, stop));
        Ok(Self { sender, receiver })
    }

    /// Ends it and returns the record.
    pub fn stop(self) -> DatagramRecord {
        let sent = self.sender.stop();
        // Datagrams in flight may still arrive.
        thread::sleep(Duration::from_millis(50));
        let arrived = self.receiver.stop();
        DatagramRecord { sent: sent.sent, refused: sent.refused, arrived }
    }
}

impl DatagramRecord {
    /// The first that arrived after a moment, and how long after.
    pub fn first_after(&self, moment: Instant) -> Option<Duration> {
        self.arrived.iter().find(|at| **at > moment).map(|at| *at - moment)
    }

    /// The last that arrived after a moment, and how long after.
    pub fn last_after(&self, moment: Instant) -> Option<Duration> {
        self.arrived.iter().rfind(|at| **at > moment).map(|at| *at - moment)
    }

    /// How many arrived after a moment.
    pub fn arrived_after(&self, moment: Instant) -> usize {
        self.arrived.iter().filter(|at| **at > moment).count()
    }

    /// The longest time between two arrivals.
    pub fn longest_gap(&self) -> Duration {
        longest_gap(&self.arrived)
    }
}

fn talk(mouth: &UdpSocket, stop: &AtomicBool) -> Sent {
    let mut sent = Sent::default();
    while !stop.load(Ordering::Relaxed) {
        match mouth.send(&sent.sent.to_be_bytes()) {
            Ok(_) => sent.sent += 1,
            Err(_) => sent.refused += 1,
        }
        thread::sleep(PACE);
    }
    sent
}

fn listen(receiver: &UdpSocket, stop: &AtomicBool) -> Vec<Instant> {
    let mut arrived = Vec::new();
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if receiver.recv(&mut buffer).is_ok() {
            arrived.push(Instant::now());
        }
    }
    arrived
}

/// One connection on which a question follows each answer.
#[derive(Debug)]
pub struct EchoConnection {
    worker: Worker<EchoRecord>,
}

/// What an `EchoConnection` did.
#[derive(Clone, Debug, Default)]
pub struct EchoRecord {
    /// When each answer came.
    pub answers: Vec<Instant>,
    /// Why it ended, if not because it was stopped.
    pub error: Option<String>,
}

impl EchoConnection {
    /// Opens a connection to the server of a host and starts to talk.
    pub fn start(world: &World, from: Host, to: Host, family: Family) -> Result<Self> {
        let source = (from != Host::Node).then(|| from.address(family));
        Self::between(world.netns(from), source, to.server(family))
    }

    /// Opens a connection from a namespace to an echo server and starts to talk.
    pub fn between(from: &Netns, source: Option<IpAddr>, target: SocketAddr) -> Result<Self> {
        let mut stream = from.run(|| open_tcp(source, target, PATIENCE))?;
        // Longer than a few retransmissions.
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let worker = Worker::start(from, move |stop| {
            let mut chatted = EchoRecord::default();
            while !stop.load(Ordering::Relaxed) {
                let mut answer = [0; 8];
                let question = (chatted.answers.len() as u64).to_be_bytes();
                let exchange = stream.write_all(&question).and_then(|()| stream.read_exact(&mut answer));
                match exchange {
                    Ok(()) if answer == question => chatted.answers.push(Instant::now()),
                    Ok(()) => chatted.error = Some("a wrong answer came".to_owned()),
                    Err(error) => chatted.error = Some(error.to_string()),
                }
                if chatted.error.is_some() {
                    break;
                }
                thread::sleep(PACE);
            }
            chatted
        });
        Ok(Self { worker })
    }

    /// Ends it and returns the record, after an answer in flight.
    pub fn stop(self) -> EchoRecord {
        self.worker.stop()
    }
}

impl EchoRecord {
    /// How many answers came after a moment.
    pub fn answers_after(&self, moment: Instant) -> usize {
        self.answers.iter().filter(|at| **at > moment).count()
    }

    /// The longest time between two answers.
    pub fn longest_gap(&self) -> Duration {
        longest_gap(&self.answers)
    }
}

fn longest_gap(moments: &[Instant]) -> Duration {
    moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::MAX)
}
