//! Finds the control groups of pods in the cgroup v2 hierarchy.
//!
//! The sandboxes name the group of all pods, `kubepods`. The pods on the node's network are found below it too. The
//! module observes and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use policy::model::input::PodCgroup;

/// The id of each pod's control group, by the pod's UID. Pods on the node's network are included.
pub(crate) type PodCgroupIds = BTreeMap<String, u64>;

/// The cgroup v2 hierarchy below `root`: it is the only hierarchy, or mounted beside those of version 1.
pub fn hierarchy(root: &Path) -> Option<PathBuf> {
    /// `CGROUP2_SUPER_MAGIC`.
    const MAGIC: u64 = 0x6367_7270;
    let is_hierarchy = |path: &PathBuf| rustix::fs::statfs(path).is_ok_and(|found| found.f_type as u64 == MAGIC);
    [root.to_owned(), root.join("unified")].into_iter().find(is_hierarchy)
}

/// The control group of a pod, if it exists. The kubelet puts it into the group of its quality of service, or directly
/// into `kubepods`, the group of all pods.
pub(super) fn find(root: &Path, path: &str) -> Option<PodCgroup> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let at = parts.iter().position(|part| is_parent(part))?;
    let is_regular = !parts.contains(&"..") && (at + 2..=at + 3).contains(&parts.len());
    let id = fs::metadata(root.join(parts.join("/"))).ok().filter(|_| is_regular)?.ino();
    let parent = root.join(parts[..=at].join("/")).to_str()?.to_owned();
    Some(PodCgroup { id, parent })
}

/// The control groups of all pods, including those without a sandbox of their own. `known` are the sandboxes' groups.
pub(super) fn of_pods<'a>(known: impl IntoIterator<Item = &'a PodCgroup>) -> PodCgroupIds {
    let parents: BTreeSet<&str> = known.into_iter().map(|group| &*group.parent).collect();
    let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let classes = parents.iter().flat_map(|parent| list(Path::new(parent)));
    let classes: Vec<PathBuf> = classes.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    let pods = parents.iter().map(Path::new).chain(classes.iter().map(PathBuf::as_path)).flat_map(list);
    pods.filter_map(|entry| Some((uid(entry.file_name().to_str()?)?, entry.ino()))).collect()
}

/// The pod's UID in the name of its control group, with either of the kubelet's cgroup drivers.
fn uid(name: &str) -> Option<String> {
    match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").map(|(_, uid)| uid.replace('_', "-")),
        None => name.strip_prefix("pod").map(str::to_owned),
    }
}

/// Whether this is the kubelet's name for the group of all pods, with either driver and below any root.
fn is_parent(part: &str) -> bool {
    part == "kubepods" || part == "kubepods.slice" || part.ends_with("-kubepods.slice")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::runtime::cni;

    #[test]
    fn the_group_of_all_pods_is_found_with_either_driver() {
        let root = tempfile::tempdir().expect("a directory");
        for (path, parent) in [
            ("/kubepods/burstable/podu1", "kubepods"),
            ("/kubepods/podu1", "kubepods"),
            ("/kubelet/kubepods/besteffort/podu1", "kubelet/kubepods"),
            ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podu1.slice", "kubepods.slice"),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podu1.slice",
                "kubelet.slice/kubelet-kubepods.slice",
            ),
        ] {
            assert_eq!(find(root.path(), path), None, "{path} does not exist yet");
            fs::create_dir_all(root.path().join(&path[1..])).expect("directories");
            let found = find(root.path(), path).expect("a group");
            assert_eq!(found.parent, root.path().join(parent).to_str().expect("a path"));
            assert_eq!(found.id, fs::metadata(root.path().join(&path[1..])).expect("a directory").ino());
        }
        fs::create_dir_all(root.path().join("kubepods/burstable/podu1/c1")).expect("directories");
        fs::create_dir_all(root.path().join("system.slice/x")).expect("directories");
        for path in ["/kubepods", "/kubepods/burstable/podu1/c1", "/system.slice/x", "/kubepods/../kubepods/podu1", ""]
        {
            assert_eq!(find(root.path(), path), None, "{path}");
        }
    }

    #[test]
    fn groups_of_pods_on_the_node_s_network_are_found_with_the_others() {
        let root = tempfile::tempdir().expect("a directory");
        let made = ["kubepods/podu-1", "kubepods/burstable/podu-2/c1", "kubepods/besteffort/podu-3", "kubepods/x"];
        for path in made {
            fs::create_dir_all(root.path().join(path)).expect("directories");
        }
        let group = find(root.path(), "/kubepods/podu-1").expect("a group");
        let sandbox = cni::sandbox(cni::tests::FILE.as_bytes(), SystemTime::UNIX_EPOCH).expect("JSON").expect("a pod");
        assert!(of_pods(&sandbox.group).is_empty(), "no sandbox names the group of all pods");
        let seen = of_pods(&[group]);
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["u-1", "u-2", "u-3"]);
        let directory = root.path().join("kubepods/burstable/podu-2");
        assert_eq!(seen["u-2"], fs::metadata(directory).expect("a directory").ino());
        assert_eq!(uid("kubepods-besteffort-pod1b_2c.slice").as_deref(), Some("1b-2c"));
        assert_eq!((uid("kubepods-besteffort.slice"), uid("burstable")), (None, None));
    }
}
