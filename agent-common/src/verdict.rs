//! The answer to one packet: pass, pass with a mark, or a denial with its reason.
//!
//! Types only; [`crate::decide`] and [`crate::classify`] make the values. A value that is none of the four constants
//! is a denial.

use crate::mark::{MarkKind, PacketMark};
use crate::reason::DropReason;
use crate::tenant::TenantId;

/// Why a packet is denied, and the tenant at the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The reason.
    pub reason: DropReason,
    /// The other side's tenant; 0 where it is unknown or there is none.
    pub peer: TenantId,
}

/// What happens to a packet. It is one register, so that global functions can return it. The zero value is a denial.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Verdict(u64);

impl Verdict {
    /// Lets the next program on the hook decide.
    pub const ALLOW: Self = Self(1 << 8);
    /// Allowed because of sender and destination alone. The packet is marked, and [`crate::post_nat`] judges it again
    /// where it leaves the node or reaches a local pod. The node may have translated its destination by then.
    pub const ALLOW_MARKED: Self = Self::marked(MarkKind::Request);
    /// Allowed as a reply, or to a node. The packet is marked: if NAT redirects it, it may go anywhere except to
    /// another tenant.
    pub const ALLOW_REPLY: Self = Self::marked(MarkKind::Reply);
    /// Allowed because the tenant lists exactly the destination. The packet is marked: what stands behind the address may
    /// be chosen by another tenant, so NAT may redirect it only to an address that nobody owns.
    pub const ALLOW_LISTED: Self = Self::marked(MarkKind::Listed);
    /// The lower of the two bits with the number of a [`MarkKind`].
    const KIND: u32 = 9;

    const fn marked(kind: MarkKind) -> Self {
        Self(Self::ALLOW.0 | (kind.number() as u64) << Self::KIND)
    }

    /// A denial that names no other side.
    pub const fn deny(reason: DropReason) -> Self {
        Self::from_denied(Denied { reason, peer: TenantId::UNKNOWN })
    }

    /// A denial.
    pub const fn from_denied(denied: Denied) -> Self {
        Self(denied.reason.number() as u64 | (denied.peer.0 as u64) << 32)
    }

    /// As a register.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From a register. Any value that is none of the four constants is a denial.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether the packet passes.
    #[inline(always)]
    pub const fn is_allow(self) -> bool {
        let [plain, marked, reply, listed] = [Self::ALLOW, Self::ALLOW_MARKED, Self::ALLOW_REPLY, Self::ALLOW_LISTED];
        self.0 == plain.0 || self.0 == marked.0 || self.0 == reply.0 || self.0 == listed.0
    }

    /// The mark that a packet of `tenant` with this verdict gets, as a number; 0 for none. It is computed without a
    /// branch, because the verifier follows each one to the end of the program.
    #[inline(always)]
    pub const fn mark_bits(self, tenant: TenantId) -> u32 {
        let kind = (self.0 >> Self::KIND) as u32 & 3;
        let is_marked = (kind | kind >> 1) & 1;
        PacketMark::bits_of(kind, TenantId(tenant.0 & is_marked.wrapping_neg()))
    }

    /// The kind of mark that the packet gets, if it gets one.
    pub const fn mark(self) -> Option<MarkKind> {
        match PacketMark::from_bits(self.mark_bits(TenantId::UNKNOWN)) {
            Some(mark) if self.is_allow() => Some(mark.kind),
            _ => None,
        }
    }

    /// Why the packet is denied; `None` if it passes.
    pub const fn denied(self) -> Option<Denied> {
        if self.is_allow() {
            return None;
        }
        let reason = match DropReason::from_number(self.0 as u8) {
            Some(reason) => reason,
            None => DropReason::Internal,
        };
        Some(Denied { reason, peer: TenantId((self.0 >> 32) as u32) })
    }
}

impl core::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.denied() {
            Some(denied) => write!(f, "{denied:?}"),
            None => write!(f, "Allow, {:?}", self.mark()),
        }
    }
}
