//! Any packet of a pod, where it leaves the node, with any mark.
//!
//! - What the egress rules deny for a destination, the check denies for the same destination.
//! - The source does not matter, and a packet whose end is cut off passes nowhere it did not pass before.
//! - No mark opens another tenant's address, and no packet of an unknown tenant passes.
//! - Any number is a mark with the same number, or no mark.

use agent_common::endpoint::Endpoint;
use agent_common::flow::Direction;
use agent_common::headers::Header;
use agent_common::mark::{MarkKind, PacketMark};
use agent_common::post_nat::{ConnDirection, Network, check_leaving, effective_kind, sender};
use agent_common::reason::DropReason;
use agent_common::tenant::{LocalTenant, TenantId, TenantState};

use crate::settings;
use crate::world::{Host, LOCAL, MAC, METADATA, MINE, OTHER_POD, THEIR_DATABASE, UNCLAIMED, World, mend_checksum, six};

/// Bytes before the packet: settings of the tenant, of the policy, the kind of mark, a length, and four of a number.
const HEAD: usize = 8;
/// The longest packet.
const LONGEST: usize = 600;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// What the check leaves to `from_pod`: ESP, AH.
const ENCRYPTED: [u8; 2] = [50, 51];
/// Reasons that the destination alone decides.
const BY_DESTINATION: [DropReason; 9] = [
    DropReason::CrossTenant,
    DropReason::OffSubnet,
    DropReason::UnassignedSource,
    DropReason::UnassignedDestination,
    DropReason::MetadataService,
    DropReason::Node,
    DropReason::PortDenied,
    DropReason::Multicast,
    DropReason::Martian,
];

/// A frame, read from its network header on.
struct LeavingPacket<'a>(&'a [u8]);

impl Network for LeavingPacket<'_> {
    fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.0[12], self.0[13]])
    }

    fn read<H: Header>(&self, offset: u32) -> Option<H> {
        let from = ETHERNET + offset as usize;
        H::read_from_bytes(self.0.get(from..from.checked_add(size_of::<H>())?)?).ok()
    }
}

/// Checks one input.
pub fn check(input: &[u8]) {
    let Some((&[flags, policy, kind, cut, a, b, c, d], packet)) = input.split_first_chunk::<HEAD>() else { return };
    marks(u32::from_le_bytes([a, b, c, d]), u64::from(kind));
    if packet.len() > LONGEST {
        return;
    }
    let ethertype = [[8, 0], [0x86, 0xdd], [8, 6], [a, b]][usize::from(kind >> 4 & 3)];
    let mut frame = [&[2, 0xfe, 0, 0, 1, 5][..], &MAC, &ethertype, packet].concat();
    let kind = [MarkKind::Request, MarkKind::Reply, MarkKind::Listed][usize::from(kind & 15) % 3];
    let world = settings::world(flags, policy);
    let denied = leaving(&world, kind, &frame);
    if denied.is_some() {
        let length = ETHERNET + usize::from(cut) * packet.len() / 256;
        assert!(leaving(&world, kind, &frame[..length]).is_some(), "the first {length} bytes alone pass");
    }
    assert_eq!(leaving(&unknown(), kind, &frame), Some(DropReason::NotReady), "an unknown tenant");
    come_from_the_pod(&mut frame);
    assert_eq!(denied, leaving(&world, kind, &frame), "the source matters");
    if kind == MarkKind::Request && denied.is_none() {
        egress_agrees(&world, &frame);
    }
    other_tenants_stay_denied(kind, &mut frame);
}

fn leaving(world: &World, kind: MarkKind, frame: &[u8]) -> Option<DropReason> {
    let state = world.tables.tenants.get(&MINE).copied().unwrap_or_default();
    check_leaving(&world.tables, LocalTenant { tenant: MINE, state }, kind, &LeavingPacket(frame))
}

fn unknown() -> World {
    let mut world = World::default();
    world.tables.tenants.insert(MINE, TenantState::default());
    world
}

