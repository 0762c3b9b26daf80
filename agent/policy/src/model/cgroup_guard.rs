//! The cgroup guard: where it is attached, and which pods' sockets may send.
//!
//! Knows cgroups only as the runtime and the kubelet made them for each pod. A pod's sockets may send once its
//! interface has programs: these judge the packets, and deny them until the pod's entry is written. The guard
//! recognises host-network pods by their network namespace. Their cgroups are claimed all the same, because they may
//! have sockets in other network namespaces (a network plugin's health checks).

use std::collections::BTreeSet;

use super::cluster::Cluster;
use super::endpoints::{EndpointStatus, Endpoints};
use super::input::PodCgroup;
use super::settings::CgroupGuardMode;

/// The guard as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupGuardState {
    /// Directory of the cgroup that holds the cgroups of all pods. With `None` the guard stays where it is.
    pub parent: Option<String>,
    /// Ids of the cgroups of pods whose interfaces have programs, and of host-network pods.
    pub claimed: BTreeSet<u64>,
}

/// Compiles the guard. The second value is a message about what is not guarded. `attached` are the interfaces with
/// programs.
pub fn compile(
    cluster: &Cluster,
    endpoints: &Endpoints,
    attached: &BTreeSet<u32>,
) -> (Option<CgroupGuardState>, Option<String>) {
    match &cluster.settings().cgroup_guard {
        CgroupGuardMode::Off => return (None, None),
        CgroupGuardMode::Unsupported(why) => {
            return (None, Some(format!("cgroup guard disabled: {why}. Set --cgroup-guard=none to silence this.")));
        }
        CgroupGuardMode::Auto => {}
    }
    let parents: BTreeSet<&String> = cluster.locals().values().filter_map(|pod| Some(&cgroup(pod)?.parent)).collect();
    let parent = if parents.len() == 1 { parents.first().copied().cloned() } else { None };
    let judged = |status: &&EndpointStatus| status.ifindex.is_some_and(|ifindex| attached.contains(&ifindex));
    let judged: Vec<&EndpointStatus> = endpoints.statuses.values().filter(judged).collect();
    let claimed = judged.iter().filter_map(|status| cgroup(&status.pod)).map(|cgroup| cgroup.id);
    let on_node = cluster.host_network_pods().iter().filter_map(|pod| pod.cgroup);
    let claimed = claimed.chain(on_node).collect();
    let gap = if parents.len() > 1 {
        let paths: Vec<&str> = parents.iter().map(|parent| parent.as_str()).collect();
        Some(format!(
            "cgroup guard not moved: the runtime reported cgroups of pods in several directories ({}). It stays where \
             it is until all are in one.",
            paths.join(", ")
        ))
    } else {
        judged.iter().find(|status| cgroup(&status.pod).is_none()).map(|status| unknown(status, parent.is_some()))
    };
    (Some(CgroupGuardState { parent, claimed }), gap)
}

fn cgroup(pod: &super::pod::Pod) -> Option<&PodCgroup> {
    pod.local.as_ref()?.attachment.cgroup.as_ref()
}

