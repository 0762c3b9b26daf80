//! The parser of the slow path: from headers to a [`Flow`], or to the reason of a denial.
//!
//! Knows no policy. It is generic over [`Packet`]: the kernel reads the socket buffer, tests and fuzzers a slice. Loops
//! are bounded by constants, so that every verifier since 5.10 accepts them. No packet passes that was not parsed.

use crate::addr::{V4, V6};
use crate::flow::{Flow, Kind};
use crate::headers::{
    DESTINATION_OPTIONS, ETHERNET_LEN, Extension, FRAGMENT, HOP_BY_HOP, Header, ICMP, ICMPV6, Ipv4, Ipv6, Octet,
    ROUTING, SCTP, TCP, Tcp, Transport, UDP,
};
use crate::reason::DropReason;

/// A frame that can be read.
pub trait Packet {
    /// Bytes on the wire. More than can be read, if only the headers are readable.
    fn length(&self) -> usize;
    /// The header at `offset`, or `None` past the end.
    fn read<H: Header>(&self, offset: usize) -> Option<H>;

    /// See [`options`]. The kernel overrides it with a global function, which the verifier checks once.
    fn options(&self, header_len: usize) -> Options {
        options(self, header_len)
    }

    /// See [`extensions`].
    fn extensions(&self, first: u8) -> Extensions {
        extensions(self, first)
    }
}

/// Greatest offset at which a header is read. It is a mask, so that verifiers see the bound.
pub const MAX_OFFSET: usize = 0x3ff;
/// Greatest number of extension headers that are followed.
pub const MAX_EXTENSION_HEADERS: usize = 8;
/// Kernels since 6.3 (IPv4) and 5.19 (IPv6) build larger packets with a zero length ("BIG TCP").
const BIG_PACKET: usize = 65_535;

type Parsed<A> = Result<Flow<A>, DropReason>;

/// Reads an IPv4 packet behind an Ethernet header (RFC 791).
#[inline(always)]
pub fn ipv4<P: Packet + ?Sized>(packet: &P) -> Parsed<V4> {
    let ip: Ipv4 = packet.read(ETHERNET_LEN).ok_or(DropReason::Malformed)?;
    let header_len = usize::from(ip.version_ihl & 0x0f) * 4;
    let frame_payload = packet.length().saturating_sub(ETHERNET_LEN);
    let total = match u16::from_be(ip.total_length_be) {
        0 if frame_payload > BIG_PACKET => frame_payload,
        total => usize::from(total),
    };
    if ip.version_ihl >> 4 != 4 || header_len < 20 || total < header_len || total > frame_payload {
        return Err(DropReason::Malformed);
    }
    let mut sum = header_sum(&ip);
    if header_len > 20 {
        let options = packet.options(header_len);
        if let Some(reason) = options.refused() {
            return Err(reason);
        }
        sum += options.sum();
    }
    if add_carries(sum) != 0xffff {
        return Err(DropReason::Malformed);
    }
    let fragment = u16::from_be(ip.fragment_be);
    let mut flow = Flow::unread(V4(ip.source), V4(ip.destination), ip.protocol);
    if fragment & 0x1fff == 0 {
        let more = fragment & 0x2000 != 0;
        transport(packet, &mut flow, ETHERNET_LEN + header_len, total - header_len, more)?;
    }
    Ok(flow)
}

/// Reads an IPv6 packet behind an Ethernet header (RFC 8200), following extension headers.
#[inline(always)]
pub fn ipv6<P: Packet + ?Sized>(packet: &P) -> Parsed<V6> {
    let ip: Ipv6 = packet.read(ETHERNET_LEN).ok_or(DropReason::Malformed)?;
    let frame_payload = packet.length().saturating_sub(ETHERNET_LEN + 40);
    let payload = match u16::from_be(ip.payload_length_be) {
        0 if frame_payload > BIG_PACKET => frame_payload,
        payload => usize::from(payload),
    };
    if ip.version_class >> 4 != 6 || payload > frame_payload || payload == 0 {
        return Err(DropReason::Malformed);
    }
    let end = ETHERNET_LEN + 40 + payload;
    let mut flow = Flow::unread(words(ip.source), words(ip.destination), ip.next_header);
    // Most packets carry their transport at once; offsets stay constants there.
    if !is_extension(flow.protocol) {
        transport(packet, &mut flow, ETHERNET_LEN + 40, payload, false)?;
        return Ok(flow);
    }
    let chain = packet.extensions(flow.protocol);
    if let Some(reason) = chain.refused() {
        return Err(reason);
    }
    flow.protocol = chain.protocol();
    if chain.is_later_fragment() {
        return Ok(flow);
    }
    let offset = chain.offset();
    if offset > end {
        return Err(DropReason::Malformed);
    }
    transport(packet, &mut flow, offset, end - offset, chain.more_fragments())?;
    Ok(flow)
}

/// The result of a walk along IPv6 extension headers, in one register. The reason is in the low byte (0 for none), then
/// protocol and fragment bits. The offset of the transport header is in the high half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extensions(u64);

