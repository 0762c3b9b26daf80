//! Properties of the verdict that hold for every frame and every table.
//!
//! Frames are random bytes, or valid frames with random changes. Each property has its own reader of the bytes, so it does
//! not rely on the parser under test.

mod world;

use agent_common::addr::{Address, V4, V6};
use agent_common::classify;
use agent_common::counters::Outcome;
use agent_common::endpoint::Endpoint;
use agent_common::flow::Direction::{self, Egress, Ingress};
use agent_common::layout::{PORTS_ANY, PeerEntry, PrefixGrant, PrefixV4, PrefixV6, ROW_PREFIXES, RowV4, RowV6};
use agent_common::mem_tables::MemTables;
use agent_common::reason::DropReason;
use agent_common::tables::{Family, Tables};
use agent_common::tenant::TenantId;
use agent_common::{fast_path, parse, summary};
use proptest::prelude::*;
use world::*;

/// Frames that pass, of every kind.
fn allowed() -> Vec<(Direction, Vec<u8>)> {
    let whats = [
        udp(9000),
        syn(80),
        Content::Echo { id: 7 },
        Content::EchoReply { id: 7 },
        Content::Sctp { remote: 1, local: 2 },
        Content::Other(50),
        Content::Later(UDP),
        Content::Unreachable(Box::new(udp(1))),
    ];
    let each = |six, direction| whats.iter().map(move |content| (direction, frame(six, direction, OWN_POD, content)));
    let mut frames: Vec<_> =
        [false, true].into_iter().flat_map(|six| Direction::ALL.into_iter().flat_map(move |d| each(six, d))).collect();
    frames.push((Egress, frame(false, Egress, DATABASE, &syn(5432))));
    let arp = [&ethernet(true, 0x0806)[..], &[0, 1, 8, 0, 6, 4, 0, 1], &MAC, &LOCAL, &[0; 6], &GATEWAY].concat();
    frames.push((Egress, arp));
    let body = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &link_local(1).octets(), &[1, 1], &MAC].concat();
    let mut solicitation = ethernet(true, 0x86dd);
    solicitation.extend(ipv6(six(LOCAL).octets(), link_local(1).octets(), ICMPV6, body.len()));
    solicitation[21] = 255;
    solicitation.extend(body);
    frames.push((Egress, solicitation));
    let mut options = ethernet(true, 0x0800);
    options.extend(ipv4(LOCAL, OWN_POD, UDP, 0, &[1, 7, 4, 4, 0, 0, 0, 0], 8));
    options.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    frames.push((Egress, options));
    let mut chain = ethernet(true, 0x86dd);
    chain.extend(ipv6(six(LOCAL).octets(), six(OWN_POD).octets(), 60, 24));
    chain.extend([44, 0, 1, 4, 0, 0, 0, 0, UDP, 0, 0, 1, 0, 0, 0, 9, 0, 1, 0, 2, 0, 8, 0, 0]);
    frames.push((Egress, chain));
    frames
}

#[test]
fn a_truncated_frame_does_not_pass() {
    let world = World::default();
    for (direction, frame) in allowed() {
        assert!(world.judged(direction, &frame).denied.is_none(), "control: {direction:?} {frame:02x?}");
        for length in 0..frame.len() {
            let judged = world.judged(direction, &frame[..length]);
            assert!(judged.denied.is_some(), "{length} of {} bytes pass: {frame:02x?}", frame.len());
        }
    }
}

/// Bytes that are nearly a frame: one that passes, changed in a few places, cut or extended.
fn nearly() -> impl Strategy<Value = (Direction, Vec<u8>)> {
    let changes = prop::collection::vec((0_usize..120, any::<u8>()), 0..6);
    (prop::sample::select(allowed()), changes, prop::option::of(0_usize..130), any::<bool>()).prop_map(
        |((direction, mut frame), changes, length, mend)| {
            for (at, byte) in changes {
                if let Some(old) = frame.get_mut(at) {
                    *old = byte;
                }
            }
            if let Some(length) = length {
                frame.resize(length, 0x5a);
            }
            if mend && frame.len() >= 34 {
                mend_checksum(&mut frame);
            }
            (direction, frame)
        },
    )
}

/// A network, its length, and an address that is often inside or just outside.
fn near_v4() -> impl Strategy<Value = (u32, u8)> {
    (prop_oneof![Just(0x0a28_0000_u32), Just(0x0a28_0100), any::<u32>()], 0_u8..=32, 0_u32..4)
        .prop_map(|(base, length, step)| (base.wrapping_add(step << 8), length))
}

