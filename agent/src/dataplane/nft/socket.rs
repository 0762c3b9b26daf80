//! A socket that asks nf_tables, and writes batches that the kernel applies as one transaction.
//!
//! Every wait for an answer ends after [`TIMEOUT`]. The kernel applies a batch while it is sent, one process after the
//! other. An answer belongs to a request by its sequence number, so what an earlier failed
//! request left in the socket is skipped.

use std::io;
use std::time::Duration;

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::net::sockopt;

use super::{GENERIC, HEADER, Message, NftError, SUBSYSTEM, encode};

/// How long a request waits for an answer.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Size of the receive buffer, which holds the errors of a batch, in bytes.
const RECEIVE: usize = 4 << 20;
/// Types of netlink messages that end an answer, and of those that frame a batch (`NFNL_MSG_BATCH_BEGIN`, `_END`).
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BEGIN: u16 = 16;
const END: u16 = 17;
/// Flags: the kernel should confirm; a listing changed while it was read.
const ACK: u16 = 4;
const DUMP_INTERRUPTED: u16 = 0x10;
/// Errors by which a kernel says that it lacks a part of netfilter.
const UNSUPPORTED: [i32; 4] = [
    rustix::io::Errno::OPNOTSUPP.raw_os_error(),
    rustix::io::Errno::PROTONOSUPPORT.raw_os_error(),
    rustix::io::Errno::AFNOSUPPORT.raw_os_error(),
    rustix::io::Errno::INVAL.raw_os_error(),
];

/// A socket of the network namespace in which it was opened.
pub struct NftSocket {
    socket: Socket,
    sequence: u32,
}

impl NftSocket {
    /// Opens the socket. Needs `CAP_NET_ADMIN` for what follows.
    ///
    /// # Errors
    /// [`NftError::NoNfTables`] for a kernel without netfilter's netlink, otherwise [`NftError::Socket`].
    pub fn open() -> Result<Self, NftError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(|error| match is_unsupported(&error) {
            true => NftError::NoNfTables(error),
            false => NftError::Socket(error),
        })?;
        configure(&mut socket).map_err(NftError::Socket)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Applies all messages, or none.
    ///
    /// # Errors
    /// The first error by the order of messages: [`NftError::NoNfTables`], [`NftError::NoConntrack`] for a rule that
    /// needs it, or [`NftError::Refused`] with the operation of the message that caused it.
    pub fn commit(&mut self, messages: &[Message]) -> Result<(), NftError> {
        if messages.is_empty() {
            return Ok(());
        }
        // The first number is that of the batch itself, the next are those of its messages.
        let first = self.reserve(messages.len() + 2);
        let bytes = encode_batch(messages, first);
        self.send(&bytes).map_err(|error| refused("send the batch", error))?;
        let last = first + messages.len() as u32;
        match self.outcome(first, last).map_err(|error| refused("read the answer to the batch", error))? {
            None => Ok(()),
            Some((at, error)) => Err(explain(messages, (at - first) as usize, error)),
        }
    }

    /// Reads the answers to a batch, and returns the first error by sequence number.
    fn outcome(&self, first: u32, last: u32) -> io::Result<Option<(u32, io::Error)>> {
        let mut failed: Option<(u32, io::Error)> = None;
        loop {
            for answer in self.receive()?.iter().filter(|answer| (first..=last).contains(&answer.sequence)) {
                let Some(result) = answer.result() else { continue };
                if let Err(error) = result
                    && failed.as_ref().is_none_or(|(at, _)| answer.sequence < *at)
                {
                    failed = Some((answer.sequence, error));
                }
                // The kernel answers with the batch's own number if it cannot apply it as a whole.
                if answer.sequence == last || answer.sequence == first {
                    return Ok(failed);
                }
            }
        }
    }

    /// The attributes of each object in the answer to a request.
    ///
    /// # Errors
    /// [`NftError::NoNfTables`], or [`NftError::Refused`]: not found ([`NftError::is_absent`]), a listing that changed
    /// meanwhile ([`io::ErrorKind::Interrupted`]), or no answer in time.
    pub fn read(&mut self, message: &Message) -> Result<Vec<Vec<u8>>, NftError> {
        self.read_answers(message).map_err(|error| match is_unsupported(&error) {
            true => NftError::NoNfTables(error),
            false => refused(&message.operation, error),
        })
    }

    fn read_answers(&mut self, message: &Message) -> io::Result<Vec<Vec<u8>>> {
        let sequence = self.reserve(1);
        let mut bytes = Vec::new();
        message.encode(&mut bytes, ACK, sequence);
        self.send(&bytes)?;
        let (mut found, mut torn) = (Vec::new(), false);
        loop {
            for answer in self.receive()?.into_iter().filter(|answer| answer.sequence == sequence) {
                torn |= answer.flags & DUMP_INTERRUPTED != 0;
                match answer.result() {
                    Some(Err(error)) => return Err(error),
                    Some(Ok(())) if torn => return Err(io::ErrorKind::Interrupted.into()),
                    Some(Ok(())) => return Ok(found),
                    None => found.extend(answer.body.get(GENERIC..).map(<[u8]>::to_vec)),
                }
            }
        }
    }

    /// Takes `count` sequence numbers that no answer in the socket has, and returns the first.
    fn reserve(&mut self, count: usize) -> u32 {
        let count = count as u32;
        if self.sequence.checked_add(count + 1).is_none() {
            self.sequence = 0;
        }
        let first = self.sequence + 1;
        self.sequence += count;
        first
    }

