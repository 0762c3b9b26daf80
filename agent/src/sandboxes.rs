//! Which pod has which network namespace, as the container runtime's CNI library wrote it down.
//!
//! The library keeps the result of each ADD in a file: the pod's UID, its namespace, its addresses.
//! Only root can write there, no pod can. Observes and believes nothing else: whether the pod exists,
//! and which interface leads to the namespace, others know. A file that cannot be read is read again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};
use serde::Deserialize;
use tokio::sync::{Notify, watch};

use policy::model::input::PodCgroup;

/// How often the folder is read without notice: a lost notice costs no more.
const AGAIN: Duration = Duration::from_secs(2);

/// A pod's network, as its runtime made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// UID of the pod.
    pub uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Name of its network namespace.
    pub netns: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its control group, as the runtime calls it.
    pub cgroup: Option<String>,
    /// The same as it was seen.
    pub group: Option<PodCgroup>,
    /// When this was written; a pod whose sandbox died has two for a while, and the later counts.
    pub written: SystemTime,
}

/// Control groups of pods by UID, whether they have a network of their own or the node's.
pub type Groups = BTreeMap<String, u64>;

/// What a node shows of its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Networks.
    pub sandboxes: Arc<Vec<Sandbox>>,
    /// Control groups.
    pub groups: Arc<Groups>,
}

/// All of it; `None` until the folder was read.
pub type Sandboxes = Option<Made>;

/// Where a node shows what pods are made of.
#[derive(Clone, Debug)]
pub struct Places {
    /// Where the CNI library keeps its results.
    pub cache: PathBuf,
    /// Where network namespaces have names: without one there, a result is a leftover.
    pub namespaces: PathBuf,
    /// The control groups' hierarchy of version 2, if there is one.
    pub groups: Option<PathBuf>,
}

/// Where below `root` the control groups' hierarchy of version 2 is: it is the only one, or beside those of
/// version 1.
pub fn hierarchy(root: &Path) -> Option<PathBuf> {
    /// `CGROUP2_SUPER_MAGIC`.
    const MAGIC: u64 = 0x6367_7270;
    let is_it = |path: &PathBuf| rustix::fs::statfs(path).is_ok_and(|found| found.f_type as u64 == MAGIC);
    [root.to_owned(), root.join("unified")].into_iter().find(is_it)
}

/// Tells all sandboxes, and again whenever they change, until nobody listens.
pub async fn follow(places: Places, to: watch::Sender<Sandboxes>) {
    let news = Arc::new(Notify::new());
    let mut eyes = Eyes { watcher: watcher(&news), watches: false };
    let mut known = Known::default();
    loop {
        eyes.watch(&places.cache);
        let places = places.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let sandboxes = known.look(&places);
            let groups = groups(&sandboxes);
            (known, Made { sandboxes: Arc::new(sandboxes), groups: Arc::new(groups) })
        });
        let Ok((kept, made)) = looked.await else { return };
        known = kept;
        to.send_if_modified(|told| {
            let differs = told.as_ref() != Some(&made);
            if differs {
                *told = Some(made);
            }
            differs
        });
        tokio::select! {
            () = news.notified() => {}
            () = tokio::time::sleep(AGAIN) => {}
            () = to.closed() => return,
        }
    }
}

struct Eyes {
    watcher: Option<notify::RecommendedWatcher>,
    watches: bool,
}

impl Eyes {
    /// The folder may appear after us: the runtime makes it with the first pod.
    fn watch(&mut self, folder: &Path) {
        let Some(watcher) = self.watcher.as_mut().filter(|_| !self.watches) else { return };
        match watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => self.watches = true,
            Err(error) => {
                let folder = folder.display();
                tracing::debug!(%folder, %error, "no notices of new pods: looking every two seconds");
            }
        }
    }
}

fn watcher(news: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let bell = Arc::clone(news);
    let ring = move |event: notify::Result<notify::Event>| {
        // Our own reading is an event too; the end of somebody's writing is the one that counts.
        let is_news = event.map_or(true, |event| match event.kind {
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        });
        if is_news {
            bell.notify_one();
        }
    };
    notify::recommended_watcher(ring)
        .inspect_err(|error| tracing::warn!(%error, "no notices of new pods: looking every two seconds"))
        .ok()
}

/// Files that were read: a result does not change once it is written.
#[derive(Default)]
struct Known {
    files: HashMap<PathBuf, (SystemTime, u64, Option<Sandbox>)>,
}

