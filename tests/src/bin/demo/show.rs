//! Prints the steps, tables, events and counters of the demo.
//!
//! Lines are aligned, and coloured on a terminal only. The module probes nothing and decides nothing.

use std::env;
use std::fmt::Display;
use std::io::{IsTerminal, stdout};

use anstyle::{AnsiColor, Style};
use serde_json::Value;
use testbed::host::{Family, Host};
use testbed::matrix::{Cell, Matrix, Mismatch};
use testbed::metrics::Metrics;
use testbed::probe::{Outcome, Transport};

const GOOD: Style = AnsiColor::Green.on_default();
const STOPPED: Style = AnsiColor::Red.on_default();
const PARTLY: Style = AnsiColor::Yellow.on_default();
const HEADING: Style = Style::new().bold();

/// Width of the columns, and of the first column.
const COLUMN: usize = 11;
const FIRST: usize = 12;

/// Text in a style, if the output is a terminal.
fn paint(style: Style, text: impl Display) -> String {
    let plain = !stdout().is_terminal() || env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain { text.to_string() } else { format!("{style}{text}{style:#}") }
}

/// Prints the heading of the next step.
pub(crate) fn step(text: impl Display) {
    println!("\n{}", paint(HEADING, text));
}

/// Prints a remark under a step.
pub(crate) fn remark(text: impl Display) {
    println!("  {text}");
}

/// Prints that something slow has started.
pub(crate) fn progress(text: impl Display) {
    eprintln!("  ... {text}");
}

/// Prints the connectivity matrix: a column for each sending pod, a row for each destination.
pub(crate) fn table(matrix: &Matrix, mismatches: &[Mismatch]) {
    let heads: String = Host::PODS.map(|pod| format!("{:<COLUMN$}", pod.name())).concat();
    println!("  {}", paint(HEADING, format!("{:<FIRST$}{heads}", "to \\ from").trim_end()));
    for to in Host::ALL {
        let cells = Host::PODS.map(|from| {
            let unexpected = mismatches.iter().any(|m| m.cell.from == from && m.cell.to == to);
            cell(matrix, from, to, unexpected)
        });
        println!("  {}", format!("{:<FIRST$}{}", to.name(), cells.concat()).trim_end());
    }
    others(matrix, mismatches);
}

/// One cell: all six probes between two hosts.
fn cell(matrix: &Matrix, from: Host, to: Host, unexpected: bool) -> String {
    if from == to {
        return format!("{:<COLUMN$}", "-");
    }
    let (style, text) = summary(matrix, from, to);
    let text = if unexpected { format!("{text} !") } else { text };
    // Padding ignores the escape sequences.
    format!("{}{}", paint(style, &text), " ".repeat(COLUMN.saturating_sub(text.len())))
}

fn summary(matrix: &Matrix, from: Host, to: Host) -> (Style, String) {
    let answered = |family, transport| matrix.get(&Cell { from, to, family, transport }) == Some(&Outcome::Answered);
    let count = |transport| Family::ALL.into_iter().filter(|family| answered(*family, transport)).count();
    let counts = Transport::ALL.map(|transport| (transport, count(transport)));
    let names = counts.iter().filter(|(_, count)| *count == 2).map(|(transport, _)| transport.name());
    match counts.map(|(_, count)| count) {
        [2, 2, 2] => (GOOD, "yes".to_owned()),
        [0, 0, 0] => (STOPPED, "no".to_owned()),
        counts if counts.contains(&1) => (PARTLY, format!("{} of 6", counts.iter().sum::<usize>())),
        _ => (PARTLY, names.collect::<Vec<_>>().join(" ")),
    }
}

/// Prints the probes from other hosts to pods in one line.
fn others(matrix: &Matrix, mismatches: &[Mismatch]) {
    let probes = || matrix.iter().filter(|(cell, _)| !Host::PODS.contains(&cell.from));
    let answered = probes().filter(|(_, outcome)| **outcome == Outcome::Answered).count();
    let wrong = mismatches.iter().filter(|m| !Host::PODS.contains(&m.cell.from)).count();
    let verdict = if wrong == 0 { "all as expected".to_owned() } else { format!("{wrong} not as expected") };
    remark(format!("from other hosts to the pods: {answered} of {} probes got an answer, {verdict}", probes().count()));
}

/// An event as one readable line.
pub(crate) fn event(event: &Value) -> Option<String> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    let side = |side: &str| {
        let at = |key: &str| text(&format!("/{side}/{key}"));
        match (at("tenant"), at("namespace"), at("pod")) {
            (Some(tenant), Some(namespace), Some(pod)) => format!("{tenant}/{namespace}/{pod}"),
            (Some(tenant), ..) => format!("{tenant} {}", at("ip").unwrap_or("?")),
            _ => at("ip").unwrap_or("?").to_owned(),
        }
    };
    let port = event.pointer("/destination/port").map_or(String::new(), |port| format!(":{port}"));
    let reason = paint(STOPPED, format!("{:<17}", text("/reason")?));
    let count = event.pointer("/count").and_then(Value::as_u64).unwrap_or(1);
    let transport = text("/network/transport").unwrap_or("-");
    let verdict = text("/verdict").unwrap_or("?");
    Some(format!("{verdict} {count:>3} x {reason} {transport:<9} {} -> {}{port}", side("source"), side("destination")))
}

/// Prints the counters of dropped packets.
pub(crate) fn counters(metrics: &Metrics) {
    for verdict in ["allowed", "dropped"] {
        let count = metrics.sum("bulkhead_packets_total", &[("verdict", verdict)]);
        remark(format!("{:<44} {count:>8}", format!("bulkhead_packets_total{{verdict={verdict}}}")));
    }
    for sample in metrics.select("bulkhead_drop_packets_total", &[]).filter(|sample| sample.value > 0.0) {
        let label = |key: &str| sample.labels.get(key).map_or("?", String::as_str);
        let name = format!("bulkhead_drop_packets_total{{{},{}}}", label("reason"), label("direction"));
        remark(format!("{name:<52} {:>8}", sample.value).replacen("bulkhead_drop_packets_total", "  dropped", 1));
    }
    remark(format!("{:<44} {:>8}", "bulkhead_events_lost_total", metrics.sum("bulkhead_events_lost_total", &[])));
}
