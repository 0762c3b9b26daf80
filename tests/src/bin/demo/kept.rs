//! A demo that is kept after its end: its processes, its servers, and its removal.
//!
//! A kept demo is found by its fixed scope name and by one file with the pids of its processes.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use testbed::agent::Agent;
use testbed::host::{Family, Host};
use testbed::netns::Netns;
use testbed::serve::Servers;
use testbed::world::{World, listening};
use testbed::{scope, tier};

/// The scope name of the demo. It contains no process id, because a kept demo outlives its creator.
pub(crate) const SCOPE: &str = "bh-demo";

/// The processes of a kept demo.
#[derive(Serialize, Deserialize)]
struct State {
    agent: u32,
    servers: u32,
    pin_dir: PathBuf,
}

/// The file with the pids of these processes.
fn state_path() -> PathBuf {
    env::temp_dir().join("bulkhead-demo.json")
}

/// Removes the leftovers of an interrupted demo. Fails if a demo is being kept.
pub(crate) fn remove_leftovers() -> Result<()> {
    if state_path().exists() {
        bail!("another demo is being kept; end it with `cargo xtask demo down`");
    }
    if scope::exists(SCOPE) {
        scope::remove(SCOPE);
        eprintln!("  ... removed the leftovers of an interrupted demo");
    }
    Ok(())
}

/// Starts servers and an agent that outlive this process, and prints what to try.
pub(crate) fn keep(mut world: World, agent: Agent) -> Result<()> {
    let events = world.scope.file("events.jsonl");
    let log = world.scope.file("agent.log");
    world.keep();
    let servers = Command::new(env::current_exe()?)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start the servers")?;
    let pin_dir = world.scope.pin_dir();
    let agent = agent.stay(&events, &log)?;
    let state = State { agent, servers: servers.id(), pin_dir };
    fs::write(state_path(), serde_json::to_vec(&state)?)?;
    hints(&world, &state.pin_dir, &events, &log);
    Ok(())
}

fn hints(world: &World, pin_dir: &Path, events: &Path, log: &Path) {
    let inside = |host: Host| format!("ip netns exec {}", world.netns(host).name());
    let connect = |to: Host| format!("timeout 1 bash -c '</dev/tcp/{}/{}' && echo reached", to.v4(), to.port());
    let binary = tier::agent_binary().unwrap_or_else(|| "bulkhead".into());
    let agent = format!("{} {}", inside(Host::Node), binary.display());
    let socket = world.scope.file("agent.sock");
    let (web, other) = (Host::AcmeWeb.v4(), Host::GlobexWeb.server(Family::V4));
    println!("  policy, edited live:  {}", world.config_path().display());
    println!("  events as JSON:       tail -f {}", events.display());
    println!("  events for people:    {agent} observe -f --socket {}", socket.display());
    println!("  the agent's log:      {}", log.display());
    println!("  a pod's shell:        {} bash", inside(Host::AcmeWeb));
    println!("  probe across tenants: {} {}", inside(Host::AcmeWeb), connect(Host::GlobexWeb));
    println!("  probe inside one:     {} {}", inside(Host::AcmeWeb), connect(Host::AcmeApi));
    println!("  who decides:          {agent} explain --pin-dir {} {web} {other}", pin_dir.display());
    println!("  state of the node:    {agent} status --socket {}", socket.display());
    println!("  end it:               cargo xtask demo down");
}

/// Ends a kept demo.
pub(crate) fn down() -> Result<ExitCode> {
    let state = match fs::read(state_path()) {
        Ok(bytes) => Some(serde_json::from_slice::<State>(&bytes).context("the demo's state cannot be read")?),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    if state.is_none() && !scope::exists(SCOPE) {
        println!("There is no demo to end.");
        return Ok(ExitCode::SUCCESS);
    }
    for (pid, name) in state.iter().flat_map(|state| [(state.agent, "bulkhead"), (state.servers, "demo")]) {
        end(pid, name);
    }
    let namespaces = scope::remove(SCOPE);
    if state.is_some() {
        fs::remove_file(state_path())?;
    }
    println!("Removed {namespaces} network namespaces with all their links, programs and pins. Nothing is left.");
    Ok(ExitCode::SUCCESS)
}

/// Ends a process of the demo. A reused pid is recognised by the process name.
fn end(pid: u32, name: &str) {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|_| comm.trim() == name) {
        // The process may have ended in the meantime.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Serves in the namespaces of a kept demo until it is killed.
pub(crate) fn serve() -> Result<ExitCode> {
    let open = |label: &str| Netns::open(&format!("{SCOPE}-{label}"));
    let mut servers = Vec::new();
    let beyond: Vec<_> = Host::OUTSIDE.into_iter().flat_map(listening).collect();
    servers.push(Servers::start(&open("outside")?, &beyond)?);
    for host in Host::PODS.into_iter().chain([Host::Node]) {
        servers.push(Servers::start(&open(host.name())?, &listening(host))?);
    }
    loop {
        thread::park();
    }
}
