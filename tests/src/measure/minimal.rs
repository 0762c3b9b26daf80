//! The least that a program for pods can do: parse, find both tenants, compare, count.
//!
//! It is the second reference of the measurement. What it takes depends on the CPU's mitigations as our programs do, so
//! the ratio to it is comparable between machines. It uses our own maps, and no rule but the first one.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::sys::{self, Instruction};

/// The maps it reads and writes.
pub(super) struct MinimalMaps<'a> {
    /// `ENDPOINTS`.
    pub endpoints: BorrowedFd<'a>,
    /// `PEERS_V4`.
    pub peers: BorrowedFd<'a>,
    /// `ALLOWED`.
    pub allowed: BorrowedFd<'a>,
    /// Index of the tenant's counter in `ALLOWED`.
    pub counter: u32,
}

/// Passes a packet to a pod of the sender's tenant, and drops every other packet.
///
/// # Errors
/// The kernel refuses it.
pub(super) fn load(maps: &MinimalMaps<'_>) -> io::Result<OwnedFd> {
    sys::load(&program(maps))
}

const PASS: i32 = -1;
const DROP: i32 = 2;
const LOOKUP: i32 = 1;
/// Offsets in `struct __sk_buff`.
const LENGTH: i16 = 0;
const IFINDEX: i16 = 40;
const DATA: i16 = 76;
const DATA_END: i16 = 80;
/// Offsets in the frame.
const ETHERTYPE: i16 = 12;
const VERSION: i16 = 14;
const DESTINATION: i16 = 30;
const HEADERS: i32 = 42;

/// Instructions, in which jumps to the end are filled in at last.
struct Assembler {
    instructions: Vec<Instruction>,
    to_drop: Vec<usize>,
}

impl Assembler {
    fn op(&mut self, code: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction(code, to | from << 4, offset, immediate));
    }

    /// A jump that drops the packet.
    fn drop_if(&mut self, code: u8, left: u8, right: u8, immediate: i32) {
        self.to_drop.push(self.instructions.len());
        self.op(code, left, right, 0, immediate);
    }

    /// Looks up the key at this offset of the stack. The result is in register 0.
    fn lookup(&mut self, map: BorrowedFd<'_>, key: i32) {
        self.op(0x18, 1, 1, 0, map.as_raw_fd());
        self.op(0, 0, 0, 0, 0);
        self.op(0xbf, 2, 10, 0, 0);
        self.op(0x07, 2, 0, 0, key);
        self.op(0x85, 0, 0, 0, LOOKUP);
        self.drop_if(0x15, 0, 0, 0);
    }

    fn end(&mut self, verdict: i32) {
        self.op(0xb7, 0, 0, 0, verdict);
        self.op(0x95, 0, 0, 0, 0);
    }
}

fn program(maps: &MinimalMaps<'_>) -> Vec<Instruction> {
    let mut code = Assembler { instructions: Vec::new(), to_drop: Vec::new() };
    // The context is kept in register 6.
    code.op(0xbf, 6, 1, 0, 0);
    code.op(0x61, 2, 6, DATA, 0);
    code.op(0x61, 3, 6, DATA_END, 0);
    code.op(0xbf, 4, 2, 0, 0);
    code.op(0x07, 4, 0, 0, HEADERS);
    code.drop_if(0x2d, 4, 3, 0);
    code.op(0x69, 5, 2, ETHERTYPE, 0);
    code.drop_if(0x55, 5, 0, i32::from(0x0800_u16.to_be()));
    code.op(0x71, 5, 2, VERSION, 0);
    code.drop_if(0x55, 5, 0, 0x45);
    // The key of the destination: network 0, then the address.
    code.op(0x61, 7, 2, DESTINATION, 0);
    code.op(0x62, 10, 0, -16, 0);
    code.op(0x63, 10, 7, -12, 0);
    // The sender's tenant, by its interface, is kept in register 9.
    code.op(0x61, 5, 6, IFINDEX, 0);
    code.op(0x63, 10, 5, -4, 0);
    code.lookup(maps.endpoints, -4);
    code.op(0x61, 9, 0, 0, 0);
    code.drop_if(0x15, 9, 0, 0);
    code.lookup(maps.peers, -16);
    code.op(0x61, 5, 0, 0, 0);
    code.drop_if(0x5d, 5, 9, 0);
    code.op(0x62, 10, 0, -4, maps.counter.cast_signed());
    code.lookup(maps.allowed, -4);
    // One packet more, and its bytes.
    code.op(0x79, 5, 0, 0, 0);
    code.op(0x07, 5, 0, 0, 1);
    code.op(0x7b, 0, 5, 0, 0);
    code.op(0x61, 8, 6, LENGTH, 0);
    code.op(0x79, 5, 0, 8, 0);
    code.op(0x0f, 5, 8, 0, 0);
    code.op(0x7b, 0, 5, 8, 0);
    code.end(PASS);
    let end = code.instructions.len();
    code.end(DROP);
    for at in code.to_drop {
        code.instructions[at].2 = (end - at - 1) as i16;
    }
    code.instructions
}
