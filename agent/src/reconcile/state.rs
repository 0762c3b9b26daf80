//! What the reconcile loop remembers between its steps.
//!
//! Holds observations, the desired tables, the ledger of the kernel's tables, and what failed. Decides nothing: see
//! `step` for what is done with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_common::addr::V6;
use agent_common::layout::PeerKeyV4;
use agent_common::maps;

use super::schedule::{Backoff, Sweep};
use super::snapshot::Snapshot;
use crate::dataplane::{Dataplane, DataplaneError, Displacement, Port, Recheck};
use policy::model::cluster::Cluster;
use policy::model::desired::Desired;
use policy::model::dirty::Dirty;
use policy::model::guards::Guards;
use policy::model::input::EndpointKey;
use policy::model::input_guard::InputRules;
use policy::model::report::Overflows;
use policy::model::settings::Settings;
use policy::model::unprotected::UnprotectedPods;
use policy::plan::{Actual, Ledger, Table};

/// The state of the loop.
pub(crate) struct ReconcileState {
    pub(super) cluster: Cluster,
    pub(super) desired: Desired,
    pub(super) ledger: Ledger,
    pub(super) attached: BTreeMap<u32, Port>,
    /// Attached interfaces that may not run this agent's programs, or none any more.
    pub(super) doubtful: BTreeSet<u32>,
    /// Interfaces of enforced pods that the last check found without this agent's programs.
    pub(super) missing: BTreeSet<u32>,
    /// How often the programs of each local pod were missing and were attached again.
    pub(super) repairs: BTreeMap<EndpointKey, u64>,
    /// What was before ours on an interface at the last check or since then, by interface and program.
    pub(super) displaced: BTreeMap<(u32, &'static str), Displacement>,
    /// How often that happened.
    pub(super) displacements: u64,
    /// Interfaces without programs that should have them, and why.
    pub(super) bare: BTreeMap<u32, String>,
    /// Interfaces whose attachment was not tried yet; the next step tries it.
    pub(super) waiting: BTreeSet<u32>,
    /// Interfaces whose entry could not be written, and why.
    pub(super) broken: BTreeMap<u32, String>,
    /// The guards as they should be.
    pub(super) guards: Guards,
    /// The parts of the guards that failed, and why.
    pub(super) unguarded: Vec<String>,
    /// Whether the next call reads the guards back from the kernel first.
    pub(super) recheck_guards: Recheck,
    /// The rules of the input guard as last written.
    pub(super) input: InputRules,
    /// Whether the next call reads the input guard back from the kernel first.
    pub(super) recheck_input: Recheck,
    /// Why the input guard is not as it should be.
    pub(super) input_failure: Option<String>,
    /// Pods that no program judges, and since when.
    pub(super) unprotected: UnprotectedPods,
    pub(super) overflows: Overflows,
    /// Addresses that did not fit into the kernel's tables. They are added when others go.
    pub(super) refused: BTreeSet<IpAddr>,
    /// Writes that failed, or wait for one that failed.
    pub(super) pending: usize,
    /// Writes that failed and were not made since.
    pub(super) unwritten: usize,
    pub(super) failures: BTreeMap<(Table, &'static str), u64>,
    pub(super) attach_failures: u64,
    pub(super) applied_at: Option<i64>,
    pub(super) ready: bool,
    pub(super) backoff: Backoff,
    /// What must be compared again because a write failed.
    pub(super) owed: Dirty,
    pub(super) sweep: Sweep,
    /// The last IPv4 address of the kernel's table that the sweep visited.
    pub(super) swept_v4: PeerKeyV4,
    /// The last IPv6 address of the kernel's table that the sweep visited.
    pub(super) swept_v6: V6,
    /// Tables that may differ from the ledger, because the kernel refused a write for which it should have space.
    pub(super) doubts: BTreeSet<Table>,
    /// Position of the next table in the regular comparison.
    pub(super) next_compared: usize,
    /// When everything small is compared again.
    pub(super) round_at: Duration,
    /// Interfaces that existed before this agent; `None` until the first list of interfaces.
    pub(super) existing: Option<BTreeSet<u32>>,
    pub(super) snapshot: Arc<Snapshot>,
}

impl ReconcileState {
    /// Reads the kernel's tables, so that this agent continues where an earlier one stopped.
    ///
    /// # Errors
    /// A table or the list of attached programs could not be read.
    pub(crate) fn start(dataplane: &mut impl Dataplane, settings: Settings) -> Result<Self, DataplaneError> {
        let ledger = Ledger::new(dataplane.load()?, &settings.limits);
        let attached = dataplane.attached()?;
        let doubtful = not_intact(dataplane, &attached);
        Ok(Self {
            cluster: Cluster::new(settings),
            desired: Desired::default(),
            ledger,
            attached: attached.into_iter().map(|port| (port.ifindex, port)).collect(),
            doubtful,
            missing: BTreeSet::new(),
            repairs: BTreeMap::new(),
            displaced: BTreeMap::new(),
            displacements: 0,
            bare: BTreeMap::new(),
            waiting: BTreeSet::new(),
            broken: BTreeMap::new(),
            guards: Guards::default(),
            unguarded: Vec::new(),
            recheck_guards: Recheck::Kernel,
            input: InputRules::default(),
            recheck_input: Recheck::Kernel,
            input_failure: None,
            unprotected: UnprotectedPods::default(),
            overflows: Overflows::default(),
            refused: BTreeSet::new(),
            pending: 0,
            unwritten: 0,
            failures: BTreeMap::new(),
            attach_failures: 0,
            applied_at: None,
            ready: false,
            backoff: Backoff::default(),
            owed: Dirty::all(),
            sweep: Sweep::default(),
            swept_v4: PeerKeyV4::default(),
            swept_v6: V6::default(),
            doubts: BTreeSet::new(),
            next_compared: 0,
            round_at: Duration::ZERO,
            existing: None,
            snapshot: Arc::default(),
        })
    }

    /// The kernel's tables, as last written or read.
    pub(crate) fn actual(&self) -> &Actual {
        self.ledger.actual()
    }

    /// Whether the ledger knows of a free entry for `table`, although the kernel refused one.
    pub(super) fn has_free_entry(&self, table: Table) -> bool {
        let actual = self.ledger.actual();
        match table {
            // Only the map of high indexes can be full.
            Table::Endpoints => {
                let high = actual.endpoints.range(maps::ENDPOINTS.max_entries..).count();
                high < maps::ENDPOINTS_FAR.max_entries as usize
            }
            _ => actual.len(table) < self.capacity(table),
        }
    }

    /// Number of entries that `table` can hold.
    pub(super) fn capacity(&self, table: Table) -> usize {
        let limits = &self.cluster.settings().limits;
        match table {
            Table::Endpoints => (maps::ENDPOINTS.max_entries + maps::ENDPOINTS_FAR.max_entries) as usize,
            Table::PeersV4 => limits.peers_v4,
            Table::PeersV6 => limits.peers_v6,
            Table::Tenants | Table::TenantNames => limits.tenants as usize,
            Table::RowsV4 | Table::RowsV6 => usize::from(limits.rows),
            Table::PortSets => usize::from(limits.port_sets),
            Table::TrieV4 => limits.trie_v4,
            Table::TrieV6 => limits.trie_v6,
            Table::Grants => limits.grants,
            Table::OwnersV4 => limits.owners_v4,
            Table::OwnersV6 => limits.owners_v6,
            Table::Runtime => 1,
        }
    }

    /// The latest snapshot.
    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}

/// The interfaces of `ports` that do not run this agent's programs.
pub(super) fn not_intact(dataplane: &mut impl Dataplane, ports: &[Port]) -> BTreeSet<u32> {
    ports.iter().filter(|port| !dataplane.is_intact(port)).map(|port| port.ifindex).collect()
}
