//! Attachment by filters of a clsact qdisc, for kernels before 6.6.
//!
//! Other software has filters there too, under any priority and handle. Ours is known by its name. It takes a handle that
//! the kernel chooses and the first priority, where a new filter precedes those that are there. No filter of another
//! name is ever replaced or removed, and neither is the qdisc.

use std::io;

use aya::programs::links::Link;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact};
use aya::programs::{ProgramError, SchedClassifier};

use super::error::BoxedCause;
use super::hooks::Hook;
use super::maps::{boxed, message};
use super::tc_filters::{self, TcFilter};

/// Attaches a program before all filters of a hook, or replaces the filter of an earlier agent in place. Returns the
/// filter that was first although ours was attached.
///
/// # Errors
/// The kernel's answer, or a filter that ours cannot precede.
pub(super) fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    ifindex: u32,
    hook: &Hook,
) -> Result<Option<TcFilter>, BoxedCause> {
    if let Err(error) = qdisc_add_clsact(interface)
        && !exists(&error)
    {
        return Err(boxed(error));
    }
    let id = program.info()?.id();
    let before = tc_filters::list(ifindex, hook.at)?;
    match before.first().filter(|first| first.is_named(hook.program)) {
        Some(first) if first.program == Some(id) => {}
        Some(first) => replace(program, interface, hook, first)?,
        None => add(program, interface, hook, &before)?,
    }
    let now = tc_filters::list(ifindex, hook.at)?;
    // What an earlier agent or a move left behind is not needed beside the newest.
    let mut ours = now.iter().filter(|filter| filter.is_named(hook.program));
    let newest = ours.next();
    ours.try_for_each(|filter| remove(interface, hook, filter))?;
    if newest.is_none_or(|newest| newest.program != Some(id)) || now.first() != newest {
        let other = now.first().map_or("nothing".to_owned(), ToString::to_string);
        let program = hook.program;
        return Err(message(format!("{other} precedes {program}; move that filter to a later priority")));
    }
    let was_attached = before.iter().any(|filter| filter.is_named(hook.program));
    Ok(before.into_iter().next().filter(|first| was_attached && !first.is_named(hook.program)))
}

/// Whether the program with this id is the first filter of a hook.
pub(super) fn is_first(id: u32, ifindex: u32, hook: &Hook) -> bool {
    let filters = tc_filters::list(ifindex, hook.at).unwrap_or_default();
    filters.first().is_some_and(|first| first.is_named(hook.program) && first.program == Some(id))
}

/// Removes our filters from a hook, and no other.
///
/// # Errors
/// The kernel's answer.
pub(super) fn detach(interface: &str, ifindex: u32, hook: &Hook) -> Result<(), BoxedCause> {
    let filters = tc_filters::list(ifindex, hook.at)?;
    filters.iter().filter(|filter| filter.is_named(hook.program)).try_for_each(|ours| remove(interface, hook, ours))
}

/// Replaces the program of one of our filters in one step.
fn replace(program: &mut SchedClassifier, interface: &str, hook: &Hook, filter: &TcFilter) -> Result<(), BoxedCause> {
    let id = program.attach_to_link(link(interface, hook, filter)?)?;
    // Dropping the link would detach it.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Adds a filter under the first priority that takes it. Among filters of one priority the newest comes first.
fn add(program: &mut SchedClassifier, interface: &str, hook: &Hook, filters: &[TcFilter]) -> Result<(), BoxedCause> {
    let takes = |priority: &u16| filters.iter().all(|filter| filter.priority != *priority || filter.shares_priority());
    let priority = (1..=u16::MAX).find(takes).unwrap_or(1);
    let options = NlOptions { priority, handle: TcHandle::default(), classid: None };
    let id = program.attach_with_options(interface, hook.at, TcAttachOptions::Netlink(options))?;
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn remove(interface: &str, hook: &Hook, filter: &TcFilter) -> Result<(), BoxedCause> {
    match link(interface, hook, filter)?.detach() {
        Err(error) if !is_missing(&error) => Err(boxed(error)),
        _ => Ok(()),
    }
}

fn link(interface: &str, hook: &Hook, filter: &TcFilter) -> Result<SchedClassifierLink, BoxedCause> {
    let handle = TcHandle::new((filter.handle >> 16) as u16, filter.handle as u16);
    Ok(SchedClassifierLink::attached(interface, hook.at, filter.priority, handle, None)?)
}

fn exists(error: &TcError) -> bool {
    match error {
        TcError::AlreadyAttached => true,
        TcError::NetlinkError(error) => error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}

/// Whether the filter, its qdisc or its interface went meanwhile.
fn is_missing(error: &ProgramError) -> bool {
    match error {
        ProgramError::NetlinkError(error) => matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)),
        ProgramError::IOError(error) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}
