//! Tests of the cgroup guard alone, with no program on any interface.
//!
//! Real sockets of processes in cgroups that are laid out like a kubelet's, in a pod's network namespace or in the
//! node's.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, net::UdpSocket, process};

use agent_common::counters::Counter;
use agent_common::guard::Guard;
use agent_common::maps;
use agent_common::reason::DropReason;
use aya::maps::{MapData, PerCpuArray};
use bulkhead::dataplane::kernel::Kernel;
use bulkhead::dataplane::object::MapLimits;
use bulkhead::dataplane::{Dataplane, Recheck, cleanup};
use bulkhead::hierarchy;
use policy::model::cgroup_guard::CgroupGuardState;
use policy::model::guards::Guards;
use testbed::netns::Netns;
use testbed::scope::Scope;

/// The environment of the child process: its cgroup and the expected result.
const GROUP: &str = "BULKHEAD_TEST_GROUP";
const REFUSED: &str = "BULKHEAD_TEST_REFUSED";

/// Cgroups as a kubelet creates them, below a cgroup of this test, as deep as on a node that is a container.
struct Groups {
    root: PathBuf,
}

const GUARANTEED: &str = "kubepods/pod1/c1";
const BURSTABLE: &str = "kubepods/burstable/pod2/c2";
const BESIDE: &str = "system/agent";

impl Groups {
    fn new(scope: &Scope) -> Self {
        let hierarchy = hierarchy(Path::new("/sys/fs/cgroup")).expect("cgroup v2 is mounted below /sys/fs/cgroup");
        let groups = Self { root: hierarchy.join(format!("bulkhead-test-{}", scope.name())).join("node") };
        for group in [GUARANTEED, BURSTABLE, BESIDE] {
            fs::create_dir_all(groups.root.join(group)).expect("groups can be made");
        }
        groups
    }

    fn parent(&self) -> String {
        self.root.join("kubepods").display().to_string()
    }

    /// The guard with the named cgroups claimed.
    fn guard(&self, claimed: &[&str]) -> Guards {
        let id = |group: &&str| fs::metadata(self.root.join(group)).expect("it is there").ino();
        let pods = CgroupGuardState { parent: Some(self.parent()), claimed: claimed.iter().map(id).collect() };
        Guards { pods: Some(pods), ..Guards::default() }
    }

    /// Checks whether a process in a cgroup and a network namespace is refused.
    fn is(&self, refused: bool, netns: &Netns, group: &str) {
        let mut command = Command::new(env::current_exe().expect("this test"));
        command.args(["--exact", "--ignored", "--nocapture", "groups::sender_child_process"]);
        command.env(GROUP, self.root.join(group)).env(REFUSED, refused.to_string());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = netns.start(&mut command).and_then(process::Child::wait_with_output).expect("it runs");
        let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{group} in {}, refused {refused}: {printed}", netns.name());
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let mut directories: Vec<PathBuf> = self.root.parent().map(Path::to_owned).into_iter().collect();
        for at in 0.. {
            let Some(directory) = directories.get(at) else { break };
            let below = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
            let below: Vec<PathBuf> = below.filter(|path| path.is_dir()).collect();
            directories.extend(below);
        }
        // A cgroup is busy for a moment after its last process has ended.
        directories.iter().rev().for_each(|directory| {
            let _ = (0..50).find(|_| {
                let removed = fs::remove_dir(directory);
                if removed.is_err() {
                    std::thread::sleep(Duration::from_millis(20));
                }
                removed.is_ok()
            });
        });
    }
}

#[test]
#[ignore = "a child process of the other tests, which start it in a cgroup and a namespace"]
fn sender_child_process() {
    let group = PathBuf::from(env::var_os(GROUP).expect("a group"));
    fs::write(group.join("cgroup.procs"), process::id().to_string()).expect("it may join");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    // `send` succeeds even if the guard refuses the packet: the packet is lost as in the network.
    socket.send_to(b"x", socket.local_addr().expect("an address")).expect("it is sent");
    let refused = socket.recv(&mut [0; 1]).is_err();
    assert_eq!(refused.to_string(), env::var(REFUSED).expect("the expected result"));
}

