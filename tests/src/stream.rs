//! Lasting probes: one small message per millisecond, and a record of the arrivals.
//!
//! Tests use them to check a whole period, such as a restart. A denied [`DatagramStream`] must have delivered nothing.
//! An allowed [`EchoConnection`] must have continued.

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

/// The interval between two messages.
const PACE: Duration = Duration::from_millis(1);
/// The port that a `DatagramStream` sends to.
const PORT: u16 = 7000;

/// Numbered datagrams, one way.
#[derive(Debug)]
pub struct DatagramStream {
    sender: Worker<Sent>,
    receiver: Worker<Vec<Instant>>,
}

/// The counts of the sender of a `DatagramStream`.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    sent: u64,
    refused: u64,
}

/// The record of a `DatagramStream`.
#[derive(Clone, Debug)]
pub struct DatagramRecord {
    /// Datagrams that the sender's kernel accepted.
    pub sent: u64,
    /// Datagrams that the sender's kernel refused.
    pub refused: u64,
    /// The arrival time of each datagram that arrived.
    pub arrived: Vec<Instant>,
}

impl DatagramStream {
    /// Starts a stream from one host to another.
    pub fn start(world: &World, from: Host, to: Host, family: Family) -> Result<Self> {
        // Each sender has its own port, so that several streams can end at one host.
        let target = SocketAddr::new(to.address(family), PORT + from as u16);
        Self::between(world.netns(from), from.address(family), world.netns(to), target)
    }

    /// Starts a stream from an address in one namespace to an unused port in another.
    pub fn between(from: &Netns, source: IpAddr, to: &Netns, target: SocketAddr) -> Result<Self> {
        let receiver = to.run(|| UdpSocket::bind(target)).context("cannot listen for streams")?;
        receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
        let socket = from.run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(source, 0))?;
            socket.connect(target).map(|()| socket)
        })?;
        let receiver = Worker::start(to, move |stop| receive(&receiver, stop));
        let sender = Worker::start(from, move |stop| transmit(&socket, stop));
        Ok(Self { sender, receiver })
    }

    /// Ends the stream and returns its record.
    pub fn stop(self) -> DatagramRecord {
        let sent = self.sender.stop();
        // Datagrams in flight may still arrive.
        thread::sleep(Duration::from_millis(50));
        let arrived = self.receiver.stop();
        DatagramRecord { sent: sent.sent, refused: sent.refused, arrived }
    }
}

impl DatagramRecord {
    /// The time from a moment to the first arrival after it.
    pub fn first_after(&self, moment: Instant) -> Option<Duration> {
        self.arrived.iter().find(|at| **at > moment).map(|at| *at - moment)
    }

    /// The time from a moment to the last arrival after it.
    pub fn last_after(&self, moment: Instant) -> Option<Duration> {
        self.arrived.iter().rfind(|at| **at > moment).map(|at| *at - moment)
    }

    /// The number of arrivals after a moment.
    pub fn arrived_after(&self, moment: Instant) -> usize {
        self.arrived.iter().filter(|at| **at > moment).count()
    }

    /// The longest time between two arrivals.
    pub fn longest_gap(&self) -> Duration {
        longest_gap(&self.arrived)
    }
}

fn transmit(socket: &UdpSocket, stop: &AtomicBool) -> Sent {
    let mut sent = Sent::default();
    while !stop.load(Ordering::Relaxed) {
        match socket.send(&sent.sent.to_be_bytes()) {
            Ok(_) => sent.sent += 1,
            Err(_) => sent.refused += 1,
        }
        thread::sleep(PACE);
    }
    sent
}

fn receive(receiver: &UdpSocket, stop: &AtomicBool) -> Vec<Instant> {
    let mut arrived = Vec::new();
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if receiver.recv(&mut buffer).is_ok() {
            arrived.push(Instant::now());
        }
    }
    arrived
}

/// One connection on which a request follows each answer.
#[derive(Debug)]
pub struct EchoConnection {
    worker: Worker<EchoRecord>,
}

/// The record of an `EchoConnection`.
#[derive(Clone, Debug, Default)]
pub struct EchoRecord {
    /// The arrival time of each answer.
    pub answers: Vec<Instant>,
    /// Why the connection failed, if it did.
    pub error: Option<String>,
}

impl EchoConnection {
    /// Opens a connection to the server of a host and starts to send.
    pub fn start(world: &World, from: Host, to: Host, family: Family) -> Result<Self> {
        let source = (from != Host::Node).then(|| from.address(family));
        Self::between(world.netns(from), source, to.server(family))
    }

    /// Opens a connection from a namespace to an echo server and starts to send.
    pub fn between(from: &Netns, source: Option<IpAddr>, target: SocketAddr) -> Result<Self> {
        let mut stream = from.run(|| open_tcp(source, target, PATIENCE))?;
        // Longer than a few retransmissions.
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let worker = Worker::start(from, move |stop| {
            let mut record = EchoRecord::default();
            while !stop.load(Ordering::Relaxed) {
                let mut answer = [0; 8];
                let request = (record.answers.len() as u64).to_be_bytes();
                let exchange = stream.write_all(&request).and_then(|()| stream.read_exact(&mut answer));
                match exchange {
                    Ok(()) if answer == request => record.answers.push(Instant::now()),
                    Ok(()) => record.error = Some("an answer differs from its request".to_owned()),
                    Err(error) => record.error = Some(error.to_string()),
                }
                if record.error.is_some() {
                    break;
                }
                thread::sleep(PACE);
            }
            record
        });
        Ok(Self { worker })
    }

    /// Waits for an answer in flight, ends the connection and returns its record.
    pub fn stop(self) -> EchoRecord {
        self.worker.stop()
    }
}

impl EchoRecord {
    /// The number of answers after a moment.
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
