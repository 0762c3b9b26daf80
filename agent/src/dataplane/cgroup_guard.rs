//! The cgroup guard: its program on the control group above those of all pods, and the tables it reads.
//!
//! A self test runs the program before it is attached. The program must allow this process, which is on the node's
//! own network, and must refuse it while it does not know that network. Knows control groups by id and the parent
//! by path; does not know the pods.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agent_common::guard::cgroup::CgroupConfig;
use agent_common::maps;
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya::programs::{CgroupSkb, ProgramError};

use super::error::BoxedCause;
use super::maps::{boxed, message, put};
use super::tcx::unlink;
use super::{DataplaneError, Recheck, sys};
use policy::model::cgroup_guard::CgroupGuardState;

/// Name of the program, of its pin and of the directory of the pin.
pub const PROGRAM: &str = "cgroup";

/// The program's return value for an allowed packet.
const ALLOWED: u32 = 1;
/// The program's return value for a refused packet.
const REFUSED: u32 = 2;

/// The input of a test run: an Ethernet header and some bytes behind it.
const FRAME: [u8; 64] = [0; 64];

/// The directory of the program's pin, below a pin directory.
pub fn directory(pins: &Path) -> PathBuf {
    pins.join(PROGRAM)
}

/// Loads the program.
///
/// # Errors
/// The verifier refused it.
pub fn load(ebpf: &mut Ebpf) -> Result<(), ProgramError> {
    program(ebpf).map_err(|error| ProgramError::IOError(io::Error::other(error)))?.load()
}

/// Tables and pin of the guard, and their last known contents.
pub struct CgroupGuard {
    claims: HashMap<MapData, u64, u32>,
    groups: Array<MapData, CgroupConfig>,
    pin: PathBuf,
    kernel: Option<CgroupGuardInKernel>,
}

/// What the kernel holds, as last read or written.
#[derive(Default)]
struct CgroupGuardInKernel {
    claimed: BTreeSet<u64>,
    /// Where the program is attached: `None` for nowhere, an empty path if an earlier agent attached it.
    parent: Option<String>,
}

