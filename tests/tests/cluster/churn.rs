//! Many short-lived pods of two tenants, in waves, at addresses that the other tenant's pods had just before.
//!
//! Each pod sends SYNs to the other tenant from its first instruction on, to ports that no other test uses. Then it
//! must reach its own tenant, repeatedly. A capture below every socket counts what arrives at the other tenant; one
//! packet fails the test. Meanwhile datagrams flow between pods that stay, and none may be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::{images::AGNHOST, wait};
use serde_json::{Value, json};
use testbed::capture::Capture;
use testbed::host::Family;
use testbed::kube::addresses::give_again;
use testbed::kube::world::{PORT, items, outside, text};
use testbed::kube::{PATIENCE, Site};
use testbed::netns::Netns;
use testbed::probe::open_tcp;
use testbed::stream::{DatagramRecord, DatagramStream};

const WAVES: usize = 10;
/// Pods of a wave, on both nodes and of both tenants.
const PODS: usize = 22;
/// The least number of addresses that must pass from one tenant to the other for the test to be valid.
const PASSED_ON: usize = 30;
const NODES: [&str; 2] = ["a", "b"];
/// Further connections of a pod after its first one.
const AGAIN: usize = 3;
/// Seconds that a connection may take. TCP sends a lost SYN again after 1, 3, 7 and 15 s. The other node knows a pod only
/// once the API server has its address, which takes seconds while two cores start 22 pods. The time is printed.
const CONNECT_S: u64 = 30;
/// The destination port of datagrams.
const DATAGRAM_PORT: u16 = 7310;

/// A tenant: the pods that its pods must reach, and the port at which its pods try to reach the other tenant.
struct Side {
    namespace: &'static str,
    app: &'static str,
    database: &'static str,
    denied_port: u16,
}

const SIDES: [Side; 2] = [
    Side { namespace: "acme-jobs", app: "shop", database: "acme-efs", denied_port: 7301 },
    Side { namespace: "globex-jobs", app: "store", database: "globex-db", denied_port: 7302 },
];

/// No packet of a short-lived pod arrives at the other tenant, and each pod reaches its own tenant. This holds
/// whichever tenant had the address before.
pub(crate) fn of_short_lived_pods(site: &mut Site) -> Result<()> {
    let captures = Captures::open(site)?;
    let streams = Allowed::start(site)?;
    let (before, start) = (Exposure::of(site)?, Instant::now());
    let mut owners: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
    let mut connected = Vec::new();
    for wave in 0..WAVES {
        let ended = Wave::start(site, wave)?.ends()?;
        for (address, namespace) in ended.owners {
            owners.entry(address).or_default().insert(namespace);
        }
        connected.extend(ended.connected);
    }
    let took = start.elapsed();
    let after = Exposure::of(site)?;
    let passed_on = owners.values().filter(|namespaces| namespaces.len() > 1).count();
    println!(
        "{} pods in {:.0} s at {} addresses, {passed_on} of them both tenants'",
        WAVES * PODS,
        took.as_secs_f32(),
        owners.len()
    );
    connected.sort();
    let at = |part: usize| connected.get((connected.len() * part / 100).min(connected.len() - 1));
    println!(
        "from a pod's start to its first connection: p50 {:?}, p99 {:?}, max {:?}",
        at(50),
        at(99),
        connected.last()
    );
    let (pods, p50, p99) = after.since(&before, DENIED);
    println!(
        "from an interface's appearance until its packets are denied: {pods} pods, p50 <= {p50} s, p99 <= {p99} s"
    );
    let (pods, p50, p99) = after.since(&before, EXPOSED);
    println!("from an interface's appearance to its policy: {pods} pods, p50 <= {p50} s, p99 <= {p99} s");
    ensure!(p50 <= 5.0, "half of the pods waited longer than 5 s for their policy, network plugins' time included");
    ensure!(passed_on >= PASSED_ON, "only {passed_on} addresses passed from one tenant to the other");
    let dropped = after.dropped - before.dropped;
    ensure!(
        dropped >= (WAVES * PODS) as f64,
        "only {dropped} packets were dropped: the pods have not sent to the other tenant"
    );
    streams.lost_nothing()?;
    captures.captured_nothing()?;
    site.healthy()
}

