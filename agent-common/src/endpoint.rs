//! The local pod at one end of a packet: its entry in the map, and its tenant.
//!
//! Knows no packet. An [`Endpoint`] exists only for an interface that is claimed by a tenant the agent has written.

use crate::layout::EndpointEntry;
use crate::tenant::{LocalTenant, TenantState};

/// The local pod that a packet comes from or goes to.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Its entry.
    pub entry: &'a EndpointEntry,
    /// Its tenant.
    pub local: LocalTenant,
}

impl<'a> Endpoint<'a> {
    /// `None` where the interface is unclaimed or the agent has not written its tenant: `not_ready`.
    #[inline(always)]
    pub fn new(entry: &'a EndpointEntry, state: TenantState) -> Option<Self> {
        let ready = entry.tenant.is_known() && entry.cookie != 0 && state.has(TenantState::VALID);
        ready.then_some(Self { entry, local: LocalTenant { tenant: entry.tenant, state } })
    }
}
