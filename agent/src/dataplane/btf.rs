//! Where this kernel's structures hold what leads from a packet to its network namespace, and what is still
//! to be written into it, as the kernel itself describes them (BTF, `/sys/kernel/btf/vmlinux`, 5.4).
//!
//! A C program would ask for that by relocations (CO-RE), which the compiler of ours does not write. Reads
//! as much of the format as that takes (Documentation/bpf/btf.rst), and knows nothing of programs.

use std::sync::OnceLock;

/// Bytes from the start of a structure to something in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// The device of a `sk_buff`.
    pub skb_dev: u32,
    /// The namespace of a `net_device`.
    pub dev_net: u32,
    /// The inode number of a `net`.
    pub net_inum: u32,
    /// The byte of a `sk_buff` that says whether its checksum is finished, and the bit there.
    pub skb_summed: (u32, u32),
    /// Where that begins, counted from the buffer's head; two bytes on, where it is written, from there.
    pub skb_csum: u32,
    /// Where its network header is, counted from the buffer's head.
    pub skb_network: u32,
}

/// Why they are not known.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// There is no description, or it may not be read.
    #[error("cannot read {VMLINUX}: a kernel with CONFIG_DEBUG_INFO_BTF has it")]
    Read(#[source] std::io::Error),
    /// It is cut short, or of another byte order.
    #[error("{VMLINUX} is not a description of types as this agent reads it")]
    Format,
    /// A structure has no such field.
    #[error("this kernel's struct {structure} has no field {field}")]
    Field {
        /// Which structure.
        structure: &'static str,
        /// What of it.
        field: &'static str,
    },
}

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Those of the running kernel, read once.
///
/// # Errors
/// See `BtfError`.
pub fn offsets() -> Result<Offsets, &'static BtfError> {
    static READ: OnceLock<Result<Offsets, BtfError>> = OnceLock::new();
    let read = || std::fs::read(VMLINUX).map_err(BtfError::Read).and_then(|bytes| of(&bytes));
    READ.get_or_init(read).as_ref().copied()
}

/// Those of a description.
fn of(bytes: &[u8]) -> Result<Offsets, BtfError> {
    let types = Types::read(bytes).ok_or(BtfError::Format)?;
    let bytes = |structure, path| types.bit(structure, path).map(|bit| bit / 8);
    let skb_dev = bytes("sk_buff", &["dev"])?;
    let summed = types.bit("sk_buff", &["ip_summed"])?;
    let skb_csum = bytes("sk_buff", &["csum_start"])?;
    // Read together.
    if bytes("sk_buff", &["csum_offset"])? != skb_csum + 2 {
        return Err(BtfError::Field { structure: "sk_buff", field: "csum_offset behind csum_start" });
    }
    Ok(Offsets {
        skb_dev,
        dev_net: bytes("net_device", &["nd_net", "net"])?,
        net_inum: bytes("net", &["ns", "inum"])?,
        skb_summed: (summed / 8, summed % 8),
        skb_csum,
        skb_network: bytes("sk_buff", &["network_header"])?,
    })
}

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// What only gives another type a name or a quality: typedef, volatile, const, restrict, type tag.
const VEILS: [u32; 5] = [8, 9, 10, 11, 18];

/// The types of a description, by number.
struct Types<'a> {
    all: Vec<Type<'a>>,
    strings: &'a [u8],
}

#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    /// Another type, or a size.
    other: u32,
    /// Whether members' offsets share their word with a width.
    fields: bool,
    members: &'a [u8],
}

