//! Attaches programs to interfaces, by TCX links (6.6) or by clsact filters on older kernels.
//!
//! Both outlive the agent. Knows neither a pod nor a policy: an interface is its index, and its name must still be the
//! one that was observed.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use aya::Ebpf;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::{SchedClassifier, TcAttachType};

use super::error::BoxedCause;
use super::hooks::{Hook, PODS, Pins};
use super::maps::{boxed, message};
use super::{DataplaneError, Port, sys, tcx};

/// The priority of our filters: the first, so no other filter can end the chain before them.
const PRIORITY: u16 = 1;

/// How this kernel attaches programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMethod {
    /// TCX links, kernel 6.6 and later.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
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
        AttachMethod::Tcx => attach_tcx(ebpf, pins, port, hook),
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

fn attach_tcx(ebpf: &mut Ebpf, pins: &Pins, port: &Port, hook: &Hook) -> Result<(), BoxedCause> {
    let program = program(ebpf, hook.program)?;
    let pin = pins.link(port.ifindex, hook.program);
    Ok(tcx::attach(program.fd()?.as_fd(), program.info()?.id(), &pin, port.ifindex, hook.tcx)?)
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
    tcx::unlink(&pins.link(port.ifindex, hook.program)).map_err(|error| failed(boxed(error)))?;
    let recorded = pins.filter(port.ifindex).exists();
    let Some(name) = name_of(port.ifindex).filter(|_| recorded) else { return Ok(()) };
    match qdisc_detach_program(&name, hook.at, hook.program) {
        Err(error) if !missing(&error) => Err(failed(boxed(error))),
        _ => Ok(()),
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
