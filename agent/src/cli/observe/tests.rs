//! The text that `bulkhead observe` prints, and its arguments.
//!
//! Messages come from fixtures. Needs no agent.

use clap::Parser;

use super::*;
use crate::events::fixtures;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    observe: ObserveArgs,
}

fn parse(arguments: &[&str]) -> Result<ObserveArgs, clap::Error> {
    Command::try_parse_from([&["observe"], arguments].concat()).map(|command| command.observe)
}

fn message(count: u64) -> ObserveMessage {
    let event = fixtures::event(count);
    let line = serde_json::to_string(&event).expect("JSON");
    ObserveMessage::Event(Box::new(event), line)
}

#[test]
fn the_table_has_its_heading_once_and_its_columns_stay() {
    let mut view = EventPrinter::new(ObserveFormat::Table, Paint::default());
    let mut summary = Summary::default();
    let text = view.show(&message(1), &mut summary) + &view.show(&message(37), &mut summary);
    assert_eq!(
        text,
        "\
TIME          NODE          DIR      SOURCE                                DESTINATION                           VERDICT  REASON            COUNT
19:22:26.001  ip-10-0-1-23  egress   acme/acme-web/shop-6c9d7f9b5-x2v8k    globex/globex-db/postgres-0:5432/tcp  DROPPED  cross_tenant          1
19:22:31.005  ip-10-0-1-23  egress   acme/acme-web/shop-6c9d7f9b5-x2v8k    globex/globex-db/postgres-0:5432/tcp  DROPPED  cross_tenant         37
"
    );
    assert_eq!(summary.to_string(), "2 events, 38 packets, 0 lost");
}

#[test]
fn compact_is_one_sentence_and_json_is_the_event() {
    let mut summary = Summary::default();
    let compact = EventPrinter::new(ObserveFormat::Compact, Paint::default()).show(&message(1), &mut summary);
    assert!(compact.starts_with("19:22:26.001 x dropped 1 packet tcp acme/acme-web/"), "{compact}");
    let json = EventPrinter::new(ObserveFormat::Json, Paint::default()).show(&message(1), &mut summary);
    assert!(serde_json::from_str::<Event>(&json).is_ok());
}

#[test]
fn losses_are_shown_between_the_events_and_in_the_summary() {
    let mut summary = Summary::default();
    let text = EventPrinter::new(ObserveFormat::Table, Paint::default()).show(&ObserveMessage::Lost(7), &mut summary);
    assert!(text.contains("7 events lost"));
    assert_eq!(summary.to_string(), "0 events, 0 packets, 7 lost");
}

#[test]
fn since_takes_a_duration_or_a_time() {
    let now: Timestamp = "2026-11-21T19:00:00Z".parse().expect("a time");
    let since = |when: &str| parse(&["--since", when]).expect("valid").filter(now).since.expect("a time").0;
    assert_eq!(since("5m"), "2026-11-21T18:55:00Z".parse().expect("a time"));
    assert_eq!(since("1h30m"), "2026-11-21T17:30:00Z".parse().expect("a time"));
    assert_eq!(since("2026-11-21T00:00:00Z"), "2026-11-21T00:00:00Z".parse().expect("a time"));
    assert!(parse(&["--since", "yesterday-ish"]).is_err());
}

#[test]
fn arguments_become_a_filter_and_an_unknown_reason_lists_the_known_ones() {
    let args = parse(&["-f", "--from-tenant", "acme", "--reason", "off_subnet", "--reason", "node", "--last", "5"]);
    let args = args.expect("valid");
    let filter = args.filter(Timestamp::UNIX_EPOCH);
    assert!(args.follow && args.last == 5 && filter.since.is_none());
    assert_eq!((filter.from_tenant.as_slice(), filter.reason.len()), (["acme".to_owned()].as_slice(), 2));
    let error = parse(&["--reason", "because"]).expect_err("no such reason").to_string();
    assert!(error.contains("cross_tenant"), "{error}");
}
