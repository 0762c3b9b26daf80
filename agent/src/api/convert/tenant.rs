//! Converts `NetworkTenant` to [`input::Tenant`].
//!
//! Checks every field of one object and knows no other. Absent ports mean every port, so an empty list is refused.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{ConvertError, ObjectErrors, Problem, age, is_dns_label, seconds, tenant_name};
use crate::api::cidr;
use crate::api::tenant::{
    Class, Direction, EgressRule, LabelOperator, LabelRequirement, MAX_CIDRS, MAX_EGRESS, MAX_PEERS, MAX_PORTS,
    MAX_SELECTOR, MAX_SUBNETS, NamespaceSelector, NetworkTenant, NetworkTenantSpec, Peer, PortProtocol, PortRule,
    Subnet, TenantMode,
};
use policy::model::input::{self, Requirement};

/// How many values a selector expression may have.
const MAX_VALUES: usize = 64;

/// Converts a tenant.
///
/// # Errors
/// The first field that is wrong.
pub(crate) fn tenant(tenant: &NetworkTenant) -> Result<input::Tenant, ConvertError> {
    let (age, spec) = (age(&tenant.metadata), &tenant.spec);
    let errors = ObjectErrors::new("NetworkTenant", &age.name);
    tenant_name(&age.name).map_err(|problem| errors.at("metadata.name", problem))?;
    let shared = spec.class == Class::Shared;
    errors.check("spec.peers", !shared || spec.peers.is_empty(), || Problem::PeersOfShared)?;
    unique_names(&errors, spec)?;
    Ok(input::Tenant {
        namespaces: selector(&errors, &spec.namespace_selector)?,
        shared,
        audit: spec.mode == TenantMode::Audit,
        subnets: subnets(&errors, &spec.subnets)?,
        egress: egress(&errors, &spec.egress)?,
        peers: peers(&errors, &age.name, &spec.peers)?,
        age,
    })
}

fn unique_names(errors: &ObjectErrors, spec: &NetworkTenantSpec) -> Result<(), ConvertError> {
    let subnets = spec.subnets.iter().enumerate().map(|(i, subnet)| (format!("spec.subnets[{i}].name"), &subnet.name));
    let egress = spec.egress.iter().enumerate().map(|(i, rule)| (format!("spec.egress[{i}].name"), &rule.name));
    let mut seen = BTreeSet::new();
    for (field, name) in subnets.chain(egress) {
        errors.check(&field, is_dns_label(name), || Problem::Name(name.clone()))?;
        errors.check(&field, seen.insert(name), || Problem::Twice(name.clone()))?;
    }
    Ok(())
}

fn selector(errors: &ObjectErrors, selector: &NamespaceSelector) -> Result<input::Selector, ConvertError> {
    let field = "spec.namespaceSelector";
    let (labels, expressions) = (&selector.match_labels, &selector.match_expressions);
    errors.check(field, !labels.is_empty() || !expressions.is_empty(), || Problem::SelectsAll)?;
    errors.at_most(&format!("{field}.matchLabels"), labels.len(), MAX_SELECTOR)?;
    errors.at_most(&format!("{field}.matchExpressions"), expressions.len(), MAX_SELECTOR)?;
    for (key, value) in labels {
        let bad = [(key, is_label_key(key)), (value, is_label_value(value))].into_iter().find(|(_, ok)| !ok);
        errors.check(&format!("{field}.matchLabels"), bad.is_none(), || {
            Problem::Label(bad.map_or_else(String::new, |(text, _)| text.clone()))
        })?;
    }
    let expressions = expressions.iter().enumerate();
    let expressions = expressions.map(|(i, one)| requirement(errors, &format!("{field}.matchExpressions[{i}]"), one));
    Ok(input::Selector { labels: labels.clone(), expressions: expressions.collect::<Result<_, _>>()? })
}

/// Converts a requirement. An invalid key or value is refused: a negative requirement on it would match everywhere.
fn requirement(errors: &ObjectErrors, field: &str, one: &LabelRequirement) -> Result<Requirement, ConvertError> {
    let (key, values) = (one.key.clone(), one.values.clone());
    errors.check(&format!("{field}.key"), is_label_key(&key), || Problem::Label(key.clone()))?;
    errors.at_most(&format!("{field}.values"), values.len(), MAX_VALUES)?;
    if let Some((i, value)) = values.iter().enumerate().find(|(_, value)| !is_label_value(value)) {
        return Err(errors.at(format!("{field}.values[{i}]"), Problem::Label(value.clone())));
    }
    let wants_values = matches!(one.operator, LabelOperator::In | LabelOperator::NotIn);
    errors.check(&format!("{field}.values"), wants_values != values.is_empty(), || Problem::Operator)?;
    Ok(match one.operator {
        LabelOperator::In => Requirement::In(key, values),
        LabelOperator::NotIn => Requirement::NotIn(key, values),
        LabelOperator::Exists => Requirement::Exists(key),
        LabelOperator::DoesNotExist => Requirement::DoesNotExist(key),
    })
}

fn subnets(errors: &ObjectErrors, subnets: &[Subnet]) -> Result<Vec<input::Range>, ConvertError> {
    errors.at_most("spec.subnets", subnets.len(), MAX_SUBNETS)?;
    let one = |(i, subnet): (usize, &Subnet)| {
        let field = format!("spec.subnets[{i}]");
        let cidr = cidr::parse(&subnet.cidr.0)
            .map_err(Problem::from)
            .and_then(ownable)
            .map_err(|problem| errors.at(format!("{field}.cidr"), problem))?;
        Ok(input::Range { name: subnet.name.clone(), cidr, ports: ports(errors, &field, subnet.ports.as_deref())? })
    };
    subnets.iter().enumerate().map(one).collect()
}

