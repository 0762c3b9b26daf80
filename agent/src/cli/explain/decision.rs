//! The verdict on one connection, and the map entries that lead to it, as sentences.
//!
//! The verdict comes from [`agent_common::decide`]. The sentences name the entries that it read; they decide nothing.

use std::net::IpAddr;

use agent_common::access::prefix;
use agent_common::addr::{V4, V6};
use agent_common::decide::{self, Rules, attribute_owner};
use agent_common::endpoint::{Claim, Endpoint};
use agent_common::flow::Direction;
use agent_common::headers::{SCTP, TCP, UDP};
use agent_common::layout::{EndpointEntry, GrantKey, PORTS_ANY, PeerEntry, PortRange, PrefixGrant};
use agent_common::maps;
use agent_common::query::Query;
use agent_common::tables::{Family, Tables};
use agent_common::tenant::{LocalTenant, TenantId, TenantState};
use agent_common::verdict::Denied;
use policy::plan::ActualTables;
use serde::Serialize;

use super::{Connection, ExplainError, ExplainProtocol};

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Explanation {
    schema: &'static str,
    source: IpAddr,
    destination: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// `allowed`, `dropped` or `audited`.
    pub verdict: &'static str,
    /// The drop reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    tenant: String,
    /// The tenant of the destination, if a denial names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_tenant: Option<String>,
    /// The generation of the policy.
    pub generation: u64,
    /// The map entries that were read, in order; the last decides.
    pub steps: Vec<String>,
}

impl Explanation {
    /// Whether the connection's first packet would be dropped.
    pub(super) fn is_dropped(&self) -> bool {
        self.verdict == "dropped"
    }
}

/// Decides on a new connection of a local pod.
///
/// # Errors
/// [`ExplainError::NotLocal`] and [`ExplainError::Families`].
pub(super) fn explain(tables: &ActualTables<'_>, connection: &Connection) -> Result<Explanation, ExplainError> {
    let Connection { source, destination, port, .. } = *connection;
    let owns = |entry: &EndpointEntry| crate::run::addresses(entry).contains(&source);
    let (ifindex, entry) =
        tables.actual.endpoints.iter().find(|(_, entry)| owns(entry)).ok_or(ExplainError::NotLocal(source))?;
    let state = tables.actual.tenants.get(&entry.tenant).copied().unwrap_or_default();
    let narrator = Narrator { tables };
    let tenant = narrator.tenant(entry.tenant);
    let mut steps = vec![
        format!("ENDPOINTS[{ifindex}] owns {source}, tenant {tenant}"),
        format!("TENANTS[{}] {}", entry.tenant.0, flags(state)),
    ];
    let local = LocalTenant { tenant: entry.tenant, state };
    let claim = Endpoint { entry, local }.claim();
    let denied = match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(to)) => {
            narrator.decide(&opening(local, claim, V4::new(to.octets()), connection), &mut steps)
        }
        (IpAddr::V6(_), IpAddr::V6(to)) => {
            narrator.decide(&opening(local, claim, V6::new(to.octets()), connection), &mut steps)
        }
        _ => return Err(ExplainError::Families(source, destination)),
    };
    Ok(Explanation {
        schema: "bulkhead.dev/explanation/v1",
        source,
        destination,
        port,
        verdict: match (denied, state.has(TenantState::AUDIT)) {
            (None, _) => "allowed",
            (Some(_), true) => "audited",
            (Some(_), false) => "dropped",
        },
        reason: denied.map(|denied| denied.reason.as_str()),
        tenant,
        peer_tenant: denied.filter(|denied| denied.peer.is_known()).map(|denied| narrator.tenant(denied.peer)),
        generation: tables.actual.generation,
        steps,
    })
}

/// The packet that opens the connection.
fn opening<A: Family>(local: LocalTenant, claim: Claim, remote: A, connection: &Connection) -> Query<A> {
    let protocol = match connection.protocol {
        ExplainProtocol::Tcp => TCP,
        ExplainProtocol::Udp => UDP,
        ExplainProtocol::Sctp => SCTP,
        ExplainProtocol::Icmp => A::ICMP,
    };
    let ports_known = connection.port.is_some() || connection.protocol == ExplainProtocol::Icmp;
    let bits = Query::<A>::MAY_OPEN | if ports_known { Query::<A>::PORTS_KNOWN } else { 0 };
    let remote_port = connection.port.unwrap_or(0);
    Query { local, claim, remote, remote_port, local_port: 0, protocol, bits, tcp_flags: 0 }
}

fn flags(state: TenantState) -> String {
    if !state.has(TenantState::VALID) {
        return "is not written: every packet is denied as not_ready".into();
    }
    let all = [
        (TenantState::SHARED, "Shared"),
        (TenantState::AUDIT, "Audit"),
        (TenantState::UNASSIGNED, "unassigned"),
        (TenantState::OPEN, "open"),
        (TenantState::HAS_GRANTS, "has peers"),
        (TenantState::NODES_ALLOWED, "may access nodes"),
        (TenantState::NODE_OPENINGS, "may access ports of nodes"),
    ];
    let set: Vec<&str> = all.into_iter().filter(|(bit, _)| state.has(*bit)).map(|(_, name)| name).collect();
    if set.is_empty() { "Isolated, Enforce".into() } else { set.join(", ") }
}

