//! Netlink requests, and what their replies say.
//!
//! Knows the attributes of messages. Remembers nothing, and decides nothing about an interface.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;

use agent_common::addr::Mac;
use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoBareUdp, InfoData, InfoGeneve, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage, LinkXdp, XdpAttached,
};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::LinksError;
use policy::model::input::LinkKind;

/// Stands for a namespace without a number (`NETNSA_NSID_NOT_ASSIGNED`).
const UNASSIGNED: i32 = -1;
/// The other namespace has a number already.
const EEXIST: i32 = 17;

/// Open sockets of this namespace.
pub(super) struct Netlink {
    handle: Handle,
    /// A socket whose requests the kernel answers exactly (5.0).
    strict: Handle,
}

impl Netlink {
    /// Opens the sockets.
    ///
    /// # Errors
    /// [`LinksError::Socket`].
    pub(super) fn open() -> Result<Self, LinksError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(LinksError::Socket)?;
        tokio::spawn(connection);
        let (connection, strict, _) = rtnetlink::new_connection_with_strict_check().map_err(LinksError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle, strict })
    }

    /// All interfaces.
    ///
    /// # Errors
    /// [`LinksError::List`].
    pub(super) async fn links(&self) -> Result<Vec<LinkMessage>, LinksError> {
        self.handle.link().get().execute().try_collect().await.map_err(LinksError::List)
    }

    /// The node's addresses on these interfaces and on the others, without those that no packet can be sent to.
    ///
    /// # Errors
    /// [`LinksError::List`].
    pub(super) async fn node_addresses(
        &self,
        interfaces: &HashSet<u32>,
    ) -> Result<(Vec<IpAddr>, Vec<IpAddr>), LinksError> {
        let found = addresses(&self.handle, AddressMessage::default()).await.map_err(LinksError::List)?;
        let routable = found.into_iter().filter(|(_, address)| is_routable(address));
        let (these, others): (Vec<_>, Vec<_>) = routable.partition(|(ifindex, _)| interfaces.contains(ifindex));
        let sorted = |all: Vec<(u32, IpAddr)>| {
            let addresses: BTreeSet<IpAddr> = all.into_iter().map(|(_, address)| address).collect();
            addresses.into_iter().collect()
        };
        Ok((sorted(these), sorted(others)))
    }

    /// Whether a route leads out of the node through this interface.
    pub(super) async fn has_gateway(&self, ifindex: u32) -> bool {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            // The strict socket returns only the routes of this interface; a node may have a million.
            message.attributes.push(RouteAttribute::Oif(ifindex));
            let routes: Result<Vec<RouteMessage>, _> = self.strict.route().get(message).execute().try_collect().await;
            if routes.is_ok_and(|routes| routes.iter().any(|route| leads_out(route, ifindex))) {
                return true;
            }
        }
        false
    }

    /// The hardware address of an interface in another namespace, once it is up. Before that, the software that
    /// creates it may still choose another.
    pub(super) async fn peer_mac(&self, netns: i32, ifindex: u32) -> Option<Mac> {
        let mut request = self.handle.link().get().match_index(ifindex);
        request.message_mut().attributes.push(LinkAttribute::IfNetnsId(netns));
        let message = request.execute().try_next().await.ok()??;
        message.header.flags.contains(LinkFlags::Up).then(|| mac(&message)).flatten()
    }

    /// The link-local address of an interface in another namespace.
    pub(super) async fn peer_link_local(&self, netns: i32, ifindex: u32) -> Option<Ipv6Addr> {
        /// `IFA_TARGET_NETNSID`, kernel 4.20.
        const TARGET_NETNSID: u16 = 10;
        let mut message = AddressMessage::default();
        message.header.index = ifindex;
        message.header.family = AddressFamily::Inet6;
        let target = DefaultNla::new(TARGET_NETNSID, netns.to_ne_bytes().to_vec());
        message.attributes.push(AddressAttribute::Other(target));
        let found = addresses(&self.strict, message).await.ok()?;
        found.into_iter().find_map(|(index, address)| match address {
            IpAddr::V6(address) if index == ifindex && address.is_unicast_link_local() => Some(address),
            _ => None,
        })
    }

    /// The number by which this namespace refers to another. One that has none gets one.
    ///
    /// # Errors
    /// The file is no network namespace, or the kernel refused a number.
    pub(super) async fn namespace_number(&self, namespace: &File) -> Result<i32, rtnetlink::Error> {
        if let Some(number) = self.known_number(namespace).await? {
            return Ok(number);
        }
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd() as u32));
        message.attributes.push(NsidAttribute::Id(UNASSIGNED));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNsId(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut replies = self.handle.clone().request(request)?;
        while let Some(reply) = replies.next().await {
            match reply.payload {
                // Another process may have been faster.
                NetlinkPayload::Error(error) if error.raw_code() == -EEXIST => {}
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(rtnetlink::Error::NetlinkError(error));
                }
                _ => {}
            }
        }
        self.known_number(namespace).await?.ok_or(rtnetlink::Error::RequestFailed)
    }

    async fn known_number(&self, namespace: &File) -> Result<Option<i32>, rtnetlink::Error> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd() as u32));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
        request.header.flags = NLM_F_REQUEST;
        let reply = self.handle.clone().request(request)?.next().await.ok_or(rtnetlink::Error::RequestFailed)?;
        match reply.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(message)) => {
                let number = |attribute| match attribute {
                    NsidAttribute::Id(number) if number > UNASSIGNED => Some(number),
                    _ => None,
                };
                Ok(message.attributes.into_iter().find_map(number))
            }
            NetlinkPayload::Error(error) => Err(rtnetlink::Error::NetlinkError(error)),
            _ => Err(rtnetlink::Error::RequestFailed),
        }
    }

    /// The interfaces of another namespace, at most `most`, and whether that is all of them. They may be incomplete
    /// too if they change meanwhile. The socket is closed afterwards, so a longer list is not read to its end.
    ///
    /// # Errors
    /// The kernel refused, or it does not know the attribute and listed this namespace (before 4.17).
    pub(super) async fn links_inside(netns: i32, most: usize) -> Result<(Vec<LinkMessage>, bool), rtnetlink::Error> {
        let (connection, mut handle, _) =
            rtnetlink::new_connection().map_err(|error| rtnetlink::Error::NamespaceError(error.to_string()))?;
        let connection = tokio::spawn(connection);
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfNetnsId(netns));
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let found = match handle.request(request) {
            Ok(replies) => collect_inside(replies, netns, most).await,
            Err(error) => Err(error),
        };
        connection.abort();
        found
    }
}