/// Allowed datagrams between pods that stay, and to a database.
struct Allowed(Vec<(String, DatagramStream)>);

impl Allowed {
    fn start(site: &Site) -> Result<Self> {
        let world = &site.world;
        let (shop, store) = (world.pod("shop", "a")?, world.pod("store", "b")?);
        let (friend, partner) = (world.pod("shop", "b")?, world.pod("store", "a")?);
        let pairs = [
            (shop, Family::V4, &friend.netns, friend.address(Family::V4)?),
            (store, Family::V6, &partner.netns, partner.address(Family::V6)?),
            (shop, Family::V4, &world.outside, outside("acme-efs")?),
        ];
        let streams = pairs.into_iter().map(|(from, family, netns, to)| {
            let stream =
                DatagramStream::between(&from.netns, from.address(family)?, netns, SocketAddr::new(to, DATAGRAM_PORT))?;
            Ok((format!("{} to {to}", from.label()), stream))
        });
        streams.collect::<Result<_>>().map(Self)
    }

    fn lost_nothing(self) -> Result<()> {
        let mut delivered = 0;
        for (name, stream) in self.0 {
            let DatagramRecord { sent, refused, arrived } = stream.stop();
            let missing = sent - arrived.len() as u64;
            ensure!(sent > 1_000, "{name}: only {sent} were sent");
            ensure!(
                refused == 0 && missing == 0,
                "{name}: of {sent} datagrams {missing} are missing, {refused} were refused"
            );
            delivered += sent;
        }
        println!("{delivered} datagrams between pods that stayed, and to a database: none was lost");
        Ok(())
    }
}

/// Pods that are started together. Dropping the value removes them.
struct Wave<'a> {
    site: &'a Site,
    number: usize,
}

impl<'a> Wave<'a> {
    fn start(site: &'a Site, number: usize) -> Result<Self> {
        let wave = Self { site, number };
        let pods = (0..PODS).map(|index| wave.pod(index)).collect::<Result<Vec<_>>>()?;
        site.kubectl().apply(&json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string())?;
        Ok(wave)
    }

