//! The Debian packages that a cluster needs. Root installs what is missing; otherwise the error names it.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::command::{command, run};

/// A package, and a file or program by which it is recognised.
const PACKAGES: [(&str, &str); 12] = [
    ("busybox", "busybox"),
    ("conntrack", "conntrack"),
    ("ethtool", "ethtool"),
    ("gcc", "gcc"),
    ("iproute2", "ip"),
    ("iptables", "iptables"),
    ("libseccomp-dev", "/usr/include/seccomp.h"),
    ("nftables", "nft"),
    ("openssl", "openssl"),
    ("pkg-config", "pkg-config"),
    ("tar", "tar"),
    ("util-linux", "nsenter"),
];

/// The directories in which daemons search for programs, after the cluster's own.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Installs missing packages, or fails with their names.
pub fn packages() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    ensure!(
        rustix::process::geteuid().is_root(),
        "packages are missing: {names}; as root, run `apt-get install {names}`"
    );
    eprintln!("installing {names}");
    let mut install = command("apt-get", ["install", "--yes", "--no-install-recommends"]);
    // Another process may be using the package manager.
    install.arg("--option=DPkg::Lock::Timeout=300").args(&missing).env("DEBIAN_FRONTEND", "noninteractive");
    if run(&mut install).is_err() {
        // The lists of available packages may be old or missing.
        run(&mut command("apt-get", ["update"]))?;
        run(&mut install).with_context(|| format!("cannot install {names}"))?;
    }
    Ok(())
}

fn missing() -> Vec<&'static str> {
    PACKAGES.iter().filter(|(_, sign)| !present(sign)).map(|(package, _)| *package).collect()
}

fn present(sign: &str) -> bool {
    sign.starts_with('/') && Path::new(sign).exists()
        || PATH.split(':').any(|directory| Path::new(directory).join(sign).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_in_the_usual_directories_and_a_file_by_its_path() {
        assert!(present("sh") && present("/proc/self/stat"));
        assert!(!present("no-such-program") && !present("/no/such/file"));
    }
}
