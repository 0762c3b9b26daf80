//! Attributes of netlink messages: how they are written, found, and compared.
//!
//! Knows no kind of attribute. Kinds and lengths are in host byte order; numbers inside are big-endian.

/// Marks an attribute that contains attributes; the kernel may leave it out in answers.
const NESTED: u16 = 0x8000;
/// `NFTA_LIST_ELEM`, an element of each list.
const LIST_ELEMENT: u16 = 1;

/// Attributes in the order in which they were added, each padded to four bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes as they are; at most 65,531 fit into one attribute.
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("callers split what exceeds one attribute");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a name, with the final zero that the kernel requires.
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds a number, big-endian.
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds attributes inside an attribute.
    pub fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// Adds a list of attributes inside an attribute.
    pub fn list<'a>(self, kind: u16, items: impl IntoIterator<Item = &'a Self>) -> Self {
        let list = items.into_iter().fold(Self::new(), |list, item| list.nest(LIST_ELEMENT, item));
        self.nest(kind, &list)
    }

    /// Their encoding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The attributes of an answer: kind without flags, and value. Ends at the first malformed one.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    raw_attributes(bytes).map(|(kind, value)| (kind & 0x3fff, value))
}

fn raw_attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// Whether `answer` has every attribute of `wanted` with the same value. The kernel adds some of its own, and newer
/// kernels add more, so those are ignored.
pub fn covers(answer: &[u8], wanted: &Attributes) -> bool {
    raw_attributes(&wanted.0).all(|(kind, value)| {
        find(answer, kind & !NESTED).is_some_and(|found| match kind & NESTED {
            0 => found == value,
            _ => covers(found, &Attributes(value.to_vec())),
        })
    })
}

/// Whether a list in an answer has exactly these items in this order.
pub fn list_covers(answer: &[u8], wanted: &[Attributes]) -> bool {
    let found: Vec<&[u8]> = attributes(answer).map(|(_, value)| value).collect();
    found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| covers(found, wanted))
}

#[cfg(test)]
mod tests {
    use super::super::{Load, NftVerdict, load, verdict};
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let bytes = Attributes::new().text(1, "node").number(2, 7);
        assert_eq!(bytes.as_bytes(), [9, 0, 1, 0, b'n', b'o', b'd', b'e', 0, 0, 0, 0, 8, 0, 2, 0, 0, 0, 0, 7]);
        assert_eq!(find(bytes.as_bytes(), 2), Some(&[0, 0, 0, 7][..]));
        assert_eq!(find(bytes.as_bytes(), 3), None);
    }

    #[test]
    fn a_malformed_attribute_ends_the_list() {
        let good = Attributes::new().number(1, 1);
        for bad in [[3, 0, 2, 0], [0, 0, 2, 0], [200, 0, 2, 0]] {
            let bytes = [good.as_bytes(), &bad].concat();
            assert_eq!(attributes(&bytes).count(), 1, "{bad:?}");
        }
        assert_eq!(attributes(&[1, 2, 3]).count(), 0);
    }

    #[test]
    fn an_answer_covers_what_was_written_even_with_more_attributes() {
        let written = load(Load::Protocol, 0);
        let data = Attributes::new().number(1, 1).number(2, 16).number(9, 9);
        let answer = Attributes::new().bytes(2, data.as_bytes()).text(1, "meta");
        assert!(covers(answer.as_bytes(), &written));
        assert!(!covers(answer.as_bytes(), &load(Load::Family, 0)));
        assert!(!covers(&[], &written));
    }

    #[test]
    fn a_list_has_the_same_items_in_the_same_order() {
        let (drop, accept) = (verdict(NftVerdict::Drop), verdict(NftVerdict::Accept));
        let list = Attributes::new().list(4, [&drop, &accept]);
        let answer = find(list.as_bytes(), 4).unwrap();
        assert!(list_covers(answer, &[drop.clone(), accept.clone()]));
        assert!(!list_covers(answer, &[accept.clone(), drop.clone()]));
        assert!(!list_covers(answer, std::slice::from_ref(&drop)));
        assert!(!list_covers(answer, &[drop, accept.clone(), accept]));
    }
}
