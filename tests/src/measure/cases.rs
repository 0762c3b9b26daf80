//! The measured cases, with their frames, programs and tables.
//!
//! Every case has an expected verdict. Another verdict is an error, because the figure would mean nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use agent_common::addr::V4;
use agent_common::counters::allowed_index;
use agent_common::flow::Direction::{self, Egress, Ingress};
use agent_common::guard::Guard;
use agent_common::headers::TCP;
use agent_common::layout::{PORTS_ANY, PeerEntry, PeerKeyV4};
use agent_common::maps;
use agent_common::mem_tables::MemTables;
use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, MapData};
use bulkhead::dataplane::object::{self, MapLimits};
use etherparse::PacketBuilder;

use super::minimal::{self, MinimalMaps};
use super::sys::{self, Instruction, Sizes};
use crate::engine::{Engine, LOOPBACK, stage};
use crate::frames::topology;

/// The number of known pods, and the labels of the cases with so many.
const KNOWN: [(u32, &str, &str); 3] = [
    (10, "pod to pod, 10 pods known", "random of 10 pods"),
    (10_000, "pod to pod, 10 k pods known", "random of 10 k pods"),
    (1_000_000, "pod to pod, 1 M pods known", "random of 1 M pods"),
];
/// The number of destinations in the random case that has a goal.
const RANDOM: u32 = 60_000;
/// The highest ratios to the minimal shape on a CPU with mitigations.
const MINIMAL_GOALS: [(&str, f64); 9] = [
    ("pod to pod", 1.15),
    ("pod to pod, arriving", 1.15),
    ("IPv6 pod to pod", 1.3),
    ("IPv6 pod to pod, arriving", 1.3),
    ("own subnet, last of 16 with ports", 1.5),
    ("denied, other tenant's pod", 2.0),
    ("denied, off subnet", 2.0),
    ("denied, arriving", 2.0),
    ("reply to the internet", 3.0),
];
/// The counter slot of the stage's tenant A.
const COUNTER_SLOT: u16 = 1;
/// The first address of the known pods, outside the ranges of the stage.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);

const PASS: i32 = -1;
const DROP: i32 = 2;

/// Index of the minimal shape among the cases.
pub(super) const MINIMAL: usize = 1;

/// Loaded programs and the frames they get.
pub struct Bench {
    empty: OwnedFd,
    minimal: Option<OwnedFd>,
    /// Programs that write a random destination and then call another program.
    drawers: Vec<OwnedFd>,
    _arrays: Vec<OwnedFd>,
    engines: Vec<Engine>,
    plans: Vec<Plan>,
}

/// A case before it is bound to descriptors.
struct Plan {
    label: String,
    goal: Option<f64>,
    minimal_goal: Option<f64>,
    target: Target,
    frame: Vec<u8>,
    returns: i32,
    baseline: usize,
}

enum Target {
    Empty,
    Minimal,
    Drawer(usize),
    Program(usize, Direction),
    /// The uplink guard, for a frame with this ingress interface.
    Uplink(usize, u32),
}

/// A case, ready to run.
pub struct BenchCase<'a> {
    /// Its name in the table.
    pub label: &'a str,
    /// The highest ratio to the empty program that it should have on a CPU without mitigations.
    pub goal: Option<f64>,
    /// The highest ratio to the minimal shape that it should have on a CPU with mitigations.
    pub minimal_goal: Option<f64>,
    /// Index of the case with which it is compared.
    pub baseline: usize,
    program: BorrowedFd<'a>,
    frame: &'a [u8],
    came_in_by: u32,
    returns: i32,
}

impl BenchCase<'_> {
    /// Runs the case `repeat` times. Fails if the verdict is not the expected one.
    pub fn run(&self, repeat: u32) -> Result<Duration> {
        let (returned, spent) =
            sys::run(self.program, self.frame, self.came_in_by, repeat).context(self.label.to_owned())?;
        ensure!(returned == self.returns, "{}: returned {returned}, not {}", self.label, self.returns);
        Ok(spent)
    }
}

impl Bench {
    /// Loads all programs and tables.
    pub fn new() -> Result<Self> {
        let empty = sys::load(&empty()).context("the empty program")?;
        let plan = Plan {
            label: "empty".to_owned(),
            goal: None,
            minimal_goal: None,
            target: Target::Empty,
            frame: udp(topology::PEER, 9000),
            returns: PASS,
            baseline: 0,
        };
        let mut bench = Self {
            empty,
            minimal: None,
            drawers: Vec::new(),
            _arrays: Vec::new(),
            engines: Vec::new(),
            plans: vec![plan],
        };
        bench.add_hot()?;
        for (pods, same, random) in KNOWN {
            bench.add_known(pods, Some(same), random, None)?;
        }
        bench.add_known(RANDOM, None, "random of 60 k pods", Some(10.0))?;
        Ok(bench)
    }

