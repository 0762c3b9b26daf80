//! Tests without agents or without the API server: traffic continues as the policy states.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::{Cluster, wait};
use testbed::host::Family;
use testbed::kube::world::{PORT, Pod, outside};
use testbed::kube::{PATIENCE, SYSTEM, Site};
use testbed::probe::{Outcome, Transport, probe};
use testbed::stream::{DatagramStream, EchoConnection};

use super::edits;

/// The destination port of datagrams, which no other test uses.
const DATAGRAM_PORT: u16 = 7400;
const NODES: [&str; 2] = ["a", "b"];
/// The time that a kubelet may take to restart an agent.
const RETURN: Duration = Duration::from_secs(20);
/// The time that each state is observed.
const WHILE: Duration = Duration::from_secs(3);
/// The period in which the node controller looks at each node (`--node-monitor-period`, its default).
const NODE_MONITOR_PERIOD: Duration = Duration::from_secs(5);
/// The longest accepted pause of a connection.
const TOLERABLE: Duration = Duration::from_millis(500);

/// The traffic meanwhile: a connection within a tenant between the nodes, and denied datagrams to a pod and a database
/// of another tenant.
struct Traffic {
    connection: EchoConnection,
    streams: Vec<(&'static str, DatagramStream)>,
}

impl Traffic {
    fn start(site: &Site) -> Result<Self> {
        let world = &site.world;
        let (from, to) = (world.pod("shop", "a")?, world.pod("shop", "b")?);
        let source = from.address(Family::V4)?;
        let connection =
            EchoConnection::between(&from.netns, Some(source), SocketAddr::new(to.address(Family::V4)?, PORT))?;
        let mut streams = Vec::new();
        for node in NODES {
            let stranger = world.pod("store", node)?;
            let target = SocketAddr::new(stranger.address(Family::V4)?, DATAGRAM_PORT);
            streams
                .push(("another tenant's pod", DatagramStream::between(&from.netns, source, &stranger.netns, target)?));
        }
        let target = SocketAddr::new(outside("globex-db")?, DATAGRAM_PORT);
        streams
            .push(("another tenant's database", DatagramStream::between(&from.netns, source, &world.outside, target)?));
        Ok(Self { connection, streams })
    }

    fn end(self, what: &str) -> Result<()> {
        let connection = self.connection.stop();
        ensure!(connection.error.is_none(), "{what}: a tenant's own connection ended: {:?}", connection.error);
        let gap = connection.longest_gap();
        ensure!(gap < TOLERABLE, "{what}: a tenant's own connection paused for {gap:?}");
        println!("{what}: a tenant's own connection paused for {} ms at the most", gap.as_millis());
        for (host, stream) in self.streams {
            let record = stream.stop();
            ensure!(record.sent > 0, "{what}: nothing was sent to {host}");
            ensure!(record.arrived.is_empty(), "{what}: {} datagrams arrived at {host}", record.arrived.len());
        }
        Ok(())
    }
}

/// The API server ends or hangs, then the agents are killed and start without it. Nothing changes until it is back and
/// an edit arrives.
pub(crate) fn without_an_api_server(site: &mut Site) -> Result<()> {
    outage(site, "gone", Cluster::stop_api_server, Cluster::start_api_server).context("gone")?;
    outage(site, "frozen", Cluster::freeze_api_server, Cluster::thaw_api_server).context("frozen")?;
    edits::a_subnet(site).context("an edit after that")
}

type Change = fn(&Cluster) -> Result<()>;

fn outage(site: &Site, what: &str, begin: Change, end: Change) -> Result<()> {
    let mut agents = Vec::new();
    for node in NODES {
        agents.push((node, site.agent_container(node)?));
    }
    let traffic = Traffic::start(site)?;
    begin(&site.cluster)?;
    let outcome = meanwhile(site, &agents);
    end(&site.cluster)?;
    outcome?;
    for node in NODES {
        // A kubelet watches ConfigMaps again only some time after the API server is back.
        wait("a ready agent", 4 * PATIENCE, || {
            let (status, page) = site.agent_page(node, "/readyz")?;
            ensure!(status == 200, "{page}");
            Ok(())
        })?;
    }
    traffic.end(&format!("while the API server was {what} and agents were away"))
}

fn meanwhile(site: &Site, agents: &[(&str, String)]) -> Result<()> {
    thread::sleep(WHILE);
    policy_holds(site).context("without an API server")?;
    for (node, container) in agents {
        site.signal(node, container, "SIGKILL")?;
    }
    policy_holds(site).context("without an API server and agents")?;
    let start = Instant::now();
    for node in NODES {
        // A kubelet without a cached ConfigMap cannot start an agent without an API server.
        let returns = || site.agent_page(node, "/readyz").map(|(status, _)| status);
        let status = wait("the next agent", RETURN.saturating_sub(start.elapsed()), returns).ok();
        ensure!(status != Some(200), "the agent on {node} reports that it is ready without an API server");
        println!("without an API server, node {node} has {} agent again", if status.is_some() { "an" } else { "no" });
    }
    policy_holds(site).context("with agents that have received no objects, or no agents")?;
    thread::sleep(WHILE);
    Ok(())
}

/// Checks that new connections are allowed or denied as the policy states.
fn policy_holds(site: &Site) -> Result<()> {
    let world = &site.world;
    let outcome = |from: &Pod, to: &Pod| -> Result<Outcome> {
        let target = SocketAddr::new(to.address(Family::V4)?, PORT);
        Ok(from.netns.run(|| probe(Transport::Tcp, None, target)))
    };
    for (from, to) in [("a", "b"), ("b", "a"), ("a", "a")] {
        let own = outcome(world.pod("store", from)?, world.pod("store", to)?)?;
        ensure!(own == Outcome::Answered, "a tenant's own pods, {from} to {to}: {own:?}");
        let other = outcome(world.pod("store", from)?, world.pod("shop", to)?)?;
        ensure!(other != Outcome::Answered, "two tenants' pods, {from} to {to}: {other:?}");
    }
    Ok(())
}

/// The readiness of nodes and pods, once all are ready and stay so.
///
/// After an outage of the API server the node controller may mark a node and its pods as not ready. Kubelets revert
/// that some seconds later, so an earlier reading would take their answer for a change.
fn steady_readiness(site: &Site) -> Result<Vec<String>> {
    wait("nodes and pods that stay ready", 4 * PATIENCE, || {
        let first = site.readiness()?;
        let missing: Vec<&String> = first.iter().filter(|line| !line.contains(" True since ")).collect();
        ensure!(missing.is_empty(), "these objects are not ready: {missing:?}");
        thread::sleep(2 * NODE_MONITOR_PERIOD);
        ensure!(site.readiness()? == first, "nodes or pods still change");
        Ok(first)
    })
}

/// `kubectl rollout restart` of agents and controller, as an update does it.
pub(crate) fn agents_are_replaced(site: &mut Site) -> Result<()> {
    let before = steady_readiness(site)?;
    let traffic = Traffic::start(site)?;
    site.kubectl().run(["-n", SYSTEM, "rollout", "restart", "daemonset/bulkhead", "deployment/bulkhead-controller"])?;
    site.rolled_out()?;
    traffic.end("while agents were replaced")?;
    let changed: Vec<String> = site.readiness()?.into_iter().filter(|line| !before.contains(line)).collect();
    ensure!(changed.is_empty(), "these objects were not ready in between: {changed:?}");
    site.settle()?;
    site.check()?;
    site.healthy()
}
