//! Attaches programs to interfaces, by TCX links (6.6) or by clsact filters on older kernels.
//!
//! Both outlive the agent. Knows neither a pod nor a policy: an interface is its index, and its name must still be the
//! one that was observed.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use aya::Ebpf;
use aya::programs::SchedClassifier;

use super::error::BoxedCause;
use super::hooks::{Hook, PODS, Pins};
use super::maps::{boxed, message};
use super::tcx::{self, TcxProgram};
use super::{DataplaneError, Displacement, Port, clsact, sys};

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

/// Attaches all programs of `pins` to an interface, or replaces those of an earlier agent. Adds to `displaced` what was
/// before one of them.
///
/// # Errors
/// [`DataplaneError::Gone`] if the interface vanished, [`DataplaneError::Attach`] otherwise. The next call completes
/// a half-attached interface.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &Pins,
    port: &Port,
    method: AttachMethod,
    displaced: &mut Vec<Displacement>,
) -> Result<(), DataplaneError> {
    pins.hooks.iter().try_for_each(|hook| attach_hook(ebpf, pins, port, method, hook, displaced))
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
    displaced: &mut Vec<Displacement>,
) -> Result<(), DataplaneError> {
    attach_hook(ebpf, pins, port, method, &PODS[0], displaced)
}

/// Attaches one program to an interface, or replaces that of an earlier agent. It is the first of its hook then.
///
/// # Errors
/// As for [`attach`].
pub(super) fn attach_hook(
    ebpf: &mut Ebpf,
    pins: &Pins,
    port: &Port,
    method: AttachMethod,
    hook: &Hook,
    displaced: &mut Vec<Displacement>,
) -> Result<(), DataplaneError> {
    if name_of(port.ifindex).as_deref() != Some(port.name.as_str()) {
        return Err(DataplaneError::Gone(port.clone()));
    }
    let attached = match method {
        AttachMethod::Tcx => attach_tcx(ebpf, pins, port, hook),
        AttachMethod::Clsact => attach_clsact(ebpf, pins, port, hook),
    };
    match attached {
        Ok(None) => Ok(()),
        Ok(Some(other)) => {
            displaced.push(Displacement { port: port.clone(), program: hook.program, other });
            Ok(())
        }
        Err(source) => Err(match name_of(port.ifindex) {
            Some(_) => DataplaneError::Attach { port: port.clone(), source },
            None => DataplaneError::Gone(port.clone()),
        }),
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, BoxedCause> {
    let program = ebpf.program_mut(name).ok_or_else(|| message(format!("the eBPF object has no program {name}")))?;
    Ok(program.try_into()?)
}

/// Attaches by TCX, and returns what was before the program.
fn attach_tcx(ebpf: &mut Ebpf, pins: &Pins, port: &Port, hook: &Hook) -> Result<Option<String>, BoxedCause> {
    let loaded = program(ebpf, hook.program)?;
    let (program, id) = (loaded.fd()?.as_fd(), loaded.info()?.id());
    let before = TcxProgram { program, id, ifindex: port.ifindex, hook, pins }.attach()?;
    Ok(before.map(|id| format!("program {id}; `bpftool prog show id {id}` names it")))
}

/// Attaches by clsact, and returns what was before the program.
fn attach_clsact(ebpf: &mut Ebpf, pins: &Pins, port: &Port, hook: &Hook) -> Result<Option<String>, BoxedCause> {
    fs::create_dir_all(pins.filter(port.ifindex))?;
    let before = clsact::attach(program(ebpf, hook.program)?, &port.name, port.ifindex, hook)?;
    Ok(before.map(|filter| format!("{filter}; `tc filter show` lists it")))
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
    for pin in [pins.next_link(port.ifindex, hook.program), pins.link(port.ifindex, hook.program)] {
        tcx::unlink(&pin).map_err(|error| failed(boxed(error)))?;
    }
    let recorded = pins.filter(port.ifindex).exists();
    match name_of(port.ifindex).filter(|_| recorded) {
        Some(name) => clsact::detach(&name, port.ifindex, hook).map_err(failed),
        None => Ok(()),
    }
}

/// Whether the interface runs this agent's programs, each before all others of its hook. A pin does not prove it: an
/// earlier agent may have left its programs, or another process may have detached them.
pub(super) fn is_intact(ebpf: &Ebpf, pins: &Pins, port: &Port, method: AttachMethod) -> bool {
    let is_first = |hook: &Hook| -> Option<bool> {
        let loaded: &SchedClassifier = ebpf.program(hook.program)?.try_into().ok()?;
        let (program, id) = (loaded.fd().ok()?.as_fd(), loaded.info().ok()?.id());
        Some(match method {
            AttachMethod::Tcx => TcxProgram { program, id, ifindex: port.ifindex, hook, pins }.is_first(),
            AttachMethod::Clsact => clsact::is_first(id, port.ifindex, hook),
        })
    };
    pins.hooks.iter().all(|hook| is_first(hook) == Some(true))
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
