//! Filters of a clsact qdisc, as on kernels before 6.6: ours comes first and replaces no other.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use aya::programs::TcAttachType;
use bulkhead::dataplane::kernel::Kernel;
use bulkhead::dataplane::object::MapLimits;
use bulkhead::dataplane::{AttachMethod, Dataplane, Port, cleanup};
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use testbed::foreign::{Foreign, PASS};
use testbed::host::{Family, Host};
use testbed::stream::DatagramStream;
use testbed::world::{Layout, World, interface};

/// An agent's programs without a policy, so each packet of an interface with them is dropped.
struct Filters<'a> {
    world: &'a World,
    kernel: Kernel,
    port: Port,
}

impl<'a> Filters<'a> {
    fn new(world: &'a World) -> Self {
        let pins = world.scope.pin_dir().join("v1");
        let kernel = Kernel::open(&pins, &MapLimits::default()).expect("the programs load");
        let name = interface(Host::AcmeWeb);
        let index = world.node.run(|| {
            let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
            name_to_index(&socket, &name).expect("an interface")
        });
        Self { world, kernel: kernel.with_method(AttachMethod::Clsact), port: Port { ifindex: index, name } }
    }

    fn attach(&mut self) -> Result<(), String> {
        self.world.node.run(|| self.kernel.attach(&self.port)).map_err(|error| bulkhead::with_causes(&error))
    }

    /// Programs that were before ours.
    fn displaced(&mut self) -> Vec<String> {
        self.kernel.take_displacements().iter().map(ToString::to_string).collect()
    }

    fn is_intact(&mut self) -> bool {
        self.world.node.run(|| self.kernel.is_intact(&self.port))
    }

    fn foreign(&self, slot: (u16, u16)) -> Foreign {
        let (scope, node) = (&self.world.scope, &self.world.node);
        Foreign::filter(scope, node, &self.port.name, TcAttachType::Ingress, PASS, slot).expect("a filter")
    }

    /// Whether packets from the pod leave the node. Answers do not matter, because `to_pod` drops them.
    fn passes(&self) -> bool {
        let stream = DatagramStream::start(self.world, Host::AcmeWeb, Host::Internet, Family::V4).expect("a stream");
        thread::sleep(Duration::from_millis(100));
        let stream = stream.stop();
        assert!(stream.sent > 10, "only {} were sent", stream.sent);
        !stream.arrived.is_empty()
    }

    /// Runs `tc filter` on the hook of packets from the pod, and returns its output.
    fn tc(&self, verb: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("tc");
        command.args(["filter", verb, "dev", &self.port.name, "ingress"]).args(arguments).stdout(Stdio::piped());
        let output = self.world.node.start(&mut command).expect("tc runs").wait_with_output().expect("it ends");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text")
    }

    /// How many filters of a name there are.
    fn count(&self, name: &str) -> usize {
        self.tc("show", &[]).lines().filter(|line| line.contains(&format!(" {name} direct-action"))).count()
    }
}

#[test]
#[ignore = "needs root: cargo xtask test netns"]
fn a_foreign_filter_stays_behind_ours_and_after_cleanup() {
    let world = World::new(Layout::Routed).expect("a world");
    let mut ours = Filters::new(&world);
    assert!(ours.passes(), "the control: nothing is attached");
    // Priority and handle that Cilium takes, and so did ours before.
    let foreign = ours.foreign((1, 1));
    assert!(ours.passes() && !ours.is_intact());
    ours.attach().expect("ours is attached");
    assert!(!ours.passes(), "ours runs first");
    assert!(ours.is_intact() && ours.displaced().is_empty(), "a filter that was there before is no displacement");
    assert_eq!((ours.count("from_pod"), ours.count("testbed")), (1, 1));

    // An agent that is restarted replaces its own.
    drop(ours);
    let mut ours = Filters::new(&world);
    assert!(!ours.is_intact() && !ours.passes(), "the programs are those of the last agent");
    ours.attach().expect("ours is attached");
    assert!(ours.is_intact() && !ours.passes());
    assert_eq!((ours.count("from_pod"), ours.count("testbed")), (1, 1));

    let root = world.scope.pin_dir();
    world.node.run(|| {
        let found = cleanup::find(&root).expect("the pins can be listed");
        cleanup::remove(&root, &found).expect("it can be removed");
    });
    assert_eq!((ours.count("from_pod"), ours.count("testbed")), (0, 1), "the other agent's filter is still there");
    assert!(ours.passes());
    drop(foreign);
}

#[test]
#[ignore = "needs root: cargo xtask test netns"]
fn a_filter_put_before_ours_is_overtaken_and_reported() {
    let world = World::new(Layout::Routed).expect("a world");
    let mut ours = Filters::new(&world);
    assert!(ours.passes(), "the control: nothing is attached");
    ours.attach().expect("ours is attached");
    assert!(ours.is_intact() && !ours.passes());
    let foreign = ours.foreign((1, 77));
    assert!(ours.passes() && !ours.is_intact(), "the attack: ours does not run");
    ours.attach().expect("ours is moved");
    assert!(ours.is_intact() && !ours.passes(), "ours runs first again");
    let reported = ours.displaced();
    let name = format!("program {}", foreign.id);
    assert!(
        reported.len() == 1 && reported[0].contains(&name) && reported[0].contains(&ours.port.name),
        "{reported:?}"
    );
    assert_eq!((ours.count("from_pod"), ours.count("testbed")), (1, 1));
    ours.attach().expect("ours is attached");
    assert!(ours.displaced().is_empty() && ours.is_intact(), "it is reported once");
}

#[test]
#[ignore = "needs root: cargo xtask test netns"]
fn a_filter_that_ours_cannot_precede_is_an_error_and_stays() {
    let world = World::new(Layout::Routed).expect("a world");
    let mut ours = Filters::new(&world);
    drop(ours.foreign((9, 1)));
    // A priority has one kind of filter, and 1 is the first.
    let all = ["match", "u32", "0", "0", "flowid", "1:0"];
    ours.tc("add", &[["prio", "1", "protocol", "all", "u32"].as_slice(), &all].concat());
    for _ in 0..2 {
        let error = ours.attach().expect_err("ours is not first");
        assert!(error.contains("u32 filter") && error.contains("priority 1"), "{error}");
        assert!(!ours.is_intact());
        assert_eq!(ours.count("from_pod"), 1, "{}", ours.tc("show", &[]));
    }
    assert!(ours.tc("show", &[]).contains("u32"));
    ours.tc("del", &["prio", "1", "protocol", "all"]);
    ours.attach().expect("ours is first");
    assert!(ours.is_intact() && !ours.passes());
}
