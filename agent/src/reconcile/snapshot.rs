//! What the reconcile loop publishes: names of numbers, the condition of each local pod, failures.
//!
//! A snapshot never changes. Its large parts are shared with the cluster and cost a pointer each, so a reader cannot
//! delay the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use agent_common::tenant::{TenantId, TenantState};

use crate::dataplane::Displacement;
use policy::model::address_index::AddressIndex;
use policy::model::endpoints::EndpointStatus;
use policy::model::guards::Guards;
use policy::model::input::EndpointKey;
use policy::model::name::Name;
use policy::model::pod::Pod;
use policy::model::ranges::PodRangeGap;
use policy::model::report::{Conflict, Overflow, Trouble};
use policy::model::settings::Settings;
use policy::model::tenancy::{Member, Tenancy};
use policy::model::unprotected::UnprotectedPod;
use policy::plan::Table;

/// The agent's knowledge at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// Increases with each snapshot.
    pub revision: u64,
    /// Whether every kind of object was reported and written once, so the kernel enforces the objects' policy.
    pub ready: bool,
    /// Time of the last write to the kernel, in seconds since 1970.
    pub applied_at: Option<i64>,
    /// Generation of the policy in the kernel.
    pub generation: u64,
    /// Writes that failed, or wait for one that failed.
    pub pending: usize,
    /// Writes that failed and were not made since.
    pub unwritten: usize,
    /// Failed operations since the start, by table and operation; `drift` counts entries that another process changed.
    pub failures: BTreeMap<(Table, &'static str), u64>,
    /// Number of failures to attach or detach programs since the start.
    pub attach_failures: u64,
    /// What was before our programs on an interface at the last check or since then.
    pub displaced: Arc<Vec<Displacement>>,
    /// How often another program was found before one of ours since the start.
    pub displacements: u64,
    /// Why the range of pods is not known.
    pub pod_range_gap: Option<PodRangeGap>,
    /// Settings of the model.
    pub settings: Arc<Settings>,
    /// Pods by address.
    pub address_index: AddressIndex<Pod>,
    /// Services by address.
    pub services: AddressIndex<BTreeSet<EndpointKey>>,
    /// Addresses of nodes.
    pub nodes: Arc<BTreeSet<IpAddr>>,
    /// The tenant of each namespace, and the objects.
    pub tenancy: Arc<Tenancy>,
    /// Tenants by number.
    pub tenants: Arc<BTreeMap<TenantId, TenantView>>,
    /// Local pods.
    pub endpoints: Arc<BTreeMap<EndpointKey, EndpointView>>,
    /// How often the programs of each local pod were missing and were attached again.
    pub repairs: Arc<BTreeMap<EndpointKey, u64>>,
    /// Local pods by interface.
    pub ports: Arc<BTreeMap<u32, EndpointKey>>,
    /// Pods that no program judges, once that has lasted.
    pub unprotected: Arc<Vec<UnprotectedPod>>,
    /// Which tenant lacks what because of another, and why.
    pub conflicts: Arc<Vec<Conflict>>,
    /// What did not fit into a table.
    pub overflows: Arc<Vec<Overflow>>,
    /// Used and total entries of the tables.
    pub tables: Vec<TableFill>,
    /// The guards as they should be.
    pub guards: Arc<Guards>,
    /// Whether the input guard is in place.
    pub has_input_guard: bool,
    /// Why parts of the guards are not in place.
    pub unguarded: Arc<Vec<String>>,
}

/// A tenant with a number.
#[derive(Clone, Debug)]
pub(crate) struct TenantView {
    /// Name.
    pub name: Name,
    /// Its origin and its object.
    pub member: Member,
    /// Its entry in the kernel. A counter slot passes from tenant to tenant, so a reader of counters must start a
    /// new series when the slot's owner changes.
    pub state: TenantState,
}

/// A local pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointView {
    /// Its status in the model.
    pub status: EndpointStatus,
    /// Its condition in the kernel.
    pub condition: EndpointCondition,
    /// Why its programs or its entry are not in the kernel.
    pub error: Option<String>,
}

/// The condition of a local pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum EndpointCondition {
    /// Its tenant's policy is enforced.
    Enforced,
    /// What its tenant's policy denies is only reported.
    Audited,
    /// Its namespace is in no tenant.
    Unassigned,
    /// It belongs to a shared tenant.
    Shared,
    /// Denied until its interface, its address or its namespace is reported.
    Pending,
    /// Denied, wholly or for one of its addresses, because objects claim what they cannot have.
    Denied,
    /// Its programs or its entry are not in the kernel, because they could not be written or would not fit.
    Error,
}

/// Used and total entries of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableFill {
    /// The table.
    pub table: Table,
    /// Used entries.
    pub used: usize,
    /// Capacity.
    pub limit: usize,
}

impl Snapshot {
    /// The pod with an address, if exactly one has it.
    pub(crate) fn pod(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.address_index.get(address)
    }

    /// The first Service with an address.
    pub(crate) fn service(&self, address: IpAddr) -> Option<&EndpointKey> {
        self.services.get(address)?.first()
    }

    /// The tenant of a namespace with pods.
    pub(crate) fn tenant_of(&self, namespace: &str) -> Option<&Name> {
        self.tenancy.of.get(namespace)
    }

    /// The local pod on an interface.
    pub(crate) fn endpoint_on(&self, ifindex: u32) -> Option<&EndpointView> {
        self.endpoints.get(self.ports.get(&ifindex)?)
    }
}

impl EndpointView {
    /// The view of one local pod; `installed` says whether the kernel holds exactly its entry.
    pub(crate) fn new(
        status: EndpointStatus,
        member: Option<&Member>,
        settings: &Settings,
        installed: bool,
        error: Option<String>,
    ) -> Self {
        let troubles = &status.troubles;
        let condition = match member {
            _ if error.is_some() || troubles.iter().any(Trouble::is_unjudged) => EndpointCondition::Error,
            _ if troubles.iter().any(|trouble| !trouble.is_pending()) => EndpointCondition::Denied,
            _ if !status.is_claimed() || !installed => EndpointCondition::Pending,
            None => EndpointCondition::Pending,
            Some(_) if troubles.contains(&Trouble::NamespaceUnknown) => EndpointCondition::Pending,
            Some(member) if member.is_unassigned() => EndpointCondition::Unassigned,
            Some(member) if member.is_audited(settings) => EndpointCondition::Audited,
            Some(member) if member.is_shared() => EndpointCondition::Shared,
            Some(_) => EndpointCondition::Enforced,
        };
        Self { status, condition, error }
    }
}
