//! `bulkhead status`: one screen about this node, from the agent's socket.
//!
//! Only prints what the agent answers. Reads neither maps nor Kubernetes.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::observe::{ObserveError, Since};
use super::output::{ColorChoice, Exit, Paint, TextTable, bold, cell, green, number, red, safe};
use crate::health::ObservedUnprotected;
use crate::socket::client::{self, ClientError};
use crate::socket::protocol::AgentStatus;
use crate::{health, socket};

/// Problems listed, at most.
const LISTED: usize = 10;

/// Show the state of this node.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Wait until the agent is ready
    #[arg(long)]
    pub wait: bool,
    /// Longest time to wait
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    pub timeout: Duration,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: StatusFormat,
    /// When to use colours
    #[arg(long, value_enum, default_value_t)]
    pub color: ColorChoice,
    /// Path of the agent's socket
    #[arg(long, value_name = "PATH", default_value = socket::PATH)]
    pub socket: PathBuf,
}

/// The format of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    /// For people
    #[default]
    Table,
    /// The document bulkhead.dev/status/v1
    Json,
}

/// Shows the status; `Exit::Found` if the agent is not ready.
pub(crate) async fn run(args: &StatusArgs) -> Result<Exit, ObserveError> {
    let deadline = tokio::time::Instant::now() + args.timeout;
    let (status, in_time) = loop {
        let late = tokio::time::Instant::now() >= deadline;
        match client::status(&args.socket).await {
            Ok(status) if status.ready || !args.wait || late => break (status, !late),
            Err(error) if !args.wait || late => return Err(error.into()),
            Ok(_) | Err(ClientError::Connect { .. } | ClientError::Talk(_) | ClientError::Silent) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let text = match args.output {
        StatusFormat::Table => screen(&status, Timestamp::now(), args.color.paint()),
        StatusFormat::Json => serde_json::to_string_pretty(&status).map_err(ClientError::Understand)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(ObserveError::Write)?;
    Ok(match (status.ready, args.wait && !in_time) {
        (true, _) => Exit::Fine,
        (false, true) => Exit::TimedOut,
        (false, false) => Exit::Found,
    })
}

/// The text for people.
fn screen(status: &AgentStatus, now: Timestamp, paint: Paint) -> String {
    let observed = &status.observed;
    let (tenants, endpoints) = (observed.tenants, observed.endpoints);
    let mode = if observed.audit { "Audit" } else { "Enforce" };
    let troubled = tenants.conflicted + tenants.invalid;
    let not_ready = if troubled > 0 { format!(" ({troubled} not ready)") } else { String::new() };
    let mut text = format!(
        "Bulkhead {}   mode {mode}   tenants {}{not_ready}   revision {}\n\n",
        safe(&status.version),
        tenants.total(),
        observed.revision
    );

    let mut table = TextTable::default();
    let left = ["NODE", "READY", "MODE"].map(cell);
    let right = ["PODS", "ENFORCED", "PENDING", "DROPS", "LOST", "AGE"].map(|name| cell(name).right());
    table.row(left.into_iter().chain(right).map(|cell| cell.styled(bold())));
    let ready = if status.ready { cell("√").styled(green()) } else { cell("×").styled(red()) };
    table.row([
        cell(&status.node),
        ready,
        cell(mode),
        number(endpoints.total()),
        number(endpoints.enforced + endpoints.shared),
        number(observed.pending),
        number(status.dropped),
        number(status.events_lost),
        cell(&age(now.duration_since(status.started).as_secs())).right(),
    ]);
    text += &table.render(paint, &mut Vec::new());
    for (state, count) in endpoints.by_state() {
        if count > 0 && matches!(state, "audited" | "unassigned" | "pending" | "denied" | "error") {
            text += &format!("  pods {state}: {count}\n");
        }
    }
    for (guard, interfaces) in &observed.guards.interfaces {
        text += &format!("  guard {}: {}\n", safe(guard), safe(&interfaces.join(" ")));
    }
    match observed.nri {
        health::NriState::Off => {}
        health::NriState::Waiting => text += "  NRI: not connected; new pods are not held\n",
        health::NriState::Connected => text += "  NRI: connected\n",
    }
    // Every one is listed: their number is bounded by the pods of the node.
    let unprotected: Vec<String> = observed.unprotected.iter().map(ObservedUnprotected::sentence).collect();
    for pod in &unprotected {
        text += &format!("  {} {}\n", paint.paint(red(), "!"), safe(pod));
    }
    // If the agent is not ready, its reasons include the problems. If it is ready, there may still be problems.
    let wrong = if status.ready { &observed.problems } else { &status.not_ready };
    let wrong: Vec<&String> = wrong.iter().filter(|problem| !unprotected.contains(problem)).collect();
    for problem in wrong.iter().take(LISTED) {
        text += &format!("  {} {}\n", paint.paint(red(), "×"), safe(problem));
    }
    if !wrong.is_empty() {
        let what = if wrong.len() == 1 { "problem" } else { "problems" };
        text += &format!("\n{} {} {what}\n", paint.paint(red(), "×"), wrong.len());
    }
    debug_assert_eq!(status.ready, health::not_ready(observed).is_empty());
    text
}

/// The largest unit that is not zero: `12d`, `3h`, `40s`.
fn age(seconds: i64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    let unit = units.into_iter().find(|(length, _)| seconds >= *length);
    unit.map_or_else(|| format!("{}s", seconds.max(0)), |(length, name)| format!("{}{name}", seconds / length))
}

fn duration(text: &str) -> Result<Duration, String> {
    match super::observe::since(text) {
        Ok(Since::Ago(time)) => Ok(time.unsigned_abs()),
        _ => Err("not a duration like 30s or 5m".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Observed, ObservedEndpoints, ObservedTenants};
    use clap::Parser;

    fn status(observed: Observed) -> AgentStatus {
        let started = Timestamp::from_second(1_795_288_946).expect("a time");
        let status = AgentStatus::of("ip-10-0-1-40".into(), None, started, observed);
        AgentStatus { dropped: 37, version: "0.1.0".into(), ..status }
    }

    fn screen_of(observed: Observed) -> String {
        screen(&status(observed), Timestamp::from_second(1_795_288_986).expect("a time"), Paint::default())
    }

    #[test]
    fn a_node_that_is_not_ready_lists_its_problems() {
        let text = screen_of(Observed {
            loaded: true,
            synced: true,
            pending: 1,
            revision: 1182,
            tenants: ObservedTenants { accepted: 3, conflicted: 1, invalid: 0 },
            endpoints: ObservedEndpoints { enforced: 11, error: 1, ..ObservedEndpoints::default() },
            problems: vec!["acme-web/shop-6c9d7f9b5-9sk2l: interface vanished during attach, retry 2\u{1b}[2J".into()],
            ..Observed::default()
        });
        assert_eq!(
            text,
            "\
Bulkhead 0.1.0   mode Enforce   tenants 4 (1 not ready)   revision 1182

NODE          READY  MODE     PODS  ENFORCED  PENDING  DROPS  LOST  AGE
ip-10-0-1-40  ×      Enforce    12        11        1     37     0  40s
  pods error: 1
  × local pods without an enforced policy: 1
  × writes to the kernel that failed and are retried: 1
  × acme-web/shop-6c9d7f9b5-9sk2l: interface vanished during attach, retry 2\\u{1b}[2J

× 3 problems
"
        );
    }

    #[test]
    fn a_ready_node_is_two_lines_and_a_heading() {
        let text = screen_of(Observed { loaded: true, synced: true, ..Observed::default() });
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains('√') && !text.contains('×'));
    }

    #[test]
    fn every_unprotected_pod_is_listed_with_what_to_do() {
        let pod = |n: usize| ObservedUnprotected {
            namespace: "acme-web".into(),
            name: format!("shop-{n}"),
            reason: "second_interface".into(),
            detail: "interface net1\u{1b}[2J (macvlan) is judged by no program".into(),
            remedy: "remove it".into(),
            makes_unready: false,
        };
        let text = screen_of(Observed {
            loaded: true,
            synced: true,
            unprotected: (0..2 * LISTED).map(pod).collect(),
            ..Observed::default()
        });
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("(second_interface)")).collect();
        assert_eq!(lines.len(), 2 * LISTED, "{text}");
        assert!(lines[0].contains("pod acme-web/shop-0 ") && lines[0].ends_with("; remove it"), "{text}");
        assert!(text.contains('√') && !text.contains('\u{1b}'), "the node is ready, and names are escaped");
    }

    #[test]
    fn an_unprotected_pod_that_makes_the_node_unready_is_listed_once() {
        let pod = ObservedUnprotected { name: "shop".into(), makes_unready: true, ..ObservedUnprotected::default() };
        let text = screen_of(Observed { loaded: true, synced: true, unprotected: vec![pod], ..Observed::default() });
        assert_eq!(text.matches("shop").count(), 1, "{text}");
        assert!(text.contains("× local pods that no program judges: 1"), "{text}");
    }

    #[test]
    fn guards_are_shown_by_interface() {
        let interfaces = [("uplink".to_owned(), vec!["eth0".to_owned(), "flannel.1".to_owned()])].into();
        let guards = crate::health::ObservedGuards { interfaces, broken: 0 };
        let text = screen_of(Observed { loaded: true, synced: true, guards, ..Observed::default() });
        assert!(text.contains("\n  guard uplink: eth0 flannel.1\n"), "{text}");
    }

    #[test]
    fn the_nri_state_is_shown_only_if_nri_is_configured() {
        let of = |nri| screen_of(Observed { loaded: true, synced: true, nri, ..Observed::default() });
        assert!(!of(health::NriState::Off).contains("NRI"));
        assert!(of(health::NriState::Waiting).contains("  NRI: not connected"));
        assert!(of(health::NriState::Connected).ends_with("  NRI: connected\n"));
    }

    #[test]
    fn an_age_is_its_largest_unit() {
        assert_eq!([40, 3600, 12 * 86_400, -1].map(age), ["40s", "1h", "12d", "0s"]);
    }

    #[test]
    fn the_timeout_is_a_duration() {
        #[derive(Parser)]
        struct Command {
            #[command(flatten)]
            status: StatusArgs,
        }
        let parse = |args: &[&str]| Command::try_parse_from([&["status"], args].concat()).map(|c| c.status.timeout);
        assert_eq!(parse(&[]).expect("the default"), Duration::from_secs(60));
        assert_eq!(parse(&["--timeout", "90s"]).expect("valid"), Duration::from_secs(90));
        assert!(parse(&["--timeout", "2026-11-21T00:00:00Z"]).is_err());
    }
}
