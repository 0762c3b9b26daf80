//! `Endpoint` to `input::Endpoint`.

use std::net::IpAddr;

use agent_common::addr::Mac;

use super::{Blame, Error, Problem, is_dns_label};
use crate::api::cidr;
use crate::api::endpoint::{Endpoint, EndpointSpec};
use policy::model::input::{self, Attachment, EndpointKey, HostPort};

/// `IFNAMSIZ` without its terminating zero.
const MAX_INTERFACE: usize = 15;
/// `NAME_MAX`: a named network namespace is a file.
const MAX_NETNS: usize = 255;

/// What the model knows of an endpoint.
pub fn endpoint(endpoint: &Endpoint) -> Result<input::Endpoint, Error> {
    let (meta, spec) = (&endpoint.metadata, &endpoint.spec);
    let blame = Blame::new("Endpoint", &format!("{}/{}", meta.namespace, meta.name));
    blame.check("metadata.namespace", is_dns_label(&meta.namespace), || Problem::Name(meta.namespace.clone()))?;
    let named = meta.name.len() <= 253 && meta.name.split('.').all(is_dns_label);
    blame.check("metadata.name", named, || Problem::Name(meta.name.clone()))?;
    Ok(input::Endpoint {
        key: EndpointKey { namespace: meta.namespace.clone(), name: meta.name.clone() },
        uid: meta.uid.clone(),
        created: 0,
        addresses: addresses(&blame, &spec.addresses)?,
        local: attachment(&blame, spec)?,
        workload: spec.workload.as_ref().map(|run_by| (run_by.kind.clone(), run_by.name.clone())),
    })
}

fn addresses(blame: &Blame, texts: &[String]) -> Result<Vec<IpAddr>, Error> {
    blame.check("spec.addresses", !texts.is_empty(), || Problem::Empty)?;
    let addresses = unicast(blame, "spec.addresses", texts)?;
    one_each(blame, "spec.addresses", &addresses, |addr| match addr {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(v6) if cidr::is_link_local(*v6) => "IPv6 link-local",
        IpAddr::V6(_) => "IPv6",
    })?;
    // In 169.254.0.0/16 live metadata services and gateways, which an endpoint must not shadow.
    let local = addresses.iter().position(|addr| matches!(addr, IpAddr::V4(v4) if v4.is_link_local()));
    match local {
        Some(i) => Err(blame.on(format!("spec.addresses[{i}]"), Problem::NotUnicast(addresses[i].to_string()))),
        None => Ok(addresses),
    }
}

fn attachment(blame: &Blame, spec: &EndpointSpec) -> Result<Option<Attachment>, Error> {
    let port = match (&spec.interface, &spec.netns) {
        (Some(_), Some(_)) => return Err(blame.on("spec.netns", Problem::TwoPorts)),
        (Some(name), None) => {
            named(blame, "spec.interface", name, MAX_INTERFACE)?;
            HostPort::Interface(name.clone())
        }
        (None, Some(name)) => {
            named(blame, "spec.netns", name, MAX_NETNS)?;
            HostPort::Netns(name.clone())
        }
        (None, None) => {
            blame.check("spec.mac", spec.mac.is_none(), || Problem::NotLocal)?;
            blame.check("spec.gateways", spec.gateways.is_empty(), || Problem::NotLocal)?;
            return Ok(None);
        }
    };
    let station = |text: &String| mac(text).ok_or_else(|| blame.on("spec.mac", Problem::Mac(text.clone())));
    let gateways = unicast(blame, "spec.gateways", &spec.gateways)?;
    one_each(blame, "spec.gateways", &gateways, |addr| if addr.is_ipv4() { "IPv4" } else { "IPv6" })?;
    Ok(Some(Attachment { port, mac: spec.mac.as_ref().map(station).transpose()?, gateways, group: None }))
}

/// Addresses that one station can have.
fn unicast(blame: &Blame, field: &str, texts: &[String]) -> Result<Vec<IpAddr>, Error> {
    let one = |(i, text): (usize, &String)| {
        let field = format!("{field}[{i}]");
        let addr = cidr::parse_addr(text).map_err(|error| blame.on(&field, error))?;
        let broadcast = matches!(addr, IpAddr::V4(v4) if v4.is_broadcast());
        let usable = !addr.is_unspecified() && !addr.is_loopback() && !addr.is_multicast() && !broadcast;
        blame.check(&field, usable, || Problem::NotUnicast(text.clone())).map(|()| addr)
    };
    texts.iter().enumerate().map(one).collect()
}

fn one_each(
    blame: &Blame,
    field: &str,
    addresses: &[IpAddr],
    sort: impl Fn(&IpAddr) -> &'static str,
) -> Result<(), Error> {
    for (i, addr) in addresses.iter().enumerate() {
        let again = addresses[..i].iter().any(|earlier| sort(earlier) == sort(addr));
        blame.check(&format!("{field}[{i}]"), !again, || Problem::Addresses(sort(addr)))?;
    }
    Ok(())
}

fn named(blame: &Blame, field: &str, name: &str, longest: usize) -> Result<(), Error> {
    let plain = !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    let ok = plain && (1..=longest).contains(&name.len()) && name != "." && name != "..";
    blame.check(field, ok, || Problem::PortName(name.to_owned()))
}

/// Six pairs of hexadecimal digits: neither all zero, nor a group.
fn mac(text: &str) -> Option<Mac> {
    let mut octets = [0; 6];
    let mut pairs = text.split(':');
    for octet in &mut octets {
        let pair = pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *octet = u8::from_str_radix(pair, 16).ok()?;
    }
    let station = pairs.next().is_none() && octets != [0; 6] && octets[0] & 1 == 0;
    station.then(|| Mac::new(octets))
}