impl Known {
    fn look(&mut self, places: &Places) -> Vec<Sandbox> {
        let mut files = HashMap::new();
        for entry in fs::read_dir(&places.cache).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(metadata) = entry.metadata() else { continue };
            let Ok(written) = metadata.modified() else { continue };
            let stamp = (written, metadata.len());
            let sandbox = match self.files.remove(&path) {
                Some((written, len, sandbox)) if (written, len) == stamp => sandbox,
                _ => match fs::read(&path).map(|text| read(&text, written)) {
                    Ok(Ok(sandbox)) => sandbox,
                    // Half written, or gone again: next time.
                    Ok(Err(_)) | Err(_) => continue,
                },
            };
            files.insert(path, (stamp.0, stamp.1, sandbox));
        }
        self.files = files;
        for (.., sandbox) in self.files.values_mut() {
            // Looked for until it was seen: its directory goes before the pod does, and no id is given twice.
            if let Some(sandbox) = sandbox.as_mut().filter(|sandbox| sandbox.group.is_none()) {
                let place = places.groups.as_ref().zip(sandbox.cgroup.as_ref());
                sandbox.group = place.and_then(|(root, path)| group(root, path));
            }
        }
        let read = self.files.values().filter_map(|(.., sandbox)| sandbox.clone());
        let is_there = |sandbox: &Sandbox| places.namespaces.join(&sandbox.netns).exists();
        let mut all: Vec<Sandbox> = read.filter(is_there).collect();
        all.sort_by(|a, b| (&a.uid, a.written, &a.netns).cmp(&(&b.uid, b.written, &b.netns)));
        all
    }
}

/// A pod's control group, if it is there: in that of its quality of service, or directly in the one that
/// holds those of all pods, which the kubelet calls `kubepods`.
fn group(root: &Path, path: &str) -> Option<PodCgroup> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let at = parts.iter().position(|part| is_parent(part))?;
    let is_plain = !parts.contains(&"..") && (at + 2..=at + 3).contains(&parts.len());
    let id = fs::metadata(root.join(parts.join("/"))).ok().filter(|_| is_plain)?.ino();
    let parent = root.join(parts[..=at].join("/")).to_str()?.to_owned();
    Some(PodCgroup { id, parent })
}

/// All pods' groups, beside those that sandboxes have.
fn groups(sandboxes: &[Sandbox]) -> Groups {
    let parents: BTreeSet<&str> =
        sandboxes.iter().filter_map(|sandbox| Some(&*sandbox.group.as_ref()?.parent)).collect();
    let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let classes = parents.iter().flat_map(|parent| list(Path::new(parent)));
    let classes: Vec<PathBuf> = classes.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    let pods = parents.iter().map(Path::new).chain(classes.iter().map(PathBuf::as_path)).flat_map(list);
    pods.filter_map(|entry| Some((uid(entry.file_name().to_str()?)?, entry.ino()))).collect()
}

/// The UID in the name that the kubelet gives a pod's group, with either driver.
fn uid(name: &str) -> Option<String> {
    match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").map(|(_, uid)| uid.replace('_', "-")),
        None => name.strip_prefix("pod").map(str::to_owned),
    }
}

/// Whether the kubelet calls the group of all pods so, with either driver and below whatever root.
fn is_parent(part: &str) -> bool {
    part == "kubepods" || part == "kubepods.slice" || part.ends_with("-kubepods.slice")
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    kind: String,
    if_name: Option<String>,
    #[serde(default)]
    netns: String,
    #[serde(default)]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default)]
    capability_args: Option<CachedCapabilities>,
    result: Option<CachedResult>,
}

/// What the runtime tells every plugin, asked or not.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CachedCapabilities {
    #[serde(default)]
    cgroup_path: Option<String>,
}

#[derive(Deserialize)]
struct CachedResult {
    #[serde(default)]
    ips: Option<Vec<CachedIp>>,
}

#[derive(Deserialize)]
struct CachedIp {
    address: String,
}

/// What a file says; `None` where it speaks of no pod's main interface.
fn read(text: &[u8], written: SystemTime) -> Result<Option<Sandbox>, serde_json::Error> {
    let cached: Cached = serde_json::from_slice(text)?;
    let args = cached.cni_args.unwrap_or_default();
    let arg = |name: &str| args.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    // Further interfaces of a pod are held and stay denied: one endpoint has one interface.
    let is_main = cached.kind == "cniCacheV1" && cached.if_name.as_deref() == Some("eth0");
    let netns = Path::new(&cached.netns).file_name().map(|name| name.to_string_lossy().into_owned());
    let (Some(uid), Some(netns), true) = (arg("K8S_POD_UID"), netns, is_main) else { return Ok(None) };
    let ips = cached.result.and_then(|result| result.ips).unwrap_or_default();
    let addresses = ips.iter().filter_map(|ip| address(&ip.address)).collect();
    let namespace = arg("K8S_POD_NAMESPACE").unwrap_or_default();
    let name = arg("K8S_POD_NAME").unwrap_or_default();
    let cgroup = cached.capability_args.and_then(|told| told.cgroup_path);
    Ok(Some(Sandbox { uid, namespace, name, netns, addresses, cgroup, group: None, written }))
}

