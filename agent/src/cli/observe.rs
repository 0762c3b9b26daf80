//! `bulkhead observe`: violations as they happen, from the agent's socket.
//!
//! Parses filters and prints events. The agent filters them. Reads neither maps nor Kubernetes.

use std::io::{self, Write};
use std::path::PathBuf;

use agent_common::counters::Outcome;
use agent_common::reason::DropReason;
use clap::{Args, ValueEnum};
use jiff::{SignedDuration, Timestamp};

use super::output::{self, ColorChoice, Exit, Paint, TextTable, bold, cell, number, safe};
use crate::events::filter::Filter;
use crate::events::labels::Label;
use crate::events::schema::{Body, Event, FlowEndpoint, Time, ViolationEvent};
use crate::socket;
use crate::socket::client::{self, ClientError, ObserveMessage};

/// Show violations and other events.
#[derive(Clone, Debug, Args)]
pub struct ObserveArgs {
    /// Keep showing new events until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Number of past events to show first
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub last: usize,
    /// Show only events since then: a duration before now (5m, 1h30m) or a time (RFC 3339)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub since: Option<Since>,
    /// Show only packets from these tenants
    #[arg(long, value_name = "TENANT")]
    pub from_tenant: Vec<String>,
    /// Show only packets to these tenants
    #[arg(long, value_name = "TENANT")]
    pub to_tenant: Vec<String>,
    /// Show only packets with these drop reasons
    #[arg(long, value_name = "REASON", value_parser = reason)]
    pub reason: Vec<Label<DropReason>>,
    /// Show only packets with these verdicts: dropped, audited
    #[arg(long, value_name = "VERDICT", value_parser = verdict)]
    pub verdict: Vec<Label<Outcome>>,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: ObserveFormat,
    /// When to use colours
    #[arg(long, value_enum, default_value_t)]
    pub color: ColorChoice,
    /// Exit with 3 if there was a violation
    #[arg(long)]
    pub fail_on_violation: bool,
    /// Path of the agent's socket
    #[arg(long, value_name = "PATH", default_value = socket::PATH)]
    pub socket: PathBuf,
}

/// The format of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ObserveFormat {
    /// Columns
    #[default]
    Table,
    /// One sentence each
    Compact,
    /// The events as JSON, one line each
    Json,
}

/// Start of the period to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// This long before now.
    Ago(SignedDuration),
    /// This time.
    At(Timestamp),
}

/// The events could not be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObserveError {
    /// The agent could not be reached, or did not answer as expected.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The output could not be written.
    #[error("cannot write the output")]
    Write(#[source] io::Error),
}

/// Counts of what was shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Events.
    pub events: u64,
    /// Violations among them.
    pub violations: u64,
    /// Packets that the violations report.
    pub packets: u64,
    /// Events that were lost because this process read too slowly.
    pub lost: u64,
}

/// Shows events until there are no more or it is interrupted, then a summary on stderr. It also ends when the reader of
/// stdout (such as `head`) closes it.
pub(crate) async fn run(args: &ObserveArgs) -> Result<Exit, ObserveError> {
    let mut observation = client::observe(&args.socket, args.follow, args.last, args.filter(Timestamp::now())).await?;
    let mut view = EventPrinter::new(args.output, args.color.paint());
    let mut out = io::stdout();
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut summary = Summary::default();
    loop {
        let message = tokio::select! {
            message = observation.next() => message?,
            _ = &mut interrupted => None,
        };
        let Some(message) = message else { break };
        let text = view.show(&message, &mut summary);
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written.map_err(ObserveError::Write)?,
        }
    }
    if args.output != ObserveFormat::Json {
        eprintln!("{summary}");
    }
    let found = args.fail_on_violation && summary.violations > 0;
    Ok(if found { Exit::Found } else { Exit::Fine })
}

impl ObserveArgs {
    fn filter(&self, now: Timestamp) -> Filter {
        let since = self.since.map(|since| match since {
            Since::At(at) => at,
            Since::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::MIN),
        });
        Filter {
            since: since.map(Time),
            from_tenant: self.from_tenant.clone(),
            to_tenant: self.to_tenant.clone(),
            reason: self.reason.clone(),
            verdict: self.verdict.clone(),
        }
    }
}

