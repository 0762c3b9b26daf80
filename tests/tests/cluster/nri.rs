//! Tests of NRI: the container runtime holds a new pod until its interface is enforced.
//!
//! Without control, it would be chance whether the first command or the agent is faster. The agent is therefore stopped
//! (SIGSTOP) while the pod is created: without the hold the command is denied, with it the command waits for the agent.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::{images::AGNHOST, wait};
use serde_json::{Value, json};
use testbed::host::Family;
use testbed::kube::world::{PORT, text};
use testbed::kube::{PATIENCE, Site};

const NODE: &str = "b";
const NAMESPACE: &str = "acme-jobs";
/// The number of pods that are created at once.
const RUSH: usize = 30;
/// The limit for a pod's start: a runtime drops a plugin that is silent for two seconds, and a pod takes about two
/// more.
const SOON: Duration = Duration::from_secs(15);

/// A pod's first command finds its policy in force, whatever the agent is doing. No agent, stopped or killed, keeps a
/// pod from starting.
pub(crate) fn holds_new_pods(site: &mut Site) -> Result<()> {
    first_commands_are_denied_while_the_agent_is_slow(site).context("without the hold")?;
    site.set_nri(true)?;
    let outcome = held(site);
    site.set_nri(false)?;
    outcome
}

fn held(site: &Site) -> Result<()> {
    connected(site)?;
    first_commands_wait_for_the_agent(site)?;
    a_rush_of_pods_finds_its_policy(site)?;
    an_agent_that_hangs_stops_no_pod(site)?;
    a_killed_agent_stops_no_pod(site)
}

/// The control: the same command, the same delay.
fn first_commands_are_denied_while_the_agent_is_slow(site: &Site) -> Result<()> {
    let agent = Stopped::agent_of(site, NODE)?;
    let pod = Job::start(site, "early", "shop")?;
    ensure!(!pod.succeeds()?, "the command was allowed before the agent knew of its pod");
    agent.goes_on()
}

fn first_commands_wait_for_the_agent(site: &Site) -> Result<()> {
    let agent = Stopped::agent_of(site, NODE)?;
    let pod = Job::start(site, "held", "shop")?;
    pod.has_a_network()?;
    std::thread::sleep(Duration::from_millis(400));
    ensure!(!pod.began()?, "the container was started although the agent has not answered the runtime");
    agent.goes_on()?;
    ensure!(pod.succeeds()?, "the first command did not reach a pod of its tenant");
    // The denied counterpart: another tenant's pod is not reached.
    ensure!(!Job::start(site, "stranger", "store")?.succeeds()?, "another tenant's pod was reached");
    Ok(())
}

fn a_rush_of_pods_finds_its_policy(site: &Site) -> Result<()> {
    let before = holds(site)?;
    let jobs: Vec<Job> = (0..RUSH).map(|n| Job::start(site, &format!("rush-{n}"), "shop")).collect::<Result<_>>()?;
    let failed: Vec<&str> = jobs
        .iter()
        .filter_map(|job| job.succeeds().map(|good| (!good).then_some(&*job.name)).transpose())
        .collect::<Result<_>>()?;
    ensure!(failed.is_empty(), "{} of {RUSH} first commands were denied: {failed:?}", failed.len());
    let after = holds(site)?;
    let (enforced, timed_out, seconds) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
    println!(
        "{enforced} of {RUSH} pods at once were held for {:.0} ms on average, {timed_out} until the limit",
        seconds * 1e3 / enforced
    );
    ensure!(
        enforced as usize == RUSH && timed_out == 0.0,
        "{enforced} pods were held until enforced, {timed_out} until the limit"
    );
    Ok(())
}

fn an_agent_that_hangs_stops_no_pod(site: &Site) -> Result<()> {
    let agent = Stopped::agent_of(site, NODE)?;
    for name in ["hang-0", "hang-1"] {
        let (pod, start) = (Job::start(site, name, "shop")?, Instant::now());
        ensure!(!pod.succeeds()?, "{name} was allowed before the agent knew of it");
        println!("with an agent that hangs, {name} started and ended in {:.1} s", start.elapsed().as_secs_f32());
        ensure!(start.elapsed() < SOON, "{name} took {:?}", start.elapsed());
    }
    agent.goes_on()?;
    connected(site).context("after the agent hung")?;
    ensure!(Job::start(site, "hung", "shop")?.succeeds()?, "a pod after that was denied");
    Ok(())
}

