//! Decides which objects are in force: those of valid documents, and the last good versions of invalid or missing ones.
//!
//! Pure: takes the result of a look and returns the changes to send. Two rules prevent that a half-written file revokes
//! anything. A file that cannot be read changes nothing. A file that is missing or empty loses its objects only at the
//! second look in a row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::load::{Document, Documents, Known, reload, unreadable};
use crate::api::document::{Key, Object};
use crate::api::finding::{Code, Finding};
use policy::model::input::Change;

/// The result of one look at the files.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// Each file, with its bytes or the reason why they could not be read.
    pub files: BTreeMap<PathBuf, Result<Vec<u8>, String>>,
    /// Why the files could not be listed.
    pub listing: Option<Finding>,
}

/// The state between two looks.
#[derive(Clone, Debug, Default)]
pub(super) struct Merge {
    held: BTreeMap<PathBuf, Held>,
    sent: Option<BTreeMap<Key, Object>>,
}

/// The outcome of a look.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The full resync to send; empty if nothing differs from the last one.
    pub changes: Vec<Change>,
    /// All findings of this look.
    pub findings: Vec<Finding>,
    /// How many objects are in force without a valid document.
    pub kept: usize,
    /// How many of each kind are in force.
    pub objects: [usize; 3],
    /// Whether a file was missing for the first time. If so, the next look must follow soon.
    pub look_again: bool,
}

/// The state of one file.
#[derive(Clone, Debug, Default)]
struct Held {
    objects: BTreeMap<Key, Object>,
    known: Known,
    missing: bool,
}

impl Merge {
    /// Merges a look into the state. A look that could read no file leaves every object in force.
    pub(super) fn take(&mut self, look: &Look) -> Outcome {
        let mut round = Round { before: self.in_force(), ..Round::default() };
        round.outcome.findings.extend(look.listing.clone());
        let lost = look.listing.is_some();
        let mut paths: BTreeSet<PathBuf> = self.held.keys().cloned().collect();
        paths.extend(look.files.keys().cloned());
        for path in paths {
            let held = self.held.remove(&path).unwrap_or_default();
            let held = match look.files.get(&path) {
                None if lost => Some(round.keep(held)),
                None => round.gone(held, &path),
                Some(Err(problem)) => {
                    round.outcome.findings.push(unreadable(&path, 0, problem));
                    Some(round.keep(held))
                }
                Some(Ok(bytes)) => Some(round.readable(held, &path, bytes)),
            };
            self.held.extend(held.map(|held| (path, held)));
        }
        let nothing_seen = look.files.values().all(Result::is_err) && self.held.values().all(|h| h.objects.is_empty());
        let outcome = round.outcome;
        self.finish(outcome, nothing_seen)
    }

    fn finish(&mut self, mut outcome: Outcome, nothing_seen: bool) -> Outcome {
        let now = self.in_force();
        for key in now.keys() {
            outcome.objects[key.kind as usize] += 1;
        }
        let first = self.sent.is_none();
        if self.sent.as_ref() != Some(&now) && !(first && nothing_seen) {
            outcome.changes = resync(&now);
            self.sent = Some(now);
        }
        outcome
    }

    fn in_force(&self) -> BTreeMap<Key, Object> {
        self.held.values().flat_map(|held| held.objects.clone()).collect()
    }
}

/// The merge of one look, file by file in the order of their paths.
#[derive(Default)]
struct Round {
    /// The objects of all files that were in force before.
    before: BTreeMap<Key, Object>,
    /// File and line of the first document with each key, for the finding about a second one.
    claimed: BTreeMap<Key, (PathBuf, usize)>,
    outcome: Outcome,
}

impl Round {
    /// Keeps the objects of a file, except those that an earlier file defines.
    fn keep(&mut self, mut held: Held) -> Held {
        held.objects.retain(|key, _| !self.claimed.contains_key(key));
        self.claimed.extend(held.objects.keys().map(|key| (key.clone(), (PathBuf::new(), 0))));
        self.outcome.kept += held.objects.len();
        held
    }

    /// Handles a file that is missing or empty.
    fn gone(&mut self, held: Held, path: &Path) -> Option<Held> {
        if held.missing || held.objects.is_empty() {
            return None;
        }
        self.outcome.look_again = true;
        self.outcome.findings.push(unreadable(
            path,
            0,
            "is missing or empty; its objects are removed at the next look unless the file is restored",
        ));
        Some(Held { missing: true, ..self.keep(held) })
    }

    fn readable(&mut self, held: Held, path: &Path, bytes: &[u8]) -> Held {
        match reload(path, bytes, &held.known) {
            Err(finding) => {
                self.outcome.findings.push(*finding);
                self.keep(held)
            }
            Ok((loaded, _)) if loaded.documents.is_empty() => self.gone(held, path).unwrap_or_default(),
            Ok((loaded, known)) => Held { known, ..self.documents(held, path, loaded) },
        }
    }

    fn documents(&mut self, held: Held, path: &Path, loaded: Documents) -> Held {
        self.outcome.findings.extend(loaded.findings);
        let nameless = loaded.documents.iter().any(|document| document.key.is_none());
        let mut objects = BTreeMap::new();
        for Document { line, key, object, .. } in loaded.documents {
            let Some(key) = key else { continue };
            if let Some(first) = self.claimed.get(&key) {
                self.outcome.findings.push(duplicate(path, line, &key, first));
                continue;
            }
            self.claimed.insert(key.clone(), (path.to_owned(), line));
            self.outcome.kept += usize::from(object.is_none() && self.before.contains_key(&key));
            objects.extend(object.or_else(|| self.before.get(&key).cloned()).map(|object| (key, object)));
        }
        // A document whose name cannot be read may define any object that is missing now, so all of them stay.
        if nameless {
            objects.extend(self.keep(held).objects);
        }
        Held { objects, ..Held::default() }
    }
}

fn duplicate(path: &Path, line: usize, key: &Key, (first, first_line): &(PathBuf, usize)) -> Finding {
    let location = if *first_line == 0 { "elsewhere".to_owned() } else { format!("{}:{first_line}", first.display()) };
    Finding {
        file: path.to_owned(),
        line,
        object: Some(key.to_string()),
        field: String::new(),
        code: Code::Duplicate,
        problem: format!("is already defined at {location}, and only that definition counts"),
        remedy: "remove one of the two".to_owned(),
    }
}

/// All objects as full sets. Tenants come first, because they carry the revocations.
fn resync(objects: &BTreeMap<Key, Object>) -> Vec<Change> {
    let (mut tenants, mut namespaces, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
    for object in objects.values().cloned() {
        match object {
            Object::Tenant(tenant) => tenants.push(tenant),
            Object::Namespace(namespace) => namespaces.push(namespace),
            Object::Endpoint(endpoint) => endpoints.push(endpoint),
        }
    }
    vec![Change::Tenants(tenants), Change::Namespaces(namespaces), Change::Endpoints(endpoints)]
}

#[cfg(test)]
mod tests;
