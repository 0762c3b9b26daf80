//! Parses addresses and networks, and accepts only the spelling that every parser reads alike.
//!
//! Parsers differ over leading zeros, host bits, zones and IPv4-mapped forms. Each difference has been a security hole
//! before: what `kubectl` shows must be what the kernel enforces. Nothing is corrected here; a network with host bits is
//! refused, and the message names its canonical form.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// Why a text is not an address or a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CidrError {
    /// The text is not a network.
    #[error("{0:?} is not a network: write ADDRESS/LENGTH, such as 10.40.0.0/24 or fd00:40::/64")]
    NotANetwork(String),
    /// The text is not an address.
    #[error("{0:?} is not an IP address: write it without port, prefix length, spaces and leading zeros")]
    NotAnAddress(String),
    /// The part after the slash is not a prefix length.
    #[error("{text:?} has no valid prefix length: write 0 to {max} without leading zeros")]
    PrefixLength {
        /// The text as written.
        text: String,
        /// 32 or 128.
        max: u8,
    },
    /// The address has a zone, which is valid on one machine only.
    #[error("{0:?} has a zone: remove '%' and everything after it")]
    Zone(String),
    /// The address is an IPv4 address in IPv6 form.
    #[error("{0:?} is an IPv4-mapped IPv6 address: write the IPv4 address itself")]
    Mapped(String),
    /// Bits after the prefix are set.
    #[error("{text:?} has host bits set: write {canonical}")]
    HostBits {
        /// The text as written.
        text: String,
        /// The network that contains it.
        canonical: IpNet,
    },
}

/// Parses a network.
///
/// # Errors
/// Anything but the canonical form, apart from the spelling of an IPv6 address.
pub(crate) fn parse(text: &str) -> Result<IpNet, CidrError> {
    let (addr, len) = text.split_once('/').ok_or_else(|| CidrError::NotANetwork(text.to_owned()))?;
    let addr = parse_addr(addr).map_err(|error| match error {
        CidrError::NotAnAddress(_) => CidrError::NotANetwork(text.to_owned()),
        CidrError::Zone(_) => CidrError::Zone(text.to_owned()),
        _ => CidrError::Mapped(text.to_owned()),
    })?;
    let max = if addr.is_ipv4() { 32 } else { 128 };
    let len = prefix_len(len, max).ok_or_else(|| CidrError::PrefixLength { text: text.to_owned(), max })?;
    let net = IpNet::new(addr, len).map_err(|_| CidrError::PrefixLength { text: text.to_owned(), max })?;
    match net.trunc() {
        canonical if canonical == net => Ok(net),
        canonical => Err(CidrError::HostBits { text: text.to_owned(), canonical }),
    }
}

/// Parses an address.
///
/// # Errors
/// A zone, an IPv4-mapped address, or anything else that is no address.
pub(crate) fn parse_addr(text: &str) -> Result<IpAddr, CidrError> {
    if text.contains('%') {
        return Err(CidrError::Zone(text.to_owned()));
    }
    let addr: IpAddr = text.parse().map_err(|_| CidrError::NotAnAddress(text.to_owned()))?;
    match addr {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(CidrError::Mapped(text.to_owned())),
        _ => Ok(addr),
    }
}

/// Whether an address is IPv6 link-local.
pub(crate) fn is_link_local(v6: Ipv6Addr) -> bool {
    v6.segments()[0] & 0xffc0 == 0xfe80
}

/// Decimal digits without a sign or a leading zero, up to `max`.
fn prefix_len(text: &str, max: u8) -> Option<u8> {
    let is_decimal = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|len| is_decimal && *len <= max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        parse(text).map_or_else(|error| format!("error: {error}"), |net| net.to_string())
    }

    #[test]
    fn networks_are_read_as_written() {
        for text in ["10.40.0.0/24", "0.0.0.0/0", "192.0.2.10/32", "fd00:40::/64", "::/0", "2001:db8::1/128"] {
            assert_eq!(canonical(text), text);
        }
    }

    #[test]
    fn another_spelling_of_an_ipv6_network_is_the_same_network() {
        assert_eq!(canonical("FD00:40:0:0::/64"), "fd00:40::/64");
    }

    #[test]
    fn what_other_parsers_read_differently_is_refused() {
        for text in [
            "",
            " ",
            "/",
            "10.10.0.0",
            "10.10/16",
            "010.10.0.0/16",
            "0x0a.10.0.0/16",
            " 10.10.0.0/16",
            "10.10.0.0/16 ",
            "10.10.0.0 /16",
            "10.10.0.0/33",
            "10.10.0.0/",
            "10.10.0.0/+16",
            "10.10.0.0/016",
            "10.10.0.0/-1",
            "10.10.0.0/255.255.0.0",
            "10.10.0.0/16/8",
            "168430090/16",
            "fd00::/129",
            "fd00::/1 2",
            "fd00::1:2:3:4:5:6:7:8/64",
            "[fd00::]/64",
            "fe80::1%eth0/64",
            "fe80::%1/64",
            "::ffff:10.20.0.0/112",
            "::ffff:a14:0/112",
            "::ffff:0:0/96",
            "10.10.0.0/१६",
        ] {
            assert!(parse(text).is_err(), "{text:?} was read as {}", canonical(text));
        }
    }

    #[test]
    fn host_bits_are_refused_and_the_canonical_form_is_named() {
        assert_eq!(canonical("10.10.5.1/16"), "error: \"10.10.5.1/16\" has host bits set: write 10.10.0.0/16");
        assert_eq!(canonical("fd00::5/64"), "error: \"fd00::5/64\" has host bits set: write fd00::/64");
    }

    #[test]
    fn a_mapped_network_is_refused_even_when_only_its_prefix_is_mapped() {
        assert_eq!(parse("::ffff:10.20.0.0/112"), Err(CidrError::Mapped("::ffff:10.20.0.0/112".to_owned())));
        assert_eq!(parse_addr("::ffff:10.20.0.1"), Err(CidrError::Mapped("::ffff:10.20.0.1".to_owned())));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_accepted_reads_back_the_same(text in "\\PC{0,50}|[0-9a-f:./%]{0,50}") {
            if let Ok(net) = parse(&text) {
                prop_assert_eq!(parse(&net.to_string()), Ok(net));
                prop_assert_eq!(net.trunc(), net);
            }
        }

        #[test]
        fn every_network_has_exactly_one_accepted_address(addr: [u8; 4], len in 0u8..=32) {
            let net = IpNet::new(IpAddr::from(addr), len).expect("0 to 32");
            let text = net.to_string();
            prop_assert_eq!(parse(&text).is_ok(), net == net.trunc());
        }
    }
}
