//! Offsets of fields in the kernel's structures, from its own description (BTF, `/sys/kernel/btf/vmlinux`, 5.4).
//!
//! A C program gets them by relocations (CO-RE), which rustc does not emit. Reads as much of the format as needed
//! (Documentation/bpf/btf.rst), and knows no program. A type of an unknown kind is skipped by the
//! description's own table of layouts. Without that table, it hides the types after it: offsets are never guessed.
//!
//! No crate does this: `btf-rs` and `btfparse` refuse a whole description because of one unknown kind, and `aya-obj`
//! offers no members.

use std::sync::OnceLock;

/// Offsets of fields in bytes, from the start of their structure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offsets {
    /// The device of a `sk_buff`.
    pub skb_dev: u32,
    /// The namespace of a `net_device`.
    pub dev_net: u32,
    /// The inode number of a `net`.
    pub net_inum: u32,
    /// The byte of a `sk_buff` with the state of its checksum, and the first bit there.
    pub skb_summed: (u32, u32),
    /// The field `csum_start` of a `sk_buff`, which `csum_offset` follows.
    pub skb_csum: u32,
    /// The field `network_header` of a `sk_buff`.
    pub skb_network: u32,
    /// The field `_nfct` of a `sk_buff`; 0 in a kernel without conntrack.
    pub skb_nfct: u32,
}

/// Why the offsets are not known.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// There is no description, or it may not be read.
    #[error("cannot read {VMLINUX}; the kernel needs CONFIG_DEBUG_INFO_BTF")]
    Read(#[source] std::io::Error),
    /// The description is truncated or has another byte order.
    #[error("{VMLINUX} is malformed: it is truncated or has another byte order")]
    Format,
    /// A structure has no such field.
    #[error("struct {structure} of this kernel has no field {field}{}", hidden(.unknown_kind))]
    Field {
        /// The structure.
        structure: &'static str,
        /// The field.
        field: &'static str,
        /// The kind of the first type that could not be read, if there is one.
        unknown_kind: Option<u32>,
    },
}

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

fn hidden(unknown_kind: &Option<u32>) -> String {
    unknown_kind
        .map(|kind| format!("; types after the first one of unknown kind {kind} were not read"))
        .unwrap_or_default()
}

/// The offsets of the running kernel, read once.
///
/// # Errors
/// See [`BtfError`].
pub(super) fn offsets() -> Result<Offsets, &'static BtfError> {
    static READ: OnceLock<Result<Offsets, BtfError>> = OnceLock::new();
    let read = || std::fs::read(VMLINUX).map_err(BtfError::Read).and_then(|bytes| Offsets::of(&bytes));
    READ.get_or_init(read).as_ref().copied()
}

impl Offsets {
    /// The offsets in a description.
    fn of(bytes: &[u8]) -> Result<Self, BtfError> {
        let types = BtfTypes::read(bytes).ok_or(BtfError::Format)?;
        let bytes = |structure, path| types.bit(structure, path).map(|bit| bit / 8);
        let skb_dev = bytes("sk_buff", &["dev"])?;
        let summed = types.bit("sk_buff", &["ip_summed"])?;
        let skb_csum = bytes("sk_buff", &["csum_start"])?;
        // The programs read both fields at once.
        if bytes("sk_buff", &["csum_offset"])? != skb_csum + 2 {
            return Err(types.no_field("sk_buff", "csum_offset behind csum_start"));
        }
        Ok(Self {
            skb_dev,
            dev_net: bytes("net_device", &["nd_net", "net"])?,
            net_inum: bytes("net", &["ns", "inum"])?,
            skb_summed: (summed / 8, summed % 8),
            skb_csum,
            skb_network: bytes("sk_buff", &["network_header"])?,
            skb_nfct: bytes("sk_buff", &["_nfct"]).unwrap_or_default(),
        })
    }
}

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// Kinds that only name or qualify another type: typedef, volatile, const, restrict, type tag.
const MODIFIERS: [u32; 5] = [8, 9, 10, 11, 18];

/// The types of a description, by number.
struct BtfTypes<'a> {
    all: Vec<BtfType<'a>>,
    strings: &'a [u8],
    /// The kind of the first type that could not be read. Types after it are missing.
    unknown_kind: Option<u32>,
}

#[derive(Clone, Copy)]
struct BtfType<'a> {
    name: u32,
    kind: u32,
    /// Another type, or a size.
    other: u32,
    /// Whether the offsets of members share their word with the width of a bit field.
    bit_fields: bool,
    members: &'a [u8],
}

