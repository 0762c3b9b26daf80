//! The facts behind docs/reference as JSON: `bulkhead reference`, hidden from the help.
//!
//! Holds facts and no layout: `cargo xtask docs` writes the pages. Every fact comes from the code that uses it, so the
//! pages match the program.

use agent_common::counters::Outcome;
use agent_common::reason::DropReason;
use clap::builder::PossibleValue;
use clap::{Arg, Command, CommandFactory as _};
use prometheus_client::metrics::MetricType;
use serde_json::{Value, json};

use super::Cli;
use crate::dataplane::object;
use crate::events::{schema, verdicts};
use crate::{api, metrics};

/// The facts of all pages.
pub(super) fn facts() -> Value {
    json!({
        "drop_reasons": DropReason::ALL.iter().copied().map(reason).collect::<Vec<_>>(),
        "metrics": metrics::table::ALL.iter().map(|metric| family(metric)).collect::<Vec<_>>(),
        "maps": object::shapes(&object::MapLimits::default()).iter().map(object::Shape::facts).collect::<Vec<_>>(),
        "commands": commands(),
        "events": schema::json_schema(),
        "tenant": api::crd(),
    })
}

fn reason(reason: DropReason) -> Value {
    json!({
        "number": reason.number(),
        "name": reason.as_str(),
        "severity": verdicts::severity(reason, Outcome::Dropped),
        "rule": verdicts::default_rule(reason),
        "meaning": reason.describe(),
        "remedy": remedy(reason),
    })
}

/// What an operator can do about packets that are dropped for this reason.
fn remedy(reason: DropReason) -> &'static str {
    use DropReason as R;
    match reason {
        R::CrossTenant => "If the traffic is wanted, let each tenant name the other in `spec.peers`.",
        R::OffSubnet => "If the traffic is wanted, add the range to `spec.subnets` or `spec.egress` of the tenant.",
        R::UnassignedSource | R::UnassignedDestination => "Add the namespace to a NetworkTenant.",
        R::SpoofedSource | R::SpoofedMac | R::SpoofedNeighbor => {
            "Look for the process in the pod that forges addresses."
        }
        R::MetadataService => "If the pod needs the service, list its address as a /32 or /128 in `spec.egress`.",
        R::Node => "If pods need nodes, start the agent with `--allow-nodes`.",
        R::Fragment => "Lower the sender's packet size, or allow all ports of the range.",
        R::Malformed | R::Ethertype | R::Vlan | R::ExtensionHeader => {
            "Look for the process in the pod that sends such packets."
        }
        R::NotReady => "Wait for the agent. If the drops continue, see `bulkhead status`.",
        R::Internal => "See `bulkhead status` and the agent's log, then raise the limit that was reached.",
        R::PortDenied => "If the traffic is wanted, add the port to the range in the NetworkTenant.",
        R::SourceRoute | R::RoutingHeader => "Look for the process in the pod that chooses its own route.",
        R::IcmpRedirect | R::RouterAdvertisement => "Look for the process in the pod that acts as a router.",
        R::Multicast => "Ignore it: pods are given no multicast.",
        R::Martian => "Correct the destination address in the pod's configuration.",
        R::NotOwnAddress => "Look for a route or a Service endpoint that leads to the wrong pod.",
    }
}

fn family(metric: &metrics::table::Metric) -> Value {
    let (kind, suffix) = match metric.kind {
        MetricType::Counter => ("counter", "_total"),
        MetricType::Gauge => ("gauge", ""),
        MetricType::Histogram => ("histogram", ""),
        _ => ("unknown", ""),
    };
    json!({
        "name": format!("{}{suffix}", metric.name),
        "type": kind,
        "labels": metric.labels,
        "meaning": metric.help,
    })
}

fn commands() -> Vec<Value> {
    let mut cli = Cli::command();
    cli.build();
    cli.get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help")
        .map(command)
        .collect()
}

fn command(command: &Command) -> Value {
    let shown = |arg: &&Arg| !arg.is_hide_set() && arg.get_id() != "help";
    json!({
        "name": command.get_name(),
        "meaning": command.get_about().map(ToString::to_string),
        "arguments": command.get_arguments().filter(shown).map(argument).collect::<Vec<_>>(),
    })
}

fn argument(arg: &Arg) -> Value {
    let takes_values = arg.get_num_args().is_some_and(|range| range.takes_values());
    let values = takes_values.then(|| arg.get_value_names().unwrap_or_default().join(" ")).filter(|v| !v.is_empty());
    let name = arg.get_long().map(|long| format!("--{long}"));
    let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>();
    json!({
        "name": name,
        "value": values,
        "variable": arg.get_env().map(|name| name.to_string_lossy()),
        "default": takes_values.then(|| defaults.join(",")).filter(|default| !default.is_empty()),
        "choices": if takes_values { arg.get_possible_values().iter().map(choice).collect() } else { Vec::new() },
        "meaning": arg.get_help().map(ToString::to_string),
    })
}

fn choice(value: &PossibleValue) -> Value {
    json!({ "name": value.get_name(), "meaning": value.get_help().map(ToString::to_string) })
}
