//! Captures every frame that arrives in a network namespace, before any socket receives it.
//!
//! A capture proves that a packet arrived, even if no process listens.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socket_with};

use crate::netns::Netns;
use crate::probe::ethernet_protocol;
use crate::worker::Worker;

/// Every Ethernet protocol.
const ETH_P_ALL: u16 = 3;

/// A running capture on all interfaces of a namespace.
#[derive(Debug)]
pub struct Capture {
    worker: Worker<Vec<Vec<u8>>>,
}

impl Capture {
    /// Starts to keep frames that `fits` accepts, received and sent. No later frame is missed.
    pub fn start(netns: &Netns, fits: impl Fn(&[u8]) -> bool + Send + 'static) -> Result<Self> {
        let socket = netns.run(open).with_context(|| format!("cannot capture in {}", netns.name()))?;
        let worker = Worker::start(netns, move |stop| {
            let mut kept = Vec::new();
            let mut buffer = vec![0; 65536];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, length)) = recv(&socket, &mut buffer[..], RecvFlags::empty())
                    && fits(&buffer[..length])
                {
                    kept.push(buffer[..length].to_vec());
                }
            }
            kept
        });
        Ok(Self { worker })
    }

    /// Waits for frames in flight, ends the capture and returns the frames.
    pub fn stop(self) -> Vec<Vec<u8>> {
        thread::sleep(Duration::from_millis(50));
        self.worker.stop()
    }
}

fn open() -> rustix::io::Result<OwnedFd> {
    let socket =
        socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, ethernet_protocol(ETH_P_ALL))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(20)))?;
    set_socket_recv_buffer_size_force(&socket, 8 << 20)?;
    Ok(socket)
}
