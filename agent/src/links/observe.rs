//! One complete reading of the node's interfaces.
//!
//! Remembers what must not change later: the addresses of a pair's other end as first seen while it was up. A pod
//! may change its own addresses, so later values are not used.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agent_common::addr::Mac;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};

use super::LinksError;
use super::contents::NamedNetns;
use super::netlink::{self, Netlink};
use policy::model::input::{Link, LinkKind};

/// Stands for the node's own network namespace among numbers of others, which are not negative.
const THIS_NAMESPACE: i32 = -1;

/// Interfaces and addresses of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeLinks {
    /// Interfaces, sorted by index.
    pub links: Vec<Link>,
    /// The node's own addresses, without those of dummy interfaces.
    pub addresses: Vec<IpAddr>,
    /// Addresses on dummy interfaces.
    pub virtual_addresses: Vec<IpAddr>,
}

impl NodeLinks {
    /// Whether an interface is listed.
    pub(super) fn contains(&self, ifindex: u32) -> bool {
        self.links.binary_search_by_key(&ifindex, |link| link.ifindex).is_ok()
    }
}

/// Reads interfaces, and remembers what must not change.
pub(super) struct LinkObserver {
    netlink: Netlink,
    namespaces: PathBuf,
    /// Number of a namespace by its inode and its name. The inode alone does not identify it, because that of a
    /// deleted namespace is soon used again.
    numbers: HashMap<(u64, String), i32>,
    /// Addresses of the other end as first seen while it was up, by interface and namespace.
    ends: HashMap<(u32, i32), PeerEnd>,
    /// Pairs behind which a gateway was seen once. Routes come and go with the carrier, but the pair still leads
    /// out of the node.
    gateways: HashSet<(u32, i32)>,
    /// The named namespaces at the last reading.
    named: NamedNetns,
}

/// The other end of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PeerEnd {
    mac: Option<Mac>,
    link_local: Option<Ipv6Addr>,
}

impl LinkObserver {
    /// With `namespaces`, the directory of named network namespaces.
    ///
    /// # Errors
    /// [`LinksError::Socket`].
    pub(super) fn new(namespaces: PathBuf) -> Result<Self, LinksError> {
        Ok(Self {
            netlink: Netlink::open()?,
            namespaces,
            numbers: HashMap::new(),
            ends: HashMap::new(),
            gateways: HashSet::new(),
            named: NamedNetns::default(),
        })
    }

    /// Reads everything once.
    ///
    /// # Errors
    /// [`LinksError::List`].
    pub(super) async fn observe(&mut self) -> Result<NodeLinks, LinksError> {
        let messages = self.netlink.links().await?;
        self.refresh_named().await;
        let macs: HashMap<u32, Mac> =
            messages.iter().filter_map(|message| Some((message.header.index, netlink::mac(message)?))).collect();
        let mut links = Vec::with_capacity(messages.len());
        for message in &messages {
            links.push(self.link(message, &macs).await);
        }
        for link in links.iter_mut().filter(|link| link.kind == LinkKind::Bridge) {
            // The node's way out, even while its card is not a port of it.
            link.gateway = self.has_gateway(link.ifindex, THIS_NAMESPACE).await;
        }
        links.sort_by_key(|link| link.ifindex);
        let is_dummy = |message: &&LinkMessage| {
            let attributes = message.attributes.iter();
            attributes.filter_map(netlink::infos).any(netlink::is_dummy)
        };
        let dummies: HashSet<u32> = messages.iter().filter(is_dummy).map(|message| message.header.index).collect();
        let (virtual_addresses, addresses) = self.netlink.node_addresses(&dummies).await?;
        let found = NodeLinks { links, addresses, virtual_addresses };
        self.ends.retain(|(ifindex, _), _| found.contains(*ifindex));
        self.gateways.retain(|(ifindex, _)| found.contains(*ifindex));
        Ok(found)
    }

    /// The named namespaces at the last reading.
    pub(super) fn named(&self) -> NamedNetns {
        self.named.clone()
    }

