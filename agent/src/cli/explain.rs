//! `bulkhead explain`: would this pass, and which line decides.
//!
//! Asks the kernel's own maps, read at this moment, with the same functions that the programs run;
//! never a model of them. What the maps do not hold, a pod's name, is taken from `--config` if given.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use agent_common::access::{Lookup, prefix};
use agent_common::addr::{V4, V6};
use agent_common::conntrack::{ReplyEntry, ReplyKey};
use agent_common::decide::{self, Rules, attribute_owner};
use agent_common::flow::Direction;
use agent_common::layout::{EndpointEntry, Grant, GrantKey, PORTS_ANY, PeerEntry, PeerKeyV4, PortSet, PrefixGrant};
use agent_common::layout::{RowV4, RowV6, Runtime};
use agent_common::maps;
use agent_common::query::Query;
use agent_common::tables::{Family, Tables};
use agent_common::tenant::{LocalTenant, TenantId, TenantState};
use agent_common::verdict::Denied;
use clap::Args;
use serde::Serialize;

use super::output::{Exit, safe};
use crate::api::document;
use crate::clock::Clock;
use crate::config::PinArgs;
use crate::dataplane::DataplaneError;
use crate::dataplane::kernel::inspect;
use crate::source;
use policy::plan::Actual;

/// Say whether a connection would pass, and which rule decides.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Who opens: a local pod's address, or NAMESPACE/NAME with --config
    pub source: String,
    /// Where to: ADDRESS, ADDRESS:PORT, [V6]:PORT, NAMESPACE/NAME or NAMESPACE/NAME:PORT
    pub destination: String,
    /// Protocol of the connection
    #[arg(long, value_enum, default_value_t)]
    pub protocol: ExplainProtocol,
    /// Objects to take names from
    #[arg(long, env = "BULKHEAD_CONFIG", value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Exit with 3 if it would be dropped
    #[arg(long)]
    pub exit_code: bool,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: ExplainFormat,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at its type")]
    pub pin: PinArgs,
}

/// Protocols to query for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum ExplainProtocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// How to show the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ExplainFormat {
    /// For people
    #[default]
    Text,
    /// One object
    Json,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The maps could not be read.
    #[error("cannot read the kernel's maps below {}: is an agent running, or another --pin-dir in use?", path.display())]
    Maps {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: DataplaneError,
    },
    /// An end could not be understood.
    #[error(
        "{0:?} is no address; with --config PATH it may be NAMESPACE/NAME of an Endpoint with an address of the family"
    )]
    Unknown(String),
    /// The source is no local pod.
    #[error("{0} is the address of no pod that this node's kernel knows as local")]
    NotLocal(IpAddr),
    /// One end is IPv4, the other IPv6.
    #[error("{0} and {1} are of different families")]
    Families(IpAddr, IpAddr),
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    schema: &'static str,
    source: IpAddr,
    destination: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// `allowed`, `dropped` or `audited`.
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    tenant: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_tenant: Option<String>,
    generation: u64,
    /// The map entries that were asked, in order; the last decides.
    steps: Vec<String>,
}

/// Reads the maps, prints the answer.
///
/// # Errors
/// See `ExplainError`.
pub fn run(args: &ExplainArgs) -> Result<Exit, ExplainError> {
    let pins = args.pin.pins();
    let actual = inspect(&pins).map_err(|source| ExplainError::Maps { path: pins, source })?;
    let names = names(args.config.as_deref());
    let (destination, port) = split_port(&args.destination);
    let wanted = address(destination, &names, None)?;
    let source = address(&args.source, &names, Some(wanted))?;
    let answer = explain(actual, source, wanted, port, args.protocol)?;
    match args.output {
        ExplainFormat::Text => print!("{}", text(&answer)),
        ExplainFormat::Json => println!("{}", serde_json::to_string(&answer).unwrap_or_default()),
    }
    let denied = answer.verdict == "dropped";
    Ok(if denied && args.exit_code { Exit::Found } else { Exit::Fine })
}

type PodAddresses = BTreeMap<String, Vec<IpAddr>>;

