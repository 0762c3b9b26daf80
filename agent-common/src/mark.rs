//! The mark that `from_pod` puts on a packet: 16 bits that name the sending tenant until the packet leaves the node.
//!
//! The kernel carries it in `tc_index`, which only programs like ours read. Knows no policy: [`crate::post_nat`] judges
//! marked packets. A number without the fixed bit is no mark.

use crate::tenant::TenantId;

/// Set in every mark: the numbers of other programs are small.
const IS_MARK: u32 = 1 << 15;
const IS_REPLY: u32 = 1 << TENANT_BITS;
const TENANT: u32 = IS_REPLY - 1;
/// Bits of a tenant's number. The map of tenants has no higher number.
pub const TENANT_BITS: u32 = 14;

/// Why a marked packet was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// The pod may open connections to the packet's destination.
    Request,
    /// The packet is a reply, or goes to a node.
    Reply,
}

/// The mark on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketMark {
    /// The sending tenant.
    pub tenant: TenantId,
    /// Why the packet was allowed.
    pub kind: MarkKind,
}

impl PacketMark {
    /// As a number; 0 is no mark.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        let reply = if matches!(self.kind, MarkKind::Reply) { IS_REPLY } else { 0 };
        IS_MARK | reply | self.tenant.0 & TENANT
    }

    /// From a number; `None` where it is no mark.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !IS_REPLY & !TENANT != IS_MARK {
            return None;
        }
        let kind = if bits & IS_REPLY != 0 { MarkKind::Reply } else { MarkKind::Request };
        Some(Self { tenant: TenantId(bits & TENANT), kind })
    }
}
