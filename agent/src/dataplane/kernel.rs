//! The dataplane of the running kernel: opens the programs, adopts pinned maps, writes and attaches.
//!
//! Holds descriptors and no policy; the plan knows what the maps mean. What an earlier agent attached stays
//! attached while this one starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_common::guard::Guard;
use aya::Ebpf;
use aya::maps::{Map, MapError};
use aya::programs::{ProgramError, SchedClassifier};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::attach::{self, AttachMethod};
use super::cgroup_guard::{self, CgroupGuard};
use super::guards::InstalledGuards;
use super::hooks::Pins;
use super::input_guard::InputGuard;
use super::maps::{PolicyMaps, boxed};
use super::object::{self, MapLimits, ObjectError};
use super::{Dataplane, DataplaneError, Displacement, Port, Recheck, btf};
use policy::model::guards::Guards;
use policy::model::input_guard::InputRules;
use policy::plan::{Actual, Op, Table};

/// The magic number of a BPF file system (`BPF_FS_MAGIC`).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Why the programs and maps could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The pin directory is not on a BPF file system.
    #[error(
        "{0} is not on a BPF file system; on a node, run `mount -t bpf bpf /sys/fs/bpf`; in a pod, mount the node's \
         /sys/fs/bpf as a hostPath with mountPropagation HostToContainer"
    )]
    NoBpffs(PathBuf),
    /// The pin directory could not be created or read.
    #[error("cannot use pin directory {path}")]
    Pins {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The programs or maps could not be loaded.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The verifier refused a program.
    #[error("the kernel refuses program {name}: {source}")]
    Program {
        /// The program.
        name: &'static str,
        /// The verifier's log.
        #[source]
        source: Box<ProgramError>,
    },
    /// The offsets that a program needs are not known.
    #[error(transparent)]
    Btf(#[from] &'static btf::BtfError),
    /// A map has another type than this agent expects.
    #[error("a map of the object is not what this agent expects")]
    Map(#[from] MapError),
}

/// The loaded programs, the policy maps, and the state of the guards.
pub struct Kernel {
    ebpf: Ebpf,
    maps: PolicyMaps,
    guards: InstalledGuards,
    groups: CgroupGuard,
    no_groups: Option<OpenError>,
    input: InputGuard,
    /// Whether this agent has written the input guard.
    input_written: bool,
    pins: Pins,
    method: AttachMethod,
    displaced: Vec<Displacement>,
}

impl Kernel {
    /// Loads the programs and adopts the maps pinned below `pins`; creates what is missing.
    ///
    /// # Errors
    /// See [`OpenError`]. What was attached before stays attached and enforcing.
    pub fn open(pins: &Path, limits: &MapLimits) -> Result<Self, OpenError> {
        prepare(pins)?;
        lift_memory_limit();
        let mut ebpf = object::open(Some(pins), limits)?;
        for name in ["from_pod", "to_pod"] {
            load(&mut ebpf, name)?;
        }
        // Pods are still enforced on a kernel that refuses a guard.
        let refused = Guard::ON_INTERFACES.into_iter().find_map(|guard| load(&mut ebpf, guard.as_str()).err());
        if let Some(error) = &refused {
            let error = error as &dyn std::error::Error;
            tracing::error!(error, "no guard is attached, because the kernel refused the program of one");
        }
        let mut take = |name| ebpf.take_map(name).ok_or(absent(name));
        let maps = PolicyMaps::new(&mut take)?;
        let refused = refused.map(|error| Arc::new(error) as _);
        let guards = InstalledGuards::new(&mut take, Pins::of_guards(pins), refused)?;
        let groups = CgroupGuard::new(&mut take, pins)?;
        let no_groups = load_groups(&mut ebpf).err();
        let (pins, method) = (Pins::of_pods(pins), attach::method());
        let (input, input_written, displaced) = (InputGuard::new(), false, Vec::new());
        Ok(Self { ebpf, maps, guards, groups, no_groups, input, input_written, pins, method, displaced })
    }

    /// Why this kernel cannot run the cgroup guard, if it cannot.
    pub const fn no_groups(&self) -> Option<&OpenError> {
        self.no_groups.as_ref()
    }

    /// How this kernel attaches programs.
    pub const fn method(&self) -> AttachMethod {
        self.method
    }

    /// The same kernel with another method, for tests of both methods on one kernel.
    #[must_use]
    pub fn with_method(mut self, method: AttachMethod) -> Self {
        self.method = method;
        self
    }

    /// Takes a map that the plan does not write, such as counters or the ring buffer.
    ///
    /// # Errors
    /// The map was taken before.
    pub fn take(&mut self, name: &'static str) -> Result<Map, MapError> {
        self.ebpf.take_map(name).ok_or(absent(name))
    }

    /// Gives the programs the time of day; see [`PolicyMaps::set_clock_offset`].
    ///
    /// # Errors
    /// [`DataplaneError::Write`].
    pub fn set_clock_offset(&mut self, offset_ns: u64) -> Result<(), DataplaneError> {
        self.maps.set_clock_offset(offset_ns)
    }

    /// Forwards the programs' development log lines to the agent's log from now on. Lines may be lost.
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

    /// The programs, for test runs.
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

/// Creates the pin directory and its subdirectories, readable by root alone.
fn prepare(pins: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Pins { path: pins.to_owned(), source };
    let existing = pins.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let filesystem = rustix::fs::statfs(existing).map_err(|error| failed(error.into()))?;
    if filesystem.f_type as u64 != BPF_FS_MAGIC {
        return Err(OpenError::NoBpffs(pins.to_owned()));
    }
    let (pods, guards, groups) = (Pins::of_pods(pins), Pins::of_guards(pins), cgroup_guard::directory(pins));
    for path in [pins].into_iter().chain(pods.directories()).chain(guards.directories()).chain([&*groups]) {
        fs::create_dir_all(path).map_err(failed)?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// Raises `RLIMIT_MEMLOCK`, 64 KiB by default. Kernels before 5.11 count maps against it; later ones use the
/// control group.
fn lift_memory_limit() {
    let unlimited = Rlimit { current: None, maximum: None };
    let own = getrlimit(Resource::Memlock);
    let lifted = setrlimit(Resource::Memlock, unlimited)
        .or_else(|_| setrlimit(Resource::Memlock, Rlimit { current: own.maximum, maximum: own.maximum }));
    if let (Err(error), Some(limit)) = (lifted, own.current) {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            limit,
            "the limit on locked memory could not be raised"
        );
    }
    if let Some(limit) = getrlimit(Resource::Memlock).current
        && counts_maps(&rustix::system::uname().release().to_string_lossy())
    {
        tracing::warn!(
            limit,
            "this kernel counts maps as locked memory, which is limited; if loading fails with \"operation not \
             permitted\", raise RLIMIT_MEMLOCK for the container runtime, or give the agent CAP_SYS_RESOURCE"
        );
    }
}

/// Whether this kernel release is older than 5.11.
fn counts_maps(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (5, 11)
}

/// Reads the policy maps pinned below `pins`, and loads and changes nothing. For `explain` and `status`.
///
/// # Errors
/// Nothing is pinned there, or a pinned map has another layout.
pub fn inspect(pins: &Path) -> Result<Actual, DataplaneError> {
    let open = |name: &'static str| aya::maps::MapData::from_pin(pins.join(name)).and_then(Map::from_map_data);
    let maps = PolicyMaps::new(open).map_err(|error| DataplaneError::Attached(Box::new(error)))?;
    maps.read()
}

impl Dataplane for Kernel {
    fn load(&mut self) -> Result<Actual, DataplaneError> {
        self.maps.read()
    }

    fn load_table(&mut self, table: Table) -> Result<Actual, DataplaneError> {
        let mut actual = Actual::default();
        self.maps.read_table(table, &mut actual)?;
        Ok(actual)
    }

    fn apply(&mut self, op: &Op) -> Result<(), DataplaneError> {
        self.maps.write(op)
    }

    fn attach_from_pod(&mut self, port: &Port) -> Result<(), DataplaneError> {
        attach::attach_from_pod(&mut self.ebpf, &self.pins, port, self.method, &mut self.displaced)
    }

    fn attach(&mut self, port: &Port) -> Result<(), DataplaneError> {
        attach::attach(&mut self.ebpf, &self.pins, port, self.method, &mut self.displaced)
    }

    fn detach(&mut self, port: &Port) -> Result<(), DataplaneError> {
        attach::detach(&self.pins, port)
    }

    fn take_displacements(&mut self) -> Vec<Displacement> {
        let mut all = std::mem::take(&mut self.displaced);
        all.extend(self.guards.take_displacements());
        all
    }

    fn is_intact(&mut self, port: &Port) -> bool {
        attach::is_intact(&self.ebpf, &self.pins, port, self.method)
    }

    fn sync_guards(&mut self, guards: &Guards, recheck: Recheck) -> Vec<DataplaneError> {
        let mut failed = self.guards.sync(&mut self.ebpf, self.method, guards, recheck);
        failed.extend(self.groups.sync(&mut self.ebpf, guards.pods.as_ref(), recheck));
        failed
    }

    fn sync_input(&mut self, rules: &InputRules, recheck: Recheck) -> Result<(), DataplaneError> {
        let failed = |error| DataplaneError::InputGuard(boxed(error));
        if recheck == Recheck::Kernel {
            match self.input.is_intact() {
                Ok(false) if self.input_written => {
                    tracing::warn!("another process changed the table of the input guard; it is written again");
                }
                // Others change tables all the time; the next reading is soon.
                Err(error) if !error.is_interrupted() => return Err(failed(error)),
                _ => {}
            }
        }
        self.input.sync(rules).map_err(failed)?;
        self.input_written = true;
        Ok(())
    }

    fn attached(&mut self) -> Result<Vec<Port>, DataplaneError> {
        let pinned = self.pins.interfaces().map_err(|error| DataplaneError::Attached(Box::new(error)))?;
        let port = |ifindex| Port { ifindex, name: attach::name_of(ifindex).unwrap_or_default() };
        Ok(pinned.into_iter().map(port).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_5_11_count_maps_as_locked_memory() {
        for (release, counts) in
            [("5.10.0-46-cloud-amd64", true), ("4.19.1", true), ("5.11.0", false), ("6.1.0", false)]
        {
            assert_eq!(counts_maps(release), counts, "{release}");
        }
    }
}
