//! The connectivity matrix of the cluster: all probes, and their outcomes.
//!
//! A socket in the sender's own network namespace sends each probe. Many run at a time, because most of the time is
//! spent waiting for answers that must not come.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::thread;

use super::world::{ClusterWorld, NODE_PORT, OTHER_PORT, OUTSIDE, PORT, SERVICE_PORT, SHOP_NODE_PORT, of_family};
use crate::host::Family;
use crate::netns::Netns;
use crate::probe::{self, Outcome, Transport};

/// How many probes run at once. With more, answers are late on two cores.
const AT_ONCE: usize = 400;
/// The stack of a thread, which only waits for a socket.
const STACK: usize = 128 << 10;

/// One end of a probe: an index into the lists of [`ClusterWorld`], or a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A pod.
    Pod(usize),
    /// A Service's own address.
    Service(usize),
    /// A node.
    Node(usize),
    /// The port of acme's shop on a node.
    NodePort(usize),
    /// An address on the database host.
    Outside(usize),
    /// The API server's own Service; IPv4 only.
    ApiService,
    /// The API server at its host.
    ApiServer,
    /// The cluster's DNS, by its Service.
    Dns,
}

/// The transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A message and its echo.
    Echo(Transport),
    /// A TCP connection without data.
    Connect,
}

/// One probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The sender.
    pub from: Side,
    /// The destination.
    pub to: Side,
    /// The address family.
    pub family: Family,
    /// The transport.
    pub how: How,
    /// The port.
    pub port: u16,
}

/// All probes.
pub fn questions(world: &ClusterWorld) -> Vec<Question> {
    let pods = (0..world.pods.len()).map(Side::Pod);
    let outside = (0..OUTSIDE.len()).map(Side::Outside);
    let nodes = (0..world.nodes.len()).map(Side::Node);
    let mut targets: Vec<Side> = pods.clone().chain(outside.clone()).chain(nodes.clone()).collect();
    targets.extend((0..world.services.len()).map(Side::Service));
    targets.extend((0..world.nodes.len()).map(Side::NodePort));
    targets.extend([Side::ApiService, Side::ApiServer, Side::Dns]);
    let from_pods = pods.clone().flat_map(|from| targets.iter().map(move |to| (from, *to)));
    let published: Vec<Side> = targets.iter().copied().filter(|to| matches!(to, Side::NodePort(_))).collect();
    let services: Vec<Side> = targets.iter().copied().filter(|to| matches!(to, Side::Service(_))).collect();
    let to_pods = outside.clone().chain(nodes.clone()).flat_map(|from| pods.clone().map(move |to| (from, to)));
    let to_ports = outside.flat_map(|from| published.iter().map(move |to| (from, *to)));
    let to_services = nodes.flat_map(|from| services.iter().map(move |to| (from, *to)));
    let to_pods = to_pods.chain(to_ports).chain(to_services);
    from_pods
        .chain(to_pods)
        .filter(|(from, to)| from != to)
        .flat_map(|(from, to)| over_each_transport(world, from, to))
        .collect()
}

/// Every family, transport and port between two ends.
pub fn over_each_transport(world: &ClusterWorld, from: Side, to: Side) -> Vec<Question> {
    let echoes = |transports: &[Transport], port| {
        transports.iter().map(|transport| (How::Echo(*transport), port)).collect::<Vec<_>>()
    };
    let mut ways = match to {
        Side::Pod(_) => echoes(&Transport::ALL, PORT),
        Side::Outside(_) => echoes(&Transport::ALL, PORT),
        Side::Node(_) => echoes(&Transport::ALL, NODE_PORT),
        // A Service address has no ICMP.
        Side::Service(_) => echoes(&[Transport::Tcp, Transport::Udp], SERVICE_PORT),
        Side::NodePort(_) => echoes(&[Transport::Tcp, Transport::Udp], SHOP_NODE_PORT),
        Side::ApiService => vec![(How::Connect, 443)],
        Side::ApiServer => vec![(How::Connect, 6443)],
        Side::Dns => vec![(How::Connect, 53)],
    };
    if matches!(to, Side::Outside(_)) {
        ways.extend(echoes(&[Transport::Tcp, Transport::Udp], OTHER_PORT));
    }
    let all = Family::ALL.into_iter().flat_map(|family| ways.iter().map(move |(how, port)| (family, *how, *port)));
    let questions = all.map(|(family, how, port)| Question { from, to, family, how, port });
    questions.filter(|q| q.target(world).is_some() && from.address(world, q.family).is_some()).collect()
}