/// Gives the packet the pod's own source.
fn come_from_the_pod(frame: &mut [u8]) {
    match frame.get(12..14) {
        Some([8, 0]) if frame.len() >= 34 => {
            frame[26..30].copy_from_slice(&LOCAL);
            mend_checksum(frame);
        }
        Some([0x86, 0xdd]) if frame.len() >= 54 => frame[22..38].copy_from_slice(&six(LOCAL).octets()),
        _ => {}
    }
}

/// The egress rules do not deny the destination of a request that the check lets pass.
fn egress_agrees(world: &World, frame: &[u8]) {
    if is_left_to_from_pod(frame) {
        return;
    }
    let entry = world.tables.endpoints[&1];
    let endpoint = Endpoint::new(&entry, world.tables.tenants[&MINE]).expect("it is claimed");
    let denied = world.tables.verdict(&endpoint, Direction::Egress, frame).denied();
    // No Service translates a protocol without ports, so the check asks for any port of the destination.
    let protocol = if frame[12..14] == [8, 0] { frame[23] } else { frame[20] };
    let has_port = [6, 17, 132].contains(&protocol);
    let by_destination = |reason| BY_DESTINATION.contains(&reason) && (has_port || reason != DropReason::PortDenied);
    let refused = denied.filter(|denied| by_destination(denied.reason));
    assert_eq!(refused, None, "the check lets pass what the egress rules deny: {frame:02x?}");
}

/// Whether the check does not judge the packet: it is encrypted, or stays on the link.
fn is_left_to_from_pod(frame: &[u8]) -> bool {
    let at = |index: usize| frame.get(index).copied().unwrap_or_default();
    match frame.get(12..14) {
        Some([8, 0]) => ENCRYPTED.contains(&at(23)),
        Some([0x86, 0xdd]) => has_next_header(frame),
        _ => true,
    }
}

/// Whether IPv6 extension headers, ESP or neighbour discovery follow. It reads no chain, and so judges too many.
fn has_next_header(frame: &[u8]) -> bool {
    let at = |index: usize| frame.get(index).copied().unwrap_or_default();
    let discovery = at(20) == 58 && matches!(at(54), 133..=137);
    discovery || matches!(at(20), 0 | 43 | 44 | 50 | 51 | 60 | 135 | 139 | 140 | 253 | 254)
}

/// In an isolated world no mark and no byte opens another tenant's address.
fn other_tenants_stay_denied(kind: MarkKind, frame: &mut [u8]) {
    let world = settings::isolated();
    for other in [OTHER_POD, THEIR_DATABASE, UNCLAIMED, METADATA] {
        if lead_to(frame, other) && !is_left_to_from_pod(frame) {
            assert!(leaving(&world, kind, frame).is_some(), "{kind:?} reaches {other:?}: {frame:02x?}");
        }
    }
}

fn lead_to(frame: &mut [u8], other: Host) -> bool {
    match frame.get(12..14) {
        Some([8, 0]) if frame.len() >= 34 => frame[30..34].copy_from_slice(&other),
        Some([0x86, 0xdd]) if frame.len() >= 54 => frame[38..54].copy_from_slice(&six(other).octets()),
        _ => return false,
    }
    true
}

/// A mark is its number, and a sender is known only by an interface or by a mark that names a tenant.
fn marks(bits: u32, state: u64) {
    let mark = PacketMark::from_bits(bits);
    if let Some(mark) = mark {
        assert_eq!(mark.bits(), bits & 0xffff, "a mark has another number");
    }
    for claimant in [TenantId::UNKNOWN, MINE, TenantId(bits & 0x3fff)] {
        let Some(found) = sender(claimant, mark) else {
            assert!(!claimant.is_known(), "a pod's packet has no sender");
            continue;
        };
        assert!(found.tenant.is_known(), "a sender without a tenant");
        assert!(!claimant.is_known() || found.tenant == claimant, "a mark names another tenant than the interface");
        let kind = effective_kind(found.kind, ConnDirection::from_state(state));
        let original = ConnDirection::from_state(state) == Some(ConnDirection::Original);
        assert!(!original || kind != MarkKind::Reply, "what opens a connection counts as a reply");
    }
}
