//! Frames and datagrams that ordinary sockets do not send: arbitrary bytes, non-linear frames, segmented datagrams.
//!
//! This is the crate's only module with `unsafe` for sockets: these socket options have no safe wrapper.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use anyhow::{Context, Result, ensure};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, send, socket_with};

use crate::netns::Netns;

/// Slots of a transmit ring, and bytes of each.
const SLOTS: usize = 64;
const SLOT: usize = 2048;
/// The offset of the frame in a slot: behind `tpacket2_hdr` (packet_mmap.rst).
const FRAME_AT: usize = size_of::<libc::tpacket2_hdr>();

/// The address of an interface for a packet socket.
struct LinkAddress(libc::sockaddr_ll);

// SAFETY: the closure gets a pointer to a whole `sockaddr_ll`, alive for the call, and its size.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f(ptr::from_ref(&self.0).cast(), size_of::<libc::sockaddr_ll>() as SocketAddrLen)
    }
}

/// Sends frames out of an interface of a namespace, one system call each.
pub fn send_frames(netns: &Netns, interface: &str, frames: &[Vec<u8>]) -> Result<()> {
    netns.run(|| {
        let socket = open(interface)?;
        for frame in frames {
            send(&socket, frame, SendFlags::empty()).with_context(|| format!("cannot send {} bytes", frame.len()))?;
        }
        Ok(())
    })
}

/// Sends frames through a transmit ring. The kernel copies only the 14 bytes of the Ethernet header into linear memory,
/// so a program has to pull the rest.
pub fn send_through_ring(netns: &Netns, interface: &str, frames: &[Vec<u8>]) -> Result<()> {
    netns.run(|| {
        let ring = Ring::new(open(interface)?)?;
        for train in frames.chunks(SLOTS) {
            ring.send(train)?;
        }
        Ok(())
    })
}

/// Sends a frame whose checksum the kernel completes (`PACKET_VNET_HDR`): the sum covers the bytes from `start` on and
/// is written `offset` bytes behind `start`. Drivers of virtual machines do this. An attacker can have two bytes
/// overwritten this way after every program has seen the frame.
pub fn send_unfinished(netns: &Netns, interface: &str, frame: &[u8], start: u16, offset: u16) -> Result<()> {
    /// `VIRTIO_NET_HDR_F_NEEDS_CSUM` (virtio 1.2, 5.1.6).
    const NEEDS_CSUM: u8 = 1;
    netns.run(|| {
        let socket = open(interface)?;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1_i32)?;
        let words = [0, 0, start, offset].map(u16::to_ne_bytes).concat();
        let bytes = [&[NEEDS_CSUM, 0], &words[..], frame].concat();
        send(&socket, &bytes, SendFlags::empty()).with_context(|| format!("cannot send {} bytes", bytes.len()))?;
        Ok(())
    })
}

/// Makes the kernel of a namespace complete the checksums of frames that leave by an interface, as if its hardware
/// could not.
pub fn finish_checksums(netns: &Netns, interface: &str) -> Result<()> {
    /// `ETHTOOL_STXCSUM` and its value: off.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    netns.run(|| {
        let socket = open(interface)?;
        let mut value = Value { command: 0x17, data: 0 };
        // SAFETY: the struct has only integers and pointers, for which zero is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request names the interface and points to a value that lives until the call returns.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        ensure!(result == 0, "cannot switch off {interface}'s checksums: {}", io::Error::last_os_error());
        Ok(())
    })
}

/// Lets a socket send many datagrams of `segment` bytes in one call. The kernel splits them as late as possible (UDP
/// generic segmentation offload, since 4.18).
pub fn segment_datagrams(socket: &UdpSocket, segment: u16) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, &i32::from(segment))
}

/// Sets the mark of the packets that a socket sends.
pub fn mark(socket: &UdpSocket, mark: u32) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, &mark)
}

/// A packet socket that sends out of an interface and receives nothing.
fn open(interface: &str) -> Result<OwnedFd> {
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let index = name_to_index(&socket, interface).with_context(|| format!("no interface {interface}"))?;
    let address = LinkAddress(libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(index)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    });
    bind(&socket, &address)?;
    Ok(socket)
}

/// A transmit ring.
struct Ring {
    socket: OwnedFd,
    memory: *mut u8,
}

impl Ring {
    fn new(socket: OwnedFd) -> Result<Self> {
        let version = libc::tpacket_versions::TPACKET_V2 as i32;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        let request = libc::tpacket_req {
            tp_block_size: (SLOTS * SLOT) as u32,
            tp_block_nr: 1,
            tp_frame_size: SLOT as u32,
            tp_frame_nr: SLOTS as u32,
        };
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_TX_RING, &request)?;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let memory = unsafe {
            mmap(ptr::null_mut(), SLOTS * SLOT, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &socket, 0)?
        };
        Ok(Self { socket, memory: memory.cast() })
    }

    /// Fills a slot for each frame and waits until the kernel has sent them all.
    fn send(&self, frames: &[Vec<u8>]) -> Result<()> {
        for (slot, frame) in frames.iter().enumerate() {
            ensure!(slot < SLOTS && frame.len() <= SLOT - FRAME_AT, "a frame of {} bytes fits no slot", frame.len());
            // `tpacket2_hdr` begins with status and length. The kernel sets the rest.
            let mut image = [libc::TP_STATUS_SEND_REQUEST, frame.len() as u32].map(u32::to_ne_bytes).concat();
            image.resize(FRAME_AT, 0);
            image.extend(frame);
            let start = self.memory.wrapping_add(slot * SLOT);
            // SAFETY: the slot is inside the mapping, and the image fits into it. The kernel reads it only in the call
            // below.
            unsafe { ptr::copy_nonoverlapping(image.as_ptr(), start, image.len()) };
        }
        // The call blocks until the ring is empty. The kernel starts at the slot where it stopped before, which is the
        // first one only if all were used.
        send(&self.socket, &[], SendFlags::empty()).context("the ring was refused")?;
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and no other pointer into it exists.
        let _ = unsafe { munmap(self.memory.cast(), SLOTS * SLOT) };
    }
}

fn set_option<T>(socket: &impl AsRawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer is to a value of the size given, alive for the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
