//! `bulkhead cleanup`: removes everything from this node, prints what it was, and verifies that it is gone.
//!
//! Only prints: `dataplane::cleanup` finds and removes. Needs no agent.

use std::path::PathBuf;

use clap::Args;

use super::output::{Exit, safe};
use crate::config::PinArgs;
use crate::dataplane::cleanup::{self, CleanupError, Remains};

/// Remove all programs, maps and pins of Bulkhead from this node.
#[derive(Clone, Debug, Args)]
pub struct CleanupArgs {
    /// Print what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// After everything is removed, wait for a signal before exit: a DaemonSet then shows which nodes are clean
    #[arg(long, conflicts_with = "dry_run")]
    pub stay: bool,
    #[command(flatten)]
    #[allow(clippy::missing_docs_in_private_items, reason = "documented at its type")]
    pub pin: PinArgs,
}

/// Removes everything below the pin directory, including pins of other layout versions, and verifies that.
///
/// # Errors
/// An object could not be listed or removed. What was to be removed is printed before.
pub(crate) fn run(args: &CleanupArgs) -> Result<Exit, CleanupError> {
    let root: PathBuf = args.pin.pin_dir.clone();
    let found = cleanup::find(&root)?;
    if found.is_empty() {
        println!("found nothing of Bulkhead below {}", root.display());
        return Ok(Exit::Fine);
    }
    print(if args.dry_run { "would remove" } else { "removing" }, &found);
    if args.dry_run {
        return Ok(Exit::Fine);
    }
    cleanup::remove(&root, &found)?;
    let left = cleanup::find(&root)?;
    if left.is_empty() {
        println!("removed {}; nothing is left", found.summary());
        return Ok(Exit::Fine);
    }
    print("still there:", &left);
    Ok(Exit::Found)
}

fn print(verb: &str, found: &Remains) {
    for port in &found.ports {
        let name = if port.name.is_empty() { "an interface that is gone" } else { &port.name };
        println!("{verb} programs on {} (index {})", safe(name), port.ifindex);
    }
    for _ in &found.groups {
        println!("{verb} the cgroup guard");
    }
    if found.has_input_guard {
        println!("{verb} the input guard");
    }
    for pin in &found.pins {
        println!("{verb} {}", pin.display());
    }
}
