//! One step of the loop, without a loop: news in, writes out, what to remember in between.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_common::addr::V6;
use agent_common::layout::{EndpointEntry, PeerKeyV4};

use super::execute::{Failure, execute};
use super::pace::{Backoff, Now, ROUND, Sweep};
use super::publish;
use super::snapshot::Snapshot;
use crate::dataplane::{Dataplane, DataplaneError, Port};
use policy::model::cluster::{Cluster, Touched};
use policy::model::desired::Desired;
use policy::model::endpoints::is_pods;
use policy::model::guards::{self, Guards};
use policy::model::input::{Change, EndpointKey};
use policy::model::pod::{v4_addr, v6_addr};
use policy::model::report::Overflows;
use policy::model::settings::Settings;
use policy::plan::{Actual, Ledger, Op, Plan, Table, diff};

/// Plans one step makes at most: the first does the work, the next gives numbers and rows free that
/// the first let go of.
const PLANS: usize = 3;

/// What the loop remembers.
pub struct State {
    pub(super) cluster: Cluster,
    pub(super) desired: Desired,
    pub(super) ledger: Ledger,
    pub(super) attached: BTreeMap<u32, Port>,
    /// Attached interfaces that may not run our programs: another agent's, or none any more.
    doubtful: BTreeSet<u32>,
    /// Interfaces of enforced pods that the last look found without this agent's programs.
    missing: BTreeSet<u32>,
    /// How often the programs of each local pod were missing and were attached again.
    pub(super) repairs: BTreeMap<EndpointKey, u64>,
    /// Interfaces without programs that should have them, and why.
    pub(super) bare: BTreeMap<u32, String>,
    /// Interfaces that nobody has tried to attach yet: the next step does.
    waiting: BTreeSet<u32>,
    /// Endpoints' writes that failed, and why.
    pub(super) broken: BTreeMap<u32, String>,
    /// The guards as they should be, and what of it could not be done.
    pub(super) guards: Guards,
    pub(super) unguarded: Vec<String>,
    /// What holds the guards in the kernel is to be read again.
    recheck_guards: bool,
    pub(super) overflows: Overflows,
    /// Addresses for which the kernel has no room. Existing ones stay; these come when one goes.
    pub(super) refused: BTreeSet<IpAddr>,
    pub(super) pending: usize,
    pub(super) failures: BTreeMap<(Table, &'static str), u64>,
    pub(super) attach_failures: u64,
    pub(super) applied_at: Option<i64>,
    pub(super) ready: bool,
    pub(super) backoff: Backoff,
    owed: Touched,
    sweep: Sweep,
    swept_v4: PeerKeyV4,
    swept_v6: V6,
    look_at: Duration,
    /// Interfaces that were there before this agent; nothing until links were told.
    found: Option<BTreeSet<u32>>,
    snapshot: Arc<Snapshot>,
}

/// Interfaces attached in one step, before their pods are claimed. Each waits for a grace period or two
/// (some 30 ms), in which those attached before it are denied.
const AT_ONCE: usize = 8;

/// What a step did and when the next is due without news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Writes that were made.
    pub applied: usize,
    /// Writes that were not.
    pub pending: usize,
    /// Whether the kernel now holds all that was told, as far as it was told.
    pub in_force: bool,
    /// When to step again at the latest.
    pub wake: Duration,
    /// Whether there is a new snapshot.
    pub published: bool,
}

impl State {
    /// Reads the kernel's tables: what an earlier agent left is where this one starts.
    pub fn start(dataplane: &mut impl Dataplane, settings: Settings) -> Result<Self, DataplaneError> {
        let ledger = Ledger::new(dataplane.load()?, &settings.limits);
        let attached = dataplane.attached()?;
        let doubtful = doubtful(dataplane, &attached);
        Ok(Self {
            cluster: Cluster::new(settings),
            desired: Desired::default(),
            ledger,
            attached: attached.into_iter().map(|port| (port.ifindex, port)).collect(),
            doubtful,
            missing: BTreeSet::new(),
            repairs: BTreeMap::new(),
            bare: BTreeMap::new(),
            waiting: BTreeSet::new(),
            broken: BTreeMap::new(),
            guards: Guards::default(),
            unguarded: Vec::new(),
            recheck_guards: true,
            overflows: Overflows::default(),
            refused: BTreeSet::new(),
            pending: 0,
            failures: BTreeMap::new(),
            attach_failures: 0,
            applied_at: None,
            ready: false,
            backoff: Backoff::default(),
            owed: Touched::all(),
            sweep: Sweep::default(),
            swept_v4: PeerKeyV4::default(),
            swept_v6: V6::default(),
            look_at: Duration::ZERO,
            found: None,
            snapshot: Arc::default(),
        })
    }