async fn collect_inside(
    mut replies: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin,
    netns: i32,
    most: usize,
) -> Result<(Vec<LinkMessage>, bool), rtnetlink::Error> {
    let (mut found, mut complete) = (Vec::new(), true);
    while let Some(reply) = replies.next().await {
        complete &= reply.header.flags & NLM_F_DUMP_INTR == 0;
        match reply.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => {
                if found.len() == most {
                    return Ok((found, false));
                }
                if !message.attributes.contains(&LinkAttribute::IfNetnsId(netns)) {
                    return Err(rtnetlink::Error::NamespaceError("the kernel listed another namespace".to_owned()));
                }
                found.push(message);
            }
            NetlinkPayload::Error(error) => return Err(rtnetlink::Error::NetlinkError(error)),
            _ => {}
        }
    }
    Ok((found, complete))
}

/// The kind of an interface by its driver.
pub(super) fn kind(infos: &[LinkInfo]) -> LinkKind {
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

/// The kind that an interface's driver states. Hardware has none.
pub(super) fn kind_name(infos: &[LinkInfo]) -> String {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    });
    kind.unwrap_or_default()
}

/// What an attribute says of an interface's driver.
pub(super) fn infos(attribute: &LinkAttribute) -> Option<&[LinkInfo]> {
    match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    }
}

/// Whether an interface is a dummy, which only holds addresses.
pub(super) fn is_dummy(infos: &[LinkInfo]) -> bool {
    infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Dummy)))
}

/// The UDP port of a tunnel device (VXLAN, Geneve, bareudp).
pub(super) fn tunnel_port(infos: &[LinkInfo]) -> Option<u16> {
    infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(all)) => all.iter().find_map(|one| match one {
            InfoVxlan::Port(port) => Some(*port),
            _ => None,
        }),
        LinkInfo::Data(InfoData::Geneve(all)) => all.iter().find_map(|one| match one {
            InfoGeneve::Port(port) => Some(*port),
            _ => None,
        }),
        LinkInfo::Data(InfoData::BareUdp(all)) => all.iter().find_map(|one| match one {
            InfoBareUdp::Port(port) => Some(*port),
            _ => None,
        }),
        _ => None,
    })
}

/// Whether a program of any XDP mode is attached.
pub(super) fn has_xdp(found: &[LinkXdp]) -> bool {
    found.iter().any(|one| matches!(one, LinkXdp::Attached(mode) if *mode != XdpAttached::None))
}

/// The hardware address of an interface.
pub(super) fn mac(message: &LinkMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => Some(Mac::new(bytes.as_slice().try_into().ok()?)),
        _ => None,
    })
}

/// Whether a route through this interface has a gateway or is a default route. Routes that the other end may have
/// caused itself, by router advertisements and redirects, do not count.
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
