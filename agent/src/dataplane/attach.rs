//! Programs and interfaces: the only file that knows that a veth swaps directions, and which of the
//! two ways to attach this kernel has.
//!
//! What a pod sends enters the node by the *ingress* hook of its host-side interface. TCX links
//! (6.6) are pinned below `links/`; clsact filters, on older kernels, live on the interface itself
//! and leave an empty directory below `clsact/` as a note of where. Both outlive the agent. The guards
//! on the node's own interfaces are noted apart, below `guards/` and `guards-clsact/`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::{SchedClassifier, TcAttachType};

use super::maps::{boxed, sentence};
use super::{DataplaneError, Port, Source, sys};

/// Our filters' priority: the first, so that nothing before us can end the chain.
const PRIORITY: u16 = 1;

/// A program, and where it belongs.
#[derive(Debug)]
pub struct Hook {
    /// Name.
    pub program: &'static str,
    at: TcAttachType,
    tcx: u32,
}

const fn ingress(program: &'static str) -> Hook {
    Hook { program, at: TcAttachType::Ingress, tcx: sys::TCX_INGRESS }
}

const fn egress(program: &'static str) -> Hook {
    Hook { program, at: TcAttachType::Egress, tcx: sys::TCX_EGRESS }
}

/// What a pod's interface holds. What a pod sends is judged first: from there a tenant could leave.
static PODS: [Hook; 2] = [ingress("from_pod"), egress("to_pod")];

/// What an interface of the node's own may hold, one of the two.
pub static GUARDS: [Hook; 2] = [egress("uplink"), ingress("bridge")];

/// How this kernel attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// TCX links, kernel 6.6 and later.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

/// Where attachments are noted, and of which programs.
#[derive(Clone, Debug)]
pub struct Notes {
    links: PathBuf,
    clsact: PathBuf,
    hooks: &'static [Hook],
}

impl Notes {
    /// Of pods' interfaces, below a pin directory.
    pub fn below(pins: &Path) -> Self {
        Self { links: pins.join("links"), clsact: pins.join("clsact"), hooks: &PODS }
    }

    /// Of the guards.
    pub fn guards(pins: &Path) -> Self {
        Self { links: pins.join("guards"), clsact: pins.join("guards-clsact"), hooks: &GUARDS }
    }

    /// The directories.
    pub fn folders(&self) -> [&Path; 2] {
        [&self.links, &self.clsact]
    }

    fn link(&self, ifindex: u32, program: &str) -> PathBuf {
        self.links.join(format!("{ifindex}-{program}"))
    }

    fn filter(&self, ifindex: u32) -> PathBuf {
        self.clsact.join(ifindex.to_string())
    }

    /// Interface indices that have a note, of either method.
    ///
    /// # Errors
    /// A directory that cannot be listed.
    pub fn noted(&self) -> io::Result<Vec<u32>> {
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

/// The name an index has now, if it exists.
pub fn name_of(ifindex: u32) -> Option<String> {
    rustix::net::netdevice::index_to_name(
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).ok()?,
        ifindex,
    )
    .ok()
}

/// Puts both programs on an interface, or makes those that are there run ours.
///
/// # Errors
/// `Gone` where the interface vanished meanwhile, `Attach` otherwise; a half-attached interface is
/// fully attached by the next try.
pub fn attach(ebpf: &mut Ebpf, notes: &Notes, port: &Port, method: Method) -> Result<(), DataplaneError> {
    notes.hooks.iter().try_for_each(|hook| put(ebpf, notes, port, method, hook))
}

/// Puts the program on an interface that judges what its pod sends.
///
/// # Errors
/// As for `attach`.
pub fn shut(ebpf: &mut Ebpf, notes: &Notes, port: &Port, method: Method) -> Result<(), DataplaneError> {
    put(ebpf, notes, port, method, &PODS[0])
}

/// Puts one program on an interface, or makes the one that is there run ours.
///
/// # Errors
/// As for `attach`.
pub fn put(ebpf: &mut Ebpf, notes: &Notes, port: &Port, method: Method, hook: &Hook) -> Result<(), DataplaneError> {
    if name_of(port.ifindex).as_deref() != Some(port.name.as_str()) {
        return Err(DataplaneError::Gone(port.clone()));
    }
    let attached = match method {
        Method::Tcx => attach_tcx(ebpf, notes, port, hook.program, hook.tcx),
        Method::Clsact => attach_clsact(ebpf, notes, port, hook.program, hook.at),
    };
    attached.map_err(|source| match name_of(port.ifindex) {
        Some(_) => DataplaneError::Attach { port: port.clone(), source },
        None => DataplaneError::Gone(port.clone()),
    })
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, Source> {
    let program = ebpf.program_mut(name).ok_or_else(|| sentence(format!("the object has no program {name}")))?;
    Ok(program.try_into()?)
}

/// By index, not by name: a name may go to another interface between a look and a call.
fn attach_tcx(ebpf: &mut Ebpf, notes: &Notes, port: &Port, name: &'static str, attach_type: u32) -> Result<(), Source> {
    let pin = notes.link(port.ifindex, name);
    let program = program(ebpf, name)?;
    let fd = program.fd()?.as_fd();
    if !adopt(fd, program.info()?.id(), &pin, port.ifindex)? {
        let link = sys::tcx_attach(fd, port.ifindex, attach_type)?;
        sys::obj_pin(&pin, link.as_fd())?;
    }
    Ok(())
}

/// Makes a pinned link run `program`, in one step that no packet falls through. False where there
/// is no such link, or its interface is gone and the index was given again.
fn adopt(program: BorrowedFd<'_>, id: u32, pin: &Path, ifindex: u32) -> io::Result<bool> {
    let link = match sys::obj_get(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let info = sys::link_info(link.as_fd())?;
    if info.ifindex != ifindex {
        fs::remove_file(pin)?;
        return Ok(false);
    }
    if info.program != id {
        sys::link_update(link.as_fd(), program)?;
    }
    Ok(true)
}

fn attach_clsact(
    ebpf: &mut Ebpf,
    notes: &Notes,
    port: &Port,
    name: &'static str,
    hook: TcAttachType,
) -> Result<(), Source> {
    // Ours to use, never to remove: others may have filters there.
    if let Err(error) = qdisc_add_clsact(&port.name)
        && !exists(&error)
    {
        return Err(boxed(error));
    }
    fs::create_dir_all(notes.filter(port.ifindex))?;
    let program = program(ebpf, name)?;
    let handle = TcHandle::new(0, 1);
    let known = SchedClassifierLink::attached(&port.name, hook, PRIORITY, handle, None)?;
    let id = match program.attach_to_link(known) {
        Ok(id) => id,
        Err(_) => {
            let options = TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle, classid: None });
            program.attach_with_options(&port.name, hook, options)?
        }
    };
    // Dropping the link would detach it.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn exists(error: &TcError) -> bool {
    match error {
        TcError::AlreadyAttached => true,
        TcError::NetlinkError(error) => error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}

fn missing(error: &TcError) -> bool {
    match error {
        TcError::IoError(error) => error.kind() == io::ErrorKind::NotFound,
        TcError::NetlinkError(error) => matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)),
        _ => false,
    }
}