/// Addresses by `namespace/name`, of the endpoints that can be read.
fn names(config: Option<&std::path::Path>) -> PodAddresses {
    let Some(config) = config else { return PodAddresses::new() };
    let files = source::config_files(config).unwrap_or_default();
    let texts = files.iter().filter_map(|file| Some((file, source::read(file).ok()?)));
    let documents = texts.filter_map(|(file, bytes)| source::load::load(file, &bytes).ok());
    let mut known = PodAddresses::new();
    for object in documents.flat_map(|loaded| loaded.documents).filter_map(|document| document.object) {
        if let document::Object::Endpoint(endpoint) = object {
            known.insert(format!("{}/{}", endpoint.key.namespace, endpoint.key.name), endpoint.addresses);
        }
    }
    known
}

fn address(text: &str, known: &PodAddresses, like: Option<IpAddr>) -> Result<IpAddr, ExplainError> {
    if let Ok(address) = text.trim_matches(['[', ']']).parse() {
        return Ok(address);
    }
    let fits = |address: &&IpAddr| like.is_none_or(|like| like.is_ipv4() == address.is_ipv4());
    let found = known.get(text).and_then(|addresses| addresses.iter().find(fits));
    found.copied().ok_or_else(|| ExplainError::Unknown(text.to_owned()))
}

/// `10.0.0.1:80`, `[fd00::1]:80` and `ns/pod:80` have a port; `fd00::1` has none.
fn split_port(text: &str) -> (&str, Option<u16>) {
    let bare_v6 = text.matches(':').count() > 1 && !text.contains(']');
    match text.rsplit_once(':') {
        Some((rest, port)) if !bare_v6 => match port.parse() {
            Ok(port) => (rest, Some(port)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    }
}

fn explain(
    actual: Actual,
    source: IpAddr,
    destination: IpAddr,
    port: Option<u16>,
    protocol: ExplainProtocol,
) -> Result<Explanation, ExplainError> {
    let owns = |entry: &EndpointEntry| crate::run::addresses(entry).contains(&source);
    let local = actual.endpoints.iter().find(|(_, entry)| owns(entry));
    let (ifindex, entry) = local.map(|(i, e)| (*i, *e)).ok_or(ExplainError::NotLocal(source))?;
    let state = actual.tenants.get(&entry.tenant).copied().unwrap_or_default();
    let view = View { actual };
    let mut steps = vec![
        format!("ENDPOINTS[{ifindex}] owns {source}, tenant {}", view.tenant(entry.tenant)),
        format!("TENANTS[{}] {}", entry.tenant.0, flags(state)),
    ];
    let local = LocalTenant { tenant: entry.tenant, state };
    let number = |v4: bool| match protocol {
        ExplainProtocol::Tcp => 6,
        ExplainProtocol::Udp => 17,
        ExplainProtocol::Sctp => 132,
        ExplainProtocol::Icmp if v4 => 1,
        ExplainProtocol::Icmp => 58,
    };
    let known = port.is_some() || protocol == ExplainProtocol::Icmp;
    let denied = match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(to)) => {
            view.judge(&opening(local, entry.cookie, V4::new(to.octets()), number(true), port, known), &mut steps)
        }
        (IpAddr::V6(_), IpAddr::V6(to)) => {
            view.judge(&opening(local, entry.cookie, V6::new(to.octets()), number(false), port, known), &mut steps)
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
        tenant: view.tenant(entry.tenant),
        peer_tenant: denied.filter(|denied| denied.peer.is_known()).map(|denied| view.tenant(denied.peer)),
        generation: view.actual.generation,
        steps,
    })
}

/// The packet that would open the connection.
fn opening<A>(local: LocalTenant, cookie: u32, remote: A, protocol: u8, port: Option<u16>, known: bool) -> Query<A> {
    let bits = Query::<A>::MAY_OPEN | if known { Query::<A>::PORTS_KNOWN } else { 0 };
    Query { local, cookie, remote, remote_port: port.unwrap_or(0), local_port: 0, protocol, bits, tcp_flags: 0 }
}

fn flags(state: TenantState) -> String {
    let all = [
        (TenantState::SHARED, "Shared"),
        (TenantState::AUDIT, "Audit"),
        (TenantState::UNASSIGNED, "unassigned"),
        (TenantState::OPEN, "open"),
        (TenantState::HAS_GRANTS, "has peers"),
        (TenantState::NODES_ALLOWED, "may access nodes"),
    ];
    let set: Vec<&str> = all.into_iter().filter(|(bit, _)| state.has(*bit)).map(|(_, name)| name).collect();
    if !state.has(TenantState::VALID) {
        return "is not written: everything is not_ready".into();
    }
    if set.is_empty() { "Isolated, Enforce".into() } else { set.join(", ") }
}

