//! The guard on the control groups of pods: its program on the group that holds them all, and the tables it
//! asks. Tries the program before it is put in place: it must let this very process speak, which is on the
//! node's own network, and must not while it does not know which that is.
//!
//! Knows groups by their ids and the one group by its path; whose they are, others know.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agent_common::guard::CgroupConfig;
use agent_common::maps;
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya::programs::{CgroupSkb, ProgramError};

use super::attach::unlink;
use super::maps::{boxed, put, sentence};
use super::{DataplaneError, Source, sys};
use policy::model::cgroup_guard::CgroupGuardState;

/// Name of the program, of its pin and of the folder that holds it.
pub const PROGRAM: &str = "cgroup";

/// The program's answers.
const SPEAKS: u32 = 1;
const REFUSED: u32 = 2;

/// An Ethernet header and something behind it: what a trial needs.
const FRAME: [u8; 64] = [0; 64];

/// Where the program's pin is, below a pin directory.
pub fn folder(pins: &Path) -> PathBuf {
    pins.join(PROGRAM)
}

/// Loads the program.
///
/// # Errors
/// Those of the verifier.
pub fn load(ebpf: &mut Ebpf) -> Result<(), ProgramError> {
    program(ebpf).map_err(|error| ProgramError::IOError(io::Error::other(error)))?.load()
}

/// Tables and pin of the guard, and what they were last brought to.
pub struct CgroupGuard {
    claims: HashMap<MapData, u64, u32>,
    groups: Array<MapData, CgroupConfig>,
    pin: PathBuf,
    held: Option<Held>,
}

#[derive(Default)]
struct Held {
    claimed: BTreeSet<u64>,
    /// Where it stands: `None` for nowhere, an empty path where an earlier agent put it.
    parent: Option<String>,
}

impl CgroupGuard {
    /// Takes the tables by name from `take`.
    ///
    /// # Errors
    /// Those of `take`, and a map of another type under the name.
    pub fn new(mut take: impl FnMut(&'static str) -> Result<Map, MapError>, pins: &Path) -> Result<Self, MapError> {
        let (claims, groups) = (take(maps::POD_CGROUPS.name)?.try_into()?, take(maps::CGROUP_CONFIG.name)?.try_into()?);
        Ok(Self { claims, groups, pin: folder(pins).join(PROGRAM), held: None })
    }

    /// Brings the kernel to `wanted`; with `look`, what is there is read again first. Returns what could
    /// not be done, which the next call tries again.
    pub fn bring(&mut self, ebpf: &mut Ebpf, wanted: Option<&CgroupGuardState>, look: bool) -> Vec<DataplaneError> {
        if look {
            self.held = None;
        }
        let held = match self.held.take().map_or_else(|| self.read(), Ok) {
            Ok(held) => self.held.insert(held),
            Err(error) => return vec![error],
        };
        let mut failed = Vec::new();
        let none = BTreeSet::new();
        let claimed = wanted.map_or(&none, |guard| &guard.claimed);
        // A group is in one state or the other: the order does not matter.
        let differ: Vec<u64> = held.claimed.symmetric_difference(claimed).copied().collect();
        for group in differ {
            let is_new = claimed.contains(&group);
            match put(&mut self.claims, group, is_new.then_some(1)) {
                Ok(()) if is_new => _ = held.claimed.insert(group),
                Ok(()) => _ = held.claimed.remove(&group),
                Err(error) => failed.push(table(maps::POD_CGROUPS.name, error)),
            }
        }
        let parent = match wanted {
            Some(CgroupGuardState { parent: None, .. }) => return failed,
            Some(CgroupGuardState { parent, .. }) => parent.as_ref(),
            None => None,
        };
        if look || held.parent.as_ref() != parent {
            let done = match parent {
                Some(parent) => shut(ebpf, &mut self.groups, &self.pin, parent),
                None => unlink(&self.pin).map_err(boxed),
            };
            match done {
                Ok(()) => held.parent = parent.cloned(),
                Err(source) => {
                    let path = parent.cloned().unwrap_or_default();
                    failed.push(DataplaneError::CgroupGuardState { path, source });
                }
            }
        }
        failed
    }

    fn read(&self) -> Result<Held, DataplaneError> {
        let claimed =
            self.claims.keys().collect::<Result<_, _>>().map_err(|error| table(maps::POD_CGROUPS.name, error))?;
        // Where an earlier agent put it, the pin tells; ours is looked at again.
        let parent = self.pin.exists().then(String::new);
        Ok(Held { claimed, parent })
    }
}

/// Puts the program on the group that holds all pods', or makes the one that is there run ours.
fn shut(ebpf: &mut Ebpf, groups: &mut Array<MapData, CgroupConfig>, pin: &Path, parent: &str) -> Result<(), Source> {
    let parent = File::open(parent)?;
    let id = parent.metadata()?.ino();
    let netns = fs::metadata("/proc/thread-self/ns/net")?.ino();
    let known = CgroupConfig { parent: id, netns: u32::try_from(netns)?, _pad: 0 };
    let program = program(ebpf)?;
    let number = program.info()?.id();
    let program = program.fd()?.as_fd();
    let there = match sys::obj_get(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        link => Some(link?),
    };
    if let Some(link) = &there {
        let info = sys::link_info(link.as_fd())?;
        let stays = info.cgroup == id && groups.get(&0, 0)? == known;
        if stays && info.program == number {
            return Ok(());
        }
        if stays {
            // A newer program. What the one in place asks must not change under it, so this is half a trial.
            judge_trial(REFUSED, sys::test_run(program, &FRAME)?)?;
            return Ok(sys::link_update(link.as_fd(), program)?);
        }
        // Another group, or another network: as if there had been none.
        unlink(pin)?;
    }
    try_out(program, groups, known)?;
    let link = sys::cgroup_attach(program, parent.as_fd())?;
    Ok(sys::obj_pin(pin, link.as_fd())?)
}

/// Whether the program can tell the node's network from another: nothing but trust in it would stand
/// between a mistake and every pod on the node's network, the agent and the API server among them.
fn try_out(
    program: BorrowedFd<'_>,
    groups: &mut Array<MapData, CgroupConfig>,
    known: CgroupConfig,
) -> Result<(), Source> {
    groups.set(0, CgroupConfig::default(), 0)?;
    let stranger = sys::test_run(program, &FRAME)?;
    groups.set(0, known, 0)?;
    judge_trial(stranger, sys::test_run(program, &FRAME)?)
}

fn judge_trial(stranger: u32, own: u32) -> Result<(), Source> {
    if (stranger, own) != (REFUSED, SPEAKS) {
        let words = format!(
            "this kernel's program cannot tell the node's own network from a pod's (it says {own} and {stranger}): \
             there is no guard on the pods' control groups; please report the kernel's version"
        );
        return Err(sentence(words));
    }
    Ok(())
}

fn program(ebpf: &mut Ebpf) -> Result<&mut CgroupSkb, Source> {
    let program = ebpf.program_mut(PROGRAM).ok_or_else(|| sentence(format!("the object has no program {PROGRAM}")))?;
    Ok(program.try_into()?)
}

fn table(name: &'static str, error: MapError) -> DataplaneError {
    DataplaneError::Guard { table: name, source: boxed(error) }
}