impl CgroupGuard {
    /// Takes the tables by name from `take`.
    ///
    /// # Errors
    /// Those of `take`, and a map of another type under the name.
    pub fn new(mut take: impl FnMut(&'static str) -> Result<Map, MapError>, pins: &Path) -> Result<Self, MapError> {
        let (claims, groups) = (take(maps::POD_CGROUPS.name)?.try_into()?, take(maps::CGROUP_CONFIG.name)?.try_into()?);
        Ok(Self { claims, groups, pin: directory(pins).join(PROGRAM), kernel: None })
    }

    /// Makes the kernel equal to `wanted`. Returns each part that failed; the next call tries it again.
    pub fn sync(
        &mut self,
        ebpf: &mut Ebpf,
        wanted: Option<&CgroupGuardState>,
        recheck: Recheck,
    ) -> Vec<DataplaneError> {
        if recheck == Recheck::Kernel {
            self.kernel = None;
        }
        let kernel = match self.kernel.take().map_or_else(|| self.read(), Ok) {
            Ok(kernel) => self.kernel.insert(kernel),
            Err(error) => return vec![error],
        };
        let mut failed = Vec::new();
        let none = BTreeSet::new();
        let claimed = wanted.map_or(&none, |guard| &guard.claimed);
        // The entries are independent, so their order does not matter.
        let differ: Vec<u64> = kernel.claimed.symmetric_difference(claimed).copied().collect();
        for group in differ {
            let is_new = claimed.contains(&group);
            match put(&mut self.claims, group, is_new.then_some(1)) {
                Ok(()) if is_new => _ = kernel.claimed.insert(group),
                Ok(()) => _ = kernel.claimed.remove(&group),
                Err(error) => failed.push(table(maps::POD_CGROUPS.name, error)),
            }
        }
        let parent = match wanted {
            Some(CgroupGuardState { parent: None, .. }) => return failed,
            Some(CgroupGuardState { parent, .. }) => parent.as_ref(),
            None => None,
        };
        if recheck == Recheck::Kernel || kernel.parent.as_ref() != parent {
            let done = match parent {
                Some(parent) => attach(ebpf, &mut self.groups, &self.pin, parent),
                None => unlink(&self.pin).map_err(boxed),
            };
            match done {
                Ok(()) => kernel.parent = parent.cloned(),
                Err(source) => {
                    let path = parent.cloned().unwrap_or_default();
                    failed.push(DataplaneError::CgroupGuardState { path, source });
                }
            }
        }
        failed
    }

    fn read(&self) -> Result<CgroupGuardInKernel, DataplaneError> {
        let claimed =
            self.claims.keys().collect::<Result<_, _>>().map_err(|error| table(maps::POD_CGROUPS.name, error))?;
        // A pin shows that some agent attached the program; `attach` then checks where.
        let parent = self.pin.exists().then(String::new);
        Ok(CgroupGuardInKernel { claimed, parent })
    }
}

/// Attaches the program to the control group above those of all pods, or replaces that of an earlier agent.
fn attach(
    ebpf: &mut Ebpf,
    groups: &mut Array<MapData, CgroupConfig>,
    pin: &Path,
    parent: &str,
) -> Result<(), BoxedCause> {
    let parent = File::open(parent)?;
    let id = parent.metadata()?.ino();
    let netns = fs::metadata("/proc/thread-self/ns/net")?.ino();
    let known = CgroupConfig { parent: id, netns: u32::try_from(netns)?, _pad: 0 };
    let program = program(ebpf)?;
    let program_id = program.info()?.id();
    let program = program.fd()?.as_fd();
    let there = match sys::obj_get(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        link => Some(link?),
    };
    if let Some(link) = &there {
        let info = sys::link_info(link.as_fd())?;
        let stays = info.cgroup == id && groups.get(&0, 0)? == known;
        if stays && info.program == program_id {
            return Ok(());
        }
        if stays {
            // The attached program reads the same table, so the test that clears it is left out.
            check_self_test(REFUSED, sys::test_run(program, &FRAME)?)?;
            return Ok(sys::link_update(link.as_fd(), program)?);
        }
        // The parent or the network is another one, so the program is attached anew.
        unlink(pin)?;
    }
    self_test(program, groups, known)?;
    let link = sys::cgroup_attach(program, parent.as_fd())?;
    Ok(sys::obj_pin(pin, link.as_fd())?)
}

/// Tests that the program distinguishes the node's network from another. A program that does not would cut off
/// every pod on the node's network, the API server among them.
fn self_test(
    program: BorrowedFd<'_>,
    groups: &mut Array<MapData, CgroupConfig>,
    known: CgroupConfig,
) -> Result<(), BoxedCause> {
    groups.set(0, CgroupConfig::default(), 0)?;
    let unknown = sys::test_run(program, &FRAME)?;
    groups.set(0, known, 0)?;
    check_self_test(unknown, sys::test_run(program, &FRAME)?)
}

/// Checks what the program returned for an unknown network and for the node's own.
fn check_self_test(unknown: u32, own: u32) -> Result<(), BoxedCause> {
    if (unknown, own) != (REFUSED, ALLOWED) {
        let text = format!(
            "the cgroup guard failed its self test: it returned {own} for the node's network and {unknown} for an \
             unknown one; please report the kernel's version"
        );
        return Err(message(text));
    }
    Ok(())
}

fn program(ebpf: &mut Ebpf) -> Result<&mut CgroupSkb, BoxedCause> {
    let program =
        ebpf.program_mut(PROGRAM).ok_or_else(|| message(format!("the eBPF object has no program {PROGRAM}")))?;
    Ok(program.try_into()?)
}

fn table(name: &'static str, error: MapError) -> DataplaneError {
    DataplaneError::Guard { table: name, source: boxed(error) }
}
