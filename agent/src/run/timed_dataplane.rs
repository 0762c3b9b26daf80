//! The kernel's dataplane with measurements: how long an interface waits for its programs and its policy.
//!
//! An interface is first seen when the kernel reports it, or when programs are attached if it existed before. It has
//! its policy when its entry is written. Decides nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use agent_common::layout::EndpointEntry;

use crate::clock::Clock;
use crate::dataplane::kernel::Kernel;
use crate::dataplane::{Dataplane, DataplaneError, Displacement, Port, Recheck};
use crate::links::FirstSeen;
use crate::metrics::Recorder;
use policy::model::guards::Guards;
use policy::model::input_guard::InputRules;
use policy::plan::{Actual, Op, Table};

/// The kernel, with measurements of each interface.
pub(super) struct TimedDataplane {
    kernel: Kernel,
    recorder: Arc<Recorder>,
    first_seen: FirstSeen,
    /// Interfaces that wait for their first policy, since when, and whether their pods are denied already.
    exposed: HashMap<u32, (Instant, bool)>,
}

impl TimedDataplane {
    /// Records times of `kernel` in `recorder`.
    pub(super) fn new(kernel: Kernel, recorder: Arc<Recorder>, first_seen: FirstSeen) -> Self {
        Self { kernel, recorder, first_seen, exposed: HashMap::new() }
    }

    /// When an interface was first seen: now, unless the kernel reported it before.
    fn since(&mut self, port: &Port) -> Instant {
        let seen = || (self.first_seen.take(port.ifindex).unwrap_or_else(Instant::now), false);
        self.exposed.entry(port.ifindex).or_insert_with(seen).0
    }

    /// Records the first time that an interface has the program for packets from its pod.
    fn denied(&mut self, port: &Port, since: Instant, is_attached: bool) {
        let known = self.exposed.get_mut(&port.ifindex).filter(|_| is_attached);
        if known.is_some_and(|(_, is_denied)| !std::mem::replace(is_denied, true)) {
            self.recorder.denied(since.elapsed());
        }
    }
}

impl Dataplane for TimedDataplane {
    fn load(&mut self) -> Result<Actual, DataplaneError> {
        self.kernel.load()
    }

    fn load_table(&mut self, table: Table) -> Result<Actual, DataplaneError> {
        self.kernel.load_table(table)
    }

    fn apply(&mut self, op: &Op) -> Result<(), DataplaneError> {
        if matches!(op, Op::Generation(_)) {
            // Grants end at a time of day.
            self.kernel.set_clock_offset(Clock::now().offset_ns)?;
        }
        self.kernel.apply(op)?;
        if let Op::Endpoint(ifindex, entry) = op
            && *entry != EndpointEntry::default()
            && let Some((since, _)) = self.exposed.remove(ifindex)
        {
            self.recorder.exposed(since.elapsed());
        }
        Ok(())
    }

    fn attach_from_pod(&mut self, port: &Port) -> Result<(), DataplaneError> {
        let since = self.since(port);
        let attached = self.kernel.attach_from_pod(port);
        self.denied(port, since, attached.is_ok());
        attached
    }

    fn attach(&mut self, port: &Port) -> Result<(), DataplaneError> {
        let since = self.since(port);
        let attached = self.kernel.attach(port);
        self.denied(port, since, attached.is_ok());
        self.recorder.attached(attached.is_ok());
        attached
    }

    fn detach(&mut self, port: &Port) -> Result<(), DataplaneError> {
        self.exposed.remove(&port.ifindex);
        self.kernel.detach(port)
    }

    fn take_displacements(&mut self) -> Vec<Displacement> {
        self.kernel.take_displacements()
    }

    fn is_intact(&mut self, port: &Port) -> bool {
        self.kernel.is_intact(port)
    }

    fn sync_input(&mut self, rules: &InputRules, recheck: Recheck) -> Result<(), DataplaneError> {
        self.kernel.sync_input(rules, recheck)
    }

    fn sync_guards(&mut self, guards: &Guards, recheck: Recheck) -> Vec<DataplaneError> {
        self.kernel.sync_guards(guards, recheck)
    }

    fn attached(&mut self) -> Result<Vec<Port>, DataplaneError> {
        self.kernel.attached()
    }
}
