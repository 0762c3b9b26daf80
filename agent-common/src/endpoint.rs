//! The local pod at one end of a packet: its entry in the map, and its tenant.
//!
//! Knows no packet. An [`Endpoint`] exists only for an interface that is claimed by a tenant the agent has written.

use crate::layout::EndpointEntry;
use crate::reply_table;
use crate::tenant::{LocalTenant, TenantState};

/// The local pod that a packet comes from or goes to.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Its entry.
    pub entry: &'a EndpointEntry,
    /// Its tenant.
    pub local: LocalTenant,
}

/// The pod behind an interface, as far as the reply table distinguishes pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The cookie of [`EndpointEntry`]; 0 is no claim.
    pub cookie: u32,
    /// The pod's block of the reply table.
    pub block: u16,
}

impl<'a> Endpoint<'a> {
    /// `None` where the interface is unclaimed or the agent has not written its tenant: `not_ready`.
    #[inline(always)]
    pub fn new(entry: &'a EndpointEntry, state: TenantState) -> Option<Self> {
        let ready = entry.tenant.is_known() && entry.cookie != 0 && state.has(TenantState::VALID);
        ready.then_some(Self { entry, local: LocalTenant { tenant: entry.tenant, state } })
    }

    /// The pod's claim.
    #[inline(always)]
    pub fn claim(&self) -> Claim {
        let block = reply_table::block(self.entry.slot, self.local.state.has(TenantState::SHARED));
        Claim { cookie: self.entry.cookie, block }
    }
}
