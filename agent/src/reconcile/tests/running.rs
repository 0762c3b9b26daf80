//! Tests of the running loop: it applies bursts, ends with its senders, and shows that it turns.

use super::*;

/// A loop over an empty kernel that runs as a task, and what it sends.
struct RunningLoop {
    start: tokio::time::Instant,
    changes: mpsc::Sender<TimedChange>,
    seen: watch::Receiver<Arc<Snapshot>>,
    propagated: std::sync::mpsc::Receiver<Subject>,
    turns: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<MemDataplane>,
}

impl RunningLoop {
    fn start() -> Self {
        let mut kernel = MemDataplane::default();
        let state = ReconcileState::start(&mut kernel, Settings::default()).expect("an empty kernel");
        let (changes, inbox) = mpsc::channel(64);
        let (snapshots, seen) = watch::channel(Arc::new(Snapshot::default()));
        let start = tokio::time::Instant::now();
        let clock = move || Now { unix: 1000, tick: start.elapsed() };
        let (took, propagated) = std::sync::mpsc::channel();
        let turns = Arc::<AtomicUsize>::default();
        let observer = TestObserver { took, turns: Arc::clone(&turns) };
        let task = tokio::spawn(crate::reconcile::run(state, kernel, inbox, snapshots, clock, observer));
        Self { start, changes, seen, propagated, turns, task }
    }
}

#[tokio::test]
async fn the_loop_applies_a_burst_at_once_and_ends_with_its_senders() {
    let RunningLoop { changes, mut seen, propagated, turns, task, .. } = RunningLoop::start();
    for change in two_tenants() {
        changes.send(TimedChange { change, seen: Duration::ZERO }).await.expect("the loop lives");
    }
    let snapshot = seen.wait_for(|snapshot| snapshot.ready).await.expect("the loop lives").clone();
    assert_eq!(snapshot.endpoints.len(), 1);
    drop(changes);
    let kernel = task.await.expect("no panic");
    assert_eq!(kernel.actual.endpoints.len(), 1);
    let subjects: Vec<Subject> = propagated.iter().collect();
    assert_eq!(subjects, [Subject::Tenant, Subject::Namespace, Subject::Pod]);
    assert!(turns.load(Relaxed) > 0);
}

#[tokio::test]
async fn the_loop_shows_that_it_is_alive_only_while_it_turns() {
    let RunningLoop { start, changes, turns, task, seen: _seen, propagated: _propagated } = RunningLoop::start();
    // Without changes the next step is a round away, so only the beat explains more than two turns.
    while turns.load(Relaxed) < 5 {
        assert!(start.elapsed() < ROUND, "the loop is silent");
        tokio::time::sleep(BEAT).await;
    }
    drop(changes);
    task.await.expect("no panic");
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