fn net_v4(base: u32, length: u8) -> u32 {
    if length == 0 { 0 } else { base >> (32 - u32::from(length)) << (32 - u32::from(length)) }
}

fn net_v6(base: u128, length: u8) -> u128 {
    if length == 0 { 0 } else { base >> (128 - u32::from(length)) << (128 - u32::from(length)) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_neither_panic_nor_pass_with_another_source(bytes in prop::collection::vec(any::<u8>(), 0..160)) {
        let world = World::default();
        let passes = world.judged(Egress, &bytes).denied.is_none();
        prop_assert!(!passes || claims_the_pod(&bytes));
        world.judged(Ingress, &bytes);
    }

    #[test]
    fn no_nearly_valid_frame_passes_with_another_source((direction, bytes) in nearly()) {
        let world = World::default();
        let judged = world.judged(direction, &bytes);
        prop_assert_eq!(judged.denied.is_none(), judged.outcome == Outcome::Allowed);
        if direction == Egress && judged.denied.is_none() {
            prop_assert!(claims_the_pod(&bytes), "{bytes:02x?}");
            let ethertype = &bytes[12..14];
            prop_assert!(ethertype == [8, 0] || ethertype == [8, 6] || ethertype == [0x86, 0xdd]);
        }
    }

    #[test]
    fn the_fast_path_and_the_slow_path_give_the_same_verdict(
        (direction, mut bytes) in nearly(),
        remote in prop::sample::select(vec![OWN_POD, OTHER_POD, SHARED, NO_POD, DATABASE, FILES, THEIR_DATABASE, NODE, WORLD]),
        port in prop::sample::select(vec![80_u16, 5432, 40_000]),
    ) {
        aim(&mut bytes, direction, remote, port);
        let (fast_world, slow_world) = (World::default(), World::default());
        let entry = fast_world.tables.endpoints.values().copied().find(|entry| entry.v4 == V4::new(LOCAL)).expect("the pod");
        let endpoint = Endpoint::new(&entry, fast_world.tables.tenants[&MINE]).expect("it is ready");
        let verdict = fast_world.tables.verdict(&endpoint, direction, &bytes[..]);
        let slow = match direction {
            Egress => classify::slow_from_pod(&bytes[..], &endpoint, &slow_world.tables),
            Ingress => classify::slow_to_pod(&bytes[..], &endpoint, &slow_world.tables),
        };
        prop_assert_eq!(verdict, slow, "{:02x?}", bytes);
        prop_assert_eq!(&fast_world.tables.replies, &slow_world.tables.replies, "entries of the reply table");
    }

    #[test]
    fn the_fast_path_reads_and_reports_as_the_slow_path_does((direction, bytes) in nearly()) {
        let bytes = &bytes[..];
        if let Some(flow) = fast_path::ipv4(bytes) {
            prop_assert_eq!(parse::ipv4(bytes), Ok(flow));
        }
        if let Some(flow) = fast_path::ipv6(bytes) {
            prop_assert_eq!(parse::ipv6(bytes), Ok(flow));
        }
        let world = World::default();
        let entry = world.tables.endpoints.values().copied().find(|entry| entry.v4 == V4::new(LOCAL)).expect("the pod");
        let endpoint = Endpoint::new(&entry, world.tables.tenants[&MINE]).expect("it is ready");
        let key = match classify::ethertype(bytes) {
            Some(0x0800) => classify::fast_query::<V4, _>(bytes, &endpoint, direction)
                .map(|query| (query.aggregate_key(direction, DropReason::OffSubnet), query.tcp_flags)),
            Some(0x86dd) => classify::fast_query::<V6, _>(bytes, &endpoint, direction)
                .map(|query| (query.aggregate_key(direction, DropReason::OffSubnet), query.tcp_flags)),
            _ => None,
        };
        if let Some((key, flags)) = key {
            let summary = summary::summarize(bytes);
            prop_assert_eq!((key, flags), (summary.key(direction, entry.cookie, DropReason::OffSubnet), summary.tcp_flags));
        }
    }

    #[test]
    fn no_transport_reaches_another_tenant(
        six in any::<bool>(),
        direction in prop::sample::select(Direction::ALL.to_vec()),
        protocol in any::<u8>(),
        fragment in 0_u16..3,
        body in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let world = World::default();
        let (source, destination) = if direction == Egress { (LOCAL, OTHER_POD) } else { (OTHER_POD, LOCAL) };
        let frame = packet(six, direction == Egress, source, destination, protocol, fragment, &body);
        prop_assert!(world.judged(direction, &frame).denied.is_some(), "{frame:02x?}");
    }

    #[test]
    fn a_row_of_ipv4_prefixes_gives_the_longest_that_holds_the_address(
        prefixes in prop::collection::vec(near_v4(), 0..ROW_PREFIXES),
        (address, _) in near_v4(),
    ) {
        let mut sorted: Vec<(u32, u8)> = prefixes.iter().map(|(base, length)| (net_v4(*base, *length), *length)).collect();
        sorted.sort_by_key(|(net, length)| (std::cmp::Reverse(*length), *net));
        sorted.dedup();
        let mut row = RowV4::default();
        let mut tables = MemTables::default();
        for (i, (net, length)) in sorted.iter().enumerate() {
            let grant = PrefixGrant { ports: i as u16 + 1, flags: 0, length: *length };
            let net = V4(net.to_be());
            row.prefixes[i] = PrefixV4 { net, mask: V4::mask(*length), grant, _pad: 0 };
            tables.trie_v4.push((TenantId(1), net, *length, grant));
        }
        let naive = sorted.iter().position(|(net, length)| net_v4(address, *length) == *net).map_or(0, |i| i as u16 + 1);
        let address = V4(address.to_be());
        prop_assert_eq!(address.find(&row).ports, naive);
        prop_assert_eq!(tables.trie(TenantId(1), address).ports, naive, "the trie finds the same prefix");
        prop_assert!(!tables.trie(TenantId(2), address).is_some(), "another tenant has no prefix");
    }

    #[test]
    fn a_row_of_ipv6_prefixes_gives_the_longest_that_holds_the_address(
        prefixes in prop::collection::vec((0_u128..4, 0_u32..128, 0_u8..=128), 0..ROW_PREFIXES),
        (bits, shift) in (0_u128..4, 0_u32..128),
    ) {
        const BASE: u128 = 0xfd00_000a_0000_0000_0000_0000_0000_0105;
        let mut sorted: Vec<(u128, u8)> =
            prefixes.iter().map(|(bits, shift, length)| (net_v6(BASE ^ (bits << shift), *length), *length)).collect();
        sorted.sort_by_key(|(net, length)| (std::cmp::Reverse(*length), *net));
        sorted.dedup();
        let mut row = RowV6::default();
        let mut tables = MemTables::default();
        for (i, (net, length)) in sorted.iter().enumerate() {
            let grant = PrefixGrant { ports: i as u16 + 1, flags: 0, length: *length };
            let net = V6::new(net.to_be_bytes());
            row.prefixes[i] = PrefixV6 { net, mask: V6::mask(*length), grant, _pad: 0 };
            tables.trie_v6.push((TenantId(1), net, *length, grant));
        }
        let address = BASE ^ (bits << shift);
        let naive = sorted.iter().position(|(net, length)| net_v6(address, *length) == *net).map_or(0, |i| i as u16 + 1);
        let address = V6::new(address.to_be_bytes());
        prop_assert_eq!(address.find(&row).ports, naive);
        prop_assert_eq!(tables.trie(TenantId(1), address).ports, naive);
    }

    #[test]
    fn zero_tables_let_no_frame_pass((direction, bytes) in nearly()) {
        let mut world = World::default();
        let whole = std::mem::take(&mut world.tables);
        prop_assert!(world.judged(direction, &bytes).denied.is_some(), "empty tables");
        // Only the pod and its tenant are known.
        world.tables.endpoints = whole.endpoints;
        world.tables.tenants = whole.tenants;
        world.peer(OWN_POD, PeerEntry::default());
        let judged = world.judged(direction, &bytes);
        let link_only = bytes.get(12..14) == Some(&[8, 6][..]) || bytes.get(20) == Some(&ICMPV6);
        let to_pod = direction == Ingress;
        prop_assert!(judged.denied.is_some() || link_only || to_pod, "{bytes:02x?}");
    }
}

#[test]
fn a_wide_prefix_holds_exactly_its_addresses() {
    let mut row = RowV4::default();
    row.prefixes[0] = PrefixV4 {
        net: V4::default(),
        mask: V4::mask(0),
        grant: PrefixGrant { ports: PORTS_ANY, flags: 0, length: 0 },
        _pad: 0,
    };
    for address in [[0; 4], [1, 2, 3, 4], [255; 4]] {
        assert!(V4::new(address).find(&row).is_some());
    }
    assert!(!V4::new([1, 2, 3, 4]).find(&RowV4::default()).is_some(), "the zero row grants nothing");
    assert!(!V6::NONE.find(&RowV6::default()).is_some());
}
