//! A node and a pod: two network namespaces that a veth pair joins, with echo servers in both.
//!
//! Knows no expected outcome. Dropping the world removes everything, also after a failed test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::num::NonZeroU32;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use bulkhead::dataplane::input_guard::{Drops, InputGuard};
use bulkhead::dataplane::nft::NftError;
use policy::model::input_guard::{InputOpening, InputRules};
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::set_ipv6_unicast_hops;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
use testbed::netns::Netns;
use testbed::probe::{Outcome, PATIENCE, Transport, probe};
use testbed::scope::Scope;
use testbed::serve::Servers;

/// The node's addresses on the link to the pod.
pub(crate) const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
pub(crate) const NODE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1));
/// The node's addresses on `lo`.
pub(crate) const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 9, 1));
pub(crate) const OTHER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd99, 9, 0, 0, 0, 0, 0, 1));
/// The pod's addresses.
pub(crate) const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2));
pub(crate) const POD6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2));
/// Pod and node by family.
pub(crate) const ENDS: [(IpAddr, IpAddr); 2] = [(POD, NODE), (POD6, NODE6)];

/// Ports of the node's servers, the last of which is that of VXLAN.
pub(crate) const PORT: u16 = 7000;
pub(crate) const OTHER_PORT: u16 = 7001;
pub(crate) const TUNNEL_PORT: u16 = 8472;
/// The port of the pod's servers.
pub(crate) const POD_PORT: u16 = 9000;

/// Protocol numbers of the transports that have ports.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// The node's interface that leads to the pod.
const INTERFACE: &str = "pod0";
/// Link-local addresses of both ends, beside those that the kernel makes.
const NODE_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const POD_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// Multicast passes only about a second after an interface is up, without a guard too.
const MULTICAST: Duration = Duration::from_millis(1500);

/// The two namespaces. Dropping the value ends the servers first.
pub(crate) struct InputWorld {
    _servers: [Servers; 2],
    /// The network namespace of the pod.
    pub(crate) pod: Netns,
    /// The network namespace of the node, where the guard works.
    pub(crate) node: Netns,
    /// The index of the node's interface.
    index: u32,
    _scope: Scope,
}

impl InputWorld {
    /// Builds both ends and starts their servers. No end knows the other's hardware address yet.
    pub(crate) fn new() -> Result<Self> {
        let scope = Scope::new()?;
        let (node, pod) = (scope.netns("node")?, scope.netns("pod")?);
        node.sysctl(&[("ipv4/ip_forward", "1")])?;
        node.ip(&node_batch(&pod)).context("cannot build the node")?;
        pod.ip(&pod_batch()).context("cannot build the pod")?;
        pod.wait_until_up()?;
        node.wait_until_up()?;
        let index = index_of(&node, INTERFACE)?;
        let servers = [Servers::start(&node, &node_servers(index))?, Servers::start(&pod, &pod_servers())?];
        Ok(Self { _servers: servers, pod, node, index, _scope: scope })
    }

    /// A guard of the node that has not written anything.
    pub(crate) fn guard(&self) -> NodeGuard<'_> {
        NodeGuard { node: &self.node, guard: InputGuard::new() }
    }

    /// Rules for a pod that may reach nothing.
    pub(crate) fn strict(&self) -> InputRules {
        InputRules {
            interfaces: [self.index].into(),
            pods: [POD, POD6].into(),
            tunnels: [TUNNEL_PORT, 4789].into(),
            ..InputRules::default()
        }
    }

    /// Rules for a pod that may reach all of the node except its tunnels.
    pub(crate) fn open(&self) -> InputRules {
        InputRules { open: [POD, POD6].into(), ..self.strict() }
    }

    /// Rules for a pod that may reach only this.
    pub(crate) fn exact(&self, openings: impl IntoIterator<Item = InputOpening>) -> InputRules {
        InputRules { exact: openings.into_iter().collect(), ..self.strict() }
    }

    /// Sends a probe from the pod.
    pub(crate) fn pod_to_node(&self, transport: Transport, to: IpAddr, port: u16) -> Outcome {
        self.pod.run(|| probe(transport, Some(pod_of(to)), SocketAddr::new(to, port)))
    }

    /// Sends a probe from the node.
    pub(crate) fn node_to_pod(&self, transport: Transport, to: IpAddr, port: u16) -> Outcome {
        let source = if to.is_ipv4() { NODE } else { NODE6 };
        self.node.run(|| probe(transport, Some(source), SocketAddr::new(to, port)))
    }

    /// Opens a connection from the pod's link-local address to the node's.
    pub(crate) fn pod_to_link_local(&self) -> Outcome {
        let scope = index_of(&self.pod, "eth0").expect("the pod has an interface");
        let target = SocketAddrV6::new(NODE_LINK_LOCAL, PORT, 0, scope);
        self.pod.run(|| probe(Transport::Tcp, None, target.into()))
    }

    /// Sends one datagram from the pod and returns whether its echo arrives. A probe would send it again, and then its
    /// drops could not be counted.
    pub(crate) fn is_echoed(&self, length: usize, to: IpAddr, port: u16) -> bool {
        let (question, mut answer) = (vec![0x5a; length], vec![0; length + 1]);
        let socket = self.pod.run(|| UdpSocket::bind((pod_of(to), 0))).expect("a socket");
        socket.connect((to, port)).expect("there is a route");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send(&question).expect("it is sent");
        socket.recv(&mut answer).is_ok_and(|received| answer[..received] == question[..])
    }

    /// Sends one packet of an IP protocol from the pod. IPv6 packets have this hop limit.
    pub(crate) fn send_packet(&self, to: IpAddr, protocol: u8, hops: u8, payload: &[u8]) {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let number = NonZeroU32::new(protocol.into()).map(Protocol::from_raw);
        let socket = self.pod.run(|| socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, number));
        let socket = UdpSocket::from(socket.expect("root may open a raw socket"));
        if to.is_ipv6() {
            set_ipv6_unicast_hops(&socket, Some(hops)).expect("a hop limit");
        }
        socket.send_to(payload, (to, 0)).expect("it is sent");
        thread::sleep(Duration::from_millis(50));
    }

    /// Makes both ends forget each other's hardware address.
    pub(crate) fn forget_neighbours(&self) {
        for end in [&self.node, &self.pod] {
            end.ip("neigh flush all").expect("it is flushed");
        }
    }

    /// Waits until multicast passes, which neighbour discovery needs. Sends nothing.
    pub(crate) fn wait_for_multicast(&self) {
        thread::sleep(MULTICAST);
    }

    /// Runs nftables commands on the node.
    pub(crate) fn nft(&self, commands: &str) {
        self.run_nft(&[commands]);
    }

    /// The guard's table as `nft` prints it.
    pub(crate) fn list(&self) -> String {
        self.run_nft(&["list table inet bulkhead"])
    }

    /// The handle of the first rule of the guard's table with this text.
    pub(crate) fn handle(&self, text: &str) -> String {
        let listed = self.run_nft(&["-a", "list table inet bulkhead"]);
        let line = listed.lines().find(|line| line.contains(text) && line.contains(" # handle "));
        let handle = line.and_then(|line| line.rsplit(' ').next());
        handle.unwrap_or_else(|| panic!("no rule has `{text}`:\n{listed}")).to_owned()
    }

    fn run_nft(&self, arguments: &[&str]) -> String {
        let output = self.node.run(|| Command::new("nft").args(arguments).output());
        let output = output.expect("nft runs: install nftables");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }
}

