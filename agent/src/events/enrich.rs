//! Turns a report with numbers into an event with names.
//!
//! Gets names from the trait [`Names`] and from nowhere else. The invariant: what is not known is left out. A missing
//! name never delays an event, and no name is guessed.

use std::net::IpAddr;
use std::sync::Arc;

use agent_common::counters::Outcome;
use agent_common::event::Checked;
use agent_common::flow::Direction;
use agent_common::reason::DropReason;
use agent_common::tenant::TenantId;
use jiff::Timestamp;
use uuid::{NoContext, Uuid};

use super::aggregate::FlowReport;
use super::labels::Label;
use super::packet::{destination_ip, network, service_port, source_ip};
use super::schema::{
    Body, EnforcementMode, Event, FlowEndpoint, FlowEndpointKind, Network, Policy, SchemaId, Time, Uuid7,
    ViolationEvent, WorkloadRef,
};
use super::verdicts::{default_rule, severity};

/// The names of what the kernel numbers. No lookup may wait.
pub(crate) trait Names: Send + Sync {
    /// The local pod of this claim of this interface.
    fn endpoint(&self, ifindex: u32, cookie: u32) -> Option<Named>;
    /// The owner of this address at that time, monotonic clock. If the past is not remembered, the present owner.
    fn address(&self, address: IpAddr, at_ns: u64) -> Option<Named>;
    /// The tenant with this number.
    fn tenant(&self, id: TenantId) -> Option<TenantNamed>;
    /// The named range of the tenant that covers the address, as `subnets/rds-a` or `egress/proxy`.
    fn rule(&self, tenant: TenantId, address: IpAddr) -> Option<String>;
}

/// What is known of one end of a flow.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Named {
    /// Kind of this end.
    pub kind: FlowEndpointKind,
    /// Name of its tenant.
    pub tenant: Option<String>,
    /// Namespace.
    pub namespace: Option<String>,
    /// Name of the pod.
    pub pod: Option<String>,
    /// UID of the pod.
    pub uid: Option<String>,
    /// Workload that the pod belongs to.
    pub workload: Option<WorkloadRef>,
    /// Name of the Service or node.
    pub name: Option<String>,
    /// Name of the tenant's own subnet that holds the address.
    pub subnet: Option<String>,
}

/// What is known of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TenantNamed {
    /// Its name.
    pub name: String,
    /// Whether its mode is audit.
    pub audit: bool,
}

/// Makes events from reports.
pub(crate) struct Enricher {
    node: String,
    cluster: Option<String>,
    names: Arc<dyn Names>,
    clock_offset_ns: u64,
}

impl Enricher {
    /// The clock offset is zero until set.
    pub(crate) fn new(node: String, cluster: Option<String>, names: Arc<dyn Names>) -> Self {
        Self { node, cluster: cluster.filter(|name| !name.is_empty()), names, clock_offset_ns: 0 }
    }

    /// Nanoseconds to add to the monotonic clock to get the time of day. Set it often: the time of
    /// day may be corrected.
    pub(crate) fn set_clock_offset(&mut self, offset_ns: u64) {
        self.clock_offset_ns = offset_ns;
    }

    /// The time of day at an instant of the monotonic clock.
    pub(crate) fn time(&self, monotonic_ns: u64) -> Time {
        let unix_ns = i128::from(monotonic_ns) + i128::from(self.clock_offset_ns);
        Time(Timestamp::from_nanosecond(unix_ns).unwrap_or(Timestamp::MAX))
    }

