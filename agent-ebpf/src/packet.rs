//! The only packet access: headers read directly from the linear part of the socket buffer.

#![allow(unsafe_code)]

use agent_common::headers::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Header, Octet};
use agent_common::parse::{self, Extensions, MAX_OFFSET, Options, Packet};
use agent_common::post_nat::PacketMark;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;

/// Bytes pulled when IPv6 extension headers follow: as many as the parser will ever look at.
const EXTENDED: u32 = 256;

/// The readable part of a packet.
pub struct Frame {
    skb: *mut __sk_buff,
    data: usize,
    end: usize,
    length: usize,
}

impl Frame {
    /// Makes the headers readable, whatever was borrowed of them before. Packets of user space may
    /// have as few as 14 linear bytes (a packet socket's transmit ring); those are pulled, the others
    /// cost a comparison. False: the kernel could not.
    #[inline(always)]
    pub fn pull(ctx: &TcContext) -> bool {
        let frame = Self::linear(ctx);
        let wanted = frame.wanted().min(ctx.len());
        (frame.end - frame.data) as u32 >= wanted || ctx.skb.pull_data(wanted).is_ok()
    }

    /// Borrows what is readable now.
    #[inline(always)]
    pub fn linear(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb, data: ctx.data(), end: ctx.data_end(), length: ctx.len() as usize }
    }

    /// Bytes that the headers of this packet take at most.
    #[inline(always)]
    fn wanted(&self) -> u32 {
        let Some(ethernet) = self.read::<Ethernet>(0) else { return EXTENDED };
        match u16::from_be(ethernet.ethertype_be) {
            ETHERTYPE_IPV4 => {
                let octet = self.read::<Octet>(ETHERNET_LEN);
                let header = octet.map_or(15, |octet| u32::from(octet.value & 0x0f));
                ETHERNET_LEN as u32 + header * 4 + 20
            }
            ETHERTYPE_IPV6 => match self.read::<Octet>(ETHERNET_LEN + 6).map(|octet| octet.value) {
                Some(6) => ETHERNET_LEN as u32 + 60,
                Some(17) => ETHERNET_LEN as u32 + 48,
                _ => EXTENDED,
            },
            _ => 60,
        }
    }
}

/// Leaves a note on a packet, for the guard on the node's way out and for `to_pod`, or takes it off.
#[inline(always)]
pub fn set_mark(ctx: &TcContext, mark: Option<PacketMark>) {
    // SAFETY: the context is a valid `__sk_buff` for as long as the program runs, and this field one of
    // those that programs may write.
    unsafe { (*ctx.skb.skb).tc_index = mark.map_or(0, PacketMark::bits) }
}

/// What is noted on a packet.
#[inline(always)]
pub fn mark(ctx: &TcContext) -> Option<PacketMark> {
    // SAFETY: as above.
    PacketMark::from_bits(unsafe { (*ctx.skb.skb).tc_index })
}

impl Packet for Frame {
    #[inline(always)]
    fn length(&self) -> usize {
        self.length
    }

    #[inline(always)]
    fn read<H: Header>(&self, offset: usize) -> Option<H> {
        if offset > MAX_OFFSET {
            return None;
        }
        let start = self.data + offset;
        if start + size_of::<H>() > self.end {
            return None;
        }
        // SAFETY: `start..start + size_of::<H>()` lies inside the packet (checked above, and again
        // by the verifier); `Header` promises that any bytes are a valid value. The pointer may be
        // less aligned than `H`: the verifier allows that for packet data since 4.14 wherever the
        // CPU does, and `read_unaligned` would load byte by byte.
        Some(unsafe { core::ptr::read(start as *const H) })
    }

    #[inline(always)]
    fn options(&self, header_len: usize) -> Options {
        Options::from_bits(unknown(walk_options(self.skb, header_len as u32)))
    }

    #[inline(always)]
    fn extensions(&self, first: u8) -> Extensions {
        Extensions::from_bits(unknown(walk_extensions(self.skb, first)))
    }
}

/// Hides from the compiler what it knows of a function's result: the verifier knows nothing of it,
/// and needs the bounds checks that the compiler would leave out.
#[inline(always)]
fn unknown(bits: u64) -> u64 {
    // SAFETY: reads a local variable.
    unsafe { core::ptr::read_volatile(&raw const bits) }
}

/// The walks have loops with many exits. As functions of their own the verifier follows each exit
/// to the end of the function, not to the end of the program (see `global_fns`).
// SAFETY: the name is taken by nothing else in the object.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_options(skb: *mut __sk_buff, header_len: u32) -> u64 {
    parse::options(&Frame::linear(&TcContext::new(skb)), (header_len & 0x3f) as usize).bits()
}

// SAFETY: as above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_extensions(skb: *mut __sk_buff, first: u8) -> u64 {
    parse::extensions(&Frame::linear(&TcContext::new(skb)), first).bits()
}
