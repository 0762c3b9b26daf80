//! Sends one probe from one host to another and waits a limited time for the answer.
//!
//! Each probe binds the sender's address, so that a host with several addresses uses the right one.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, recv, send,
    socket_with, sockopt,
};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_millis(1000);

/// The transport of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A connection and an echo over it.
    Tcp,
    /// A datagram and its echo.
    Udp,
    /// An ICMP or ICMPv6 echo.
    Icmp,
}

impl Transport {
    /// All transports.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// The outcome of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer arrived.
    Answered,
    /// Nothing arrived.
    Silence,
    /// The destination refused: no process listens there (RST, or ICMP port unreachable).
    Refused,
    /// A router or the sender's kernel reported that there is no route.
    Unreachable,
    /// The sender's own kernel did not permit the packet.
    Denied,
    /// The probe could not be sent.
    Broken(Errno),
}

/// Sends a probe from the namespace of the calling thread.
pub fn probe(transport: Transport, source: Option<IpAddr>, target: SocketAddr) -> Outcome {
    let result = match transport {
        Transport::Tcp => tcp(source, target),
        Transport::Udp => datagram(socket(SocketType::DGRAM, target, ipproto::UDP), source, target, b"bulkhead"),
        Transport::Icmp => icmp(source, target),
    };
    outcome(result)
}

fn outcome(result: Result<bool, Errno>) -> Outcome {
    match result {
        Ok(true) => Outcome::Answered,
        Ok(false) => Outcome::Silence,
        Err(Errno::TIMEDOUT | Errno::AGAIN) => Outcome::Silence,
        Err(Errno::CONNREFUSED | Errno::CONNRESET) => Outcome::Refused,
        Err(Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::ACCESS) => Outcome::Unreachable,
        Err(Errno::PERM) => Outcome::Denied,
        Err(error) => Outcome::Broken(error),
    }
}

/// Tries to open a connection to a server that does not echo.
pub fn connects(source: Option<IpAddr>, target: SocketAddr) -> Outcome {
    outcome(open_tcp(source, target, PATIENCE).map(|_| true).map_err(errno))
}

/// Opens a connection that is bound to `source`, within `patience`.
pub fn open_tcp(source: Option<IpAddr>, target: SocketAddr, patience: Duration) -> io::Result<std::net::TcpStream> {
    let socket = socket(SocketType::STREAM, target, ipproto::TCP)?;
    bind_source(&socket, source)?;
    match connect(&socket, &target) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            if !wait(&socket, PollFlags::OUT, Instant::now() + patience)? {
                return Err(ErrorKind::TimedOut.into());
            }
            sockopt::socket_error(&socket)??;
        }
        Err(error) => return Err(error.into()),
    }
    let stream = std::net::TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn tcp(source: Option<IpAddr>, target: SocketAddr) -> Result<bool, Errno> {
    use std::io::{Read, Write};
    let exchange = || -> io::Result<bool> {
        let mut stream = open_tcp(source, target, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"bulkhead")?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"bulkhead")
    };
    exchange().map_err(errno)
}

fn icmp(source: Option<IpAddr>, target: SocketAddr) -> Result<bool, Errno> {
    // Type, code, checksum and identifier; the kernel fills in the last two.
    let (protocol, kind) = if target.is_ipv4() { (ipproto::ICMP, 8) } else { (ipproto::ICMPV6, 128) };
    let question = [kind, 0, 0, 0, 0, 0, 0, 1, b'b', b'h'];
    let mut target = target;
    target.set_port(0);
    datagram(socket(SocketType::DGRAM, target, protocol), source, target, &question)
}

/// Sends a datagram up to three times and waits for its echo, because one lost datagram proves nothing.
fn datagram(
    socket: Result<OwnedFd, Errno>,
    source: Option<IpAddr>,
    target: SocketAddr,
    question: &[u8],
) -> Result<bool, Errno> {
    let socket = socket?;
    bind_source(&socket, source)?;
    connect(&socket, &target)?;
    let end = Instant::now() + PATIENCE;
    let mut buffer = [0_u8; 64];
    while Instant::now() < end {
        send(&socket, question, SendFlags::empty())?;
        if wait(&socket, PollFlags::IN, end.min(Instant::now() + PATIENCE / 3))? {
            let (_, length) = recv(&socket, &mut buffer, RecvFlags::empty())?;
            return Ok(length == question.len());
        }
    }
    Ok(false)
}

fn socket(kind: SocketType, target: SocketAddr, protocol: Protocol) -> Result<OwnedFd, Errno> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, Some(protocol))
}

fn bind_source(socket: &OwnedFd, source: Option<IpAddr>) -> Result<(), Errno> {
    source.map_or(Ok(()), |source| bind(socket, &SocketAddr::new(source, 0)))
}

/// Waits until the descriptor is ready. Returns false if it is not before `end`.
fn wait(fd: &OwnedFd, flags: PollFlags, end: Instant) -> Result<bool, Errno> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(fd, flags)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn errno(error: io::Error) -> Errno {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Errno::TIMEDOUT,
        ErrorKind::UnexpectedEof => Errno::CONNRESET,
        _ => Errno::from_io_error(&error).unwrap_or(Errno::IO),
    }
}

/// An Ethernet protocol number in the form that `socket` expects.
pub const fn ethernet_protocol(number: u16) -> Option<Protocol> {
    match NonZeroU32::new(number.to_be() as u32) {
        Some(raw) => Some(Protocol::from_raw(raw)),
        None => None,
    }
}
