//! The connectivity matrix: sockets probe every pair of hosts, and a hand-written table states which probes must pass.
//!
//! The table states the policy of `Config::two_tenants`. It shares no code with the agent.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;

use crate::host::{Family, Host};
use crate::probe::{Outcome, Transport, probe};
use crate::world::World;

/// One probe: the sender, the destination and the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// The sender.
    pub from: Host,
    /// The destination.
    pub to: Host,
    /// The address family.
    pub family: Family,
    /// The transport.
    pub transport: Transport,
}

/// Outcomes by probe.
pub type Matrix = BTreeMap<Cell, Outcome>;

/// All probes from pods of this node, and all probes from other hosts to them.
pub fn questions() -> Vec<Cell> {
    let from_pods = pairs(&Host::PODS, &Host::ALL);
    let others = [Host::AcmeFar, Host::GlobexFar, Host::AcmeDb, Host::GlobexDb, Host::Internet, Host::Node];
    let to_pods = pairs(&others, &Host::PODS);
    from_pods.into_iter().chain(to_pods).flat_map(|(from, to)| over_each_transport(from, to)).collect()
}

/// Every family and transport between two hosts.
pub fn over_each_transport(from: Host, to: Host) -> Vec<Cell> {
    let all = Family::ALL.into_iter().flat_map(|family| Transport::ALL.map(|transport| (family, transport)));
    all.map(|(family, transport)| Cell { from, to, family, transport }).collect()
}

fn pairs(from: &[Host], to: &[Host]) -> Vec<(Host, Host)> {
    let all = from.iter().flat_map(|from| to.iter().map(|to| (*from, *to)));
    all.filter(|(from, to)| from != to).collect()
}

/// Sends all probes at once.
pub fn probe_all(world: &World, questions: &[Cell]) -> Matrix {
    let (sender, answers) = mpsc::channel();
    thread::scope(|scope| {
        for from in Host::ALL {
            let cells: Vec<Cell> = questions.iter().copied().filter(|cell| cell.from == from).collect();
            let sender = sender.clone();
            scope.spawn(move || {
                // A thread inherits the namespace of the thread that starts it.
                world.netns(from).run(|| {
                    thread::scope(|inside| {
                        for cell in cells {
                            let sender = sender.clone();
                            let prober = thread::Builder::new().stack_size(128 << 10);
                            let spawned = prober.spawn_scoped(inside, move || sender.send((cell, probe_one(cell))));
                            spawned.expect("a thread can be started");
                        }
                    });
                });
            });
        }
        drop(sender);
        answers.into_iter().collect()
    })
}

/// Sends one probe.
pub fn probe_in(world: &World, cell: Cell) -> Outcome {
    world.netns(cell.from).run(|| probe_one(cell))
}

fn probe_one(cell: Cell) -> Outcome {
    // The node uses the address that its routes choose, as a kubelet does.
    let source = (cell.from != Host::Node).then(|| cell.from.address(cell.family));
    probe(cell.transport, source, SocketAddr::new(cell.to.address(cell.family), cell.to.port()))
}

/// Whether the policy of `Config::two_tenants` lets this probe and its answer pass.
pub fn allowed(cell: Cell) -> bool {
    use Host::*;
    match (cell.from, cell.to) {
        // From pods.
        (AcmeWeb | AcmeApi, AcmeWeb | AcmeApi | AcmeFar | Dns) => true,
        (GlobexWeb | GlobexApi, GlobexWeb | GlobexApi | GlobexFar | Dns) => true,
        // A Shared tenant reaches all pods and the node's own services, but no tenant's subnet.
        (Dns, AcmeWeb | AcmeApi | AcmeFar | GlobexWeb | GlobexApi | GlobexFar | Internet | Node) => true,
        (AcmeWeb | AcmeApi, AcmeDb) => cell.transport == Transport::Tcp,
        (GlobexWeb | GlobexApi, GlobexDb) => true,
        // From other hosts to pods.
        (AcmeFar | AcmeDb, AcmeWeb | AcmeApi) => true,
        (GlobexFar | GlobexDb, GlobexWeb | GlobexApi) => true,
        (AcmeFar | GlobexFar, Dns) => true,
        // All pods reach the Shared tenant, but hosts in a tenant's subnet do not.
        (AcmeDb | GlobexDb, Dns) => false,
        (Internet | Node, AcmeWeb | AcmeApi | GlobexWeb | GlobexApi | Dns) => true,
        _ => false,
    }
}

/// A probe whose outcome is not as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The probe.
    pub cell: Cell,
    /// Whether an answer was expected.
    pub expected: bool,
    /// What happened.
    pub got: Outcome,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cell { from, to, family, transport } = self.cell;
        let expected = if self.expected { "an answer" } else { "silence" };
        write!(
            f,
            "{} -> {} {} {family:?}: expected {expected}, got {:?}",
            from.name(),
            to.name(),
            transport.name(),
            self.got
        )
    }
}

/// The probes whose outcome is not as `expected`. If no answer is expected, only silence is right: a refusal would
/// prove that the packet arrived.
pub fn mismatches(matrix: &Matrix, expected: impl Fn(Cell) -> bool) -> Vec<Mismatch> {
    let judged = matrix.iter().map(|(cell, got)| Mismatch { cell: *cell, expected: expected(*cell), got: *got });
    judged.filter(|m| m.got != if m.expected { Outcome::Answered } else { Outcome::Silence }).collect()
}

/// How many answers of one round may be late, because hundreds of probes run at the same time.
const LATE: usize = 8;

/// Sends all probes and panics with every cell that is not as expected. A few late answers are probed again, one by
/// one. A probe that must get no answer is never repeated.
pub fn assert_matrix(world: &World, expected: impl Fn(Cell) -> bool) {
    let asked: Vec<Cell> = questions();
    let mut wrong = mismatches(&probe_all(world, &asked), expected);
    if wrong.len() <= LATE {
        let late = |m: &Mismatch| m.expected && m.got == Outcome::Silence;
        wrong.retain(|m| !(late(m) && probe_in(world, m.cell) == Outcome::Answered));
    }
    let lines: Vec<String> = wrong.iter().map(Mismatch::to_string).collect();
    assert!(wrong.is_empty(), "{} of {} cells are not as expected:\n{}", wrong.len(), asked.len(), lines.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_both_outcomes_for_every_pod_and_transport() {
        let questions = questions();
        for host in Host::PODS {
            for transport in Transport::ALL {
                let row: Vec<bool> = questions
                    .iter()
                    .filter(|c| c.from == host && c.transport == transport)
                    .map(|c| allowed(*c))
                    .collect();
                assert!(row.contains(&true) && row.contains(&false), "{host:?} {transport:?}");
            }
        }
    }
}
