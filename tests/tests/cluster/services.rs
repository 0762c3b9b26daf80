//! Tests of Services with hand-written endpoints at addresses that their tenant may not reach.
//!
//! A node translates addresses after the pod's packet was judged. kube-proxy and the agent learn of a Service at
//! different times, and an external address may be one that the pod may reach as itself. The endpoints are therefore
//! edited back and forth under traffic, and every packet that arrives is counted.

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
/// The port of the Service and of its endpoints.
const TEST_PORT: u16 = 7200;
/// The interval between two datagrams.
const PACE: Duration = Duration::from_millis(2);
/// The time between two edits of the endpoints: kube-proxy writes once a second.
const STAY: Duration = Duration::from_millis(1700);
/// The number of times that the endpoints are foreign.
const ROUNDS: usize = 4;
/// An unused address in a subnet of acme's. Its pods may send there, and the Service names it as an external address.
const EXTERNAL: &str = "10.41.0.99";
/// The payloads for the Service's own address and for `EXTERNAL`.
const PAYLOADS: [&[u8; 3]; 2] = [b"own", b"ext"];

/// Datagrams to a Service never arrive at another tenant's database or pod, whatever its endpoints were or will be.
pub(crate) fn reach_nothing_else(site: &mut Site) -> Result<()> {
    let own = site.world.pod("shop", "b")?;
    let own_receiver = Receiver::open("own pod", &own.netns, own.address(Family::V4)?)?;
    let mut foreign = vec![Receiver::open("another tenant's database", &site.world.outside, outside("globex-db")?)?];
    for node in ["a", "b"] {
        let pod = site.world.pod("store", node)?;
        foreign.push(Receiver::open(&format!("another tenant's pod on {node}"), &pod.netns, pod.address(Family::V4)?)?);
    }
    let service = Service::new(site)?;
    service.set_endpoints(&[own_receiver.address])?;
    let targets = [service.address, EXTERNAL.parse()?].map(|address| SocketAddr::new(address, TEST_PORT));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let prober =
            scope.spawn(|| site.world.pod("shop", "a").map(|pod| pod.netns.run(|| send_until(targets, &stop))));
        let outcome = edit_repeatedly(&service, &own_receiver, &foreign);
        stop.store(true, Ordering::Relaxed);
        prober.join().expect("the prober does not panic")??;
        outcome
    })?;
    // The number of datagrams that the nodes translated to a forbidden destination and a guard or receiver dropped.
    let metrics = site.agent_metrics("a")?;
    let stopped = metrics.sum("bulkhead_guard_drop_packets_total", &[("reason", "cross_tenant")]);
    println!("{stopped} datagrams were stopped on the way out of the node");
    ensure!(stopped > 0.0, "no datagram was translated to a forbidden destination, so this test proves nothing");
    Ok(())
}

fn edit_repeatedly(service: &Service<'_>, own: &Receiver, foreign: &[Receiver]) -> Result<()> {
    own.receives_both("at first")?;
    for round in 0..ROUNDS {
        let other = foreign[round % foreign.len()].address;
        let addresses = [other, own.address];
        // The last rounds have the foreign address beside the tenant's own.
        service.set_endpoints(if round < foreign.len() { &addresses[..1] } else { &addresses })?;
        thread::sleep(STAY);
        service.set_endpoints(&[own.address])?;
        thread::sleep(STAY);
        own.receives_both(&format!("after round {round}"))?;
    }
    for receiver in foreign {
        let counts = receiver.received();
        ensure!(counts == [0, 0], "{} and {} datagrams arrived at {}", counts[0], counts[1], receiver.name);
    }
    Ok(())
}

/// Sends datagrams until `stop`, from one socket whose translation conntrack keeps, and from a new socket each time.
fn send_until(targets: [SocketAddr; 2], stop: &AtomicBool) -> Result<()> {
    let bind = || UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0));
    let lasting = bind()?;
    while !stop.load(Ordering::Relaxed) {
        for socket in [&lasting, &bind()?] {
            for (target, word) in targets.iter().zip(PAYLOADS) {
                // An error is ignored, because the next datagram may pass.
                let _ = socket.send_to(word, target);
            }
        }
        thread::sleep(PACE);
    }
    Ok(())
}

/// A listening socket.
struct Receiver {
    name: String,
    address: IpAddr,
    socket: UdpSocket,
}

impl Receiver {
    fn open(name: &str, netns: &Netns, address: IpAddr) -> Result<Self> {
        let socket = netns.run(|| UdpSocket::bind((address, TEST_PORT))).context("cannot listen")?;
        socket.set_nonblocking(true)?;
        Ok(Self { name: name.to_owned(), address, socket })
    }

    /// The datagrams of each kind that arrived since the last call.
    fn received(&self) -> [usize; 2] {
        let mut received = [0; 2];
        let mut buffer = [0; 64];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            for (count, word) in received.iter_mut().zip(PAYLOADS) {
                *count += usize::from(buffer[..length] == word[..]);
            }
        }
        received
    }

    /// The control: the tenant's own destinations are reached through the same two addresses.
    fn receives_both(&self, when: &str) -> Result<()> {
        self.received();
        let mut received = [0; 2];
        wait("datagrams at the tenant's own pod", Duration::from_secs(90), || {
            let more = self.received();
            received = [received[0] + more[0], received[1] + more[1]];
            ensure!(received.iter().all(|count| *count > 0), "{when}: {received:?} datagrams arrived");
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
        let port = json!({"name": "test", "protocol": "UDP", "port": TEST_PORT});
        let metadata = json!({"name": "by-hand", "namespace": NAMESPACE});
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"externalIPs": [EXTERNAL], "ports": [port]}});
        site.kubectl().apply(&object.to_string())?;
        let object = site.kubectl().json(["get", "service", "by-hand", "-n", NAMESPACE])?;
        let address = object["spec"]["clusterIP"].as_str().context("an address")?.parse()?;
        Ok(Self { site, address })
    }

    /// Writes its endpoints, as every writer of EndpointSlices can.
    fn set_endpoints(&self, addresses: &[IpAddr]) -> Result<()> {
        let endpoints: Vec<_> =
            addresses.iter().map(|end| json!({"addresses": [end], "conditions": {"ready": true}})).collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "by-hand-1",
                "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": "by-hand"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "test", "protocol": "UDP", "port": TEST_PORT}],
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
