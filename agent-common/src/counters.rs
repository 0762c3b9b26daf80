//! The counters of packets and losses, and the index of each.
//!
//! Counters are exact, and never derived from events. All are per-CPU arrays indexed by arithmetic, so counting costs no
//! lookup and no atomic operation. Knows no map handle.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::flow::Direction;
use crate::reason::DropReason;

/// Packets and their bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Counter {
    /// Packets as the hook saw them: a GSO packet is one.
    pub packets: u64,
    /// Bytes of those, Ethernet header included.
    pub bytes: u64,
}

/// The outcome for one packet.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Passed on to the next program.
    Allowed = 0,
    /// Dropped.
    Dropped = 1,
    /// Would have been dropped in enforce mode.
    Audited = 2,
}

impl Outcome {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Allowed, Self::Dropped, Self::Audited];

    /// Its name in metrics and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Dropped => "dropped",
            Self::Audited => "audited",
        }
    }

    /// The outcome of this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Allowed),
            1 => Some(Self::Dropped),
            2 => Some(Self::Audited),
            _ => None,
        }
    }
}

/// Number of counter slots: one for each tenant with pods on this node, and slot 0 for the packets of all others.
pub const TENANT_SLOTS: u32 = 512;

/// Entries of the map of allowed packets.
pub const ALLOWED_LEN: u32 = TENANT_SLOTS * 2;

/// Entries of the map of dropped and audited packets.
pub const DENIED_LEN: u32 = TENANT_SLOTS * 4 * DropReason::ROW;

/// Index of the counter for allowed packets of a tenant slot.
#[inline(always)]
pub const fn allowed_index(slot: u16, direction: Direction) -> u32 {
    (slot as u32 % TENANT_SLOTS) * 2 + direction as u32
}

/// Index of the counter for denied packets of a tenant slot.
#[inline(always)]
pub const fn denied_index(slot: u16, direction: Direction, audited: bool, reason: DropReason) -> u32 {
    let row = ((slot as u32 % TENANT_SLOTS) * 2 + direction as u32) * 2 + audited as u32;
    row * DropReason::ROW + reason.number() as u32
}

/// A loss: what the programs could not report or record.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Records that did not fit into the ring buffer.
    RingFull = 0,
    /// Packets whose flow was replaced in its bucket before its count was reported.
    Unreported = 1,
    /// Connections in use that lost their entry in the reply table to another one of the same pod.
    ReplyEvicted = 2,
    /// Packets whose headers could not be made readable (`bpf_skb_pull_data` failed).
    Pull = 3,
}

impl Loss {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::RingFull, Self::Unreported, Self::ReplyEvicted, Self::Pull];
    /// Entries of the map.
    pub const LEN: u32 = 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_counters_share_an_index_and_none_is_out_of_bounds() {
        extern crate std;
        let mut seen = std::collections::HashSet::new();
        for slot in [0, 1, 2, TENANT_SLOTS as u16 - 1] {
            for direction in Direction::ALL {
                assert!(allowed_index(slot, direction) < ALLOWED_LEN);
                for audited in [false, true] {
                    for reason in DropReason::ALL {
                        let index = denied_index(slot, direction, audited, *reason);
                        assert!(index < DENIED_LEN && seen.insert(index));
                    }
                }
            }
        }
    }
}