impl<'a> BtfTypes<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header = |at: usize| word(bytes, at).map(|word| word as usize);
        let part = |at: usize| {
            let from = header(4)?.checked_add(header(at)?)?;
            bytes.get(from..from.checked_add(header(at + 4)?)?)
        };
        let (mut rest, strings) = (part(8)?, part(16)?);
        // For each kind: bytes after a type, bytes of each of its elements, and flags (kernel 7).
        let layouts = if header(4)? >= 32 { part(24)? } else { &[] };
        // Type 0 is void.
        let void = BtfType { name: 0, kind: 0, other: 0, bit_fields: false, members: &[] };
        let (mut all, mut unknown_kind) = (vec![void], None);
        while !rest.is_empty() {
            let (name, info, other) = (word(rest, 0)?, word(rest, 4)?, word(rest, 8)?);
            // Before the table of layouts, kinds had 5 bits and counts 16; the bits beyond were zero.
            let (kind, count) = (info >> 24 & 0x7f, info as usize & 0x00ff_ffff);
            let length = match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                STRUCT | UNION | 15 | 19 => count * 12,
                6 | 13 => count * 8,
                2 | 7..=12 | 16 | 18 => 0,
                _ => match layouts.chunks_exact(4).nth(kind as usize) {
                    Some(layout) => usize::from(layout[0]) + count * usize::from(layout[1]),
                    None => {
                        unknown_kind = Some(kind);
                        break;
                    }
                },
            };
            let members = rest.get(12..12 + length)?;
            all.push(BtfType { name, kind, other, bit_fields: info >> 31 != 0, members });
            rest = &rest[12 + length..];
        }
        Some(Self { all, strings, unknown_kind })
    }

    /// The first bit of a field of a field of a structure.
    fn bit(&self, structure: &'static str, path: &[&'static str]) -> Result<u32, BtfError> {
        let is_it = |found: &&BtfType<'_>| found.kind == STRUCT && self.name(found.name) == structure.as_bytes();
        let mut found = self.all.iter().find(is_it).copied().map(|found| (0, found));
        for field in path {
            let inner = found.and_then(|(offset, within)| {
                let (further, found) = self.member(within, field, 0)?;
                Some((offset + further, found))
            });
            found = Some(inner.ok_or(self.no_field(structure, field))?);
        }
        found.map(|(bit, _)| bit).ok_or(self.no_field(structure, ""))
    }

    fn no_field(&self, structure: &'static str, field: &'static str) -> BtfError {
        BtfError::Field { structure, field, unknown_kind: self.unknown_kind }
    }

    /// A member by its name, and its first bit. The members of a member without a name count as its own.
    fn member(&self, within: BtfType<'a>, name: &str, depth: u32) -> Option<(u32, BtfType<'a>)> {
        // No structure of the kernel is nested deeper. A malformed description may refer to itself.
        if depth > 16 || !matches!(within.kind, STRUCT | UNION) {
            return None;
        }
        within.members.chunks_exact(12).find_map(|member| {
            let (label, kind, offset) = (word(member, 0)?, word(member, 4)?, word(member, 8)?);
            let offset = if within.bit_fields { offset & 0x00ff_ffff } else { offset };
            let found = self.without_modifiers(kind)?;
            match self.name(label) {
                b"" => self.member(found, name, depth + 1).map(|(further, found)| (offset + further, found)),
                label if label == name.as_bytes() => Some((offset, found)),
                _ => None,
            }
        })
    }

    /// A type without its modifiers.
    fn without_modifiers(&self, number: u32) -> Option<BtfType<'a>> {
        let mut found = *self.all.get(number as usize)?;
        for _ in 0..16 {
            if !MODIFIERS.contains(&found.kind) {
                return Some(found);
            }
            found = *self.all.get(found.other as usize)?;
        }
        None
    }

    fn name(&self, offset: u32) -> &'a [u8] {
        let from = self.strings.get(offset as usize..).unwrap_or_default();
        from.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRINGS: &[u8] = b"\0sk_buff\0dev\0ip_summed\0csum_start\0csum_offset\0network_header\0net_device\0nd_net\0net\0ns\0inum\0possible_net_t\0ns_common\0u32\0";

    fn at(name: &str) -> u32 {
        let wanted = [b"\0", name.as_bytes(), b"\0"].concat();
        STRINGS.windows(wanted.len()).position(|window| window == wanted).map_or(0, |at| at as u32 + 1)
    }

    /// The flag of bit fields, in the bits of the kind.
    const BIT_FIELDS: u32 = 1 << 7;

    /// A type: name, kind, size or other, words after it.
    type TypeSpec<'a> = (&'a str, u32, u32, &'a [u32]);

    fn described(types: &[TypeSpec<'_>]) -> Vec<u8> {
        described_with_layouts(types, &[])
    }

    fn described_with_layouts(types: &[TypeSpec<'_>], layouts: &[[u8; 4]]) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, kind, other, rest) in types {
            let count = if matches!(*kind & 0x1f, STRUCT | UNION) { rest.len() / 3 } else { 0 };
            let words = [at(name), kind << 24 | count as u32, *other];
            words.iter().chain(*rest).for_each(|word| body.extend(word.to_ne_bytes()));
        }
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let (layouts, types) = (layouts.concat(), body.len() as u32);
        let old = [24, 0, types, types + layouts.len() as u32, STRINGS.len() as u32];
        let new = [32, 0, types, types + layouts.len() as u32, STRINGS.len() as u32, types, layouts.len() as u32];
        let header = if layouts.is_empty() { &old[..] } else { &new[..] };
        header.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        [bytes, body, layouts, STRINGS.to_vec()].concat()
    }

    /// Types as in the kernel: `dev` is in a union without a name, `nd_net` is a typedef.
    fn kernel() -> Vec<u8> {
        kernel_with(&[], &[])
    }

    /// The same between other types.
    fn kernel_with(before: &[TypeSpec<'_>], after: &[TypeSpec<'_>]) -> Vec<u8> {
        kernel_types(before, after, &[])
    }

    fn kernel_types(before: &[TypeSpec<'_>], after: &[TypeSpec<'_>], layouts: &[[u8; 4]]) -> Vec<u8> {
        let csum = [
            [at("ip_summed"), 1, 5 | 2 << 24],
            [at("csum_start"), 1, 32],
            [at("csum_offset"), 1, 48],
            [at("network_header"), 1, 96],
        ]
        .concat();
        let names = ["dev", "net", "nd_net", "inum", "ns"].map(at);
        let [dev, net, nd_net, inum, ns] = names;
        let types: [TypeSpec<'_>; 11] = [
            ("u32", 1, 4, &[32]),                              // 1
            ("", 2, 0, &[]),                                   // 2: a pointer
            ("", STRUCT, 24, &[0, 2, 0, dev, 2, 128]),         // 3
            ("", UNION, 24, &[0, 3, 0]),                       // 4
            ("sk_buff", STRUCT, 200, &[0, 4, 64, 0, 11, 800]), // 5
            ("possible_net_t", 8, 7, &[]),                     // 6
            ("", STRUCT, 8, &[net, 2, 0]),                     // 7
            ("net_device", STRUCT, 400, &[nd_net, 6, 512]),    // 8
            ("ns_common", STRUCT, 24, &[inum, 1, 96]),         // 9
            ("net", STRUCT, 400, &[ns, 9, 320]),               // 10
            // 11: bit fields, whose offsets share their words with widths.
            ("", STRUCT | BIT_FIELDS, 40, &csum),
        ];
        described_with_layouts(&[before, &types, after].concat(), layouts)
    }

    #[test]
    fn fields_are_found_through_members_without_a_name() {
        let offsets = Offsets::of(&kernel()).expect("a description");
        let checksum = Offsets { skb_summed: (100, 5), skb_csum: 104, skb_network: 112, ..Offsets::default() };
        assert_eq!(
            offsets,
            Offsets { skb_dev: 24, dev_net: 64, net_inum: 52, ..checksum },
            "a kernel without conntrack"
        );
    }

    #[test]
    fn a_truncated_description_is_malformed_wherever_it_ends() {
        let bytes = kernel();
        for end in 0..bytes.len() - STRINGS.len() {
            assert!(Offsets::of(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn a_newer_kind_hides_no_type_before_it_and_is_named_for_types_after_it() {
        let newer = ("", 25, 0, &[][..]);
        let offsets = Offsets::of(&kernel_with(&[], &[newer])).expect("all structures precede the newer kind");
        assert_eq!(offsets, Offsets::of(&kernel()).expect("a description"));
        let error = Offsets::of(&kernel_with(&[newer], &[])).expect_err("no structure precedes it");
        assert!(matches!(error, BtfError::Field { structure: "sk_buff", unknown_kind: Some(25), .. }));
        assert!(error.to_string().ends_with("types after the first one of unknown kind 25 were not read"), "{error}");
    }

    #[test]
    fn a_newer_kind_is_skipped_by_the_table_of_layouts() {
        let newer = ("", 25, 0, &[1, 2, 3][..]);
        let mut layouts = [[0; 4]; 26];
        layouts[25] = [12, 8, 0, 0];
        let offsets = Offsets::of(&kernel_types(&[], &[newer], &layouts)).expect("a description");
        assert_eq!(offsets, Offsets::of(&kernel()).expect("a description"));
        let error = Offsets::of(&kernel_types(&[newer], &[], &layouts[..25])).expect_err("kind 25 has no layout");
        assert!(matches!(error, BtfError::Field { unknown_kind: Some(25), .. }), "{error}");
        layouts[25] = [8, 8, 0, 0];
        assert!(Offsets::of(&kernel_types(&[newer], &[], &layouts)).is_err(), "a wrong length is not read past");
    }

    #[test]
    fn no_malformed_description_stops_the_agent() {
        for at in 0..kernel().len() {
            for value in [0x00, 0x01, 0x7f, 0xff] {
                let mut bytes = kernel();
                bytes[at] = value;
                let _ = Offsets::of(&bytes);
            }
        }
    }

    #[test]
    fn a_missing_field_is_named() {
        let bytes = described(&[("sk_buff", STRUCT, 8, &[])]);
        assert!(matches!(Offsets::of(&bytes), Err(BtfError::Field { structure: "sk_buff", field: "dev", .. })));
        let circle = described(&[("sk_buff", STRUCT, 8, &[0, 1, 0])]);
        assert!(Offsets::of(&circle).is_err());
    }

    #[test]
    fn the_description_of_the_running_kernel_is_understood() {
        let Ok(bytes) = std::fs::read(VMLINUX) else { return };
        let offsets = Offsets::of(&bytes).expect("a kernel's own description");
        assert!(offsets.skb_dev >= 16 && offsets.net_inum > 0, "{offsets:?}");
    }
}
