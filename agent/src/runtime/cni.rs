//! Reads which pod has which network namespace from the cache of the container runtime's CNI library.
//!
//! The library keeps the result of each ADD in a file: the pod's UID, its namespace and its addresses. Only root can
//! write there. The module does not know whether the pod exists, or which interface leads to the network namespace.
//! A file that could not be read is read again.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ipnet::IpNet;
use serde::Deserialize;

use super::{SandboxPaths, cgroups};
use policy::model::input::PodCgroup;

/// A pod's sandbox, as the CNI library describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sandbox {
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
    /// The networks of its addresses, without those of one address.
    pub networks: Vec<IpNet>,
    /// The path of its control group, as the runtime states it.
    pub cgroup: Option<String>,
    /// Its control group, once it was found.
    pub group: Option<PodCgroup>,
    /// When the file was written. A pod whose sandbox died has two files for a while, and the later one counts.
    pub written: SystemTime,
}

/// The files that were read, with their time and length. A complete file does not change.
#[derive(Default)]
pub(super) struct CniCache {
    files: HashMap<PathBuf, (SystemTime, u64, Option<Sandbox>)>,
}

impl CniCache {
    /// All sandboxes whose network namespace exists.
    pub(super) fn read(&mut self, paths: &SandboxPaths) -> Vec<Sandbox> {
        let mut files = HashMap::new();
        for entry in fs::read_dir(&paths.cache).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(metadata) = entry.metadata() else { continue };
            let Ok(written) = metadata.modified() else { continue };
            let stamp = (written, metadata.len());
            let sandbox = match self.files.remove(&path) {
                Some((written, len, sandbox)) if (written, len) == stamp => sandbox,
                _ => match fs::read(&path).map(|text| sandbox(&text, written)) {
                    Ok(Ok(sandbox)) => sandbox,
                    // The file is half written or gone. The next read tries again.
                    Ok(Err(_)) | Err(_) => continue,
                },
            };
            files.insert(path, (stamp.0, stamp.1, sandbox));
        }
        self.files = files;
        for (.., sandbox) in self.files.values_mut() {
            // Look up the group until it is found. Its directory is removed before the pod is, and ids are never
            // reused, so the first result stays valid.
            if let Some(sandbox) = sandbox.as_mut().filter(|sandbox| sandbox.group.is_none()) {
                let location = paths.groups.as_ref().zip(sandbox.cgroup.as_ref());
                sandbox.group = location.and_then(|(root, path)| cgroups::find(root, path));
            }
        }
        let read = self.files.values().filter_map(|(.., sandbox)| sandbox.clone());
        let exists = |sandbox: &Sandbox| paths.namespaces.join(&sandbox.netns).exists();
        let mut all: Vec<Sandbox> = read.filter(exists).collect();
        all.sort_by(|a, b| (&a.uid, a.written, &a.netns).cmp(&(&b.uid, b.written, &b.netns)));
        all
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CniResultFile {
    kind: String,
    if_name: Option<String>,
    #[serde(default)]
    netns: String,
    #[serde(default)]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default)]
    capability_args: Option<CniCapabilities>,
    result: Option<CniResult>,
}

/// What the runtime passes to every plugin.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CniCapabilities {
    #[serde(default)]
    cgroup_path: Option<String>,
}

#[derive(Deserialize)]
struct CniResult {
    #[serde(default)]
    ips: Option<Vec<CniAddress>>,
}

#[derive(Deserialize)]
struct CniAddress {
    address: String,
}

/// The sandbox that a file describes. `None`: the file does not describe the main interface of a pod.
pub(super) fn sandbox(text: &[u8], written: SystemTime) -> Result<Option<Sandbox>, serde_json::Error> {
    let cached: CniResultFile = serde_json::from_slice(text)?;
    let args = cached.cni_args.unwrap_or_default();
    let arg = |name: &str| args.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    // An endpoint has one interface. Further interfaces of a pod stay denied.
    let is_main = cached.kind == "cniCacheV1" && cached.if_name.as_deref() == Some("eth0");
    let netns = Path::new(&cached.netns).file_name().map(|name| name.to_string_lossy().into_owned());
    let (Some(uid), Some(netns), true) = (arg("K8S_POD_UID"), netns, is_main) else { return Ok(None) };
    let ips = cached.result.and_then(|result| result.ips).unwrap_or_default();
    let addresses = ips.iter().filter_map(|ip| address(&ip.address)).collect();
    let networks = ips.iter().filter_map(|ip| network(&ip.address)).collect();
    let namespace = arg("K8S_POD_NAMESPACE").unwrap_or_default();
    let name = arg("K8S_POD_NAME").unwrap_or_default();
    let cgroup = cached.capability_args.and_then(|capabilities| capabilities.cgroup_path);
    Ok(Some(Sandbox { uid, namespace, name, netns, addresses, networks, cgroup, group: None, written }))
}