fn unknown(status: &EndpointStatus, is_guarded: bool) -> String {
    let (namespace, name) = (&status.pod.namespace, &status.pod.name);
    if is_guarded {
        format!(
            "sockets of pod {namespace}/{name} cannot send: the runtime reported no cgroup v2 path for it. Check the \
             pod's sandbox in the runtime."
        )
    } else {
        format!(
            "cgroup guard disabled: the runtime reported no cgroup v2 path for pod {namespace}/{name}. Set \
             --cgroup-guard=none to silence this."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::{Attachment, Change, Endpoint, HostNetworkPod, HostPort};
    use crate::model::settings::Settings;
    use crate::model::testing::{cluster, compiled, local, node_of_acme};

    fn pod(name: &str, port: &str, address: &str, cgroup: Option<(u64, &str)>) -> Endpoint {
        let pod = local(&format!("web/{name}"), &[address], port);
        let cgroup = cgroup.map(|(id, path)| PodCgroup { id, parent: path.to_owned() });
        Endpoint {
            local: Some(Attachment { port: HostPort::Interface(port.to_owned()), cgroup, ..Attachment::default() }),
            ..pod
        }
    }

    fn settings(mode: CgroupGuardMode) -> Settings {
        Settings { cgroup_guard: mode, ..Settings::default() }
    }

    /// The guard while these interfaces have programs.
    fn guard(mode: CgroupGuardMode, pods: Vec<Endpoint>, held: &[u32]) -> (Option<CgroupGuardState>, Option<String>) {
        let cluster = node_of_acme(settings(mode), pods);
        let desired = compiled(&cluster, 0);
        compile(&cluster, &desired.endpoints, &held.iter().copied().collect())
    }

    fn pods() -> Vec<Endpoint> {
        vec![pod("a", "veth7", "10.0.0.7", Some((70, "/k"))), pod("b", "veth8", "10.0.0.8", Some((80, "/k")))]
    }

    #[test]
    fn a_pod_may_send_once_programs_judge_it() {
        let known = |claimed: &[u64]| CgroupGuardState {
            parent: Some("/k".to_owned()),
            claimed: claimed.iter().copied().collect(),
        };
        assert_eq!(guard(CgroupGuardMode::Auto, pods(), &[]), (Some(known(&[])), None));
        assert_eq!(guard(CgroupGuardMode::Auto, pods(), &[8]), (Some(known(&[80])), None));
        assert_eq!(guard(CgroupGuardMode::Auto, pods(), &[7, 8]), (Some(known(&[70, 80])), None));
        let contested = vec![pods().remove(0), pod("b", "veth7", "10.0.0.8", Some((80, "/k")))];
        let (guard, gap) = guard(CgroupGuardMode::Auto, contested, &[7]);
        assert_eq!((guard, gap), (Some(known(&[70, 80])), None), "programs deny both");
    }

    #[test]
    fn host_network_pods_may_send_in_every_network_namespace() {
        let pods = [Some(90), None, Some(91)].map(|cgroup| HostNetworkPod { cgroup, ..HostNetworkPod::default() });
        let cluster = cluster(settings(CgroupGuardMode::Auto), vec![Change::HostNetworkPods(pods.into())]);
        let (guard, gap) = compile(&cluster, &Endpoints::default(), &BTreeSet::new());
        assert_eq!((guard.map(|guard| guard.claimed), gap), (Some([90, 91].into()), None));
    }

    #[test]
    fn without_pods_the_guard_stays_where_it_is() {
        assert_eq!(guard(CgroupGuardMode::Auto, vec![], &[]), (Some(CgroupGuardState::default()), None));
        assert_eq!(guard(CgroupGuardMode::Off, pods(), &[7, 8]), (None, None));
        let (none, gap) = guard(CgroupGuardMode::Unsupported("too old".to_owned()), pods(), &[7]);
        assert!(none.is_none() && gap.is_some_and(|gap| gap.contains("too old")));
    }

    #[test]
    fn an_unknown_cgroup_is_reported() {
        let unknown = || pod("b", "veth8", "10.0.0.8", None);
        let (guarded, gap) = guard(CgroupGuardMode::Auto, vec![pods().remove(0), unknown()], &[7, 8]);
        assert_eq!(guarded.map(|guard| guard.claimed), Some([70].into()));
        assert!(gap.is_some_and(|gap| gap.contains("web/b") && gap.contains("cannot send")));
        let (guarded, gap) = guard(CgroupGuardMode::Auto, vec![unknown()], &[8]);
        assert!(guarded.is_some_and(|guard| guard.parent.is_none()));
        assert!(gap.is_some_and(|gap| gap.contains("--cgroup-guard=none")));
    }

    #[test]
    fn of_several_directories_none_is_chosen_and_every_claim_is_kept() {
        let mut pods = pods();
        pods[1] = pod("b", "veth8", "10.0.0.8", Some((80, "/other")));
        let (guard, gap) = guard(CgroupGuardMode::Auto, pods, &[7, 8]);
        assert_eq!(guard, Some(CgroupGuardState { parent: None, claimed: [70, 80].into() }));
        assert!(gap.is_some_and(|gap| gap.contains("/k, /other")));
    }
}
