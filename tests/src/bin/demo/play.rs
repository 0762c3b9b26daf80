//! Runs the demo step by step: builds the network, starts, kills and removes the agent, and probes after each step.
//!
//! Counts every result that is not as expected.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use testbed::agent::Agent;
use testbed::host::Host;
use testbed::matrix::{self, Cell, allowed, mismatches, probe_all, questions};
use testbed::scope::Scope;
use testbed::world::{Layout, World};
use testbed::{scope, tier};

use crate::kept::{self, SCOPE};
use crate::show::{counters, event, progress, remark, step, table};
use crate::watch::Guard;

/// Most event lines that are shown.
const EVENTS: usize = 16;

/// Runs the demo and returns the exit code.
pub(crate) fn play(keep: bool) -> Result<ExitCode> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the demo needs root for network namespaces and programs: run `sudo -E cargo xtask demo`"
    );
    ensure!(tier::agent_binary().is_some(), "the agent's binary is missing: run `cargo xtask demo`, which builds it");
    kept::remove_leftovers()?;
    let began = Instant::now();
    let guard = Guard::start()?;
    let outcome = scenes(keep);
    if outcome.is_err() {
        scope::remove(SCOPE);
    }
    guard.dismiss();
    let wrong = outcome?;
    let seconds = began.elapsed().as_secs_f32();
    if wrong == 0 {
        step(format!("Every cell was as expected ({seconds:.1} s)."));
        return Ok(ExitCode::SUCCESS);
    }
    step(format!("{wrong} results were not as expected ({seconds:.1} s)."));
    Ok(ExitCode::FAILURE)
}

/// Runs all steps and returns the number of unexpected results.
fn scenes(keep: bool) -> Result<usize> {
    step("1. A node, five pods, two tenants, and what lies beyond the node");
    progress("building network namespaces");
    let mut world = World::without_pods(Layout::Routed, Scope::named(SCOPE)?)?;
    for host in Host::PODS {
        world.add_pod(host)?;
    }
    remark("acme: acme-web, acme-api.  globex: globex-web, globex-api.  Shared: dns.  Each has IPv4 and IPv6.");
    remark("acme-db and globex-db are in data subnets; acme-far and globex-far are pods on another node.");

    step("2. Before: who reaches whom, over TCP, UDP and ICMP");
    let mut wrong = show_matrix(&world, |_| true);

    step("3. The agent starts");
    progress("loading programs");
    let start = Instant::now();
    let mut agent = Agent::ready(&world)?;
    remark(format!(
        "the agent enforces after {} ms; policy: {}",
        start.elapsed().as_millis(),
        world.config_path().display()
    ));

    step("4. After: the same probes");
    wrong += show_matrix(&world, allowed);

    step("5. Reported violations");
    wrong += show_events(&agent)?;
    counters(&agent.metrics()?);

    step("6. The agent is killed (SIGKILL): the same probes on a node without an agent");
    agent.kill();
    wrong += show_matrix(&world, allowed);

    if keep {
        step("7. Everything is kept, with a new agent. Try:");
        kept::keep(world, agent)?;
        return Ok(wrong);
    }
    step("7. Cleanup");
    wrong += clean_up(&world, &agent)?;
    drop((agent, world));
    if scope::exists(SCOPE) {
        remark("some network namespaces or files of the demo are left: run `cargo xtask demo down`");
        wrong += 1;
    }
    remark("all network namespaces, links and files of the demo are removed");
    Ok(wrong)
}

/// Sends all probes, prints the table and each wrong cell, and returns the number of wrong cells.
fn show_matrix(world: &World, expected: impl Fn(Cell) -> bool) -> usize {
    let asked = questions();
    progress(format!("sending {} probes", asked.len()));
    let answers = probe_all(world, &asked);
    let wrong = mismatches(&answers, expected);
    table(&answers, &wrong);
    wrong.iter().for_each(|mismatch: &matrix::Mismatch| remark(mismatch));
    wrong.len()
}

/// Prints some events of each kind. No events, or an event without names, is wrong.
fn show_events(agent: &Agent) -> Result<usize> {
    let named = |event: &Value| event["source"]["tenant"] == "acme" && event["destination"]["tenant"] == "globex";
    let is_named = agent.wait_event(Duration::from_secs(5), named).is_some();
    let events = agent.events();
    // One of each kind: the reason and the two tenants.
    let kind = |event: &Value| ["/reason", "/source/tenant", "/destination/tenant"].map(|p| event.pointer(p).cloned());
    let mut kinds = Vec::new();
    let mut lines = Vec::new();
    for sent in events.iter().filter(|sent| sent["direction"] == "egress" && sent["source"]["pod"].is_string()) {
        if !kinds.contains(&kind(sent)) {
            kinds.push(kind(sent));
            lines.extend(event(sent));
        }
    }
    lines.iter().take(EVENTS).for_each(remark);
    remark(format!("({} events in all)", events.len()));
    if !is_named {
        remark("no event names acme as source and globex as destination");
    }
    Ok(usize::from(!is_named))
}

/// Runs `bulkhead cleanup` and probes again: nothing of the agent may be left.
fn clean_up(world: &World, agent: &Agent) -> Result<usize> {
    let output = agent.on_pins(&["cleanup"])?;
    if !output.status.success() {
        bail!("`bulkhead cleanup` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let said = String::from_utf8(output.stdout).context("the output of cleanup is not UTF-8")?;
    // The line for each map is omitted, because the last line has their number.
    said.lines().filter(|line| !line.starts_with("removing /")).for_each(remark);
    let pins = world.scope.pins();
    pins.iter().for_each(|pin| remark(format!("left: {}", pin.display())));
    let asked = questions();
    let wrong = mismatches(&probe_all(world, &asked), |_| true);
    wrong.iter().for_each(remark);
    if wrong.is_empty() {
        remark("without the agent every host reaches every other again");
    }
    Ok(pins.len() + wrong.len())
}
