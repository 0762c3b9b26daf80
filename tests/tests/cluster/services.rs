//! Services whose ends somebody wrote by hand: a name for what the writer may not reach himself.
//!
//! A node translates a Service's address after the pod's packet was judged by it, and kube-proxy and the agent hear of
//! an edit at different times. So the ends are edited to and fro amid traffic, and whatever arrives counts.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::kube::Site;
use bench::kube::world::OUTSIDE;
use bench::netns::Netns;
use bench::place::Family;
use cluster::wait;
use serde_json::json;

const NAMESPACE: &str = "acme-web";
/// Where a Service without a selector leads, whatever its ends are.
const EAR: u16 = 7200;
/// Between two datagrams.
const PACE: Duration = Duration::from_millis(2);
/// How long ends stay as they are: kube-proxy writes once a second.
const STAY: Duration = Duration::from_millis(1700);
/// How often the ends are foreign.
const ROUNDS: usize = 4;

/// Datagrams to a Service never come out at another tenant's database or pod, whatever its ends were or will be.
pub fn lead_nowhere_else(site: &mut Site) -> Result<()> {
    let own = &site.world.pod("shop", "b")?;
    let foreign = &site.world.pod("store", "b")?;
    let (_, database, _) = OUTSIDE.iter().find(|(name, ..)| *name == "globex-db").context("a database")?;
    let database: IpAddr = database.parse()?;
    let ears = Ears {
        own: Ear::open(&own.netns, own.address(Family::V4)?)?,
        foreign: Ear::open(&foreign.netns, foreign.address(Family::V4)?)?,
        database: Ear::open(&site.world.outside, database)?,
    };
    let ends = [own.address(Family::V4)?, foreign.address(Family::V4)?, database];
    let service = Service::new(site)?;
    service.lead_to(&ends[..1])?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let asker = scope.spawn(|| site.world.pod("shop", "a").map(|pod| pod.netns.run(|| ask(service.target, &stop))));
        let outcome = to_and_fro(&service, &ends, &ears);
        stop.store(true, Ordering::Relaxed);
        asker.join().expect("the asker does not panic")??;
        outcome
    })?;
    // How many the nodes did translate to where they may not go, and the lock on the way out stopped.
    let stopped = site.agent_metrics("a")?.sum("bulkhead_lock_drop_packets_total", &[("reason", "cross_tenant")]);
    println!("{stopped} datagrams were stopped on the way out of the node");
    Ok(())
}

fn to_and_fro(service: &Service<'_>, ends: &[IpAddr; 3], ears: &Ears) -> Result<()> {
    let [own, foreign, database] = *ends;
    ears.hear_own("at first")?;
    for round in 0..ROUNDS {
        let others: &[IpAddr] = match round % 3 {
            0 => &[database],
            1 => &[foreign],
            _ => &[own, database],
        };
        service.lead_to(others)?;
        thread::sleep(STAY);
        service.lead_to(&[own])?;
        thread::sleep(STAY);
        ears.hear_own(&format!("after round {round}"))?;
    }
    let strays = (ears.database.heard(), ears.foreign.heard());
    ensure!(strays == (0, 0), "{} datagrams came to another tenant's database and {} to its pod", strays.0, strays.1);
    Ok(())
}

/// Asks until `stop`: by one socket, which the node goes on translating as it began, and by a new one each time.
fn ask(target: SocketAddr, stop: &AtomicBool) -> Result<()> {
    let bind = || UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0));
    let lasting = bind()?;
    while !stop.load(Ordering::Relaxed) {
        for socket in [&lasting, &bind()?] {
            // Refused or not, the next may pass.
            let _ = socket.send_to(b"bulkhead", target);
        }
        thread::sleep(PACE);
    }
    Ok(())
}

struct Ears {
    own: Ear,
    foreign: Ear,
    database: Ear,
}

impl Ears {
    /// The control: what is the tenant's own is reached by the same name.
    fn hear_own(&self, when: &str) -> Result<()> {
        self.own.heard();
        wait("a datagram at the tenant's own pod", Duration::from_secs(90), || {
            ensure!(self.own.heard() > 0, "{when}: none came");
            Ok(())
        })
    }
}

/// A socket that listens.
struct Ear(UdpSocket);

impl Ear {
    fn open(netns: &Netns, address: IpAddr) -> Result<Self> {
        let socket = netns.run(|| UdpSocket::bind((address, EAR))).context("cannot listen")?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Datagrams that came since the last question.
    fn heard(&self) -> usize {
        let mut buffer = [0; 64];
        std::iter::from_fn(|| self.0.recv(&mut buffer).ok()).count()
    }
}

/// A Service without a selector, removed with the value.
struct Service<'a> {
    site: &'a Site,
    target: SocketAddr,
}

impl<'a> Service<'a> {
    fn new(site: &'a Site) -> Result<Self> {
        let port = json!({"name": "ear", "protocol": "UDP", "port": EAR});
        let metadata = json!({"name": "by-hand", "namespace": NAMESPACE});
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [port]}});
        site.kubectl().apply(&object.to_string())?;
        let object = site.kubectl().json(["get", "service", "by-hand", "-n", NAMESPACE])?;
        let address: IpAddr = object["spec"]["clusterIP"].as_str().context("an address")?.parse()?;
        Ok(Self { site, target: SocketAddr::new(address, EAR) })
    }

    /// Writes its ends, as whoever may write EndpointSlices can.
    fn lead_to(&self, ends: &[IpAddr]) -> Result<()> {
        let endpoints: Vec<_> =
            ends.iter().map(|end| json!({"addresses": [end], "conditions": {"ready": true}})).collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "by-hand-1",
                "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": "by-hand"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "ear", "protocol": "UDP", "port": EAR}],
            "endpoints": endpoints,
        });
        self.site.kubectl().apply(&slice.to_string()).map(drop)
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        let _ = self.site.kubectl().run(["delete", "service", "by-hand", "-n", NAMESPACE, "--wait=false"]);
        let _ =
            self.site.kubectl().run(["delete", "endpointslice", "by-hand-1", "-n", NAMESPACE, "--ignore-not-found"]);
    }
}