fn address(text: &str) -> Option<IpAddr> {
    let net: Option<IpNet> = text.parse().ok();
    net.map(|net| net.addr()).or_else(|| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"kind":"cniCacheV1","containerId":"c1","config":"e30=","ifName":"eth0","networkName":"pods",
        "netns":"/var/run/netns/cni-1","capabilityArgs":{"cgroupPath":"/kubepods/burstable/podu1","dns":{}},"cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","shop"],
        ["K8S_POD_NAME","web-0"],["K8S_POD_UID","u1"]],
        "result":{"cniVersion":"1.0.0","ips":[{"address":"10.244.0.5/24","gateway":"10.244.0.1"},{"address":"fd00::5/64"}]}}"#;

    #[test]
    fn a_result_names_the_pod_its_namespace_and_its_addresses() {
        let sandbox = read(FILE.as_bytes(), SystemTime::UNIX_EPOCH).expect("JSON").expect("a pod");
        assert_eq!((&*sandbox.uid, &*sandbox.namespace, &*sandbox.netns), ("u1", "shop", "cni-1"));
        let addresses: Vec<String> = sandbox.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.244.0.5", "fd00::5"]);
        assert_eq!(sandbox.cgroup.as_deref(), Some("/kubepods/burstable/podu1"));
    }

    #[test]
    fn the_group_of_all_pods_is_found_with_either_driver() {
        let root = tempfile::tempdir().expect("a folder");
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
            assert_eq!(group(root.path(), path), None, "{path} is not there yet");
            fs::create_dir_all(root.path().join(&path[1..])).expect("folders");
            let found = group(root.path(), path).expect("a group");
            assert_eq!(found.parent, root.path().join(parent).to_str().expect("a path"));
            assert_eq!(found.id, fs::metadata(root.path().join(&path[1..])).expect("a folder").ino());
        }
        fs::create_dir_all(root.path().join("kubepods/burstable/podu1/c1")).expect("folders");
        fs::create_dir_all(root.path().join("system.slice/x")).expect("folders");
        for path in ["/kubepods", "/kubepods/burstable/podu1/c1", "/system.slice/x", "/kubepods/../kubepods/podu1", ""]
        {
            assert_eq!(group(root.path(), path), None, "{path}");
        }
    }

    #[test]
    fn groups_of_pods_on_the_node_s_network_are_seen_beside_the_others() {
        let root = tempfile::tempdir().expect("a folder");
        let made = ["kubepods/podu-1", "kubepods/burstable/podu-2/c1", "kubepods/besteffort/podu-3", "kubepods/x"];
        for path in made {
            fs::create_dir_all(root.path().join(path)).expect("folders");
        }
        let group = group(root.path(), "/kubepods/podu-1").expect("a group");
        let sandbox = read(FILE.as_bytes(), SystemTime::UNIX_EPOCH).expect("JSON").expect("a pod");
        assert!(groups(std::slice::from_ref(&sandbox)).is_empty(), "nobody has told where they are");
        let seen = groups(&[Sandbox { group: Some(group), ..sandbox }]);
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["u-1", "u-2", "u-3"]);
        let folder = root.path().join("kubepods/burstable/podu-2");
        assert_eq!(seen["u-2"], fs::metadata(folder).expect("a folder").ino());
        assert_eq!(uid("kubepods-besteffort-pod1b_2c.slice").as_deref(), Some("1b-2c"));
        assert_eq!((uid("kubepods-besteffort.slice"), uid("burstable")), (None, None));
    }

    #[test]
    fn loopback_and_other_interfaces_are_not_the_pod_s() {
        for text in [FILE.replace("eth0", "lo"), FILE.replace("cniCacheV1", "v0"), FILE.replace("K8S_POD_UID", "X")] {
            assert_eq!(read(text.as_bytes(), SystemTime::UNIX_EPOCH).expect("JSON"), None);
        }
    }

    #[test]
    fn a_half_written_file_is_read_again_and_a_leftover_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let below = |name: &str| folder.path().join(name);
        let places = Places { cache: below("results"), namespaces: below("netns"), groups: Some(below("cgroup")) };
        let Places { cache, namespaces: names, .. } = &places;
        let mut known = Known::default();
        assert!(known.look(&places).is_empty());
        fs::create_dir_all(cache).and_then(|()| fs::create_dir_all(names)).expect("folders");
        fs::write(cache.join("pods-c1-eth0"), &FILE[..40]).expect("a file");
        assert!(known.look(&places).is_empty());
        fs::write(cache.join("pods-c1-eth0"), FILE).expect("a file");
        assert!(known.look(&places).is_empty(), "nobody has that namespace");
        fs::write(names.join("cni-1"), "").expect("a name");
        assert_eq!(known.look(&places).iter().map(|sandbox| sandbox.group.is_some()).collect::<Vec<_>>(), [false]);
        fs::create_dir_all(below("cgroup/kubepods/burstable/podu1")).expect("folders");
        assert!(known.look(&places)[0].group.is_some(), "a group that appears late is seen");
        fs::remove_dir(below("cgroup/kubepods/burstable/podu1")).expect("it is empty");
        assert!(known.look(&places)[0].group.is_some(), "and known until the pod is gone");
        fs::remove_file(cache.join("pods-c1-eth0")).expect("it is there");
        assert!(known.look(&places).is_empty());
    }
}
