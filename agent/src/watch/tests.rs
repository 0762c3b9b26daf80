//! The running watch against a fake API server.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::*;
use crate::kube_watch::fake_api::{self, FakeResponse, end_of_list, event, tenant};

#[tokio::test]
async fn tenants_that_cannot_be_read_are_counted_until_they_can_be() {
    let (send, more) = mpsc::unbounded_channel();
    let more = Mutex::new(Some(more));
    let client = fake_api::client(move |path, _| {
        if !path.ends_with("/networktenants") {
            return FakeResponse::Quiet(vec![end_of_list()]);
        }
        let objects =
            vec![event("ADDED", tenant("acme", json!("acme"))), event("ADDED", bad("initech")), end_of_list()];
        more.lock().expect("no panic").take().map_or(FakeResponse::Silent, |more| FakeResponse::Open(objects, more))
    });
    let count = Arc::<AtomicU64>::default();
    let config = WatchConfig {
        missing_ranges: Arc::default(),
        client,
        node: "a".into(),
        settings: Settings::default(),
        recorder: Arc::default(),
        invalid_tenants: Arc::clone(&count),
    };
    let (_sandboxes, made) = watch::channel(None);
    let (to, mut changes) = mpsc::channel(1024);
    tokio::spawn(follow(config, made, to));
    tokio::spawn(async move { while changes.recv().await.is_some() {} });
    becomes(&count, 1).await;
    send.send(event("MODIFIED", bad("acme"))).expect("the watch is open");
    becomes(&count, 2).await;
    send.send(event("MODIFIED", tenant("acme", json!("acme")))).expect("the watch is open");
    becomes(&count, 1).await;
    send.send(event("DELETED", bad("initech"))).expect("the watch is open");
    becomes(&count, 0).await;
}

fn bad(name: &str) -> Value {
    tenant(name, json!({"no": "label"}))
}

async fn becomes(count: &AtomicU64, wanted: u64) {
    let reached = async {
        while count.load(Ordering::Relaxed) != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached)
        .await
        .unwrap_or_else(|_| panic!("{count:?} is not {wanted}"));
}
