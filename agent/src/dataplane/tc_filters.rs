//! The filters of an interface's clsact qdisc, in the order in which the kernel asks them.
//!
//! Reads and changes nothing. The kernel lists filters by priority, and filters of one priority in the order in which
//! they run. Numbers are those of `linux/rtnetlink.h`, `linux/pkt_sched.h` and `linux/pkt_cls.h`, in host byte order.

use std::fmt;
use std::io;
use std::time::Duration;

use aya::programs::TcAttachType;
use rtnetlink::packet_core::NetlinkBuffer;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::net::sockopt;

use super::nft::find;

/// How long the listing waits for the kernel.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Listings that other processes' changes may interrupt in a row.
const ATTEMPTS: usize = 8;
/// Lengths of `nlmsghdr` and `tcmsg`.
const HEADER: usize = 16;
const TC_HEADER: usize = 20;
/// Types of messages: `NLMSG_ERROR`, `NLMSG_DONE`, `RTM_NEWTFILTER`, `RTM_GETTFILTER`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_FILTER: u16 = 44;
const GET_FILTER: u16 = 46;
/// Flags of messages: a request for all objects; the listing changed while it was read.
const REQUEST_DUMP: u16 = 0x301;
const DUMP_INTERRUPTED: u16 = 0x10;
/// The hooks as parents of filters (`TC_H_CLSACT` with `TC_H_MIN_INGRESS` or `TC_H_MIN_EGRESS`).
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// Attributes of a filter, and of the options of a BPF filter.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const CHAIN: u16 = 11;
const BPF_NAME: u16 = 7;
const BPF_ID: u16 = 11;
/// A filter for every protocol (`ETH_P_ALL`).
const ALL_PROTOCOLS: u16 = 3;

/// One filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TcFilter {
    /// Its priority; the lowest number runs first.
    pub priority: u16,
    /// Its handle within the priority.
    pub handle: u32,
    /// The id of its program, if it is a BPF filter.
    pub program: Option<u32>,
    protocol: u16,
    kind: String,
    name: String,
}

impl TcFilter {
    /// Whether it is a BPF filter of this name.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.kind == "bpf" && self.name == name
    }

    /// Whether a BPF filter for every protocol may have the same priority, which has one kind and one protocol.
    pub(super) fn shares_priority(&self) -> bool {
        self.kind == "bpf" && self.protocol == ALL_PROTOCOLS
    }
}

impl fmt::Display for TcFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { priority, handle, kind, name, .. } = self;
        write!(f, "the {kind} filter {name:?} (priority {priority}, handle {handle:#x}")?;
        self.program.map_or(Ok(()), |id| write!(f, ", program {id}"))?;
        f.write_str(")")
    }
}

/// The filters of a hook in this thread's network namespace, the first to run first. None without a clsact qdisc.
///
/// # Errors
/// The kernel's answer; [`io::ErrorKind::WouldBlock`] if there is none in time.
pub(super) fn list(ifindex: u32, at: TcAttachType) -> io::Result<Vec<TcFilter>> {
    for _ in 1..ATTEMPTS {
        match list_once(ifindex, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
    list_once(ifindex, at)
}

fn list_once(ifindex: u32, at: TcAttachType) -> io::Result<Vec<TcFilter>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(TIMEOUT))?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(ifindex, at), 0)?;
    let mut found = Vec::new();
    loop {
        let (bytes, from) = socket.recv_from_full()?;
        if from.port_number() == 0 && read(&bytes, ifindex, &mut found)? {
            return Ok(found);
        }
    }
}