impl Side {
    /// Its address of a family, if it has one.
    pub fn address(self, world: &ClusterWorld, family: Family) -> Option<IpAddr> {
        match self {
            Self::Pod(index) => of_family(&world.pods[index].addresses, family),
            Self::Service(index) => of_family(&world.services[index].addresses, family),
            Self::Node(index) | Self::NodePort(index) => of_family(&world.nodes[index].2, family),
            Self::Outside(index) => {
                let (_, v4, v6) = OUTSIDE[index];
                if family == Family::V4 { v4.parse().ok() } else { v6.parse().ok() }
            }
            Self::ApiService => (family == Family::V4).then_some(IpAddr::V4(cluster::plan::API_SERVICE)),
            Self::ApiServer => {
                let host = cluster::plan::CONTROL;
                of_family(&[host.v4().into(), host.v6().into()], family)
            }
            Self::Dns => {
                let (v4, v6) = cluster::plan::DNS_SERVICE;
                of_family(&[v4.into(), v6.into()], family)
            }
        }
    }

    /// Its name in tables.
    pub fn label(self, world: &ClusterWorld) -> String {
        match self {
            Self::Pod(index) => world.pods[index].label(),
            Self::Service(index) => format!("service {}", world.services[index].name),
            Self::Node(index) => format!("node {}", world.nodes[index].0),
            Self::NodePort(index) => format!("shop's port on node {}", world.nodes[index].0),
            Self::Outside(index) => OUTSIDE[index].0.to_owned(),
            Self::ApiService => "service kubernetes".to_owned(),
            Self::ApiServer => "API server".to_owned(),
            Self::Dns => "service kube-dns".to_owned(),
        }
    }

    /// The namespace of its sockets.
    fn netns(self, world: &ClusterWorld) -> &Netns {
        match self {
            Self::Pod(index) => &world.pods[index].netns,
            Self::Node(index) => &world.nodes[index].1,
            Self::ApiServer => &world.control,
            _ => &world.outside,
        }
    }
}

impl Question {
    fn target(&self, world: &ClusterWorld) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.to.address(world, self.family)?, self.port))
    }

    /// A readable form.
    pub fn text(&self, world: &ClusterWorld) -> String {
        let how = match self.how {
            How::Echo(transport) => transport.name(),
            How::Connect => "connect",
        };
        let (from, to) = (self.from.label(world), self.to.label(world));
        format!("{from} -> {to} {how} {} {:?}", self.port, self.family)
    }

    /// Sends it from the namespace of the calling thread. A node uses the address that its routes choose, as a kubelet
    /// does.
    fn send_here(&self, world: &ClusterWorld) -> Outcome {
        let source = match self.from {
            Side::Node(_) => None,
            from => from.address(world, self.family),
        };
        let target = self.target(world).expect("a probe without a target address is filtered out");
        match self.how {
            How::Echo(transport) => probe::probe(transport, source, target),
            How::Connect => probe::connects(source, target),
        }
    }

    /// Sends it from the sender's namespace.
    pub fn probe(&self, world: &ClusterWorld) -> Outcome {
        self.from.netns(world).run(|| self.send_here(world))
    }
}

/// Sends all probes and returns each with its outcome.
pub fn probe_all(world: &ClusterWorld, questions: &[Question]) -> Vec<(Question, Outcome)> {
    let answers = Mutex::new(Vec::with_capacity(questions.len()));
    for some in questions.chunks(AT_ONCE) {
        thread::scope(|scope| {
            for asked in some.chunk_by(|one, other| one.from == other.from) {
                let answers = &answers;
                // A thread inherits the namespace of the thread that starts it.
                scope.spawn(move || asked[0].from.netns(world).run(|| send_here(world, asked, answers)));
            }
        });
    }
    answers.into_inner().expect("no prober panics")
}

fn send_here(world: &ClusterWorld, questions: &[Question], answers: &Mutex<Vec<(Question, Outcome)>>) {
    thread::scope(|inside| {
        for question in questions {
            let prober = thread::Builder::new().stack_size(STACK);
            let spawned = prober.spawn_scoped(inside, move || {
                let answer = question.send_here(world);
                answers.lock().expect("no prober panics").push((*question, answer));
            });
            spawned.expect("a thread can be started");
        }
    });
}

/// An outcome that is not as expected.
#[derive(Clone, Debug)]
pub struct QuestionMismatch {
    /// The probe.
    pub asked: Question,
    /// The probe in a readable form.
    pub question: String,
    /// Whether an answer was expected.
    pub expected: bool,
    /// What happened.
    pub got: Outcome,
}

impl fmt::Display for QuestionMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expected = if self.expected { "an answer" } else { "silence" };
        write!(f, "{}: expected {expected}, got {:?}", self.question, self.got)
    }
}

/// The outcomes that are not as `expected` says. Where no answer is expected, a refusal is a mismatch: it proves that
/// the destination was reached. "No route" is none: the kernel reports it when neighbour resolution gets no answer.
pub fn mismatches(
    world: &ClusterWorld,
    answers: &[(Question, Outcome)],
    expected: impl Fn(&Question) -> bool,
) -> Vec<QuestionMismatch> {
    let wrong = answers.iter().filter(|(question, got)| {
        let closed = matches!(got, Outcome::Silence | Outcome::Unreachable | Outcome::Denied);
        if expected(question) { *got != Outcome::Answered } else { !closed }
    });
    wrong
        .map(|(q, got)| QuestionMismatch { asked: *q, question: q.text(world), expected: expected(q), got: *got })
        .collect()
}
