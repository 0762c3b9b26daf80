//! The node's interfaces and addresses, as the kernel tells them.
//!
//! Knows netlink; knows neither pods nor tenants, and believes no interface name. The other end of
//! a pair is asked for through its namespace's number (`IFLA_TARGET_NETNSID`, kernel 4.20), so no
//! namespace is ever entered and no `CAP_SYS_ADMIN` is needed.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_common::addr::Mac;
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::sys::AsyncSocket as _;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::mpsc;

use policy::model::input::{Change, Link, LinkKind};

/// Without news, everything is read again after this long: a lost netlink message costs no more.
const REFRESH: Duration = Duration::from_secs(5);
/// News come in bursts; a burst is answered once.
const SETTLE: Duration = Duration::from_millis(1);

/// Room for news while a burst is being answered: some ten thousand messages.
const NEWS_BYTES: u32 = 16 << 20;

/// What stops the interfaces from being read.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] std::io::Error),
    /// The kernel refused a request.
    #[error("cannot list interfaces")]
    List(#[source] rtnetlink::Error),
}

/// When the kernel told of each new interface, for whoever asks first.
#[derive(Clone, Debug, Default)]
pub struct Sightings(Arc<Mutex<HashMap<u32, Instant>>>);

impl Sightings {
    /// When this interface came; none for one that was there before us, and none the second time.
    pub fn take(&self, ifindex: u32) -> Option<Instant> {
        self.lock(|seen| seen.remove(&ifindex))
    }

    /// Takes in a message; `is_known` says whether an interface was told of before.
    fn note(&self, message: &NetlinkPayload<RouteNetlinkMessage>, is_known: impl Fn(u32) -> bool) {
        match message {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) if !is_known(link.header.index) => {
                self.lock(|seen| _ = seen.entry(link.header.index).or_insert_with(Instant::now));
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                self.lock(|seen| _ = seen.remove(&link.header.index));
            }
            _ => {}
        }
    }

    fn lock<T>(&self, work: impl FnOnce(&mut HashMap<u32, Instant>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells all interfaces and the node's addresses now, and again whenever they change, until the
/// receiver is gone.
///
/// # Errors
/// The socket could not be opened. Later failures are logged and tried again.
pub async fn follow(
    namespaces: PathBuf,
    sightings: Sightings,
    changes: mpsc::Sender<Change>,
) -> Result<(), LinksError> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (mut connection, _, mut news) = rtnetlink::new_multicast_connection(&groups).map_err(LinksError::Socket)?;
    connection.socket_mut().socket_mut().set_rx_buf_sz(NEWS_BYTES).map_err(LinksError::Socket)?;
    tokio::spawn(connection);
    let mut observer = Observer::new(namespaces)?;
    let mut last: Option<Seen> = None;
    loop {
        match observer.observe().await {
            Ok(now) => {
                if !tell(&changes, &mut last, now).await {
                    return Ok(());
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "interfaces could not be read; trying again")
            }
        }
        let is_known = |ifindex: u32| {
            last.as_ref().is_some_and(|(links, _)| links.binary_search_by_key(&ifindex, |link| link.ifindex).is_ok())
        };
        tokio::select! {
            Some((first, _)) = news.next() => sightings.note(&first.payload, is_known),
            () = tokio::time::sleep(REFRESH) => {}
            () = changes.closed() => return Ok(()),
        }
        tokio::time::sleep(SETTLE).await;
        while let Ok((message, _)) = news.try_recv() {
            sightings.note(&message.payload, is_known);
        }
    }
}

type Seen = (Vec<Link>, Vec<IpAddr>);

/// Sends what differs, and everything the first time: nothing is enforced before every kind was told,
/// an empty one too. False once nobody listens.
async fn tell(changes: &mpsc::Sender<Change>, last: &mut Option<Seen>, now: Seen) -> bool {
    let before = last.as_ref();
    let mut open = true;
    if before.is_none_or(|(_, nodes)| *nodes != now.1) {
        open &= changes.send(Change::Nodes(now.1.clone())).await.is_ok();
    }
    if before.is_none_or(|(links, _)| *links != now.0) {
        open &= changes.send(Change::Links(now.0.clone())).await.is_ok();
    }
    *last = Some(now);
    open
}

/// Reads interfaces, remembering what cannot change.
struct Observer {
    handle: Handle,
    strict: Handle,
    namespaces: PathBuf,
    /// Number of a namespace by its inode, which is its identity while it lives, and by its name: the
    /// inode of one that is gone is soon another's.
    numbers: HashMap<(u64, String), i32>,
    /// The other end's addresses as first seen while it was up, by interface and namespace: a pod
    /// that may change its own must not be believed a second time.
    ends: HashMap<(u32, i32), End>,
    /// Ends of pairs behind which a gateway was seen once: routes come and go with an interface's
    /// carrier, and what leads out of the node stays what it is.
    gateways: HashSet<(u32, i32)>,
}

/// The other end of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct End {
    mac: Option<Mac>,
    link_local: Option<Ipv6Addr>,
}

