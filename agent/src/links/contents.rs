//! What is inside the named network namespaces: a list of each one's interfaces, read without entering it.
//!
//! A namespace is read when its name appears, after 5, 10, 20 and then each 30 seconds, and when the pairs that lead to
//! it change. Knows no pod. A reading that fails keeps what was read before and says why.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use tokio::time::Instant;

use super::netlink::{self, Netlink};
use policy::model::input::{InnerLink, Link, LowerEnd, NetnsContents, NetnsInterfaces};

/// The network namespace that the agent runs in.
const OWN: &str = "/proc/self/ns/net";
/// Interfaces that are read of one namespace, at most. A pod may create any number in its own.
const MOST: usize = 256;
/// The longest time for the list of one namespace.
const WITHIN: Duration = Duration::from_secs(2);
/// The pause after the first reading. Each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// The shortest time between two readings of one namespace, because a pod can change its pair at any rate.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// The named network namespaces of the node.
#[derive(Clone, Debug, Default)]
pub(super) struct NamedNetns {
    /// The name of each namespace by its number.
    pub names: HashMap<i32, String>,
    /// The inode and the number of each namespace by its name.
    pub by_name: BTreeMap<String, (u64, i32)>,
    /// Why a name does not lead to a namespace.
    pub failed: BTreeMap<String, String>,
    /// Why the names could not be listed.
    pub unlisted: Option<String>,
}

/// Remembers what was read of each namespace, and when it is read again.
#[derive(Debug, Default)]
pub(super) struct ContentsReader {
    /// The inode and the number of the node's own network namespace.
    own: Option<(u64, i32)>,
    readings: HashMap<String, Reading>,
}

/// The last reading of one namespace.
#[derive(Debug)]
struct Reading {
    /// The inode and the number of the namespace.
    netns: (u64, i32),
    /// The pairs that led to it: the index of each end.
    pairs: Vec<(u32, u32)>,
    at: Instant,
    pause: Duration,
    contents: NetnsContents,
}

impl Reading {
    fn is_due(&self, pairs: &[(u32, u32)], now: Instant) -> bool {
        let pause = if self.pairs == pairs { self.pause } else { LEAST_PAUSE };
        now.duration_since(self.at) >= pause
    }
}

impl ContentsReader {
    /// Reads the namespaces that are due. `links` are the node's interfaces.
    pub(super) async fn read(&mut self, netlink: &Netlink, named: &NamedNetns, links: &[Link]) -> NetnsInterfaces {
        if named.unlisted.is_none() {
            let failed = |name: &String| named.failed.contains_key(name);
            self.readings.retain(|name, reading| named.by_name.get(name) == Some(&reading.netns) || failed(name));
        }
        let own = self.own(netlink).await;
        let pairs = pairs(links);
        for (name, netns) in &named.by_name {
            let Ok(own) = &own else { break };
            if netns.0 != own.0 {
                let pairs = pairs.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
                self.read_one(name, *netns, own.1, pairs).await;
            }
        }
        self.all(named, own.err())
    }

    /// The inode and the number of the node's own namespace, by which the kernel says that a pair leads to it.
    async fn own(&mut self, netlink: &Netlink) -> Result<(u64, i32), String> {
        if let Some(own) = self.own {
            return Ok(own);
        }
        let file = File::open(OWN).map_err(|error| format!("{OWN}: {error}"))?;
        let inode = file.metadata().map_err(|error| format!("{OWN}: {error}"))?.ino();
        let number = netlink.namespace_number(&file).await.map_err(|error| format!("{OWN}: {error}"))?;
        self.own = Some((inode, number));
        Ok((inode, number))
    }

