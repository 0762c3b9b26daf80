//! The `bpf(2)` commands that aya does not offer in the needed form: links by interface index, and the programs
//! of a hook.
//!
//! The only unsafe code of the agent. Layouts are those of `union bpf_attr` in the kernel's UAPI, which only
//! grows; unused tails are zero.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;
/// Attach before all other programs (`BPF_F_BEFORE`, kernel 6.6).
const BPF_F_BEFORE: u32 = 1 << 3;

/// The hook for packets that sockets of a control group send (`BPF_CGROUP_INET_EGRESS`).
const CGROUP_EGRESS: u32 = 1;

/// TCX on the ingress hook (`BPF_TCX_INGRESS`, kernel 6.6).
pub(super) const TCX_INGRESS: u32 = 46;
/// TCX on the egress hook (`BPF_TCX_EGRESS`, kernel 6.6).
pub(super) const TCX_EGRESS: u32 = 47;

/// A program of the TC hooks (`BPF_PROG_TYPE_SCHED_CLS`).
const SCHED_CLS: u32 = 3;
/// Bytes of a program's name with its final zero (`BPF_OBJ_NAME_LEN`).
const NAME_LENGTH: usize = 16;

/// One instruction: operation, registers (source high), offset, immediate (`struct bpf_insn`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Instruction(pub u8, pub u8, pub i16, pub i32);

/// Loads a TC program of these instructions, under a name of at most 15 bytes.
///
/// # Errors
/// `EINVAL` or `EACCES` if the verifier refuses it.
pub(super) fn prog_load(name: &CStr, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct ProgLoadAttr {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; NAME_LENGTH],
    }
    let mut attr = ProgLoadAttr {
        prog_type: SCHED_CLS,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..ProgLoadAttr::default()
    };
    for (to, from) in attr.prog_name[..NAME_LENGTH - 1].iter_mut().zip(name.to_bytes()) {
        *to = *from;
    }
    open(BPF_PROG_LOAD, &mut attr)
}

/// A path in the BPF file system, and the descriptor to pin there.
#[repr(C)]
#[derive(Default)]
struct PinAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Opens the object that is pinned at `path`.
///
/// # Errors
/// `ENOENT` if nothing is pinned; `EPERM` without `CAP_BPF`, or if the directory belongs to another user.
pub(super) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    open(BPF_OBJ_GET, &mut PinAttr { pathname: path.as_ptr() as u64, ..PinAttr::default() })
}

/// Pins a descriptor at `path`, which must not exist yet.
///
/// # Errors
/// `EEXIST` if an object is pinned there.
pub(super) fn obj_pin(path: &Path, fd: BorrowedFd<'_>) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let attr = PinAttr { pathname: path.as_ptr() as u64, bpf_fd: fd.as_raw_fd() as u32, file_flags: 0 };
    bpf(BPF_OBJ_PIN, &mut { attr }).map(drop)
}

/// The kernel's description of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// Id of the program that the link runs.
    pub program: u32,
    /// Of a TCX link: the interface, or 0 after that is gone.
    pub ifindex: u32,
    /// Of a cgroup link: the id of the control group, which is the inode number of its directory.
    pub cgroup: u64,
}

/// Returns the program and the target of a link.
///
/// # Errors
/// Those of the system call; `EINVAL` if the descriptor is not a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        _pad: u32,
        ifindex: u32,
        attach_type: u32,
        rest: [u64; 16],
    }
    #[repr(C)]
    #[derive(Default)]
    struct LinkInfoAttr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = Info::default();
    let mut attr = LinkInfoAttr {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: size_of::<Info>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // Both kinds of link use the same eight bytes.
    let mut cgroup = [0; 8];
    cgroup[..4].copy_from_slice(&info.ifindex.to_ne_bytes());
    cgroup[4..].copy_from_slice(&info.attach_type.to_ne_bytes());
    Ok(LinkInfo { program: info.program, ifindex: info.ifindex, cgroup: u64::from_ne_bytes(cgroup) })
}

/// Attaches a program to a TCX hook of an interface in this thread's namespace, before all other programs.
///
/// The program runs at once, but the call returns only after an RCU grace period of some 15 ms. It holds the RTNL
/// lock meanwhile, so concurrent calls wait for each other.
///
/// # Errors
/// `EINVAL` before kernel 6.6; `ENODEV` if the interface is gone.
pub(super) fn tcx_attach(program: BorrowedFd<'_>, ifindex: u32, attach_type: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct TcxAttachAttr {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
        relative_fd: u32,
        _pad: u32,
        expected_revision: u64,
    }
    let mut attr = TcxAttachAttr {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type,
        flags: BPF_F_BEFORE,
        ..TcxAttachAttr::default()
    };
    open(BPF_LINK_CREATE, &mut attr)
}

/// Attaches a program to packets from sockets of a control group and its descendants (kernel 5.7). Programs that
/// are attached already stay.
///
/// # Errors
/// `EPERM` if an attached program forbids others below it.
pub(super) fn cgroup_attach(program: BorrowedFd<'_>, group: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct CgroupAttachAttr {
        prog_fd: u32,
        target_fd: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut attr = CgroupAttachAttr {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: group.as_raw_fd() as u32,
        attach_type: CGROUP_EGRESS,
        flags: 0,
    };
    open(BPF_LINK_CREATE, &mut attr)
}

/// Runs a program once on a frame in this thread's network namespace, and returns its return value.
///
/// # Errors
/// `EINVAL` for a frame shorter than an Ethernet header.
pub(super) fn test_run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    #[repr(C)]
    #[derive(Default)]
    struct TestRunAttr {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
    }
    let mut attr = TestRunAttr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: 1,
        ..TestRunAttr::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    Ok(attr.retval)
}

/// Replaces the program of a link in one step, so no packet passes unchecked (kernel 5.7).
///
/// # Errors
/// `ENOLINK` if its interface is gone.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    #[derive(Default)]
    struct LinkUpdateAttr {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let mut attr = LinkUpdateAttr {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        ..LinkUpdateAttr::default()
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link at once (kernel 5.9).
///
/// # Errors
/// `ENOLINK` if its interface is gone.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    #[derive(Default)]
    struct LinkDetachAttr {
        link_fd: u32,
    }
    bpf(BPF_LINK_DETACH, &mut LinkDetachAttr { link_fd: link.as_raw_fd() as u32 }).map(drop)
}

/// The ids of the programs of a TCX hook, in the order they run. Unlike opening them, it needs no
/// `CAP_SYS_ADMIN`.
///
/// # Errors
/// `EINVAL` before kernel 6.6; `ENODEV` if the interface is gone.
pub(super) fn tcx_programs(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    #[repr(C)]
    #[derive(Default)]
    struct TcxQueryAttr {
        target: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        count: u32,
        _pad: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let mut ids = vec![0_u32; 64];
    let mut attr = TcxQueryAttr {
        target: ifindex,
        attach_type,
        prog_ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        ..TcxQueryAttr::default()
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    ids.truncate(attr.count as usize);
    Ok(ids)
}

/// One `bpf(2)` call that returns a descriptor.
fn open<A>(command: libc::c_int, attr: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One `bpf(2)` call. `A` is the command's part of `union bpf_attr`.
fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<i32> {
    // SAFETY: `attr` is a live, zero-initialised structure of the size given; every pointer in it
    // points to memory that the callers above keep alive and that is as large as they say.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, (attr as *mut A).cast::<u8>(), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
