//! Attaches programs to interfaces, by TCX links (6.6) or by clsact filters on older kernels.
//!
//! Only this file knows that a veth swaps directions: a pod's packets enter the node by the *ingress* hook of
//! its host-side interface. TCX links are pinned below `links/`. A clsact filter lives on the interface itself,
//! and an empty directory below `clsact/` records its index. Both outlive the agent. The guards on the node's
//! own interfaces have directories of their own, `guards/` and `guards-clsact/`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::{SchedClassifier, TcAttachType};

use super::error::BoxedCause;
use super::maps::{boxed, message};
use super::{DataplaneError, Port, sys};

/// The priority of our filters: the first, so no other filter can end the chain before them.
const PRIORITY: u16 = 1;

/// A program and its hook.
#[derive(Debug)]
pub(super) struct Hook {
    /// Name of the program.
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

/// The hooks of a pod's interface. Packets from the pod come first, because a tenant could leave through them.
static PODS: [Hook; 2] = [ingress("from_pod"), egress("to_pod")];

/// The hooks of the node's own interfaces, of which each interface has one at most.
pub(super) static GUARDS: [Hook; 2] = [egress("uplink"), ingress("bridge")];

/// How this kernel attaches programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMethod {
    /// TCX links, kernel 6.6 and later.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

/// The directories that record attachments, and the hooks they record.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    links: PathBuf,
    clsact: PathBuf,
    hooks: &'static [Hook],
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

    fn link(&self, ifindex: u32, program: &str) -> PathBuf {
        self.links.join(format!("{ifindex}-{program}"))
    }

    fn filter(&self, ifindex: u32) -> PathBuf {
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

/// The current name of an interface, if it exists.
pub(super) fn name_of(ifindex: u32) -> Option<String> {
    rustix::net::netdevice::index_to_name(
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).ok()?,
        ifindex,
    )
    .ok()
}

/// Attaches all programs of `pins` to an interface, or replaces those of an earlier agent.
///
/// # Errors
/// [`DataplaneError::Gone`] if the interface vanished, [`DataplaneError::Attach`] otherwise. The next call completes
/// a half-attached interface.
pub(super) fn attach(ebpf: &mut Ebpf, pins: &Pins, port: &Port, method: AttachMethod) -> Result<(), DataplaneError> {
    pins.hooks.iter().try_for_each(|hook| attach_hook(ebpf, pins, port, method, hook))
}

/// Attaches the program for packets from the pod.
///
/// # Errors
/// As for [`attach`].
pub(super) fn attach_from_pod(
    ebpf: &mut Ebpf,
    pins: &Pins,
    port: &Port,
    method: AttachMethod,
) -> Result<(), DataplaneError> {
    attach_hook(ebpf, pins, port, method, &PODS[0])
}

/// Attaches one program to an interface, or replaces that of an earlier agent.
///
/// # Errors
/// As for [`attach`].
pub(super) fn attach_hook(
    ebpf: &mut Ebpf,
    pins: &Pins,
    port: &Port,
    method: AttachMethod,
    hook: &Hook,
) -> Result<(), DataplaneError> {
    if name_of(port.ifindex).as_deref() != Some(port.name.as_str()) {
        return Err(DataplaneError::Gone(port.clone()));
    }
    let attached = match method {
        AttachMethod::Tcx => attach_tcx(ebpf, pins, port, hook.program, hook.tcx),
        AttachMethod::Clsact => attach_clsact(ebpf, pins, port, hook.program, hook.at),
    };
    attached.map_err(|source| match name_of(port.ifindex) {
        Some(_) => DataplaneError::Attach { port: port.clone(), source },
        None => DataplaneError::Gone(port.clone()),
    })
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, BoxedCause> {
    let program = ebpf.program_mut(name).ok_or_else(|| message(format!("the eBPF object has no program {name}")))?;
    Ok(program.try_into()?)
}

/// Attaches by index, because a name may pass to another interface before the call.
fn attach_tcx(
    ebpf: &mut Ebpf,
    pins: &Pins,
    port: &Port,
    name: &'static str,
    attach_type: u32,
) -> Result<(), BoxedCause> {
    let pin = pins.link(port.ifindex, name);
    let program = program(ebpf, name)?;
    let fd = program.fd()?.as_fd();
    if !adopt(fd, program.info()?.id(), &pin, port.ifindex)? {
        let link = sys::tcx_attach(fd, port.ifindex, attach_type)?;
        sys::obj_pin(&pin, link.as_fd())?;
    }
    Ok(())
}

/// Replaces the program of a pinned link in one step, so no packet passes unchecked. Returns false if there is
/// no such link, or if its index now belongs to another interface.
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
    pins: &Pins,
    port: &Port,
    name: &'static str,
    hook: TcAttachType,
) -> Result<(), BoxedCause> {
    // The qdisc is used and never removed, because other software may have filters there.
    if let Err(error) = qdisc_add_clsact(&port.name)
        && !exists(&error)
    {
        return Err(boxed(error));
    }
    fs::create_dir_all(pins.filter(port.ifindex))?;
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

/// Detaches all programs of `pins` from an interface and removes the pins. The programs need not be loaded.
///
/// # Errors
/// [`DataplaneError::Detach`]. A pin that could not be removed stays, so the next call tries again.
pub(super) fn detach(pins: &Pins, port: &Port) -> Result<(), DataplaneError> {
    pins.hooks.iter().try_for_each(|hook| detach_hook(pins, port, hook))?;
    match fs::remove_dir(pins.filter(port.ifindex)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DataplaneError::Detach { port: port.clone(), source: boxed(error) })
        }
        _ => Ok(()),
    }
}

