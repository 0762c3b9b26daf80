//! Tests of unprotected pods: each reason beside a control that is protected, and who causes it.

use super::*;
use crate::model::input::{Attachment, Change, Endpoint, LinkKind, NetnsInterfaces, Tenant};
use crate::model::settings::Settings;
use crate::model::testing::{apply_all, cluster, compiled, ip, key, link, namespace, remote, tenant};

use UnprotectedReason::{HostNetwork, NetnsUnreadable, NoEthernet, NoInterface, NoPair, NotAttached, SecondInterface};

/// A pod whose network namespace is `netns`.
fn pod(path: &str, netns: &str, address: &str) -> Endpoint {
    let attachment = Attachment { port: HostPort::Netns(netns.to_owned()), ..Attachment::default() };
    Endpoint { local: Some(attachment), ..remote(path, &[address]) }
}

/// The node's end of a pair. The other end has index 2 in `netns`.
fn end(ifindex: u32, netns: &str) -> Link {
    let name = format!("veth{ifindex}");
    Link { kind: LinkKind::Pair, netns: Some(netns.to_owned()), peer: 2, ..link(ifindex, &name) }
}

fn inner(ifindex: u32, name: &str, kind: &str, lower: LowerEnd) -> InnerLink {
    InnerLink { ifindex, name: name.to_owned(), kind: kind.to_owned(), lower }
}

/// The pod's end of the pair of [`end`].
fn eth0() -> InnerLink {
    inner(2, "eth0", "veth", LowerEnd::Node)
}

fn contents(links: Vec<InnerLink>) -> NetnsContents {
    NetnsContents { links, ..NetnsContents::default() }
}

fn inside(all: Vec<(&str, NetnsContents)>) -> Change {
    let by_name = all.into_iter().map(|(name, contents)| (name.to_owned(), contents)).collect();
    Change::NetnsInterfaces(NetnsInterfaces { by_name, unlisted: None })
}

/// A node with pod `web/a` in `cni-a`, and the control `web/b` in `cni-b`, both of acme and both enforced.
fn node() -> Cluster {
    cluster(
        Settings { hold_unknown: true, ..Settings::default() },
        vec![
            Change::Tenant(tenant("acme")),
            Change::Namespace(namespace("web", "acme")),
            Change::Links(vec![end(7, "cni-a"), end(8, "cni-b")]),
            Change::Nodes(vec![ip("192.0.2.1")]),
            Change::Endpoint(pod("web/a", "cni-a", "10.0.0.1")),
            Change::Endpoint(pod("web/b", "cni-b", "10.0.0.2")),
            inside(vec![("cni-a", contents(vec![eth0()])), ("cni-b", contents(vec![eth0()]))]),
        ],
    )
}

/// What is found after these changes while these interfaces hold the programs.
fn found(changes: Vec<Change>, attached: &[u32]) -> Vec<UnprotectedPod> {
    let mut cluster = node();
    apply_all(&mut cluster, changes);
    let desired = compiled(&cluster, 0);
    find(&cluster, &desired.endpoints, &attached.iter().copied().collect())
}

/// The same as pods and reasons.
fn reasons(changes: Vec<Change>, attached: &[u32]) -> Vec<(String, UnprotectedReason)> {
    let path = |pod: &UnprotectedPod| format!("{}/{}", pod.pod.namespace, pod.pod.name);
    found(changes, attached).iter().map(|pod| (path(pod), pod.reason)).collect()
}

fn of_a(reason: UnprotectedReason) -> Vec<(String, UnprotectedReason)> {
    vec![("web/a".to_owned(), reason)]
}

/// `cni-a` holds this beside `cni-b` as it should be.
fn a_holds(contents_of_a: NetnsContents) -> Change {
    inside(vec![("cni-a", contents_of_a), ("cni-b", contents(vec![eth0()]))])
}

#[test]
fn pods_whose_interfaces_hold_the_programs_are_protected() {
    assert_eq!(found(vec![], &[7, 8]), []);
}

#[test]
fn an_interface_without_programs_is_found_and_the_other_pod_is_not() {
    assert_eq!(reasons(vec![], &[8]), of_a(NotAttached));
    assert!(found(vec![], &[8])[0].detail.contains("veth7"));
}