fn text(answer: &Explanation) -> String {
    let mut text = String::new();
    for (number, step) in answer.steps.iter().enumerate() {
        text += &format!("  {} {}\n", number + 1, safe(step));
    }
    let reason = answer.reason.map(|reason| format!("  {reason}")).unwrap_or_default();
    let peer = answer.peer_tenant.as_ref().map(|peer| format!("  (tenant {})", safe(peer))).unwrap_or_default();
    text += &format!("  => {}{reason}{peer}   generation {}\n", answer.verdict.to_uppercase(), answer.generation);
    text += "Answers to connections that others open pass besides. Policies of the CNI were not asked.\n";
    text
}

/// The kernel's maps as they were a moment ago.
struct View {
    actual: Actual,
}

impl View {
    fn tenant(&self, id: TenantId) -> String {
        match self.actual.names.get(&id).and_then(|name| name.as_str()) {
            Some(name) => name.to_owned(),
            None => format!("#{}", id.0),
        }
    }

    /// Why it is denied, unless it is not.
    fn judge<A: Family + Show>(&self, query: &Query<A>, steps: &mut Vec<String>) -> Option<Denied>
    where
        Self: Rules<A>,
    {
        let (local, remote) = (&query.local, query.remote);
        let denied = decide::verdict(self, query, Direction::Egress)
            .denied()
            .map(|denied| attribute_owner(self, local, remote, denied));
        match self.peer(remote) {
            Some(peer) => {
                steps.push(format!("{}[{}] is {}", A::PEERS, remote.show(), self.peer_text(peer)));
                if peer.tenant != local.tenant && local.state.has(TenantState::HAS_GRANTS) {
                    let granted = self.grant(&GrantKey { from: local.tenant, to: peer.tenant }).is_some();
                    let word = if granted { "lets" } else { "does not let" };
                    let (from, to) = (self.tenant(local.tenant), self.tenant(peer.tenant));
                    steps.push(format!("GRANTS {word} {from} open connections to {to}"));
                }
            }
            None => self.range_steps(local, remote, steps),
        }
        denied
    }

    fn range_steps<A: Family + Show>(&self, local: &LocalTenant, remote: A, steps: &mut Vec<String>)
    where
        Self: Tables<A>,
    {
        steps.push(format!("{} has no {}: no pod, Service or node", A::PEERS, remote.show()));
        let grant = prefix(self, local, remote);
        if grant.is_some() {
            let contested = if grant.flags & PrefixGrant::CONTESTED != 0 { ", partly somebody else's" } else { "" };
            let ports = self.ports_text(grant.ports);
            steps.push(format!("the tenant's /{} around it allows {ports}{contested}", grant.length));
        } else {
            steps.push("none of the tenant's subnets and egress ranges holds it".into());
        }
        if let Some(owner) = self.owner(remote) {
            let owner = match owner {
                TenantId::CLUSTER => "the cluster".into(),
                TenantId::NODES => "the cluster's nodes".into(),
                tenant => self.tenant(tenant),
            };
            steps.push(format!("{}: the address is in a range of {owner}", A::OWNERS));
        }
    }

    fn peer_text(&self, peer: PeerEntry) -> String {
        let kind = match peer.kind {
            PeerEntry::POD => "a pod",
            PeerEntry::SERVICE | PeerEntry::SERVICE_LISTED => "a Service",
            PeerEntry::NODE => return "an address of a node".into(),
            PeerEntry::METADATA => return "a cloud metadata address".into(),
            _ => return "an entry of no known kind".into(),
        };
        let shared = if peer.flags & PeerEntry::SHARED != 0 { " (Shared)" } else { "" };
        format!("{kind} of tenant {}{shared}", self.tenant(peer.tenant))
    }

    fn ports_text(&self, set: u16) -> String {
        if set == PORTS_ANY {
            return "every port".into();
        }
        let Some(set) = self.actual.port_sets.get(&set) else { return "nothing (its port set is missing)".into() };
        let ranges = set.ranges.iter().take_while(|range| range.protocol != 0);
        let texts: Vec<String> = ranges
            .map(|range| {
                let protocol = match range.protocol {
                    6 => "TCP",
                    17 => "UDP",
                    132 => "SCTP",
                    _ => "ICMP",
                };
                match (range.low, range.high) {
                    (0, u16::MAX) => protocol.to_owned(),
                    (low, high) if low == high => format!("{protocol} {low}"),
                    (low, high) => format!("{protocol} {low}-{high}"),
                }
            })
            .collect();
        texts.join(", ")
    }
}