impl Extensions {
    const MORE: u64 = 1 << 16;
    const LATER: u64 = 1 << 17;

    const fn refuse(reason: DropReason) -> Self {
        Self(reason.number() as u64)
    }

    const fn found(protocol: u8, fragment: u64, offset: usize) -> Self {
        Self((protocol as u64) << 8 | fragment | (offset as u64) << 32)
    }

    /// As a register.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From a register.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    const fn refused(self) -> Option<DropReason> {
        DropReason::from_number(self.0 as u8)
    }

    const fn protocol(self) -> u8 {
        (self.0 >> 8) as u8
    }

    const fn is_later_fragment(self) -> bool {
        self.0 & Self::LATER != 0
    }

    const fn more_fragments(self) -> bool {
        self.0 & Self::MORE != 0
    }

    const fn offset(self) -> usize {
        (self.0 >> 32) as usize & MAX_OFFSET
    }
}

/// Follows the extension headers behind an IPv6 header, the first being of kind `first`.
#[inline(always)]
pub fn extensions<P: Packet + ?Sized>(packet: &P, first: u8) -> Extensions {
    let mut kind = first;
    let mut offset = ETHERNET_LEN + 40;
    let mut fragment = 0;
    let mut fragmented = false;
    let mut step = 0;
    while step < MAX_EXTENSION_HEADERS {
        step += 1;
        let Some(header) = packet.read::<Extension>(offset) else { return Extensions::refuse(DropReason::Malformed) };
        let mut size = 8;
        if kind == FRAGMENT {
            // One fragment header is all that a sender ever writes (RFC 8200, 4.5).
            if fragmented {
                return Extensions::refuse(DropReason::Malformed);
            }
            fragmented = true;
            let word = u16::from_be(header.word_be);
            if word >> 3 != 0 {
                return Extensions::found(header.next_header, Extensions::LATER, 0);
            }
            if word & 1 != 0 {
                fragment = Extensions::MORE;
            }
        } else {
            if kind == ROUTING && u16::from_be(header.word_be) & 0xff != 0 {
                return Extensions::refuse(DropReason::RoutingHeader);
            }
            // Hop-by-hop options come first or not at all (RFC 8200, 4.1).
            if kind == HOP_BY_HOP && step > 1 {
                return Extensions::refuse(DropReason::Malformed);
            }
            size += usize::from(header.length) * 8;
        }
        offset += size;
        if offset > MAX_OFFSET {
            return Extensions::refuse(DropReason::ExtensionHeader);
        }
        kind = header.next_header;
        if !is_extension(kind) {
            return Extensions::found(kind, fragment, offset);
        }
    }
    Extensions::refuse(DropReason::ExtensionHeader)
}

#[inline(always)]
pub(crate) const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// Fills ports or ICMP type from the transport header at `offset`, with `available` bytes. A first fragment must hold the
/// whole header, since a later one could change it (RFC 1858, RFC 7112).
#[inline(always)]
fn transport<P: Packet + ?Sized, A>(
    packet: &P,
    flow: &mut Flow<A>,
    offset: usize,
    available: usize,
    more: bool,
) -> Result<(), DropReason> {
    flow.transport = offset as u16;
    let short = if more { DropReason::Fragment } else { DropReason::Malformed };
    match flow.protocol {
        TCP => {
            let tcp: Tcp = if available >= 20 {
                packet.read(offset).ok_or(short)?
            } else {
                return Err(short);
            };
            let header_len = usize::from(tcp.offset >> 4) * 4;
            if header_len < 20 || header_len > available {
                return Err(short);
            }
            flow.tcp_flags = tcp.flags;
            set_ports(flow, tcp.source_be, tcp.destination_be);
        }
        UDP | SCTP => {
            let header: Transport = if available >= 8 {
                packet.read(offset).ok_or(short)?
            } else {
                return Err(short);
            };
            let length = usize::from(u16::from_be(header.third_be));
            // The UDP length of a fragment is that of the whole datagram.
            if flow.protocol == UDP && (length < 8 || (length > available && !more)) {
                return Err(DropReason::Malformed);
            }
            set_ports(flow, header.first_be, header.second_be);
        }
        ICMP | ICMPV6 => {
            let header: Transport = if available >= 8 {
                packet.read(offset).ok_or(short)?
            } else {
                return Err(short);
            };
            set_icmp(flow, &header);
        }
        _ => flow.kind = Kind::Portless,
    }
    Ok(())
}

/// Reads the packet that an ICMP error quotes at `offset`: addresses, and the first 8 bytes of the transport header
/// (RFC 792). Quotes with options or extension headers are not read.
#[inline(always)]
pub fn quoted_v4<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Flow<V4>> {
    let ip: Ipv4 = packet.read(offset)?;
    let readable = ip.version_ihl == 0x45 && u16::from_be(ip.fragment_be) & 0x1fff == 0;
    let flow = quoted(packet, V4(ip.source), V4(ip.destination), ip.protocol, offset + 20)?;
    readable.then_some(flow)
}

