//! Runs the loaded programs on single frames, without attaching them.
//!
//! `BPF_PROG_TEST_RUN` gives a program a frame as if an interface had delivered it. The maps hold the entries of a
//! [`MemTables`], so the host can judge the same frame with the same tables. The caller compares the two. This module
//! holds no test case and no expectation.

mod fill;
pub mod reasons;
pub mod replay;
pub mod stage;

use std::io;

use agent_common::counters::{Counter, Outcome, allowed_index, denied_index};
use agent_common::flow::Direction;
use agent_common::guard::Guard;
use agent_common::maps;
use agent_common::mem_tables::{Judged, MemTables};
use agent_common::reason::DropReason;
use agent_common::tenant::TenantState;
use anyhow::{Context, Result, bail, ensure};
use aya::maps::PerCpuArray;
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, TestRun, TestRunOptions};
use bulkhead::dataplane::cgroup_guard;
use bulkhead::dataplane::object::{self, MapLimits};

/// The interface of a frame if no context names another one: the loopback of the namespace.
pub const LOOPBACK: u32 = 1;

/// The return value for a frame that continues to the next program of the hook.
const PASS: i32 = -1;
/// The return value for a frame that is dropped.
const DROP: i32 = 2;

/// Loaded programs, their maps, and the tables that the maps hold.
pub struct Engine {
    ebpf: Ebpf,
    tables: MemTables,
}

/// The verdict of a loaded program on a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Passed, dropped or audited, as it was counted.
    pub outcome: Outcome,
    /// The reason if the frame was denied, as it was counted.
    pub reason: Option<DropReason>,
}

impl Ran {
    /// Whether the program and the host give the same verdict.
    pub fn agrees(&self, host: &Judged) -> bool {
        self.outcome == host.outcome && self.reason == host.reason()
    }
}

/// The program of a direction.
pub fn program_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "from_pod",
        Direction::Ingress => "to_pod",
    }
}

impl Engine {
    /// Loads the programs and fills their maps.
    pub fn new(tables: MemTables) -> Result<Self> {
        Self::with_limits(tables, &MapLimits::default())
    }