/// How a family's addresses and maps are called.
trait Show: Family {
    const PEERS: &'static str;
    const OWNERS: &'static str;
    fn show(self) -> IpAddr;
}

impl Show for V4 {
    const PEERS: &'static str = maps::PEERS_V4.name;
    const OWNERS: &'static str = maps::OWNERS_V4.name;
    fn show(self) -> IpAddr {
        self.octets().into()
    }
}

impl Show for V6 {
    const PEERS: &'static str = maps::PEERS_V6.name;
    const OWNERS: &'static str = maps::OWNERS_V6.name;
    fn show(self) -> IpAddr {
        self.octets().into()
    }
}

macro_rules! shared {
    ($address:ty) => {
        fn grant(&self, key: &GrantKey) -> Option<Grant> {
            self.actual.grants.get(key).copied()
        }

        fn port_set(&self, set: u16) -> Option<&PortSet> {
            self.actual.port_sets.get(&set)
        }

        /// Explained is who may open; replies need no permission.
        fn reply(&self, _: &ReplyKey<$address>) -> Option<ReplyEntry> {
            None
        }

        fn insert_reply(&self, _: &ReplyKey<$address>, _: ReplyEntry) {}

        fn runtime(&self) -> Runtime {
            Runtime { generation: self.actual.generation, clock_offset_ns: Clock::now().offset_ns }
        }

        fn now_ns(&self) -> u64 {
            Clock::now().monotonic_ns
        }
    };
}

impl Lookup<V4> for View {}
impl Rules<V4> for View {}

impl Tables<V4> for View {
    fn peer(&self, address: V4) -> Option<PeerEntry> {
        self.actual.peers_v4.get(&PeerKeyV4 { network: 0, address }).copied()
    }

    fn row(&self, row: u16) -> Option<&RowV4> {
        self.actual.rows_v4.get(&row).map(Box::as_ref)
    }

    fn trie(&self, tenant: TenantId, address: V4) -> PrefixGrant {
        let holds = |bits: u8, net: V4| address.0 & V4::mask(bits).0 == net.0;
        let found = self.actual.trie_v4.iter().filter(|((key, bits), _)| key.tenant == tenant && holds(*bits, key.net));
        found.max_by_key(|((_, bits), _)| *bits).map(|(_, grant)| *grant).unwrap_or_default()
    }

    fn owner(&self, address: V4) -> Option<TenantId> {
        let address = std::net::Ipv4Addr::from(address.octets());
        let found = self.actual.owners_v4.iter().filter(|(net, _)| net.contains(&address));
        found.max_by_key(|(net, _)| net.prefix_len()).map(|(_, owner)| *owner)
    }

    shared!(V4);
}

impl Lookup<V6> for View {}
impl Rules<V6> for View {}

impl Tables<V6> for View {
    fn peer(&self, address: V6) -> Option<PeerEntry> {
        self.actual.peers_v6.get(&address).copied()
    }

    fn row(&self, row: u16) -> Option<&RowV6> {
        self.actual.rows_v6.get(&row).map(Box::as_ref)
    }

    fn trie(&self, tenant: TenantId, address: V6) -> PrefixGrant {
        let holds = |bits: u8, net: V6| {
            let mask = V6::mask(bits);
            address.hi & mask.hi == net.hi && address.lo & mask.lo == net.lo
        };
        let same = |owner: TenantId| owner == tenant;
        let found = self.actual.trie_v6.iter().filter(|((key, bits), _)| same(key.tenant) && holds(*bits, key.net));
        found.max_by_key(|((_, bits), _)| *bits).map(|(_, grant)| *grant).unwrap_or_default()
    }

    fn owner(&self, address: V6) -> Option<TenantId> {
        let address = std::net::Ipv6Addr::from(address.octets());
        let found = self.actual.owners_v6.iter().filter(|(net, _)| net.contains(&address));
        found.max_by_key(|(net, _)| net.prefix_len()).map(|(_, owner)| *owner)
    }

    shared!(V6);
}