/// Turns messages of the agent into text. Keeps the widths of the columns.
struct EventPrinter {
    format: ObserveFormat,
    paint: Paint,
    widths: Vec<usize>,
    begun: bool,
}

impl EventPrinter {
    fn new(format: ObserveFormat, paint: Paint) -> Self {
        // Wide enough for ordinary names, so that columns seldom move: time, node, direction, ends, verdict, reason,
        // count.
        Self { format, paint, widths: vec![12, 12, 7, 36, 36, 7, 16, 5], begun: false }
    }

    fn show(&mut self, message: &ObserveMessage, summary: &mut Summary) -> String {
        match message {
            ObserveMessage::Lost(count) => {
                summary.lost += count;
                match self.format {
                    ObserveFormat::Json => format!("{{\"notice\":\"lost\",\"count\":{count}}}\n"),
                    _ => format!("... {count} events lost: this reader is too slow\n"),
                }
            }
            ObserveMessage::Event(event, line) => {
                summary.count(event);
                match self.format {
                    ObserveFormat::Json => format!("{line}\n"),
                    ObserveFormat::Compact => self.compact(event),
                    ObserveFormat::Table => self.table(event),
                }
            }
        }
    }

    fn compact(&self, event: &Event) -> String {
        let (glyph, style, message) = match &event.body {
            Body::Violation(violation) => ("x", verdict_style(violation), &violation.message),
            Body::Suppressed(suppressed) => ("~", output::yellow(), &suppressed.message),
            Body::State(state) => ("i", bold(), &state.message),
        };
        format!("{} {} {}\n", clock(event), self.paint.paint(style, glyph), safe(message))
    }

    fn table(&mut self, event: &Event) -> String {
        let mut table = TextTable::default();
        if !std::mem::replace(&mut self.begun, true) {
            let names = ["TIME", "NODE", "DIR", "SOURCE", "DESTINATION", "VERDICT", "REASON"];
            table.row(names.map(cell).into_iter().chain([cell("COUNT").right()]).map(|cell| cell.styled(bold())));
        }
        match &event.body {
            Body::Violation(violation) => table.row([
                cell(&clock(event)),
                cell(&violation.node),
                cell(violation.direction.0.as_str()),
                cell(&source(violation)),
                cell(&destination(violation)),
                cell(&violation.verdict.0.as_str().to_uppercase()).styled(verdict_style(violation)),
                cell(violation.reason.0.as_str()),
                number(violation.count),
            ]),
            Body::Suppressed(_) | Body::State(_) => {
                let header = table.render(self.paint, &mut self.widths);
                return header + &self.compact(event);
            }
        }
        table.render(self.paint, &mut self.widths)
    }
}

impl Summary {
    fn count(&mut self, event: &Event) {
        self.events += 1;
        if let Body::Violation(violation) = &event.body {
            self.violations += 1;
            self.packets += violation.count;
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} events, {} packets, {} lost", self.events, self.packets, self.lost)
    }
}

fn verdict_style(violation: &ViolationEvent) -> anstyle::Style {
    match violation.verdict.0 {
        Outcome::Audited => output::yellow(),
        Outcome::Dropped | Outcome::Allowed => output::red(),
    }
}

/// Time of day in UTC, with milliseconds.
fn clock(event: &Event) -> String {
    event.time.0.strftime("%H:%M:%S%.3f").to_string()
}

/// The sender without its port: a client that retries is one flow.
fn source(violation: &ViolationEvent) -> String {
    FlowEndpoint { port: None, ..violation.source.clone() }.to_string()
}

fn destination(violation: &ViolationEvent) -> String {
    let protocol = violation.network.transport.as_deref().map(|name| format!("/{name}")).unwrap_or_default();
    format!("{}{protocol}", violation.destination)
}

pub(super) fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = text.parse::<SignedDuration>() {
        return Ok(Since::Ago(ago.abs()));
    }
    text.parse().map(Since::At).map_err(|_| "neither a duration like 5m nor a time like 2026-11-21T19:22:00Z".into())
}

fn reason(text: &str) -> Result<Label<DropReason>, String> {
    let names = || DropReason::ALL.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join(", ");
    Label::parse(text).ok_or_else(|| format!("not one of: {}", names()))
}

fn verdict(text: &str) -> Result<Label<Outcome>, String> {
    Label::parse(text).ok_or_else(|| "not one of: dropped, audited".into())
}

#[cfg(test)]
mod tests;
