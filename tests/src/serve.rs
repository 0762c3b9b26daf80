//! TCP and UDP echo servers in a network namespace.
//!
//! Each socket is bound to one address, so an answer always comes from the address that was probed. One thread serves a
//! namespace and ends when the value is dropped.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::netns::Netns;

/// The servers of one namespace.
#[derive(Debug)]
pub struct Servers {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Listens at each address with TCP and UDP. Returns when all of them listen.
    pub fn start(netns: &Netns, addresses: &[SocketAddr]) -> Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let mut sockets =
            netns.run(|| Sockets::open(addresses)).with_context(|| format!("servers of {}", netns.name()))?;
        let until = Arc::clone(&stop);
        let thread = netns.spawn(move || sockets.serve(&until));
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The sockets that one thread serves.
struct Sockets {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    streams: HashMap<u64, TcpStream>,
    next: u64,
    buffer: Vec<u8>,
}

/// The socket of a ready descriptor.
enum Ready {
    Udp(usize),
    Tcp(usize),
    Stream(u64),
}

impl Sockets {
    fn open(addresses: &[SocketAddr]) -> Result<Self> {
        let mut sockets =
            Self { udp: Vec::new(), tcp: Vec::new(), streams: HashMap::new(), next: 0, buffer: vec![0; 65536] };
        for address in addresses {
            let udp = UdpSocket::bind(address).with_context(|| format!("cannot listen at UDP {address}"))?;
            let tcp = TcpListener::bind(address).with_context(|| format!("cannot listen at TCP {address}"))?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            sockets.udp.push(udp);
            sockets.tcp.push(tcp);
        }
        Ok(sockets)
    }

    fn serve(&mut self, stop: &OwnedFd) {
        while let Some(ready) = self.wait(stop) {
            for ready in ready {
                match ready {
                    Ready::Udp(index) => echo_datagrams(&self.udp[index], &mut self.buffer),
                    Ready::Tcp(index) => self.accept(index),
                    Ready::Stream(key) => self.answer(key),
                }
            }
        }
    }

    /// Waits until sockets can be read. `None`: the servers are to stop.
    fn wait(&self, stop: &OwnedFd) -> Option<Vec<Ready>> {
        let mut kinds = Vec::new();
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        for (index, socket) in self.udp.iter().enumerate() {
            kinds.push(Ready::Udp(index));
            fds.push(PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN));
        }
        for (index, socket) in self.tcp.iter().enumerate() {
            kinds.push(Ready::Tcp(index));
            fds.push(PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN));
        }
        for (key, stream) in &self.streams {
            kinds.push(Ready::Stream(*key));
            fds.push(PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN));
        }
        while poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
        if !fds[0].revents().is_empty() {
            return None;
        }
        let ready = kinds.into_iter().zip(&fds[1..]).filter(|(_, fd)| !fd.revents().is_empty());
        Some(ready.map(|(kind, _)| kind).collect())
    }

    fn accept(&mut self, index: usize) {
        while let Ok((stream, _)) = self.tcp[index].accept() {
            // A client that does not read must not stop the others for long.
            if stream.set_write_timeout(Some(Duration::from_secs(1))).is_ok() {
                self.streams.insert(self.next, stream);
                self.next += 1;
            }
        }
    }

    fn answer(&mut self, key: u64) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let read = stream.read(&mut self.buffer);
        let alive = read.is_ok_and(|length| length > 0 && stream.write_all(&self.buffer[..length]).is_ok());
        if !alive {
            self.streams.remove(&key);
        }
    }
}

/// Answers every waiting datagram. An error reports an ICMP message about an earlier answer, so it is ignored.
fn echo_datagrams(socket: &UdpSocket, buffer: &mut [u8]) {
    loop {
        match socket.recv_from(buffer) {
            Ok((length, from)) => drop(socket.send_to(&buffer[..length], from)),
            Err(error) if would_block(&error) => return,
            Err(_) => {}
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}
