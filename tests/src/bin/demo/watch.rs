//! A watcher process that removes the demo if the demo was interrupted or killed.
//!
//! It reads from a pipe that the demo writes to. If the pipe ends without the last message, the demo has not ended by
//! itself.

use std::env;
use std::io::{Read, Write, stdin};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use testbed::scope;

use crate::kept::SCOPE;

/// The last message of a demo that has ended by itself, or is kept.
const FAREWELL: &[u8] = b"farewell";

/// A running watcher process.
pub(crate) struct Guard {
    child: Child,
}

impl Guard {
    /// Starts the watcher in a process group of its own, so that the terminal's interrupt does not end it.
    pub(crate) fn start() -> Result<Self> {
        let child = Command::new(env::current_exe()?)
            .arg("guard")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start the watcher of the demo")?;
        Ok(Self { child })
    }

    /// Ends the watcher, because nothing is left or everything is kept.
    pub(crate) fn dismiss(mut self) {
        if let Some(mut pipe) = self.child.stdin.take() {
            // The process may have ended already.
            let _ = pipe.write_all(FAREWELL);
        }
        let _ = self.child.wait();
    }
}

/// The work of the watcher process.
pub(crate) fn guard() -> Result<ExitCode> {
    let mut message = Vec::new();
    stdin().read_to_end(&mut message)?;
    if message != FAREWELL {
        scope::remove(SCOPE);
        eprintln!("\ninterrupted: the demo was removed completely");
    }
    Ok(ExitCode::SUCCESS)
}
