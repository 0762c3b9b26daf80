//! Tests of the socket, with server and client in one process.

use std::os::unix::fs::PermissionsExt as _;

use super::client::{ClientError, ObserveMessage};
use super::*;
use crate::events::filter::Filter;
use crate::events::fixtures;
use crate::events::sink::Sink as _;

fn shown() -> Shown {
    let status = || AgentStatus { node: "ip-10-0-1-23".into(), dropped: 37, ..AgentStatus::default() };
    Shown { hub: Arc::new(Hub::new(&Arc::default())), status: Arc::new(status) }
}

async fn start(path: &Path, shown: &Shown) -> tokio::task::JoinHandle<()> {
    let bound = bind(path).await.expect("a socket");
    tokio::spawn(serve(bound, shown.clone(), std::future::pending()))
}

async fn counts(observation: &mut client::Observation, most: usize) -> Vec<u64> {
    let mut counts = Vec::new();
    while counts.len() < most
        && let Some(message) = observation.next().await.expect("a line")
    {
        if let ObserveMessage::Event(_, line) = message {
            let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            counts.push(value["count"].as_u64().expect("a count"));
        }
    }
    counts
}

#[tokio::test]
async fn a_reader_gets_the_latest_events_and_those_that_follow() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, shown) = (directory.path().join("run/agent.sock"), shown());
    let _server = start(&path, &shown).await;
    (1..=5).for_each(|count| shown.hub.offer(&fixtures::line(count)));

    let mut once = client::observe(&path, false, 2, Filter::default()).await.expect("an answer");
    assert_eq!(counts(&mut once, 10).await, [4, 5]);

    let mut following = client::observe(&path, true, 1, Filter::default()).await.expect("an answer");
    assert_eq!(counts(&mut following, 1).await, [5]);
    shown.hub.offer(&fixtures::line(6));
    assert_eq!(counts(&mut following, 1).await, [6]);

    drop(following);
    let removed = async {
        while shown.hub.readers() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(60), removed).await.expect("a reader that has disconnected is removed");
}

#[tokio::test]
async fn a_slow_reader_gets_the_number_of_events_it_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, shown) = (directory.path().join("agent.sock"), shown());
    let _server = start(&path, &shown).await;
    let mut slow = client::observe(&path, true, 0, Filter::default()).await.expect("an answer");
    while shown.hub.readers() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    const SENT: u64 = 20_000;
    let line = fixtures::line(1);
    (0..SENT).for_each(|_| shown.hub.offer(&line));
    let (mut seen, mut lost) = (0, 0);
    while seen + lost < SENT {
        match slow.next().await.expect("a line").expect("not the end") {
            ObserveMessage::Event(..) => seen += 1,
            ObserveMessage::Lost(count) => lost += count,
        }
    }
    assert_eq!(seen + lost, SENT);
    assert!(lost > 0);
}

#[tokio::test]
async fn the_status_is_sent_over_the_socket_and_an_invalid_request_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent.sock");
    let _server = start(&path, &shown()).await;
    let status = client::status(&path).await.expect("a status");
    assert_eq!((status.node.as_str(), status.dropped), ("ip-10-0-1-23", 37));

    let mut stream = UnixStream::connect(&path).await.expect("a connection");
    stream.write_all(b"{\"command\":\"reboot\"}\n").await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.contains("the request is invalid"), "{answer}");
}

#[tokio::test]
async fn only_root_may_read_and_a_stale_socket_is_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket that an ended agent left"));
    let bound = bind(&path).await.expect("a socket");
    let mode = std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert!(matches!(bind(&path).await, Err(SocketError::InUse { .. })), "a running agent keeps its socket");
    drop(bound);
    assert!(!path.exists(), "the file is removed on drop");
}

#[tokio::test]
async fn a_file_that_is_not_a_socket_is_not_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent.sock");
    std::fs::write(&path, "precious").expect("a file");
    assert!(matches!(bind(&path).await, Err(SocketError::NoSocket { .. })));
    assert!(path.exists());
}

#[tokio::test]
async fn without_an_agent_the_error_states_the_path() {
    let error = client::status(Path::new("/nonexistent/agent.sock")).await.expect_err("no agent listens");
    assert!(matches!(error, ClientError::Connect { .. }));
    assert!(error.to_string().contains("/nonexistent/agent.sock"));
}