    /// Sends a request, which the kernel takes as one piece of at most the send buffer's size.
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let size = (2 * bytes.len()).max(1 << 18);
        // Without the capability the limit of the system holds, and the kernel refuses what exceeds it.
        sockopt::set_socket_send_buffer_size_force(&self.socket, size)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&self.socket, size))?;
        match self.socket.send(bytes, 0)? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn receive(&self) -> io::Result<Vec<Answer>> {
        loop {
            match self.socket.recv_from_full() {
                Ok((bytes, from)) if from.port_number() == 0 => return Ok(answers(&bytes).collect()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn configure(socket: &mut Socket) -> io::Result<()> {
    sockopt::set_socket_timeout(&*socket, sockopt::Timeout::Recv, Some(TIMEOUT))?;
    sockopt::set_socket_recv_buffer_size_force(&*socket, RECEIVE)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&*socket, RECEIVE))?;
    // Otherwise each error repeats the message that caused it.
    socket.set_cap_ack(true)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))
}

fn encode_batch(messages: &[Message], first: u32) -> Vec<u8> {
    // `nfgenmsg` with the subsystem as resource, big-endian.
    let generic = [0, 0, 0, SUBSYSTEM as u8];
    let mut bytes = Vec::new();
    encode(&mut bytes, BEGIN, 0, first, generic, &[]);
    for (message, sequence) in messages.iter().zip(first + 1..) {
        // Errors come unasked; one confirmation is enough to know that all answers are there.
        let flags = if sequence == first + messages.len() as u32 { ACK } else { 0 };
        message.encode(&mut bytes, flags, sequence);
    }
    encode(&mut bytes, END, 0, first + messages.len() as u32 + 1, generic, &[]);
    bytes
}

/// The error of a batch; `at` is 0 for the batch itself, and otherwise the number of the message from 1.
fn explain(messages: &[Message], at: usize, error: io::Error) -> NftError {
    let Some(message) = at.checked_sub(1).and_then(|at| messages.get(at)) else {
        return match is_unsupported(&error) {
            true => NftError::NoNfTables(error),
            false => refused("apply the batch", error),
        };
    };
    let lacks = is_unsupported(&error) || error.kind() == io::ErrorKind::NotFound;
    match message.kind {
        super::MessageKind::NewTable if is_unsupported(&error) => NftError::NoNfTables(error),
        super::MessageKind::NewRule if lacks && needs_conntrack(message) => {
            NftError::NoConntrack { operation: message.operation.clone(), source: error }
        }
        _ => refused(&message.operation, error),
    }
}

fn needs_conntrack(message: &Message) -> bool {
    message.body.as_bytes().windows(3).any(|bytes| bytes == b"ct\0")
}

fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| UNSUPPORTED.contains(&code))
}

fn refused(operation: &str, source: io::Error) -> NftError {
    NftError::Refused { operation: operation.to_owned(), source }
}

/// A netlink message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Its type: subsystem and kind, or a type of netlink itself.
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    /// What follows `nlmsghdr`.
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// How the request ended; `None` for a message that is part of the answer.
    fn result(&self) -> Option<io::Result<()>> {
        // A listing ends with its error too, if it has one.
        let code = match self.kind {
            ERROR | DONE => self.body.get(..4).and_then(|code| Some(i32::from_ne_bytes(code.try_into().ok()?))),
            _ => return None,
        };
        Some(match code.unwrap_or(0) {
            code if code < 0 => Err(io::Error::from_raw_os_error(-code)),
            _ => Ok(()),
        })
    }
}

/// The messages of a datagram. Ends at the first malformed one.
pub(super) fn answers(mut rest: &[u8]) -> impl Iterator<Item = Answer> {
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER)?;
        let word = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let half = |at: usize| Some(u16::from_ne_bytes(header.get(at..at + 2)?.try_into().ok()?));
        let length = word(0)? as usize;
        let body = rest.get(HEADER..length)?.to_vec();
        let answer = Answer { kind: half(4)?, flags: half(6)?, sequence: word(8)?, body };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(answer)
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Attributes, Compare, Load, MessageKind, compare, load};
    use super::*;

    fn rule(operation: &str, expression: &Attributes) -> Message {
        let body = Attributes::new().list(4, [expression]);
        Message { operation: operation.to_owned(), kind: MessageKind::NewRule, flags: 0, body }
    }

    #[test]
    fn a_batch_is_framed_and_its_last_message_is_confirmed() {
        let messages = [rule("a", &load(Load::Family, 0)), rule("b", &load(Load::Family, 0))];
        let found: Vec<_> = answers(&encode_batch(&messages, 7)).map(|m| (m.kind, m.sequence, m.flags)).collect();
        assert_eq!(found, [(BEGIN, 7, 1), (0xa06, 8, 1), (0xa06, 9, 5), (END, 10, 1)]);
    }

    #[test]
    fn an_error_names_the_message_that_caused_it() {
        let messages = [rule("a", &compare(Compare::Equal, &[1])), rule("b", &load(Load::ConnState, 0))];
        let missing = || io::Error::from_raw_os_error(2);
        assert!(matches!(explain(&messages, 1, missing()), NftError::Refused { operation, .. } if operation == "a"));
        assert!(
            matches!(explain(&messages, 2, missing()), NftError::NoConntrack { operation, .. } if operation == "b")
        );
        assert!(matches!(explain(&messages, 0, io::Error::from_raw_os_error(95)), NftError::NoNfTables(_)));
        assert!(explain(&messages, 1, missing()).is_absent());
    }

    #[test]
    fn sequence_numbers_start_again_before_they_overflow() {
        let mut socket = NftSocket { socket: Socket::new(0).unwrap(), sequence: u32::MAX - 3 };
        assert_eq!(socket.reserve(1), u32::MAX - 2);
        assert_eq!((socket.reserve(10), socket.reserve(1)), (1, 11));
    }
}
