//! The packet as the programs on interfaces read it: headers in the linear part of the socket buffer, and fields of the
//! context.
//!
//! Decides nothing. A read beyond the readable part gives `None`.

#![allow(unsafe_code)]

use agent_common::headers::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Header, Octet};
use agent_common::mark::{CHECKED, PacketMark};
use agent_common::parse::{self, Extensions, MAX_OFFSET, Options, Packet};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;

/// Bytes pulled when IPv6 extension headers follow.
const EXTENDED: u32 = 256;

/// The readable part of a packet.
pub(crate) struct Frame {
    skb: *mut __sk_buff,
    data: usize,
    end: usize,
    length: usize,
}

impl Frame {
    /// Makes the headers readable; false if the kernel could not. A packet from the transmit ring of a packet socket may
    /// have only 14 linear bytes, and is pulled. All others cost one comparison. Frames borrowed before are invalid.
    #[inline(always)]
    pub(crate) fn pull(ctx: &TcContext) -> bool {
        let frame = Self::linear(ctx);
        let wanted = frame.wanted().min(ctx.len());
        (frame.end - frame.data) as u32 >= wanted || ctx.skb.pull_data(wanted).is_ok()
    }

    /// Borrows the readable part.
    #[inline(always)]
    pub(crate) fn linear(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb, data: ctx.data(), end: ctx.data_end(), length: ctx.len() as usize }
    }

    /// Greatest number of bytes that the headers of this packet take.
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

/// Index of the interface to which the program is attached.
#[inline(always)]
pub(crate) fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is a valid `__sk_buff` for as long as the program runs.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Index of the interface by which the packet arrived at this node or namespace; 0 if the node sent it.
#[inline(always)]
pub(crate) fn ingress_ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).ingress_ifindex }
}

/// Whether the kernel holds a VLAN tag beside the frame.
#[inline(always)]
pub(crate) fn vlan_present(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}

/// Sets the mark on a packet, or removes it with 0. `to_pod` and the uplink guard read it.
#[inline(always)]
pub(crate) fn set_mark(ctx: &TcContext, bits: u32) {
    // SAFETY: the context is a valid `__sk_buff` for as long as the program runs, and programs may write this field.
    unsafe { (*ctx.skb.skb).tc_index = bits }
}

/// Whether the uplink guard has checked this packet on its way through an upper interface.
#[inline(always)]
pub(crate) fn is_checked(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).tc_index == u32::from(CHECKED as u16) }
}

/// The mark on a packet.
#[inline(always)]
pub(crate) fn mark(ctx: &TcContext) -> Option<PacketMark> {
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
        // less aligned than `H`. The verifier allows that for packet data since 4.14 wherever the CPU does.
        // `read_unaligned` would load byte by byte.
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

/// Hides from the compiler what it knows of a function's result. The verifier knows nothing of the result, and needs the
/// bounds checks that the compiler would otherwise leave out.
#[inline(always)]
fn unknown(bits: u64) -> u64 {
    // SAFETY: reads a local variable.
    unsafe { core::ptr::read_volatile(&raw const bits) }
}

/// The walks have loops with many exits. In a global function, the verifier follows each exit to the end of the function,
/// not to the end of the program (see [`crate::global_fns`]).
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
