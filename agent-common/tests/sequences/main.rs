//! Every sequence of edits, packets, time steps and lost entries up to a length, judged by the real rules.
//!
//! Each packet's outcome is compared with the policy in force at that moment. That policy is written a second time in
//! `policy.rs`. States that were reached before are not followed again, so all sequences are covered. The tables are
//! known only by the trait `Tables`: any entry of the reply table may vanish at any moment, which is a step of its own.

mod policy;
mod tables;
#[path = "../world/mod.rs"]
mod world;

use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

use agent_common::addr::V4;
use agent_common::classify;
use agent_common::conntrack::Opener;
use agent_common::decide;
use agent_common::endpoint::Endpoint;
use agent_common::flow::Direction;
use agent_common::layout::EndpointEntry;
use agent_common::query::Query;
use policy::{Connections, Permit, Policy, Remote, Segment, Subnet};
use tables::SmallTables;
use world::{ACK, Content, FIN, Host, OTHER_POD, RST, SECOND, SYN, WORLD, World, frame};

/// A step of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Sets the grant from the pod's tenant to the other tenant.
    GrantOut(Permit),
    /// Sets the grant from the other tenant to the pod's tenant.
    GrantBack(Permit),
    /// Gives the range of the outside address to an owner.
    Give(Subnet),
    /// Increases the generation: the edits before it are in force.
    Generation,
    /// The interface is claimed again, by another pod with the same address.
    Claim,
    /// Time passes.
    Wait(u64),
    /// The entry of the connection that this side opened vanishes from the reply table.
    Forget(Opener),
    /// A packet from the pod or to it.
    Packet(Direction, Segment),
}

/// One search: a remote end, a protocol, and how many steps a sequence has.
struct Search {
    remote: Remote,
    tcp: bool,
    length: usize,
}

/// All that a sequence has led to.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    tables: SmallTables,
    /// Earlier owners of the range, which count through entries of this generation until it increases.
    earlier: BTreeSet<Subnet>,
    connections: Connections,
}

/// What a packet looks like to both paths of the verdict.
struct Sample {
    direction: Direction,
    segment: Segment,
    frame: Vec<u8>,
}

impl Search {
    fn steps(&self) -> Vec<Step> {
        let mut steps = match self.remote {
            Remote::Pod => {
                let permits = [Permit::None, Permit::Expires, Permit::Forever];
                permits.iter().flat_map(|permit| [Step::GrantOut(*permit), Step::GrantBack(*permit)]).collect()
            }
            Remote::Outside => vec![Step::Give(Subnet::Nobody), Step::Give(Subnet::Mine), Step::Give(Subnet::Theirs)],
        };
        steps.extend([Step::Generation, Step::Claim, Step::Wait(61)]);
        steps.extend([Step::Forget(Opener::Remote), Step::Forget(Opener::Pod)]);
        let segments: &[Segment] = match self.tcp {
            true => &[Segment::Syn, Segment::Ack, Segment::Fin, Segment::Reset],
            false => &[Segment::Datagram],
        };
        if self.tcp {
            steps.push(Step::Wait(2 * 3600));
        }
        let packets = Direction::ALL.into_iter().flat_map(|way| segments.iter().map(move |segment| (way, *segment)));
        steps.extend(packets.map(|(way, segment)| Step::Packet(way, segment)));
        steps
    }

    /// Follows every sequence. Returns how many there are, how many different states they reach, and how many packets
    /// passed and were denied.
    #[expect(clippy::mutable_key_type, reason = "a state is changed before it is kept, and never afterwards")]
    fn run(&self) -> [u64; 4] {
        let (steps, samples) = (self.steps(), self.samples());
        let mut seen = HashSet::new();
        let start = State { tables: SmallTables::new(), earlier: BTreeSet::new(), connections: Connections::default() };
        let mut open = vec![(start, Vec::new())];
        let mut outcomes = [0_u64; 2];
        for _ in 0..self.length {
            let mut next = Vec::new();
            for (state, path) in open {
                for (number, step) in steps.iter().enumerate() {
                    let mut reached = state.clone();
                    if let Some(passed) = reached.take(self, &samples, *step, &|| self.sequence(&path, number)) {
                        outcomes[usize::from(!passed)] += 1;
                    }
                    if seen.insert(reached.clone()) {
                        let mut longer = path.clone();
                        longer.push(number as u8);
                        next.push((reached, longer));
                    }
                }
            }
            open = next;
        }
        let sequences = (1..=self.length as u32).map(|length| (steps.len() as u64).pow(length)).sum();
        [sequences, seen.len() as u64, outcomes[0], outcomes[1]]
    }

    /// The steps of a sequence, for the message of a failure.
    fn sequence(&self, path: &[u8], last: usize) -> String {
        let steps = self.steps();
        let numbers = path.iter().map(|number| usize::from(*number)).chain([last]);
        numbers.map(|number| format!("{:?}", steps[number])).collect::<Vec<_>>().join(", ")
    }

    fn samples(&self) -> Vec<Sample> {
        let packets = self.steps().into_iter().filter_map(|step| match step {
            Step::Packet(direction, segment) => Some((direction, segment)),
            _ => None,
        });
        packets.map(|(direction, segment)| self.sample(direction, segment)).collect()
    }

