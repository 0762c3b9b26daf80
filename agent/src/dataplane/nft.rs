//! Messages of nf_tables, and the expressions of its rules.
//!
//! Encodes and decodes bytes only; [`socket`] sends them and [`watch`] receives notifications. Does not know what the
//! rules are for. Numbers are those of `linux/netfilter/nf_tables.h`; integers of attributes are big-endian, and
//! integers of netlink headers are in host byte order.

use std::io;

use thiserror::Error;

pub use attributes::{Attributes, attributes, covers, find, list_covers};

mod attributes;
pub mod socket;
pub mod watch;

/// Family of tables that see IPv4 and IPv6 (`NFPROTO_INET`).
pub const INET: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`, the upper byte of the type of each message.
pub(crate) const SUBSYSTEM: u16 = 10;
/// Length of `nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Length of `nfgenmsg`.
pub(crate) const GENERIC: usize = 4;

/// What failed while talking to nf_tables, and the kernel's answer.
#[derive(Debug, Error)]
pub enum NftError {
    /// The socket could not be opened or configured.
    #[error("cannot open a netlink socket for nftables")]
    Socket(#[source] io::Error),
    /// Neither a built-in nf_tables nor its module answers.
    #[error("the kernel has no nf_tables for the family inet; load the module nf_tables or set CONFIG_NF_TABLES_INET")]
    NoNfTables(#[source] io::Error),
    /// The expression `ct` or connection tracking itself is missing.
    #[error("the kernel cannot {operation}: it has no conntrack expression; load the module nft_ct")]
    NoConntrack {
        /// What was asked of the kernel.
        operation: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused an operation, or did not answer in time ([`io::ErrorKind::WouldBlock`]).
    #[error("nftables: cannot {operation}")]
    Refused {
        /// What was asked of the kernel.
        operation: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl NftError {
    /// Whether the kernel said that the object does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether others changed a listing while it was read.
    pub fn is_interrupted(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.kind() == io::ErrorKind::Interrupted)
    }
}

/// Kinds of messages (`nf_tables_msg_types`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageKind {
    /// Adds a table.
    NewTable = 0,
    /// Reads a table.
    GetTable = 1,
    /// Deletes a table with all that is in it.
    DelTable = 2,
    /// Adds a chain.
    NewChain = 3,
    /// Reads a chain.
    GetChain = 4,
    /// Adds a rule.
    NewRule = 6,
    /// Reads rules.
    GetRule = 7,
    /// Adds a set.
    NewSet = 9,
    /// Reads a set without its elements.
    GetSet = 10,
    /// Adds elements to a set.
    NewSetElem = 12,
    /// Reads elements of a set.
    GetSetElem = 13,
    /// Deletes elements of a set.
    DelSetElem = 14,
    /// Adds a named object, such as a counter.
    NewObj = 18,
    /// Reads a named object.
    GetObj = 19,
}

/// One request about the family [`INET`].
#[derive(Clone, Debug)]
pub struct Message {
    /// What it does, for errors: a verb and an object, such as `add table bulkhead`.
    pub operation: String,
    /// What the kernel should do.
    pub kind: MessageKind,
    /// Flags of netlink besides `NLM_F_REQUEST`, host byte order.
    pub flags: u16,
    /// Attributes of the object.
    pub body: Attributes,
}

/// Flag of [`Message`]: the object is created if it is absent (`NLM_F_CREATE`).
pub const CREATE: u16 = 0x400;
/// Flag of [`Message`]: a rule goes behind those of its chain (`NLM_F_APPEND`).
pub const APPEND: u16 = 0x800;
/// Flag of [`Message`]: all objects are wanted (`NLM_F_DUMP`).
pub const DUMP: u16 = 0x300;

impl Message {
    /// Appends its encoding to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, flags: u16, sequence: u32) {
        let kind = SUBSYSTEM << 8 | self.kind as u16;
        encode(out, kind, self.flags | flags, sequence, [INET, 0, 0, 0], self.body.as_bytes());
    }
}

/// Appends a netlink message with a netfilter header (`nfgenmsg`) to `out`.
pub(crate) fn encode(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, generic: [u8; GENERIC], body: &[u8]) {
    const REQUEST: u16 = 1;
    let length = u32::try_from(HEADER + GENERIC + body.len()).expect("a message is smaller than 4 GiB");
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((flags | REQUEST).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend(generic);
    out.extend(body);
}

/// Where a value of a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// `meta iif`: the index of the receiving interface, host byte order.
    InputInterface,
    /// `meta nfproto`: 2 is IPv4 and 10 is IPv6.
    Family,
    /// `meta l4proto`: the transport protocol, behind extension headers.
    Protocol,
    /// `ct state`: bits, host byte order.
    ConnState,
    /// `ct direction`: 0 is original and 1 is reply.
    ConnDirection,
    /// Bytes of the network header, as offset and length.
    Network(u32, u32),
    /// Bytes of the transport header, as offset and length.
    Transport(u32, u32),
}

/// How a register is compared with a constant (`nft_cmp_ops`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The register has the same bytes.
    Equal = 0,
    /// The register has other bytes.
    NotEqual = 1,
    /// The register is not greater, in the order of bytes.
    AtMost = 3,
    /// The register is not smaller, in the order of bytes.
    AtLeast = 5,
}

/// What happens to the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NftVerdict {
    /// The next chain of the hook decides, or the packet is delivered.
    Accept,
    /// The packet ends here.
    Drop,
    /// The named chain of the same table decides, without return.
    Goto(&'static str),
}

/// The number by which the kernel names the register that begins at a word of four bytes. It returns the old name of
/// 16 bytes where there is one, so we use that too and can compare.
fn register(word: u32) -> u32 {
    if word.is_multiple_of(4) { 1 + word / 4 } else { 8 + word }
}

fn expression(name: &str, data: Attributes) -> Attributes {
    Attributes::new().text(1, name).nest(2, &data)
}

/// The expression that loads a value to the register that begins at `word`.
pub fn load(from: Load, word: u32) -> Attributes {
    let to = Attributes::new().number(1, register(word));
    let payload = |base, (offset, length)| to.clone().number(2, base).number(3, offset).number(4, length);
    match from {
        Load::InputInterface => expression("meta", to.number(2, 4)),
        Load::Family => expression("meta", to.number(2, 15)),
        Load::Protocol => expression("meta", to.number(2, 16)),
        Load::ConnState => expression("ct", to.number(2, 0)),
        Load::ConnDirection => expression("ct", to.number(2, 1)),
        Load::Network(offset, length) => expression("payload", payload(1, (offset, length))),
        Load::Transport(offset, length) => expression("payload", payload(2, (offset, length))),
    }
}

/// The expression that ends the rule unless the first register compares so with `value`.
pub fn compare(how: Compare, value: &[u8]) -> Attributes {
    let data = Attributes::new().bytes(1, value);
    expression("cmp", Attributes::new().number(1, register(0)).number(2, how as u32).nest(3, &data))
}

/// The expression that keeps the bits of `mask` of the first register, host byte order.
pub fn mask(mask: u32) -> Attributes {
    let value = |bits: u32| Attributes::new().bytes(1, &bits.to_ne_bytes());
    let registers = Attributes::new().number(1, register(0)).number(2, register(0)).number(3, 4);
    expression("bitwise", registers.nest(4, &value(mask)).nest(5, &value(0)))
}

/// The expression that ends the rule unless the set contains the registers from the first on.
pub fn lookup(set: &str) -> Attributes {
    expression("lookup", Attributes::new().text(1, set).number(2, register(0)).number(5, 0))
}

/// The expression that counts the packet in a named counter.
pub fn count(counter: &str) -> Attributes {
    expression("objref", Attributes::new().number(1, COUNTER).text(2, counter))
}

/// `NFT_OBJECT_COUNTER`.
pub const COUNTER: u32 = 1;

/// The expression that gives the packet its verdict.
pub fn verdict(verdict: NftVerdict) -> Attributes {
    let code = |code: i32| Attributes::new().number(1, code.cast_unsigned());
    let inner = match verdict {
        NftVerdict::Drop => code(0),
        NftVerdict::Accept => code(1),
        NftVerdict::Goto(chain) => code(-4).text(2, chain),
    };
    let data = Attributes::new().nest(2, &inner);
    expression("immediate", Attributes::new().number(1, 0).nest(2, &data))
}

#[cfg(test)]
mod tests;