    async fn read_one(&mut self, name: &str, netns: (u64, i32), own: i32, pairs: &[(u32, u32)]) {
        let now = Instant::now();
        let before = self.readings.get(name);
        if before.is_some_and(|reading| !reading.is_due(pairs, now)) {
            return;
        }
        let list = tokio::time::timeout(WITHIN, Netlink::links_inside(netns.1, MOST)).await;
        let mut contents = before.map(|reading| reading.contents.clone()).unwrap_or_default();
        let error = match list {
            Ok(Ok((messages, is_complete))) => {
                contents.links = messages.iter().filter_map(|message| inner_link(message, own)).collect();
                contents.is_partial = !is_complete;
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            // A pod that makes and removes interfaces all the time keeps the kernel from listing any. That is no fault of
            // the node.
            Err(_) => {
                contents.is_partial = true;
                None
            }
        };
        if let Some(error) = error.as_ref().filter(|error| contents.error.as_ref() != Some(error)) {
            tracing::warn!(namespace = name, error, "the interfaces of a network namespace could not be read");
        }
        // A list that failed or is incomplete is read again soon.
        let pause = match before {
            Some(reading) if error.is_none() && !contents.is_partial => (reading.pause * 2).min(LAST_PAUSE),
            _ => FIRST_PAUSE,
        };
        contents.error = error;
        let reading = Reading { netns, pairs: pairs.to_vec(), at: now, pause, contents };
        self.readings.insert(name.to_owned(), reading);
    }

    fn all(&self, named: &NamedNetns, unlisted: Option<String>) -> NetnsInterfaces {
        let read = self.readings.iter().map(|(name, reading)| (name.clone(), reading.contents.clone()));
        let mut by_name: BTreeMap<String, NetnsContents> = read.collect();
        for (name, why) in &named.failed {
            by_name.entry(name.clone()).or_default().error = Some(why.clone());
        }
        NetnsInterfaces { by_name, unlisted: named.unlisted.clone().or(unlisted) }
    }
}

/// The pairs that lead to each namespace: the index of each end.
fn pairs(links: &[Link]) -> HashMap<&str, Vec<(u32, u32)>> {
    let mut pairs: HashMap<&str, Vec<(u32, u32)>> = HashMap::new();
    for link in links {
        let netns = link.netns.as_deref();
        netns.into_iter().for_each(|netns| pairs.entry(netns).or_default().push((link.ifindex, link.peer)));
    }
    pairs
}

/// An interface that can lead out of its namespace. `own` is the number of the node's own namespace.
fn inner_link(message: &LinkMessage, own: i32) -> Option<InnerLink> {
    if message.header.flags.contains(LinkFlags::Loopback) {
        return None;
    }
    let mut link = InnerLink { ifindex: message.header.index, ..InnerLink::default() };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::LinkNetNsId(number) if *number == own => link.lower = LowerEnd::Node,
            LinkAttribute::LinkNetNsId(_) => link.lower = LowerEnd::Elsewhere,
            LinkAttribute::LinkInfo(infos) => link.kind = netlink::kind_name(infos),
            _ => {}
        }
    }
    (!link.stays_inside()).then_some(link)
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::{InfoKind, LinkInfo};

    use super::*;

    const OWN_NUMBER: i32 = 3;

    fn message(name: &str, kind: Option<InfoKind>, lower: Option<i32>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 5;
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.extend(lower.map(LinkAttribute::LinkNetNsId));
        message.attributes.extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        message
    }

    #[test]
    fn only_interfaces_that_can_lead_out_are_kept() {
        let kept = |message: &LinkMessage| inner_link(message, OWN_NUMBER).map(|link| (link.kind, link.lower));
        let of = |kind: InfoKind, lower| kept(&message("net1", Some(kind), lower));
        assert_eq!(of(InfoKind::Veth, Some(OWN_NUMBER)), Some(("veth".to_owned(), LowerEnd::Node)));
        assert_eq!(of(InfoKind::MacVlan, Some(4)), Some(("macvlan".to_owned(), LowerEnd::Elsewhere)));
        assert_eq!(of(InfoKind::MacVlan, None), None, "over another interface of its namespace");
        assert_eq!(kept(&message("net1", None, None)), Some((String::new(), LowerEnd::Inside)), "hardware");
        let mut loopback = message("lo", None, None);
        loopback.header.flags = LinkFlags::Loopback;
        assert_eq!(kept(&loopback), None);
        let mut disguised = message("lo", Some(InfoKind::MacVlan), Some(OWN_NUMBER));
        disguised.header.flags = LinkFlags::Up;
        assert!(kept(&disguised).is_some(), "a pod may name an interface as it likes");
    }

    #[test]
    fn a_namespace_is_read_again_when_its_pairs_change_but_at_most_once_a_second() {
        let at = Instant::now();
        let pairs = vec![(7, 2)];
        let reading =
            Reading { netns: (1, 1), pairs: pairs.clone(), at, pause: LAST_PAUSE, contents: NetnsContents::default() };
        assert!(!reading.is_due(&pairs, at + LAST_PAUSE / 2) && reading.is_due(&pairs, at + LAST_PAUSE));
        assert!(!reading.is_due(&[], at + LEAST_PAUSE / 2) && reading.is_due(&[], at + LEAST_PAUSE));
    }
}
