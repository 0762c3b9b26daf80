//! The address types, one for each family, and what the rules must know of an address.
//!
//! Addresses are in wire order. Equality, hashing and masks work on that form, so the hot path swaps no byte. Knows no
//! policy.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IPv4 address in wire order.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct V4(pub u32);

/// An IPv6 address in wire order, as two halves.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct V6 {
    /// First eight bytes on the wire.
    pub hi: u64,
    /// Last eight bytes on the wire.
    pub lo: u64,
}

/// A hardware address as three 2-byte words in wire order: two loads shorter than six bytes.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Mac(pub [u16; 3]);

impl Mac {
    /// From the six bytes as written.
    pub const fn new(b: [u8; 6]) -> Self {
        Self([u16::from_ne_bytes([b[0], b[1]]), u16::from_ne_bytes([b[2], b[3]]), u16::from_ne_bytes([b[4], b[5]])])
    }

    /// The six bytes as written.
    pub const fn octets(self) -> [u8; 6] {
        let [a, b, c] = self.0;
        let (a, b, c) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes());
        [a[0], a[1], b[0], b[1], c[0], c[1]]
    }

    /// Whether the address is that of a group of stations, or of all (the lowest bit of its first byte is set).
    pub const fn is_group(self) -> bool {
        self.0[0].to_ne_bytes()[0] & 1 != 0
    }

    /// Whether the address is unknown: all zero.
    pub const fn is_unknown(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0
    }
}

/// How many IPv4 addresses one address may embed.
pub const EMBEDDED: u32 = 4;

/// What the rules must know of an address of either family.
pub trait Address: Copy + Eq {
    /// The unspecified address: the value of an absent address.
    const NONE: Self;
    /// Whether the address is multicast or broadcast.
    fn is_multicast(self) -> bool;
    /// Whether the address must not be a destination outside its host or link (RFC 6890 and successors): "this network",
    /// loopback, link-local, reserved.
    fn is_martian(self) -> bool;
    /// Whether the address contains an IPv4 address (mapped, compatible, 6to4, NAT64, Teredo, ISATAP). A wide IPv6 range does
    /// not include such an address.
    fn embeds_v4(self) -> bool;
    /// The `index`th IPv4 address that a translator or relay on the way may read from this one, below [`EMBEDDED`];
    /// [`V4::NONE`] for none. Which one it reads depends on its configuration, so all must be permitted.
    fn embedded(self, index: u32) -> V4;
    /// Whether one of the three holds: no wide range includes this address.
    #[inline(always)]
    fn is_special(self) -> bool {
        self.is_multicast() || self.is_martian() || self.embeds_v4()
    }
    /// The address as two halves; IPv4 is in the second.
    fn halves(self) -> (u64, u64);
    /// The address as 16 bytes, for events; IPv4 is in mapped form.
    fn to_octets16(self) -> [u8; 16];
}

impl V4 {
    /// From the four bytes as written.
    pub const fn new(octets: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(octets))
    }

    /// The four bytes as written.
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// The network mask of a prefix of `len` bits, in wire order. `len` above 32 counts as 32.
    pub const fn mask(len: u8) -> Self {
        let bits = if len == 0 { 0 } else { u32::MAX << (32 - if len > 32 { 32 } else { len }) };
        Self(bits.to_be())
    }
}

impl Address for V4 {
    const NONE: Self = Self(0);

    #[inline(always)]
    fn is_multicast(self) -> bool {
        let first = u32::from_be(self.0) >> 24;
        (224..240).contains(&first) || self.0 == u32::MAX
    }

    #[inline(always)]
    fn is_martian(self) -> bool {
        let host = u32::from_be(self.0);
        let first = host >> 24;
        first == 0 || first == 127 || first >= 240 || host >> 16 == 0xa9fe
    }

    #[inline(always)]
    fn embeds_v4(self) -> bool {
        false
    }

    #[inline(always)]
    fn embedded(self, _: u32) -> V4 {
        V4::NONE
    }

    #[inline(always)]
    fn halves(self) -> (u64, u64) {
        (0, self.0 as u64)
    }

    fn to_octets16(self) -> [u8; 16] {
        V6::mapped(self).octets()
    }
}

impl V6 {
    /// The unspecified address.
    pub const UNSPECIFIED: Self = Self { hi: 0, lo: 0 };

