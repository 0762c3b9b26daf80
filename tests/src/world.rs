//! A small network: a node, five pods of two tenants and a Shared one, and the hosts outside the node.
//!
//! ```text
//!   acme-web  acme-api  globex-web  globex-api  dns        one namespace each, eth0
//!      |         |          |           |        |         routed: a veth and a /32 route each
//!      +---------+----- node (forwards) -+--------+         bridged: all of them on cni0
//!                          |  uplink 192.0.2.10
//!                       outside 192.0.2.1                   acme-far globex-far acme-db globex-db
//!                                                           internet metadata, as addresses of lo
//! ```
//!
//! Nothing here filters packets: without an agent every host reaches every other, and tests check that first.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::config::{Config, Endpoint};
use crate::host::{BRIDGED_GATEWAYS, Family, Host, ROUTED_GATEWAYS, UPSTREAM, mac_text};
use crate::netns::Netns;
use crate::scope::Scope;
use crate::serve::Servers;

/// How pods are attached to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Like ptp and Calico: each pod has its own link, and the node routes.
    Routed,
    /// Like the bridge plugin: pods share a link, and the node routes only packets that leave it.
    Bridged,
}

/// The network. Dropping the value removes everything.
#[derive(Debug)]
pub struct World {
    /// How its pods are connected.
    pub layout: Layout,
    servers: Vec<(Host, Servers)>,
    pods: Vec<(Host, Netns)>,
    /// The network namespace of the node, where the agent runs.
    pub node: Netns,
    outside: Netns,
    /// The scope that owns everything.
    pub scope: Scope,
}

impl World {
    /// Builds a network with all its pods.
    pub fn new(layout: Layout) -> Result<Self> {
        let mut world = Self::without_pods(layout, Scope::new()?)?;
        for host in Host::PODS {
            world.add_pod(host)?;
        }
        Ok(world)
    }

    /// Builds the node, the uplink and the hosts outside.
    pub fn without_pods(layout: Layout, scope: Scope) -> Result<Self> {
        let node = scope.netns("node")?;
        let outside = scope.netns("outside")?;
        node.sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/forwarding", "1"),
        ])?;
        node.ip(&node_batch(layout, &outside)).context("cannot build the node")?;
        outside.ip(&outside_batch()).context("cannot build the hosts outside the node")?;
        outside.wait_until_up()?;
        let mut world = Self { layout, servers: Vec::new(), pods: Vec::new(), node, outside, scope };
        let beyond: Vec<SocketAddr> = Host::OUTSIDE.into_iter().flat_map(listening).collect();
        world.servers.push((Host::Internet, Servers::start(&world.outside, &beyond)?));
        world.servers.push((Host::Node, Servers::start(&world.node, &listening(Host::Node))?));
        Ok(world)
    }

    /// Adds a pod of this node, with its servers.
    pub fn add_pod(&mut self, host: Host) -> Result<()> {
        let pod = self.scope.netns(host.name())?;
        let (own_mac, gateway_mac) = host.macs();
        let interface = interface(host);
        let mut node = format!(
            "link add {interface} address {} type veth peer name eth0 address {} netns {}\n",
            mac_text(gateway_mac),
            mac_text(own_mac),
            pod.name()
        );
        let batch = match self.layout {
            Layout::Routed => {
                let _ = writeln!(node, "link set {interface} up");
                let _ = writeln!(node, "addr add {}/64 dev {interface} nodad", ROUTED_GATEWAYS.1);
                let _ = writeln!(node, "route add {}/32 dev {interface}", host.v4());
                let _ = writeln!(node, "route add {}/128 dev {interface}", host.v6());
                routed_pod_batch(host)
            }
            Layout::Bridged => {
                let _ = writeln!(node, "link set {interface} master cni0\nlink set {interface} up");
                bridged_pod_batch(host)
            }
        };
        self.node.ip(&node).with_context(|| format!("cannot attach {}", host.name()))?;
        if self.layout == Layout::Routed {
            // The node answers ARP for the link-local gateway immediately.
            let key = |setting: &str| format!("ipv4/{setting}").replace("IF", &interface);
            self.node.sysctl(&[(&key("conf/IF/proxy_arp"), "1"), (&key("neigh/IF/proxy_delay"), "0")])?;
        }
        pod.ip(&batch).with_context(|| format!("cannot configure {}", host.name()))?;
        pod.wait_until_up()?;
        self.node.wait_until_up()?;
        self.servers.push((host, Servers::start(&pod, &listening(host))?));
        self.pods.push((host, pod));
        Ok(())
    }

    /// Removes a pod, its interface first, as network plugins do.
    pub fn remove_pod(&mut self, host: Host) -> Result<()> {
        self.node.ip(&format!("link del {}", interface(host)))?;
        self.servers.retain(|(owner, _)| *owner != host);
        self.pods.retain(|(owner, _)| *owner != host);
        Ok(())
    }

    /// Gives pods that share a link permanent neighbour entries for each other. It simulates a pod that sends frames
    /// without ARP or neighbour discovery.
    pub fn introduce(&self) -> Result<()> {
        if self.layout == Layout::Routed {
            return Ok(());
        }
        for (pod, netns) in &self.pods {
            let others = self.pods().filter(|other| other != pod);
            let batch: String = others.flat_map(|other| Family::ALL.map(|family| neighbour(other, family))).collect();
            netns.ip(&batch)?;
        }
        Ok(())
    }

    /// The network namespace of a host.
    pub fn netns(&self, host: Host) -> &Netns {
        match host {
            Host::Node => &self.node,
            _ => self.pods.iter().find(|(pod, _)| *pod == host).map_or(&self.outside, |(_, netns)| netns),
        }
    }

    /// The network namespace of the hosts outside.
    pub fn outside(&self) -> &Netns {
        &self.outside
    }

    /// The existing pods.
    pub fn pods(&self) -> impl Iterator<Item = Host> {
        self.pods.iter().map(|(host, _)| *host)
    }

    /// Two tenants, and an endpoint for every pod, existing or not. The endpoint of a routed pod names its interface,
    /// that of a bridged pod its network namespace.
    pub fn config(&self) -> Config {
        let mut config = Config::two_tenants();
        config.endpoints = Host::PODS.into_iter().map(|host| self.endpoint(host)).collect();
        config.endpoints.extend([Host::AcmeFar, Host::GlobexFar].map(Endpoint::far));
        config
    }

    /// The path of the configuration.
    pub fn config_path(&self) -> PathBuf {
        self.scope.file("bulkhead.yaml")
    }

    /// Ends the servers and keeps everything else.
    pub fn keep(&mut self) {
        self.servers.clear();
        self.scope.keep();
        self.node.keep();
        self.outside.keep();
        self.pods.iter_mut().for_each(|(_, netns)| netns.keep());
    }

    fn endpoint(&self, host: Host) -> Endpoint {
        match self.layout {
            Layout::Routed => Endpoint::routed(host, ("interface", interface(host))),
            Layout::Bridged => Endpoint::bridged(host, ("netns", self.scope.netns_name(host.name()))),
        }
    }
}

