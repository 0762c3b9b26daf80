//! What a watch reports: a whole set, one object, or a deletion.
//!
//! Knows no kind of object. The last good version of an unreadable object stays in force, so a snapshot names the
//! objects that exist and could not be read.

use policy::model::input::EndpointKey;

/// One update of the objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Update<T> {
    /// All objects of the kind. An object that is in neither list is gone.
    Snapshot {
        /// The objects that could be read.
        objects: Vec<T>,
        /// The objects that exist and could not be read: their last good versions stay.
        unreadable: Vec<EndpointKey>,
    },
    /// An object is new or has changed.
    Upsert(T),
    /// An object has changed and cannot be read: its last good version stays.
    Unreadable(EndpointKey),
    /// An object is gone, or does not concern this node any more.
    Delete {
        /// Its name.
        key: EndpointKey,
        /// Its UID, so that a late deletion of a predecessor is recognised.
        uid: String,
    },
}

/// One object as a stream delivers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadObject<T> {
    /// Its name.
    pub key: EndpointKey,
    /// Its UID.
    pub uid: String,
    /// The decoded object; `None` if it does not concern the reader.
    pub object: Result<Option<T>, String>,
}

/// Collects the objects of a snapshot while they arrive.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotBuilder<T> {
    begun: Option<(Vec<T>, Vec<EndpointKey>)>,
}

impl<T> Default for SnapshotBuilder<T> {
    fn default() -> Self {
        Self { begun: None }
    }
}

impl<T> SnapshotBuilder<T> {
    /// Begins a snapshot and discards an unfinished one.
    pub(crate) fn begin(&mut self) {
        self.begun = Some((Vec::new(), Vec::new()));
    }

    /// Adds one object.
    pub(crate) fn add(&mut self, read: ReadObject<T>) {
        let Some((objects, unreadable)) = &mut self.begun else { return };
        match read.object {
            Ok(object) => objects.extend(object),
            Err(_) => unreadable.push(read.key),
        }
    }

    /// Completes the snapshot.
    pub(crate) fn finish(&mut self) -> Option<Update<T>> {
        self.begun.take().map(|(objects, unreadable)| Update::Snapshot { objects, unreadable })
    }
}

impl<T> From<ReadObject<T>> for Update<T> {
    /// The update for an object outside a snapshot.
    fn from(read: ReadObject<T>) -> Self {
        match read.object {
            Ok(Some(object)) => Self::Upsert(object),
            Ok(None) => Self::Delete { key: read.key, uid: read.uid },
            Err(_) => Self::Unreadable(read.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, object: Result<Option<u8>, String>) -> ReadObject<u8> {
        ReadObject { key: key(name), uid: "u".into(), object }
    }

    fn key(name: &str) -> EndpointKey {
        EndpointKey { namespace: String::new(), name: name.into() }
    }

    #[test]
    fn a_snapshot_names_the_objects_that_could_not_be_read() {
        let mut snapshot = SnapshotBuilder::default();
        snapshot.begin();
        snapshot.add(read("lost", Ok(Some(9))));
        snapshot.begin();
        snapshot.add(read("good", Ok(Some(1))));
        snapshot.add(read("bad", Err("why".into())));
        snapshot.add(read("done", Ok(None)));
        assert_eq!(snapshot.finish(), Some(Update::Snapshot { objects: vec![1], unreadable: vec![key("bad")] }));
        assert_eq!(snapshot.finish(), None);
    }

    #[test]
    fn an_object_that_cannot_be_read_is_reported_by_name_only() {
        assert_eq!(Update::from(read("bad", Err("why".into()))), Update::Unreadable(key("bad")));
        assert!(matches!(Update::from(read("done", Ok(None))), Update::Delete { .. }));
    }
}
