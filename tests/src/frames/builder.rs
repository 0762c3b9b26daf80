//! Builds the cases of the corpus: a frame, its expected verdict, and the fields that its event must hold.
//!
//! The parser `etherparse` reads the fields of the event from the bytes. This module does not know which cases there
//! are.

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use serde_json::{Map, Value, json};

use super::craft::Frame;
use super::topology::{A_MAC, B, B6, GATEWAY_MAC};
use super::{Expected, FrameCase, Hook};

/// Collects cases.
#[derive(Debug)]
pub(super) struct Corpus {
    cases: Vec<FrameCase>,
    /// Class of the following cases.
    pub class: &'static str,
    /// Hook of the following cases.
    pub hook: Hook,
    /// Group of the following cases.
    pub group: Option<&'static str>,
}

impl Default for Corpus {
    fn default() -> Self {
        Self { cases: Vec::new(), class: "", hook: Hook::FromPod, group: None }
    }
}

impl Corpus {
    /// The cases, in the order in which they were added.
    pub(super) fn into_cases(self) -> Vec<FrameCase> {
        self.cases
    }

    /// Adds a control: a frame that must pass, or the dropped frames prove nothing.
    pub(super) fn control(&mut self, name: &str, frame: &Frame) {
        self.add("CTL", name, "allowed", Expected::Pass, frame);
    }

    /// Adds a frame that must be dropped.
    pub(super) fn denied(&mut self, case: &str, name: &str, reason: &str, frame: &Frame) {
        self.add(case, name, reason, Expected::Drop, frame);
    }

    /// Adds a frame for which either verdict is documented behaviour.
    pub(super) fn either(&mut self, case: &str, name: &str, reason: &str, frame: &Frame) {
        self.add(case, name, reason, Expected::Either, frame);
    }

    fn add(&mut self, case: &str, name: &str, reason: &str, verdict: Expected, frame: &Frame) {
        let bytes = frame.build(name.as_bytes());
        let marked = bytes.windows(name.len()).any(|window| window == name.as_bytes());
        self.cases.push(FrameCase {
            case: case.to_owned(),
            class: self.class.to_owned(),
            control: verdict == Expected::Pass,
            event: (verdict == Expected::Drop).then(|| event(&bytes, self.hook, reason)),
            group: self.group.map(str::to_owned),
            hook: self.hook,
            l2: link_of(frame).to_owned(),
            len: Some(bytes.len()),
            marker: marked.then(|| name.to_owned()),
            name: name.to_owned(),
            note: String::new(),
            reason: reason.to_owned(),
            verdict,
            frame: bytes,
        });
    }
}

fn link_of(frame: &Frame) -> &'static str {
    match frame.to {
        GATEWAY_MAC | A_MAC => "gw",
        to if to[0] & 1 == 1 => "bcast",
        _ => "direct",
    }
}

/// The expected fields of the event, read from the bytes by the parser `etherparse`.
fn event(bytes: &[u8], hook: Hook, reason: &str) -> Value {
    let mut event = Map::new();
    let direction = if hook == Hook::FromPod { "egress" } else { "ingress" };
    let fixed = [("direction", direction), ("pod_name", "pod-a"), ("pod_namespace", "team-a")];
    event.extend(fixed.map(|(key, value)| (key.to_owned(), json!(value))));
    event.extend([("tenant", "tenant-a"), ("verdict", "drop")].map(|(key, value)| (key.to_owned(), json!(value))));
    // If the headers are inconsistent or not read, no field about them is expected.
    let readable = ["cross_tenant", "off_subnet", "spoof_src_ip", "node", "metadata"].contains(&reason);
    if let Ok(packet) = LaxSlicedPacket::from_ethernet(bytes)
        && readable
    {
        addresses(&packet, hook, &mut event);
    }
    Value::Object(event)
}

fn addresses(packet: &LaxSlicedPacket<'_>, hook: Hook, event: &mut Map<String, Value>) {
    let (source, destination) = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        Some(LaxNetSlice::Ipv6(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        _ => return,
    };
    event.insert("src_ip".into(), json!(source));
    event.insert("dst_ip".into(), json!(destination));
    let remote: std::net::IpAddr = if hook == Hook::FromPod { destination } else { source };

    if remote == B || remote == B6 {
        event.insert("peer_tenant".into(), json!("tenant-b"));
    }
    let (protocol, ports) = match &packet.transport {
        Some(TransportSlice::Udp(udp)) => (17, Some((udp.source_port(), udp.destination_port()))),
        Some(TransportSlice::Tcp(tcp)) => (6, Some((tcp.source_port(), tcp.destination_port()))),
        Some(TransportSlice::Icmpv4(_)) => (1, None),
        Some(TransportSlice::Icmpv6(_)) => (58, None),
        _ => return,
    };
    event.insert("proto".into(), json!(protocol));
    if let Some((source, destination)) = ports {
        event.insert("src_port".into(), json!(source));
        event.insert("dst_port".into(), json!(destination));
    }
}