#[test]
fn an_interface_without_an_ethernet_header_is_the_nodes_fault_unless_another_is_readable() {
    let l3 = |ifindex, peer| Link { lacks_ethernet: true, peer, ..end(ifindex, "cni-a") };
    let only = vec![Change::Links(vec![l3(7, 2), end(8, "cni-b")])];
    assert_eq!(reasons(only, &[8]), of_a(NoEthernet));
    let second = vec![
        Change::Links(vec![end(7, "cni-a"), l3(9, 3), end(8, "cni-b")]),
        a_holds(contents(vec![eth0(), inner(3, "net1", "netkit", LowerEnd::Node)])),
    ];
    assert_eq!(reasons(second, &[7, 8]), of_a(SecondInterface));
}

#[test]
fn a_pod_that_is_denied_behind_its_programs_is_closed_and_not_unprotected() {
    let no_address = Endpoint { addresses: vec![], ..pod("web/a", "cni-a", "10.0.0.1") };
    let refused = pod("web/a", "cni-a", "192.0.2.1");
    let contested = pod("web/a", "cni-a", "10.0.0.2");
    for (what, denied) in [("no address", no_address), ("a node's address", refused), ("another's", contested)] {
        assert_eq!(found(vec![Change::Endpoint(denied)], &[7, 8]), [], "{what}");
    }
    let shared = vec![Change::Endpoint(pod("web/b", "cni-a", "10.0.0.2"))];
    assert_eq!(found(shared, &[7, 8]), [], "an interface that two pods name is denied");
}

#[test]
fn further_interfaces_that_lead_out_are_found() {
    for (name, kind, lower) in [
        ("net1", "macvlan", LowerEnd::Node),
        ("net1", "ipvlan", LowerEnd::Node),
        ("net1", "vlan", LowerEnd::Elsewhere),
        ("net1", "", LowerEnd::Inside),
        ("net1", "veth", LowerEnd::Elsewhere),
        ("net1", "openvswitch", LowerEnd::Inside),
        ("wg0", "wireguard", LowerEnd::Inside),
        ("vxlan0", "vxlan", LowerEnd::Node),
    ] {
        let further = a_holds(contents(vec![eth0(), inner(3, name, kind, lower)]));
        assert_eq!(reasons(vec![further], &[7, 8]), of_a(SecondInterface), "{kind}");
    }
}

#[test]
fn interfaces_that_send_through_the_judged_one_are_not_found() {
    for kind in ["macvlan", "vlan", "bridge", "dummy", "tun", "vxlan", "sit", "veth"] {
        let link = inner(3, "inner", kind, LowerEnd::Inside);
        assert!(link.stays_inside(), "{kind}");
        assert!(!InnerLink { lower: LowerEnd::Node, ..link }.stays_inside(), "{kind}");
    }
    assert!(!inner(3, "inner", "", LowerEnd::Inside).stays_inside(), "hardware");
}

#[test]
fn a_second_pair_with_the_node_is_closed_while_its_end_holds_the_programs() {
    let second = Link { peer: 3, ..end(9, "cni-a") };
    let changes = || {
        let net1 = inner(3, "net1", "veth", LowerEnd::Node);
        vec![
            Change::Links(vec![end(7, "cni-a"), end(8, "cni-b"), second.clone()]),
            a_holds(contents(vec![eth0(), net1])),
        ]
    };
    assert_eq!(reasons(changes(), &[7, 8, 9]), []);
    assert_eq!(reasons(changes(), &[7, 8]), of_a(NotAttached));
}

#[test]
fn a_pod_without_a_pair_is_found_by_what_it_has_instead() {
    let only_b = || Change::Links(vec![end(8, "cni-b")]);
    let macvlan = || inner(2, "eth0", "macvlan", LowerEnd::Node);
    assert_eq!(reasons(vec![only_b(), a_holds(contents(vec![macvlan()]))], &[8]), of_a(NoPair));
    // A pod may remove its own interface. Nothing can leave it then.
    assert_eq!(reasons(vec![only_b(), a_holds(contents(vec![]))], &[8]), []);
}

#[test]
fn an_end_on_the_node_that_was_not_found_is_the_nodes_fault() {
    assert_eq!(reasons(vec![Change::Links(vec![end(8, "cni-b")])], &[8]), of_a(NoInterface));
}

