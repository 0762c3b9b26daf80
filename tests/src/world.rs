//! A small world: a node, five pods of two tenants and a Shared one, and what lies beyond the node.
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
//! Nothing here filters: with no agent everybody reaches everybody, and tests check that first.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::config::{Config, Endpoint};
use crate::netns::Netns;
use crate::place::{BRIDGED_GATEWAYS, Family, Place, ROUTED_GATEWAYS, UPSTREAM, mac_text};
use crate::scope::Scope;
use crate::serve::Servers;

/// How pods are attached to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As ptp and Calico do: each pod at the end of its own link, the node routes.
    Routed,
    /// As the bridge plugin does: pods share a link, the node routes only what leaves it.
    Bridged,
}

/// The world. Dropping it removes everything.
#[derive(Debug)]
pub struct World {
    /// How its pods are attached.
    pub layout: Layout,
    servers: Vec<(Place, Servers)>,
    pods: Vec<(Place, Netns)>,
    /// Where the agent runs.
    pub node: Netns,
    outside: Netns,
    /// What everything is named after.
    pub scope: Scope,
}

impl World {
    /// Builds one with all its pods.
    pub fn new(layout: Layout) -> Result<Self> {
        let mut world = Self::without_pods(layout, Scope::new()?)?;
        for place in Place::PODS {
            world.add_pod(place)?;
        }
        Ok(world)
    }

    /// Builds node, uplink and everything beyond it.
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
        outside.ip(&outside_batch()).context("cannot build what lies beyond the node")?;
        outside.fast_verdict()?;
        let mut world = Self { layout, servers: Vec::new(), pods: Vec::new(), node, outside, scope };
        let beyond: Vec<SocketAddr> = Place::OUTSIDE.into_iter().flat_map(listening).collect();
        world.servers.push((Place::Internet, Servers::start(&world.outside, &beyond)?));
        world.servers.push((Place::Node, Servers::start(&world.node, &listening(Place::Node))?));
        Ok(world)
    }

    /// Adds a pod of this node, with its servers.
    pub fn add_pod(&mut self, place: Place) -> Result<()> {
        let pod = self.scope.netns(place.name())?;
        let (own_mac, gateway_mac) = place.macs();
        let interface = interface(place);
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
                let _ = writeln!(node, "route add {}/32 dev {interface}", place.v4());
                let _ = writeln!(node, "route add {}/128 dev {interface}", place.v6());
                routed_pod_batch(place)
            }
            Layout::Bridged => {
                let _ = writeln!(node, "link set {interface} master cni0\nlink set {interface} up");
                bridged_pod_batch(place)
            }
        };
        self.node.ip(&node).with_context(|| format!("cannot attach {}", place.name()))?;
        if self.layout == Layout::Routed {
            // The node answers for the link-local gateway, at once.
            let key = |setting: &str| format!("ipv4/{setting}").replace("IF", &interface);
            self.node.sysctl(&[(&key("conf/IF/proxy_arp"), "1"), (&key("neigh/IF/proxy_delay"), "0")])?;
        }
        pod.ip(&batch).with_context(|| format!("cannot configure {}", place.name()))?;
        pod.fast_verdict()?;
        self.node.fast_verdict()?;
        self.servers.push((place, Servers::start(&pod, &listening(place))?));
        self.pods.push((place, pod));
        Ok(())
    }

    /// Removes a pod, interface first, as network plugins do.
    pub fn remove_pod(&mut self, place: Place) -> Result<()> {
        self.node.ip(&format!("link del {}", interface(place)))?;
        self.servers.retain(|(owner, _)| *owner != place);
        self.pods.retain(|(owner, _)| *owner != place);
        Ok(())
    }

    /// Tells pods that share a link each other's hardware addresses for good. An agent that answers
    /// nobody's question for a neighbour stops honest pods; this stands for one that does not ask.
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

    /// The namespace a place is in.
    pub fn netns(&self, place: Place) -> &Netns {
        match place {
            Place::Node => &self.node,
            _ => self.pods.iter().find(|(pod, _)| *pod == place).map_or(&self.outside, |(_, netns)| netns),
        }
    }

    /// The namespace beyond the node's uplink, which is nobody's pod.
    pub fn outside(&self) -> &Netns {
        &self.outside
    }

    /// The pods there are.
    pub fn pods(&self) -> impl Iterator<Item = Place> {
        self.pods.iter().map(|(place, _)| *place)
    }

    /// Two tenants, and an endpoint for every pod, whether it is there yet or not: named by its
    /// interface in a routed world, by its network namespace in a bridged one.
    pub fn config(&self) -> Config {
        let mut config = Config::two_tenants();
        config.endpoints = Place::PODS.into_iter().map(|place| self.endpoint(place)).collect();
        config.endpoints.extend([Place::AcmeFar, Place::GlobexFar].map(Endpoint::far));
        config
    }

    /// Where the configuration is written.
    pub fn config_path(&self) -> PathBuf {
        self.scope.file("bulkhead.yaml")
    }

    /// Ends the servers and leaves everything else in place.
    pub fn keep(&mut self) {
        self.servers.clear();
        self.scope.keep();
        self.node.keep();
        self.outside.keep();
        self.pods.iter_mut().for_each(|(_, netns)| netns.keep());
    }

    fn endpoint(&self, place: Place) -> Endpoint {
        match self.layout {
            Layout::Routed => Endpoint::routed(place, ("interface", interface(place))),
            Layout::Bridged => Endpoint::bridged(place, ("netns", self.scope.netns_name(place.name()))),
        }
    }
}

