//! The hooks on interfaces, and the directories that record what is attached to them.
//!
//! Only this file knows that a veth swaps directions: a pod's packets enter the node by the *ingress* hook of its
//! host-side interface. TCX links are pinned below `links/`. A clsact filter lives on the interface itself, and an
//! empty directory below `clsact/` records its index. The guards on the node's own interfaces have directories of
//! their own, `guards/` and `guards-clsact/`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::TcAttachType;

use super::sys;

/// A program and its hook.
#[derive(Debug)]
pub(super) struct Hook {
    /// Name of the program.
    pub program: &'static str,
    /// The hook of the clsact qdisc.
    pub at: TcAttachType,
    /// The number of the TCX hook.
    pub tcx: u32,
    /// Whether the program leaves alone what the node sends itself.
    pub spares_node: bool,
}

const fn ingress(program: &'static str, spares_node: bool) -> Hook {
    Hook { program, at: TcAttachType::Ingress, tcx: sys::TCX_INGRESS, spares_node }
}

const fn egress(program: &'static str, spares_node: bool) -> Hook {
    Hook { program, at: TcAttachType::Egress, tcx: sys::TCX_EGRESS, spares_node }
}

/// The hooks of a pod's interface. Packets from the pod come first, because a tenant could leave through them.
pub(super) static PODS: [Hook; 2] = [ingress("from_pod", false), egress("to_pod", false)];

/// The hooks of the node's own interfaces, of which each interface has one at most.
pub(super) static GUARDS: [Hook; 2] = [egress("uplink", true), ingress("bridge", true)];

/// The directories that record attachments, and the hooks they record.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    links: PathBuf,
    clsact: PathBuf,
    /// The hooks.
    pub hooks: &'static [Hook],
}

impl Pins {
    /// Those of pods' interfaces, below a pin directory.
    pub(super) fn of_pods(directory: &Path) -> Self {
        Self { links: directory.join("links"), clsact: directory.join("clsact"), hooks: &PODS }
    }

    /// Those of the guards, below a pin directory.
    pub(super) fn of_guards(directory: &Path) -> Self {
        Self { links: directory.join("guards"), clsact: directory.join("guards-clsact"), hooks: &GUARDS }
    }

    /// The directories.
    pub(super) fn directories(&self) -> [&Path; 2] {
        [&self.links, &self.clsact]
    }

    /// The pin of a program's TCX link.
    pub(super) fn link(&self, ifindex: u32, program: &str) -> PathBuf {
        self.links.join(format!("{ifindex}-{program}"))
    }

    /// The pin of a link that is on its way to the front of its hook and replaces the pinned one then.
    pub(super) fn next_link(&self, ifindex: u32, program: &str) -> PathBuf {
        self.links.join(format!("{ifindex}-{program}-next"))
    }

    /// The directory that records an interface's clsact filters.
    pub(super) fn filter(&self, ifindex: u32) -> PathBuf {
        self.clsact.join(ifindex.to_string())
    }

    /// Indices of the recorded interfaces, attached by either method.
    ///
    /// # Errors
    /// A directory that cannot be listed.
    pub(super) fn interfaces(&self) -> io::Result<Vec<u32>> {
        let mut found: Vec<u32> = list(&self.links)?
            .iter()
            .filter_map(|name| name.split_once('-'))
            .filter_map(|(ifindex, _)| ifindex.parse().ok())
            .chain(list(&self.clsact)?.iter().filter_map(|name| name.parse().ok()))
            .collect();
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

fn list(directory: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
    }
}
