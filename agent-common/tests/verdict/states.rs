//! What holds before any rule: claims, zero values, Audit mode, and a frame for each drop reason.

use std::collections::BTreeSet;

use agent_common::counters::Outcome;
use agent_common::flow::Direction::{self, Egress, Ingress};
use agent_common::layout::{EndpointEntry, PORTS_ANY, PORTS_NONE, PeerEntry};
use agent_common::mem_tables::MemTables;
use agent_common::reason::DropReason::{self, *};
use agent_common::tenant::TenantState;

use crate::ALLOWED;
use crate::neighbors::{arp, discovery};
use crate::world::*;

#[test]
fn an_unclaimed_or_incomplete_entry_lets_nothing_pass() {
    let good = frame(false, Egress, OWN_POD, &udp(9000));
    type Break = fn(&mut MemTables);
    let breaks: [(&str, Break); 5] = [
        ("no entry", |t| t.endpoints.clear()),
        ("a zero entry", |t| *t.endpoints.get_mut(&1).expect("the pod") = EndpointEntry::default()),
        ("no cookie", |t| t.endpoints.get_mut(&1).expect("the pod").cookie = 0),
        ("no tenant", |t| t.tenants.clear()),
        ("a tenant without its valid bit", |t| t.tenants.get_mut(&MINE).expect("it").flags &= !TenantState::VALID),
    ];
    for (content, break_it) in breaks {
        let mut world = World::default();
        assert_eq!(world.judge(Egress, &good), ALLOWED);
        break_it(&mut world.tables);
        for direction in Direction::ALL {
            assert_eq!(world.judge(direction, &good), Some(NotReady), "{content}");
        }
    }
}

#[test]
fn zero_entries_grant_nothing() {
    let mut world = World::default();
    for (entry, reason) in [
        (PeerEntry::default(), Internal),
        (PeerEntry { kind: 99, tenant: MINE, ..PeerEntry::default() }, Internal),
        (PeerEntry { kind: PeerEntry::POD, ..PeerEntry::default() }, CrossTenant),
        (PeerEntry { kind: PeerEntry::POD, flags: PeerEntry::SHARED, ..PeerEntry::default() }, CrossTenant),
    ] {
        world.peer(WORLD, entry);
        assert_eq!(world.sends(WORLD, &udp(1)), Some(reason));
        assert_eq!(world.receives(WORLD, &udp(1)), Some(reason));
    }
    world.row(MINE, &[(FILES, 24, PORTS_NONE), (DATABASE, 24, PORTS_ANY)], 0);
    assert_eq!(world.sends(FILES, &udp(1)), Some(OffSubnet), "no port set");
    assert_eq!(world.sends(DATABASE, &udp(1)), Some(OffSubnet), "and the row ends there");
    world.row(MINE, &[(FILES, 24, 999)], 0);
    assert_eq!(world.sends(FILES, &udp(1)), Some(PortDenied), "a set that is not there");
    world.ports(999, &[]);
    assert_eq!(world.sends(FILES, &udp(1)), Some(PortDenied), "a set of nothing");
    world.ports(999, &[(0, 0, u16::MAX)]);
    let zero = packet(false, true, LOCAL, FILES, 0, 0, &[0; 8]);
    assert_eq!(world.judge(Egress, &zero), Some(PortDenied), "protocol 0 ends a set");
}

#[test]
fn audit_mode_reports_a_denied_packet_and_lets_it_pass() {
    let world = World::default().with(TenantState::AUDIT);
    let judged = world.judged(Egress, &frame(false, Egress, OTHER_POD, &udp(1)));
    assert!(judged.passes());
    assert_eq!((judged.outcome, judged.reason()), (Outcome::Audited, Some(CrossTenant)));
    let judged = world.judged(Egress, &frame(false, Egress, OWN_POD, &udp(1)));
    assert_eq!((judged.outcome, judged.reason()), (Outcome::Allowed, ALLOWED));
}

#[test]
fn every_drop_reason_has_a_frame_that_causes_it() {
    let mut world = World::default();
    world.peer([203, 0, 113, 1], PeerEntry::default());
    let mut seen = BTreeSet::new();
    let mut collect = |denial: Denial| seen.extend(denial);
    for host in [OTHER_POD, WORLD, UNCLAIMED, METADATA, NODE, [203, 0, 113, 1]] {
        collect(world.sends(host, &udp(1)));
    }
    collect(world.receives(UNCLAIMED, &udp(1)));
    collect(world.sends(DATABASE, &udp(1)));
    collect(world.sends(DATABASE, &Content::Later(TCP)));
    let payload = [0, 1, 0, 2, 0, 8, 0, 0];
    collect(world.judge(Egress, &packet(false, true, OWN_POD, OWN_POD, UDP, 0, &payload)));
    collect(world.judge(Egress, &packet(false, true, LOCAL, [127, 0, 0, 1], UDP, 0, &payload)));
    collect(world.judge(Egress, &packet(false, true, LOCAL, [224, 0, 0, 1], UDP, 0, &payload)));
    collect(world.judge(Egress, &packet(false, true, LOCAL, OWN_POD, ICMP, 0, &[5, 0, 0, 0, 0, 0, 0, 0])));
    collect(world.judge(Ingress, &packet(false, false, LOCAL, OWN_POD, UDP, 0, &payload)));
    collect(world.judge(Egress, &[]));
    collect(world.judge(Egress, &arp(true, 2, MAC, GATEWAY, OWN_POD)));
    collect(world.judge(Egress, &discovery(true, 134, link_local(5), link_local(1), link_local(1), MAC)));
    collect(world.judge(Egress, &ethernet(true, 0x88cc)));
    collect(world.judge(Egress, &ethernet(true, 0x8100)));
    collect(world.judge(Egress, &ethernet(false, 0x0800)));
    let mut routed = ethernet(true, 0x0800);
    routed.extend(ipv4(LOCAL, OWN_POD, UDP, 0, &[131, 3, 4, 0], 8));
    routed.extend(payload);
    collect(world.judge(Egress, &routed));
    for (kind, rest) in [(43, vec![17, 0, 0, 1, 0, 0, 0, 0]), (60, [60, 0, 1, 4, 0, 0, 0, 0].repeat(9))] {
        let mut frame = ethernet(true, 0x86dd);
        frame.extend(ipv6(six(LOCAL).octets(), six(OWN_POD).octets(), kind, rest.len()));
        frame.extend(rest);
        collect(world.judge(Egress, &frame));
    }
    world.pod_is(UNASSIGNED);
    collect(world.sends(OWN_POD, &udp(1)));
    world.tables.endpoints.clear();
    collect(world.sends(OWN_POD, &udp(1)));
    let missing: Vec<_> = DropReason::ALL.iter().filter(|reason| !seen.contains(reason)).collect();
    assert!(missing.is_empty(), "no frame was dropped for {missing:?}");
}