#[test]
fn a_pod_without_a_sandbox_is_found_once_it_has_an_address() {
    let a = |address: &[&str], may_lack_sandbox| {
        let attachment = Attachment { port: HostPort::Netns(String::new()), may_lack_sandbox, ..Attachment::default() };
        vec![Change::Endpoint(Endpoint { local: Some(attachment), ..remote("web/a", address) })]
    };
    assert_eq!(reasons(a(&["10.0.0.1"], false), &[7, 8]), of_a(NoInterface));
    assert_eq!(reasons(a(&[], false), &[7, 8]), [], "it has not started");
    assert_eq!(reasons(a(&["10.0.0.1"], true), &[7, 8]), [], "it ends, or is static");
}

#[test]
fn what_cannot_be_read_is_never_absent() {
    let failed = || Some("permission denied".to_owned());
    let error = NetnsContents { error: failed(), ..contents(vec![eth0()]) };
    assert_eq!(reasons(vec![a_holds(error)], &[7, 8]), of_a(NetnsUnreadable));
    let unlisted = Change::NetnsInterfaces(NetnsInterfaces { by_name: BTreeMap::new(), unlisted: failed() });
    assert_eq!(reasons(vec![unlisted], &[7, 8]).len(), 2, "every pod");
    let partial = NetnsContents { is_partial: true, ..contents(vec![eth0()]) };
    assert_eq!(reasons(vec![a_holds(partial)], &[7, 8]), of_a(SecondInterface), "a pod can cause it");
    let kept = NetnsContents { error: failed(), ..contents(vec![eth0(), inner(3, "net1", "", LowerEnd::Inside)]) };
    let found: Vec<UnprotectedReason> =
        reasons(vec![a_holds(kept)], &[7, 8]).into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(found, [SecondInterface, NetnsUnreadable], "what was seen before still counts");
}

#[test]
fn host_network_pods_of_isolated_tenants_are_found() {
    let host = |path: &str| HostNetworkPod { key: key(path), uid: format!("uid of {path}"), cgroup: Some(9) };
    let changes = vec![
        Change::Tenant(Tenant { shared: true, ..tenant("platform") }),
        Change::Namespace(namespace("infra", "platform")),
        Change::Namespace(namespace("kube-system", "")),
        Change::HostNetworkPods(["web/h", "infra/dns", "kube-system/proxy", "unknown/x"].map(host).into()),
    ];
    let found = found(changes, &[7, 8]);
    let [pod] = &*found else { panic!("{found:?}") };
    assert_eq!((&pod.pod, pod.reason, &*pod.tenant), (&key("web/h"), HostNetwork, "acme"));
}

#[test]
fn what_a_pods_author_can_cause_is_never_the_nodes_fault() {
    let authors: Vec<_> =
        UnprotectedReason::ALL.into_iter().filter(|reason| reason.cause() == UnprotectedCause::Author).collect();
    assert_eq!(authors, [HostNetwork, NoPair, SecondInterface]);
}

#[test]
fn a_pod_with_many_interfaces_is_one_entry() {
    let links = (3..99).map(|ifindex| inner(ifindex, &format!("net{ifindex}"), "", LowerEnd::Inside)).collect();
    let found = found(vec![a_holds(contents(links))], &[7, 8]);
    assert!(found.len() == 1 && found[0].detail.ends_with("; and 92 more"), "{found:?}");
}

#[test]
fn a_pod_counts_after_a_while_and_until_it_is_protected() {
    let mut pods = UnprotectedPods::default();
    let at = Duration::from_secs;
    let bare = || found(vec![], &[8]);
    pods.update(bare(), at(100));
    assert_eq!((pods.lasting().count(), pods.next_due()), (0, Some(at(110))), "it starts");
    assert!(!pods.advance(at(109)) && pods.lasting().count() == 0);
    pods.update(bare(), at(109));
    assert!(pods.advance(at(110)) && !pods.advance(at(111)), "it counts once");
    assert_eq!((pods.lasting().count(), pods.next_due()), (1, None));
    pods.update(vec![], at(112));
    assert_eq!(pods.lasting().count(), 0);
    pods.update(bare(), at(113));
    assert_eq!(pods.lasting().count(), 0, "a pod that was protected meanwhile starts again");
}

#[test]
fn a_successor_of_the_same_name_has_its_own_time() {
    let mut pods = UnprotectedPods::default();
    let at = Duration::from_secs;
    let bare = found(vec![], &[8]);
    pods.update(bare.clone(), at(0));
    let successor = UnprotectedPod { uid: Uid::from("another"), ..bare[0].clone() };
    pods.update(vec![successor], at(20));
    assert_eq!((pods.lasting().count(), pods.next_due()), (0, Some(at(30))));
}
