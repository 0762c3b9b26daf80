//! The agent's binary and image that `cargo xtask test` prepares for the privileged tests.
//!
//! Plain `cargo test` reports those tests as ignored. `cargo xtask test` includes them once it has prepared what they
//! need.

use std::env;
use std::path::PathBuf;

/// The agent's binary: the path in `BULKHEAD_BIN`, or a file beside the test.
pub fn agent_binary() -> Option<PathBuf> {
    if let Some(named) = env::var_os("BULKHEAD_BIN") {
        return Some(named.into());
    }
    let exe = env::current_exe().ok()?;
    exe.ancestors().skip(1).take(2).map(|directory| directory.join("bulkhead")).find(|path| path.is_file())
}

/// The archive with the agent's image: the path in `BULKHEAD_IMAGE`.
pub fn agent_image() -> Option<PathBuf> {
    env::var_os("BULKHEAD_IMAGE").map(PathBuf::from)
}
