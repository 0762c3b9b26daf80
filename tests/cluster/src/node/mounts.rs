//! The script of a node's first process, which makes the node's mounts.
//!
//! The machine's directories stay unchanged. `/etc` and `/var/lib` get an upper layer in the node's memory. Only what
//! must be on a disk is bound from the cluster's directory.

use std::path::Path;

use super::Node;
use crate::{cgroup::Hierarchy, plan::DNS_SERVICE};

/// The script makes the mounts, creates the file `ready`, and keeps running. Its shell also reaps orphaned processes.
pub(crate) fn script(node: &Node, hierarchies: &[Hierarchy]) -> String {
    let (name, directory) = (node.host.name, node.directory());
    let directory = directory.display();
    let (overlays, controllers) = (overlays(), cgroups(hierarchies));
    format!(
        "hostname {name}\n\
         mount -t tmpfs tmpfs /run\n\
         mkdir -p /run/containerd /run/netns /run/lock /run/disk\n\
         mount --bind {directory} /run/disk\n\
         {overlays}\
         mkdir -p /var/lib/kubelet /var/lib/containerd /etc/cni/net.d\n\
         mount --bind /run/disk/kubelet /var/lib/kubelet\n\
         mount --bind /run/disk/containerd /var/lib/containerd\n\
         mount --bind /run/disk/cni /etc/cni/net.d\n\
         mount --bind /run/disk/log /var/log\n\
         mkdir -p /var/log/pods /var/log/containers\n\
         rm -f /etc/resolv.conf; echo nameserver {dns} > /etc/resolv.conf\n\
         printf '127.0.0.1 localhost {name}\\n::1 localhost {name}\\n' > /etc/hosts\n\
         mount -t sysfs sysfs /sys\n\
         {controllers}\
         mount -t bpf bpf /sys/fs/bpf\n\
         mount --make-rshared /\n\
         touch /run/disk/ready\n\
         while :; do sleep 86400; done\n",
        dns = DNS_SERVICE.0,
    )
}

fn overlays() -> String {
    let overlay = |(path, name): (&str, &str)| {
        let upper = format!("/run/upper/{name}");
        format!(
            "mkdir -p {upper}/changes {upper}/work\n\
             mount -t overlay -o lowerdir={path},upperdir={upper}/changes,workdir={upper}/work overlay {path}\n"
        )
    };
    [("/etc", "etc"), ("/var/lib", "lib")].map(overlay).concat()
}

/// Mounts the same hierarchies at the same paths, with the node's own cgroup as the root.
fn cgroups(hierarchies: &[Hierarchy]) -> String {
    let root = Path::new("/sys/fs/cgroup");
    let several = hierarchies.iter().all(|hierarchy| hierarchy.path != root);
    let mut lines = String::new();
    if several {
        lines += "mount -t tmpfs tmpfs /sys/fs/cgroup\n";
    }
    for Hierarchy { path, kind, options } in hierarchies {
        let options = if options.is_empty() { String::new() } else { format!("-o {options} ") };
        let path = path.display();
        lines += &format!("mkdir -p {path}\nmount -t {kind} {options}{kind} {path}\n");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cluster, Id, plan::NODES};

    fn hierarchy(path: &str, kind: &str, options: &str) -> Hierarchy {
        Hierarchy { path: path.into(), kind: kind.into(), options: options.into() }
    }

    #[test]
    fn several_hierarchies_are_mounted_side_by_side() {
        let lines = cgroups(&[
            hierarchy("/sys/fs/cgroup/cpu", "cgroup", "cpu"),
            hierarchy("/sys/fs/cgroup/unified", "cgroup2", ""),
        ]);
        assert!(lines.starts_with("mount -t tmpfs tmpfs /sys/fs/cgroup\n"));
        assert!(lines.contains("mount -t cgroup -o cpu cgroup /sys/fs/cgroup/cpu\n"));
        assert!(lines.contains("mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified\n"));
    }

    #[test]
    fn a_single_hierarchy_is_the_directory_itself() {
        let lines = cgroups(&[hierarchy("/sys/fs/cgroup", "cgroup2", "")]);
        assert_eq!(lines, "mkdir -p /sys/fs/cgroup\nmount -t cgroup2 cgroup2 /sys/fs/cgroup\n");
    }

    #[test]
    fn the_machines_own_directories_are_only_a_lower_layer() {
        let cluster = Cluster::new(Id::new("x").unwrap(), Path::new("/state"));
        let script = script(&Node { cluster: &cluster, host: NODES[0] }, &[]);
        let before = |what: &str, then: &str| script.find(what).unwrap() < script.find(then).unwrap();
        assert!(before("lowerdir=/etc", "mkdir -p /var/lib/kubelet"));
        assert!(before("lowerdir=/var/lib", "mkdir -p /var/lib/kubelet"));
        assert!(before("mount -t tmpfs tmpfs /run", "mkdir -p /run"));
    }
}
