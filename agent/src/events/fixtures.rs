//! Names, flows and sources for the tests of events.
//!
//! One small cluster that all these tests share. Needs no kernel.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use agent_common::aggregate::AggregateEntry;
use agent_common::counters::Loss;
use agent_common::event::{Checked, FlowEvent};
use agent_common::tenant::TenantId;

use super::aggregate::{AggregatorBounds, FlowReport};
use super::enrich::{Enricher, Named, Names, TenantNamed};
use super::limit::Rates;
use super::schema::{Event, FlowEndpointKind, WorkloadRef};
use super::sink::{Line, Sink};
use super::{Pipeline, RecordSource};
use crate::clock::Clock;

pub(crate) const SECOND: u64 = 1_000_000_000;
/// 2026-11-21T19:22:26.001190112Z.
pub(crate) const START_NS: u64 = 1_795_288_946_001_190_112;

pub(crate) fn mapped(ip: &str) -> [u8; 16] {
    match ip.parse().expect("an address") {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// acme's shop to globex's database: SYN.
pub(crate) fn flow(count: u64) -> FlowEvent {
    FlowEvent {
        first_ns: 1000 * SECOND,
        last_ns: 1000 * SECOND + (count - 1) * 139_000_000,
        count,
        generation: 1182,
        source: mapped("10.244.1.17"),
        destination: mapped("10.244.2.40"),
        ifindex: 12,
        cookie: 7,
        tenant: TenantId(1),
        peer_tenant: TenantId(2),
        length: 60,
        source_port: 43122,
        destination_port: 5432,
        ethertype: 0x0800,
        protocol: 6,
        reason: 1,
        direction: 0,
        outcome: 1,
        tcp_flags: 2,
        family: 4,
        slot: 3,
        ..FlowEvent::default()
    }
}

pub(crate) fn checked(event: FlowEvent) -> Checked {
    event.check().expect("a valid record")
}

pub(crate) fn report(tenant: u32, count: u64) -> FlowReport {
    let record = checked(FlowEvent { tenant: TenantId(tenant), ..flow(count) });
    FlowReport { record, count, first_ns: record.event.first_ns, last_ns: record.event.last_ns }
}

/// Two tenants, two pods, one node, one subnet.
#[derive(Debug, Default)]
pub(crate) struct FixtureNames;

fn pod(tenant: &str, namespace: &str, pod: &str, uid: &str, kind: &str, workload: &str) -> Named {
    Named {
        kind: FlowEndpointKind::Pod,
        tenant: Some(tenant.into()),
        namespace: Some(namespace.into()),
        pod: Some(pod.into()),
        uid: Some(uid.into()),
        workload: Some(WorkloadRef { kind: kind.into(), name: workload.into() }),
        ..Named::default()
    }
}

fn shop() -> Named {
    let uid = "5b0c7b52-3c0f-4e3a-9b86-0d4a4b9a2f10";
    pod("acme", "acme-web", "shop-6c9d7f9b5-x2v8k", uid, "Deployment", "shop")
}

fn postgres() -> Named {
    let uid = "0f7f1c39-58fd-4a1d-8a7d-d7d1e6a0c3b2";
    pod("globex", "globex-db", "postgres-0", uid, "StatefulSet", "postgres")
}

impl Names for FixtureNames {
    fn endpoint(&self, ifindex: u32, cookie: u32) -> Option<Named> {
        match (ifindex, cookie) {
            (12, 7) => Some(shop()),
            (13, 8) => Some(postgres()),
            _ => None,
        }
    }

    fn address(&self, address: IpAddr, _: u64) -> Option<Named> {
        match address.to_string().as_str() {
            "10.244.1.17" => Some(shop()),
            "10.244.2.40" => Some(postgres()),
            "10.0.1.23" => {
                Some(Named { kind: FlowEndpointKind::Host, name: Some("ip-10-0-1-23".into()), ..Named::default() })
            }
            "10.40.0.9" => Some(Named {
                kind: FlowEndpointKind::External,
                tenant: Some("globex".into()),
                subnet: Some("rds-a".into()),
                ..Named::default()
            }),
            _ => None,
        }
    }

    fn tenant(&self, id: TenantId) -> Option<TenantNamed> {
        let name = match id.0 {
            1 => "acme",
            2 => "globex",
            3 => "initech",
            _ => return None,
        };
        Some(TenantNamed { name: name.into(), audit: false })
    }

    fn rule(&self, _: TenantId, address: IpAddr) -> Option<String> {
        (address.to_string() == "10.40.1.9").then(|| "subnets/efs-a".into())
    }
}

pub(crate) fn enricher() -> Enricher {
    let offset = START_NS - 1000 * SECOND;
    let mut enricher = Enricher::new("ip-10-0-1-23".into(), Some("prod-eu1".into()), Arc::new(FixtureNames));
    enricher.set_clock_offset(offset);
    enricher
}

pub(crate) fn event(count: u64) -> Event {
    enricher().violation(&report(1, count))
}

pub(crate) fn line(count: u64) -> Arc<Line> {
    Arc::new(Line::new(event(count)).expect("an event is JSON"))
}

/// A pipeline with one sink.
pub(crate) fn pipeline(sink: Arc<dyn Sink>) -> Pipeline {
    let settings = (AggregatorBounds { windows: 10, seen: 10 }, Rates::default());
    Pipeline::new(enricher(), vec![sink], Arc::default(), settings, std::iter::empty(), Clock::now())
}

/// A ring buffer that stays empty.
pub(crate) struct NoRecords;

impl RecordSource for NoRecords {
    type Error = Infallible;

    async fn ready(&mut self) -> Result<(), Infallible> {
        std::future::pending().await
    }
    fn drain(&mut self, _: usize, _: &mut dyn FnMut(&[u8])) -> usize {
        0
    }
    fn sweep(&mut self) -> Result<Vec<AggregateEntry>, Infallible> {
        Ok(Vec::new())
    }
    fn held_back(&mut self, _: u16) -> Result<u64, Infallible> {
        Ok(0)
    }
    fn losses(&mut self) -> Result<[u64; Loss::LEN as usize], Infallible> {
        Ok([0; Loss::LEN as usize])
    }
}