fn request(ifindex: u32, at: TcAttachType) -> Vec<u8> {
    let parent = if at == TcAttachType::Ingress { INGRESS } else { EGRESS };
    let mut bytes = Vec::with_capacity(HEADER + TC_HEADER);
    bytes.extend(((HEADER + TC_HEADER) as u32).to_ne_bytes());
    bytes.extend(GET_FILTER.to_ne_bytes());
    bytes.extend(REQUEST_DUMP.to_ne_bytes());
    // Sequence number and port, then `tcmsg`: family, index, handle, parent, info.
    bytes.extend([0; 8]);
    for word in [0, ifindex, 0, parent, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

/// Adds the filters of one datagram. Returns whether the listing is complete.
fn read(mut bytes: &[u8], ifindex: u32, found: &mut Vec<TcFilter>) -> io::Result<bool> {
    while !bytes.is_empty() {
        let malformed = |_| io::Error::from(io::ErrorKind::InvalidData);
        let message = NetlinkBuffer::new_checked(bytes).map_err(malformed)?;
        if message.flags() & DUMP_INTERRUPTED != 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let body = message.payload();
        match message.message_type() {
            ERROR | DONE => return end(body).map(|()| true),
            NEW_FILTER => found.extend(filter(body, ifindex)),
            _ => {}
        }
        bytes = bytes.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// How the listing ended, by the code of its last message.
fn end(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code)) {
        code if code < 0 => Err(io::Error::from_raw_os_error(-code)),
        _ => Ok(()),
    }
}

/// A filter of the first chain, which alone is asked without another filter's command. Neither is the head of a
/// priority a filter, which has no handle.
fn filter(body: &[u8], ifindex: u32) -> Option<TcFilter> {
    let word = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let attributes = body.get(TC_HEADER..)?;
    let number = |found: &[u8]| Some(u32::from_ne_bytes(found.try_into().ok()?));
    let (index, handle, info) = (word(4)?, word(8)?, word(16)?);
    if index != ifindex || handle == 0 || find(attributes, CHAIN).and_then(number).unwrap_or(0) != 0 {
        return None;
    }
    let text = |found: &[u8]| String::from_utf8_lossy(found.strip_suffix(&[0]).unwrap_or(found)).into_owned();
    let kind = find(attributes, KIND).map(text).unwrap_or_default();
    let options = find(attributes, OPTIONS).filter(|_| kind == "bpf").unwrap_or_default();
    Some(TcFilter {
        priority: (info >> 16) as u16,
        protocol: u16::from_be(info as u16),
        handle,
        program: find(options, BPF_ID).and_then(number),
        name: find(options, BPF_NAME).map(text).unwrap_or_default(),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::super::nft::Attributes;
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes
    }

    fn body(handle: u32, chain: u32, name: &str) -> Vec<u8> {
        let options = Attributes::new().text(BPF_NAME, name).bytes(BPF_ID, &42_u32.to_ne_bytes());
        let attributes = Attributes::new().text(KIND, "bpf").bytes(CHAIN, &chain.to_ne_bytes()).nest(OPTIONS, &options);
        let words = [0, 7, handle, INGRESS, 1 << 16 | u32::from(ALL_PROTOCOLS.to_be())];
        let header = words.into_iter().flat_map(u32::to_ne_bytes);
        header.chain(attributes.as_bytes().iter().copied()).collect()
    }

    #[test]
    fn filters_of_the_first_chain_are_listed_in_order() {
        let bodies = [body(0, 0, "head"), body(9, 0, "other"), body(1, 3, "later"), body(2, 0, "from_pod")];
        let mut bytes: Vec<u8> = bodies.iter().flat_map(|body| message(NEW_FILTER, 2, body)).collect();
        let mut found = Vec::new();
        assert!(!read(&bytes, 7, &mut found).expect("well-formed"), "more may follow");
        bytes.extend(message(DONE, 2, &[0; 4]));
        found.clear();
        assert!(read(&bytes, 7, &mut found).expect("well-formed"));
        let names: Vec<_> = found.iter().map(|filter| (filter.name.as_str(), filter.handle, filter.program)).collect();
        assert_eq!(names, [("other", 9, Some(42)), ("from_pod", 2, Some(42))]);
        assert!(found.iter().all(|filter| filter.priority == 1 && filter.shares_priority()));
        assert!(found[1].is_named("from_pod") && !found[1].is_named("from"));
        found.clear();
        assert!(read(&bytes, 8, &mut found).expect("well-formed") && found.is_empty(), "another interface");
    }

    #[test]
    fn a_listing_that_changed_or_failed_is_an_error() {
        let fails = |bytes: &[u8]| read(bytes, 7, &mut Vec::new()).expect_err("it is no listing");
        let torn = message(NEW_FILTER, DUMP_INTERRUPTED, &body(1, 0, "from_pod"));
        assert_eq!(fails(&torn).kind(), io::ErrorKind::Interrupted);
        assert_eq!(fails(&message(ERROR, 0, &(-19_i32).to_ne_bytes())).raw_os_error(), Some(19));
        assert_eq!(fails(&torn[..20]).kind(), io::ErrorKind::InvalidData);
    }
}
