//! Configuration of a node's daemons: containerd, kubelet and CNI, for both address families.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Node;
use crate::{
    Cni,
    images::PAUSE,
    plan::{DNS_SERVICE, Host},
};

/// Writes all of it into the node's directory.
pub(crate) fn write(node: &Node, cni: Cni) -> Result<()> {
    let directory = node.directory();
    super::directories(&directory)?;
    let put = |name: &str, text: String| {
        fs::write(directory.join(name), text).with_context(|| format!("cannot write {name} of node {}", node.name()))
    };
    put("containerd.toml", containerd(&node.cluster.directory("bin")))?;
    put("kubelet.json", kubelet().to_string())?;
    put("cni/10-pods.conflist", network(&node.host, cni).to_string())
}

/// NRI is on by default and stays so. Lowering the OOM score would need CAP_SYS_RESOURCE.
fn containerd(programs: &Path) -> String {
    let programs = programs.display();
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{programs}"]
  conf_dir = "/etc/cni/net.d"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "{programs}/runc"
  SystemdCgroup = false
"#
    )
}

/// The API server reaches kubelets without a client certificate: no foreign host is on the lan. Scenarios kill
/// agents again and again, so a container restarts after 5 s instead of up to 5 minutes (beta and on since Kubernetes
/// 1.35).
fn kubelet() -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": [DNS_SERVICE.0],
        "clusterDomain": "cluster.local",
        "crashLoopBackOff": {"maxContainerRestartPeriod": "5s"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
        "resolvConf": "/etc/resolv.conf",
        "syncFrequency": "10s",
        "maxPods": 240,
    })
}

/// `ptp`: a routed veth per pod. `bridge`: all pods of the node on one bridge.
fn network(host: &Host, cni: Cni) -> Value {
    let ranges: Vec<_> = host.pod_ranges().iter().map(|range| json!([{"subnet": range}])).collect();
    let ipam = json!({
        "type": "host-local",
        "ranges": ranges,
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    });
    let pods = match cni {
        Cni::Ptp => json!({"type": "ptp", "ipam": ipam}),
        Cni::Bridge => {
            json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": ipam})
        }
    };
    let ports = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [pods, ports]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::NODES;

    #[test]
    fn pods_get_an_address_of_each_family() {
        for cni in [Cni::Ptp, Cni::Bridge] {
            let ranges = network(&NODES[1], cni)["plugins"][0]["ipam"]["ranges"].clone();
            assert_eq!(ranges[0][0]["subnet"], "10.244.2.0/24");
            assert_eq!(ranges[1][0]["subnet"], "fd00:10:244:2::/64");
        }
    }

    #[test]
    fn the_plugin_is_the_one_asked_for() {
        assert_eq!(network(&NODES[0], Cni::Ptp)["plugins"][0]["type"], "ptp");
        assert_eq!(network(&NODES[0], Cni::Bridge)["plugins"][0]["type"], "bridge");
    }

    #[test]
    fn containerd_finds_plugins_and_runtime_where_the_cluster_has_them() {
        let text = containerd(Path::new("/state/x/bin"));
        assert!(text.contains(r#"bin_dirs = ["/state/x/bin"]"#));
        assert!(text.contains(r#"BinaryName = "/state/x/bin/runc""#));
        assert!(text.contains(r#"sandbox = "localhost/pause:1""#));
    }
}
