//! The kernel, as the loop sees it: told the time of day, and timed.
//!
//! An interface is first seen when the kernel tells of it, or when programs are attached to it if it was
//! there before, and has its policy when its entry is written. Knows neither why.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use agent_common::layout::EndpointEntry;

use crate::dataplane::kernel::Kernel;
use crate::dataplane::{Dataplane, DataplaneError, Port};
use crate::events::Clock;
use crate::links::Sightings;
use crate::metrics::Recorder;
use policy::model::guards::Guards;
use policy::plan::{Actual, Op};

/// The kernel with a watch in its hand.
pub struct Timed {
    kernel: Kernel,
    recorder: Arc<Recorder>,
    sightings: Sightings,
    /// Interfaces that wait for their first policy, since when, and whether nothing comes out of them.
    exposed: HashMap<u32, (Instant, bool)>,
}

impl Timed {
    /// Of this kernel, telling times to `recorder`.
    pub fn new(kernel: Kernel, recorder: Arc<Recorder>, sightings: Sightings) -> Self {
        Self { kernel, recorder, sightings, exposed: HashMap::new() }
    }

    /// When an interface was first seen, which is now unless the kernel told of it.
    fn since(&mut self, port: &Port) -> Instant {
        let seen = || (self.sightings.take(port.ifindex).unwrap_or_else(Instant::now), false);
        self.exposed.entry(port.ifindex).or_insert_with(seen).0
    }

    /// Notes that nothing comes out of an interface any more, the first time.
    fn denied(&mut self, port: &Port, since: Instant, is_shut: bool) {
        let known = self.exposed.get_mut(&port.ifindex).filter(|_| is_shut);
        if known.is_some_and(|(_, is_denied)| !std::mem::replace(is_denied, true)) {
            self.recorder.denied(since.elapsed());
        }
    }
}

impl Dataplane for Timed {
    fn load(&mut self) -> Result<Actual, DataplaneError> {
        self.kernel.load()
    }

    fn apply(&mut self, op: &Op) -> Result<(), DataplaneError> {
        if matches!(op, Op::Generation(_)) {
            // Grants end by the time of day.
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

    fn shut(&mut self, port: &Port) -> Result<(), DataplaneError> {
        let since = self.since(port);
        let shut = self.kernel.shut(port);
        self.denied(port, since, shut.is_ok());
        shut
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

    fn is_intact(&mut self, port: &Port) -> bool {
        self.kernel.is_intact(port)
    }

    fn sync_guards(&mut self, guards: &Guards, look: bool) -> Vec<DataplaneError> {
        self.kernel.sync_guards(guards, look)
    }

    fn attached(&mut self) -> Result<Vec<Port>, DataplaneError> {
        self.kernel.attached()
    }
}