impl Observer {
    fn new(namespaces: PathBuf) -> Result<Self, LinksError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(LinksError::Socket)?;
        tokio::spawn(connection);
        let (connection, strict, _) = rtnetlink::new_connection_with_strict_check().map_err(LinksError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle, strict, namespaces, numbers: HashMap::new(), ends: HashMap::new(), gateways: HashSet::new() })
    }

    async fn observe(&mut self) -> Result<Seen, LinksError> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(LinksError::List)?;
        let names = self.namespace_names().await;
        let macs: HashMap<u32, Mac> =
            messages.iter().filter_map(|message| Some((message.header.index, mac(message)?))).collect();
        let mut links = Vec::with_capacity(messages.len());
        for message in &messages {
            links.push(self.link(message, &macs, &names).await);
        }
        links.sort_by_key(|link| link.ifindex);
        let exists = |ifindex: &u32| links.binary_search_by_key(ifindex, |link| link.ifindex).is_ok();
        self.ends.retain(|(ifindex, _), _| exists(ifindex));
        self.gateways.retain(|(ifindex, _)| exists(ifindex));
        Ok((links, self.node_addresses().await?))
    }

    async fn link(&mut self, message: &LinkMessage, macs: &HashMap<u32, Mac>, names: &HashMap<i32, String>) -> Link {
        let ifindex = message.header.index;
        let mut link = Link { ifindex, ..Link::default() };
        let (mut controller, mut peer, mut netns) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Controller(index) => controller = Some(*index),
                LinkAttribute::Link(index) => peer = Some(*index),
                LinkAttribute::LinkNetNsId(number) => netns = Some(*number),
                LinkAttribute::LinkInfo(infos) => link.kind = kind(infos),
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
            link.netns = names.get(&netns).cloned();
            let end = self.end(ifindex, netns, peer).await;
            link.peer_mac = end.mac;
            link.peer_link_local = end.link_local.map(IpAddr::V6);
            if link.kind == LinkKind::Pair && link.netns.is_none() {
                link.gateway = self.has_gateway(ifindex, netns).await;
            }
        }
        link
    }

    async fn end(&mut self, ifindex: u32, netns: i32, peer: u32) -> End {
        let mut end = self.ends.get(&(ifindex, netns)).copied().unwrap_or_default();
        if end.mac.is_none() {
            end.mac = self.peer_mac(netns, peer).await;
        }
        if end.link_local.is_none() {
            end.link_local = self.peer_link_local(netns, peer).await;
        }
        self.ends.insert((ifindex, netns), end);
        end
    }

    /// Whether somebody on the node has set up a way out of it through this end of a pair.
    async fn has_gateway(&mut self, ifindex: u32, netns: i32) -> bool {
        if self.gateways.contains(&(ifindex, netns)) {
            return true;
        }
        for family in [rtnetlink::packet_route::AddressFamily::Inet, rtnetlink::packet_route::AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            // Answered exactly by a strict socket (5.0): a node may hold a million routes.
            message.attributes.push(RouteAttribute::Oif(ifindex));
            let routes: Result<Vec<RouteMessage>, _> = self.strict.route().get(message).execute().try_collect().await;
            if routes.is_ok_and(|routes| routes.iter().any(|route| leads_out(route, ifindex))) {
                self.gateways.insert((ifindex, netns));
                return true;
            }
        }
        false
    }

    /// The hardware address of an interface in another namespace, once it is up: before, whoever
    /// sets it up may still choose another.
    async fn peer_mac(&self, netns: i32, ifindex: u32) -> Option<Mac> {
        let mut request = self.handle.link().get().match_index(ifindex);
        request.message_mut().attributes.push(LinkAttribute::IfNetnsId(netns));
        let message = request.execute().try_next().await.ok()??;
        message.header.flags.contains(LinkFlags::Up).then(|| mac(&message)).flatten()
    }

    /// The link-local address of an interface in another namespace.
    async fn peer_link_local(&self, netns: i32, ifindex: u32) -> Option<Ipv6Addr> {
        /// `IFA_TARGET_NETNSID`, kernel 4.20.
        const TARGET_NETNSID: u16 = 10;
        let mut message = AddressMessage::default();
        message.header.index = ifindex;
        message.header.family = rtnetlink::packet_route::AddressFamily::Inet6;
        let target = rtnetlink::packet_core::DefaultNla::new(TARGET_NETNSID, netns.to_ne_bytes().to_vec());
        message.attributes.push(AddressAttribute::Other(target));
        let found = addresses(&self.strict, message).await.ok()?;
        found.into_iter().find_map(|(index, address)| match address {
            IpAddr::V6(address) if index == ifindex && address.is_unicast_link_local() => Some(address),
            _ => None,
        })
    }

    /// The node's own addresses, those that a packet could be sent to.
    async fn node_addresses(&self) -> Result<Vec<IpAddr>, LinksError> {
        let found = addresses(&self.handle, AddressMessage::default()).await.map_err(LinksError::List)?;
        let mut own: Vec<IpAddr> = found.into_iter().map(|(_, address)| address).filter(is_routable).collect();
        own.sort_unstable();
        own.dedup();
        Ok(own)
    }

    /// Namespace numbers to the names under which they are kept.
    async fn namespace_names(&mut self) -> HashMap<i32, String> {
        let mut names = HashMap::new();
        for (name, path) in files(&self.namespaces) {
            let Ok(file) = File::open(&path) else { continue };
            let Ok(inode) = file.metadata().map(|metadata| metadata.ino()) else { continue };
            let key = (inode, name);
            let number = match self.numbers.get(&key) {
                Some(number) => Some(*number),
                None => self.number_of(&file).await,
            };
            if let Some(number) = number {
                names.insert(number, key.1.clone());
                self.numbers.insert(key, number);
            }
        }
        self.numbers.retain(|(_, name), number| names.get(number) == Some(name));
        names
    }

    /// The number that this namespace knows another one by; `None` if it knows none.
    async fn number_of(&self, namespace: &File) -> Option<i32> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd() as u32));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
        request.header.flags = NLM_F_REQUEST;
        let reply = self.handle.clone().request(request).ok()?.next().await?;
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(message)) = reply.payload else { return None };
        message.attributes.into_iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(number) if number >= 0 => Some(number),
            _ => None,
        })
    }
}