    /// Pods with consecutive numbers belong to different tenants. The next wave swaps the tenants.
    fn pod(&self, index: usize) -> Result<Value> {
        let (node, other_node) = (NODES[index % 2], NODES[(index + 1) % 2]);
        let side = (index / 2 + self.number) % 2;
        let (own, other) = (&SIDES[side], &SIDES[1 - side]);
        let world = &self.site.world;
        // A packet within the node passes no uplink, so the pod of the own tenant is on the other node.
        let stranger = world.pod(other.app, node)?;
        let (stranger, stranger6) = (stranger.address(Family::V4)?, stranger.address(Family::V6)?);
        let friend = SocketAddr::new(world.pod(own.app, other_node)?.address(Family::V4)?, PORT);
        let (database, port) = (outside(other.database)?, own.denied_port);
        let script = format!(
            "i=0; while [ $i -lt 8 ]; do nc -w 1 {stranger} {port} </dev/null & nc -w 1 {database} {port} </dev/null & \
             nc -w 1 {stranger6} {port} </dev/null & i=$((i+1)); usleep 20000; done; \
             code=0; read began idle </proc/uptime; /agnhost connect --timeout={CONNECT_S}s {friend} || code=2; \
             read ended idle </proc/uptime; echo $began $ended >/dev/termination-log; [ $code = 0 ] || exit $code; \
             i=0; while [ $i -lt {AGAIN} ]; do /agnhost connect --timeout={CONNECT_S}s {friend} || exit 3; i=$((i+1)); done"
        );
        let container = json!({
            "name": "main",
            "image": AGNHOST,
            "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", script],
        });
        let metadata = json!({
            "name": format!("churn-{}-{index}", self.number),
            "namespace": own.namespace,
            "labels": {"churn": "yes"},
        });
        let spec = json!({
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [container],
        });
        Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
    }

    fn pods(&self) -> Result<Vec<Value>> {
        let list = self.site.kubectl().json(["get", "pods", "-A", "-l", "churn=yes"])?;
        Ok(items(&list).cloned().collect())
    }

    /// Waits until all have succeeded, removes them, and makes their addresses the next ones to be assigned.
    fn ends(self) -> Result<Ended> {
        let pods = wait("the end of a wave", 3 * PATIENCE, || {
            let pods = self.pods()?;
            let ended = |pod: &&Value| matches!(text(pod, "/status/phase").as_str(), "Succeeded" | "Failed");
            let count = pods.iter().filter(ended).count();
            ensure!(count == PODS, "{count} of {PODS} have ended");
            Ok(pods)
        })?;
        let failed: Vec<String> = pods
            .iter()
            .filter(|pod| pod["status"]["phase"] == "Failed")
            .map(|pod| format!("{} {}", text(pod, "/metadata/name"), pod["status"]["containerStatuses"]))
            .collect();
        ensure!(failed.is_empty(), "{} pods did not reach their own tenant: {failed:#?}", failed.len());
        let had: Vec<(String, IpAddr, &str)> = pods
            .iter()
            .flat_map(|pod| {
                let side = SIDES.iter().find(|side| pod["metadata"]["namespace"] == side.namespace);
                let addresses = pod["status"]["podIPs"].as_array().into_iter().flatten();
                let addresses = addresses.filter_map(|ip| ip["ip"].as_str()?.parse().ok());
                let node = text(pod, "/spec/nodeName");
                addresses.filter_map(move |address| Some((node.clone(), address, side?.namespace)))
            })
            .collect();
        self.remove()?;
        for node in NODES {
            let addresses = had.iter().filter(|(on, ..)| on == node).map(|(_, address, _)| *address);
            give_again(self.site.cluster.node(node)?, addresses)?;
        }
        let owners = had.into_iter().map(|(_, address, namespace)| (address, namespace)).collect();
        Ok(Ended { owners, connected: pods.iter().map(first_connection).collect::<Result<_>>()? })
    }

    fn remove(&self) -> Result<()> {
        let delete = ["delete", "pods", "-A", "-l", "churn=yes", "--grace-period=0", "--force", "--wait=false"];
        self.site.kubectl().run(delete).map(drop)
    }
}

/// What a wave leaves.
struct Ended {
    /// The addresses, and the namespaces that had them.
    owners: Vec<(IpAddr, &'static str)>,
    /// How long the first connection of each pod took.
    connected: Vec<Duration>,
}

/// How long a pod's first connection took, from the two times of its termination message.
fn first_connection(pod: &Value) -> Result<Duration> {
    let message = text(pod, "/status/containerStatuses/0/state/terminated/message");
    let times: Vec<f64> = message.split_whitespace().filter_map(|time| time.parse().ok()).collect();
    let [began, ended] = times[..] else { bail!("no times in {message:?} of {}", text(pod, "/metadata/name")) };
    Ok(Duration::from_secs_f64((ended - began).max(0.0)))
}

impl Drop for Wave<'_> {
    fn drop(&mut self) {
        // After a success the pods have been removed already.
        let _ = self.remove();
    }
}

/// Captures at the destinations of forbidden packets.
struct Captures(Vec<(String, Capture)>);