/// A guard whose calls are all made inside the node. A call fails the test if the kernel refuses it.
pub(crate) struct NodeGuard<'w> {
    node: &'w Netns,
    guard: InputGuard,
}

impl NodeGuard<'_> {
    /// Makes the kernel's table equal to the rules.
    pub(crate) fn sync(&mut self, rules: &InputRules) {
        self.try_sync(rules).expect("the table is written");
    }

    /// The same, for a write that should fail.
    pub(crate) fn try_sync(&mut self, rules: &InputRules) -> Result<(), NftError> {
        self.node.run(|| self.guard.sync(rules))
    }

    /// Whether the table is as last written.
    pub(crate) fn is_intact(&mut self) -> bool {
        self.node.run(|| self.guard.is_intact()).expect("the table is read")
    }

    /// What was dropped so far.
    pub(crate) fn drops(&mut self) -> Drops {
        self.node.run(|| self.guard.drops()).expect("the counters are read")
    }

    /// Removes the table and returns whether there was one.
    pub(crate) fn remove(&mut self) -> bool {
        self.node.run(|| self.guard.remove()).expect("the table is removed")
    }
}

/// One port of the node that a pod may reach.
pub(crate) const fn opening(pod: IpAddr, to: IpAddr, protocol: u8, port: u16) -> InputOpening {
    InputOpening { pod, to, protocol, port }
}

/// The pod's address of the family of `to`.
const fn pod_of(to: IpAddr) -> IpAddr {
    if to.is_ipv4() { POD } else { POD6 }
}

/// The addresses of the node's servers. Only one of them is link-local.
fn node_servers(index: u32) -> Vec<SocketAddr> {
    let ports = [PORT, OTHER_PORT, TUNNEL_PORT];
    let listening = |address| ports.map(|port| SocketAddr::new(address, port));
    let mut addresses: Vec<SocketAddr> = [NODE, NODE6, OTHER, OTHER6].into_iter().flat_map(listening).collect();
    addresses.push(SocketAddrV6::new(NODE_LINK_LOCAL, PORT, 0, index).into());
    addresses
}

fn pod_servers() -> [SocketAddr; 2] {
    [POD, POD6].map(|address| SocketAddr::new(address, POD_PORT))
}

fn index_of(netns: &Netns, interface: &str) -> Result<u32> {
    let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))?;
    name_to_index(&socket, interface).with_context(|| format!("{}: no interface {interface}", netns.name()))
}

fn node_batch(pod: &Netns) -> String {
    format!(
        "link add {INTERFACE} address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns {}\n\
         link set {INTERFACE} up\naddr add {NODE}/24 dev {INTERFACE}\naddr add {NODE6}/64 dev {INTERFACE} nodad\n\
         addr add {NODE_LINK_LOCAL}/64 dev {INTERFACE} nodad\n\
         addr add {OTHER}/32 dev lo\naddr add {OTHER6}/128 dev lo nodad\n",
        pod.name()
    )
}

fn pod_batch() -> String {
    format!(
        "link set eth0 up\naddr add {POD}/24 dev eth0\naddr add {POD6}/64 dev eth0 nodad\n\
         addr add {POD_LINK_LOCAL}/64 dev eth0 nodad\n\
         route add default via {NODE}\nroute add default via {NODE6}\n"
    )
}
