//! IPv4 headers that are inconsistent, truncated or fragmented: ATK-030 to ATK-043.

use super::builder::Corpus;
use super::craft::{Frame, Payload, words};
use super::from_pod_v4::{flags, udp};
use super::topology::{B, B6, PEER};

const CROSS: &str = "cross_tenant";
const MALFORMED: &str = "malformed";

pub(super) fn add(corpus: &mut Corpus) {
    headers(corpus);
    fragments(corpus);
}

fn headers(corpus: &mut Corpus) {
    corpus.class = "v4-header";
    for words in [1, 10] {
        let with_nops = |to| Frame::v4(to, udp()).ip(|ip| ip.options = vec![1; words * 4]);
        corpus.denied("ATK-030", &format!("cross4-ihl-{}", 5 + words), CROSS, &with_nops(B));
        corpus.either("ATK-030", &format!("peer4-ihl-{}", 5 + words), "allowed", &with_nops(PEER));
    }
    for (name, kind) in [("loose", 131), ("strict", 137)] {
        let [a, b, c, d] = PEER.octets();
        let routed = |to| Frame::v4(to, udp()).ip(|ip| ip.options = vec![kind, 7, 4, a, b, c, d, 0]);
        corpus.denied("ATK-030", &format!("peer4-source-route-{name}"), "source_route", &routed(PEER));
        let behind_nops = Frame::v4(PEER, udp()).ip(|ip| ip.options = vec![1, 1, 1, kind, 7, 4, a, b, c, d, 0, 0]);
        corpus.denied("ATK-030", &format!("peer4-source-route-{name}-behind-nops"), "source_route", &behind_nops);
    }
    let overrun = Frame::v4(PEER, udp()).ip(|ip| ip.options = vec![7, 9, 4, 0]);
    corpus.denied("ATK-030", "peer4-option-overruns", MALFORMED, &overrun);
    for (name, wrong) in [("ihl-0", 0x40), ("ihl-4", 0x44), ("version-0", 0x05), ("version-5", 0x55)] {
        let frame = |to| Frame::v4(to, udp()).ip(|ip| ip.version_ihl = Some(wrong));
        corpus.denied("ATK-032", &format!("cross4-{name}"), MALFORMED, &frame(B));
        corpus.denied("ATK-032", &format!("peer4-{name}"), MALFORMED, &frame(PEER));
    }
    let short = Frame::v4(PEER, udp()).ip(|ip| ip.version_ihl = Some(0x4f)).with(|f| f.cut = Some(14 + 29));
    corpus.denied("ATK-032", "peer4-ihl-15-in-29-bytes", MALFORMED, &short);
    let as_v4 = Frame::v6(B6, udp()).with(|f| f.ethertype = Some(0x0800));
    corpus.denied("ATK-033", "v6-under-0800", MALFORMED, &as_v4);
    let as_v6 = Frame::v4(B, udp()).with(|f| f.ethertype = Some(0x86dd));
    corpus.denied("ATK-033", "v4-under-86dd", MALFORMED, &as_v6);
    corpus.denied(
        "ATK-034",
        "peer4-total-beyond-frame",
        MALFORMED,
        &Frame::v4(PEER, udp()).ip(|ip| ip.total = Some(1400)),
    );
    corpus.denied(
        "ATK-034",
        "cross4-total-beyond-frame",
        "malformed_or_cross_tenant",
        &Frame::v4(B, udp()).ip(|ip| ip.total = Some(1400)),
    );
    corpus.denied(
        "ATK-034",
        "peer4-total-below-header",
        MALFORMED,
        &Frame::v4(PEER, udp()).ip(|ip| ip.total = Some(19)),
    );
    corpus.denied("ATK-034", "cross4-trailer", CROSS, &Frame::v4(B, udp()).with(|f| f.trailer = 40));
    corpus.either("ATK-034", "peer4-trailer", "allowed", &Frame::v4(PEER, udp()).with(|f| f.trailer = 40));
    corpus.denied("ATK-034", "peer4-wrong-checksum", MALFORMED, &Frame::v4(PEER, udp()).ip(|ip| ip.checksum_error = 1));
    truncated(corpus);
    for ttl in [0, 1] {
        corpus.denied("ATK-036", &format!("cross4-ttl-{ttl}"), CROSS, &Frame::v4(B, udp()).ip(|ip| ip.ttl = ttl));
    }
    corpus.denied("ATK-036", "cross4-reserved-flag", CROSS, &Frame::v4(B, udp()).ip(|ip| ip.fragment = 0x8000));
    for tos in [0x03, 0x10, 0xb8, 0xff] {
        corpus.denied("ATK-036", &format!("cross4-tos-{tos:#04x}"), CROSS, &Frame::v4(B, udp()).ip(|ip| ip.tos = tos));
    }
}