    async fn link(&mut self, message: &LinkMessage, macs: &HashMap<u32, Mac>) -> Link {
        let ifindex = message.header.index;
        let lacks_ethernet = message.header.link_layer_type != LinkLayerType::Ether;
        let mut link = Link { ifindex, lacks_ethernet, ..Link::default() };
        let (mut controller, mut peer, mut netns) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Controller(index) => controller = Some(*index),
                LinkAttribute::Link(index) => peer = Some(*index),
                LinkAttribute::LinkNetNsId(number) => netns = Some(*number),
                LinkAttribute::Xdp(found) => link.xdp = netlink::has_xdp(found),
                LinkAttribute::LinkInfo(infos) => {
                    (link.kind, link.tunnel_port) = (netlink::kind(infos), netlink::tunnel_port(infos));
                }
                _ => {}
            }
        }
        link.controller = controller.unwrap_or_default();
        link.kind = match link.kind {
            LinkKind::Pair if netns.is_none() => LinkKind::Other,
            _ if message.header.flags.contains(LinkFlags::Loopback) => LinkKind::Loopback,
            kind => kind,
        };
        link.gateway_mac = macs.get(&controller.unwrap_or(ifindex)).copied().unwrap_or_default();
        if let (Some(peer), Some(netns)) = (peer, netns) {
            (link.netns, link.peer) = (self.named.names.get(&netns).cloned(), peer);
            let end = self.end(ifindex, netns, peer).await;
            link.peer_mac = end.mac;
            link.peer_link_local = end.link_local.map(IpAddr::V6);
            if link.kind == LinkKind::Pair && link.netns.is_none() {
                link.gateway = self.has_gateway(ifindex, netns).await;
            }
        }
        link
    }

    async fn end(&mut self, ifindex: u32, netns: i32, peer: u32) -> PeerEnd {
        let mut end = self.ends.get(&(ifindex, netns)).copied().unwrap_or_default();
        if end.mac.is_none() {
            end.mac = self.netlink.peer_mac(netns, peer).await;
        }
        if end.link_local.is_none() {
            end.link_local = self.netlink.peer_link_local(netns, peer).await;
        }
        self.ends.insert((ifindex, netns), end);
        end
    }

    /// Whether a route out of the node leads through this end of a pair, now or once before.
    async fn has_gateway(&mut self, ifindex: u32, netns: i32) -> bool {
        if self.gateways.contains(&(ifindex, netns)) {
            return true;
        }
        let found = self.netlink.has_gateway(ifindex).await;
        if found {
            self.gateways.insert((ifindex, netns));
        }
        found
    }

    /// Reads the names of namespaces. Each gets a number, also one that no pair leads to. A name that cannot be read
    /// keeps its number, and so do all names if they cannot be listed.
    async fn refresh_named(&mut self) {
        let files = match files(&self.namespaces) {
            Ok(files) => files,
            Err(error) => {
                let why = format!("{} cannot be listed: {error}", self.namespaces.display());
                return self.named.unlisted = Some(why);
            }
        };
        let mut named = NamedNetns::default();
        for (name, path) in files {
            let found = match self.number(&name, &path).await {
                Ok(found) => found,
                Err(why) => {
                    named.failed.insert(name.clone(), why);
                    self.named.by_name.get(&name).copied()
                }
            };
            if let Some((inode, number)) = found {
                named.names.insert(number, name.clone());
                named.by_name.insert(name, (inode, number));
            }
        }
        self.numbers.retain(|(_, name), number| named.names.get(number) == Some(name));
        self.named = named;
    }

    /// The inode and the number of a named namespace. `None` if the name is gone.
    async fn number(&mut self, name: &str, path: &Path) -> Result<Option<(u64, i32)>, String> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{} cannot be opened: {error}", path.display())),
        };
        let inode = file.metadata().map_err(|error| format!("{}: {error}", path.display()))?.ino();
        let key = (inode, name.to_owned());
        if let Some(number) = self.numbers.get(&key) {
            return Ok(Some((inode, *number)));
        }
        let number = self.netlink.namespace_number(&file).await.map_err(|error| error.to_string())?;
        self.numbers.insert(key, number);
        Ok(Some((inode, number)))
    }
}

/// The files of a directory. One that does not exist has none: nothing has named a namespace yet.
fn files(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))).collect()
}