/// Removes all programs of these notes from an interface, and the notes. Works without the programs
/// at hand.
///
/// # Errors
/// `Detach`; notes that could not be removed stay, and the next try finds them.
pub fn detach(notes: &Notes, port: &Port) -> Result<(), DataplaneError> {
    notes.hooks.iter().try_for_each(|hook| remove(notes, port, hook))?;
    match fs::remove_dir(notes.filter(port.ifindex)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DataplaneError::Detach { port: port.clone(), source: boxed(error) })
        }
        _ => Ok(()),
    }
}

/// Removes one program from an interface; the note of a filter stays, for other filters may be there.
///
/// # Errors
/// `Detach`.
pub fn remove(notes: &Notes, port: &Port, hook: &Hook) -> Result<(), DataplaneError> {
    let failed = |source: Source| DataplaneError::Detach { port: port.clone(), source };
    unlink(&notes.link(port.ifindex, hook.program)).map_err(|error| failed(boxed(error)))?;
    let noted = notes.filter(port.ifindex).exists();
    let Some(name) = name_of(port.ifindex).filter(|_| noted) else { return Ok(()) };
    match qdisc_detach_program(&name, hook.at, hook.program) {
        Err(error) if !missing(&error) => Err(failed(boxed(error))),
        _ => Ok(()),
    }
}

/// Detaches a pinned link, then removes its pin. Removing the pin alone would detach it too, but
/// some time later: a link's last reference is dropped by a kernel worker.
pub(super) fn unlink(pin: &Path) -> io::Result<()> {
    match sys::obj_get(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(link) => match sys::link_detach(link.as_fd()) {
            // The interface is gone, and the link with it.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            other => other?,
        },
    }
    remove_file(pin)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether both programs of this agent are on the interface: what a pin cannot tell, because an
/// earlier agent may have left its own, or somebody may have detached them.
pub fn is_intact(ebpf: &Ebpf, notes: &Notes, port: &Port, method: Method) -> bool {
    if method == Method::Clsact {
        // The kernel lists filters only through netlink: replacing them again costs less than asking.
        return false;
    }
    notes.hooks.iter().all(|hook| {
        let name = hook.program;
        let ours = ebpf.program(name).and_then(|program| program.info().ok()).map(|info| info.id());
        let pinned = sys::obj_get(&notes.link(port.ifindex, name)).and_then(|fd| sys::link_info(fd.as_fd()));
        let running = sys::tcx_programs(port.ifindex, hook.tcx).unwrap_or_default();
        let position = running.iter().position(|id| Some(*id) == ours);
        if position.is_some_and(|position| position > 0) {
            tracing::warn!(
                interface = port.name,
                program = name,
                "another program runs before ours and may end the chain; find it with `bpftool net`"
            );
        }
        pinned.is_ok_and(|info| info.ifindex == port.ifindex && Some(info.program) == ours) && position.is_some()
    })
}

/// Asks the kernel which way to attach it has. Nothing is attached for that.
pub fn method() -> Method {
    match sys::tcx_programs(1, sys::TCX_INGRESS) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS)) => {
            Method::Clsact
        }
        // Any other answer comes from a kernel that knows the hook, whatever is attached there.
        _ => Method::Tcx,
    }
}