    /// Reads the kernel's tables again, after a doubt: the next step repairs every difference.
    pub fn reload(&mut self, dataplane: &mut impl Dataplane) -> Result<(), DataplaneError> {
        self.ledger = Ledger::new(dataplane.load()?, &self.cluster.settings().limits);
        self.attached = dataplane.attached()?.into_iter().map(|port| (port.ifindex, port)).collect();
        self.owed = Touched::all();
        self.backoff = Backoff::default();
        Ok(())
    }

    /// What the kernel holds, as far as we wrote or read it.
    pub fn actual(&self) -> &Actual {
        self.ledger.actual()
    }

    /// What we know.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The latest snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}

/// Takes in `changes`, brings the kernel to what now should be, and says when to come again.
pub fn step(state: &mut State, dataplane: &mut impl Dataplane, changes: Vec<Change>, now: Now) -> Outcome {
    let mut touched = Touched::default();
    changes.into_iter().for_each(|change| touched.add(state.cluster.apply(change)));
    if !state.cluster.is_complete() {
        state.hold_newcomers(dataplane);
        // Whatever was touched so far is part of the "everything" that is owed at start.
        return Outcome { applied: 0, pending: 0, in_force: false, wake: now.tick + ROUND, published: false };
    }
    let retried = state.add_due(dataplane, &mut touched, now);
    if touched.is_nothing() && !state.is_expired(now) {
        return state.outcome(0, false, now);
    }
    let applied = state.reconcile(dataplane, touched, retried, now);
    let published = publish::publish(state).map(|snapshot| state.snapshot = Arc::new(snapshot)).is_some();
    state.outcome(applied, published, now)
}

impl State {
    fn outcome(&self, applied: usize, published: bool, now: Now) -> Outcome {
        let in_force = self.pending == 0 && self.waiting.is_empty();
        Outcome { applied, pending: self.pending, in_force, wake: self.wake(now), published }
    }

    /// Adds what is due without news; says whether that includes all that failed before.
    fn add_due(&mut self, dataplane: &mut impl Dataplane, touched: &mut Touched, now: Now) -> bool {
        let retry = self.backoff.due().is_none() || self.backoff.is_due(now.tick);
        if retry {
            touched.add(std::mem::take(&mut self.owed));
        }
        touched.endpoints |= !self.waiting.is_empty();
        if self.look_at <= now.tick {
            self.look_at = now.tick + ROUND;
            self.look_at_ports(dataplane);
            self.recheck_guards = true;
            touched.add(Touched { ranges: true, tenancy: true, endpoints: true, ..Touched::default() });
        }
        if !touched.everything {
            self.sweep(touched, now);
        }
        retry
    }

    /// What is attached is a matter of observation: somebody may have removed a program.
    fn look_at_ports(&mut self, dataplane: &mut impl Dataplane) {
        match dataplane.attached() {
            Ok(ports) => {
                let doubtful = doubtful(dataplane, &ports);
                let ports: BTreeMap<u32, Port> = ports.into_iter().map(|port| (port.ifindex, port)).collect();
                let was_intact = |ifindex: &u32| !self.doubtful.contains(ifindex);
                let is_gone = |ifindex: &u32| doubtful.contains(ifindex) || !ports.contains_key(ifindex);
                let lost = self.attached.keys().filter(|ifindex| was_intact(ifindex) && is_gone(ifindex));
                self.missing = lost.filter(|ifindex| self.snapshot.ports.contains_key(ifindex)).copied().collect();
                self.repairs.retain(|pod, _| self.snapshot.endpoints.contains_key(pod));
                self.doubtful = doubtful;
                self.attached = ports;
            }
            Err(error) => tracing::warn!(error = describe(&error), "cannot see what is attached"),
        }
    }

