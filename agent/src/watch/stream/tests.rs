//! What an API server may do to a watch: a fake one, in process, that says what a script says.

use std::collections::VecDeque;
use std::sync::Mutex;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::api::tenant::NetworkTenant;
use crate::metrics::Recorder;

/// Status and body of one answer.
type Answer = (u16, Vec<Value>);

fn object(name: &str, team: Value) -> Value {
    json!({"apiVersion": "bulkhead.dev/v1alpha1", "kind": "NetworkTenant",
        "metadata": {"name": name, "uid": name, "resourceVersion": "7"},
        "spec": {"namespaceSelector": {"matchLabels": {"team": team}}}})
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn end() -> Value {
    let metadata = json!({"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}});
    event("BOOKMARK", json!({"apiVersion": "bulkhead.dev/v1alpha1", "kind": "NetworkTenant", "metadata": metadata}))
}

fn status(code: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "x", "message": "x", "code": code})
}

/// Follows tenants of an API server that gives these answers and then none. The queries it got come
/// with each piece of news.
fn follow_script(answers: Vec<Answer>) -> (mpsc::Receiver<News>, Arc<Mutex<Vec<String>>>) {
    let queries = Arc::new(Mutex::new(Vec::new()));
    let (answers, asked) = (Arc::new(Mutex::new(VecDeque::from(answers))), Arc::clone(&queries));
    let service = tower::service_fn(move |request: Request<Body>| {
        asked.lock().expect("no panic").push(request.uri().query().unwrap_or_default().to_owned());
        let answer = answers.lock().expect("no panic").pop_front();
        async move {
            let Some((code, lines)) = answer else { return std::future::pending().await };
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let response = Response::builder().status(code).body(Body::from(text.into_bytes()));
            Ok::<_, std::convert::Infallible>(response.expect("a response"))
        }
    });
    let api = Api::<DeserializeGuard<NetworkTenant>>::all(Client::new(service, "default"));
    let health = Arc::new(Health::new(Arc::new(Recorder::default())));
    let (to, news) = mpsc::channel(16);
    tokio::spawn(follow(api, Config::default(), health, "networktenants", to, News::Tenants));
    (news, queries)
}

/// `all NAMES, kept NAMES`, `one NAME` or `gone NAME`.
async fn next(news: &mut mpsc::Receiver<News>) -> String {
    let next = tokio::time::timeout(Duration::from_secs(10), news.recv()).await.expect("news come");
    match next {
        Some(News::Tenants(Told::All { objects, kept })) => {
            let objects: Vec<&str> = objects.iter().map(|tenant| tenant.age.name.as_str()).collect();
            let kept: Vec<&str> = kept.iter().map(|key| key.name.as_str()).collect();
            format!("all {}, kept {}", objects.join(" "), kept.join(" "))
        }
        Some(News::Tenants(Told::One(tenant))) => {
            format!("one {} {}", tenant.age.name, tenant.namespaces.labels["team"])
        }
        Some(News::Tenants(Told::Gone { key, .. })) => format!("gone {}", key.name),
        other => panic!("{other:?}"),
    }
}

fn acme() -> Value {
    object("acme", json!("acme"))
}

#[tokio::test]
async fn a_position_that_is_too_old_leads_to_a_new_set() {
    let first = vec![event("ADDED", acme()), end(), event("ERROR", status(410))];
    let second = vec![event("ADDED", object("globex", json!("globex"))), end()];
    let (mut news, queries) = follow_script(vec![(200, first), (200, second)]);
    assert_eq!(next(&mut news).await, "all acme, kept ");
    assert_eq!(next(&mut news).await, "all globex, kept ");
    assert!(queries.lock().expect("no panic").iter().take(2).all(|query| query.contains("sendInitialEvents=true")));
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_skipped_and_the_others_are_not() {
    let bad = || object("initech", json!({"no": "label"}));
    let first = vec![
        event("ADDED", acme()),
        event("ADDED", bad()),
        end(),
        event("MODIFIED", bad()),
        event("MODIFIED", object("acme", json!(5))),
        event("MODIFIED", object("acme", json!("later"))),
        event("DELETED", bad()),
    ];
    let (mut news, _) = follow_script(vec![(200, first)]);
    assert_eq!(next(&mut news).await, "all acme, kept initech");
    assert_eq!(next(&mut news).await, "one acme later");
    assert_eq!(next(&mut news).await, "gone initech");
}

#[tokio::test]
async fn a_set_that_breaks_off_is_told_when_it_is_whole() {
    let broken = vec![event("ADDED", object("globex", json!("globex")))];
    let (mut news, _) =
        follow_script(vec![(200, broken), (500, vec![status(500)]), (200, vec![event("ADDED", acme()), end()])]);
    assert_eq!(next(&mut news).await, "all acme, kept ");
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_asked_for_a_list() {
    let list = json!({"apiVersion": "bulkhead.dev/v1alpha1", "kind": "NetworkTenantList",
        "metadata": {"resourceVersion": "9"}, "items": [acme()]});
    let (mut news, queries) = follow_script(vec![(422, vec![status(422)]), (200, vec![list])]);
    assert_eq!(next(&mut news).await, "all acme, kept ");
    let asked = queries.lock().expect("no panic")[1].clone();
    assert!(asked.contains("limit=500") && !asked.contains("watch"), "{asked}");
}
