//! Leaving a node: what there is to remove, and removing it. Needs no program, only the notes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::attach::{self, Notes};
use super::{DataplaneError, Port, cgroup_guard};

/// What a node holds of Bulkhead.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Interfaces with programs, or with notes of such.
    pub ports: Vec<Port>,
    /// Pins of the guard on the pods' control groups.
    pub groups: Vec<PathBuf>,
    /// Pinned maps and links, and the directories that held them, deepest first.
    pub pins: Vec<PathBuf>,
    notes: Vec<Notes>,
}

/// What could not be left.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    /// A directory could not be read.
    #[error("cannot list {}", path.display())]
    List {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A pin could not be removed.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Programs could not be detached.
    #[error(transparent)]
    Detach(#[from] DataplaneError),
}

impl Found {
    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.pins.is_empty()
    }

    /// Counts, for people.
    pub fn summary(&self) -> String {
        let groups = if self.groups.is_empty() { "" } else { ", from the pods' control groups" };
        format!("programs from {} interfaces{groups} and {} pins", self.ports.len(), self.pins.len())
    }
}

/// Looks below the pin directory: one folder for each version of the layouts.
///
/// # Errors
/// A directory cannot be listed.
pub fn find(root: &Path) -> Result<Found, LeaveError> {
    let mut found = Found::default();
    if !root.exists() {
        return Ok(found);
    }
    for version in entries(root)? {
        for notes in [Notes::below(&version), Notes::guards(&version)] {
            let indices = notes.noted().map_err(|source| LeaveError::List { path: version.clone(), source })?;
            let port = |ifindex| Port { ifindex, name: attach::name_of(ifindex).unwrap_or_default() };
            found.ports.extend(indices.into_iter().map(port));
            found.notes.push(notes);
        }
        let pin = cgroup_guard::folder(&version).join(cgroup_guard::PROGRAM);
        found.groups.extend(pin.exists().then_some(pin));
    }
    walk(root, &mut found.pins)?;
    found.pins.push(root.to_owned());
    Ok(found)
}

/// Removes it: programs first, so that no packet meets a program without its maps.
///
/// # Errors
/// The first thing that could not be removed.
pub fn remove(root: &Path, found: &Found) -> Result<(), LeaveError> {
    for notes in &found.notes {
        found.ports.iter().try_for_each(|port| attach::detach(notes, port))?;
    }
    for pin in &found.groups {
        attach::unlink(pin).map_err(|source| LeaveError::Remove { path: pin.clone(), source })?;
    }
    let mut left = Vec::new();
    walk(root, &mut left)?;
    left.push(root.to_owned());
    for path in left {
        let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|source| LeaveError::Remove { path, source })?,
        }
    }
    Ok(())
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), LeaveError> {
    for path in entries(directory)? {
        if path.is_dir() {
            walk(&path, found)?;
        }
        found.push(path);
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, LeaveError> {
    let failed = |source| LeaveError::List { path: directory.to_owned(), source };
    let listed: io::Result<Vec<PathBuf>> =
        fs::read_dir(directory).map_err(failed)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut listed = listed.map_err(failed)?;
    listed.sort();
    Ok(listed)
}