    /// The slow look at all addresses: those we know of, and those that only the kernel still has.
    fn sweep(&mut self, touched: &mut Touched, now: Now) {
        let (book, actual) = (self.cluster.book(), self.ledger.actual());
        let slices: Vec<usize> = self.sweep.stride(book.len().max(actual.peers_v4.len()), now.tick).collect();
        slices.iter().flat_map(|slice| book.slice(*slice)).for_each(|address| touched.address(address));
        let keys = |len: usize| len * slices.len() / policy::model::book::SLICES + usize::from(!slices.is_empty());
        let v4: Vec<PeerKeyV4> =
            actual.peers_v4.range(self.swept_v4..).take(keys(actual.peers_v4.len())).map(|(key, _)| *key).collect();
        let v6: Vec<V6> =
            actual.peers_v6.range(self.swept_v6..).take(keys(actual.peers_v6.len())).map(|(key, _)| *key).collect();
        let addresses = v4.iter().map(|key| IpAddr::from(v4_addr(key.address)));
        let addresses = addresses.chain(v6.iter().map(|address| v6_addr(*address).into()));
        addresses.filter(|address| book.get(*address).is_none()).for_each(|address| touched.address(address));
        if !slices.is_empty() {
            // Past the last one, start over.
            let end_v4 = actual.peers_v4.last_key_value().map(|(key, _)| *key);
            let end_v6 = actual.peers_v6.last_key_value().map(|(key, _)| *key);
            self.swept_v4 = v4.last().copied().filter(|last| Some(*last) != end_v4).unwrap_or_default();
            self.swept_v6 = v6.last().copied().filter(|last| Some(*last) != end_v6).unwrap_or_default();
        }
    }

    fn is_expired(&self, now: Now) -> bool {
        self.desired.grants.next_end.is_some_and(|end| end <= now.unix)
    }

    fn wake(&self, now: Now) -> Duration {
        if !self.waiting.is_empty() {
            return now.tick;
        }
        let expiry = self
            .desired
            .grants
            .next_end
            .map(|end| now.tick + Duration::from_secs(u64::try_from(end.saturating_sub(now.unix)).unwrap_or(0)));
        let due = [Some(self.look_at), Some(self.sweep.due()), self.backoff.due(), expiry];
        due.into_iter().flatten().min().unwrap_or(self.look_at)
    }

    fn reconcile(&mut self, dataplane: &mut impl Dataplane, mut touched: Touched, retried: bool, now: Now) -> usize {
        let ledger = &self.ledger;
        let mentions = |id| ledger.mentions(id);
        self.desired.refresh(&self.cluster, &ledger.held(&mentions), now.unix, &mut touched);
        if touched.endpoints {
            self.attach(dataplane);
            self.broken.clear();
        }
        let (applied, mut failures) = self.apply(dataplane, &mut touched, now);
        failures.retain(|failure| !matches!(failure.op, Op::Endpoint(ifindex, _) if self.waiting.contains(&ifindex)));
        if touched.endpoints {
            self.guard(dataplane);
            self.detach(dataplane);
        }
        if applied > 0 {
            self.applied_at = Some(now.unix);
        }
        self.ready |= !self.sweep.is_hurried() && self.waiting.is_empty();
        self.settle(failures, retried, now);
        applied
    }

    fn apply(&mut self, dataplane: &mut impl Dataplane, touched: &mut Touched, now: Now) -> (usize, Vec<Failure>) {
        let mut applied = 0;
        let mut failures = Vec::new();
        let bare: BTreeSet<u32> = self.bare.keys().chain(&self.waiting).copied().collect();
        for _ in 0..PLANS {
            let plan = diff(&self.cluster, &self.desired, &self.ledger, touched);
            let again = self.note_plan(&plan, touched, now);
            let ops = plan.ops.len();
            failures = execute(dataplane, &mut self.ledger, plan.ops, &bare);
            applied += ops - failures.len();
            if !again || !failures.is_empty() {
                break;
            }
            *touched = Touched { tenancy: true, endpoints: touched.endpoints, ..Touched::default() };
        }
        (applied, failures)
    }

