//! Services with hand-written endpoints that name addresses which their author may not reach.
//!
//! A node translates addresses after the pod's packet was judged. kube-proxy and the agent learn of a Service at different
//! times, and an external address may be one that the pod may reach as itself. The endpoints are therefore edited back and
//! forth under traffic, and every packet that arrives is counted.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::wait;
use serde_json::json;
use testbed::host::Family;
use testbed::kube::Site;
use testbed::kube::world::outside;
use testbed::netns::Netns;

const NAMESPACE: &str = "acme-web";
/// Where a Service without a selector leads, whatever its ends are.
const EAR: u16 = 7200;
/// The interval between two datagrams.
const PACE: Duration = Duration::from_millis(2);
/// The time between two edits of the endpoints: kube-proxy writes once a second.
const STAY: Duration = Duration::from_millis(1700);
/// The number of times that the endpoints are foreign.
const ROUNDS: usize = 4;
/// An unused address in a subnet of acme's. Its pods may send there, and the Service names it as an external address.
const EXTERNAL: &str = "10.41.0.99";
/// The payloads for the Service's own address and for that one.
const WORDS: [&[u8; 3]; 2] = [b"own", b"ext"];

/// Datagrams to a Service never arrive at another tenant's database or pod, whatever its endpoints were or will be.
pub fn reach_nothing_else(site: &mut Site) -> Result<()> {
    let own = site.world.pod("shop", "b")?;
    let own_ear = Ear::open("own pod", &own.netns, own.address(Family::V4)?)?;
    let mut foreign = vec![Ear::open("another tenant's database", &site.world.outside, outside("globex-db")?)?];
    for node in ["a", "b"] {
        let pod = site.world.pod("store", node)?;
        foreign.push(Ear::open(&format!("another tenant's pod on {node}"), &pod.netns, pod.address(Family::V4)?)?);
    }
    let service = Service::new(site)?;
    service.lead_to(&[own_ear.address])?;
    let targets = [service.address, EXTERNAL.parse()?].map(|address| SocketAddr::new(address, EAR));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let prober = scope.spawn(|| site.world.pod("shop", "a").map(|pod| pod.netns.run(|| ask(targets, &stop))));
        let outcome = to_and_fro(&service, &own_ear, &foreign);
        stop.store(true, Ordering::Relaxed);
        prober.join().expect("the prober does not panic")??;
        outcome
    })?;
    // The number of datagrams that the nodes translated to a forbidden destination and a guard or receiver dropped.
    let metrics = site.agent_metrics("a")?;
    let stopped = metrics.sum("bulkhead_guard_drop_packets_total", &[("reason", "cross_tenant")]);
    println!("{stopped} datagrams were stopped on the way out of the node");
    ensure!(stopped > 0.0, "none was led astray: this proved nothing");
    Ok(())
}

fn to_and_fro(service: &Service<'_>, own: &Ear, foreign: &[Ear]) -> Result<()> {
    own.hears_both("at first")?;
    for round in 0..ROUNDS {
        let other = foreign[round % foreign.len()].address;
        let ends = [other, own.address];
        // In the end beside its own.
        service.lead_to(if round < foreign.len() { &ends[..1] } else { &ends })?;
        thread::sleep(STAY);
        service.lead_to(&[own.address])?;
        thread::sleep(STAY);
        own.hears_both(&format!("after round {round}"))?;
    }
    for ear in foreign {
        let strays = ear.heard();
        ensure!(strays == [0, 0], "{} and {} datagrams came to {}", strays[0], strays[1], ear.name);
    }
    Ok(())
}

/// Sends until `stop`: from one socket, whose translation conntrack keeps, and from a new socket each time.
fn ask(targets: [SocketAddr; 2], stop: &AtomicBool) -> Result<()> {
    let bind = || UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0));
    let lasting = bind()?;
    while !stop.load(Ordering::Relaxed) {
        for socket in [&lasting, &bind()?] {
            for (target, word) in targets.iter().zip(WORDS) {
                // The next datagram may pass, whether this one was refused or not.
                let _ = socket.send_to(word, target);
            }
        }
        thread::sleep(PACE);
    }
    Ok(())
}

/// A listening socket.
struct Ear {
    name: String,
    address: IpAddr,
    socket: UdpSocket,
}

impl Ear {
    fn open(name: &str, netns: &Netns, address: IpAddr) -> Result<Self> {
        let socket = netns.run(|| UdpSocket::bind((address, EAR))).context("cannot listen")?;
        socket.set_nonblocking(true)?;
        Ok(Self { name: name.to_owned(), address, socket })
    }

    /// The datagrams of each kind that arrived since the last call.
    fn heard(&self) -> [usize; 2] {
        let mut heard = [0; 2];
        let mut buffer = [0; 64];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            for (count, word) in heard.iter_mut().zip(WORDS) {
                *count += usize::from(buffer[..length] == word[..]);
            }
        }
        heard
    }

    /// The control: the tenant's own destinations are reached through the same two addresses.
    fn hears_both(&self, when: &str) -> Result<()> {
        self.heard();
        let mut heard = [0; 2];
        wait("datagrams at the tenant's own pod", Duration::from_secs(90), || {
            let more = self.heard();
            heard = [heard[0] + more[0], heard[1] + more[1]];
            ensure!(heard.iter().all(|count| *count > 0), "{when}: {heard:?} came");
            Ok(())
        })
    }
}

/// A Service without a selector. Dropping the value removes it.
struct Service<'a> {
    site: &'a Site,
    address: IpAddr,
}

impl<'a> Service<'a> {
    fn new(site: &'a Site) -> Result<Self> {
        let port = json!({"name": "ear", "protocol": "UDP", "port": EAR});
        let metadata = json!({"name": "by-hand", "namespace": NAMESPACE});
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"externalIPs": [EXTERNAL], "ports": [port]}});
        site.kubectl().apply(&object.to_string())?;
        let object = site.kubectl().json(["get", "service", "by-hand", "-n", NAMESPACE])?;
        let address = object["spec"]["clusterIP"].as_str().context("an address")?.parse()?;
        Ok(Self { site, address })
    }

    /// Writes its endpoints, as every writer of EndpointSlices can.
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