    /// From the sixteen bytes as written.
    pub const fn new(o: [u8; 16]) -> Self {
        Self {
            hi: u64::from_ne_bytes([o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7]]),
            lo: u64::from_ne_bytes([o[8], o[9], o[10], o[11], o[12], o[13], o[14], o[15]]),
        }
    }

    /// The sixteen bytes as written.
    pub const fn octets(self) -> [u8; 16] {
        zerocopy::transmute!(self)
    }

    /// The IPv4-mapped form of an IPv4 address (RFC 4291, 2.5.5.2).
    #[inline(always)]
    pub fn mapped(v4: V4) -> Self {
        let [a, b, c, d] = v4.octets();
        Self { hi: 0, lo: u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d]) }
    }

    /// The network mask of a prefix of `len` bits, in wire order. `len` above 128 counts as 128.
    pub const fn mask(len: u8) -> Self {
        Self { hi: mask64(len), lo: mask64(len.saturating_sub(64)) }
    }

    /// The solicited-node multicast address of this one (RFC 4291, 2.7.1).
    #[inline(always)]
    pub fn solicited_node(self) -> Self {
        Self {
            hi: 0xff02_0000_0000_0000_u64.to_be(),
            lo: (0x0000_0001_ff00_0000_u64 | (u64::from_be(self.lo) & 0x00ff_ffff)).to_be(),
        }
    }

    /// Whether the last half has the form of ISATAP (RFC 5214, 6.1): ::0:5efe or ::200:5efe, then an IPv4 address.
    #[inline(always)]
    fn has_isatap_interface(self) -> bool {
        u64::from_be(self.lo) >> 32 & !0x0200_0000 == 0x0000_5efe
    }

    /// fe80::/10.
    #[inline(always)]
    pub fn is_link_local(self) -> bool {
        u64::from_be(self.hi) >> 54 == 0x3fa
    }

    /// The all-nodes multicast address, ff02::1.
    pub const ALL_NODES: Self = Self { hi: 0xff02_0000_0000_0000_u64.to_be(), lo: 1_u64.to_be() };
}

const fn mask64(len: u8) -> u64 {
    match len {
        0 => 0,
        1..=63 => (u64::MAX << (64 - len)).to_be(),
        _ => u64::MAX,
    }
}

impl Address for V6 {
    const NONE: Self = Self::UNSPECIFIED;

    #[inline(always)]
    fn is_multicast(self) -> bool {
        u64::from_be(self.hi) >> 56 == 0xff
    }

    #[inline(always)]
    fn is_martian(self) -> bool {
        let hi = u64::from_be(self.hi);
        // Unspecified and loopback; link-local fe80::/10 and site-local fec0::/10 together are
        // fe80::/9; discard-only 100::/64 (RFC 6666).
        (hi == 0 && u64::from_be(self.lo) <= 1) || hi >> 55 == 0x1fd || hi == 0x0100_0000_0000_0000
    }

    #[inline(always)]
    fn embeds_v4(self) -> bool {
        let hi = u64::from_be(self.hi);
        // ::/96 and ::ffff:0:0/96 (RFC 4291), 2002::/16 (RFC 3056), 64:ff9b::/96 and
        // 64:ff9b:1::/48 (RFC 6052, RFC 8215), 2001::/32 (Teredo, RFC 4380).
        hi == 0
            || hi >> 48 == 0x2002
            || hi >> 32 == 0x0064_ff9b
            || hi >> 32 == 0x2001_0000
            || self.has_isatap_interface()
    }

    #[inline(always)]
    fn embedded(self, index: u32) -> V4 {
        let (hi, lo) = (u64::from_be(self.hi), u64::from_be(self.lo));
        let tail = lo >> 24 & 0xffff_ffff;
        let is_6to4 = hi >> 48 == 0x2002;
        let is_teredo = hi >> 32 == 0x2001_0000;
        // A translator's prefix has 48, 56, 64 or 96 bits. Bits 64 to 71 are skipped (RFC 6052, 2.2).
        let is_local_nat64 = hi >> 16 == 0x0064_ff9b_0001;
        let bits = match index {
            0 if !self.embeds_v4() => 0,
            // The client, with inverted bits.
            0 if is_teredo => !lo,
            0 => lo,
            1 if is_6to4 => hi >> 16,
            // The server.
            1 if is_teredo => hi,
            1 if is_local_nat64 => hi << 16 | tail >> 16,
            2 if is_local_nat64 => hi << 24 | tail >> 8,
            3 if is_local_nat64 => tail,
            _ => 0,
        };
        V4((bits as u32).to_be())
    }