/// Reads the packet that an ICMPv6 error quotes, as for IPv4 (RFC 4443, 3).
#[inline(always)]
pub fn quoted_v6<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Flow<V6>> {
    let ip: Ipv6 = packet.read(offset)?;
    let flow = quoted(packet, words(ip.source), words(ip.destination), ip.next_header, offset + 40)?;
    (ip.version_class >> 4 == 6).then_some(flow)
}

#[inline(always)]
fn quoted<P: Packet + ?Sized, A>(
    packet: &P,
    source: A,
    destination: A,
    protocol: u8,
    offset: usize,
) -> Option<Flow<A>> {
    let header: Transport = packet.read(offset)?;
    let mut flow = Flow::unread(source, destination, protocol);
    match protocol {
        TCP | UDP | SCTP => set_ports(&mut flow, header.first_be, header.second_be),
        ICMP | ICMPV6 => set_icmp(&mut flow, &header),
        _ => flow.kind = Kind::Portless,
    }
    Some(flow)
}

#[inline(always)]
fn set_ports<A>(flow: &mut Flow<A>, source_be: u16, destination_be: u16) {
    flow.kind = Kind::Ports;
    flow.source_port = u16::from_be(source_be);
    flow.destination_port = u16::from_be(destination_be);
}

#[inline(always)]
fn set_icmp<A>(flow: &mut Flow<A>, header: &Transport) {
    flow.kind = Kind::Icmp;
    [flow.icmp_type, flow.icmp_code] = header.first_be.to_ne_bytes();
    let id = u16::from_be(header.third_be);
    flow.source_port = id;
    flow.destination_port = id;
}

#[inline(always)]
pub(crate) fn words(w: [u32; 4]) -> V6 {
    V6 { hi: join(w[0], w[1]), lo: join(w[2], w[3]) }
}

/// Two wire-order words as one.
#[inline(always)]
fn join(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") {
        u64::from(first) | u64::from(second) << 32
    } else {
        u64::from(first) << 32 | u64::from(second)
    }
}

/// Sum of the header's ten 16-bit words in wire order, before the carries are added. The Internet checksum does not depend
/// on byte order (RFC 1071, 2.B).
#[inline(always)]
fn header_sum(ip: &Ipv4) -> u64 {
    let pair = |high: u16, low: u16| u64::from(high) + u64::from(low);
    pair(u16::from_ne_bytes([ip.version_ihl, ip.tos]), ip.total_length_be)
        + pair(ip.id_be, ip.fragment_be)
        + pair(u16::from_ne_bytes([ip.ttl, ip.protocol]), ip.checksum_be)
        + u64::from(ip.source)
        + u64::from(ip.destination)
}

#[inline(always)]
fn add_carries(sum: u64) -> u64 {
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

/// The result of a walk along IPv4 options, in one register. The reason is in the low byte (0 for none), and the sum of
/// the words above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options(u64);

impl Options {
    const fn refuse(reason: DropReason) -> Self {
        Self(reason.number() as u64)
    }

    /// As a register.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From a register.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    const fn refused(self) -> Option<DropReason> {
        DropReason::from_number(self.0 as u8)
    }

    const fn sum(self) -> u64 {
        self.0 >> 8
    }
}

/// Sums the option words and walks the options. A source route is refused, since the packet goes to another destination
/// first.
#[inline(always)]
pub fn options<P: Packet + ?Sized>(packet: &P, header_len: usize) -> Options {
    const START: usize = ETHERNET_LEN + 20;
    const MALFORMED: Options = Options::refuse(DropReason::Malformed);
    let mut sum = 0;
    let mut skip = 0_usize;
    let mut at = 0;
    while at < 40 && 20 + at < header_len {
        let Some(octet) = packet.read::<Octet>(START + at) else { return MALFORMED };
        // The checksum adds 16-bit words in wire order; which byte is first depends on the CPU.
        let first = cfg!(target_endian = "little") == (at & 1 == 0);
        sum += if first { u64::from(octet.value) } else { u64::from(octet.value) << 8 };
        if skip == 0 {
            match octet.value {
                // The end of the options: the rest is padding. 64 is longer than any header.
                0 => skip = 64,
                1 => skip = 1,
                131 | 137 => return Options::refuse(DropReason::SourceRoute),
                _ => {
                    let Some(length) = packet.read::<Octet>(START + at + 1) else { return MALFORMED };
                    skip = usize::from(length.value);
                    if skip < 2 || 20 + at + skip > header_len {
                        return MALFORMED;
                    }
                }
            }
        }
        skip = skip.saturating_sub(1);
        at += 1;
    }
    Options(sum << 8)
}

/// A frame in memory, for tests, fuzzers and `explain`.
impl Packet for [u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn read<H: Header>(&self, offset: usize) -> Option<H> {
        H::read_from_prefix(self.get(offset..)?).ok().map(|(header, _)| header)
    }
}
