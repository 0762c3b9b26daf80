//! What is wrong between objects: two owners of one thing, and permissions that permit nothing.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::select;
use super::world::{Placed, World, because};
use crate::api::finding::{Code, Finding};
use policy::model::input::{HostPort, Peer, Tenant};

/// Everything that is wrong between the objects of `world`.
pub fn check(world: &World<'_>, now: i64) -> Vec<Finding> {
    let mut findings = subnets(world);
    findings.extend(claims(world));
    findings.extend(world.tenants.values().flat_map(|tenant| selector(world, tenant)));
    findings.extend(world.tenants.values().flat_map(|tenant| peers(world, tenant, now)));
    findings.extend(endpoints(world));
    findings
}

/// One range and whose it is.
#[derive(Clone, Copy)]
enum Owner<'a> {
    Tenant(Placed<'a, Tenant>, usize),
    Endpoint,
}

/// Data subnets are exclusive. Sorted, a range can only overlap with those that it lies in.
fn subnets<'a>(world: &World<'a>) -> Vec<Finding> {
    let mut ranges: Vec<(IpNet, Owner<'a>)> = Vec::new();
    for tenant in world.tenants.values() {
        ranges
            .extend(tenant.object.subnets.iter().enumerate().map(|(i, range)| (range.cidr, Owner::Tenant(*tenant, i))));
    }
    let addresses = world.endpoints.iter().flat_map(|endpoint| endpoint.object.addresses.iter());
    ranges.extend(addresses.map(|address| (IpNet::from(*address), Owner::Endpoint)));
    ranges.sort_by_key(|(cidr, _)| (cidr.network(), cidr.prefix_len()));
    let (mut findings, mut around) = (Vec::new(), Vec::<(IpNet, Owner<'_>)>::new());
    for (cidr, owner) in ranges {
        around.retain(|(outer, _)| outer.contains(&cidr));
        findings.extend(around.iter().filter_map(|(outer, other)| overlap((*outer, *other), (cidr, owner))));
        around.push((cidr, owner));
    }
    findings
}

fn overlap((outer, holder): (IpNet, Owner<'_>), (inner, held): (IpNet, Owner<'_>)) -> Option<Finding> {
    match (holder, held) {
        (Owner::Tenant(a, i), Owner::Tenant(b, j)) if a.name() != b.name() => {
            let a_wins = a.object.age <= b.object.age;
            let ((winner, theirs), (loser, index, ours)) =
                if a_wins { ((a, outer), (b, j, inner)) } else { ((b, inner), (a, i, outer)) };
            let why = because(&winner.object.age, &loser.object.age);
            let problem = format!(
                "{ours} overlaps {theirs} of NetworkTenant/{} ({}), which {why} and keeps the disputed range",
                winner.name(),
                winner.place()
            );
            Some(loser.finding(
                Code::SubnetOverlap,
                &format!("spec.subnets[{index}].cidr"),
                problem,
                "give it to one of them",
            ))
        }
        (Owner::Tenant(tenant, i), Owner::Endpoint) => Some(tenant.finding(
            Code::SubnetHoldsEndpoint,
            &format!("spec.subnets[{i}].cidr"),
            format!("{outer} holds the address {} of an endpoint", inner.addr()),
            "data subnets lie outside the cluster: narrow it",
        )),
        _ => None,
    }
}

/// One finding for each pair of tenants, however many namespaces they dispute.
fn claims(world: &World<'_>) -> Vec<Finding> {
    let mut disputes: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (name, namespace) in &world.namespaces {
        if let [winner, losers @ ..] = world.claims(namespace.object).as_slice() {
            for loser in losers {
                disputes.entry((winner.name(), loser.name())).or_default().push(name);
            }
        }
    }
    let finding = |((winner, loser), names): (&(&str, &str), &Vec<&str>)| {
        let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
        let (winner, loser) = (world.tenants[winner], world.tenants[loser]);
        let why = because(&winner.object.age, &loser.object.age);
        let problem = format!("also matches {}{more}, owned by NetworkTenant/{}, which {why}", names[0], winner.name());
        loser.finding(Code::NamespaceClaimed, "spec.namespaceSelector", problem, "narrow one of the two selectors")
    };
    disputes.iter().map(finding).collect()
}

fn selector(world: &World<'_>, tenant: &Placed<'_, Tenant>) -> Option<Finding> {
    let (field, selector) = ("spec.namespaceSelector", &tenant.object.namespaces);
    if select::is_negative(selector) {
        let problem = "says only what a namespace must not be: every other namespace is this tenant's".to_owned();
        return Some(tenant.finding(Code::SelectorNegative, field, problem, "add a label that its namespaces have"));
    }
    let selects_one = || world.namespaces.values().any(|namespace| select::matches(selector, &namespace.object.labels));
    (!world.namespaces.is_empty() && !selects_one())
        .then(|| tenant.finding(Code::SelectorEmpty, field, "matches no namespace of these files".to_owned(), ""))
}

fn peers(world: &World<'_>, tenant: &Placed<'_, Tenant>, now: i64) -> Vec<Finding> {
    let one = |(i, peer): (usize, &Peer)| {
        let field = format!("spec.peers[{i}]");
        let expired = peer.until.filter(|until| *until <= now).map(|_| {
            let problem = format!("the permission for {:?} has expired", peer.tenant);
            tenant.finding(
                Code::PeerExpired,
                &format!("{field}.until"),
                problem,
                "remove the peer, or agree on a new date",
            )
        });
        let other = handshake(world, tenant, peer)
            .map(|(code, part, problem, remedy)| tenant.finding(code, &format!("{field}.{part}"), problem, &remedy));
        [expired, other]
    };
    tenant.object.peers.iter().enumerate().flat_map(one).flatten().collect()
}

type Half = (Code, &'static str, String, String);

/// Why this half of a permission permits nothing, if so.
fn handshake(world: &World<'_>, tenant: &Placed<'_, Tenant>, peer: &Peer) -> Option<Half> {
    let (us, them) = (tenant.name(), &peer.tenant);
    let Some(other) = world.tenants.get(them.as_str()) else {
        let problem = format!("there is no NetworkTenant {them:?} in these files");
        return Some((Code::PeerUnknown, "tenant", problem, String::new()));
    };
    if other.object.shared {
        let problem = format!("{them:?} is Shared and needs no permission");
        return Some((Code::PeerShared, "tenant", problem, "remove the peer".to_owned()));
    }
    let Some(theirs) = other.object.peers.iter().find(|theirs| theirs.tenant == us) else {
        let problem = format!("peer {them:?} is not mutual");
        let wanted = match (peer.egress, peer.ingress) {
            (true, false) => "Ingress",
            (false, _) => "Egress",
            (true, true) => "Both",
        };
        let remedy = format!("list it there: peers: [{{tenant: {us}, direction: {wanted}}}]");
        return Some((Code::PeerNotMutual, "tenant", problem, remedy));
    };
    let meet = (peer.egress && theirs.ingress) || (peer.ingress && theirs.egress);
    (!meet).then(|| {
        let problem = format!("both sides of {us} and {them} name the same direction, so neither may connect");
        let remedy = "Egress on one side needs Ingress or Both on the other".to_owned();
        (Code::PeerDirection, "direction", problem, remedy)
    })
}

fn endpoints(world: &World<'_>) -> Vec<Finding> {
    let (mut addresses, mut ports) = (BTreeMap::new(), BTreeMap::new());
    let mut findings = Vec::new();
    for endpoint in &world.endpoints {
        let key = &endpoint.object.key;
        for (i, address) in endpoint.object.addresses.iter().enumerate() {
            // Link-local addresses are unique on their link only.
            let local = matches!(address, std::net::IpAddr::V6(v6) if crate::api::cidr::is_link_local(*v6));
            if let Some(first) = addresses.insert(address, key).filter(|_| !local) {
                let problem = format!("{address} belongs to Endpoint/{}/{} already", first.namespace, first.name);
                findings.push(endpoint.finding(Code::AddressClaimed, &format!("spec.addresses[{i}]"), problem, ""));
            }
        }
        if let Some(local) = &endpoint.object.local {
            let (field, name) = match &local.port {
                HostPort::Interface(name) => ("spec.interface", name),
                HostPort::Netns(name) => ("spec.netns", name),
            };
            if let Some(first) = ports.insert((field, name), key) {
                let problem = format!("{name} belongs to Endpoint/{}/{} already", first.namespace, first.name);
                findings.push(endpoint.finding(Code::InterfaceClaimed, field, problem, ""));
            }
        }
        let namespace = world.namespaces.get(key.namespace.as_str());
        let problem = match namespace.map(|namespace| world.claims(namespace.object).is_empty()) {
            None => "is not in these files: the endpoint belongs to no tenant",
            Some(true) => "belongs to no tenant of these files",
            Some(false) => continue,
        };
        findings.push(endpoint.finding(
            Code::EndpointUnassigned,
            "metadata.namespace",
            format!("{} {problem}", key.namespace),
            "",
        ));
    }
    findings
}
