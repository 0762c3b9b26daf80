//! The node's interfaces and addresses, as the kernel reports them.
//!
//! Knows netlink; knows neither pods nor tenants, and trusts no interface name. The other end of a pair is queried
//! by the number of its namespace (`IFLA_TARGET_NETNSID`, kernel 4.20), so no namespace is entered and no
//! `CAP_SYS_ADMIN` is needed.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::AsyncSocket as _;
use tokio::sync::{mpsc, watch};

use policy::model::input::{Change, Link, NetnsInterfaces};

mod contents;
mod first_seen;
mod netlink;
mod observe;

use contents::{ContentsReader, NamedNetns};
pub(crate) use first_seen::FirstSeen;
use netlink::Netlink;
use observe::{LinkObserver, NodeLinks};

/// Without notifications, everything is read again after this time, in case a netlink message was lost.
const REFRESH: Duration = Duration::from_secs(5);
/// Notifications arrive in bursts; one read answers a whole burst.
const SETTLE: Duration = Duration::from_millis(1);
/// Receive buffer for notifications: about ten thousand messages.
const RECEIVE_BYTES: u32 = 16 << 20;

/// Why the interfaces could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinksError {
    /// The netlink socket could not be opened.
    #[error("cannot open a netlink socket")]
    Socket(#[source] std::io::Error),
    /// The kernel refused a request.
    #[error("cannot list interfaces")]
    List(#[source] rtnetlink::Error),
}

/// Sends all interfaces and the node's addresses now, and again after each change, until the receiver is gone. What is
/// inside the named namespaces follows by itself: new interfaces of the node never wait for it.
///
/// # Errors
/// The socket could not be opened. Later failures are logged and tried again.
pub(crate) async fn follow(
    namespaces: PathBuf,
    first_seen: FirstSeen,
    changes: mpsc::Sender<Change>,
) -> Result<(), LinksError> {
    let (seen, to_read) = watch::channel((NamedNetns::default(), Vec::new()));
    let inside = follow_inside(to_read, changes.clone());
    tokio::try_join!(follow_links(namespaces, first_seen, changes, seen), inside).map(|_| ())
}

/// Reads what is inside the named namespaces after each reading of the node's interfaces.
async fn follow_inside(
    mut to_read: watch::Receiver<(NamedNetns, Vec<Link>)>,
    changes: mpsc::Sender<Change>,
) -> Result<(), LinksError> {
    let netlink = Netlink::open()?;
    let mut reader = ContentsReader::default();
    let mut last: Option<NetnsInterfaces> = None;
    while to_read.changed().await.is_ok() {
        let (named, links) = to_read.borrow_and_update().clone();
        let now = reader.read(&netlink, &named, &links).await;
        if !send_inside(&changes, &mut last, now).await {
            break;
        }
    }
    Ok(())
}

async fn follow_links(
    namespaces: PathBuf,
    first_seen: FirstSeen,
    changes: mpsc::Sender<Change>,
    seen: watch::Sender<(NamedNetns, Vec<Link>)>,
) -> Result<(), LinksError> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (mut connection, _, mut messages) = rtnetlink::new_multicast_connection(&groups).map_err(LinksError::Socket)?;
    connection.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BYTES).map_err(LinksError::Socket)?;
    tokio::spawn(connection);
    let mut observer = LinkObserver::new(namespaces)?;
    let mut last: Option<NodeLinks> = None;
    loop {
        match observer.observe().await {
            Ok(now) => {
                let links = now.links.clone();
                if !send_changes(&changes, &mut last, now).await {
                    return Ok(());
                }
                seen.send_replace((observer.named(), links));
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "interfaces could not be read; trying again")
            }
        }
        let is_known = |ifindex| last.as_ref().is_some_and(|links| links.contains(ifindex));
        tokio::select! {
            Some((first, _)) = messages.next() => first_seen.record(&first.payload, is_known),
            () = tokio::time::sleep(REFRESH) => {}
            () = changes.closed() => return Ok(()),
        }
        tokio::time::sleep(SETTLE).await;
        while let Ok((message, _)) = messages.try_recv() {
            first_seen.record(&message.payload, is_known);
        }
    }
}

/// Sends what differs from `last`; the first time everything, even if empty. Nothing is enforced before every kind
/// of object was reported. Returns false after the receiver is gone.
async fn send_changes(changes: &mpsc::Sender<Change>, last: &mut Option<NodeLinks>, now: NodeLinks) -> bool {
    let before = last.as_ref();
    let mut open = true;
    if before.is_none_or(|before| before.addresses != now.addresses) {
        open &= changes.send(Change::Nodes(now.addresses.clone())).await.is_ok();
    }
    if before.map_or(&Vec::new(), |before| &before.virtual_addresses) != &now.virtual_addresses {
        open &= changes.send(Change::VirtualAddresses(now.virtual_addresses.clone())).await.is_ok();
    }
    if before.is_none_or(|before| before.links != now.links) {
        open &= changes.send(Change::Links(now.links.clone())).await.is_ok();
    }
    *last = Some(now);
    open
}

/// Sends what is inside the named namespaces, if it differs from `last`. Returns false after the receiver is gone.
async fn send_inside(changes: &mpsc::Sender<Change>, last: &mut Option<NetnsInterfaces>, now: NetnsInterfaces) -> bool {
    if last.as_ref() == Some(&now) {
        return true;
    }
    *last = Some(now.clone());
    changes.send(Change::NetnsInterfaces(now)).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::model::input::Link;

    #[tokio::test]
    async fn everything_is_sent_once_and_then_only_what_differs() {
        let (changes, mut received) = mpsc::channel(8);
        let mut last = None;
        assert!(send_changes(&changes, &mut last, NodeLinks::default()).await);
        assert_eq!(received.try_recv(), Ok(Change::Nodes(Vec::new())), "an empty list of addresses is sent too");
        assert_eq!(received.try_recv(), Ok(Change::Links(Vec::new())));
        assert!(send_changes(&changes, &mut last, NodeLinks::default()).await);
        assert!(received.try_recv().is_err(), "nothing differs");
        let links = vec![Link { ifindex: 7, ..Link::default() }];
        let now = NodeLinks { links: links.clone(), ..NodeLinks::default() };
        assert!(send_changes(&changes, &mut last, now).await);
        assert_eq!(received.try_recv(), Ok(Change::Links(links)));
        assert!(received.try_recv().is_err());
    }
}