    /// Loads like `new`, with maps of another size.
    pub fn with_limits(tables: MemTables, limits: &MapLimits) -> Result<Self> {
        let mut ebpf = object::open(None, limits)?;
        for name in Direction::ALL.map(program_name).into_iter().chain(Guard::ON_INTERFACES.map(Guard::as_str)) {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).context("a program of the object")?.try_into()?;
            program.load().with_context(|| format!("the kernel refuses {name}"))?;
        }
        cgroup_guard::load(&mut ebpf).context("the kernel refuses the guard on control groups")?;
        fill::write(&mut ebpf, &tables)?;
        Ok(Self { ebpf, tables })
    }

    /// The tables that the maps hold.
    pub fn tables(&self) -> &MemTables {
        &self.tables
    }

    /// The programs and maps.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Writes other tables into the maps. Entries that only the old tables had stay, except connections.
    pub fn refill(&mut self, tables: MemTables) -> Result<()> {
        fill::write(&mut self.ebpf, &tables)?;
        self.tables = tables;
        self.forget()
    }

    /// The loaded program of a direction.
    pub fn program(&self, direction: Direction) -> Result<&SchedClassifier> {
        Ok(self.ebpf.program(program_name(direction)).context("a program of the object")?.try_into()?)
    }

    /// The loaded program of a guard.
    pub fn guard(&self, guard: Guard) -> Result<&SchedClassifier> {
        Ok(self.ebpf.program(guard.as_str()).context("a program of the object")?.try_into()?)
    }

    /// The program's return value for a frame. `None`: the kernel refuses to run it on such a frame.
    pub fn run(&self, direction: Direction, frame: &[u8], repeat: u32) -> Result<Option<i32>> {
        self.run_in(direction, frame, repeat, None)
    }

    /// Runs like `run`, with the context of an interface of this namespace.
    pub fn run_on(&self, direction: Direction, frame: &[u8], ifindex: u32) -> Result<Option<i32>> {
        // `struct __sk_buff`, all zero but for the index of the interface (offset 40).
        let mut context = [0_u8; 192];
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        self.run_in(direction, frame, 1, Some(&context))
    }

    fn run_in(&self, direction: Direction, frame: &[u8], repeat: u32, context: Option<&[u8]>) -> Result<Option<i32>> {
        let options = TestRunOptions { data_in: Some(frame), ctx_in: context, repeat, ..TestRunOptions::new() };
        match self.program(direction)?.test_run(options) {
            Ok(result) => Ok(Some(result.return_value.cast_signed())),
            Err(error) if refuses_frame(&error) => Ok(None),
            Err(error) => Err(error).context("the kernel cannot run the program"),
        }
    }

    /// Runs the program on a frame of the interface `LOOPBACK` and reads the verdict from its counters. `None`: the
    /// kernel refuses to run it on such a frame. A correct `guess` of the reason saves time.
    pub fn judge(&self, direction: Direction, frame: &[u8], guess: Option<DropReason>) -> Result<Option<Ran>> {
        let entry = self.tables.endpoints.get(&LOOPBACK).copied().unwrap_or_default();
        let state = self.tables.tenants.get(&entry.tenant).copied().unwrap_or_default();
        let audited = state.has(TenantState::AUDIT);
        let cell = |reason| denied_index(state.slot, direction, audited, reason);
        let guessed = guess.map(|reason| self.counter(maps::DENIED.name, cell(reason))).transpose()?;
        let allowed = self.counter(maps::ALLOWED.name, allowed_index(state.slot, direction))?;
        let all = match guess {
            Some(_) => None,
            None => Some(self.reasons(cell)?),
        };
        let Some(returned) = self.run(direction, frame, 1)? else { return Ok(None) };
        if self.counter(maps::ALLOWED.name, allowed_index(state.slot, direction))?.packets == allowed.packets + 1 {
            ensure!(returned == PASS, "counted as allowed, but returned {returned}");
            return Ok(Some(Ran { outcome: Outcome::Allowed, reason: None }));
        }
        let outcome = match returned {
            PASS if audited => Outcome::Audited,
            DROP if !audited => Outcome::Dropped,
            other => bail!("returned {other} without counting a packet that passed"),
        };
        let reason = match (guess, guessed, all) {
            (Some(guess), Some(before), _)
                if self.counter(maps::DENIED.name, cell(guess))?.packets == before.packets + 1 =>
            {
                guess
            }
            (_, _, Some(before)) => self.increased(&before, cell)?,
            // The guess was wrong. Without a guess the reason is found.
            _ => return Ok(Some(Ran { outcome, reason: None })),
        };
        Ok(Some(Ran { outcome, reason: Some(reason) }))
    }

    fn reasons(&self, cell: impl Fn(DropReason) -> u32) -> Result<Vec<u64>> {
        DropReason::ALL.iter().map(|reason| Ok(self.counter(maps::DENIED.name, cell(*reason))?.packets)).collect()
    }

    fn increased(&self, before: &[u64], cell: impl Fn(DropReason) -> u32) -> Result<DropReason> {
        let after = self.reasons(cell)?;
        let increased =
            DropReason::ALL.iter().zip(before.iter().zip(&after)).find(|(_, (before, after))| before < after);
        increased.map(|(reason, _)| *reason).context("dropped without being counted")
    }

    /// A counter, summed over the CPUs.
    pub fn counter(&self, map: &str, index: u32) -> Result<Counter> {
        let counters: PerCpuArray<_, Counter> = self.map(map)?.try_into()?;
        let each = counters.get(&index, 0)?;
        let sum =
            |sum: Counter, one: &Counter| Counter { packets: sum.packets + one.packets, bytes: sum.bytes + one.bytes };
        Ok(each.iter().fold(Counter::default(), sum))
    }

    /// The number of losses of one kind, summed over the CPUs.
    pub fn lost(&self, what: agent_common::counters::Loss) -> Result<u64> {
        let lost: PerCpuArray<_, u64> = self.map(maps::LOSS.name)?.try_into()?;
        Ok(lost.get(&(what as u32), 0)?.iter().sum())
    }

    /// A map of the object.
    pub fn map(&self, name: &str) -> Result<&aya::maps::Map> {
        self.ebpf.map(name).with_context(|| format!("the object has no map {name}"))
    }

    /// Gives each pod a new claim, to which no connection belongs.
    pub fn forget(&mut self) -> Result<()> {
        self.tables.forget();
        for entry in self.tables.endpoints.values_mut().filter(|entry| entry.cookie != 0) {
            entry.cookie += 1 << 16;
        }
        fill::write_endpoints(&mut self.ebpf, &self.tables)
    }

    /// The host's verdict on the same frame with the same tables.
    pub fn host(&self, direction: Direction, frame: &[u8]) -> Judged {
        self.tables.now_ns.set(now_ns());
        self.tables.judge(LOOPBACK, direction, frame)
    }
}

/// Whether the kernel refuses the frame: it cannot make a socket buffer of every length.
fn refuses_frame(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    matches!(error.io_error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EFAULT))
}

/// The monotonic clock, which the programs read too.
fn now_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// Keeps the calling thread on one CPU, so that its packets are counted in one per-CPU value.
pub fn stay_on_one_cpu() -> io::Result<()> {
    let mut one = rustix::thread::CpuSet::new();
    one.set(rustix::thread::sched_getcpu());
    Ok(rustix::thread::sched_setaffinity(None, &one)?)
}
