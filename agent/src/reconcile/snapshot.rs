//! What everybody else may know: names for numbers, how each local pod stands, what did not work.
//!
//! A snapshot is a value that never changes; the large parts are shared with the cluster and cost a
//! pointer each. Nobody who reads one can hold up the loop.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use agent_common::layout::PeerEntry;
use agent_common::tenant::{TenantId, TenantState};

use policy::model::book::Book;
use policy::model::endpoints::Standing;
use policy::model::guards::Guards;
use policy::model::input::EndpointKey;
use policy::model::pod::Pod;
use policy::model::report::{Conflict, Overflow, Trouble};
use policy::model::settings::Settings;
use policy::model::tenancy::{Member, Tenancy};
use policy::model::word::Word;
use policy::plan::Table;

/// One moment of the agent's knowledge.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Rises with every snapshot that differs from the one before.
    pub revision: u64,
    /// Everything was told once and written once: what the kernel enforces is the objects' policy.
    pub ready: bool,
    /// Seconds since 1970 of the last write to the kernel.
    pub applied_at: Option<i64>,
    /// Generation of the policy in the kernel.
    pub generation: u64,
    /// Writes that failed or wait for one that failed.
    pub pending: usize,
    /// Attempts that failed in a row.
    pub failed_attempts: u32,
    /// Writes that failed since start, by table and kind of error.
    pub failures: BTreeMap<(Table, &'static str), u64>,
    /// Programs that could not be attached or detached since start.
    pub attach_failures: u64,
    /// Settings of the model.
    pub settings: Arc<Settings>,
    /// Pods by address.
    pub book: Book,
    /// Addresses of nodes.
    pub nodes: Arc<BTreeSet<IpAddr>>,
    /// Entry of each namespace's pods.
    pub directory: Arc<HashMap<Word, PeerEntry>>,
    /// Who belongs to whom, and the objects.
    pub tenancy: Arc<Tenancy>,
    /// Tenants by number.
    pub tenants: Arc<BTreeMap<TenantId, TenantView>>,
    /// Local pods.
    pub endpoints: Arc<BTreeMap<EndpointKey, EndpointView>>,
    /// How often the programs of each local pod were missing and were attached again.
    pub repairs: Arc<BTreeMap<EndpointKey, u64>>,
    /// Local pods by interface.
    pub ports: Arc<BTreeMap<u32, EndpointKey>>,
    /// Who goes without what, and why.
    pub conflicts: Arc<Vec<Conflict>>,
    /// What did not fit.
    pub overflows: Arc<Vec<Overflow>>,
    /// How full the tables are.
    pub tables: Vec<Fill>,
    /// The guards as they should be.
    pub guards: Arc<Guards>,
    /// What of them could not be put in place, and why.
    pub unguarded: Arc<Vec<String>>,
}

/// A tenant by its number.
#[derive(Clone, Debug)]
pub struct TenantView {
    /// Name.
    pub name: Word,
    /// Where it comes from, and its object.
    pub member: Member,
    /// What the kernel holds of it. Slots pass from tenant to tenant: whoever reads counters by
    /// slot must start a new series when the owner of a slot changes.
    pub state: TenantState,
}

/// A local pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// What the model says of it.
    pub standing: Standing,
    /// What holds in the kernel.
    pub condition: Condition,
    /// Why its programs or its entry could not be installed.
    pub error: Option<String>,
}

/// How a local pod stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// Its tenant's policy is enforced.
    Enforced,
    /// Its tenant's policy is only reported.
    Audited,
    /// Its namespace is in no tenant.
    Unassigned,
    /// It belongs to a shared tenant.
    Shared,
    /// Denied until something appears: an interface, an address, its namespace.
    Pending,
    /// Something is wrong with what it claims, or a write failed.
    Error,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Enforced, Self::Audited, Self::Unassigned, Self::Shared, Self::Pending, Self::Error];

    /// The word used in metrics and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Audited => "audited",
            Self::Unassigned => "unassigned",
            Self::Shared => "shared",
            Self::Pending => "pending",
            Self::Error => "error",
        }
    }
}

/// How full a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Which.
    pub table: Table,
    /// Entries.
    pub used: usize,
    /// Room.
    pub limit: usize,
}

impl Snapshot {
    /// The pod at an address, if exactly one is there.
    pub fn pod(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.book.get(address)
    }

    /// The tenant of a namespace with pods.
    pub fn tenant_of(&self, namespace: &str) -> Option<&Word> {
        self.tenancy.of.get(namespace)
    }

    /// The name of a number.
    pub fn tenant_name(&self, id: TenantId) -> Option<&Word> {
        self.tenants.get(&id).map(|tenant| &tenant.name)
    }

    /// The local pod on an interface.
    pub fn endpoint_on(&self, ifindex: u32) -> Option<&EndpointView> {
        self.endpoints.get(self.ports.get(&ifindex)?)
    }
}

impl EndpointView {
    /// Judges one local pod: `installed` says whether the kernel holds exactly its entry.
    pub fn new(
        standing: Standing,
        member: Option<&Member>,
        settings: &Settings,
        installed: bool,
        error: Option<String>,
    ) -> Self {
        let troubles = &standing.troubles;
        let wrong = error.is_some() || troubles.iter().any(|trouble| !trouble.is_pending());
        let condition = match member {
            _ if wrong => Condition::Error,
            _ if !standing.is_claimed() || !installed => Condition::Pending,
            None => Condition::Pending,
            Some(_) if troubles.contains(&Trouble::NamespaceUnknown) => Condition::Pending,
            Some(member) if member.is_unassigned() => Condition::Unassigned,
            Some(member) if member.is_audited(settings) => Condition::Audited,
            Some(member) if member.is_shared() => Condition::Shared,
            Some(_) => Condition::Enforced,
        };
        Self { standing, condition, error }
    }
}