    /// Notes what a plan could not do; says whether another may do more once this one is applied.
    fn note_plan(&mut self, plan: &Plan, touched: &Touched, now: Now) -> bool {
        let makes_room = plan.ops.iter().any(|op| matches!(op, Op::PeerV4(_, None) | Op::PeerV6(_, None)));
        if plan.deferred || (makes_room && !self.refused.is_empty()) {
            self.sweep.hurry(now.tick);
        }
        touched.addresses.iter().for_each(|address| _ = self.refused.remove(address));
        self.refused.extend(plan.refused.iter().copied());
        let policy = touched.tenancy || touched.everything;
        if policy {
            self.overflows = plan.overflows.clone();
        }
        let lost = self.ledger.actual().names.keys().any(|id| !self.desired.names.contains_key(id));
        policy && (lost || !plan.overflows.as_slice().is_empty())
    }

    /// What failed is owed, and tried again after a pause; what only waited for a bare interface is
    /// tried again with it.
    fn settle(&mut self, failures: Vec<Failure>, retried: bool, now: Now) {
        for failure in &failures {
            owe(&mut self.owed, &failure.op);
            let Some(error) = &failure.error else { continue };
            *self.failures.entry((failure.op.table(), error.label())).or_default() += 1;
            if let Op::Endpoint(ifindex, _) = failure.op {
                self.broken.insert(ifindex, describe(error));
            }
            tracing::warn!(table = failure.op.table().as_str(), error = describe(error), "write failed");
        }
        self.owed.endpoints |= !self.bare.is_empty();
        if retried {
            self.pending = failures.len().max(self.bare.len());
            self.backoff.ended(!self.owed.is_nothing(), now.tick);
        } else if !failures.is_empty() {
            self.pending += failures.len();
            self.backoff.failed(now.tick);
        }
    }
}

/// Interfaces.
impl State {
    /// Denies interfaces that appear while the sources are still telling: nobody was promised
    /// anything on them yet. Those that were there before keep what they have, programs or none,
    /// until everything is known: who has connections would lose them to our ignorance.
    fn hold_newcomers(&mut self, dataplane: &mut impl Dataplane) {
        let links = self.cluster.links();
        if !self.cluster.settings().hold_unknown || links.is_empty() {
            return;
        }
        let found = self.found.get_or_insert_with(|| links.keys().copied().collect());
        let new = links.values().filter(|link| is_pods(link, &self.cluster) && !found.contains(&link.ifindex));
        let ports = new.map(|link| Port { ifindex: link.ifindex, name: link.name.clone() });
        let bare: Vec<Port> = ports.filter(|port| self.attached.get(&port.ifindex) != Some(port)).collect();
        for port in bare {
            // An index that was used before may still have its last owner's entry.
            let stale = self.ledger.actual().endpoints.contains_key(&port.ifindex);
            let clear = stale.then(|| Op::Endpoint(port.ifindex, EndpointEntry::default()));
            let failures = execute(dataplane, &mut self.ledger, clear.into_iter().collect(), &BTreeSet::new());
            if failures.is_empty() && dataplane.attach(&port).is_ok() {
                self.attached.insert(port.ifindex, port);
            }
        }
    }

