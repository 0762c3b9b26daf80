//! Notifications that a table of nf_tables changed.
//!
//! Says that something changed, never what: the caller reads the table. Notifications may be lost, and then the answer
//! is that something changed.

use std::io;
use std::time::{Duration, Instant};

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::net::sockopt;

use super::socket::answers;
use super::{GENERIC, INET, SUBSYSTEM, find};

/// `NFNLGRP_NFTABLES` as a bit; the group's number is 7.
const GROUP: u32 = 1 << (7 - 1);
/// Size of the receive buffer in bytes; kube-proxy writes thousands of elements at once.
const RECEIVE: usize = 2 << 20;
/// The attribute with the table's name, in messages about every kind of object.
const TABLE: u16 = 1;
/// `NFT_MSG_NEWGEN` and `NFT_MSG_TRACE`, which do not name a table there.
const UNNAMED: [u16; 2] = [15, 17];

/// A subscription to the changes of one table of the family inet.
pub struct NftWatch {
    socket: Socket,
    /// The table's name with its final zero.
    table: Vec<u8>,
}

impl NftWatch {
    /// Subscribes in the current network namespace. Needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// Those of the socket, such as a kernel without netfilter.
    pub fn open(table: &str) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, RECEIVE))?;
        socket.bind(&SocketAddr::new(0, GROUP))?;
        Ok(Self { socket, table: [table.as_bytes(), &[0]].concat() })
    }

    /// Waits until the table changes (true) or the time is over (false). Also returns true if the kernel dropped
    /// notifications. Writes of this process count too, and one write causes several notifications.
    ///
    /// # Errors
    /// Those of the socket, except that it was interrupted.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let end = Instant::now() + timeout;
        loop {
            // A timeout of zero would wait for ever.
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, Some(left))?;
            match self.socket.recv_from_full() {
                Ok((bytes, from)) if from.port_number() == 0 && concerns(&bytes, &self.table) => return Ok(true),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if Instant::now() >= end {
                return Ok(false);
            }
        }
    }
}

/// Whether a message of the datagram names this table of the family inet.
fn concerns(datagram: &[u8], table: &[u8]) -> bool {
    answers(datagram).any(|message| {
        let (subsystem, kind) = (message.kind >> 8, message.kind & 0xff);
        subsystem == SUBSYSTEM
            && !UNNAMED.contains(&kind)
            && message.body.first() == Some(&INET)
            && find(message.body.get(GENERIC..).unwrap_or_default(), TABLE) == Some(table)
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Attributes, encode};
    use super::*;

    fn notification(kind: u16, family: u8, table: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&mut bytes, SUBSYSTEM << 8 | kind, 0, 0, [family, 0, 0, 0], Attributes::new().text(1, table).as_bytes());
        bytes
    }

    #[test]
    fn only_our_table_of_our_family_concerns_us() {
        let ours = b"bulkhead\0";
        assert!(concerns(&notification(2, INET, "bulkhead"), ours));
        assert!(concerns(&[notification(2, 2, "filter"), notification(8, INET, "bulkhead")].concat(), ours));
        for (kind, family, table) in
            [(2, 2, "bulkhead"), (2, INET, "bulkhead2"), (2, INET, "bulk"), (15, INET, "bulkhead")]
        {
            assert!(!concerns(&notification(kind, family, table), ours), "{kind} {family} {table}");
        }
    }
}
