//! Findings that need more than one object: conflicting claims, and permissions without effect.
//!
//! The model decides who owns a range, a namespace or an address, and which peers agree. This module adds file and
//! line.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use policy::model::cluster::Cluster;
use policy::model::grants::{Agreement, agreement, has_ended};
use policy::model::input::{EndpointKey, HostPort, Peer, Tenant};
use policy::model::ownership::{Owner, Ownership, Refusal};
use policy::model::selector;

use super::world::{Placed, World, because};
use crate::api::finding::{Code, Finding};

/// All findings that need more than one object of `world`.
pub(super) fn check(world: &World<'_>, now: i64) -> Vec<Finding> {
    let cluster = world.cluster();
    let mut findings: Vec<Finding> =
        Ownership::new(&cluster).refusals.iter().filter_map(|refusal| overlap(world, refusal)).collect();
    findings.extend(world.tenants.values().flat_map(|tenant| endpoints_inside(world, tenant)));
    findings.extend(claims(world, &cluster));
    findings.extend(world.tenants.values().flat_map(|tenant| selects(world, &cluster, tenant)));
    findings.extend(world.tenants.values().flat_map(|tenant| peers(world, tenant, now)));
    findings.extend(endpoints(world, &cluster));
    findings
}

fn overlap(world: &World<'_>, refusal: &Refusal) -> Option<Finding> {
    let Owner::Tenant(winner) = &refusal.owner else { return None };
    let (winner, loser) = (world.tenants.get(&**winner)?, world.tenants.get(&*refusal.tenant)?);
    let why = because(&winner.object.age, &loser.object.age);
    let problem = format!(
        "{} overlaps {} of NetworkTenant/{} ({}), which {why}: the whole entry grants and owns nothing",
        loser.object.subnets.get(refusal.entry)?.cidr,
        refusal.owned,
        winner.name(),
        winner.place()
    );
    let field = format!("spec.subnets[{}].cidr", refusal.entry);
    Some(loser.finding(Code::SubnetOverlap, &field, problem, "remove the overlap from one of the two"))
}

/// Data subnets lie outside the cluster, so none should contain the address of an endpoint.
fn endpoints_inside(world: &World<'_>, tenant: &Placed<'_, Tenant>) -> Vec<Finding> {
    let addresses = || world.endpoints.iter().flat_map(|endpoint| endpoint.object.addresses.iter());
    let one = |(i, cidr, address): (usize, IpNet, &IpAddr)| {
        let problem = format!("{cidr} contains the address {address} of an endpoint");
        let remedy = "narrow it, because data subnets lie outside the cluster";
        tenant.finding(Code::SubnetHoldsEndpoint, &format!("spec.subnets[{i}].cidr"), problem, remedy)
    };
    let subnets = tenant.object.subnets.iter().enumerate();
    let held = subnets.flat_map(|(i, range)| {
        addresses().filter(move |address| range.cidr.contains(*address)).map(move |address| (i, range.cidr, address))
    });
    held.map(one).collect()
}

/// One finding for each pair of tenants, however many namespaces both claim.
fn claims(world: &World<'_>, cluster: &Cluster) -> Vec<Finding> {
    let mut disputes: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for name in world.namespaces.keys() {
        let claims = cluster.namespaces().get(name).map_or(&[][..], |namespace| namespace.claims.as_slice());
        let Some(((_, winner), losers)) = claims.split_first() else { continue };
        for (_, loser) in losers {
            disputes.entry((winner.to_string(), loser.to_string())).or_default().push(name);
        }
    }
    let finding = |((winner, loser), names): (&(String, String), &Vec<&str>)| {
        let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
        let (winner, loser) = (world.tenants.get(winner.as_str())?, world.tenants.get(loser.as_str())?);
        let why = because(&winner.object.age, &loser.object.age);
        let first = names.first()?;
        let problem = format!("also matches {first}{more}, owned by NetworkTenant/{}, which {why}", winner.name());
        let remedy = "narrow one of the two selectors";
        Some(loser.finding(Code::NamespaceClaimed, "spec.namespaceSelector", problem, remedy))
    };
    disputes.iter().filter_map(finding).collect()
}

fn selects(world: &World<'_>, cluster: &Cluster, tenant: &Placed<'_, Tenant>) -> Option<Finding> {
    let field = "spec.namespaceSelector";
    if selector::is_negative(&tenant.object.namespaces) {
        let problem = "has only negative requirements, so it matches every other namespace".to_owned();
        return Some(tenant.finding(Code::SelectorNegative, field, problem, "add a label that its namespaces have"));
    }
    let claims = |name: &str| cluster.namespaces().get(name).into_iter().flat_map(|namespace| &namespace.claims);
    let selects_one = || world.namespaces.keys().any(|name| claims(name).any(|(_, who)| **who == *tenant.name()));
    (!world.namespaces.is_empty() && !selects_one())
        .then(|| tenant.finding(Code::SelectorEmpty, field, "matches no namespace of these files".to_owned(), ""))
}