    /// An event with this body and this time.
    pub(crate) fn event(&self, time: Time, body: Body) -> Event {
        let seconds = u64::try_from(time.0.as_second()).unwrap_or(0);
        let nanos = u32::try_from(time.0.subsec_nanosecond()).unwrap_or(0);
        let id = Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, seconds, nanos));
        Event { schema: SchemaId::V1, time, id: Uuid7(id), body }
    }

    /// Name of a tenant.
    pub(crate) fn tenant_name(&self, id: TenantId) -> Option<String> {
        self.tenant(id).map(|tenant| tenant.name)
    }

    /// Name of this node.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// Name of the cluster.
    pub(crate) fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// The event of a denied flow.
    pub(crate) fn violation(&self, report: &FlowReport) -> Event {
        let record = &report.record;
        let (local, remote) = (self.local(record), self.remote(record));
        let policy = self.policy(record);
        let (source, destination) = match record.direction {
            Direction::Egress => (local, remote),
            Direction::Ingress => (remote, local),
        };
        let network = network(record);
        let message = message(record, report.count, &network, &source, &destination);
        let last_seen = self.time(report.last_ns);
        self.event(
            last_seen,
            Body::Violation(Box::new(ViolationEvent {
                severity: severity(record.reason, record.outcome),
                verdict: Label(record.outcome),
                reason: Label(record.reason),
                direction: Label(record.direction),
                cluster: self.cluster.clone(),
                node: self.node.clone(),
                source,
                destination,
                network,
                policy,
                count: report.count,
                first_seen: self.time(report.first_ns),
                last_seen,
                message,
            })),
        )
    }

    fn tenant(&self, id: TenantId) -> Option<TenantNamed> {
        id.is_tenant().then(|| self.names.tenant(id)).flatten().filter(|tenant| !tenant.name.is_empty())
    }

    /// The pod of the interface, whatever address the packet has.
    fn local(&self, record: &Checked) -> FlowEndpoint {
        let event = &record.event;
        let (ip, port) = match record.direction {
            Direction::Egress => (source_ip(record), event.source_port),
            Direction::Ingress => (destination_ip(record), event.destination_port),
        };
        let named = self.names.endpoint(event.ifindex, event.cookie).unwrap_or_default();
        flow_endpoint(named, self.tenant(event.tenant), ip, service_port(event, port))
    }

    fn remote(&self, record: &Checked) -> FlowEndpoint {
        let event = &record.event;
        let (ip, port) = match record.direction {
            Direction::Egress => (destination_ip(record), event.destination_port),
            Direction::Ingress => (source_ip(record), event.source_port),
        };
        let named = ip
            .and_then(|ip| self.names.address(ip, event.last_ns))
            .unwrap_or_else(|| Named { kind: unnamed_kind(record, ip), ..Named::default() });
        flow_endpoint(named, self.tenant(event.peer_tenant), ip, service_port(event, port))
    }

    fn policy(&self, record: &Checked) -> Policy {
        let event = &record.event;
        let remote = match record.direction {
            Direction::Egress => destination_ip(record),
            Direction::Ingress => source_ip(record),
        };
        // A named range denied the packet only if it covers the address and its ports do not match.
        let by_name = matches!(record.reason, DropReason::PortDenied | DropReason::Fragment);
        let rule = remote.filter(|_| by_name).and_then(|ip| self.names.rule(event.tenant, ip));
        let tenant = self.tenant(event.tenant);
        let audit = record.outcome == Outcome::Audited || tenant.as_ref().is_some_and(|tenant| tenant.audit);
        Policy {
            rule: rule.filter(|rule| !rule.is_empty()).unwrap_or_else(|| default_rule(record.reason).into()),
            mode: if audit { EnforcementMode::Audit } else { EnforcementMode::Enforce },
            tenant: tenant.map(|tenant| tenant.name),
            revision: event.generation,
        }
    }
}

/// The tenant in the record has priority over the tenant that the address has by now.
fn flow_endpoint(named: Named, judged: Option<TenantNamed>, ip: Option<IpAddr>, port: Option<u16>) -> FlowEndpoint {
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    FlowEndpoint {
        kind: named.kind,
        ip,
        port,
        tenant: some(judged.map(|tenant| tenant.name).or(named.tenant)),
        namespace: some(named.namespace),
        pod: some(named.pod),
        pod_uid: some(named.uid),
        workload: named.workload.filter(|workload| !workload.kind.is_empty() && !workload.name.is_empty()),
        name: some(named.name),
        subnet: some(named.subnet),
    }
}

/// An address without a name is external, unless the record shows an address of a node or of the cluster.
fn unnamed_kind(record: &Checked, ip: Option<IpAddr>) -> FlowEndpointKind {
    match (ip, record.reason) {
        (Some(_), DropReason::Node) => FlowEndpointKind::Host,
        (Some(_), _) if !record.event.peer_tenant.is_reserved() => FlowEndpointKind::External,
        _ => FlowEndpointKind::Unknown,
    }
}

fn message(
    record: &Checked,
    count: u64,
    network: &Network,
    source: &FlowEndpoint,
    destination: &FlowEndpoint,
) -> String {
    let packets = if count == 1 { "packet" } else { "packets" };
    let transport = network.transport.as_deref().map(|name| format!("{name} ")).unwrap_or_default();
    let verdict = record.outcome.as_str();
    format!("{verdict} {count} {packets} {transport}{source} -> {destination}: {}", record.reason.as_str())
}

impl std::fmt::Display for FlowEndpoint {
    /// `tenant/namespace/name:port` of a pod or Service, else `address:port`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bracketed = self.port.is_some();
        match (&self.namespace, self.pod.as_ref().or(self.name.as_ref()), self.ip) {
            (Some(namespace), Some(name), _) => {
                write!(f, "{}{namespace}/{name}", self.tenant.as_ref().map(|t| format!("{t}/")).unwrap_or_default())?;
            }
            (_, _, Some(IpAddr::V6(v6))) if bracketed => write!(f, "[{v6}]")?,
            (_, _, Some(ip)) => write!(f, "{ip}")?,
            _ => write!(f, "unknown")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests;
