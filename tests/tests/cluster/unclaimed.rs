//! Tests of interfaces on a node that belong to no known pod.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::Node;
use testbed::host::Family;
use testbed::kube::Site;
use testbed::kube::world::{PORT, Pod};
use testbed::netns::{self, Netns};
use testbed::probe::{Outcome, Transport, probe};

/// A named network namespace on the node, as network plugins make them, and a veth pair to it.
fn named(address: &str) -> String {
    format!(
        "ip netns add stranger
ip link add wire1 type veth peer name eth0 netns stranger
ip addr add 10.99.1.1/32 dev wire1
ip link set wire1 up
ip route add {address} dev wire1
ip -n stranger addr add {address}/32 dev eth0
ip -n stranger link set eth0 up
ip -n stranger route add 10.99.1.1 dev eth0
ip -n stranger route add default via 10.99.1.1
ip netns exec stranger sh -c 'echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range'"
    )
}

/// The same veth pair to an unnamed namespace: it may be a pod's too, and no program is attached to it.
const UNNAMED: &str = "addr add 10.99.2.1/30 dev wire2
link set wire2 up";

const UNNAMED_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 1);

/// An interface that looks like a pod's but is none is denied while it exists. One to a namespace without a name reaches
/// the node, and no pod. The node itself reaches pods throughout.
pub(crate) fn are_denied(site: &mut Site) -> Result<()> {
    let node = site.cluster.node("a")?;
    let shop = site.world.pod("shop", "a")?;
    let name = format!("bh-{}-own", site.cluster.id());
    // A killed run may have left it.
    netns::remove(&name);
    let own = Netns::create(&name)?;
    let path = node.netns();
    let host = Netns::open(path.file_name().and_then(|name| name.to_str()).context("a name")?)?;
    host.ip(&format!("link add wire2 type veth peer name eth0 netns {}\n{UNNAMED}", own.name()))?;
    own.ip("addr add 10.99.2.2/30 dev eth0\nlink set eth0 up\nroute add default via 10.99.2.1")?;
    let denied = || {
        Ok::<_, anyhow::Error>(site.agent_metrics("a")?.sum("bulkhead_drop_packets_total", &[("reason", "not_ready")]))
    };
    let before = denied()?;

    let _stranger = Stranger::arrive_with(node, "10.99.1.2")?;
    let stranger = Netns::at(&node.path("/run/netns/stranger")?, "stranger")?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        for transport in Transport::ALL {
            let [stranger, unnamed, node] = [&stranger, &own, &host].map(|from| outcome(from, shop, transport));
            ensure!(node? == Outcome::Answered, "the control got no answer over {}", transport.name());
            for (what, theirs) in [("an unclaimed interface", stranger?), ("an unnamed namespace", unnamed?)] {
                ensure!(
                    matches!(theirs, Outcome::Silence | Outcome::Unreachable),
                    "{what} got {theirs:?} over {}",
                    transport.name()
                );
            }
        }
        let to_node = own.run(|| probe(Transport::Icmp, None, SocketAddr::new(UNNAMED_GATEWAY.into(), 0)));
        ensure!(to_node == Outcome::Answered, "the node's own link got {to_node:?} from the node");
    }
    ensure!(denied()? > before, "no drop was counted as not_ready");
    Ok(())
}

fn outcome(from: &Netns, to: &Pod, transport: Transport) -> Result<Outcome> {
    let target = SocketAddr::new(to.address(Family::V4)?, PORT);
    Ok(from.run(|| probe(transport, None, target)))
}

/// A network namespace with an interface that no pod claims. Dropping the value removes it.
pub(crate) struct Stranger<'a>(Node<'a>);

impl<'a> Stranger<'a> {
    /// Creates it with this address.
    pub(crate) fn arrive_with(node: Node<'a>, address: &str) -> Result<Self> {
        let stranger = Self(node);
        stranger.run(&named(address))?;
        Ok(stranger)
    }

    fn run(&self, script: &str) -> Result<()> {
        let output = self.0.command("sh")?.args(["-ec", script]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        // Removing the interface returns when it is gone. Removing the namespace alone does not: the kernel removes its
        // interfaces some time later, and until then the next stranger cannot use the name.
        let _ = self.run("ip link del wire1");
        let _ = self.run("ip netns del stranger");
    }
}
