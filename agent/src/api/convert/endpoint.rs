//! Converts `Endpoint` to [`input::Endpoint`].
//!
//! Checks every field of one object and knows no other. Endpoints come from files only.

use std::net::IpAddr;

use agent_common::addr::Mac;

use super::{ConvertError, ObjectErrors, Problem, is_dns_label};
use crate::api::cidr;
use crate::api::endpoint::{Endpoint, EndpointSpec};
use policy::model::input::{self, Attachment, EndpointKey, HostPort};

/// `IFNAMSIZ` without its terminating zero.
const MAX_INTERFACE: usize = 15;
/// `NAME_MAX`: a named network namespace is a file.
const MAX_NETNS: usize = 255;

/// Converts an endpoint.
///
/// # Errors
/// The first field that is wrong.
pub(crate) fn endpoint(endpoint: &Endpoint) -> Result<input::Endpoint, ConvertError> {
    let (meta, spec) = (&endpoint.metadata, &endpoint.spec);
    let errors = ObjectErrors::new("Endpoint", &format!("{}/{}", meta.namespace, meta.name));
    errors.check("metadata.namespace", is_dns_label(&meta.namespace), || Problem::Name(meta.namespace.clone()))?;
    let named = meta.name.len() <= 253 && meta.name.split('.').all(is_dns_label);
    errors.check("metadata.name", named, || Problem::Name(meta.name.clone()))?;
    Ok(input::Endpoint {
        key: EndpointKey { namespace: meta.namespace.clone(), name: meta.name.clone() },
        uid: meta.uid.clone(),
        created: 0,
        addresses: addresses(&errors, &spec.addresses)?,
        local: attachment(&errors, spec)?,
        workload: spec.workload.as_ref().map(|workload| (workload.kind.clone(), workload.name.clone())),
    })
}

fn addresses(errors: &ObjectErrors, texts: &[String]) -> Result<Vec<IpAddr>, ConvertError> {
    errors.check("spec.addresses", !texts.is_empty(), || Problem::Empty)?;
    let addresses = unicast(errors, "spec.addresses", texts)?;
    one_each(errors, "spec.addresses", &addresses, |addr| match addr {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(v6) if cidr::is_link_local(*v6) => "IPv6 link-local",
        IpAddr::V6(_) => "IPv6",
    })?;
    // 169.254.0.0/16 holds metadata services and gateways, which an endpoint must not shadow.
    let local = addresses.iter().position(|addr| matches!(addr, IpAddr::V4(v4) if v4.is_link_local()));
    match local {
        Some(i) => Err(errors.at(format!("spec.addresses[{i}]"), Problem::NotUnicast(addresses[i].to_string()))),
        None => Ok(addresses),
    }
}

fn attachment(errors: &ObjectErrors, spec: &EndpointSpec) -> Result<Option<Attachment>, ConvertError> {
    let port = match (&spec.interface, &spec.netns) {
        (Some(_), Some(_)) => return Err(errors.at("spec.netns", Problem::TwoPorts)),
        (Some(name), None) => {
            named(errors, "spec.interface", name, MAX_INTERFACE)?;
            HostPort::Interface(name.clone())
        }
        (None, Some(name)) => {
            named(errors, "spec.netns", name, MAX_NETNS)?;
            HostPort::Netns(name.clone())
        }
        (None, None) => {
            errors.check("spec.mac", spec.mac.is_none(), || Problem::NotLocal)?;
            errors.check("spec.gateways", spec.gateways.is_empty(), || Problem::NotLocal)?;
            return Ok(None);
        }
    };
    let station = |text: &String| mac(text).ok_or_else(|| errors.at("spec.mac", Problem::Mac(text.clone())));
    let gateways = unicast(errors, "spec.gateways", &spec.gateways)?;
    one_each(errors, "spec.gateways", &gateways, |addr| if addr.is_ipv4() { "IPv4" } else { "IPv6" })?;
    Ok(Some(Attachment { port, mac: spec.mac.as_ref().map(station).transpose()?, gateways, ..Attachment::default() }))
}

/// Parses addresses, each of which must be a unicast address.
fn unicast(errors: &ObjectErrors, field: &str, texts: &[String]) -> Result<Vec<IpAddr>, ConvertError> {
    let one = |(i, text): (usize, &String)| {
        let field = format!("{field}[{i}]");
        let addr = cidr::parse_addr(text).map_err(|error| errors.at(&field, error))?;
        let broadcast = matches!(addr, IpAddr::V4(v4) if v4.is_broadcast());
        let usable = !addr.is_unspecified() && !addr.is_loopback() && !addr.is_multicast() && !broadcast;
        errors.check(&field, usable, || Problem::NotUnicast(text.clone())).map(|()| addr)
    };
    texts.iter().enumerate().map(one).collect()
}

fn one_each(
    errors: &ObjectErrors,
    field: &str,
    addresses: &[IpAddr],
    sort: impl Fn(&IpAddr) -> &'static str,
) -> Result<(), ConvertError> {
    for (i, addr) in addresses.iter().enumerate() {
        let again = addresses[..i].iter().any(|earlier| sort(earlier) == sort(addr));
        errors.check(&format!("{field}[{i}]"), !again, || Problem::Addresses(sort(addr)))?;
    }
    Ok(())
}

fn named(errors: &ObjectErrors, field: &str, name: &str, longest: usize) -> Result<(), ConvertError> {
    let is_printable = !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    let ok = is_printable && (1..=longest).contains(&name.len()) && name != "." && name != "..";
    errors.check(field, ok, || Problem::PortName(name.to_owned()))
}

/// Parses six pairs of hexadecimal digits. The zero address and group addresses are refused.
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
