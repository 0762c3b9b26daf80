//! Tests of the running loop: it applies bursts, ends with its senders, and shows that it turns.

use super::*;

#[tokio::test]
async fn the_loop_applies_a_burst_at_once_and_ends_with_its_senders() {
    let mut kernel = MemDataplane::default();
    let state = ReconcileState::start(&mut kernel, Settings::default()).expect("an empty kernel");
    let (changes, inbox) = mpsc::channel(64);
    let (snapshots, mut seen) = watch::channel(Arc::new(Snapshot::default()));
    let start = tokio::time::Instant::now();
    let clock = move || Now { unix: 1000, tick: start.elapsed() };
    let (took, propagated) = std::sync::mpsc::channel();
    let turns = Arc::<AtomicUsize>::default();
    let observer = TestObserver { took, turns: Arc::clone(&turns) };
    let running = tokio::spawn(crate::reconcile::run(state, kernel, inbox, snapshots, clock, observer));
    for change in two_tenants() {
        changes.send(TimedChange { change, seen: Duration::ZERO }).await.expect("the loop lives");
    }
    let snapshot = seen.wait_for(|snapshot| snapshot.ready).await.expect("the loop lives").clone();
    assert_eq!(snapshot.endpoints.len(), 1);
    drop(changes);
    let kernel = running.await.expect("no panic");
    assert_eq!(kernel.actual.endpoints.len(), 1);
    let subjects: Vec<Subject> = propagated.iter().collect();
    assert_eq!(subjects, [Subject::Tenant, Subject::Namespace, Subject::Pod]);
    assert!(turns.load(Relaxed) > 0);
}

#[tokio::test]
async fn the_loop_shows_that_it_is_alive_only_while_it_turns() {
    let mut kernel = MemDataplane::default();
    let state = ReconcileState::start(&mut kernel, Settings::default()).expect("an empty kernel");
    let (changes, inbox) = mpsc::channel::<TimedChange>(1);
    let (snapshots, _seen) = watch::channel(Arc::new(Snapshot::default()));
    let start = tokio::time::Instant::now();
    let clock = move || Now { unix: 1000, tick: start.elapsed() };
    let (took, _propagated) = std::sync::mpsc::channel();
    let turns = Arc::<AtomicUsize>::default();
    let observer = TestObserver { took, turns: Arc::clone(&turns) };
    let running = tokio::spawn(crate::reconcile::run(state, kernel, inbox, snapshots, clock, observer));
    // Without changes the next step is a round away, so only the beat explains more than two turns.
    while turns.load(Relaxed) < 5 {
        assert!(start.elapsed() < ROUND, "the loop is silent");
        tokio::time::sleep(BEAT).await;
    }
    drop(changes);
    running.await.expect("no panic");
    let last = turns.load(Relaxed);
    tokio::time::sleep(BEAT * 10).await;
    assert_eq!(turns.load(Relaxed), last, "a loop that does not turn is not alive");
}

/// Counts signs of life, and sends on what was propagated.
struct TestObserver {
    took: std::sync::mpsc::Sender<Subject>,
    turns: Arc<AtomicUsize>,
}

impl LoopObserver for TestObserver {
    fn alive(&mut self) {
        self.turns.fetch_add(1, Relaxed);
    }

    fn propagated(&mut self, subject: Subject, _: Duration) {
        self.took.send(subject).expect("the test receives");
    }
}
