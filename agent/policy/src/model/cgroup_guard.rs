//! The guard on the control groups of pods: where it stands, and whose sockets it lets speak.
//!
//! A pod's sockets speak once its interface holds programs: from then on those judge what they send, and
//! deny it until the pod's entry is written. Pods on the node's own network the guard knows by that; their
//! groups are claimed all the same, for they may have sockets elsewhere (a network plugin's health checks).
//! Knows groups by what runtime and kubelet have made of each pod.

use std::collections::BTreeSet;

use super::cluster::Cluster;
use super::endpoints::{EndpointStatus, Endpoints};
use super::input::PodCgroup;
use super::settings::CgroupGuardMode;

/// What the guard should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupGuardState {
    /// Directory of the group that holds those of all pods; `None`: wherever it stands, it stays.
    pub parent: Option<String>,
    /// Ids of groups of pods whose interfaces hold programs, or who have the node's.
    pub claimed: BTreeSet<u64>,
}

/// Compiles the guard, and says what is missing. `attached` are interfaces that hold programs.
pub fn compile(
    cluster: &Cluster,
    endpoints: &Endpoints,
    attached: &BTreeSet<u32>,
) -> (Option<CgroupGuardState>, Option<String>) {
    match &cluster.settings().cgroup_guard {
        CgroupGuardMode::Off => return (None, None),
        CgroupGuardMode::Unsupported(why) => {
            return (None, Some(format!("no guard on the pods' control groups: {why}")));
        }
        CgroupGuardMode::Auto => {}
    }
    let parents: BTreeSet<&String> = cluster.locals().values().filter_map(|pod| Some(&cgroup(pod)?.parent)).collect();
    let parent = if parents.len() == 1 { parents.first().copied().cloned() } else { None };
    let judged = |status: &&EndpointStatus| status.ifindex.is_some_and(|ifindex| attached.contains(&ifindex));
    let judged: Vec<&EndpointStatus> = endpoints.statuses.values().filter(judged).collect();
    let claimed = judged.iter().filter_map(|status| cgroup(&status.pod)).map(|cgroup| cgroup.id);
    let claimed = claimed.chain(cluster.node_cgroups().iter().copied()).collect();
    let gap = if parents.len() > 1 {
        let paths: Vec<&str> = parents.iter().map(|parent| parent.as_str()).collect();
        Some(format!(
            "pods' control groups are in several places ({}): the guard on them stays where it is",
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
        format!("the control group of {namespace}/{name} is not known: its sockets may not speak")
    } else {
        format!(
            "no guard on the pods' control groups: the runtime tells of none in hierarchy version 2 (asked for \
             {namespace}/{name}); --cgroup-guard none says that this is meant"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::{Attachment, Change, Endpoint, HostPort};
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

    /// The guard while these interfaces hold programs.
    fn guard(mode: CgroupGuardMode, pods: Vec<Endpoint>, held: &[u32]) -> (Option<CgroupGuardState>, Option<String>) {
        let cluster = node_of_acme(settings(mode), pods);
        let desired = compiled(&cluster, 0);
        compile(&cluster, &desired.endpoints, &held.iter().copied().collect())
    }

    fn pods() -> Vec<Endpoint> {
        vec![pod("a", "veth7", "10.0.0.7", Some((70, "/k"))), pod("b", "veth8", "10.0.0.8", Some((80, "/k")))]
    }

    #[test]
    fn a_pod_speaks_once_programs_judge_it() {
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
    fn pods_on_the_node_s_network_speak_wherever_they_have_sockets() {
        let cluster = cluster(settings(CgroupGuardMode::Auto), vec![Change::NodeCgroups(vec![90, 91])]);
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
    fn a_group_that_is_not_known_is_told() {
        let unknown = || pod("b", "veth8", "10.0.0.8", None);
        let (guarded, gap) = guard(CgroupGuardMode::Auto, vec![pods().remove(0), unknown()], &[7, 8]);
        assert_eq!(guarded.map(|guard| guard.claimed), Some([70].into()));
        assert!(gap.is_some_and(|gap| gap.contains("web/b") && gap.contains("may not speak")));
        let (guarded, gap) = guard(CgroupGuardMode::Auto, vec![unknown()], &[8]);
        assert!(guarded.is_some_and(|guard| guard.parent.is_none()));
        assert!(gap.is_some_and(|gap| gap.contains("--cgroup-guard none")));
    }

    #[test]
    fn of_several_places_none_is_chosen_and_nobody_loses_his_claim() {
        let mut pods = pods();
        pods[1] = pod("b", "veth8", "10.0.0.8", Some((80, "/other")));
        let (guard, gap) = guard(CgroupGuardMode::Auto, pods, &[7, 8]);
        assert_eq!(guard, Some(CgroupGuardState { parent: None, claimed: [70, 80].into() }));
        assert!(gap.is_some_and(|gap| gap.contains("/k, /other")));
    }
}