    #[inline(always)]
    fn halves(self) -> (u64, u64) {
        (self.hi, self.lo)
    }

    fn to_octets16(self) -> [u8; 16] {
        self.octets()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::net::Ipv6Addr;
    use std::vec::Vec;

    fn v6(text: &str) -> V6 {
        V6::new(text.parse::<Ipv6Addr>().expect("an address").octets())
    }

    #[test]
    fn masks_have_the_length_they_name() {
        assert_eq!(V4::mask(0).octets(), [0; 4]);
        assert_eq!(V4::mask(9).octets(), [255, 128, 0, 0]);
        assert_eq!(V4::mask(32).octets(), [255; 4]);
        for len in 0..=128_u8 {
            let ones: u32 = V6::mask(len).octets().iter().map(|b| b.count_ones()).sum();
            assert_eq!(ones, u32::from(len));
        }
        assert_eq!(V6::mask(65), v6("ffff:ffff:ffff:ffff:8000::"));
    }

    #[test]
    fn special_addresses_are_recognised_and_their_neighbours_are_not() {
        for (text, multicast, martian) in [
            ("0.0.0.0", false, true),
            ("1.0.0.0", false, false),
            ("127.0.0.1", false, true),
            ("128.0.0.1", false, false),
            ("169.253.255.255", false, false),
            ("169.254.1.1", false, true),
            ("223.255.255.255", false, false),
            ("224.0.0.1", true, false),
            ("239.255.255.255", true, false),
            ("240.0.0.1", false, true),
            ("255.255.255.255", true, true),
        ] {
            let address = V4::new(text.parse::<std::net::Ipv4Addr>().expect("an address").octets());
            assert_eq!((address.is_multicast(), address.is_martian()), (multicast, martian), "{text}");
        }
        for (text, multicast, martian, embedded) in [
            ("::", false, true, true),
            ("::1", false, true, true),
            ("::ffff:10.0.0.1", false, false, true),
            ("64:ff9b::a00:1", false, false, true),
            ("2002:a00:1::", false, false, true),
            ("2001:0:1::", false, false, true),
            ("2001:db8::1", false, false, false),
            ("2001:db8::5efe:a00:1", false, false, true),
            ("2001:db8::200:5efe:a00:1", false, false, true),
            ("2001:db8::5eff:a00:1", false, false, false),
            ("fe7f::1", false, false, false),
            ("fe80::1", false, true, false),
            ("febf::1", false, true, false),
            ("fec0::7", false, true, false),
            ("fd00::1", false, false, false),
            ("ff02::1", true, false, false),
        ] {
            let a = v6(text);
            assert_eq!((a.is_multicast(), a.is_martian(), a.embeds_v4()), (multicast, martian, embedded), "{text}");
        }
    }

    #[test]
    fn every_address_that_a_translator_may_read_is_found() {
        let inner = V4::new([10, 20, 1, 7]);
        for text in [
            "::ffff:10.20.1.7",
            "::10.20.1.7",
            "64:ff9b::10.20.1.7",
            "64:ff9b:1::10.20.1.7",
            "64:ff9b:1:2:3:4:10.20.1.7",
            "64:ff9b:1:a14:1:700::",
            "64:ff9b:1:ff0a:14:107::",
            "64:ff9b:1:0:a:1401:700:0",
            "2002:a14:107::1",
            "2001:0:a14:107::1",
            "2001:0:102:304:0:0:f5eb:fef8",
            "2001:db8::5efe:a14:107",
        ] {
            let found: Vec<V4> = (0..EMBEDDED).map(|index| v6(text).embedded(index)).collect();
            assert!(found.contains(&inner), "{text}: {found:?}");
        }
        for text in ["2001:db8::10.20.1.7", "fd00::a14:107"] {
            assert!((0..EMBEDDED).all(|index| v6(text).embedded(index) == V4::NONE), "{text}");
        }
    }

    #[test]
    fn solicited_node_address_keeps_the_last_24_bits() {
        assert_eq!(v6("fd00:a::1:2:1234:5678").solicited_node(), v6("ff02::1:ff34:5678"));
        assert!(v6("fe80::1").is_link_local() && !v6("fec0::1").is_link_local());
    }
}
