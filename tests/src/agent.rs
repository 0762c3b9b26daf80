//! The agent under test, started and observed as a user does it.
//!
//! The agent runs in the network namespace of the test node. Its output is kept, and printed if the agent does not
//! become ready.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::metrics::Metrics;
use crate::netns::Netns;
use crate::page;
use crate::tier;
use crate::world::World;

/// The address of the agent's metrics and health pages.
const LISTEN: ([u8; 4], u16) = ([127, 0, 0, 1], 9464);
/// The name of the agent's node.
pub const NODE_NAME: &str = "node-1";

/// The panic message for a poisoned mutex, which cannot happen.
const UNBROKEN: &str = "no holder panics";

/// A running or ended agent. Dropping the value kills it.
#[derive(Debug)]
pub struct Agent {
    node: Netns,
    binary: PathBuf,
    config: PathBuf,
    pin_dir: PathBuf,
    socket: PathBuf,
    /// Further flags of `run`.
    flags: Vec<String>,
    child: Mutex<Option<Child>>,
    /// Lines of standard output, over all restarts.
    out: Arc<Lines>,
    /// Lines of standard error, over all restarts.
    log: Arc<Lines>,
}

impl Agent {
    /// Writes the configuration of the test network and starts the agent with it, without waiting.
    pub fn start(world: &World) -> Result<Self> {
        world.config().write(&world.config_path())?;
        Self::start_with(world)
    }

    /// Starts the agent with the existing configuration file, without waiting.
    pub fn start_with(world: &World) -> Result<Self> {
        Self::start_flagged(world, &[])
    }

    /// Starts like `start_with`, with further flags.
    pub fn start_flagged(world: &World, flags: &[&str]) -> Result<Self> {
        let mut agent = Self {
            node: Netns::open(world.node.name())?,
            binary: tier::agent_binary().context("there is no agent to run: set BULKHEAD_BIN")?,
            config: world.config_path(),
            pin_dir: world.scope.pin_dir(),
            socket: world.scope.file("agent.sock"),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            child: Mutex::default(),
            out: Arc::default(),
            log: Arc::default(),
        };
        agent.start_again()?;
        Ok(agent)
    }

    /// Starts the agent and waits until it enforces.
    pub fn ready(world: &World) -> Result<Self> {
        let agent = Self::start(world)?;
        agent.wait_ready(Duration::from_secs(60))?;
        Ok(agent)
    }

    /// Starts the agent again after it was killed or has ended.
    pub fn start_again(&mut self) -> Result<()> {
        self.kill();
        let mut command = self.run();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            self.node.start(&mut command).with_context(|| format!("cannot start {}", self.binary.display()))?;
        Lines::follow(&self.out, child.stdout.take().expect("it is piped"));
        Lines::follow(&self.log, child.stderr.take().expect("it is piped"));
        self.child = Mutex::new(Some(child));
        Ok(())
    }

    fn run(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["run", "--node-name", NODE_NAME, "--log", "info"])
            .arg("--config")
            .arg(&self.config)
            .arg("--pin-dir")
            .arg(&self.pin_dir)
            .arg("--socket")
            .arg(&self.socket)
            .args(["--listen", &SocketAddr::from(LISTEN).to_string()])
            .args(&self.flags)
            .stdin(Stdio::null());
        command
    }

    /// Waits until `/readyz` returns 200.
    pub fn wait_ready(&self, patience: Duration) -> Result<()> {
        self.wait(patience, "ready", || self.get("/readyz").is_ok_and(|(status, _)| status == 200))
    }

    /// Waits until a condition holds. The error contains the log.
    pub fn wait(&self, patience: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + patience;
        while !holds() {
            if let Some(status) = self.ended() {
                bail!("the agent has ended: {status}; its log:\n{}", self.log().join("\n"));
            }
            ensure!(Instant::now() < end, "not {what} after {patience:?}; its log:\n{}", self.log().join("\n"));
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Kills the agent with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.get_mut().expect(UNBROKEN).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends the agent with SIGTERM and returns its exit status.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.get_mut().expect(UNBROKEN).take().context("it does not run")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a pid")?;
        kill_process(pid, Signal::TERM)?;
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                child.kill()?;
                bail!("the agent ignores SIGTERM; its log:\n{}", self.log().join("\n"));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The agent's exit status, if it has ended by itself.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().expect(UNBROKEN).as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Starts the agent again so that it outlives this process, with events and log in files. Returns its pid.
    pub fn stay(mut self, events: &Path, log: &Path) -> Result<u32> {
        self.kill();
        let mut command = self.run();
        command.stdout(File::create(events)?).stderr(File::create(log)?).process_group(0);
        Ok(self.node.start(&mut command)?.id())
    }

    /// The events so far.
    pub fn events(&self) -> Vec<Value> {
        let lines = self.out.all();
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in event: {line}"))).collect()
    }

    /// Waits for an event that `fits`.
    pub fn wait_event(&self, patience: Duration, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        self.out.wait(patience, |line| serde_json::from_str(line).ok().filter(&fits))
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.all()
    }

    /// Waits for a log line that contains a text.
    pub fn wait_log(&self, patience: Duration, text: &str) -> Option<String> {
        self.log.wait(patience, |line| line.contains(text).then(|| line.to_owned()))
    }

    /// The agent's current metrics.
    pub fn metrics(&self) -> Result<Metrics> {
        let (status, body) = self.get("/metrics")?;
        ensure!(status == 200, "/metrics answers {status}");
        Ok(Metrics::parse(&body))
    }

    /// Status and body of a path.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        page::get(&self.node, LISTEN.into(), path)
    }

    /// Runs a command that reads or removes pins, in the same namespace.
    pub fn on_pins(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments, "--pin-dir", &self.pin_dir)
    }

    /// Runs a command that queries the running agent.
    pub fn query(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments, "--socket", &self.socket)
    }

    fn command(&self, arguments: &[&str], option: &str, value: &Path) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg(option).arg(value);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(self.node.start(&mut command)?.wait_with_output()?)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Output lines that a thread collects.
#[derive(Debug, Default)]
struct Lines {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Lines {
    /// Collects lines until the stream ends.
    fn follow(lines: &Arc<Self>, stream: impl Read + Send + 'static) {
        let lines = Arc::clone(lines);
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                lines.lines.lock().expect(UNBROKEN).push(line);
                lines.more.notify_all();
            }
        });
    }

    fn all(&self) -> Vec<String> {
        self.lines.lock().expect(UNBROKEN).clone()
    }

    /// The first result of `pick` for a line that exists or arrives in time.
    fn wait<T>(&self, patience: Duration, pick: impl Fn(&str) -> Option<T>) -> Option<T> {
        let end = Instant::now() + patience;
        let mut seen = 0;
        let mut lines = self.lines.lock().expect(UNBROKEN);
        loop {
            if let Some(found) = lines[seen..].iter().find_map(|line| pick(line)) {
                return Some(found);
            }
            seen = lines.len();
            let left = end.checked_duration_since(Instant::now())?;
            lines = self.more.wait_timeout(lines, left).expect(UNBROKEN).0;
        }
    }
}