/// Checks that one tenant may own a range: it is not too wide, and holds no address with a special meaning on nodes.
fn ownable(cidr: IpNet) -> Result<IpNet, Problem> {
    let (widest, metadata) = match cidr {
        IpNet::V4(_) => (8, cidr.contains(&std::net::IpAddr::from([169, 254, 169, 254]))),
        IpNet::V6(_) => (16, false),
    };
    if cidr.prefix_len() < widest {
        return Err(Problem::TooWide(cidr));
    }
    let special = match cidr.network() {
        std::net::IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_unspecified() || v4.is_multicast() || v4.is_link_local() || v4.is_broadcast()
        }
        std::net::IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || cidr::is_link_local(v6)
        }
    };
    if special || metadata { Err(Problem::NotUnicast(cidr.to_string())) } else { Ok(cidr) }
}

fn egress(errors: &ObjectErrors, egress: &[EgressRule]) -> Result<Vec<input::Range>, ConvertError> {
    errors.at_most("spec.egress", egress.len(), MAX_EGRESS)?;
    let mut ranges = Vec::new();
    for (i, rule) in egress.iter().enumerate() {
        let field = format!("spec.egress[{i}]");
        errors.check(&format!("{field}.cidrs"), !rule.cidrs.is_empty(), || Problem::Empty)?;
        errors.at_most(&format!("{field}.cidrs"), rule.cidrs.len(), MAX_CIDRS)?;
        let ports = ports(errors, &field, rule.ports.as_deref())?;
        for (j, text) in rule.cidrs.iter().enumerate() {
            let cidr = cidr::parse(&text.0).map_err(|error| errors.at(format!("{field}.cidrs[{j}]"), error))?;
            ranges.push(input::Range { name: rule.name.clone(), cidr, ports: ports.clone() });
        }
    }
    Ok(ranges)
}

/// Converts ports. An absent list means every port, so an empty list is refused.
fn ports(errors: &ObjectErrors, field: &str, ports: Option<&[PortRule]>) -> Result<Vec<input::PortRule>, ConvertError> {
    let Some(ports) = ports else { return Ok(Vec::new()) };
    errors.check(&format!("{field}.ports"), !ports.is_empty(), || Problem::Empty)?;
    errors.at_most(&format!("{field}.ports"), ports.len(), MAX_PORTS)?;
    let one = |(i, rule): (usize, &PortRule)| {
        port(rule).ok_or_else(|| errors.at(format!("{field}.ports[{i}]"), Problem::Port))
    };
    ports.iter().enumerate().map(one).collect()
}

fn port(rule: &PortRule) -> Option<input::PortRule> {
    let protocol = match rule.protocol {
        PortProtocol::Tcp => input::Protocol::Tcp,
        PortProtocol::Udp => input::Protocol::Udp,
        PortProtocol::Sctp => input::Protocol::Sctp,
        PortProtocol::Icmp => input::Protocol::Icmp,
    };
    let (low, high) = match (rule.port, rule.end_port) {
        (None, None) => (0, u16::MAX),
        (Some(port), end) if rule.protocol != PortProtocol::Icmp => (port, end.unwrap_or(port)),
        _ => return None,
    };
    let whole = rule.port.is_none();
    (whole || (low > 0 && low <= high)).then_some(input::PortRule { protocol, low, high })
}

fn peers(errors: &ObjectErrors, own: &str, peers: &[Peer]) -> Result<Vec<input::Peer>, ConvertError> {
    errors.at_most("spec.peers", peers.len(), MAX_PEERS)?;
    let mut seen = BTreeSet::new();
    for (i, peer) in peers.iter().enumerate() {
        let again = !seen.insert(&peer.tenant);
        errors.check(&format!("spec.peers[{i}].tenant"), !again, || Problem::Twice(peer.tenant.clone()))?;
    }
    peers.iter().enumerate().map(|(i, one)| peer(errors, &format!("spec.peers[{i}]"), own, one)).collect()
}

fn peer(errors: &ObjectErrors, field: &str, own: &str, peer: &Peer) -> Result<input::Peer, ConvertError> {
    let tenant = format!("{field}.tenant");
    tenant_name(&peer.tenant).map_err(|problem| errors.at(&tenant, problem))?;
    errors.check(&tenant, peer.tenant != own, || Problem::PeerItself)?;
    let until =
        |text: &String| seconds(text).ok_or_else(|| errors.at(format!("{field}.until"), Problem::Until(text.clone())));
    Ok(input::Peer {
        tenant: peer.tenant.clone(),
        egress: peer.direction != Direction::Ingress,
        ingress: peer.direction != Direction::Egress,
        until: peer.until.as_ref().map(until).transpose()?,
    })
}

/// Whether `text` is `[prefix/]name` as Kubernetes accepts it.
fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text.rsplit_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    !name.is_empty()
        && is_label_value(name)
        && prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(is_dns_label))
}

/// Whether `text` is empty, or at most 63 letters, digits, `-`, `_` and `.` with a letter or digit at both ends.
fn is_label_value(text: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|b| edge(b) || matches!(b, b'-' | b'_' | b'.'))
        && bytes.first().is_none_or(edge)
        && bytes.last().is_none_or(edge)
}
