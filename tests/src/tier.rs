//! What a test needs, checked before it starts: a missing need skips loudly, with its name.

use std::env;
use std::io::Write;
use std::path::PathBuf;

/// Where the agent's binary is: `BULKHEAD_BIN`, or beside the test.
pub fn agent_binary() -> Option<PathBuf> {
    if let Some(named) = env::var_os("BULKHEAD_BIN") {
        return Some(named.into());
    }
    let exe = env::current_exe().ok()?;
    exe.ancestors().skip(1).take(2).map(|directory| directory.join("bulkhead")).find(|path| path.is_file())
}

/// Whether a test that builds namespaces can run here. Once somebody names an agent's binary,
/// they want the test to run, and nothing is skipped any more.
pub fn can_build_worlds() -> bool {
    env::var_os("BULKHEAD_BIN").is_some() || rustix::process::geteuid().is_root() || skip("it needs root")
}

/// Whether a test that runs the agent can run here. A binary that happens to lie beside the test
/// does not count: without a BPF toolchain it has no programs to load.
pub fn can_run_agent() -> bool {
    env::var_os("BULKHEAD_BIN").is_some() || skip("it needs the agent: `cargo xtask test`, or set BULKHEAD_BIN")
}

/// Whether a test that has the node translate addresses can run here.
pub fn can_translate() -> bool {
    std::process::Command::new("nft").arg("--version").output().is_ok() || skip("it needs nft: install nftables")
}

/// The archive with the agent's image, where somebody has built one.
pub fn agent_image() -> Option<PathBuf> {
    env::var_os("BULKHEAD_IMAGE").map(PathBuf::from)
}

/// Says so past the capture of test output.
fn skip(reason: &str) -> bool {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // One write, so that parallel tests do not mix; nobody listens to a closed standard error.
    let _ = std::io::stderr().write_all(format!("SKIPPED {test}: {reason}\n").as_bytes());
    false
}
