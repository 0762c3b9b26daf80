//! The record of a violation as the programs write it, and its checked decoding.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::counters::Outcome;
use crate::flow::Direction;
use crate::reason::DropReason;
use crate::tenant::TenantId;

/// A flow that was denied: its first packet, or its count so far.
///
/// Numbers only; names are added by the agent, later and elsewhere.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowEvent {
    /// When the last packet was seen, monotonic clock, nanoseconds.
    pub last_ns: u64,
    /// When the first packet was seen, monotonic clock, nanoseconds.
    pub first_ns: u64,
    /// Packets since `first_ns`, this one included. Later records of the flow repeat earlier ones.
    pub count: u64,
    /// Policy generation that judged it.
    pub generation: u64,
    /// Source address; IPv4 in mapped form; zero where the frame has none.
    pub source: [u8; 16],
    /// Destination address, as above.
    pub destination: [u8; 16],
    /// Interface of the local pod.
    pub ifindex: u32,
    /// The local pod's claim of that interface.
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
    /// `DropReason`.
    pub reason: u8,
    /// `Direction`.
    pub direction: u8,
    /// `Outcome`, dropped or audited.
    pub outcome: u8,
    /// TCP flags of the last packet.
    pub tcp_flags: u8,
    /// 4, 6, or 0 where the frame is no readable IP.
    pub family: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// Slot of the pod's event limit.
    pub slot: u16,
    /// The CPU that counted it: counts of one flow on two CPUs are two counts.
    pub cpu: u32,
}

const _: () = assert!(size_of::<FlowEvent>() == 104);

/// A record whose closed lists have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The record.
    pub event: FlowEvent,
    /// Why.
    pub reason: DropReason,
    /// Which way.
    pub direction: Direction,
    /// Dropped or audited.
    pub outcome: Outcome,
}

impl FlowEvent {
    /// Reads a record. `None`: wrong size, or a number that is on no list.
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
    fn a_record_survives_the_wire_and_rubbish_does_not_pass() {
        let event = FlowEvent { reason: 1, outcome: 1, count: 7, ..FlowEvent::default() };
        let checked = FlowEvent::decode(event.as_bytes()).expect("a valid record");
        assert_eq!((checked.event, checked.reason), (event, DropReason::CrossTenant));
        assert_eq!(FlowEvent::decode(&event.as_bytes()[1..]), None, "short");
        assert_eq!(FlowEvent { reason: 0, ..event }.check(), None, "no reason");
        assert_eq!(FlowEvent { outcome: 0, ..event }.check(), None, "an allowed packet is no violation");
        assert_eq!(FlowEvent { direction: 2, ..event }.check(), None, "no direction");
    }
}
