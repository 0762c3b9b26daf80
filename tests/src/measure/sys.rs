//! The bpf(2) calls that aya does not offer: small programs of raw instructions, timed runs, sizes of loaded programs.
//!
//! This is the only module of the measurement with `unsafe` code.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

const MAP_CREATE: i32 = 0;
const MAP_UPDATE: i32 = 2;
const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
const PROG_TEST_RUN: i32 = 10;
const OBJ_GET_INFO_BY_FD: i32 = 15;

const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
const MAP_TYPE_PROG_ARRAY: u32 = 3;

/// One instruction: operation, registers (source high), offset, immediate.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Instruction(pub u8, pub u8, pub i16, pub i32);

/// The sizes of a loaded program.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Instructions that the verifier visited, each visit counted.
    pub verified: u32,
    /// Instructions after verification.
    pub instructions: u32,
    /// Bytes of machine code.
    pub jited: u32,
}

/// Loads a TC program of these instructions, named `testbed`.
pub(crate) fn load(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    load_as(SCHED_CLS, instructions)
}

/// Loads an XDP program of these instructions.
pub(crate) fn load_xdp(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    load_as(XDP, instructions)
}

fn load_as(kind: u32, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut log = vec![0_u8; 1 << 16];
    let mut attributes = [0_u64; 16];
    attributes[0] = u64::from(kind) | (instructions.len() as u64) << 32;
    attributes[1] = instructions.as_ptr() as u64;
    attributes[2] = c"GPL".as_ptr() as u64;
    attributes[3] = 1 | (log.len() as u64) << 32;
    attributes[4] = log.as_mut_ptr() as u64;
    attributes[6] = u64::from_ne_bytes(*b"testbed\0");
    // SAFETY: the pointers and lengths above are those of live buffers.
    let loaded = unsafe { bpf(PROG_LOAD, &mut attributes) };
    let descriptor = loaded.map_err(|error| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        io::Error::new(error.kind(), format!("{error}: {}", String::from_utf8_lossy(&log[..end])))
    })?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Pins a program in a BPF file system.
pub(crate) fn pin(program: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = [0_u64; 16];
    attributes[0] = path.as_ptr() as u64;
    attributes[1] = program.as_raw_fd() as u64;
    // SAFETY: the path is a string that ends with zero and outlives the call.
    unsafe { bpf(OBJ_PIN, &mut attributes) }.map(drop)
}

/// A program array with this program as its only entry.
pub(super) fn program_array(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attributes = [0_u64; 16];
    attributes[0] = u64::from(MAP_TYPE_PROG_ARRAY) | 4 << 32;
    attributes[1] = 4 | 1 << 32;
    // SAFETY: no pointers.
    let descriptor = unsafe { bpf(MAP_CREATE, &mut attributes) }?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    let map = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let (key, value) = (0_u32, program.as_raw_fd());
    let mut attributes = [0_u64; 16];
    attributes[0] = map.as_raw_fd() as u64;
    attributes[1] = &raw const key as u64;
    attributes[2] = &raw const value as u64;
    // SAFETY: the pointers are those of live values of four bytes, the size the map was made with.
    unsafe { bpf(MAP_UPDATE, &mut attributes) }?;
    Ok(map)
}

/// Runs a program `repeat` times on a frame with an ingress interface; 0 is a frame of the node itself. Returns the
/// last return value and the CPU time.
pub(super) fn run(program: BorrowedFd<'_>, frame: &[u8], came_in_by: u32, repeat: u32) -> io::Result<(i32, Duration)> {
    // `struct __sk_buff`, all zero but for `ingress_ifindex` (offset 36).
    let mut context = [0_u32; 48];
    context[9] = came_in_by;
    let mut attributes = [0_u64; 16];
    attributes[0] = program.as_raw_fd() as u64;
    attributes[1] = frame.len() as u64;
    attributes[2] = frame.as_ptr() as u64;
    attributes[4] = u64::from(repeat);
    attributes[5] = size_of_val(&context) as u64;
    attributes[6] = context.as_ptr() as u64;
    let before = cpu_time();
    // SAFETY: frame and context outlive the call, and their lengths are their own.
    unsafe { bpf(PROG_TEST_RUN, &mut attributes) }?;
    Ok(((attributes[0] >> 32) as u32 as i32, cpu_time().saturating_sub(before)))
}

/// The sizes of a program.
pub(super) fn sizes(program: BorrowedFd<'_>) -> io::Result<Sizes> {
    // `struct bpf_prog_info` as of Linux 5.16, which added `verified_insns`.
    let mut info = [0_u32; 56];
    let mut attributes = [0_u64; 16];
    attributes[0] = program.as_raw_fd() as u64 | (size_of_val(&info) as u64) << 32;
    attributes[1] = info.as_mut_ptr() as u64;
    // SAFETY: the kernel writes no more than the length given, which is the buffer's.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(Sizes { jited: info[4], instructions: info[5] / 8, verified: info[54] })
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// # Safety
/// Every pointer among the attributes is valid for the command.
unsafe fn bpf(command: i32, attributes: &mut [u64; 16]) -> io::Result<i32> {
    // SAFETY: the attributes are a live buffer of the size given. The caller guarantees the pointers in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