/// Synchronises the guards on the node and checks that nothing failed.
fn sync(node: &Netns, kernel: &mut Kernel, guards: &Guards) {
    let failed = node.run(|| kernel.sync_guards(guards, Recheck::Kernel));
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test netns"]
fn sockets_of_pods_send_once_claimed_with_and_without_an_agent() {
    let scope = Scope::new().expect("a scope");
    let groups = Groups::new(&scope);
    let [node, pod] = ["node", "pod"].map(|name| scope.netns(name).expect("a namespace"));
    [&node, &pod].iter().for_each(|netns| netns.ip("link set lo up").expect("loopback"));
    let pins = scope.pin_dir().join("v1");

    let mut kernel = Kernel::open(&pins, &MapLimits::default()).expect("the programs load");
    assert!(kernel.no_groups().is_none(), "{:?}", kernel.no_groups());
    groups.is(false, &pod, BURSTABLE);
    sync(&node, &mut kernel, &groups.guard(&[]));
    for group in [BURSTABLE, GUARANTEED] {
        groups.is(true, &pod, group);
        groups.is(false, &node, group);
    }
    groups.is(false, &pod, BESIDE);

    sync(&node, &mut kernel, &groups.guard(&["kubepods/burstable/pod2"]));
    groups.is(false, &pod, BURSTABLE);
    groups.is(true, &pod, GUARANTEED);
    sync(&node, &mut kernel, &groups.guard(&["kubepods/pod1"]));
    groups.is(true, &pod, BURSTABLE);
    groups.is(false, &pod, GUARANTEED);

    let dropped: PerCpuArray<MapData, Counter> =
        kernel.take(maps::GUARD_DROPS.name).expect("a map").try_into().expect("counters");
    let counted = dropped.get(&Guard::Cgroup.index(DropReason::NotReady), 0).expect("a counter");
    assert_eq!(counted.iter().map(|cpu| cpu.packets).sum::<u64>(), 4);

    // No agent runs. Then the next agent adopts the guard, and removes it when the guard is switched off.
    drop((kernel, dropped));
    groups.is(true, &pod, BURSTABLE);
    groups.is(false, &pod, GUARANTEED);
    groups.is(false, &node, BURSTABLE);
    let mut kernel = Kernel::open(&pins, &MapLimits::default()).expect("the programs load");
    let unknown = CgroupGuardState { parent: None, ..groups.guard(&["kubepods/pod1"]).pods.expect("a guard") };
    sync(&node, &mut kernel, &Guards { pods: Some(unknown), ..Guards::default() });
    groups.is(true, &pod, BURSTABLE);
    sync(&node, &mut kernel, &groups.guard(&["kubepods/pod1"]));
    groups.is(true, &pod, BURSTABLE);
    groups.is(false, &pod, GUARANTEED);
    sync(&node, &mut kernel, &Guards::default());
    groups.is(false, &pod, BURSTABLE);

    sync(&node, &mut kernel, &groups.guard(&[]));
    groups.is(true, &pod, GUARANTEED);
    drop(kernel);
    let found = cleanup::find(&scope.pin_dir()).expect("the pins can be listed");
    assert_eq!(found.groups.len(), 1, "{found:?}");
    cleanup::remove(&scope.pin_dir(), &found).expect("it can be removed");
    groups.is(false, &pod, GUARANTEED);
}

#[test]
#[ignore = "needs root: cargo xtask test netns"]
fn a_missing_cgroup_is_reported_and_guards_no_pod() {
    let scope = Scope::new().expect("a scope");
    let groups = Groups::new(&scope);
    let pod = scope.netns("pod").expect("a namespace");
    pod.ip("link set lo up").expect("loopback");
    let mut kernel = Kernel::open(&scope.pin_dir().join("v1"), &MapLimits::default()).expect("the programs load");
    let mut guards = groups.guard(&[]);
    guards.pods.as_mut().and_then(|guard| guard.parent.as_mut()).expect("a guard").push_str("-gone");
    let failed = kernel.sync_guards(&guards, Recheck::Kernel);
    assert!(failed.len() == 1 && failed[0].to_string().contains("kubepods-gone"), "{failed:?}");
    groups.is(false, &pod, BURSTABLE);
}