    fn add_hot(&mut self) -> Result<()> {
        let engine = self.engine(Engine::new(tables())?);
        self.minimal = Some(self.minimal_shape(engine)?);
        self.plans.push(Plan {
            label: "minimal shape".to_owned(),
            goal: None,
            minimal_goal: None,
            target: Target::Minimal,
            frame: udp(topology::PEER, 9000),
            returns: PASS,
            baseline: 0,
        });
        let program = |direction| Target::Program(engine, direction);
        let denied = Ipv4Addr::new(198, 51, 100, 9);
        self.add("pod to pod", 2.5, program(Egress), udp(topology::PEER, 9000), PASS);
        self.add("pod to pod, arriving", 2.5, program(Ingress), udp_from(topology::PEER), PASS);
        self.add("own subnet, last of 16 with ports", 3.0, program(Egress), tcp(SUBNET, 5432), PASS);
        self.add("denied, other tenant's pod", 5.0, program(Egress), udp(topology::B, 9000), DROP);
        self.add("denied, off subnet", 5.0, program(Egress), udp(denied, 9000), DROP);
        self.add("denied, arriving", 5.0, program(Ingress), udp_from(topology::B), DROP);
        self.add("IPv6 pod to pod", 3.0, program(Egress), udp6(topology::PEER6), PASS);
        self.add("IPv6 pod to pod, arriving", 3.0, program(Ingress), udp6_from(topology::PEER6), PASS);
        self.add("reply to the internet", 8.0, program(Egress), reply(denied), PASS);
        self.add("request from the internet", 8.0, program(Ingress), request(denied), PASS);
        self.add("reply to a node", 8.0, program(Egress), reply(topology::NODE), PASS);
        for (label, came_in_by, returns) in [
            ("leaving the node, its own", 0, PASS),
            ("leaving the node, a claimed pod's", LOOPBACK, PASS),
            ("leaving the node, nobody's", 9, DROP),
        ] {
            self.add(label, 2.5, Target::Uplink(engine, came_in_by), udp(topology::PEER, 9000), returns);
        }
        self.engines[engine].run(Ingress, &request(denied), 1)?;
        self.engines[engine].run(Ingress, &request(topology::NODE), 1)?;
        Ok(())
    }

    /// Adds cases with so many known pods: with one destination, and with a random one each time.
    fn add_known(&mut self, pods: u32, same: Option<&str>, random: &str, goal: Option<f64>) -> Result<()> {
        let limits = MapLimits { peers: pods + 1_000, ..MapLimits::default() };
        let mut engine = Engine::with_limits(tables(), &limits)?;
        know(&mut engine, pods)?;
        let engine = self.engine(engine);
        let first = u32::from(FIRST);
        if let Some(label) = same {
            let frame = udp(Ipv4Addr::from(first + pods / 2), 9000);
            self.add(label, 2.5, Target::Program(engine, Egress), frame, PASS);
        }
        let frame = udp(Ipv4Addr::UNSPECIFIED, 9000);
        let to_empty = self.drawer(pods, None)?;
        let baseline = self.plans.len();
        let label = format!("  ({random}: drawing alone)");
        self.plans.push(Plan {
            label,
            goal: None,
            minimal_goal: None,
            target: to_empty,
            frame: frame.clone(),
            returns: PASS,
            baseline,
        });
        let target = self.drawer(pods, Some(engine))?;
        self.plans.push(Plan {
            label: random.to_owned(),
            goal,
            minimal_goal: None,
            target,
            frame,
            returns: PASS,
            baseline,
        });
        Ok(())
    }

    fn add(&mut self, label: &str, goal: f64, target: Target, frame: Vec<u8>, returns: i32) {
        let minimal_goal = MINIMAL_GOALS.iter().find(|(name, _)| *name == label).map(|(_, goal)| *goal);
        let label = label.to_owned();
        self.plans.push(Plan { label, goal: Some(goal), minimal_goal, target, frame, returns, baseline: 0 });
    }