fn truncated(corpus: &mut Corpus) {
    for length in [14, 33] {
        corpus.denied(
            "ATK-035",
            &format!("peer4-{length}-bytes"),
            MALFORMED,
            &Frame::v4(PEER, udp()).with(|f| f.cut = Some(length)),
        );
    }
    let bare = |bytes: usize| {
        Frame::v4(PEER, udp()).ip(|ip| ip.total = Some(20 + bytes as u16)).with(|f| f.cut = Some(34 + bytes))
    };
    corpus.denied("ATK-035", "peer4-udp-no-header", MALFORMED, &bare(0));
    corpus.denied("ATK-035", "peer4-udp-4-bytes", MALFORMED, &bare(4));
    let offset = |offset| Payload::Tcp { source: 40001, destination: 9000, flags: flags("S"), offset };
    corpus.denied("ATK-035", "peer4-tcp-offset-0", MALFORMED, &Frame::v4(PEER, offset(0)));
    corpus.denied(
        "ATK-035",
        "peer4-tcp-offset-15",
        MALFORMED,
        &Frame::v4(PEER, offset(15)).ip(|ip| ip.total = Some(48)).with(|f| f.cut = Some(62)),
    );
    for length in [0, 1, 7, 900] {
        let payload = Payload::Udp { source: 40000, destination: 9000, length: Some(length), bare: false };
        corpus.denied("ATK-035", &format!("peer4-udp-length-{length}"), MALFORMED, &Frame::v4(PEER, payload));
    }
}

fn fragments(corpus: &mut Corpus) {
    corpus.class = "v4-fragment";
    let piece = |to, payload, fragment| Frame::v4(to, payload).ip(|ip| ip.fragment = fragment);
    corpus.group = Some("f4-cross");
    corpus.denied("ATK-040", "cross4-first-fragment", CROSS, &piece(B, udp(), 0x2000));
    corpus.denied("ATK-040", "cross4-later-fragment", CROSS, &piece(B, udp(), 5));
    corpus.group = None;
    corpus.denied("ATK-040", "cross4-orphan-like-dns", CROSS, &piece(B, Payload::udp(40000, 53), 3));
    corpus.denied("ATK-040", "cross4-df-and-mf", CROSS, &piece(B, udp(), 0x6000));
    corpus.denied("ATK-040", "cross4-offset-8191", CROSS, &piece(B, udp(), 0x1fff));
    let tiny = |to| {
        piece(to, Payload::raw(6, &words(&[40001, 9000, 0, 1000])), 0x2000)
            .ip(|ip| ip.total = Some(28))
            .with(|f| f.cut = Some(42))
    };
    corpus.group = Some("f4-tiny");
    corpus.denied("ATK-041", "cross4-tiny-first", "cross_tenant_or_fragment", &tiny(B));
    corpus.denied("ATK-041", "cross4-tiny-second", CROSS, &piece(B, Payload::raw(6, &[]), 1));
    corpus.group = None;
    corpus.denied("ATK-041", "peer4-tiny-first", "fragment", &tiny(PEER));
    corpus.group = Some("f4-overlap");
    corpus.either("ATK-043", "peer4-overlap-first", "allowed_or_fragment", &piece(PEER, udp(), 0x2000));
    corpus.either(
        "ATK-043",
        "peer4-overlap-second",
        "allowed_or_fragment",
        &piece(PEER, Payload::udp(40000, 9001), 0x2000),
    );
    corpus.group = None;
}
