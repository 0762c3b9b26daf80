//! A guard that removes the demo when the demo can no longer do so itself: interrupted, killed.
//!
//! It holds the other end of a pipe. When the pipe ends without a farewell, the demo is gone.

use std::env;
use std::io::{Read, Write, stdin};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use testbed::scope;

use crate::kept::SCOPE;

/// The last word of a demo that has ended well, or is kept.
const FAREWELL: &[u8] = b"farewell";

/// A running watcher process.
pub struct Guard {
    child: Child,
}

impl Guard {
    /// Starts one in a process group of its own, where the terminal's interrupt does not reach it.
    pub fn start() -> Result<Self> {
        let child = Command::new(env::current_exe()?)
            .arg("guard")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start the guard")?;
        Ok(Self { child })
    }

    /// Ends it: nothing is left, or what is left is kept on purpose.
    pub fn dismiss(mut self) {
        if let Some(mut pipe) = self.child.stdin.take() {
            // The process may have ended already.
            let _ = pipe.write_all(FAREWELL);
        }
        let _ = self.child.wait();
    }
}

/// The work of the watcher process.
pub fn guard() -> Result<ExitCode> {
    let mut words = Vec::new();
    stdin().read_to_end(&mut words)?;
    if words != FAREWELL {
        scope::remove(SCOPE);
        eprintln!("\ninterrupted: the demo was removed completely");
    }
    Ok(ExitCode::SUCCESS)
}