    fn attach(&mut self, dataplane: &mut impl Dataplane) {
        self.bare.clear();
        self.waiting.clear();
        let mut room = AT_ONCE;
        // What pods send first: each program takes as long as the other, and this one shuts the door.
        let (mut shut, mut failed) = (Vec::new(), Vec::new());
        // The newest first: a pod that starts now must not wait for those that have run for days.
        for (ifindex, name) in self.desired.endpoints.ports.iter().rev() {
            let port = Port { ifindex: *ifindex, name: name.clone() };
            let is_known = self.attached.get(ifindex) == Some(&port);
            if is_known && !self.doubtful.contains(ifindex) {
                continue;
            }
            if !is_known && room == 0 {
                self.waiting.insert(*ifindex);
                continue;
            }
            match dataplane.shut(&port) {
                Ok(()) => {
                    room -= usize::from(!is_known);
                    shut.push(port);
                }
                Err(error) => failed.push((port, error)),
            }
        }
        for port in shut {
            match dataplane.attach(&port) {
                Ok(()) => {
                    self.doubtful.remove(&port.ifindex);
                    if self.missing.remove(&port.ifindex)
                        && let Some(pod) = self.snapshot.ports.get(&port.ifindex)
                    {
                        *self.repairs.entry(pod.clone()).or_default() += 1;
                    }
                    self.attached.insert(port.ifindex, port);
                }
                Err(error) => failed.push((port, error)),
            }
        }
        failed.iter().for_each(|(port, error)| self.leave_bare(port, error));
    }

    fn leave_bare(&mut self, port: &Port, error: &DataplaneError) {
        // Not ours to mourn: the next list of links will not have it.
        if !matches!(error, DataplaneError::Gone(_)) {
            self.attach_failures += 1;
            let (interface, ifindex) = (&port.name, port.ifindex);
            tracing::warn!(interface, ifindex, error = describe(error), "attach failed");
        }
        self.bare.insert(port.ifindex, describe(error));
    }

    /// Brings the guards to what is known now. After the claims, so that a guard that is put in place
    /// finds those of the pods that are there already; the first time, of all of them.
    fn guard(&mut self, dataplane: &mut impl Dataplane) {
        if self.guards == Guards::default() && !self.waiting.is_empty() {
            return;
        }
        let attached = self.attached.keys().copied().collect();
        let (endpoints, entries) = (&self.desired.endpoints, &self.ledger.actual().endpoints);
        let wanted = guards::compile(&self.cluster, endpoints, entries, &attached);
        if wanted == self.guards && !self.recheck_guards && self.unguarded.is_empty() {
            return;
        }
        let failed = dataplane.sync_guards(&wanted, std::mem::take(&mut self.recheck_guards));
        self.owed.endpoints |= !failed.is_empty();
        self.unguarded = failed.iter().map(describe).collect();
        self.guards = wanted;
    }

    /// Lets go of interfaces that vanished, and of unclaimed ones if the settings say so, once their
    /// entries are cleared.
    fn detach(&mut self, dataplane: &mut impl Dataplane) {
        let release = self.cluster.settings().release_unclaimed;
        let is_idle = |ifindex: &u32| {
            let exists = self.cluster.links().contains_key(ifindex);
            let wanted = self.desired.endpoints.ports.contains_key(ifindex);
            !wanted && (!exists || release) && !self.ledger.actual().endpoints.contains_key(ifindex)
        };
        let idle: Vec<u32> = self.attached.keys().copied().filter(is_idle).collect();
        for ifindex in idle {
            let Some(port) = self.attached.get(&ifindex) else { continue };
            match dataplane.detach(port) {
                Ok(()) => _ = self.attached.remove(&ifindex),
                Err(error) => {
                    self.attach_failures += 1;
                    self.owed.endpoints = true;
                    tracing::warn!(interface = port.name, ifindex, error = describe(&error), "detach failed");
                }
            }
        }
    }
}

fn doubtful(dataplane: &mut impl Dataplane, ports: &[Port]) -> BTreeSet<u32> {
    ports.iter().filter(|port| !dataplane.is_intact(port)).map(|port| port.ifindex).collect()
}

/// What must be looked at again because `op` was not written.
fn owe(owed: &mut Touched, op: &Op) {
    match op {
        Op::PeerV4(key, _) => owed.address(v4_addr(key.address).into()),
        Op::PeerV6(address, _) => owed.address(v6_addr(*address).into()),
        Op::Endpoint(..) => owed.endpoints = true,
        Op::OwnerV4(..) | Op::OwnerV6(..) => owed.ranges = true,
        _ => owed.tenancy = true,
    }
}

/// An error with its causes on one line.
fn describe(error: &DataplaneError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