    /// Both sides use the same pair of ports, whoever opens the connection.
    fn sample(&self, direction: Direction, segment: Segment) -> Sample {
        let tcp = |flags| Content::Tcp { remote: 50_000, local: 80, flags };
        let content = match segment {
            Segment::Syn => tcp(SYN),
            Segment::Ack => tcp(ACK),
            Segment::Fin => tcp(FIN | ACK),
            Segment::Reset => tcp(RST),
            Segment::Datagram => Content::Udp { remote: 50_000, local: 80 },
        };
        Sample { direction, segment, frame: frame(false, direction, self.address(), &content) }
    }

    fn address(&self) -> Host {
        match self.remote {
            Remote::Pod => OTHER_POD,
            Remote::Outside => WORLD,
        }
    }
}

impl State {
    /// Takes a step. Returns whether the packet passed, if it is one.
    fn take(&mut self, search: &Search, samples: &[Sample], step: Step, sequence: &dyn Fn() -> String) -> Option<bool> {
        match step {
            Step::GrantOut(permit) => self.tables.out = permit,
            Step::GrantBack(permit) => self.tables.back = permit,
            Step::Give(owner) => {
                self.earlier.insert(self.tables.owner);
                self.tables.owner = owner;
            }
            Step::Generation => {
                self.tables.generation += 1;
                self.earlier.clear();
            }
            Step::Claim => {
                self.tables.cookie += 1;
                self.connections = Connections::default();
            }
            Step::Wait(seconds) => self.tables.now_ns += seconds * SECOND,
            Step::Forget(opener) => {
                let cookie = self.tables.cookie;
                self.tables.replies.get_mut().retain(|(key, _)| key.cookie != cookie || key.side != opener as u8);
                self.connections.forget(opener);
            }
            Step::Packet(direction, segment) => {
                let wanted = |sample: &&Sample| sample.direction == direction && sample.segment == segment;
                let sample = samples.iter().find(wanted).expect("every packet has a frame");
                return Some(self.packet(search.remote, sample, sequence));
            }
        }
        None
    }

    /// Judges a packet on both paths, and compares with every policy in force.
    fn packet(&mut self, remote: Remote, sample: &Sample, sequence: &dyn Fn() -> String) -> bool {
        let passes = self.judge(sample, sequence);
        let now = self.tables.now_ns / SECOND;
        let policy = |owner: &Subnet| Policy { remote, out: self.tables.out, back: self.tables.back, owner: *owner };
        // An owner of before counts through entries, and only a range that nobody owns needs entries: it is the first.
        let policies: Vec<Policy> = [self.tables.owner].iter().chain(&self.earlier).map(policy).collect();
        let (way, segment) = (sample.direction, sample.segment);
        assert!(
            !passes || policies.iter().any(|policy| self.connections.may_pass(policy, way, segment, now)),
            "{way:?} {segment:?} passes, and no policy in force allows it: {}",
            sequence()
        );
        let connections = self.connections.clone();
        let exact = policies.iter().find(|policy| connections.passes(policy, way, segment, now) == passes);
        let policy = exact.unwrap_or_else(|| {
            panic!("{way:?} {segment:?}: passed is {passes}, no policy in force expects it: {}", sequence())
        });
        self.connections.remember(policy, way, segment, now, passes);
        passes
    }

    /// The verdict of the real rules: that of the fast path, which the slow path must share.
    fn judge(&mut self, sample: &Sample, sequence: &dyn Fn() -> String) -> bool {
        let entry = EndpointEntry { cookie: self.tables.cookie, ..*POD };
        let endpoint = Endpoint::new(&entry, self.tables.local()).expect("it is claimed");
        let slow_tables = self.tables.clone();
        let bytes = &sample.frame[..];
        let slow = match sample.direction {
            Direction::Egress => classify::ipv4_from_pod(bytes, &endpoint, &slow_tables),
            Direction::Ingress => classify::ipv4_to_pod(bytes, &endpoint, &slow_tables),
        };
        let query: Query<V4> = classify::fast_query(bytes, &endpoint, sample.direction).expect("an ordinary packet");
        let fast = decide::verdict(&self.tables, &query, sample.direction);
        assert!(fast == slow && self.tables == slow_tables, "{fast:?} and {slow:?} after {}", sequence());
        fast.is_allow()
    }
}

static POD: LazyLock<EndpointEntry> = LazyLock::new(|| World::default().tables.endpoints[&1]);

/// Runs a search and prints what it covered.
fn search(remote: Remote, tcp: bool, length: usize) {
    let [sequences, states, passed, denied] = Search { remote, tcp, length }.run();
    println!("{sequences} sequences of {remote:?}, tcp {tcp}: {states} states, {passed} passed, {denied} denied");
    assert!(passed > 1_000 && denied > 1_000, "not enough of each");
}

#[test]
fn no_sequence_of_edits_and_tcp_segments_with_a_pod_lets_pass_what_the_policy_denies() {
    search(Remote::Pod, true, 7);
}

#[test]
fn no_sequence_of_edits_and_datagrams_with_a_pod_lets_pass_what_the_policy_denies() {
    search(Remote::Pod, false, 8);
}

#[test]
fn no_sequence_of_edits_and_tcp_segments_with_the_outside_lets_pass_what_the_policy_denies() {
    search(Remote::Outside, true, 7);
}

#[test]
fn no_sequence_of_edits_and_datagrams_with_the_outside_lets_pass_what_the_policy_denies() {
    search(Remote::Outside, false, 8);
}