impl Captures {
    /// Starts all captures and checks that each one captures.
    fn open(site: &Site) -> Result<Self> {
        let mut captures = Vec::new();
        for (own, other) in [(&SIDES[0], &SIDES[1]), (&SIDES[1], &SIDES[0])] {
            let friend = site.world.pod(own.app, "a")?;
            let mut hosts = vec![(own.database.to_owned(), &site.world.outside, outside(own.database)?)];
            for node in NODES {
                let pod = site.world.pod(own.app, node)?;
                hosts.push((pod.label(), &pod.netns, pod.address(Family::V4)?));
                hosts.push((pod.label(), &pod.netns, pod.address(Family::V6)?));
            }
            for (name, netns, address) in hosts {
                let prober = if name == friend.label() { site.world.pod(own.app, "b")? } else { friend };
                captures_a_packet(netns, &prober.netns, SocketAddr::new(address, other.denied_port))
                    .with_context(|| format!("the control: a packet of the same tenant to {name}"))?;
                captures.push((name, capture_at(netns, address, other.denied_port)?));
            }
        }
        Ok(Self(captures))
    }

    fn captured_nothing(self) -> Result<()> {
        for (name, capture) in self.0 {
            let frames = capture.stop();
            ensure!(
                frames.is_empty(),
                "{} packets of the other tenant arrived at {name}: {:02x?}",
                frames.len(),
                frames[0]
            );
        }
        Ok(())
    }
}

/// The control: a packet from the same tenant to the same port is captured.
fn captures_a_packet(netns: &Netns, prober: &Netns, target: SocketAddr) -> Result<()> {
    let capture = capture_at(netns, target.ip(), target.port())?;
    // The packet is sent in any case, whether it is refused or gets no answer.
    let _ = prober.run(|| open_tcp(None, target, Duration::from_millis(500)));
    ensure!(!capture.stop().is_empty(), "it was not captured");
    Ok(())
}

fn capture_at(netns: &Netns, address: IpAddr, port: u16) -> Result<Capture> {
    Capture::start(netns, move |frame| {
        let at = |range: std::ops::Range<usize>| frame.get(range).unwrap_or_default();
        match address {
            IpAddr::V4(address) => {
                at(12..14) == [8, 0] && at(30..34) == address.octets() && at(36..38) == port.to_be_bytes()
            }
            IpAddr::V6(address) => {
                at(12..14) == [0x86, 0xdd] && at(38..54) == address.octets() && at(56..58) == port.to_be_bytes()
            }
        }
    })
}

/// The time from an interface's appearance until its packets are denied, and until its policy is in force. Both include
/// the time of the network plugins.
const DENIED: &str = "bulkhead_endpoint_denied_seconds_bucket";
const EXPOSED: &str = "bulkhead_endpoint_exposure_seconds_bucket";

/// How long pods of both nodes waited, by histogram and bucket, and how many packets were dropped.
struct Exposure {
    buckets: BTreeMap<(&'static str, String), f64>,
    dropped: f64,
}

impl Exposure {
    fn of(site: &Site) -> Result<Self> {
        let mut exposure = Self { buckets: BTreeMap::new(), dropped: 0.0 };
        for node in NODES {
            let metrics = site.agent_metrics(node)?;
            for name in [DENIED, EXPOSED] {
                for sample in metrics.select(name, &[]) {
                    let bound = sample.labels.get("le").context("a bucket has a bound")?;
                    *exposure.buckets.entry((name, bound.clone())).or_default() += sample.value;
                }
            }
            exposure.dropped += metrics.sum("bulkhead_drop_packets_total", &[("direction", "egress")]);
        }
        Ok(exposure)
    }

    /// The number of pods since `before`, and the upper bounds of their median and 99th percentile in seconds.
    fn since(&self, before: &Self, name: &'static str) -> (f64, f64, f64) {
        let ours = self.buckets.iter().filter(|((of, _), _)| *of == name);
        let mut counts: Vec<(f64, f64)> = ours
            .filter_map(|(key, count)| {
                let bound = key.1.replace("+Inf", "inf").parse().ok()?;
                Some((bound, count - before.buckets.get(key).copied().unwrap_or_default()))
            })
            .collect();
        counts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all = counts.last().map_or(0.0, |(_, count)| *count);
        let quantile =
            |part: f64| counts.iter().find(|(_, count)| *count >= part * all).map_or(f64::NAN, |found| found.0);
        (all, quantile(0.5), quantile(0.99))
    }
}