/// The node's interface of a pod.
pub fn interface(place: Place) -> String {
    format!("bh-{}", place.name())
}

/// Where the servers of a place listen.
pub fn listening(place: Place) -> Vec<SocketAddr> {
    let mut addresses = Family::ALL.map(|family| place.server(family)).to_vec();
    if matches!(place, Place::AcmeDb | Place::GlobexDb) {
        addresses.extend(Family::ALL.map(|family| SocketAddr::new(place.address(family), OTHER_PORT)));
    }
    addresses
}

/// A port that databases listen at too, and that acme's policy does not name.
pub const OTHER_PORT: u16 = 9999;

fn neighbour(other: Place, family: Family) -> String {
    let (address, mac) = (other.address(family), mac_text(other.macs().0));
    format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent\n")
}

fn node_batch(layout: Layout, outside: &Netns) -> String {
    let mut batch = format!(
        "link add uplink type veth peer name uplink netns {}\nlink set uplink up\n\
         addr add {}/24 dev uplink\naddr add {}/64 dev uplink nodad\n\
         route add default via {}\nroute add default via {}\n",
        outside.name(),
        Place::Node.v4(),
        Place::Node.v6(),
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
        Place::Node.v4(),
        Place::Node.v6()
    );
    for place in Place::OUTSIDE {
        let _ = write!(batch, "addr add {}/32 dev lo\naddr add {}/128 dev lo nodad\n", place.v4(), place.v6());
    }
    batch
}

fn routed_pod_batch(place: Place) -> String {
    let (v4, v6) = ROUTED_GATEWAYS;
    format!(
        "link set eth0 up\naddr add {}/32 dev eth0\naddr add {}/128 dev eth0 nodad\n\
         route add {v4} dev eth0 scope link\nroute add default via {v4} dev eth0\n\
         route add default via {v6} dev eth0\n",
        place.v4(),
        place.v6()
    )
}

fn bridged_pod_batch(place: Place) -> String {
    let (v4, v6) = BRIDGED_GATEWAYS;
    format!(
        "link set eth0 up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n\
         route add default via {v4}\nroute add default via {v6}\n",
        place.v4(),
        place.v6()
    )
}