impl<'a> Types<'a> {
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
        // Type 0 is void.
        let void = Type { name: 0, kind: 0, other: 0, fields: false, members: &[] };
        let mut all = vec![void];
        while !rest.is_empty() {
            let (name, info, other) = (word(rest, 0)?, word(rest, 4)?, word(rest, 8)?);
            let (kind, count) = (info >> 24 & 0x1f, info as usize & 0xffff);
            let length = match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                STRUCT | UNION | 15 | 19 => count * 12,
                6 | 13 => count * 8,
                2 | 7..=12 | 16 | 18 => 0,
                // A kind that is newer than this agent: its length is unknown.
                _ => return None,
            };
            let members = rest.get(12..12 + length)?;
            all.push(Type { name, kind, other, fields: info >> 31 != 0, members });
            rest = &rest[12 + length..];
        }
        Some(Self { all, strings })
    }

    /// The first bit of a field of a field of a structure.
    fn bit(&self, structure: &'static str, path: &[&'static str]) -> Result<u32, BtfError> {
        let is_it = |found: &&Type<'_>| found.kind == STRUCT && self.name(found.name) == structure.as_bytes();
        let mut place = self.all.iter().find(is_it).copied().map(|found| (0, found));
        for field in path {
            let inner = place.and_then(|(offset, within)| {
                let (further, found) = self.member(within, field, 0)?;
                Some((offset + further, found))
            });
            place = Some(inner.ok_or(BtfError::Field { structure, field })?);
        }
        place.map(|(bit, _)| bit).ok_or(BtfError::Field { structure, field: "" })
    }

    /// A member by its name, and its bit; members without a name are looked into.
    fn member(&self, within: Type<'a>, name: &str, depth: u32) -> Option<(u32, Type<'a>)> {
        // Deeper than any structure of the kernel's: a description that goes round in circles ends here.
        if depth > 16 || !matches!(within.kind, STRUCT | UNION) {
            return None;
        }
        within.members.chunks_exact(12).find_map(|member| {
            let (label, kind, offset) = (word(member, 0)?, word(member, 4)?, word(member, 8)?);
            let offset = if within.fields { offset & 0x00ff_ffff } else { offset };
            let found = self.bare(kind)?;
            match self.name(label) {
                b"" => self.member(found, name, depth + 1).map(|(further, found)| (offset + further, found)),
                label if label == name.as_bytes() => Some((offset, found)),
                _ => None,
            }
        })
    }

    /// A type without its veils.
    fn bare(&self, number: u32) -> Option<Type<'a>> {
        let mut found = *self.all.get(number as usize)?;
        for _ in 0..16 {
            if !VEILS.contains(&found.kind) {
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

    /// The flag of members with widths, as it stands beside a kind here.
    const FIELDS: u32 = 1 << 7;

    /// A type: name, kind, size or other, words after it.
    type Written<'a> = (&'a str, u32, u32, &'a [u32]);

    fn described(types: &[Written<'_>]) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, kind, other, rest) in types {
            let count = if matches!(*kind & 0x1f, STRUCT | UNION) { rest.len() / 3 } else { 0 };
            let words = [at(name), kind << 24 | count as u32, *other];
            words.iter().chain(*rest).for_each(|word| body.extend(word.to_ne_bytes()));
        }
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let header = [24, 0, body.len() as u32, body.len() as u32, STRINGS.len() as u32];
        header.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        [bytes, body, STRINGS.to_vec()].concat()
    }

    /// As the kernel has them: `dev` in a union without a name, `nd_net` a typedef.
    fn kernel() -> Vec<u8> {
        described(&[
            ("u32", 1, 4, &[32]),                                 // 1
            ("", 2, 0, &[]),                                      // 2: a pointer
            ("", STRUCT, 24, &[0, 2, 0, at("dev"), 2, 128]),      // 3
            ("", UNION, 24, &[0, 3, 0]),                          // 4
            ("sk_buff", STRUCT, 200, &[0, 4, 64, 0, 11, 800]),    // 5
            ("possible_net_t", 8, 7, &[]),                        // 6
            ("", STRUCT, 8, &[at("net"), 2, 0]),                  // 7
            ("net_device", STRUCT, 400, &[at("nd_net"), 6, 512]), // 8
            ("ns_common", STRUCT, 24, &[at("inum"), 1, 96]),      // 9
            ("net", STRUCT, 400, &[at("ns"), 9, 320]),            // 10
            // 11: bit fields, whose offsets share their words with widths.
            (
                "",
                STRUCT | FIELDS,
                40,
                &[
                    [at("ip_summed"), 1, 5 | 2 << 24],
                    [at("csum_start"), 1, 32],
                    [at("csum_offset"), 1, 48],
                    [at("network_header"), 1, 96],
                ]
                .concat(),
            ),
        ])
    }

    #[test]
    fn fields_are_found_through_what_has_no_name() {
        let offsets = of(&kernel()).expect("a description");
        let checksum = Offsets { skb_summed: (100, 5), skb_csum: 104, skb_network: 112, ..Offsets::default() };
        assert_eq!(offsets, Offsets { skb_dev: 24, dev_net: 64, net_inum: 52, ..checksum });
    }

    #[test]
    fn a_description_that_is_cut_anywhere_is_none() {
        let bytes = kernel();
        for end in 0..bytes.len() - STRINGS.len() {
            assert!(of(&bytes[..end]).is_err(), "{end}");
        }
        let strange = described(&[("", 25, 0, &[])]);
        assert!(matches!(of(&strange), Err(BtfError::Format)), "a kind nobody knows");
    }

    #[test]
    fn a_field_that_is_not_there_is_named() {
        let bytes = described(&[("sk_buff", STRUCT, 8, &[])]);
        assert!(matches!(of(&bytes), Err(BtfError::Field { structure: "sk_buff", field: "dev" })));
        let circle = described(&[("sk_buff", STRUCT, 8, &[0, 1, 0])]);
        assert!(of(&circle).is_err());
    }

    #[test]
    fn the_running_kernel_is_understood_where_it_describes_itself() {
        let Ok(bytes) = std::fs::read(VMLINUX) else { return };
        let offsets = of(&bytes).expect("a kernel's own description");
        assert!(offsets.skb_dev >= 16 && offsets.net_inum > 0, "{offsets:?}");
    }
}
