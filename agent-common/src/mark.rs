//! The mark that `from_pod` puts on a packet: 16 bits that say why it was allowed, until the packet leaves the node.
//!
//! The kernel carries it in `tc_index`. Knows no policy: [`crate::post_nat`] judges marked packets. The sender is known by
//! the interface by which the packet arrived, so the mark names the tenant only where a bridge hides that interface.
//! Elsewhere the low bits are 0: Cilium's programs read bits 0 to 4 of the field as their own flags (`TC_INDEX_F_*` in
//! bpf/lib/common.h). A number without one of the two upper bits is no mark.

use crate::tenant::TenantId;

const TENANT: u32 = (1 << TENANT_BITS) - 1;
/// The number on a packet that the uplink guard has checked: no mark, and no flag of Cilium's. A packet that passes several
/// interfaces (a VLAN or bond, then the card below) is judged once. `from_pod` overwrites what a pod may have set.
pub const CHECKED: u32 = 1 << 13;
/// Bits of a tenant's number. The map of tenants has no higher number.
pub const TENANT_BITS: u32 = 14;

/// Why a marked packet was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// The pod may open connections to the packet's destination.
    Request,
    /// The packet is a reply, or goes to a node.
    Reply,
    /// The tenant lists exactly the packet's destination, such as a Service with ends outside the cluster.
    Listed,
}

impl MarkKind {
    /// Its number in a mark: 1 to 3.
    #[inline(always)]
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
            Self::Listed => 3,
        }
    }
}

/// The mark on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketMark {
    /// The sending tenant; 0 where the interface by which the packet arrived is the pod's own.
    pub tenant: TenantId,
    /// Why the packet was allowed.
    pub kind: MarkKind,
}

impl PacketMark {
    /// As a number; 0 is no mark.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        Self::bits_of(self.kind.number(), self.tenant)
    }

    /// As a number, from that of the kind.
    #[inline(always)]
    pub(crate) const fn bits_of(kind: u32, tenant: TenantId) -> u32 {
        kind << TENANT_BITS | tenant.0 & TENANT
    }

    /// From a number; `None` where it is no mark.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        let kind = match bits >> TENANT_BITS {
            1 => MarkKind::Request,
            2 => MarkKind::Reply,
            3 => MarkKind::Listed,
            _ => return None,
        };
        Some(Self { tenant: TenantId(bits & TENANT), kind })
    }
}
