//! Removal of everything that Bulkhead left on a node.
//!
//! Needs no program and no map, only the pins. Programs go before their maps, so no packet meets a program
//! without its maps.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::attach;
use super::hooks::Pins;
use super::input_guard::{InputGuard, TABLE};
use super::nft::NftError;
use super::{DataplaneError, Port, cgroup_guard, tcx};

/// What Bulkhead left on a node.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    /// Interfaces with programs, or with pins of programs.
    pub ports: Vec<Port>,
    /// Pins of the cgroup guard.
    pub groups: Vec<PathBuf>,
    /// Pinned maps and links, and their directories, deepest first.
    pub pins: Vec<PathBuf>,
    /// Whether the table of the input guard exists.
    pub has_input_guard: bool,
    attachments: Vec<Pins>,
}

/// Why something is still there.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// A directory could not be read.
    #[error("cannot list {}", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A pin could not be removed.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// The pin.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The table of the input guard could not be read or removed.
    #[error("cannot remove the table of the input guard; run `nft delete table inet {TABLE}`")]
    InputGuard(#[source] NftError),
    /// Programs could not be detached.
    #[error(transparent)]
    Detach(#[from] DataplaneError),
}

impl Remains {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.pins.is_empty() && !self.has_input_guard
    }

    /// Counts for a message.
    pub fn summary(&self) -> String {
        let groups = if self.groups.is_empty() { "" } else { ", from the pods' control groups" };
        let input = if self.has_input_guard { ", the input guard" } else { "" };
        format!("programs from {} interfaces{groups}{input} and {} pins", self.ports.len(), self.pins.len())
    }
}

/// Looks below the pin directory, which has one directory for each version of the layouts.
///
/// # Errors
/// A directory cannot be listed.
pub fn find(root: &Path) -> Result<Remains, CleanupError> {
    let has_input_guard = InputGuard::new().exists().map_err(CleanupError::InputGuard)?;
    let mut found = Remains { has_input_guard, ..Remains::default() };
    if !root.exists() {
        return Ok(found);
    }
    for version in entries(root)? {
        for pins in [Pins::of_pods(&version), Pins::of_guards(&version)] {
            let indices = pins.interfaces().map_err(|source| CleanupError::List { path: version.clone(), source })?;
            let port = |ifindex| Port { ifindex, name: attach::name_of(ifindex).unwrap_or_default() };
            found.ports.extend(indices.into_iter().map(port));
            found.attachments.push(pins);
        }
        let pin = cgroup_guard::directory(&version).join(cgroup_guard::PROGRAM);
        found.groups.extend(pin.exists().then_some(pin));
    }
    walk(root, &mut found.pins)?;
    found.pins.push(root.to_owned());
    Ok(found)
}

/// Removes what [`find`] found.
///
/// # Errors
/// The first object that could not be removed.
pub fn remove(root: &Path, found: &Remains) -> Result<(), CleanupError> {
    for pins in &found.attachments {
        found.ports.iter().try_for_each(|port| attach::detach(pins, port))?;
    }
    for pin in &found.groups {
        tcx::unlink(pin).map_err(|source| CleanupError::Remove { path: pin.clone(), source })?;
    }
    InputGuard::new().remove().map_err(CleanupError::InputGuard)?;
    let mut left = Vec::new();
    if root.exists() {
        walk(root, &mut left)?;
    }
    left.push(root.to_owned());
    for path in left {
        let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|source| CleanupError::Remove { path, source })?,
        }
    }
    Ok(())
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), CleanupError> {
    for path in entries(directory)? {
        if path.is_dir() {
            walk(&path, found)?;
        }
        found.push(path);
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, CleanupError> {
    let failed = |source| CleanupError::List { path: directory.to_owned(), source };
    let listed: io::Result<Vec<PathBuf>> =
        fs::read_dir(directory).map_err(failed)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut listed = listed.map_err(failed)?;
    listed.sort();
    Ok(listed)
}
