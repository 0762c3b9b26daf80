//! What a watch tells: a whole set, one object, or its end.
//!
//! Knows no kind of object. An object that could not be read is in no set, and its last good version
//! stays: so a set names those that must be kept.

use policy::model::input::EndpointKey;

/// News about objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told<T> {
    /// All there are. What is neither here nor kept is gone.
    All {
        /// Those that could be read.
        objects: Vec<T>,
        /// Those that exist and could not: whatever was known of them stays.
        kept: Vec<EndpointKey>,
    },
    /// One is new or different.
    One(T),
    /// One is gone, or is none of ours any more.
    Gone {
        /// Its name.
        key: EndpointKey,
        /// Its UID: a late word about a predecessor changes nothing.
        uid: String,
    },
}

/// One object as a stream hands it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// Its name.
    pub key: EndpointKey,
    /// Its UID.
    pub uid: String,
    /// What it means here; `None` if nothing.
    pub object: Result<Option<T>, String>,
}

/// Gathers a set while it arrives.
#[derive(Clone, Debug)]
pub struct Gather<T> {
    fresh: Option<(Vec<T>, Vec<EndpointKey>)>,
}

impl<T> Default for Gather<T> {
    fn default() -> Self {
        Self { fresh: None }
    }
}

impl<T> Gather<T> {
    /// A set begins. One that had begun and did not end is forgotten.
    pub fn begin(&mut self) {
        self.fresh = Some((Vec::new(), Vec::new()));
    }

    /// One object of it.
    pub fn add(&mut self, read: Read<T>) {
        let Some((objects, kept)) = &mut self.fresh else { return };
        match read.object {
            Ok(object) => objects.extend(object),
            Err(_) => kept.push(read.key),
        }
    }

    /// It is complete.
    pub fn end(&mut self) -> Option<Told<T>> {
        self.fresh.take().map(|(objects, kept)| Told::All { objects, kept })
    }
}

impl<T> Told<T> {
    /// An object outside a set; nothing if it could not be read.
    pub fn one(read: Read<T>) -> Option<Self> {
        match read.object {
            Ok(Some(object)) => Some(Self::One(object)),
            Ok(None) => Some(Self::Gone { key: read.key, uid: read.uid }),
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, object: Result<Option<u8>, String>) -> Read<u8> {
        Read { key: EndpointKey { namespace: String::new(), name: name.into() }, uid: "u".into(), object }
    }

    #[test]
    fn a_set_names_what_could_not_be_read() {
        let mut gather = Gather::default();
        gather.begin();
        gather.add(read("lost", Ok(Some(9))));
        gather.begin();
        gather.add(read("good", Ok(Some(1))));
        gather.add(read("bad", Err("why".into())));
        gather.add(read("done", Ok(None)));
        let bad = EndpointKey { namespace: String::new(), name: "bad".into() };
        assert_eq!(gather.end(), Some(Told::All { objects: vec![1], kept: vec![bad] }));
        assert_eq!(gather.end(), None);
    }

    #[test]
    fn an_object_that_cannot_be_read_changes_nothing() {
        assert_eq!(Told::one(read("bad", Err("why".into()))), None);
        assert!(matches!(Told::one(read("done", Ok(None))), Some(Told::Gone { .. })));
    }
}
