//! `bulkhead explain`: whether a new connection would pass, and which map entry decides.
//!
//! The command reads the kernel's maps and runs the programs' own rules over them, so its answer cannot differ from the
//! verdict. It needs no agent. The maps hold no names of pods: those come from `--config`.

mod decision;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use self::decision::{Explanation, explain};
use super::output::{Exit, safe};
use crate::api::document;
use crate::clock::Clock;
use crate::config::PinArgs;
use crate::dataplane::DataplaneError;
use crate::dataplane::kernel::inspect;
use crate::source;
use policy::plan::ActualTables;

/// Say whether a new connection would pass, and which rule decides.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// The pod that opens: its address, or NAMESPACE/NAME with --config
    pub source: String,
    /// The destination: an address or NAMESPACE/NAME, with or without :PORT. IPv6 with a port stands in brackets
    pub destination: String,
    /// Protocol of the connection
    #[arg(long, value_enum, default_value_t)]
    pub protocol: ExplainProtocol,
    /// Objects that names are looked up in
    #[arg(long, env = "BULKHEAD_CONFIG", value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Exit with 3 if the connection would be dropped
    #[arg(long)]
    pub exit_code: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: ExplainFormat,
    #[command(flatten)]
    #[allow(clippy::missing_docs_in_private_items, reason = "documented at its type")]
    pub pin: PinArgs,
}

/// Protocols of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[allow(clippy::missing_docs_in_private_items, reason = "the names are the documentation")]
pub enum ExplainProtocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// Output formats.
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
pub(crate) enum ExplainError {
    /// The maps could not be read.
    #[error(
        "cannot read the maps pinned below {}: start an agent on this node, or name its directory with --pin-dir",
        path.display()
    )]
    Maps {
        /// The directory of the pins.
        path: PathBuf,
        /// Why.
        #[source]
        source: DataplaneError,
    },
    /// An end could not be understood.
    #[error(
        "{0:?} is not an address; with --config PATH it may be NAMESPACE/NAME of an Endpoint that has an address of the \
         other end's family"
    )]
    Unknown(String),
    /// The source is no local pod.
    #[error("{0} is not the address of a local pod: run explain on the pod's node")]
    NotLocal(IpAddr),
    /// One end is IPv4, the other IPv6.
    #[error("{0} and {1} are of different families: give two IPv4 or two IPv6 addresses")]
    Families(IpAddr, IpAddr),
}

/// The connection in question.
struct Connection {
    source: IpAddr,
    destination: IpAddr,
    port: Option<u16>,
    protocol: ExplainProtocol,
}

/// Reads the maps and prints the answer.
///
/// # Errors
/// See [`ExplainError`].
pub(crate) fn run(args: &ExplainArgs) -> Result<Exit, ExplainError> {
    let pins = args.pin.pins();
    let actual = inspect(&pins).map_err(|source| ExplainError::Maps { path: pins, source })?;
    let names = names(args.config.as_deref());
    let (end, port) = split_port(&args.destination);
    let destination = address(end, &names, None)?;
    let source = address(&args.source, &names, Some(destination))?;
    let clock = Clock::now();
    let tables = ActualTables { actual: &actual, now_ns: clock.monotonic_ns, clock_offset_ns: clock.offset_ns };
    let answer = explain(&tables, &Connection { source, destination, port, protocol: args.protocol })?;
    match args.output {
        ExplainFormat::Text => print!("{}", text(&answer)),
        ExplainFormat::Json => println!("{}", serde_json::to_string(&answer).unwrap_or_default()),
    }
    Ok(if answer.is_dropped() && args.exit_code { Exit::Found } else { Exit::Fine })
}

type PodAddresses = BTreeMap<String, Vec<IpAddr>>;

/// Addresses by `namespace/name`, of the endpoints that can be read.
fn names(config: Option<&Path>) -> PodAddresses {
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

fn text(answer: &Explanation) -> String {
    let mut text = String::new();
    for (number, step) in answer.steps.iter().enumerate() {
        text += &format!("  {} {}\n", number + 1, safe(step));
    }
    let reason = answer.reason.map(|reason| format!("  {reason}")).unwrap_or_default();
    let peer = answer.peer_tenant.as_ref().map(|peer| format!("  (tenant {})", safe(peer))).unwrap_or_default();
    text += &format!("  => {}{reason}{peer}   generation {}\n", answer.verdict.to_uppercase(), answer.generation);
    text += "Replies to connections that the other side opened pass in any case. Network policies of the CNI plugin are \
             not considered.\n";
    text
}