/// Detaches one program from an interface. The record of a filter stays, because it covers both hooks.
///
/// # Errors
/// [`DataplaneError::Detach`].
pub(super) fn detach_hook(pins: &Pins, port: &Port, hook: &Hook) -> Result<(), DataplaneError> {
    let failed = |source: BoxedCause| DataplaneError::Detach { port: port.clone(), source };
    unlink(&pins.link(port.ifindex, hook.program)).map_err(|error| failed(boxed(error)))?;
    let recorded = pins.filter(port.ifindex).exists();
    let Some(name) = name_of(port.ifindex).filter(|_| recorded) else { return Ok(()) };
    match qdisc_detach_program(&name, hook.at, hook.program) {
        Err(error) if !missing(&error) => Err(failed(boxed(error))),
        _ => Ok(()),
    }
}

/// Detaches a pinned link, then removes its pin. Removing the pin alone would detach it later, when a kernel
/// worker drops the last reference.
pub(super) fn unlink(pin: &Path) -> io::Result<()> {
    match sys::obj_get(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(link) => match sys::link_detach(link.as_fd()) {
            // The interface is gone, so the link is detached already.
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

/// Whether the interface runs this agent's programs. A pin does not prove it: an earlier agent may have left its
/// programs, or another process may have detached them.
pub(super) fn is_intact(ebpf: &Ebpf, pins: &Pins, port: &Port, method: AttachMethod) -> bool {
    if method == AttachMethod::Clsact {
        // The kernel lists filters only through netlink, and replacing them costs less than listing them.
        return false;
    }
    pins.hooks.iter().all(|hook| {
        let name = hook.program;
        let ours = ebpf.program(name).and_then(|program| program.info().ok()).map(|info| info.id());
        let pinned = sys::obj_get(&pins.link(port.ifindex, name)).and_then(|fd| sys::link_info(fd.as_fd()));
        let running = sys::tcx_programs(port.ifindex, hook.tcx).unwrap_or_default();
        let position = running.iter().position(|id| Some(*id) == ours);
        if position.is_some_and(|position| position > 0) {
            tracing::warn!(
                interface = port.name,
                program = name,
                "another program runs before Bulkhead's and may end the chain; find it with `bpftool net`"
            );
        }
        pinned.is_ok_and(|info| info.ifindex == port.ifindex && Some(info.program) == ours) && position.is_some()
    })
}

/// Finds out which method this kernel supports. Attaches nothing.
pub(super) fn method() -> AttachMethod {
    match sys::tcx_programs(1, sys::TCX_INGRESS) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS)) => {
            AttachMethod::Clsact
        }
        // Any other answer comes from a kernel that supports the hook.
        _ => AttachMethod::Tcx,
    }
}