/// The node's interface of a pod.
pub fn interface(host: Host) -> String {
    format!("bh-{}", host.name())
}

/// The addresses of the servers of a host.
pub fn listening(host: Host) -> Vec<SocketAddr> {
    let mut addresses = Family::ALL.map(|family| host.server(family)).to_vec();
    if matches!(host, Host::AcmeDb | Host::GlobexDb) {
        addresses.extend(Family::ALL.map(|family| SocketAddr::new(host.address(family), OTHER_PORT)));
    }
    addresses
}

/// A second port of the databases, which acme's policy does not list.
pub const OTHER_PORT: u16 = 9999;

fn neighbour(other: Host, family: Family) -> String {
    let (address, mac) = (other.address(family), mac_text(other.macs().0));
    format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent\n")
}

fn node_batch(layout: Layout, outside: &Netns) -> String {
    let mut batch = format!(
        "link add uplink type veth peer name uplink netns {}\nlink set uplink up\n\
         addr add {}/24 dev uplink\naddr add {}/64 dev uplink nodad\n\
         route add default via {}\nroute add default via {}\n",
        outside.name(),
        Host::Node.v4(),
        Host::Node.v6(),
        UPSTREAM.0,
        UPSTREAM.1
    );
    if layout == Layout::Bridged {
        let (v4, v6) = BRIDGED_GATEWAYS;
        let _ = write!(
            batch,
            "link add cni0 address 02:fe:00:00:01:01 type bridge\nlink set cni0 up\n\
             addr add {v4}/24 dev cni0\naddr add {v6}/64 dev cni0 nodad\n"
        );
    }
    batch
}

fn outside_batch() -> String {
    let mut batch = format!(
        "link set uplink up\naddr add {}/24 dev uplink\naddr add {}/64 dev uplink nodad\n\
         route add 10.244.1.0/24 via {}\nroute add fd00:244:1::/64 via {}\n",
        UPSTREAM.0,
        UPSTREAM.1,
        Host::Node.v4(),
        Host::Node.v6()
    );
    for host in Host::OUTSIDE {
        let _ = write!(batch, "addr add {}/32 dev lo\naddr add {}/128 dev lo nodad\n", host.v4(), host.v6());
    }
    batch
}

fn routed_pod_batch(host: Host) -> String {
    let (v4, v6) = ROUTED_GATEWAYS;
    format!(
        "link set eth0 up\naddr add {}/32 dev eth0\naddr add {}/128 dev eth0 nodad\n\
         route add {v4} dev eth0 scope link\nroute add default via {v4} dev eth0\n\
         route add default via {v6} dev eth0\n",
        host.v4(),
        host.v6()
    )
}

fn bridged_pod_batch(host: Host) -> String {
    let (v4, v6) = BRIDGED_GATEWAYS;
    format!(
        "link set eth0 up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n\
         route add default via {v4}\nroute add default via {v6}\n",
        host.v4(),
        host.v6()
    )
}