fn address(text: &str) -> Option<IpAddr> {
    let net: Option<IpNet> = text.parse().ok();
    net.map(|net| net.addr()).or_else(|| text.parse().ok())
}

/// The network of an address with a prefix length. A plugin that routes each address by itself states a network of one
/// address, and one wider than any cluster is no network of pods.
fn network(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok()?.trunc();
    let shortest = if net.addr().is_ipv4() { 8 } else { 16 };
    (shortest..net.max_prefix_len()).contains(&net.prefix_len()).then_some(net)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::runtime) const FILE: &str = r#"{"kind":"cniCacheV1","containerId":"c1","config":"e30=","ifName":"eth0","networkName":"pods",
        "netns":"/var/run/netns/cni-1","capabilityArgs":{"cgroupPath":"/kubepods/burstable/podu1","dns":{}},
        "cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","web-0"],["K8S_POD_UID","u1"]],
        "result":{"cniVersion":"1.0.0","ips":[{"address":"10.244.0.5/24","gateway":"10.244.0.1"},{"address":"fd00::5/64"}]}}"#;

    #[test]
    fn a_result_gives_the_pod_its_namespace_and_its_addresses() {
        let sandbox = sandbox(FILE.as_bytes(), SystemTime::UNIX_EPOCH).expect("JSON").expect("a pod");
        assert_eq!((&*sandbox.uid, &*sandbox.namespace, &*sandbox.netns), ("u1", "shop", "cni-1"));
        let addresses: Vec<String> = sandbox.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.244.0.5", "fd00::5"]);
        let networks: Vec<String> = sandbox.networks.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.244.0.0/24", "fd00::/64"]);
        for none in ["10.244.0.5/32", "10.244.0.5", "10.244.0.5/0", "fd00::5/128"] {
            assert_eq!(network(none), None, "{none}");
        }
        assert_eq!(sandbox.cgroup.as_deref(), Some("/kubepods/burstable/podu1"));
    }

    #[test]
    fn loopback_and_other_interfaces_are_not_the_pod_s() {
        for text in [FILE.replace("eth0", "lo"), FILE.replace("cniCacheV1", "v0"), FILE.replace("K8S_POD_UID", "X")] {
            assert_eq!(sandbox(text.as_bytes(), SystemTime::UNIX_EPOCH).expect("JSON"), None);
        }
    }

    #[test]
    fn a_half_written_file_is_read_again_and_a_leftover_is_no_sandbox() {
        let directory = tempfile::tempdir().expect("a directory");
        let below = |name: &str| directory.path().join(name);
        let paths = SandboxPaths { cache: below("results"), namespaces: below("netns"), groups: Some(below("cgroup")) };
        let SandboxPaths { cache, namespaces: names, .. } = &paths;
        let mut known = CniCache::default();
        assert!(known.read(&paths).is_empty());
        fs::create_dir_all(cache).and_then(|()| fs::create_dir_all(names)).expect("directories");
        fs::write(cache.join("pods-c1-eth0"), &FILE[..40]).expect("a file");
        assert!(known.read(&paths).is_empty());
        fs::write(cache.join("pods-c1-eth0"), FILE).expect("a file");
        assert!(known.read(&paths).is_empty(), "the network namespace does not exist");
        fs::write(names.join("cni-1"), "").expect("a name");
        assert_eq!(known.read(&paths).iter().map(|sandbox| sandbox.group.is_some()).collect::<Vec<_>>(), [false]);
        fs::create_dir_all(below("cgroup/kubepods/burstable/podu1")).expect("directories");
        assert!(known.read(&paths)[0].group.is_some(), "a group that appears late is found");
        fs::remove_dir(below("cgroup/kubepods/burstable/podu1")).expect("an empty directory");
        assert!(known.read(&paths)[0].group.is_some(), "and kept until the pod is gone");
        fs::remove_file(cache.join("pods-c1-eth0")).expect("a file");
        assert!(known.read(&paths).is_empty());
    }
}
