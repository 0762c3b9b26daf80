//! The record of a denied flow as the programs write it, and its checked decoding.
//!
//! Holds numbers only: the agent adds names later. A record whose numbers are in no list is not decoded.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::counters::Outcome;
use crate::flow::Direction;
use crate::reason::DropReason;
use crate::tenant::TenantId;

/// A denied flow: its first packet, or its count so far.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowEvent {
    /// When the last packet was seen, monotonic clock, nanoseconds.
    pub last_ns: u64,
    /// When the first packet was seen, monotonic clock, nanoseconds.
    pub first_ns: u64,
    /// Packets since `first_ns`, this one included. Later records of the flow repeat earlier ones.
    pub count: u64,
    /// Policy generation that denied it.
    pub generation: u64,
    /// Source address; IPv4 in mapped form; zero where the frame has none.
    pub source: [u8; 16],
    /// Destination address; IPv4 in mapped form; zero where the frame has none.
    pub destination: [u8; 16],
    /// Interface of the local pod.
    pub ifindex: u32,
    /// The local pod's cookie.
    pub cookie: u32,
    /// The local pod's tenant; 0 unknown.
    pub tenant: TenantId,
    /// The other end's tenant; 0 unknown or none.
    pub peer_tenant: TenantId,
    /// Bytes of the last packet.
    pub length: u32,
    /// Host order; 0 where there is none.
    pub source_port: u16,
    /// Host order; 0 where there is none.
    pub destination_port: u16,
    /// Host order.
    pub ethertype: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// The number of a [`DropReason`].
    pub reason: u8,
    /// The number of a [`Direction`].
    pub direction: u8,
    /// The number of an [`Outcome`], dropped or audited.
    pub outcome: u8,
    /// TCP flags of the last packet.
    pub tcp_flags: u8,
    /// 4, 6, or 0 where the frame is no readable IP.
    pub family: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// The pod's event slot.
    pub slot: u16,
    /// The CPU that counted it: one flow on two CPUs has two counts.
    pub cpu: u32,
}

const _: () = assert!(size_of::<FlowEvent>() == 104);

/// A record whose numbers have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The record.
    pub event: FlowEvent,
    /// The drop reason.
    pub reason: DropReason,
    /// The direction.
    pub direction: Direction,
    /// Dropped or audited.
    pub outcome: Outcome,
}

impl FlowEvent {
    /// Reads a record. `None` if the size is wrong, or a number is in no list.
    pub fn decode(bytes: &[u8]) -> Option<Checked> {
        Self::read_from_bytes(bytes).ok()?.check()
    }

    /// Checks a record that already has the right size.
    pub fn check(self) -> Option<Checked> {
        Some(Checked {
            reason: DropReason::from_number(self.reason)?,
            direction: Direction::from_number(self.direction)?,
            outcome: Outcome::from_number(self.outcome).filter(|o| *o != Outcome::Allowed)?,
            event: self,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_decodes_to_itself_and_invalid_bytes_do_not_decode() {
        let event = FlowEvent { reason: 1, outcome: 1, count: 7, ..FlowEvent::default() };
        let checked = FlowEvent::decode(event.as_bytes()).expect("a valid record");
        assert_eq!((checked.event, checked.reason), (event, DropReason::CrossTenant));
        assert_eq!(FlowEvent::decode(&event.as_bytes()[1..]), None, "short");
        assert_eq!(FlowEvent { reason: 0, ..event }.check(), None, "no reason");
        assert_eq!(FlowEvent { outcome: 0, ..event }.check(), None, "an allowed packet is no violation");
        assert_eq!(FlowEvent { direction: 2, ..event }.check(), None, "no direction");
    }
}
