//! Attachment by TCX links (kernel 6.6), which are pinned and outlive the agent.
//!
//! An interface is given by its index, because a name may pass to another interface before the call.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::sys;

/// Attaches a program to a hook, or replaces that of the pinned link.
///
/// # Errors
/// The kernel's answer.
pub(super) fn attach(program: BorrowedFd<'_>, id: u32, pin: &Path, ifindex: u32, hook: u32) -> io::Result<()> {
    if !adopt(program, id, pin, ifindex)? {
        let link = sys::tcx_attach(program, ifindex, hook)?;
        sys::obj_pin(pin, link.as_fd())?;
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

/// Detaches a pinned link, then removes its pin. Removing the pin alone would detach it later, when a kernel
/// worker drops the last reference.
///
/// # Errors
/// The kernel's answer; the pin is then still there.
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
