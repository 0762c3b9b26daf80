//! Tests with frames and datagrams that an ordinary pod does not send: raw, spoofed, segmented, marked, fragmented.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use testbed::agent::Agent;
use testbed::capture::Capture;
use testbed::frames::craft::{Frame, Payload};
use testbed::host::{Family, Host};
use testbed::raw;
use testbed::world::{Layout, World};

use crate::DROPS;

/// A UDP frame as the pod's kernel would send it to another pod of this node.
fn frame(world: &World, from: Host, to: Host, family: Family) -> Frame {
    let (own, gateway) = from.macs();
    let payload = Payload::udp(40000, to.port());
    let frame = match family {
        Family::V4 => Frame::v4(to.v4(), payload).ip(|ip| ip.source = from.v4()),
        Family::V6 => Frame::v6(to.v6(), payload).ip6(|ip| ip.source = from.v6()),
    };
    let next_hop = if world.layout == Layout::Routed { gateway } else { to.macs().0 };
    frame.with(|f| (f.from, f.to) = (own, next_hop))
}

/// Changes the source address of a frame's packet.
fn pretend(frame: Frame, source: Host) -> Frame {
    frame.ip(|ip| ip.source = source.v4()).ip6(|ip| ip.source = source.v6())
}

/// Sends frames from a pod by packet socket and by ring, and counts those with this marker that arrive.
fn arrivals(world: &World, from: Host, to: Host, frames: &[Frame], marker: &'static str) -> usize {
    let holds = move |bytes: &[u8]| bytes.windows(marker.len()).any(|window| window == marker.as_bytes());
    let capture = Capture::start(world.netns(to), holds).expect("a capture");
    let bytes: Vec<Vec<u8>> = frames.iter().map(|frame| frame.build(marker.as_bytes())).collect();
    raw::send_frames(world.netns(from), "eth0", &bytes).expect("frames are sent");
    raw::send_through_ring(world.netns(from), "eth0", &bytes).expect("a ring of frames is sent");
    // Servers answer, and ICMP errors about their answers quote the marker. Only UDP to the destination counts.
    let came = |bytes: &Vec<u8>| bytes[..6] == to.macs().0 && (bytes[23] == 17 || bytes[20] == 17);
    capture.stop().iter().filter(|bytes| came(bytes)).count()
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn raw_and_nonlinear_frames_are_judged_like_any_other() {
    for layout in [Layout::Routed, Layout::Bridged] {
        let world = World::new(layout).expect("a world");
        let sent = |to| Family::ALL.map(|family| frame(&world, Host::AcmeWeb, to, family));
        // Two frames, each by send and by ring.
        assert_eq!(arrivals(&world, Host::AcmeWeb, Host::GlobexWeb, &sent(Host::GlobexWeb), "before"), 4, "{layout:?}");
        let _agent = Agent::ready(&world).expect("an agent");
        assert_eq!(arrivals(&world, Host::AcmeWeb, Host::AcmeApi, &sent(Host::AcmeApi), "peer"), 4, "{layout:?}");
        assert_eq!(arrivals(&world, Host::AcmeWeb, Host::GlobexWeb, &sent(Host::GlobexWeb), "cross"), 0, "{layout:?}");
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_pod_cannot_spoof_another() {
    for layout in [Layout::Routed, Layout::Bridged] {
        let world = World::new(layout).expect("a world");
        let own = Family::ALL.map(|family| frame(&world, Host::AcmeWeb, Host::Dns, family));
        let as_peer = own.clone().map(|frame| pretend(frame, Host::AcmeApi));
        let as_other = own.clone().map(|frame| pretend(frame, Host::GlobexApi));
        let other_mac = own.clone().map(|frame| frame.with(|f| f.from = Host::AcmeApi.macs().0));
        let to_dns = |frames: &[Frame], marker| arrivals(&world, Host::AcmeWeb, Host::Dns, frames, marker);
        assert_eq!(to_dns(&as_peer, "before"), 4, "{layout:?}");
        let agent = Agent::ready(&world).expect("an agent");
        assert_eq!(to_dns(&own, "own"), 4, "{layout:?}");
        assert_eq!(to_dns(&as_peer, "peer"), 0, "{layout:?}");
        assert_eq!(to_dns(&as_other, "other"), 0, "{layout:?}");
        assert_eq!(to_dns(&other_mac, "mac"), 0, "{layout:?}");
        let metrics = agent.metrics().expect("metrics");
        assert_eq!(metrics.sum(DROPS, &[("reason", "spoofed_source"), ("direction", "egress")]), 8.0);
        assert_eq!(metrics.sum(DROPS, &[("reason", "spoofed_mac"), ("direction", "egress")]), 4.0);
        let event = agent.wait_event(Duration::from_secs(2), |event| event["reason"] == "spoofed_source");
        assert_eq!(event.expect("a spoofed source is reported")["severity"], "high");
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn on_a_bridge_a_frame_to_another_tenants_mac_does_not_arrive_whatever_its_ip_address() {
    let world = World::new(Layout::Bridged).expect("a world");
    let redirected = |marker| {
        let frames = Family::ALL.map(|family| {
            frame(&world, Host::AcmeWeb, Host::AcmeApi, family).with(|f| f.to = Host::GlobexWeb.macs().0)
        });
        arrivals(&world, Host::AcmeWeb, Host::GlobexWeb, &frames, marker)
    };
    assert_eq!(redirected("before"), 4);
    let _agent = Agent::ready(&world).expect("an agent");
    assert_eq!(redirected("after"), 0);
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn segmentation_offload_and_socket_marks_change_no_verdict() {
    let world = World::new(Layout::Routed).expect("a world");
    let _agent = Agent::ready(&world).expect("an agent");
    for family in Family::ALL {
        // 30 datagrams of 1000 bytes in one call.
        assert_eq!(segmented(&world, Host::AcmeApi, family), 30, "{family:?}");
        assert_eq!(segmented(&world, Host::GlobexWeb, family), 0, "{family:?}");
        for mark in [0x4000, 0x8000, 0x200, 0xf00, u32::MAX] {
            assert_eq!(marked(&world, Host::AcmeApi, family, mark), 1, "{family:?} {mark:#x}");
            assert_eq!(marked(&world, Host::GlobexWeb, family, mark), 0, "{family:?} {mark:#x}");
        }
    }
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn fragments_of_an_allowed_datagram_arrive_and_of_a_denied_one_do_not() {
    let world = World::new(Layout::Routed).expect("a world");
    let large = |socket: &UdpSocket| {
        socket.send(&[0x5a; 9000]).expect("the kernel accepts it");
    };
    assert_eq!(received(&world, Host::GlobexWeb, Family::V4, large), 1, "before");
    let _agent = Agent::ready(&world).expect("an agent");
    for family in Family::ALL {
        assert_eq!(received(&world, Host::AcmeApi, family, large), 1, "{family:?}");
        assert_eq!(received(&world, Host::GlobexWeb, family, large), 0, "{family:?}");
    }
}

fn segmented(world: &World, to: Host, family: Family) -> usize {
    received(world, to, family, |socket| {
        raw::segment_datagrams(socket, 1000).expect("UDP_SEGMENT");
        socket.send(&[0x5a; 30_000]).expect("the kernel accepts it");
    })
}

fn marked(world: &World, to: Host, family: Family, mark: u32) -> usize {
    received(world, to, family, |socket| {
        raw::mark(socket, mark).expect("SO_MARK");
        socket.send(b"marked").expect("the kernel accepts it");
    })
}

/// Datagrams that a socket of `to` receives shortly after acme-web has sent.
fn received(world: &World, to: Host, family: Family, send: impl FnOnce(&UdpSocket) + Send) -> usize {
    let target = SocketAddr::new(to.address(family), 7777);
    let receiver = world.netns(to).run(|| UdpSocket::bind(target)).expect("a port is free");
    receiver.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    world.netns(Host::AcmeWeb).run(|| {
        let socket = UdpSocket::bind(SocketAddr::new(Host::AcmeWeb.address(family), 0)).expect("a socket");
        socket.connect(target).expect("a target");
        send(&socket);
    });
    let mut buffer = [0; 2048];
    std::iter::from_fn(|| receiver.recv(&mut buffer).ok()).count()
}