fn kind(infos: &[LinkInfo]) -> LinkKind {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        Some(InfoKind::Bridge) => LinkKind::Bridge,
        Some(InfoKind::Veth | InfoKind::Netkit) => LinkKind::Pair,
        _ => LinkKind::Other,
    }
}

/// Whether a route has a gateway behind this interface, or takes everything there. What the other end
/// may have brought about by itself, router advertisements and redirects, does not count.
fn leads_out(route: &RouteMessage, ifindex: u32) -> bool {
    if matches!(route.header.protocol, RouteProtocol::Ra | RouteProtocol::IcmpRedirect) {
        return false;
    }
    let (mut there, mut gateway) = (false, route.header.destination_prefix_length == 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => there |= *index == ifindex,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => gateway = true,
            RouteAttribute::MultiPath(hops) => there |= hops.iter().any(|hop| hop.interface_index == ifindex),
            _ => {}
        }
    }
    there && gateway
}

fn mac(message: &LinkMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => Some(Mac::new(bytes.as_slice().try_into().ok()?)),
        _ => None,
    })
}

async fn addresses(handle: &Handle, message: AddressMessage) -> Result<Vec<(u32, IpAddr)>, rtnetlink::Error> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetAddress(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut replies = handle.clone().request(request)?;
    let mut found = Vec::new();
    while let Some(reply) = replies.next().await {
        match reply.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) => {
                let address = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(address) => Some(*address),
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                });
                found.extend(address.map(|address| (message.header.index, address)));
            }
            NetlinkPayload::Error(error) => return Err(rtnetlink::Error::NetlinkError(error)),
            _ => {}
        }
    }
    Ok(found)
}

fn is_routable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_unspecified(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unspecified() && !address.is_unicast_link_local(),
    }
}

fn files(directory: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_is_told_once_and_then_only_what_differs() {
        let (changes, mut told) = mpsc::channel(8);
        let mut last = None;
        assert!(tell(&changes, &mut last, Seen::default()).await);
        assert_eq!(told.try_recv(), Ok(Change::Nodes(Vec::new())), "a node without addresses is told too");
        assert_eq!(told.try_recv(), Ok(Change::Links(Vec::new())));
        assert!(tell(&changes, &mut last, Seen::default()).await);
        assert!(told.try_recv().is_err(), "nothing differs");
        let links = vec![Link { ifindex: 7, ..Link::default() }];
        assert!(tell(&changes, &mut last, (links.clone(), Vec::new())).await);
        assert_eq!(told.try_recv(), Ok(Change::Links(links)));
        assert!(told.try_recv().is_err());
    }

    fn link(ifindex: u32) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message
    }

    #[test]
    fn only_an_interface_that_is_new_was_sighted_and_only_once() {
        let sightings = Sightings::default();
        let comes = |ifindex, is_known: bool| {
            let message = NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link(ifindex)));
            sightings.note(&message, |_| is_known);
        };
        comes(7, false);
        comes(8, true);
        comes(9, false);
        sightings.note(&NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link(9))), |_| false);
        let taken = [7, 8, 9].map(|ifindex| sightings.take(ifindex).is_some());
        assert_eq!((taken, sightings.take(7)), ([true, false, false], None));
    }
}
