//! Unprotected pods: living pods of this node with traffic that no program judges, and why.
//!
//! A pod whose interface holds the programs is never among them, even if all its packets are denied: it is closed. Knows
//! no kernel and no clock; time is an argument. What cannot be read is a reason, never an absence.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use super::cluster::Cluster;
use super::endpoints::{Endpoints, Interfaces};
use super::input::{EndpointKey, HostNetworkPod, HostPort, InnerLink, Link, LowerEnd, NetnsContents};
use super::name::Name;
use super::pod::{Pod, Uid};
use super::tenancy::{Tenancy, TenantOrigin};

/// How long a pod is in such a state before it counts. Until then it starts, or it ends.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Interfaces of a pod that are named, at most. The others are counted.
const NAMED: usize = 4;

/// Why no program judges a part of a pod's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnprotectedReason {
    /// It uses the node's network, and its namespace belongs to a tenant.
    HostNetwork,
    /// None of its interfaces is an end of a pair.
    NoPair,
    /// It has a further interface that is no end of a pair with the node.
    SecondInterface,
    /// Its interface on the node was not found.
    NoInterface,
    /// What is in its network namespace could not be read.
    NetnsUnreadable,
    /// The packets of its interface have no Ethernet header, so it gets no programs.
    NoEthernet,
    /// Its interface was found and holds no programs.
    NotAttached,
}

/// Who can cause an unprotected pod. What a pod's author can cause never makes the node unready: a tenant could take
/// nodes out with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnprotectedCause {
    /// Whoever writes the pod.
    Author,
    /// The agent, or the node's software.
    Node,
}

impl UnprotectedReason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::HostNetwork,
        Self::NoPair,
        Self::SecondInterface,
        Self::NoInterface,
        Self::NetnsUnreadable,
        Self::NoEthernet,
        Self::NotAttached,
    ];

    /// The name used in metrics, events and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HostNetwork => "host_network",
            Self::NoPair => "no_pair",
            Self::SecondInterface => "second_interface",
            Self::NoInterface => "no_interface",
            Self::NetnsUnreadable => "netns_unreadable",
            Self::NoEthernet => "no_ethernet",
            Self::NotAttached => "not_attached",
        }
    }

    /// One sentence about it.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::HostNetwork => "It uses the node's network, and its namespace belongs to an isolated tenant.",
            Self::NoPair => "It has no interface that is an end of a pair with the node, and another one.",
            Self::SecondInterface => "It has a further interface that is no end of a pair with the node.",
            Self::NoInterface => "Its interface on the node, or its sandbox, was not found.",
            Self::NetnsUnreadable => "What is in its network namespace could not be read.",
            Self::NoEthernet => "The packets of its interface have no Ethernet header, so it gets no programs.",
            Self::NotAttached => "Its interface was found and holds no programs.",
        }
    }

    /// Who can cause it.
    pub const fn cause(self) -> UnprotectedCause {
        match self {
            Self::HostNetwork | Self::NoPair | Self::SecondInterface => UnprotectedCause::Author,
            Self::NoInterface | Self::NetnsUnreadable | Self::NoEthernet | Self::NotAttached => UnprotectedCause::Node,
        }
    }

    /// What an operator can do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::HostNetwork => {
                "take hostNetwork out of the pod's spec; the policy bulkhead-host-network can refuse such pods"
            }
            Self::NoPair => "give the pod a main interface that is an end of a veth or netkit pair",
            Self::SecondInterface => "remove the pod's further network; an admission policy can refuse such pods",
            Self::NoInterface => "compare --cni-cache and --netns-dir with the paths of the container runtime",
            Self::NetnsUnreadable => "look in the agent's log; check its capabilities and its limit of open files",
            Self::NoEthernet => "give the pod a veth, netkit (in L2 mode) or TAP interface",
            Self::NotAttached => "look in the agent's log for why its programs could not be attached",
        }
    }
}

/// A pod with traffic that no program judges, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnprotectedPod {
    /// The pod.
    pub pod: EndpointKey,
    /// Its UID.
    pub uid: Uid,
    /// Its tenant.
    pub tenant: Name,
    /// Why.
    pub reason: UnprotectedReason,
    /// What was seen, as a sentence without its subject. It may hold names that the pod has chosen.
    pub detail: String,
}

