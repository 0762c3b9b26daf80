//! A watch against an API server that fails, forgets, or sends unreadable objects.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::super::fake_api::{self, FakeResponse, bookmark, end_of_list, event, tenant};
use super::super::objects::read_tenant;
use super::*;
use crate::api::tenant::NetworkTenant;
use crate::metrics::{Recorder, recorded_page};
use policy::model::input::Tenant;

type Updates = mpsc::Receiver<Update<Tenant>>;

fn status(code: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "x", "message": "x", "code": code})
}

fn follow_tenants(client: Client, recorder: Arc<Recorder>) -> Updates {
    let (to, updates) = mpsc::channel(16);
    let target = WatchTarget {
        resource: "networktenants",
        config: Config::default(),
        read: read_tenant,
        event: std::convert::identity::<Update<Tenant>>,
    };
    let health = Arc::new(WatchHealth::new(recorder));
    tokio::spawn(follow::<NetworkTenant, _, _>(client, Api::all, target, health, to));
    updates
}

/// Follows tenants of an API server that gives these responses and then none. The second value holds the queries it
/// received.
fn follow_script(responses: Vec<(u16, Vec<Value>)>) -> (Updates, Arc<Mutex<Vec<String>>>) {
    let queries = Arc::new(Mutex::new(Vec::new()));
    let (responses, received) = (Mutex::new(VecDeque::from(responses)), Arc::clone(&queries));
    let client = fake_api::client(move |_, query| {
        received.lock().expect("no panic").push(query.to_owned());
        let next = responses.lock().expect("no panic").pop_front();
        next.map_or(FakeResponse::Silent, |(code, lines)| FakeResponse::Ended(code, lines))
    });
    (follow_tenants(client, Arc::default()), queries)
}

/// `all NAMES, unreadable NAMES`, `one NAME TEAM`, `unreadable NAME` or `gone NAME`.
async fn next(updates: &mut Updates) -> String {
    match tokio::time::timeout(Duration::from_secs(10), updates.recv()).await.expect("an update in time") {
        Some(Update::Snapshot { objects, unreadable }) => {
            let objects: Vec<&str> = objects.iter().map(|tenant| tenant.age.name.as_str()).collect();
            let unreadable: Vec<&str> = unreadable.iter().map(|key| key.name.as_str()).collect();
            format!("all {}, unreadable {}", objects.join(" "), unreadable.join(" "))
        }
        Some(Update::Upsert(tenant)) => format!("one {} {}", tenant.age.name, tenant.namespaces.labels["team"]),
        Some(Update::Unreadable(key)) => format!("unreadable {}", key.name),
        Some(Update::Delete { key, .. }) => format!("gone {}", key.name),
        None => panic!("the watch has ended"),
    }
}

fn acme() -> Value {
    tenant("acme", json!("acme"))
}

#[tokio::test]
async fn an_expired_resource_version_leads_to_a_new_snapshot() {
    let first = vec![event("ADDED", acme()), end_of_list(), event("ERROR", status(410))];
    let second = vec![event("ADDED", tenant("globex", json!("globex"))), end_of_list()];
    let (mut updates, queries) = follow_script(vec![(200, first), (200, second)]);
    assert_eq!(next(&mut updates).await, "all acme, unreadable ");
    assert_eq!(next(&mut updates).await, "all globex, unreadable ");
    assert!(queries.lock().expect("no panic").iter().take(2).all(|query| query.contains("sendInitialEvents=true")));
}

#[tokio::test]
async fn an_unreadable_object_is_reported_by_name_and_the_others_are_delivered() {
    let bad = || tenant("initech", json!({"no": "label"}));
    let first = vec![
        event("ADDED", acme()),
        event("ADDED", bad()),
        end_of_list(),
        event("MODIFIED", bad()),
        event("MODIFIED", tenant("acme", json!(5))),
        event("MODIFIED", tenant("acme", json!("later"))),
        event("DELETED", bad()),
    ];
    let (mut updates, _) = follow_script(vec![(200, first)]);
    assert_eq!(next(&mut updates).await, "all acme, unreadable initech");
    assert_eq!(next(&mut updates).await, "unreadable initech");
    assert_eq!(next(&mut updates).await, "unreadable acme");
    assert_eq!(next(&mut updates).await, "one acme later");
    assert_eq!(next(&mut updates).await, "gone initech");
}

#[tokio::test]
async fn a_snapshot_that_breaks_off_is_delivered_when_it_is_complete() {
    let broken = vec![event("ADDED", tenant("globex", json!("globex")))];
    let whole = vec![event("ADDED", acme()), end_of_list()];
    let (mut updates, _) = follow_script(vec![(200, broken), (500, vec![status(500)]), (200, whole)]);
    assert_eq!(next(&mut updates).await, "all acme, unreadable ");
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_asked_for_a_list() {
    let list = json!({"apiVersion": "bulkhead.dev/v1alpha1", "kind": "NetworkTenantList",
        "metadata": {"resourceVersion": "9"}, "items": [acme()]});
    let (mut updates, queries) = follow_script(vec![(422, vec![status(422)]), (200, vec![list])]);
    assert_eq!(next(&mut updates).await, "all acme, unreadable ");
    let asked = queries.lock().expect("no panic")[1].clone();
    assert!(asked.contains("limit=500") && !asked.contains("watch"), "{asked}");
}

/// The time of the last event on the metrics page.
fn last_event(recorder: &Arc<Recorder>) -> Option<f64> {
    let sample = "bulkhead_kube_watch_last_event_timestamp_seconds{resource=\"networktenants\"} ";
    recorded_page(recorder).lines().find_map(|line| line.strip_prefix(sample)?.parse().ok())
}

#[tokio::test]
async fn a_bookmark_moves_the_time_of_the_last_event() {
    let recorder = Arc::<Recorder>::default();
    let (send, more) = mpsc::unbounded_channel();
    let more = Mutex::new(Some(more));
    let client = fake_api::client(move |_, _| {
        let more = more.lock().expect("no panic").take();
        more.map_or(FakeResponse::Silent, |more| FakeResponse::Open(vec![event("ADDED", acme()), end_of_list()], more))
    });
    let mut updates = follow_tenants(client, Arc::clone(&recorder));
    assert_eq!(next(&mut updates).await, "all acme, unreadable ");
    let first = last_event(&recorder).expect("the objects were events");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(last_event(&recorder), Some(first), "a quiet watch has no event");
    send.send(bookmark(json!({"resourceVersion": "10"}))).expect("the watch is open");
    let moved = async {
        while last_event(&recorder) == Some(first) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), moved).await.expect("a bookmark is an event");
    assert!(last_event(&recorder) > Some(first));
    assert!(updates.try_recv().is_err(), "a bookmark carries no object");
}

#[tokio::test]
async fn a_refused_request_is_no_event() {
    let recorder = Arc::<Recorder>::default();
    let refusals = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&refusals);
    let client = fake_api::client(move |_, _| {
        *counted.lock().expect("no panic") += 1;
        FakeResponse::Ended(500, vec![status(500)])
    });
    let _updates = follow_tenants(client, Arc::clone(&recorder));
    let refused_twice = async {
        while *refusals.lock().expect("no panic") < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused_twice).await.expect("the watch is retried");
    assert_eq!(last_event(&recorder), None);
}
