//! Attachment by TCX links (kernel 6.6), which are pinned and outlive the agent.
//!
//! An interface is given by its index, because a name may pass to another interface before the call. Our program is the
//! first of its hook, because any other may end the chain; one that another program precedes moves back to the front
//! without a moment in which a packet passes that it would drop.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::hooks::{Hook, Pins};
use super::{stand_in, sys};

/// A program that is to be first at a hook of an interface.
#[derive(Debug)]
pub(super) struct TcxProgram<'a> {
    /// The loaded program.
    pub program: BorrowedFd<'a>,
    /// Its id.
    pub id: u32,
    /// The interface.
    pub ifindex: u32,
    /// The hook.
    pub hook: &'a Hook,
    /// Where its link is pinned.
    pub pins: &'a Pins,
}

impl TcxProgram<'_> {
    /// Attaches the program before all others, or replaces that of the pinned link. Returns the id of the program
    /// that was first although ours was attached.
    ///
    /// # Errors
    /// The kernel's answer, or another program that is first again.
    pub(super) fn attach(&self) -> io::Result<Option<u32>> {
        let interrupted = self.next().exists();
        if !interrupted && !self.adopt()? {
            let link = sys::tcx_attach(self.program, self.ifindex, self.hook.tcx)?;
            sys::obj_pin(&self.pin(), link.as_fd())?;
        }
        let first = first(self.ifindex, self.hook)?;
        if !interrupted && first == Some(self.id) {
            return Ok(None);
        }
        self.move_to_front()?;
        match first_other(self.ifindex, self.hook, self.id)? {
            Some(again) => Err(io::Error::other(format!("program {again} precedes {} again", self.hook.program))),
            None => Ok(first.filter(|first| *first != self.id && !interrupted)),
        }
    }

    /// Whether this program is attached and first.
    pub(super) fn is_first(&self) -> bool {
        let info = sys::obj_get(&self.pin()).and_then(|link| sys::link_info(link.as_fd()));
        info.is_ok_and(|info| info.ifindex == self.ifindex && info.program == self.id)
            && first(self.ifindex, self.hook).is_ok_and(|first| first == Some(self.id))
            && !self.next().exists()
    }

    fn pin(&self) -> PathBuf {
        self.pins.link(self.ifindex, self.hook.program)
    }

    fn next(&self) -> PathBuf {
        self.pins.next_link(self.ifindex, self.hook.program)
    }

    /// Replaces the program of the pinned link in one step, so no packet passes unchecked. Returns false if there is
    /// no such link, or if its index now belongs to another interface.
    fn adopt(&self) -> io::Result<bool> {
        let Some(link) = self.live(&self.pin())? else { return Ok(false) };
        if sys::link_info(link.as_fd())?.program != self.id {
            sys::link_update(link.as_fd(), self.program)?;
        }
        Ok(true)
    }

    /// The link that is pinned at `pin`, if it is on this interface. The pin of another is removed.
    fn live(&self, pin: &Path) -> io::Result<Option<OwnedFd>> {
        let link = match sys::obj_get(pin) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if sys::link_info(link.as_fd())?.ifindex == self.ifindex {
            return Ok(Some(link));
        }
        fs::remove_file(pin)?;
        Ok(None)
    }

    /// Moves the program to the front. A stand-in that passes takes the first place and one that denies takes ours,
    /// so ours is free for the first place. Denied is only what reaches our old place, between two system calls.
    /// Each step may be the last before the agent ends: the next call goes on from there.
    fn move_to_front(&self) -> io::Result<()> {
        let old = self.live(&self.pin())?;
        let new = match self.live(&self.next())? {
            Some(new) => new,
            None => {
                let new = sys::tcx_attach(stand_in::pass()?.as_fd(), self.ifindex, self.hook.tcx)?;
                sys::obj_pin(&self.next(), new.as_fd())?;
                new
            }
        };
        let deny = if self.hook.spares_node { stand_in::deny_forwarded()? } else { stand_in::deny()? };
        if let Some(old) = &old {
            sys::link_update(old.as_fd(), deny.as_fd())?;
        }
        sys::link_update(new.as_fd(), self.program)?;
        if let Some(old) = &old {
            sys::link_detach(old.as_fd())?;
        }
        fs::rename(self.next(), self.pin())
    }
}

/// The id of the first program of a hook.
fn first(ifindex: u32, hook: &Hook) -> io::Result<Option<u32>> {
    Ok(sys::tcx_programs(ifindex, hook.tcx)?.first().copied())
}

/// The id of the first program of a hook, unless it is `own`.
fn first_other(ifindex: u32, hook: &Hook, own: u32) -> io::Result<Option<u32>> {
    Ok(first(ifindex, hook)?.filter(|first| *first != own))
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