/// Reads the entries that a verdict reads, and writes a sentence about each.
struct Narrator<'a> {
    tables: &'a ActualTables<'a>,
}

impl<'a> Narrator<'a> {
    fn tenant(&self, id: TenantId) -> String {
        match self.tables.actual.names.get(&id).and_then(|name| name.as_str()) {
            Some(name) => name.to_owned(),
            None => format!("#{}", id.0),
        }
    }

    /// Why the packet is denied; `None` if it is allowed.
    fn decide<A: MapFamily>(&self, query: &Query<A>, steps: &mut Vec<String>) -> Option<Denied>
    where
        ActualTables<'a>: Rules<A>,
    {
        let (tables, local, remote) = (self.tables, &query.local, query.remote);
        match tables.peer(remote) {
            Some(peer) => {
                steps.push(format!("{}[{}] is {}", A::PEERS, remote.ip(), self.peer(peer)));
                if peer.tenant != local.tenant && local.state.has(TenantState::HAS_GRANTS) {
                    steps.push(self.grant(
                        tables.grant(&GrantKey { from: local.tenant, to: peer.tenant }).is_some(),
                        local,
                        peer,
                    ));
                }
            }
            None => self.ranges(local, remote, steps),
        }
        let denied = decide::verdict(tables, query, Direction::Egress).denied()?;
        Some(attribute_owner(tables, local, remote, denied))
    }

    fn grant(&self, granted: bool, local: &LocalTenant, peer: PeerEntry) -> String {
        let (from, to) = (self.tenant(local.tenant), self.tenant(peer.tenant));
        format!("GRANTS {} {from} to open connections to {to}", if granted { "allows" } else { "does not allow" })
    }

    /// The ranges around an address that has no entry of its own.
    fn ranges<A: MapFamily>(&self, local: &LocalTenant, remote: A, steps: &mut Vec<String>)
    where
        ActualTables<'a>: Tables<A> + agent_common::access::Lookup<A>,
    {
        steps.push(format!("{} has no {}: it is no known pod, Service or node", A::PEERS, remote.ip()));
        let grant = prefix(self.tables, local, remote);
        steps.push(if grant.is_some() {
            let contested = grant.flags & PrefixGrant::CONTESTED != 0;
            let contested = if contested { "; another tenant owns a part of it" } else { "" };
            format!("the tenant's /{} around it allows {}{contested}", grant.length, self.ports(grant.ports))
        } else {
            "no subnet and no egress range of the tenant holds it".into()
        });
        if let Some(owner) = self.tables.owner(remote) {
            let owner = match owner {
                TenantId::CLUSTER => "the cluster".into(),
                TenantId::NODES => "the cluster's nodes".into(),
                tenant => format!("tenant {}", self.tenant(tenant)),
            };
            steps.push(format!("{}: the address is in a range of {owner}", A::OWNERS));
        }
    }

    fn peer(&self, peer: PeerEntry) -> String {
        let kind = match peer.kind {
            PeerEntry::POD => "a pod",
            PeerEntry::SERVICE | PeerEntry::SERVICE_LISTED => "a Service",
            PeerEntry::NODE => return "an address of a node".into(),
            PeerEntry::METADATA => return "a cloud metadata address".into(),
            kind => return format!("an entry of the unknown kind {kind}"),
        };
        let shared = if peer.flags & PeerEntry::SHARED != 0 { " (Shared)" } else { "" };
        format!("{kind} of tenant {}{shared}", self.tenant(peer.tenant))
    }

    fn ports(&self, set: u16) -> String {
        if set == PORTS_ANY {
            return "every port".into();
        }
        let Some(set) = self.tables.actual.port_sets.get(&set) else {
            return "nothing: its port set is missing".into();
        };
        let ranges = set.ranges.iter().take_while(|range| range.protocol != 0);
        ranges.map(ports_of_range).collect::<Vec<_>>().join(", ")
    }
}

fn ports_of_range(range: &PortRange) -> String {
    let protocol = match range.protocol {
        TCP => "TCP",
        UDP => "UDP",
        SCTP => "SCTP",
        _ => "ICMP",
    };
    match (range.low, range.high) {
        (0, u16::MAX) => protocol.to_owned(),
        (low, high) if low == high => format!("{protocol} {low}"),
        (low, high) => format!("{protocol} {low}-{high}"),
    }
}

/// The names of a family's maps, and an address of it in standard notation.
trait MapFamily: Family {
    const PEERS: &'static str;
    const OWNERS: &'static str;
    fn ip(self) -> IpAddr;
}

impl MapFamily for V4 {
    const PEERS: &'static str = maps::PEERS_V4.name;
    const OWNERS: &'static str = maps::OWNERS_V4.name;
    fn ip(self) -> IpAddr {
        self.octets().into()
    }
}

impl MapFamily for V6 {
    const PEERS: &'static str = maps::PEERS_V6.name;
    const OWNERS: &'static str = maps::OWNERS_V6.name;
    fn ip(self) -> IpAddr {
        self.octets().into()
    }
}