/// All pods that are unprotected now, at most once for each reason. `attached` are the interfaces that hold the
/// programs.
pub fn find(cluster: &Cluster, endpoints: &Endpoints, attached: &BTreeSet<u32>) -> Vec<UnprotectedPod> {
    let scope = Scope::new(cluster, endpoints, attached);
    let mut found: Vec<UnprotectedPod> =
        cluster.host_network_pods().iter().filter_map(|pod| on_host_network(pod, cluster)).collect();
    for status in endpoints.statuses.values() {
        let mut reasons = Reasons::default();
        scope.examine(&status.pod, &mut reasons);
        let unprotected = |(reason, detail)| UnprotectedPod {
            pod: status.pod.key(),
            uid: status.pod.uid.clone(),
            tenant: status.tenant.clone(),
            reason,
            detail,
        };
        found.extend(reasons.details().map(unprotected));
    }
    found.sort();
    found
}

/// A host-network pod of an isolated tenant. Those of Shared tenants, and those of no tenant, are the node's own.
fn on_host_network(pod: &HostNetworkPod, cluster: &Cluster) -> Option<UnprotectedPod> {
    let (origin, tenant) = Tenancy::assigned(cluster, &pod.key.namespace)?;
    let shared = origin == TenantOrigin::Shared || cluster.tenants().get(&tenant).is_some_and(|tenant| tenant.shared);
    (!shared).then(|| UnprotectedPod {
        pod: pod.key.clone(),
        uid: Uid::from(pod.uid.as_str()),
        tenant,
        reason: UnprotectedReason::HostNetwork,
        detail: "uses the node's network, where its packets are the node's".to_owned(),
    })
}

/// What a pod is examined against.
struct Scope<'a> {
    cluster: &'a Cluster,
    endpoints: &'a Endpoints,
    attached: &'a BTreeSet<u32>,
    interfaces: Interfaces<'a>,
    /// The node's ends of pairs, by the namespace and the index of the other end.
    ends: HashMap<(&'a str, u32), &'a Link>,
}

impl<'a> Scope<'a> {
    fn new(cluster: &'a Cluster, endpoints: &'a Endpoints, attached: &'a BTreeSet<u32>) -> Self {
        let end = |link: &'a Link| Some(((link.netns.as_deref()?, link.peer), link));
        let ends = cluster.links().values().filter_map(end).collect();
        Self { cluster, endpoints, attached, interfaces: Interfaces::new(cluster), ends }
    }

    fn examine(&self, pod: &Pod, reasons: &mut Reasons) {
        let Some(local) = &pod.local else { return };
        let links: Vec<&Link> = self.interfaces.of(pod).collect();
        // Beside a readable interface, one without an Ethernet header is a further network, which a pod's author may choose.
        let unreadable = match links.iter().all(|link| link.lacks_ethernet) {
            true => UnprotectedReason::NoEthernet,
            false => UnprotectedReason::SecondInterface,
        };
        for link in &links {
            match link.lacks_ethernet {
                true => reasons.add(unreadable, format!("interface {} has no Ethernet header", link.name)),
                false => self.examine_end(link, reasons),
            }
        }
        match &local.attachment.port {
            // An interface that is not there is no living pod's: nothing else says that the pod exists.
            HostPort::Interface(_) => {
                let netns = links.first().and_then(|link| link.netns.as_deref());
                netns.into_iter().for_each(|netns| self.examine_netns(netns, &links, reasons));
            }
            HostPort::Netns(netns) if netns.is_empty() => {
                // Without an address the pod has not started, so a pod that cannot start is not counted.
                if pod.addresses().next().is_some() && !local.attachment.may_lack_sandbox {
                    let detail = "has an address, and the container runtime reports no sandbox for it";
                    reasons.add(UnprotectedReason::NoInterface, detail.to_owned());
                }
            }
            HostPort::Netns(netns) => self.examine_netns(netns, &links, reasons),
        }
    }

    /// Whether the node's end of a pair holds the programs that it should hold.
    fn examine_end(&self, end: &Link, reasons: &mut Reasons) {
        if !self.attached.contains(&end.ifindex) {
            reasons.add(UnprotectedReason::NotAttached, format!("interface {} holds no programs", end.name));
        }
    }