    fn minimal_shape(&self, engine: usize) -> Result<OwnedFd> {
        let fd = |name| Ok::<_, anyhow::Error>(object::data(self.engines[engine].map(name)?).fd().as_fd());
        let maps = MinimalMaps {
            endpoints: fd(maps::ENDPOINTS.name)?,
            peers: fd(maps::PEERS_V4.name)?,
            allowed: fd(maps::ALLOWED.name)?,
            counter: allowed_index(COUNTER_SLOT, Egress),
        };
        minimal::load(&maps).context("the minimal shape")
    }

    fn engine(&mut self, engine: Engine) -> usize {
        self.engines.push(engine);
        self.engines.len() - 1
    }

    fn drawer(&mut self, of: u32, then: Option<usize>) -> Result<Target> {
        let program = match then {
            None => self.empty.as_fd(),
            Some(engine) => self.engines[engine].program(Egress)?.fd()?.as_fd(),
        };
        let array = sys::program_array(program)?;
        self.drawers.push(sys::load(&draw(of, &array)).context("the program that draws destinations")?);
        self._arrays.push(array);
        Ok(Target::Drawer(self.drawers.len() - 1))
    }

    /// The cases, in the order in which they run.
    pub fn cases(&self) -> Vec<BenchCase<'_>> {
        self.plans
            .iter()
            .map(|plan| BenchCase {
                label: &plan.label,
                goal: plan.goal,
                minimal_goal: plan.minimal_goal,
                baseline: plan.baseline,
                program: match plan.target {
                    Target::Empty => self.empty.as_fd(),
                    Target::Minimal => self.minimal.as_ref().expect("it is loaded with the first cases").as_fd(),
                    Target::Drawer(drawer) => self.drawers[drawer].as_fd(),
                    Target::Program(engine, direction) => self.program(engine, direction),
                    Target::Uplink(engine, _) => self.guard(engine),
                },
                frame: &plan.frame,
                came_in_by: match plan.target {
                    Target::Uplink(_, came_in_by) => came_in_by,
                    _ => 0,
                },
                returns: plan.returns,
            })
            .collect()
    }

    fn program(&self, engine: usize, direction: Direction) -> BorrowedFd<'_> {
        let program = self.engines[engine].program(direction).expect("a program of the object");
        program.fd().expect("it is loaded").as_fd()
    }

    fn guard(&self, engine: usize) -> BorrowedFd<'_> {
        self.engines[engine].guard(Guard::Uplink).expect("it is loaded").fd().expect("it is loaded").as_fd()
    }

    /// The sizes of the programs.
    pub fn sizes(&self) -> Result<Vec<(&'static str, Sizes)>> {
        let size = |direction| Ok((crate::engine::program_name(direction), sys::sizes(self.program(0, direction))?));
        Direction::ALL.into_iter().map(size).collect()
    }
}

/// An address in the last of tenant A's sixteen prefixes.
const SUBNET: Ipv4Addr = Ipv4Addr::new(10, 200, 15, 9);

/// The tables of the stage, with a full row of tenant A.
fn tables() -> MemTables {
    let mut tables = stage::tables();
    tables.port_sets.insert(9, stage::ports(&[(TCP, 5432, 5432), (TCP, 6379, 6379)]));
    let subnets: Vec<_> = (0..16).map(|i| (Ipv4Addr::new(10, 200, i, 0), 24, 9)).collect();
    tables.rows_v4.insert(1, stage::row_v4(&subnets));
    let subnets: Vec<_> = (0..16).map(|i| (Ipv6Addr::new(0xfd00, 0xc8, i, 0, 0, 0, 0, 0), 48, PORTS_ANY)).collect();
    tables.rows_v6.insert(1, stage::row_v6(&subnets));
    tables
}

/// Adds pods of tenant A.
fn know(engine: &mut Engine, pods: u32) -> Result<()> {
    let map = engine.ebpf().map_mut(maps::PEERS_V4.name).context("the map of peers")?;
    let mut peers: HashMap<&mut MapData, PeerKeyV4, PeerEntry> = map.try_into()?;
    for pod in 0..pods {
        let address = V4::new((u32::from(FIRST) + pod).to_be_bytes());
        peers.insert(PeerKeyV4 { network: 0, address }, stage::pod_of(stage::A), 0)?;
    }
    Ok(())
}

fn from_a(other: Ipv4Addr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(topology::A_MAC, topology::GATEWAY_MAC).ipv4(topology::A.octets(), other.octets(), 64)
}

fn to_a(other: Ipv4Addr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(topology::GATEWAY_MAC, topology::A_MAC).ipv4(other.octets(), topology::A.octets(), 64)
}

