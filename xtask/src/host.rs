//! What this machine offers, and what this user may do on it.
//!
//! Reads and never changes anything. `setup` and `test` decide what to do about a missing part.

use std::{fs, path::Path};

use crate::workspace;

/// Where the kernel mounts its BPF file system.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The capabilities the kernel tests need, by bit number.
const CAPABILITIES: [(u32, &str); 4] =
    [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];

/// Facts about this machine.
pub(crate) struct Host {
    /// The effective user is root.
    pub root: bool,
    /// Packages can be installed with apt.
    pub apt: bool,
    /// The kernel describes its own types.
    pub btf: bool,
    /// The BPF file system is mounted at its usual place.
    pub bpffs: bool,
    /// Capabilities that this process lacks.
    pub lacking: Vec<&'static str>,
}

impl Host {
    /// Looks at this machine.
    pub(crate) fn look() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        Self {
            root: effective_user(&status) == Some(0),
            apt: workspace::on_path("apt-get").is_some() && workspace::on_path("dpkg-query").is_some(),
            btf: Path::new(BTF).exists(),
            bpffs: has_bpffs(&mounts),
            lacking: lacking(&status),
        }
    }

    /// Why programs cannot be loaded and attached here, each with its remedy; empty when they can.
    pub(crate) fn obstacles(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !self.root {
            found.push("not root: run it again with sudo".to_owned());
        } else if !self.lacking.is_empty() {
            found.push(format!("root without {}: grant them to this container", self.lacking.join(", ")));
        }
        if !self.btf {
            found.push(format!("no {BTF}: use a kernel built with CONFIG_DEBUG_INFO_BTF=y (5.10 or later)"));
        }
        if !self.bpffs {
            found.push(format!("no BPF file system: mount -t bpf bpf {BPFFS}"));
        }
        found
    }
}

/// Bytes that a first run of all tiers needs on the disk.
const ALL_TIERS: u64 = 12 << 30;

/// A warning if the disk may be too small for all tiers. `target` is the directory of the builds.
pub(crate) fn cramped(target: &Path) -> Option<String> {
    let stat = target.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
    let free = stat.f_bavail * stat.f_frsize;
    // A whole run builds this image last.
    let is_warm = target.join("image-quick").exists();
    (!is_warm && free < ALL_TIERS).then(|| {
        let (free, needed) = (gib(free), gib(ALL_TIERS));
        format!(
            "{} has {free:.1} GiB free, and all tiers take up to {needed:.0} GiB: free some space, or set CARGO_TARGET_DIR",
            target.display()
        )
    })
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn effective_user(status: &str) -> Option<u32> {
    field(status, "Uid:")?.split_whitespace().nth(1)?.parse().ok()
}

fn lacking(status: &str) -> Vec<&'static str> {
    let effective = field(status, "CapEff:").and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    CAPABILITIES.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name).collect()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(BPFFS) && words.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_counts_not_the_real_one() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(0));
        assert_eq!(effective_user("Uid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_user(""), None);
    }

    #[test]
    fn an_unreadable_status_grants_nothing() {
        assert_eq!(lacking("").len(), CAPABILITIES.len());
        assert_eq!(lacking("CapEff:\t000001ffffffffff\n"), Vec::<&str>::new());
        assert_eq!(lacking("CapEff:\t000001bfffffffff\n"), ["CAP_PERFMON"]);
    }

    #[test]
    fn only_a_bpf_mount_at_the_usual_place_counts() {
        assert!(has_bpffs("bpf /sys/fs/bpf bpf rw,nosuid 0 0\n"));
        assert!(!has_bpffs("tmpfs /sys/fs/bpf tmpfs rw 0 0\nbpf /mnt/bpf bpf rw 0 0\n"));
    }

    #[test]
    fn every_obstacle_names_a_remedy() {
        let bare = Host { root: false, apt: false, btf: false, bpffs: false, lacking: vec!["CAP_BPF"] };
        assert_eq!(bare.obstacles().len(), 3);
        let ready = Host { root: true, apt: true, btf: true, bpffs: true, lacking: Vec::new() };
        assert!(ready.obstacles().is_empty());
    }
}