fn peers(world: &World<'_>, tenant: &Placed<'_, Tenant>, now: i64) -> Vec<Finding> {
    let one = |(i, peer): (usize, &Peer)| {
        let field = format!("spec.peers[{i}]");
        let expired = has_ended(peer, now).then(|| {
            let problem = format!("the permission for {:?} has expired", peer.tenant);
            tenant.finding(
                Code::PeerExpired,
                &format!("{field}.until"),
                problem,
                "remove the peer, or agree on a new date",
            )
        });
        let other = problem_of(world, tenant, peer, now)
            .map(|(code, part, problem, remedy)| tenant.finding(code, &format!("{field}.{part}"), problem, &remedy));
        [expired, other]
    };
    tenant.object.peers.iter().enumerate().flat_map(one).flatten().collect()
}

type PeerProblem = (Code, &'static str, String, String);

/// Why this peer entry permits nothing, if it does not. An expired entry of the peer is reported at that entry.
fn problem_of(world: &World<'_>, tenant: &Placed<'_, Tenant>, peer: &Peer, now: i64) -> Option<PeerProblem> {
    let (us, them) = (tenant.name(), &peer.tenant);
    let other = world.tenants.get(them.as_str()).map(|other| other.object);
    match agreement(tenant.object, peer, other, now) {
        Agreement::NoSuchTenant => {
            let problem = format!("there is no NetworkTenant {them:?} in these files");
            Some((Code::PeerUnknown, "tenant", problem, String::new()))
        }
        Agreement::Shared => {
            let problem = format!("{them:?} is Shared and needs no permission");
            Some((Code::PeerShared, "tenant", problem, "remove the peer".to_owned()))
        }
        Agreement::NotListed => {
            let wanted = match (peer.egress, peer.ingress) {
                (true, false) => "Ingress",
                (false, _) => "Egress",
                (true, true) => "Both",
            };
            let remedy = format!("add to its spec: peers: [{{tenant: {us}, direction: {wanted}}}]");
            Some((
                Code::PeerNotMutual,
                "tenant",
                format!("NetworkTenant {them:?} does not list {us} as a peer"),
                remedy,
            ))
        }
        Agreement::SameDirection => {
            let problem = format!("both sides of {us} and {them} name the same direction, so neither may connect");
            let remedy = "Egress on one side needs Ingress or Both on the other".to_owned();
            Some((Code::PeerDirection, "direction", problem, remedy))
        }
        Agreement::PeerEnded | Agreement::Agreed => None,
    }
}

fn endpoints(world: &World<'_>, cluster: &Cluster) -> Vec<Finding> {
    let mut ports = BTreeMap::new();
    let mut findings = Vec::new();
    for (at, endpoint) in world.endpoints.iter().enumerate() {
        let key = &endpoint.object.key;
        for (i, address) in endpoint.object.addresses.iter().enumerate() {
            let Some(rivals) = cluster.rivals().get(address) else { continue };
            let is_rival = |other: &&EndpointKey| rivals.iter().any(|rival| rival.key() == **other);
            // The first claimant in the order of the documents is not reported.
            let mut earlier = world.endpoints.iter().take(at).map(|other| &other.object.key);
            if let Some(first) = earlier.find(is_rival) {
                let (namespace, name) = (&first.namespace, &first.name);
                let problem = format!("{address} is also claimed by Endpoint/{namespace}/{name}, so neither gets it");
                findings.push(endpoint.finding(Code::AddressClaimed, &format!("spec.addresses[{i}]"), problem, ""));
            }
        }
        if let Some(local) = &endpoint.object.local {
            let (field, name) = match &local.port {
                HostPort::Interface(name) => ("spec.interface", name),
                HostPort::Netns(name) => ("spec.netns", name),
            };
            if let Some(first) = ports.insert((field, name), key) {
                let (namespace, other) = (&first.namespace, &first.name);
                let problem = format!("{name} is also named by Endpoint/{namespace}/{other}, so neither gets it");
                findings.push(endpoint.finding(Code::InterfaceClaimed, field, problem, ""));
            }
        }
        let namespace = cluster.namespaces().get(&key.namespace).filter(|namespace| namespace.object.is_some());
        let problem = match namespace.map(|namespace| namespace.claims.is_empty()) {
            None => "is not in these files, so the endpoint belongs to no tenant",
            Some(true) => "belongs to no tenant of these files",
            Some(false) => continue,
        };
        let problem = format!("namespace {} {problem}", key.namespace);
        findings.push(endpoint.finding(Code::EndpointUnassigned, "metadata.namespace", problem, ""));
    }
    findings
}