fn built(write: impl FnOnce(&mut Vec<u8>) -> Result<(), etherparse::err::packet::BuildWriteError>) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame).expect("a frame in memory");
    frame
}

fn udp(to: Ipv4Addr, port: u16) -> Vec<u8> {
    built(|frame| from_a(to).udp(40_000, port).write(frame, &[0; 22]))
}

fn udp_from(from: Ipv4Addr) -> Vec<u8> {
    built(|frame| to_a(from).udp(9000, 40_000).write(frame, &[0; 22]))
}

fn tcp(to: Ipv4Addr, port: u16) -> Vec<u8> {
    built(|frame| from_a(to).tcp(40_000, port, 1, 64_000).ack(1).write(frame, &[0; 22]))
}

fn reply(to: Ipv4Addr) -> Vec<u8> {
    built(|frame| from_a(to).tcp(80, 50_000, 1, 64_000).ack(1).write(frame, &[0; 22]))
}

fn request(from: Ipv4Addr) -> Vec<u8> {
    built(|frame| to_a(from).tcp(50_000, 80, 1, 64_000).syn().write(frame, &[0; 22]))
}

fn udp6(to: Ipv6Addr) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(topology::A_MAC, topology::GATEWAY_MAC);
    built(|frame| builder.ipv6(topology::A6.octets(), to.octets(), 64).udp(40_000, 9000).write(frame, &[0; 22]))
}

fn udp6_from(from: Ipv6Addr) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(topology::GATEWAY_MAC, topology::A_MAC);
    built(|frame| builder.ipv6(from.octets(), topology::A6.octets(), 64).udp(9000, 40_000).write(frame, &[0; 22]))
}

/// `return PASS`.
fn empty() -> [Instruction; 2] {
    [Instruction(0xb7, 0, 0, PASS), Instruction(0x95, 0, 0, 0)]
}

/// A program that writes a random destination, one of `of` from `FIRST` on, and then calls the program in `array`.
///
/// The header's checksum must stay right without being computed, so the identification compensates for the address.
/// Both halves of the sum stay in network byte order, on which a one's complement sum does not depend.
fn draw(of: u32, array: &OwnedFd) -> Vec<Instruction> {
    use std::os::fd::AsRawFd;
    const MOV: u8 = 0xbf;
    const MOV_IMM: u8 = 0xb7;
    const ADD: u8 = 0x0f;
    const ADD_IMM: u8 = 0x07;
    const AND_IMM: u8 = 0x57;
    const RSH_IMM: u8 = 0x77;
    const XOR_IMM: u8 = 0xa7;
    const CALL: u8 = 0x85;
    let registers = |destination: u8, source: u8| destination | source << 4;
    let op = |code, destination, source, immediate| Instruction(code, registers(destination, source), 0, immediate);
    vec![
        op(MOV, 6, 1, 0),
        op(CALL, 0, 0, 7),
        // 32-bit remainder: the register holds a 32-bit number.
        op(0x94, 0, 0, of.cast_signed()),
        op(MOV, 7, 0, 0),
        op(ADD_IMM, 7, 0, u32::from(FIRST).cast_signed()),
        // To network byte order.
        op(0xdc, 7, 0, 32),
        // Data and its end.
        Instruction(0x61, registers(2, 6), 76, 0),
        Instruction(0x61, registers(3, 6), 80, 0),
        op(MOV, 4, 2, 0),
        op(ADD_IMM, 4, 0, 34),
        Instruction(0x2d, registers(4, 3), 16, 0),
        // Destination.
        Instruction(0x63, registers(2, 7), 30, 0),
        // The sum of its halves, with the carry added twice, inverted: the identification.
        op(MOV, 5, 7, 0),
        op(RSH_IMM, 5, 0, 16),
        op(AND_IMM, 7, 0, 0xffff),
        op(ADD, 5, 7, 0),
        op(MOV, 7, 5, 0),
        op(RSH_IMM, 7, 0, 16),
        op(AND_IMM, 5, 0, 0xffff),
        op(ADD, 5, 7, 0),
        op(XOR_IMM, 5, 0, 0xffff),
        Instruction(0x6b, registers(2, 5), 18, 0),
        op(MOV, 1, 6, 0),
        Instruction(0x18, registers(2, 1), 0, array.as_raw_fd()),
        Instruction(0, 0, 0, 0),
        op(MOV_IMM, 3, 0, 0),
        op(CALL, 0, 0, 12),
        op(MOV_IMM, 0, 0, 99),
        Instruction(0x95, 0, 0, 0),
    ]
}