fn a_killed_agent_stops_no_pod(site: &Site) -> Result<()> {
    let pod = Job::start(site, "killed-0", "shop")?;
    pod.has_a_network()?;
    signal(site, NODE, "SIGKILL")?;
    let (next, start) = (Job::start(site, "killed-1", "shop")?, Instant::now());
    for pod in [&pod, &next] {
        // The test does not depend on when the next agent starts.
        let allowed = pod.succeeds()?;
        println!(
            "while the agent was killed, the first command of {} was {}",
            pod.name,
            if allowed { "allowed" } else { "denied" }
        );
    }
    ensure!(start.elapsed() < SOON, "the pods took {:?} to start and end", start.elapsed());
    site.rolled_out()?;
    connected(site).context("after the agent was killed")?;
    ensure!(Job::start(site, "revived", "shop")?.succeeds()?, "a pod after that was denied");
    Ok(())
}

/// Waits until the runtime is connected to the agent.
fn connected(site: &Site) -> Result<()> {
    wait("a connection to the runtime", PATIENCE, || {
        let connected = site.agent_metrics(NODE)?.sum("bulkhead_nri_connected", &[]);
        ensure!(connected == 1.0, "bulkhead_nri_connected is {connected}");
        Ok(())
    })
}

/// The number of pods held until enforced, and of pods held until the limit, and the seconds of both.
fn holds(site: &Site) -> Result<(f64, f64, f64)> {
    let metrics = site.agent_metrics(NODE)?;
    let count = |result| metrics.sum("bulkhead_nri_hold_seconds_count", &[("result", result)]);
    Ok((count("enforced"), count("timed_out"), metrics.sum("bulkhead_nri_hold_seconds_sum", &[])))
}

/// Sends the agent's first process a signal.
fn signal(site: &Site, node: &str, signal: &str) -> Result<()> {
    site.signal(node, &site.agent_container(node)?, signal)
}

/// An agent that is stopped until the value is dropped.
pub(crate) struct Stopped<'a>(&'a Site, &'a str);

impl<'a> Stopped<'a> {
    /// Stops the agent of a node.
    pub(crate) fn agent_of(site: &'a Site, node: &'a str) -> Result<Self> {
        let stopped = Self(site, node);
        signal(site, node, "SIGSTOP")?;
        Ok(stopped)
    }

    /// Lets it continue.
    pub(crate) fn goes_on(self) -> Result<()> {
        signal(self.0, self.1, "SIGCONT")
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // A second SIGCONT does nothing.
        let _ = signal(self.0, self.1, "SIGCONT");
    }
}

/// A pod of acme's whose only command is to connect to a pod on the same node. Dropping the value removes it.
struct Job<'a> {
    site: &'a Site,
    name: String,
}

impl<'a> Job<'a> {
    fn start(site: &'a Site, name: &str, to: &str) -> Result<Self> {
        let job = Self { site, name: format!("first-{name}") };
        // The kernel retries a SYN after one second, too late to be mistaken for the first.
        let target = format!("{}:{PORT}", site.world.pod(to, NODE)?.address(Family::V4)?);
        let command = json!(["/agnhost", "connect", "--timeout=600ms", target]);
        let container = json!({"name": "main", "image": AGNHOST, "imagePullPolicy": "Never", "command": command});
        let spec = json!({"nodeName": NODE, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]});
        let metadata = json!({"name": job.name, "namespace": NAMESPACE});
        site.kubectl()
            .apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).to_string())?;
        Ok(job)
    }

    fn object(&self) -> Result<Value> {
        self.site.kubectl().json(["get", "pod", "-n", NAMESPACE, &self.name])
    }

    /// Waits until the network plugins have finished.
    fn has_a_network(&self) -> Result<()> {
        let uid = text(&self.object()?, "/metadata/uid");
        let directory = self.site.cluster.node(NODE)?.path("/var/lib/cni/results")?;
        wait("the pod's network", SOON, || {
            for file in std::fs::read_dir(&directory)? {
                // The interface may be gone already.
                if std::fs::read_to_string(file?.path()).is_ok_and(|text| text.contains(&uid) && text.contains("eth0"))
                {
                    return Ok(());
                }
            }
            bail!("{} has no network yet", self.name)
        })
    }

    /// Whether its container was ever started.
    fn began(&self) -> Result<bool> {
        let object = self.object()?;
        let state = &object["status"]["containerStatuses"][0]["state"];
        Ok(!state["running"].is_null() || !state["terminated"].is_null())
    }

    /// Whether its command got its answer, once it has ended.
    fn succeeds(&self) -> Result<bool> {
        wait("the pod's end", PATIENCE, || match text(&self.object()?, "/status/phase").as_str() {
            "Succeeded" => Ok(true),
            "Failed" => Ok(false),
            phase => bail!("{} is {phase}", self.name),
        })
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        let delete = ["delete", "pod", "-n", NAMESPACE, &self.name, "--grace-period=0", "--force", "--wait=false"];
        let _ = self.site.kubectl().run(delete);
    }
}