    /// Examines the inside of a pod's network namespace. `own` are the pod's interfaces on the node.
    fn examine_netns(&self, netns: &str, own: &[&Link], reasons: &mut Reasons) {
        let unreadable = |why: &str| format!("network namespace {netns} could not be read: {why}");
        let Some(all) = self.cluster.netns_interfaces() else {
            return reasons.add(UnprotectedReason::NetnsUnreadable, unreadable("it was not tried yet"));
        };
        if let Some(why) = &all.unlisted {
            reasons.add(UnprotectedReason::NetnsUnreadable, unreadable(why));
        }
        // A namespace that is not listed is gone, and so is the pod.
        let Some(contents) = all.by_name.get(netns) else { return };
        if let Some(why) = &contents.error {
            reasons.add(UnprotectedReason::NetnsUnreadable, unreadable(why));
        }
        self.examine_contents(netns, contents, own, reasons);
    }

    fn examine_contents(&self, netns: &str, contents: &NetnsContents, own: &[&Link], reasons: &mut Reasons) {
        let beside = if own.is_empty() { UnprotectedReason::NoPair } else { UnprotectedReason::SecondInterface };
        for link in &contents.links {
            let end = self.ends.get(&(netns, link.ifindex)).filter(|_| link.is_pair());
            match end {
                // The node's end was examined already.
                Some(end) if own.iter().any(|link| link.ifindex == end.ifindex) => {}
                Some(end) if self.attached.contains(&end.ifindex) => {}
                Some(end) if self.endpoints.ports.contains_key(&end.ifindex) => self.examine_end(end, reasons),
                None if link.is_pair() && link.lower == LowerEnd::Node => {
                    let detail = format!("the node's end of its interface {} was not found", link.name);
                    reasons.add(UnprotectedReason::NoInterface, detail);
                }
                _ => reasons.add(beside, describe(link)),
            }
        }
        if contents.is_partial {
            let detail = "it has more interfaces than are read, or they change while they are read";
            reasons.add(beside, detail.to_owned());
        }
    }
}

fn describe(link: &InnerLink) -> String {
    let kind = if link.kind.is_empty() { "hardware" } else { link.kind.as_str() };
    format!("interface {} ({kind}) is judged by no program", link.name)
}

/// What was found of one pod, by reason.
#[derive(Default)]
struct Reasons(BTreeMap<UnprotectedReason, Vec<String>>);

impl Reasons {
    fn add(&mut self, reason: UnprotectedReason, detail: String) {
        let details = self.0.entry(reason).or_default();
        if !details.contains(&detail) {
            details.push(detail);
        }
    }

    fn details(self) -> impl Iterator<Item = (UnprotectedReason, String)> {
        self.0.into_iter().map(|(reason, details)| {
            let mut text = details.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
            if let Some(more) = details.len().checked_sub(NAMED).filter(|more| *more > 0) {
                let _ = write!(text, "; and {more} more");
            }
            (reason, text)
        })
    }
}

/// Which pods are unprotected, and since when.
#[derive(Clone, Debug, Default)]
pub struct UnprotectedPods {
    found: BTreeMap<(EndpointKey, Uid, UnprotectedReason), SeenPod>,
}

/// One pod that is unprotected for one reason.
#[derive(Clone, Debug)]
struct SeenPod {
    pod: UnprotectedPod,
    since: Duration,
    counts: bool,
}

impl UnprotectedPods {
    /// Takes in all pods that are unprotected at `now`. A pod keeps the time at which its reason was first seen.
    pub fn update(&mut self, found: Vec<UnprotectedPod>, now: Duration) {
        let before = std::mem::take(&mut self.found);
        for pod in found {
            let key = (pod.pod.clone(), pod.uid.clone(), pod.reason);
            let known = before.get(&key);
            let (since, counts) = known.map_or((now, false), |known| (known.since, known.counts));
            self.found.insert(key, SeenPod { pod, since, counts });
        }
        self.advance(now);
    }

    /// Lets the time pass. Returns whether a further pod counts now.
    pub fn advance(&mut self, now: Duration) -> bool {
        let due = |seen: &&mut SeenPod| !seen.counts && now.saturating_sub(seen.since) >= PATIENCE;
        let mut due = self.found.values_mut().filter(due).peekable();
        let any = due.peek().is_some();
        due.for_each(|seen| seen.counts = true);
        any
    }

    /// When the next pod will count, if nothing changes.
    pub fn next_due(&self) -> Option<Duration> {
        let waiting = self.found.values().filter(|seen| !seen.counts);
        waiting.map(|seen| seen.since + PATIENCE).min()
    }

    /// The pods that count: those unprotected for [`PATIENCE`] or longer.
    pub fn lasting(&self) -> impl Iterator<Item = &UnprotectedPod> {
        self.found.values().filter(|seen| seen.counts).map(|seen| &seen.pod)
    }
}

#[cfg(test)]
mod tests;
