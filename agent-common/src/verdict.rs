//! The answer to one packet: pass, pass with a mark, or a denial with its reason.
//!
//! Types only; [`crate::decide`] and [`crate::classify`] make the values. A value that is none of the three constants
//! is a denial.

use crate::mark::MarkKind;
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
    pub const ALLOW_MARKED: Self = Self(Self::ALLOW.0 | Self::REQUEST);
    /// Allowed as a reply, or to a node. The packet is marked: if NAT redirects it, it may go anywhere except to
    /// another tenant.
    pub const ALLOW_REPLY: Self = Self(Self::ALLOW.0 | Self::REPLY);
    const REQUEST: u64 = 1 << 9;
    const REPLY: u64 = 1 << 10;

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

    /// From a register. Any value that is none of the three constants is a denial.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether the packet passes.
    pub const fn is_allow(self) -> bool {
        self.0 == Self::ALLOW.0 || self.mark().is_some()
    }

    /// The kind of mark that the packet gets, if it gets one.
    pub const fn mark(self) -> Option<MarkKind> {
        match self {
            Self::ALLOW_MARKED => Some(MarkKind::Request),
            Self::ALLOW_REPLY => Some(MarkKind::Reply),
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
