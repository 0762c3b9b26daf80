//! The dataplane that is a kernel: open, adopt, write, attach.
//!
//! Holds descriptors and nothing else. What the maps mean is the plan's business.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use agent_common::guard::Guard;
use aya::Ebpf;
use aya::maps::{Map, MapError};
use aya::programs::{ProgramError, SchedClassifier};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::attach::{self, Method, Notes};
use super::cgroup_guard::{self, CgroupGuard};
use super::guards::InstalledGuards;
use super::maps::Maps;
use super::object::{self, Limits, ObjectError};
use super::{Dataplane, DataplaneError, Port, btf};
use policy::model::guards::Guards;
use policy::plan::{Actual, Op};

/// The magic number of a BPF file system (`BPF_FS_MAGIC`).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// What stops the agent from taking hold of the kernel.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The pin directory is on no BPF file system.
    #[error(
        "{0} is not on a BPF file system: mount one (`mount -t bpf bpf /sys/fs/bpf`), or in a pod mount the node's \
         /sys/fs/bpf as a hostPath with mountPropagation HostToContainer"
    )]
    NoBpffs(PathBuf),
    /// The pin directory could not be made or read.
    #[error("cannot use pin directory {path}")]
    Pins {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Programs or maps.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The verifier refused a program.
    #[error("the kernel refuses program {name}: {source}")]
    Program {
        /// Which.
        name: &'static str,
        /// Why, with the verifier's words.
        #[source]
        source: Box<ProgramError>,
    },
    /// What a program must know of the kernel's structures is not known.
    #[error(transparent)]
    Btf(#[from] &'static btf::BtfError),
    /// A map has another type than this agent expects.
    #[error("a map of the object is not what this agent expects")]
    Map(#[from] MapError),
}

/// The programs, the maps that policy is written to, and the rest for those who read.
pub struct Kernel {
    ebpf: Ebpf,
    maps: Maps,
    guards: InstalledGuards,
    groups: CgroupGuard,
    no_groups: Option<OpenError>,
    notes: Notes,
    method: Method,
}

impl Kernel {
    /// Loads the programs, adopting the maps pinned below `pins` (created if missing).
    ///
    /// # Errors
    /// See `OpenError`. What was attached before stays attached and enforcing.
    pub fn open(pins: &Path, limits: &Limits) -> Result<Self, OpenError> {
        prepare(pins)?;
        lift_memory_limit();
        let mut ebpf = object::open(Some(pins), limits)?;
        for name in ["from_pod", "to_pod"] {
            load(&mut ebpf, name)?;
        }
        // A kernel that refuses a guard is no reason to leave pods unjudged.
        let refused = Guard::ON_INTERFACES.into_iter().find_map(|guard| load(&mut ebpf, guard.as_str()).err());
        if let Some(error) = &refused {
            tracing::error!(error = error as &dyn std::error::Error, "the guards are left out");
        }
        let mut take = |name| ebpf.take_map(name).ok_or(absent(name));
        let maps = Maps::new(&mut take)?;
        let guards = InstalledGuards::new(&mut take, Notes::guards(pins), refused)?;
        let groups = CgroupGuard::new(&mut take, pins)?;
        let no_groups = load_groups(&mut ebpf).err();
        let (notes, method) = (Notes::below(pins), attach::method());
        Ok(Self { ebpf, maps, guards, groups, no_groups, notes, method })
    }

    /// Why this kernel has no guard on control groups, if it has none.
    pub const fn no_groups(&self) -> Option<&OpenError> {
        self.no_groups.as_ref()
    }

    /// How this kernel attaches.
    pub const fn method(&self) -> Method {
        self.method
    }

    /// Takes one of the maps that the plan does not write: counters, records and their like.
    ///
    /// # Errors
    /// The map was taken before.
    pub fn take(&mut self, name: &'static str) -> Result<Map, MapError> {
        self.ebpf.take_map(name).ok_or(absent(name))
    }

    /// Tells the programs the time of day; see `Maps::set_clock_offset`.
    ///
    /// # Errors
    /// `DataplaneError::Write`.
    pub fn set_clock_offset(&mut self, offset_ns: u64) -> Result<(), DataplaneError> {
        self.maps.set_clock_offset(offset_ns)
    }

    /// Forwards the programs' development log lines to the agent's log from now on. Lossy: for
    /// looking at a program, never for knowing what happened.
    ///
    /// # Errors
    /// The object was built without `cargo xtask ebpf --log`.
    #[cfg(feature = "ebpf-log")]
    pub fn forward_log(&mut self) -> Result<(), aya_log::Error> {
        let mut logger = aya_log::EbpfLogger::init(&mut self.ebpf)?;
        tokio::spawn(async move {
            loop {
                logger.flush();
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        });
        Ok(())
    }

    /// Programs for test runs.
    pub const fn programs(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

fn absent(name: &str) -> MapError {
    MapError::InvalidName { name: name.to_owned() }
}

fn load_groups(ebpf: &mut Ebpf) -> Result<(), OpenError> {
    btf::offsets()?;
    let refused = |source| OpenError::Program { name: cgroup_guard::PROGRAM, source: Box::new(source) };
    cgroup_guard::load(ebpf).map_err(refused)
}

fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<(), OpenError> {
    let program = ebpf.program_mut(name).ok_or(ObjectError::Absent(name))?;
    let load = |program: &mut aya::programs::Program| -> Result<(), ProgramError> {
        let program: &mut SchedClassifier = program.try_into()?;
        program.load()
    };
    load(program).map_err(|source| OpenError::Program { name, source: Box::new(source) })
}

/// Makes the pin directory and its folders, readable by root alone.
fn prepare(pins: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Pins { path: pins.to_owned(), source };
    let existing = pins.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let filesystem = rustix::fs::statfs(existing).map_err(|error| failed(error.into()))?;
    if filesystem.f_type as u64 != BPF_FS_MAGIC {
        return Err(OpenError::NoBpffs(pins.to_owned()));
    }
    let (pods, guards, groups) = (Notes::below(pins), Notes::guards(pins), cgroup_guard::folder(pins));
    for path in [pins].into_iter().chain(pods.folders()).chain(guards.folders()).chain([&*groups]) {
        fs::create_dir_all(path).map_err(failed)?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// Before 5.11 the kernel counts maps against `RLIMIT_MEMLOCK`, 64 KiB by default; later it looks at the
/// control group, and the limit means nothing to us.
fn lift_memory_limit() {
    let unlimited = Rlimit { current: None, maximum: None };
    let own = getrlimit(Resource::Memlock);
    let lifted = setrlimit(Resource::Memlock, unlimited)
        .or_else(|_| setrlimit(Resource::Memlock, Rlimit { current: own.maximum, maximum: own.maximum }));
    if let (Err(error), Some(limit)) = (lifted, own.current) {
        tracing::debug!(error = &error as &dyn std::error::Error, limit, "locked memory stays limited");
    }
    if let Some(limit) = getrlimit(Resource::Memlock).current
        && counts_maps(&rustix::system::uname().release().to_string_lossy())
    {
        tracing::warn!(
            limit,
            "this kernel counts maps as locked memory, and there is a limit to it: if loading fails with \"operation not \
             permitted\", raise RLIMIT_MEMLOCK for the container runtime, or give the agent CAP_SYS_RESOURCE"
        );
    }
}

/// Whether a kernel of this release is older than 5.11.
fn counts_maps(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (5, 11)
}

/// Reads the policy maps pinned below `pins` without loading or changing anything: for `explain`
/// and `status`.
///
/// # Errors
/// Nothing is pinned there, or a pin is of another layout.
pub fn inspect(pins: &Path) -> Result<Actual, DataplaneError> {
    let open = |name: &'static str| aya::maps::MapData::from_pin(pins.join(name)).and_then(Map::from_map_data);
    let maps = Maps::new(open).map_err(|error| DataplaneError::Attached(Box::new(error)))?;
    maps.read()
}

impl Dataplane for Kernel {
    fn load(&mut self) -> Result<Actual, DataplaneError> {
        self.maps.read()
    }

    fn apply(&mut self, op: &Op) -> Result<(), DataplaneError> {
        self.maps.write(op)
    }

    fn shut(&mut self, port: &Port) -> Result<(), DataplaneError> {
        attach::shut(&mut self.ebpf, &self.notes, port, self.method)
    }

    fn attach(&mut self, port: &Port) -> Result<(), DataplaneError> {
        attach::attach(&mut self.ebpf, &self.notes, port, self.method)
    }

    fn detach(&mut self, port: &Port) -> Result<(), DataplaneError> {
        attach::detach(&self.notes, port)
    }

    fn is_intact(&mut self, port: &Port) -> bool {
        attach::is_intact(&self.ebpf, &self.notes, port, self.method)
    }

    fn sync_guards(&mut self, guards: &Guards, look: bool) -> Vec<DataplaneError> {
        let mut failed = self.guards.bring(&mut self.ebpf, self.method, guards, look);
        failed.extend(self.groups.bring(&mut self.ebpf, guards.pods.as_ref(), look));
        failed
    }

    fn attached(&mut self) -> Result<Vec<Port>, DataplaneError> {
        let noted = self.notes.noted().map_err(|error| DataplaneError::Attached(Box::new(error)))?;
        let port = |ifindex| Port { ifindex, name: attach::name_of(ifindex).unwrap_or_default() };
        Ok(noted.into_iter().map(port).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_5_11_count_maps_as_guarded_memory() {
        for (release, counts) in
            [("5.10.0-46-cloud-amd64", true), ("4.19.1", true), ("5.11.0", false), ("6.1.0", false)]
        {
            assert_eq!(counts_maps(release), counts, "{release}");
        }
    }
}
