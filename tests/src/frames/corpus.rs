//! The corpus: every case the project keeps, made from code, written to `tests/frames/corpus.jsonl`.
//!
//! The file is committed, so that a change of a frame is seen in review; a test makes it anew and
//! compares. `BULKHEAD_BLESS=1` writes it.

use std::path::PathBuf;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use serde_json::{Map, Value, json};

use super::craft::Frame;
use super::topology::{A_MAC, B, B6, GATEWAY_MAC};
use super::{Expected, FrameCase, Hook, from_pod_v4, from_pod_v6, headers_v4, link, to_pod};

/// Where it lies.
pub fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/frames/corpus.jsonl"))
}

/// Every case.
pub fn generate() -> Vec<FrameCase> {
    let mut corpus = Corpus::default();
    from_pod_v4::add(&mut corpus);
    headers_v4::add(&mut corpus);
    from_pod_v6::add(&mut corpus);
    link::add(&mut corpus);
    to_pod::add(&mut corpus);
    corpus.cases
}

/// The cases, one JSON object a line.
pub fn to_jsonl(cases: &[FrameCase]) -> String {
    let line = |case| serde_json::to_string(case).expect("a case is plain JSON") + "\n";
    cases.iter().map(line).collect()
}

/// Gathers cases.
#[derive(Debug)]
pub(super) struct Corpus {
    cases: Vec<FrameCase>,
    /// Class of the cases to come.
    pub class: &'static str,
    /// Hook of the cases to come.
    pub hook: Hook,
    /// Train of the cases to come.
    pub group: Option<&'static str>,
}

impl Default for Corpus {
    fn default() -> Self {
        Self { cases: Vec::new(), class: "", hook: Hook::FromPod, group: None }
    }
}

impl Corpus {
    /// A frame that must pass, or the drops beside it prove nothing.
    pub fn control(&mut self, name: &str, frame: &Frame) {
        self.add("CTL", name, "allowed", Expected::Pass, frame);
    }

    /// A frame that must be dropped.
    pub fn denied(&mut self, case: &str, name: &str, reason: &str, frame: &Frame) {
        self.add(case, name, reason, Expected::Drop, frame);
    }

    /// A frame whose fate is documented, either way.
    pub fn either(&mut self, case: &str, name: &str, reason: &str, frame: &Frame) {
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

/// What the event must say, read from the bytes by a parser that is not ours.
fn event(bytes: &[u8], hook: Hook, reason: &str) -> Value {
    let mut event = Map::new();
    let direction = if hook == Hook::FromPod { "egress" } else { "ingress" };
    let fixed = [("direction", direction), ("pod_name", "pod-a"), ("pod_namespace", "team-a")];
    event.extend(fixed.map(|(key, value)| (key.to_owned(), json!(value))));
    event.extend([("tenant", "tenant-a"), ("verdict", "drop")].map(|(key, value)| (key.to_owned(), json!(value))));
    // Where the headers lie or are not read, nothing about them is promised.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use etherparse::{NetSlice, SlicedPacket};

    use super::*;
    use crate::frames::parse_cases;
    use crate::frames::topology::B_MAC;

    #[test]
    fn the_committed_corpus_is_what_the_code_makes() {
        let made = to_jsonl(&generate());
        if std::env::var_os("BULKHEAD_BLESS").is_some() {
            fs::write(path(), &made).expect("the corpus can be written");
        }
        let committed = fs::read_to_string(path()).expect("the corpus is committed");
        assert!(committed == made, "the corpus has drifted: look at `BULKHEAD_BLESS=1 cargo test -p bulkhead-tests`");
        assert_eq!(parse_cases(&committed).expect("a corpus"), generate());
    }

    #[test]
    fn names_are_unique_and_every_class_of_drops_stands_beside_controls() {
        let cases = generate();
        let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), cases.len());
        for hook in [Hook::FromPod, Hook::ToPod] {
            assert!(cases.iter().any(|case| case.hook == hook && case.control));
            assert!(cases.iter().any(|case| case.hook == hook && case.verdict == Expected::Drop));
        }
    }

    #[test]
    fn a_parser_that_is_not_ours_finds_no_fault_with_any_control() {
        for case in generate().iter().filter(|case| case.control) {
            let packet = SlicedPacket::from_ethernet(&case.frame).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            check_sums(&case.name, &packet);
        }
    }

    /// Header and transport checksums, of whole packets.
    fn check_sums(name: &str, packet: &SlicedPacket<'_>) {
        let written = match &packet.transport {
            Some(TransportSlice::Udp(udp)) => udp.checksum(),
            Some(TransportSlice::Tcp(tcp)) => tcp.checksum(),
            _ => 0,
        };
        let computed = match (&packet.net, &packet.transport) {
            (Some(NetSlice::Ipv4(ip)), transport) => {
                let header = ip.header().to_header();
                assert_eq!(header.calc_header_checksum(), header.header_checksum, "{name}");
                match transport {
                    Some(TransportSlice::Udp(udp)) => udp.to_header().calc_checksum_ipv4(&header, udp.payload()),
                    Some(TransportSlice::Tcp(tcp)) => tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()),
                    _ => return,
                }
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) => {
                udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload())
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(tcp))) => {
                tcp.to_header().calc_checksum_ipv6(&ip.header().to_header(), tcp.payload())
            }
            _ => return,
        };
        let computed = computed.expect("it fits");
        // Zero says that the sender computed none (RFC 768).
        assert!(written == 0 || written == computed, "{name}: {written:#x} is not {computed:#x}");
    }

    #[test]
    fn frames_name_the_pods_they_are_about() {
        for case in generate().iter().filter(|case| case.hook == Hook::ToPod && case.l2 == "gw") {
            assert_eq!(case.frame[..6], A_MAC, "{}", case.name);
        }
        assert!(generate().iter().any(|case| case.l2 == "direct" && case.frame[..6] == B_MAC));
    }
}
